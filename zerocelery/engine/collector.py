"""Takes tasks in, writes them to the journal, and hands them to workers that asked.

Everything here happens within one loop turn of the node, in memory and in the journal's open transaction; the node
commits, and only then sends what the turn produced (:attr:`Collector.outbox`, the publisher's deliveries).

Acceptance: a producer numbers what it sends. The collector takes numbers in order, each once, and receipts the highest;
so a resend is recognised at no cost, whatever the task's id. The highest number is written in the same transaction as
the task.

Leases: a task is a worker's until it reports it, hands it back, or is lost. A worker is lost when its process ends
(seen at once on this machine), or when it is frozen or silent for ``lease_timeout``. There is no limit on how long a
task may run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from zerocelery.engine import wire
from zerocelery.engine.clock import Clock
from zerocelery.engine.failpoints import failpoint
from zerocelery.engine.groups import Groups
from zerocelery.engine.journal import Journal
from zerocelery.engine.ledger import Entry, Lane, Ledger
from zerocelery.engine.publisher import Publisher

logger = logging.getLogger("zerocelery.node")

#: Short tasks are leased together as long as they are expected to take no longer than this in all, in seconds.
BATCH_SECONDS: Final = 0.003

#: The run time of a name that was never seen, and the least that one task counts for.
_UNKNOWN_SECONDS: Final = 1.0
_LEAST_SECONDS: Final = 20e-6

#: What a process had sent before it died may still be on its way when its end is seen (seconds).
_LAST_WORDS: Final = 0.03

#: How long a lost child's supervisor may take to turn out lost as well.
_PARENT_GRACE: Final = 0.25

#: How long a worker of the node's former life may take to join again.
_REJOIN_SECONDS: Final = 20.0

_MAX_NAMES: Final = 10_000

#: The largest number from outside that goes on to the journal, whose integers have 64 bits.
_MOST: Final = 1 << 62


class Processes(Protocol):
    """What the collector asks of the machine about workers' processes; every answer may be 'unknown'."""

    def local(self, host: str) -> bool: ...
    def alive(self, pid: int, started: int) -> bool: ...
    def frozen(self, pid: int) -> bool: ...
    def watch(self, pid: int) -> bool: ...
    def running(self, word: str) -> int | None: ...
    def revoke(self, word: str) -> None: ...
    def discard(self, word: str) -> None: ...


@dataclasses.dataclass(slots=True)
class Limits:
    """What a node holds and how patient it is; sizes in bytes, times in seconds."""

    queue_limit: int = 10_000_000
    max_message: int = 64 << 20
    max_losses: int = 5
    lease_timeout: float = 30.0
    result_expires: float = 86_400.0


class WorkerState:
    """One worker as the collector sees it."""

    __slots__ = (
        "acked", "beat", "busy", "capacity", "ending", "frozen", "generation", "held", "id", "joined", "local",
        "seconds", "silent_until",
    )  # fmt: skip

    def __init__(self, worker_id: str, joined: wire.Join) -> None:
        self.id = worker_id
        self.joined = joined
        self.held: dict[int, Entry] = {}  # in the order in which they were leased, which is that in which they run
        self.seconds = 0.0  # what it holds is expected to take
        self.capacity = joined.capacity
        self.generation = joined.generation
        self.acked = 0
        self.busy = False
        self.ending = False  # its process has ended
        self.local = False
        self.beat = 0.0
        self.frozen = False
        self.silent_until: float | None = None  # known from the journal, has to join again by then


@dataclasses.dataclass(slots=True)
class Counters:
    """What the node has seen since it started."""

    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    malformed: int = 0
    leases: int = 0
    finished: int = 0
    late: int = 0
    lost: int = 0
    dead: int = 0


