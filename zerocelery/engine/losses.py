"""Workers that are lost, and what becomes of the tasks that they held.

A worker is lost when its process has ended, when it is stopped or silent for ``lease_timeout``, or when it has not come
back to a node that was started anew. What it had not begun goes back to where it was, as if it had never been leased.
What it had begun is settled by the task's own rule (DESIGN.md §4.3): acknowledged late it is run again, a limited
number of times, else it fails with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from zerocelery.engine import wire
from zerocelery.engine.ledger import Entry
from zerocelery.engine.processes import ACCIDENT, SHUTDOWN, TERMINATED, TIME_LIMIT
from zerocelery.engine.workerstate import WorkerState

if TYPE_CHECKING:
    from zerocelery.engine.collector import Collector

logger = logging.getLogger("zerocelery.node")

#: What a process had sent before it died may still be on its way when its end is seen (seconds).
_LAST_WORDS: Final = 0.03

#: How long a lost child's supervisor may take to turn out lost as well.
_PARENT_GRACE: Final = 0.25

#: What a worker of this machine has not begun for so long goes to others: it is stopped, or its task lets no other
#: thread of it run. One that has begun nothing may just be short of processor time, and has the longer time (seconds).
_BEGIN_WITHIN: Final = 0.25
_BEGIN_AT_ALL: Final = 1.0

#: How long a worker of the node's former life may take to join again.
_REJOIN_SECONDS: Final = 20.0

#: The signal that a task was ended by whose worker's word can't be read from here.
_TERM: Final = 15


class Losses:
    """Sees to it that no task stays with a worker that won't report it."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.clock = collector.clock
        self.journal = collector.journal
        self.ledger = collector.ledger
        self.limits = collector.limits
        self.processes = collector.processes
        self._ended: list[tuple[float, WorkerState]] = []
        self._undecided: list[tuple[float, WorkerState, list[Entry]]] = []
        self._unbegun: dict[str, WorkerState] = {}  # may hold something that they have not started
        self._look_at = 0.0  # when to look after them

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self) -> None:
        """Do what is due."""
        if self._ended:
            self._lose_ended()
        if self._undecided:
            self._decide()
        if self._unbegun:
            self._look_after_unbegun()

    def waits(self) -> Iterator[float]:
        """Seconds until :meth:`tick` has something to do, one for each reason."""
        if self._undecided:
            yield 0.02
        if self._ended:
            yield self._ended[0][0] - self.clock.monotonic()
        if self._unbegun:
            yield self._look_at - self.clock.monotonic()

    def leased(self, worker: WorkerState) -> None:
        """The worker was given something: it is to begin it soon."""
        if not self._unbegun:
            self._look_at = worker.beat + _BEGIN_WITHIN
        self._unbegun[worker.id] = worker

    def check_workers(self, *, paused: float = 0.0) -> None:
        """Look after workers that hold tasks; called every third of ``lease_timeout``.

        Arguments:
            paused: for how long the node itself was not running: that is nobody's silence.
        """
        now = self.clock.monotonic()
        for worker in list(self._collector.workers.values()):
            worker.beat += paused
            if worker.silent_until is not None:
                worker.silent_until += paused
                if now >= worker.silent_until:
                    self._check_absent(worker, now)
            elif worker.held and worker.local:
                self._check_local(worker)
            elif worker.held and not worker.local and now - worker.beat > self.limits.lease_timeout:
                self.processes.revoke(worker.joined.word)
                self.lose(worker, f"nothing was heard of it for {self.limits.lease_timeout:g} s")

    def _check_absent(self, worker: WorkerState, now: float) -> None:
        """A worker of the node's former life has not joined again; while its process runs, it may be in a long task."""
        join = worker.joined
        if worker.local and self.processes.alive(join.pid, join.started) and not self.processes.frozen(join.pid):
            worker.silent_until = now + _REJOIN_SECONDS
        else:
            self.processes.revoke(join.word)
            self.lose(worker, "it did not come back to the restarted node")

    def _check_local(self, worker: WorkerState) -> None:
        join = worker.joined
        if not self.processes.alive(join.pid, join.started):
            self.lose(worker, f"its process {join.pid} died")
        elif not self.processes.frozen(join.pid):
            worker.frozen = False
            worker.beat = self.clock.monotonic()
        elif self.clock.monotonic() - worker.beat > self.limits.lease_timeout:
            # Revoked first: when it wakes up, it starts nothing of what it holds.
            self.processes.revoke(join.word)
            self.lose(worker, f"its process {join.pid} was stopped for {self.limits.lease_timeout:g} s")

    def _look_after_unbegun(self) -> None:
        """Take back what a worker has held for some time and not begun, and was not able to hand back itself."""
        now = self.clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _BEGIN_WITHIN / 2
        for worker in list(self._unbegun.values()):
            seconds = now - worker.beat
            if seconds >= _BEGIN_WITHIN and self._take_unbegun(worker, seconds):
                del self._unbegun[worker.id]

    def _take_unbegun(self, worker: WorkerState, seconds: float) -> bool:
        """Whether there is nothing more to look for, until the next lease."""
        if not worker.held or not worker.local or worker.ending or self._collector.workers.get(worker.id) is not worker:
            return True
        word = worker.joined.word
        held = list(worker.held.values())
        running = self.processes.running(word)
        if running is None:
            return True
        count = worker.has_begun(running)
        if count == len(held):
            return True
        if not count and seconds < _BEGIN_AT_ALL and not self.processes.frozen(worker.joined.pid):
            return False
        # Banned first, and then looked at: either it sees the ban before it starts one, or we see what it has started.
        # It joins again when it comes to the ban.
        self.processes.revoke(word)
        running = self.processes.running(word)
        count = len(held) if running is None else worker.has_begun(running)
        worker.begun.update(entry.key for entry in held[:count])
        for entry in reversed(held[count:]):
            self._collector.release(worker, entry)
            self.ledger.put_back(entry)
        self._collector.hand_out_again()
        self._collector.recount(worker)
        self._collector.unready(worker)
        return True

    def _lose_ended(self) -> None:
        now = self.clock.monotonic()
        due = [worker for at, worker in self._ended if at <= now]
        if due:
            self._ended = [(at, worker) for at, worker in self._ended if at > now]
            for worker in due:
                if self._collector.workers.get(worker.id) is worker:
                    self.lose(worker, f"its process {worker.joined.pid} died")

    def _decide(self) -> None:
        """A child was lost whose task is acknowledged late, but not rejected on loss: Celery's rule is that it is run
        again where its whole worker is lost, and fails where only the child is. One that is to be retried on loss is
        where only the child is lost."""
        now = self.clock.monotonic()
        waiting: list[tuple[float, WorkerState, list[Entry]]] = []
        for due, worker, entries in self._undecided:
            gone = not self._parent_lives(worker)
            if not gone and now < due:
                waiting.append((due, worker, entries))
                continue
            for entry in entries:
                if not gone and entry.flags & wire.RETRY_ON_LOST and not entry.revoked:
                    self._leave_to_strategy(entry, worker, "its process died")
                else:
                    self._settle(entry, worker, "its process died", again=gone and bool(entry.flags & wire.ACK_LATE))
        self._undecided = waiting

    # ── who is lost ───────────────────────────────────────────────────────────────────────────────────────────────────

    def process_ended(self, worker: WorkerState) -> None:
        """Its process is no more; what it had sent before may still be on its way."""
        worker.ending = True
        self._collector.unready(worker)
        self._ended.append((self.clock.monotonic() + _LAST_WORDS, worker))

    def told(self, worker: WorkerState, lost: wire.Lost, *, by_itself: bool = False) -> None:
        """Its supervisor says that it has died: that is news where its process can't be seen from here. Or it says
        itself that it gives up, in a process that may live on."""
        worker.obituary = lost
        if not worker.ending and (by_itself or not worker.local):
            self.process_ended(worker)

    def await_return(self, worker: WorkerState) -> None:
        """A worker of the node's former life, with what it had, is to come back soon, or it is lost."""
        join = worker.joined
        worker.beat = self.clock.monotonic()
        if self.processes.local(join.host):
            if not self.processes.alive(join.pid, join.started) or not self._collector.watch(worker):
                self.lose(worker, f"its process {join.pid} died while the node was down")
                return
            worker.local = True
        worker.silent_until = worker.beat + _REJOIN_SECONDS

    # ── what it held ──────────────────────────────────────────────────────────────────────────────────────────────────

    def lose(self, worker: WorkerState, why: str) -> None:
        """Settle what a lost worker held: unstarted tasks go back as they were, started ones by their own rule."""
        self._collector.hand_out_again()  # also where this turn's handing out is over, and its results are sent
        word, told = worker.joined.word, worker.obituary
        running = self.processes.running(word) if self.processes.local(worker.joined.host) else None
        if running is None and told is not None:
            running = told.running
        held = list(worker.held.values())
        count = len(held) if running is None else worker.has_begun(running)  # without a word, all may have started
        started, held = held[:count], held[count:]
        for entry in reversed(held):
            self._collector.release(worker, entry)
            self.ledger.put_back(entry)
        cause, number = self.processes.cause(word) if told is None else (told.cause, told.number)
        self._collector.drop(worker)
        if started:
            self._collector.counters.lost += 1
            logger.warning("worker %s was lost (%s) with %d tasks started", worker.joined.name, why, len(started))
        undecided: list[Entry] = []
        for entry in started:
            self._collector.unlease(entry)
            if cause != ACCIDENT and self._settle_ended(entry, worker, cause, number, guilty=entry.key == running):
                continue
            if _depends_on_parent(entry.flags) and self._parent_lives(worker):
                undecided.append(entry)
            else:
                self._settle(entry, worker, why, again=bool(entry.flags & wire.ACK_LATE))
        if undecided:
            self._undecided.append((self.clock.monotonic() + _PARENT_GRACE, worker, undecided))

    def _parent_lives(self, worker: WorkerState) -> bool:
        join = worker.joined
        if worker.obituary is not None and not worker.local:
            return True  # it has told
        if not join.parent_pid or not self.processes.local(join.host):
            return False
        return self.processes.alive(join.parent_pid, join.parent_started)

    def _settle_ended(self, entry: Entry, worker: WorkerState, cause: int, number: float, *, guilty: bool) -> bool:
        """A started task whose worker was killed on purpose; False where that says nothing about this one.

        Arguments:
            guilty: whether it is the one that was running.
        """
        late = bool(entry.flags & wire.ACK_LATE)
        if cause == SHUTDOWN:
            if late:
                self.ledger.put_back(entry)  # nobody's fault: counted as no loss
            else:
                self._settle(entry, worker, "the worker was told to end at once", again=False)
            return True
        if not guilty or cause not in (TIME_LIMIT, TERMINATED):
            return False
        if cause == TIME_LIMIT and late and entry.flags & wire.AGAIN_ON_TIMEOUT:
            self._settle(entry, worker, f"it took longer than {number:g} s", again=True)
            return True
        self.ledger.leased.pop(entry.key, None)
        self.journal.remove(entry.key)
        if cause == TIME_LIMIT:
            self._collector.fail(entry, "time-limit", f"{number:.12g}")
        else:
            self._collector.fail(entry, "terminated", f"{number:.0f}", state=wire.REVOKED, worker=worker)
        return True

    def _settle(self, entry: Entry, worker: WorkerState, why: str, *, again: bool) -> None:
        """A started task whose worker is gone: run it again where it may be, else end it with the reason."""
        if entry.revoked:
            self.ledger.leased.pop(entry.key, None)
            self.journal.remove(entry.key)
            self._collector.fail(entry, "terminated", f"{_TERM}", state=wire.REVOKED, worker=worker)
            return
        what = _lost_with(worker, why)
        if not again:
            self.ledger.leased.pop(entry.key, None)
            self.journal.remove(entry.key)
            self._collector.fail(entry, "worker-lost", what)
            return
        entry.losses += 1
        if entry.losses >= self.limits.max_losses:
            self._bury(entry, what)
            return
        self.journal.lost(entry.key, entry.losses, what)
        self.ledger.put_back(entry)

    def _leave_to_strategy(self, entry: Entry, worker: WorkerState, why: str) -> None:
        """Accept a lost task once more, with the loss as its verdict: how it ends, its strategy says."""
        task = wire.decode_task(entry.raw)
        if isinstance(task, wire.Malformed):
            self._settle(entry, worker, why, again=False)
            return
        now = self.clock.wall()
        loss = wire.encode(wire.Loss("worker-lost", _lost_with(worker, why)))
        verdict = wire.Result(
            id=task.id, state=wire.FAILURE, final=True, content_type=wire.LOSS_TYPE, value=loss, finished=now
        )
        again = wire.undecided(task, wire.encode(verdict))
        self.ledger.leased.pop(entry.key, None)
        self.journal.remove(entry.key)
        # past the claims: a unique key that it has, it keeps
        self.ledger.accept(wire.head_of(again), wire.encode(again), now)

    def _bury(self, entry: Entry, what: str) -> None:
        history = [*self.journal.loss_history(entry.key), what]
        self.ledger.leased.pop(entry.key, None)
        self.journal.remove(entry.key)
        self.journal.forget_losses(entry.key)
        self._collector.keep_dead(entry, history)
        message = f"{entry.losses} workers were lost while running it; it is kept as a dead letter"
        self._collector.fail(entry, "dead", message, history=history)


def _depends_on_parent(flags: int) -> bool:
    """Whether what becomes of a lost task depends on whether its pool goes on."""
    if flags & wire.RETRY_ON_LOST:
        return True
    return bool(flags & wire.ACK_LATE) and not flags & wire.REJECT_ON_LOST


def _lost_with(worker: WorkerState, why: str) -> str:
    return f"worker {worker.joined.name} (pid {worker.joined.pid}) was lost while running it: {why}"