class Collector:
    """The known endpoint. One method per kind of message, and :meth:`hand_out`, once a turn."""

    def __init__(
        self,
        *,
        journal: Journal,
        ledger: Ledger,
        publisher: Publisher,
        clock: Clock,
        processes: Processes,
        limits: Limits,
        lease_number: int = 0,
    ) -> None:
        self.journal = journal
        self.ledger = ledger
        self.publisher = publisher
        self.clock = clock
        self.processes = processes
        self.limits = limits
        self.groups = Groups(journal)
        self.counters = Counters()
        self.workers: dict[str, WorkerState] = {}
        self.outbox: list[tuple[str, wire.ToWorker]] = []
        self.queries: dict[str, Callable[[bytes], bytes]] = {}
        self._ready: OrderedDict[str, WorkerState] = OrderedDict()
        self._inboxes: dict[str, int] = {}
        self._by_pid: dict[int, set[str]] = {}
        self._estimates: dict[str, float] = {}
        self._lease_number = lease_number
        self._left_of_lease: dict[int, int] = {}
        self._ended: list[tuple[float, WorkerState]] = []
        self._undecided: list[tuple[float, WorkerState, list[Entry]]] = []
        self._came_back = False

    # ── from producers ───────────────────────────────────────────────────────────────────────────────────────────────

    def from_producer(self, frame: bytes) -> None:
        """Take one frame from the PULL socket, whatever is in it."""
        message = wire.decode_from_producer(frame)
        if isinstance(message, wire.Submit):
            self._submit(message)
        elif isinstance(message, wire.Malformed):
            self._malformed(message)
        elif isinstance(message, wire.Hello):
            self._hello(message)
        elif isinstance(message, wire.Ask):
            self.journal.write()
            self.publisher.ask(message.inbox, message.ids, wait=message.wait, now=self.clock.wall())
        elif isinstance(message, wire.Ship):
            self._ship(message)
        elif isinstance(message, wire.Forget):
            self.journal.forget(message.ids)
        elif isinstance(message, wire.Query):
            self._query(message)
        else:
            self._numbered(message)

    def _numbered(self, message: wire.Gather | wire.Grow | wire.Put) -> None:
        """What takes one sequence number and is no task."""
        if self._expected(message.inbox, message.seq, 1) != 0:
            return
        if isinstance(message, wire.Gather):
            self._open(message.group)
        elif isinstance(message, wire.Grow):
            now = self.clock.wall()
            self._accept_body(self.groups.grow(message.id, message.members, close=message.close, now=now), now)
        else:
            self._conclude(message.result, message.keep, (), True)
        self._taken(message.inbox, message.seq)

    def _open(self, raw: Raw) -> None:
        problem = self.groups.open(raw, self.clock.wall())
        if problem is not None:
            self._malformed(problem)

    def _malformed(self, message: wire.Malformed) -> None:
        self.counters.malformed += 1
        if self.counters.malformed & (self.counters.malformed - 1) == 0:  # 1, 2, 4, 8 …: a flood fills no log
            logger.warning(
                "dropped a frame that is no message (%d so far): %s", self.counters.malformed, message.reason
            )

    def last_of(self, inbox: str) -> int | None:
        """The highest number accepted from this producer; None where it is unknown."""
        last = self._inboxes.get(inbox)
        if last is None:
            last = self.journal.find_inbox(inbox)
            if last is not None:
                self._inboxes[inbox] = last
        return last

    def _hello(self, hello: wire.Hello) -> None:
        if hello.version == wire.VERSION:
            last = self.last_of(hello.inbox)
            if last is None:
                # Unknown here: a new producer, or one that another journal knew. Its lowest unacknowledged number is
                # the next that is taken.
                last = -1
            if last < hello.lowest - 1 < _MOST:
                # Of a known one, the journal has lost what was receipted (a power cut, an old copy of the file).
                self._inboxes[hello.inbox] = last = hello.lowest - 1
            self.publisher.welcome(hello.inbox, last)
        else:
            self.publisher.welcome(hello.inbox, -1)  # carries our version: the other side says what is wrong

    def _expected(self, inbox: str, seq: int, count: int) -> int:
        """How many of ``count`` messages from ``seq`` on were taken before; -1: a hole lies before them."""
        last = self.last_of(inbox)
        if last is None:
            self.publisher.welcome(inbox, -1)
            return -1
        if seq == last + 1:
            return 0
        if seq > last:
            self.publisher.gap(inbox, last)
            return -1
        self.counters.duplicates += min(count, last - seq + 1)
        self.publisher.receipt(inbox, last)
        return min(count, last - seq + 1)

    def _taken(self, inbox: str, last: int) -> None:
        self._inboxes[inbox] = last
        self.journal.inbox(inbox, last, int(self.clock.wall()))
        self.publisher.receipt(inbox, last)
        failpoint("collector.before_commit")

    def _submit(self, submit: wire.Submit) -> None:
        inbox, tasks = submit.inbox, submit.tasks
        known = self._expected(inbox, submit.seq, len(tasks))
        if known < 0 or known == len(tasks):
            return
        now = self.clock.wall()
        for index in range(known, len(tasks)):
            raw = tasks[index]
            head = wire.decode_task_head(raw)
            if isinstance(head, wire.Malformed):
                self._malformed(head)
                self._refuse(inbox, submit.seq + index, "malformed", head.reason)
                continue
            reason = self.ledger.may_accept(head)
            if reason:
                self._refuse(inbox, submit.seq + index, reason, head.queue)
            elif head.digest is not None and not self.journal.has_callable(head.digest):
                self._refuse(inbox, submit.seq + index, "callable-unknown", head.digest)
            else:
                self.ledger.accept(head, bytes(raw), now)
                self.counters.accepted += 1
        self._taken(inbox, submit.seq + len(tasks) - 1)

    def _refuse(self, inbox: str, seq: int, reason: str, detail: str) -> None:
        self.counters.refused += 1
        self.publisher.refuse(inbox, wire.Refusal(seq, reason, detail))

    def _ship(self, ship: wire.Ship) -> None:
        if self._expected(ship.inbox, ship.seq, 1) != 0:
            return
        self.journal.callable(ship.digest, ship.blob, int(self.clock.wall()))
        self.journal.write()  # a task of the same turn may need it
        self._taken(ship.inbox, ship.seq)

    def _query(self, query: wire.Query) -> None:
        answer = self.queries.get(query.what)
        value = answer(query.argument) if answer else b""
        self.publisher.answer(query.inbox, query.token, value)

    def subscribed(self, topic: str) -> None:
        """An inbox is (again) connected: tell it what is known of it."""
        self.publisher.subscribed(topic)
        last = self.last_of(topic)
        self.publisher.welcome(topic, -1 if last is None else last)

    def unsubscribed(self, topic: str) -> None:
        """A producer is gone, or cut off; what it had accepted is in the journal."""
        self.publisher.unsubscribed(topic)
        if topic not in self.publisher.live:
            self._inboxes.pop(topic, None)

    def undelivered(self, worker_id: str, message: wire.ToWorker) -> None:
        """A lease could not be sent: its tasks never arrived, so they are for somebody else."""
        worker = self.workers.get(worker_id)
        if worker is None or not isinstance(message, wire.Lease):
            return
        for item in reversed(message.entries):
            entry = worker.held.get(item.key)
            if entry is not None:
                self._release(worker, entry)
                self.ledger.put_back(entry)
        self._came_back = True
        self._recount(worker)
        self._ready.pop(worker_id, None)  # it joins again when it is connected again
        if not worker.held:
            self._drop(worker)  # it may never be: nobody would tell of the end of another machine's idle worker

    # ── from workers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def from_worker(self, worker_id: str, frame: bytes) -> None:
        """Take one frame from a worker, whatever is in it."""
        message = wire.decode_from_worker(frame)
        if type(message) is wire.Done:
            worker = self._current(worker_id, message.generation)
            if worker is not None:
                self._done(worker, message)
        elif isinstance(message, wire.Malformed):
            self._malformed(message)
        elif isinstance(message, wire.Join):
            self._join(worker_id, message)
        elif isinstance(message, wire.Bye):
            worker = self._current(worker_id, message.generation)
            if worker is not None:
                self._bye(worker, message)
        else:
            self._from_any_worker(worker_id, message)

    def _from_any_worker(self, worker_id: str, message: wire.FromWorker) -> None:
        """What needs no valid join."""
        if isinstance(message, wire.Update):
            self._update(worker_id, message)
        elif isinstance(message, wire.Fetch):
            self._send(worker_id, wire.Blob(message.digest, self.journal.find_callable(message.digest)))
        elif isinstance(message, wire.Beat):
            now = self.clock.monotonic()
            for name in message.workers:
                if name in self.workers:
                    self.workers[name].beat = now
        elif isinstance(message, wire.Lost):
            lost = self.workers.get(message.worker)
            if lost is not None:
                self.lose(lost, "its process died", running=message.running)

    def _send(self, worker_id: str, message: wire.ToWorker) -> None:
        self.outbox.append((worker_id, message))

    def _current(self, worker_id: str, generation: int) -> WorkerState | None:
        """The worker, if it is joined with this generation; else it is told to join again and bring all it has."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.generation != generation:
            self._send(worker_id, wire.Rejoin(wire.VERSION))
            return None
        return worker

    def _join(self, worker_id: str, join: wire.Join) -> None:
        if join.version != wire.VERSION:
            self._send(worker_id, wire.Rejoin(wire.VERSION))
            return
        worker = self.workers.get(worker_id)
        if worker is None:
            worker = self.workers[worker_id] = WorkerState(worker_id, join)
        worker.joined = join
        worker.generation = join.generation
        worker.capacity = join.capacity
        worker.acked = 0
        worker.busy = False
        worker.frozen = False
        worker.silent_until = None
        worker.beat = self.clock.monotonic()
        here = self.processes.local(join.host)
        worker.local = here and self._watch(worker_id, join.pid)
        self._finish(worker, join.done)
        if here and not worker.local and not self.processes.alive(join.pid, join.started):
            self.lose(worker, f"its process {join.pid} died")  # it had sent this before
            return
        holding = set(join.holding)
        for entry in [e for key, e in worker.held.items() if key not in holding]:
            self._release(worker, entry)  # leased, but the lease never arrived there
            self.ledger.put_back(entry)
        # What it holds and we don't count as its own was settled while it was away: it must not start it.
        void = [key for key in join.holding if key not in worker.held]
        if void:
            self.counters.late += len(void)
        self._recount(worker)
        record = msgspec.structs.replace(join, holding=[], done=[])
        self.journal.worker(worker_id, wire.encode(record))
        self._send(worker_id, wire.Lease(join.generation, 0, [], list(worker.held), self.limits.max_message))
        self._offer(worker)

    def _watch(self, worker_id: str, pid: int) -> bool:
        if not self.processes.watch(pid):
            return False
        self._by_pid.setdefault(pid, set()).add(worker_id)
        return True

    def _done(self, worker: WorkerState, done: wire.Done) -> None:
        if done.number != worker.acked + 1:
            # One before it was lost with a connection: the worker is to bring all that has no answer.
            self._send(worker.id, wire.Rejoin(wire.VERSION))
            return
        worker.acked = done.number
        worker.beat = self.clock.monotonic()
        worker.busy = done.busy
        self._finish(worker, done.reports)
        self._return(worker, done.returned)
        self._offer(worker)

    def _finish(self, worker: WorkerState, reports: Iterable[wire.Report]) -> None:
        now = self.clock.wall()
        for report in reports:
            entry = worker.held.pop(report.key, None)
            if entry is None:
                self.counters.late += 1  # settled before: the first outcome stands
                continue
            self._learn(worker, entry.head.name, report.runtime)
            self._end(entry)
            self.counters.finished += 1
            for raw in report.gathers:
                self._open(raw)
            for raw in report.followups:
                self._follow_up(raw, now)
            self._record(entry, report, now)
            for ending in report.endings:
                self._conclude(ending.result, ending.keep, ending.topics, ending.store, gather=ending.gather)
        if not worker.held:
            worker.seconds = 0.0

    def _learn(self, worker: WorkerState, name: str, runtime: float) -> None:
        """Keep a moving average of each name's run time: it decides how many are leased together."""
        known = self._estimates.get(name)
        worker.seconds -= _UNKNOWN_SECONDS if known is None else known
        if runtime < _LEAST_SECONDS:
            runtime = _LEAST_SECONDS
        if known is not None:
            self._estimates[name] = known + (runtime - known) * 0.2
        elif len(self._estimates) < _MAX_NAMES:
            self._estimates[name] = runtime

    def _record(self, entry: Entry, report: wire.Report, now: float) -> None:
        """Store a result and send it on; count it where the task is a group's member."""
        result = wire.decode_result_head(report.result)
        if isinstance(result, wire.Malformed):
            self._malformed(result)
            self._fail(entry, "refused", f"the worker's result can't be read: {result.reason}")
            return
        head = entry.head
        if report.store:
            self._store(result, report.result, head.keep, now)
            self.publisher.result(result.id, report.result, head.topics, final=result.final)
        if head.flags & wire.MEMBER and result.final:
            self._count(_gather_of(entry), result, bytes(report.result), now)

    def _store(self, result: wire.ResultHead, raw: Raw | bytes, keep: float | None, now: float) -> None:
        """Keep a result in the journal for as long as its task, or else the node, says."""
        keep = self.limits.result_expires if keep is None else keep
        if keep > 0:
            self.journal.result(result.id, result.state, int(min(now + keep, _MOST)), bytes(raw), int(now))

    def _conclude(
        self, raw: Raw, keep: float | None, topics: tuple[str, ...], store: bool, *, gather: str | None = None
    ) -> None:
        """Take a result that doesn't come from the task's own run."""
        result = wire.decode_result_head(raw)
        if isinstance(result, wire.Malformed):
            self._malformed(result)
            return
        now = self.clock.wall()
        if store:
            self._store(result, raw, keep, now)
            self.publisher.result(result.id, raw, topics, final=result.final)
        if gather is not None:
            self._count(gather, result, bytes(raw), now)

    def _count(self, gather: str | None, result: wire.ResultHead, raw: bytes, now: float) -> None:
        """Count a member's end, and accept the body with the last one."""
        if gather is None:
            return
        self._accept_body(self.groups.ended(gather, result.id, raw, well=result.state == wire.SUCCESS, now=now), now)

    def _accept_body(self, body: wire.Task | None, now: float) -> None:
        """Queue the body of a group all of whose members have ended."""
        if body is None:
            return
        encoded = wire.encode(body)
        if len(encoded) <= self.limits.max_message:
            self._follow_up(Raw(encoded), now)
            return
        what = f"the results of its group take {len(encoded):,} bytes, more than the node's --max-message"
        bare = wire.encode(msgspec.structs.replace(body, inputs=[], verdict=b""))
        head = wire.decode_task_head(bare)
        if isinstance(head, wire.TaskHead):
            self._fail(Entry(0, head, bare), "too-large", what)

    def _follow_up(self, raw: Raw, now: float) -> None:
        head = wire.decode_task_head(raw)
        if isinstance(head, wire.Malformed):
            self._malformed(head)
        else:
            self.ledger.accept(head, bytes(raw), now)
            self.counters.accepted += 1

    def _end(self, entry: Entry) -> None:
        """The task is over: remove it from the journal, and its lease with the lease's last task."""
        self.ledger.leased.pop(entry.key, None)
        self.journal.remove(entry.key)
        if entry.losses:
            self.journal.forget_losses(entry.key)
        self._unlease(entry)

    def _unlease(self, entry: Entry) -> None:
        number = entry.lease
        left = self._left_of_lease.get(number, 0) - 1
        if left > 0:
            self._left_of_lease[number] = left
        else:
            self._left_of_lease.pop(number, None)
            self.journal.end_lease(number)

    def _release(self, worker: WorkerState, entry: Entry) -> None:
        worker.held.pop(entry.key, None)
        self._unlease(entry)

    def _return(self, worker: WorkerState, keys: Iterable[int]) -> None:
        """Tasks that the worker hands back unstarted go to whoever is free, in their old order."""
        for key in keys:
            entry = worker.held.get(key)
            if entry is not None:
                self._release(worker, entry)
                self.ledger.put_back(entry)
        if keys:
            self._recount(worker)

    def _recount(self, worker: WorkerState) -> None:
        worker.seconds = sum(self._estimates.get(e.head.name, _UNKNOWN_SECONDS) for e in worker.held.values())

    def _update(self, worker_id: str, update: wire.Update) -> None:
        worker = self.workers.get(worker_id)
        entry = worker.held.get(update.key) if worker else None
        result = wire.decode_result_head(update.result)
        if entry is None or isinstance(result, wire.Malformed):
            self.counters.late += 1
            return
        self._store(result, update.result, entry.head.keep, self.clock.wall())
        self.journal.write()
        self.publisher.result(result.id, update.result, entry.head.topics, final=False)

    def _bye(self, worker: WorkerState, bye: wire.Bye) -> None:
        self._finish(worker, bye.reports)
        self._return(worker, bye.returned)
        for entry in list(worker.held.values()):  # leased to it after it had decided to leave
            self._release(worker, entry)
            self.ledger.put_back(entry)
        self._drop(worker)
        self._send(worker.id, wire.Farewell())

    def _drop(self, worker: WorkerState) -> None:
        self.workers.pop(worker.id, None)
        self._ready.pop(worker.id, None)
        self.journal.worker(worker.id, None)
        self.processes.discard(worker.joined.word)
        owners = self._by_pid.get(worker.joined.pid)
        if owners is not None:
            owners.discard(worker.id)
            if not owners:
                del self._by_pid[worker.joined.pid]

    # ── handing out ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _offer(self, worker: WorkerState) -> None:
        """The worker could take (more) tasks."""
        if worker.busy or worker.ending:
            return
        if len(worker.held) < worker.capacity and worker.seconds < BATCH_SECONDS:
            self._ready[worker.id] = worker

    def hand_out(self) -> None:
        """Give waiting tasks to the workers that are ready: first to those with nothing to do."""
        if not self._ready:
            return
        idle = [w for w in self._ready.values() if not w.held]
        busy = [w for w in self._ready.values() if w.held]
        for position, worker in enumerate((*idle, *busy)):
            queues = worker.joined.queues
            lane = self.ledger.best(queues)
            if lane is None:
                if not worker.held:
                    continue  # stays ready
                del self._ready[worker.id]  # asks again with its next report
                continue
            left = max(1, len(idle) - position)
            share = -(-self.ledger.waiting(queues) // left)
            self._lease(worker, lane, min(share, worker.capacity - len(worker.held)))
            if worker.held:
                self._ready.pop(worker.id, None)

    def _lease(self, worker: WorkerState, lane: Lane | None, most: int) -> None:
        ledger, estimates = self.ledger, self._estimates
        queues = worker.joined.queues
        several = len(queues) > 1
        taken: list[Entry] = []
        seconds = worker.seconds
        wall = self.clock.wall()
        policy, policies = worker.joined.policy, worker.joined.policies
        while lane is not None and len(taken) < most:
            first = lane.first()
            if first is None:
                lane = ledger.best(queues)
                continue
            head = first.head
            if head.expires is not None and head.expires <= wall:
                lane.take()
                self.journal.remove(first.key)
                self._fail(first, "expired", "expired", state=wire.REVOKED)
            else:
                # Alone where a worker was lost with it: those that share a lease with it would share its fate.
                cost = _UNKNOWN_SECONDS if first.losses else estimates.get(head.name, _UNKNOWN_SECONDS)
                if (taken or worker.held) and seconds + cost > BATCH_SECONDS:
                    break
                seconds += cost
                taken.append(lane.take())
                first.flags = policies.get(head.name, policy if policy >= 0 else head.flags)
                if head.flags & wire.SETTLED:
                    first.flags = wire.ACK_LATE | wire.REJECT_ON_LOST
            if several or not lane.order:
                lane = ledger.best(queues)
        if not taken:
            return
        worker.seconds = seconds
        if not worker.held:
            worker.beat = self.clock.monotonic()  # that it was silent while it had nothing to do says nothing
        self._lease_number += 1
        self.counters.leases += 1
        number = self._lease_number
        self._left_of_lease[number] = len(taken)
        for entry in taken:
            entry.lease = number
            ledger.leased[entry.key] = entry
            worker.held[entry.key] = entry
        self.journal.lease(number, worker.id, wire.encode([(e.key, e.flags) for e in taken]))
        entries = [wire.LeaseEntry(e.key, e.losses, Raw(e.raw)) for e in taken]
        self._send(worker.id, wire.Lease(worker.generation, worker.acked, entries))

    # ── losing ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def process_ended(self, pid: int) -> None:
        """A worker's process on this machine is no more."""
        for worker_id in self._by_pid.pop(pid, ()):
            worker = self.workers.get(worker_id)
            if worker is not None:
                worker.ending = True
                self._ready.pop(worker_id, None)
                self._ended.append((self.clock.monotonic() + _LAST_WORDS, worker))

    def lose(self, worker: WorkerState, why: str, *, running: int | None = None) -> None:
        """Settle what a lost worker held: unstarted tasks go back as they were, started ones by their own rule."""
        self._came_back = True  # also where this turn's handing out is over, and its results are sent
        word = worker.joined.word
        if running is None and self.processes.local(worker.joined.host):
            running = self.processes.running(word)
        held = list(worker.held.values())
        started: list[Entry] = []
        if running is None or any(e.key == running for e in held):
            # In the order of the lease: all up to the one that was running had started. Without a word, all may have.
            last = next((i for i, e in enumerate(held) if e.key == running), len(held) - 1)
            started, held = held[: last + 1], held[last + 1 :]
        for entry in reversed(held):
            self._release(worker, entry)
            self.ledger.put_back(entry)
        self._drop(worker)
        if started:
            self.counters.lost += 1
            logger.warning("worker %s was lost (%s) with %d tasks started", worker.joined.name, why, len(started))
        undecided: list[Entry] = []
        for entry in started:
            self._unlease(entry)
            if entry.flags & wire.ACK_LATE and not entry.flags & wire.REJECT_ON_LOST and self._parent_lives(worker):
                undecided.append(entry)
            else:
                self._settle(entry, worker, why, again=bool(entry.flags & wire.ACK_LATE))
        if undecided:
            self._undecided.append((self.clock.monotonic() + _PARENT_GRACE, worker, undecided))

    def _parent_lives(self, worker: WorkerState) -> bool:
        join = worker.joined
        if not join.parent_pid or not self.processes.local(join.host):
            return False
        return self.processes.alive(join.parent_pid, join.parent_started)

    def _settle(self, entry: Entry, worker: WorkerState, why: str, *, again: bool) -> None:
        """A started task whose worker is gone: run it again where it may be, else end it with the reason."""
        what = f"worker {worker.joined.name} (pid {worker.joined.pid}) was lost while running it: {why}"
        if not again:
            self.ledger.leased.pop(entry.key, None)
            self.journal.remove(entry.key)
            self._fail(entry, "worker-lost", what)
            return
        entry.losses += 1
        if entry.losses >= self.limits.max_losses:
            self._bury(entry, what)
            return
        self.journal.lost(entry.key, entry.losses, what)
        self.ledger.put_back(entry)

    def _bury(self, entry: Entry, what: str) -> None:
        history = [*self.journal.loss_history(entry.key), what]
        self.counters.dead += 1
        self.ledger.leased.pop(entry.key, None)
        self.journal.remove(entry.key)
        self.journal.forget_losses(entry.key)
        head = entry.head
        self.journal.bury(entry.key, head.id, head.name, self.clock.wall(), json.dumps(history), entry.raw)
        message = f"{entry.losses} workers were lost while running it; it is kept as a dead letter"
        self._fail(entry, "dead", message, history=history)

    def _fail(
        self, entry: Entry, kind: str, message: str, *, state: str = wire.FAILURE, history: list[str] | None = None
    ) -> None:
        """End a task with the engine's own outcome."""
        head = entry.head
        now = self.clock.wall()
        loss = wire.encode(wire.Loss(kind, message, history or []))
        result = wire.Result(id=head.id, state=state, final=True, content_type=wire.LOSS_TYPE, value=loss, finished=now)
        raw = wire.encode(result)
        if not entry.flags & wire.IGNORE_RESULT:
            self._store(wire.ResultHead(head.id, state, True), raw, head.keep, now)
        self.publisher.result(head.id, Raw(raw), head.topics, final=True)
        if head.flags & (wire.MEMBER | wire.AFTERMATH):
            self._follow_loss(entry, raw, now)

    def _follow_loss(self, entry: Entry, raw: bytes, now: float) -> None:
        """What follows from an end that no worker has reported: others may have waited for this task."""
        task = wire.decode_task(entry.raw)
        if isinstance(task, wire.Malformed):
            return
        if task.flags & wire.AFTERMATH:
            self._follow_up(Raw(wire.encode(wire.aftermath(task, raw))), now)
        if task.flags & wire.MEMBER:
            self._count(task.gather, wire.ResultHead(task.id, wire.FAILURE, True), raw, now)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self) -> None:
        """Do what is due: ETA tasks, undecided losses, workers that are frozen, silent or never came back."""
        self._release_due()
        if self._ended:
            self._lose_ended()
        if self._undecided:
            self._decide()

    def _lose_ended(self) -> None:
        now = self.clock.monotonic()
        due = [worker for at, worker in self._ended if at <= now]
        if due:
            self._ended = [(at, worker) for at, worker in self._ended if at > now]
            for worker in due:
                if self.workers.get(worker.id) is worker:
                    self.lose(worker, f"its process {worker.joined.pid} died")

    def _release_due(self) -> None:
        ledger = self.ledger
        if ledger.next_due is None:
            return
        now = self.clock.wall()
        if ledger.next_due > now:
            return
        self.journal.write()
        ledger.release(self.journal.take_due(now, 1_000), now)
        ledger.next_due = self.journal.next_due()

    def _decide(self) -> None:
        """A child was lost whose task is acknowledged late, but not rejected on loss: Celery's rule is that it is run
        again where its whole worker is lost, and fails where only the child is."""
        now = self.clock.monotonic()
        waiting: list[tuple[float, WorkerState, list[Entry]]] = []
        for due, worker, entries in self._undecided:
            gone = not self._parent_lives(worker)
            if not gone and now < due:
                waiting.append((due, worker, entries))
                continue
            for entry in entries:
                self._settle(entry, worker, "its process died", again=gone)
        self._undecided = waiting

    def check_workers(self, *, paused: float = 0.0) -> None:
        """Look after workers that hold tasks; called every third of ``lease_timeout``.

        Arguments:
            paused: for how long the node itself was not running: that is nobody's silence.
        """
        now = self.clock.monotonic()
        for worker in list(self.workers.values()):
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

    def next_deadline(self) -> float | None:
        """Seconds until :meth:`tick` has something to do."""
        waits: list[float] = []
        if self.ledger.next_due is not None:
            waits.append(self.ledger.next_due - self.clock.wall())
        if self._undecided:
            waits.append(0.02)
        if self._ended:
            waits.append(self._ended[0][0] - self.clock.monotonic())
        return max(0.0, min(waits)) if waits else None

    @property
    def must_hand_out(self) -> bool:
        """Whether tasks came back after this turn's handing out (a lease could not be sent)."""
        must, self._came_back = self._came_back, False
        return must

    @property
    def watching(self) -> bool:
        """Whether some worker holds something, so that :meth:`check_workers` is needed."""
        return any(w.held or w.silent_until is not None for w in self.workers.values())

    # ── the node's former life ───────────────────────────────────────────────────────────────────────────────────────

    def restore(self) -> None:
        """Take up the leases that the journal holds: each worker keeps its own if it comes back, else it is lost."""
        joins = dict(self.journal.known_workers())
        decoder = msgspec.msgpack.Decoder(list[tuple[int, int]])
        leased: dict[int, tuple[int, str, int]] = {}
        numbers: set[int] = set()
        for number, worker_id, blob in self.journal.open_leases():
            numbers.add(number)
            for key, flags in decoder.decode(blob):
                leased.pop(key, None)  # handed back since, and leased again
                leased[key] = (number, worker_id, flags)
        for key, (number, worker_id, flags) in leased.items():
            row = self.journal.task(key)
            head = wire.decode_task_head(row[1]) if row else None
            if row is None or not isinstance(head, wire.TaskHead):
                continue
            worker = self.workers.get(worker_id)
            if worker is None:
                worker = self._restore_worker(worker_id, joins.get(worker_id))
            entry = Entry(key, head, row[1], losses=row[0])
            entry.flags, entry.lease = flags, number
            self.ledger.leased[key] = worker.held[key] = entry
            self.ledger.lane(head.queue).stored -= 1
            self._left_of_lease[number] = self._left_of_lease.get(number, 0) + 1
        for number in numbers - self._left_of_lease.keys():
            self.journal.end_lease(number)
        for worker_id in joins:
            if worker_id not in self.workers:
                self.journal.worker(worker_id, None)
        for worker in list(self.workers.values()):
            self._await_return(worker)

    def _restore_worker(self, worker_id: str, blob: bytes | None) -> WorkerState:
        join = wire.decode_from_worker(blob) if blob is not None else None
        if not isinstance(join, wire.Join):
            join = wire.Join(
                wire.VERSION, 0, worker_id, "", 0, 0, "", 0, 0, [], 0, [], [], 0, {}
            )  # its record is gone: nothing is known of what it started
        worker = self.workers[worker_id] = WorkerState(worker_id, join)
        worker.generation = -1  # whatever it sends, it has to join first
        return worker

    def _await_return(self, worker: WorkerState) -> None:
        join = worker.joined
        worker.beat = self.clock.monotonic()
        if self.processes.local(join.host):
            if not self.processes.alive(join.pid, join.started) or not self._watch(worker.id, join.pid):
                self.lose(worker, f"its process {join.pid} died while the node was down")
                return
            worker.local = True
        worker.silent_until = worker.beat + _REJOIN_SECONDS


def _gather_of(entry: Entry) -> str | None:
    """The group that a task is a member of."""
    task = wire.decode_task(entry.raw)
    return None if isinstance(task, wire.Malformed) else task.gather
