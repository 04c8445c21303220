"""One worker: fetches a task, passes it to its strategy, returns the result, fetches the next; blocks when idle.

A worker asks by being there: its ``Join`` and each report say that it could take more. Short tasks come several at a
time, and their results leave together after a millisecond or when the batch is done. When one of them turns out to be
long, the process's :class:`Watch` sends what is finished and hands the tasks behind it back, so nothing waits for it.

Reports are kept until the node says that they are in its journal. When the connection is new (the node was restarted),
the worker joins again with what it holds and what it has reported without an answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import secrets
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Raw

from zerocelery.engine import wire
from zerocelery.engine.address import Address, parse_address
from zerocelery.engine.board import Row
from zerocelery.engine.errors import CallableError, VersionMismatch
from zerocelery.engine.failpoints import failpoint
from zerocelery.engine.green import Exposure, Hub
from zerocelery.engine.processes import SHUTDOWN, Word, give_cause, host_id, started
from zerocelery.engine.strategy import Outcome, Strategy, failure, success
from zerocelery.transport.base import WorkerLink
from zerocelery.transport.zmq import worker_link

logger = logging.getLogger("zerocelery.worker")

#: The most tasks that one worker holds; the node gives several only where they are known to be short.
CAPACITY: Final = 128

#: Results of short tasks are kept together for at most this long (seconds), and up to this size: a node takes messages
#: of its largest task and 1 MB more.
_TOGETHER: Final = 0.001
_TOGETHER_BYTES: Final = 512 << 10

#: A task that runs for longer than this holds nothing up: what is finished leaves, what waits is handed back (seconds).
_LONG: Final = 0.02

#: It is looked after ever more rarely, in the end this often: there may be a thousand of them (seconds).
_LOOK_AT_MOST: Final = 0.1

#: The watch goes to sleep after this many ticks in which nothing ran.
_IDLE_TICKS: Final = 10

#: A join without an answer is repeated after this long (seconds).
_JOIN_AGAIN: Final = 0.5

#: A leaving worker waits this long for the node to take its last reports (a node may be restarting; seconds).
_FAREWELL: Final = 30.0

#: A task that runs for long says this often that its worker lives: a node elsewhere can't see the process (seconds).
_BEAT: Final = 1.0

#: A green thread that goes on after it was told to end is told again this often (seconds).
_INSIST: Final = 1.0

_PAGE: Final = resource.getpagesize()

_current = threading.local()


class Ended(KeyboardInterrupt):
    """Raised in the task that runs when its process is ended at once: it may clean up, but reports nothing."""


class Stopped(Ended):
    """Raised in a green thread whose task is ended by somebody: it ends as revoked.

    Arguments:
        number: of the signal that stands for it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def current_worker() -> Worker | None:
    """The worker that runs in this thread, if any."""
    worker: Worker | None = getattr(_current, "worker", None)
    return worker


@contextlib.contextmanager
def acting_for(worker: Worker | None) -> Iterator[None]:
    """Do in this thread what a worker has left to it."""
    before = current_worker()
    _current.worker = worker
    try:
        yield
    finally:
        _current.worker = before


class Worker:
    """One worker of a node.

    Arguments:
        address: of the node.
        strategy: what to do with a task (:mod:`zerocelery.engine.strategy`).
        queues: names of the queues to take tasks from.
        name: for people.
        max_tasks: leave after this many tasks; None: never.
        max_memory: leave after the task with which the process took more memory than this (KiB); None: never.
        row: where the pool's process looks for a time limit, and whether this is busy.
        counts: whether the pool wants to know who is busy.
        supervisor: pid of the process that starts another worker when this one dies; 0: none.
        link: makes the transport.
        hub: switches between this worker's thread and others, where they are green.
    """

    def __init__(
        self,
        address: str | Address,
        strategy: Strategy,
        *,
        queues: Sequence[str] = ("celery",),
        name: str = "",
        max_tasks: int | None = None,
        max_memory: int | None = None,
        row: Row | None = None,
        counts: bool = False,
        supervisor: int = 0,
        on_joined: Callable[[], None] | None = None,
        link: Callable[[Address, str], WorkerLink] | None = None,
        hub: Hub | None = None,
    ) -> None:
        self.address = parse_address(address)
        self.strategy = strategy
        self.queues = list(queues)
        self.id = secrets.token_hex(8)
        self.name = name or f"worker-{os.getpid()}"
        self.max_tasks = max_tasks
        self.max_memory = max_memory
        self.finished = 0
        self.lock = threading.RLock()  # the link, and what the watch may take away
        self._make_link = link or worker_link
        self._link: WorkerLink | None = None
        self._word = Word(self.address.words, self.id)
        self._supervisor = (supervisor, started(supervisor) if supervisor else 0)
        self._on_joined = on_joined
        self._todo: deque[wire.LeaseEntry] = deque()
        self._reports: list[wire.Report] = []
        self._unanswered: deque[tuple[int, list[wire.Report]]] = deque()
        self._returned: list[int] = []
        self._number = 0
        self._generation = 0
        self._joined = False
        self._leaving = False
        self._running: wire.Task | None = None
        self._running_key = -1
        self._blobs: dict[str, bytes | None] = {}
        self._stale = False
        self._reports_bytes = 0
        self._flushed = 0.0
        self._beat = 0.0
        self._limit = 1 << 62  # the largest report that the node takes, in bytes
        self._forked = False
        #: whether it has a process of a pool to itself
        self.has_process = row is not None
        self._row = row
        self._counts = row if counts else None
        self._limited = False
        self._interrupt: Callable[[], object] | None = None
        self.hub = hub
        self._exposure: Exposure | None = None
        self._insists: Callable[[], BaseException] | None = None
        if row is not None:
            row.sign(self.id)
        #: when the running task is to be interrupted (monotonic), 0.0: never; read by the watch
        self.interrupt_at = 0.0
        #: when a green thread that goes on is to be told to end (monotonic), 0.0: never; read by the watch
        self.insist_at = 0.0
        #: when the watch has looked after it last (monotonic)
        self.looked_at = 0.0
        #: when the running task began (monotonic), 0.0 between tasks; read by the watch
        self.since = 0.0
        #: streams to which nobody listens
        self.unwatched: set[str] = set()
        #: called before reports are sent: what goes with them
        self.before_report: Callable[[], None] | None = None
        #: whether :meth:`run` has returned
        self.left = False

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Work until :meth:`stop`, or until ``max_tasks`` are done; returns when the node has all reports.

        Raises:
            VersionMismatch: the node speaks another version.
        """
        _current.worker = self
        attach = getattr(self.strategy, "attach", None)
        if attach is not None:
            attach(self)
        self._link = self._make_link(self.address, self.id)
        watch = Watch.of_process()
        watch.add(self)
        try:
            while not self._leaving:
                entry = self._next()
                if entry is None:
                    self._fetch()
                else:
                    self._work(entry, watch)
            self._leave()
        except Ended:
            self._flush(busy=True)  # what had been finished is; the task that ran is the node's to settle
            if not self.has_process:
                self.give_up()
            raise
        finally:
            self.left = True
            watch.remove(self)
            self._link.close(linger=0.2)
            self._word.close()
            _current.worker = None
            detach = getattr(self.strategy, "detach", None)
            if detach is not None:
                detach()

    def stop(self) -> None:
        """Finish the running task, hand the rest back, and leave; safe in a signal handler and from any thread."""
        self._leaving = True
        link = self._link
        if link is not None:
            link.wake()

    @property
    def leaves(self) -> bool:
        """Whether it was told to stop, or has decided to."""
        return self._leaving

    def give_cause_of_shutdown(self) -> None:
        """Tell the node that this process is ended on purpose."""
        if self._word.path:
            give_cause(Path(self._word.path), SHUTDOWN)

    def give_up(self) -> None:
        """Tell the node that the running task will not be finished, as if this worker were lost: its process, which is
        not one of a pool's, may live on for a while."""
        key = self._running_key
        if key >= 0:
            self.give_cause_of_shutdown()
            self._send(wire.Lost(self.id, key, SHUTDOWN, 0.0))

    def _join(self) -> None:
        with self.lock:
            self._generation += 1
            self._number = 0
            self._joined = False
            self.unwatched.clear()  # it may be another node
            holding = [entry.key for entry in self._todo]
            if self._running_key >= 0 and self.since:
                holding.append(self._running_key)
            unanswered = [report for _, reports in self._unanswered for report in reports] + self._reports
            self._reports = []
            self._unanswered = deque([(0, unanswered)] if unanswered else [])
            self._returned = []
            if not holding and not unanswered:
                # Not before the node has all reports: what it would take for unstarted, it would have run again.
                self._word.renew()
            policies: Mapping[str, int] = getattr(self.strategy, "policies", {})
            pid = os.getpid()
            self._send(
                wire.Join(
                    wire.VERSION, self._generation, self.name, host_id(), pid, started(pid), self._word.path,
                    *self._supervisor, self.queues, CAPACITY if self.max_tasks is None else min(CAPACITY, self._left()),
                    holding, unanswered, int(getattr(self.strategy, "policy", -1)), dict(policies), self._rates(),
                )
            )  # fmt: skip

    def _rates(self) -> list[wire.Rate]:
        own, shared = getattr(self.strategy, "rates", ({}, {}))
        told = [wire.Rate(name, rate, False) for name, rate in own.items()]
        return told + [wire.Rate(name, rate, True) for name, rate in shared.items()]

    def tell_rates(self) -> None:
        """Tell the node that the strategy's ``rates`` are others than before; from any thread."""
        self._send(wire.Limit(self._rates()))

    def _left(self) -> int:
        return max(1, (self.max_tasks or 0) - self.finished)

    def _send(self, message: object) -> bool:
        link = self._link
        with self.lock:
            return link is not None and link.send(wire.encode(message))

    def _leave(self) -> None:
        """Say goodbye until the node has answered: a report that is not in the journal is not reported."""
        deadline = time.monotonic() + _FAREWELL
        with self.lock:
            self.since = 0.0  # the watch keeps its hands off the link from here on
            returned = [entry.key for entry in self._todo] + self._returned
            self._todo.clear()
        link = self._link
        if link is None or self._generation == 0:
            return
        while True:
            self._report_all(wire.Bye, returned)
            if self._await_farewell(link, min(deadline, time.monotonic() + 1.0)):
                self._word.discard()
                return
            if time.monotonic() >= deadline:
                logger.error("no node took the last reports of worker %s within %g s", self.name, _FAREWELL)
                return

    def _await_farewell(self, link: WorkerLink, until: float) -> bool:
        while (left := until - time.monotonic()) > 0:
            frame = link.receive(left)
            if link.reconnected():
                self._join()
                return False
            message = wire.decode_to_worker(frame) if frame is not None else None
            if isinstance(message, wire.Farewell):
                return True
            if isinstance(message, wire.Rejoin):
                self._join()
                return False
        return False

    # ── fetching ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fetch(self) -> None:
        """Report what is finished and wait for more to do."""
        with self.lock:
            self.since = 0.0  # the watch keeps its hands off the link from here on
        if self._reports or self._returned:
            self._flush(busy=False)
        link = self._link
        if link is None:
            return
        if self._stale:
            self._stale = False
            self._join()
        frame = link.receive(None if self._joined else _JOIN_AGAIN)
        if frame is not None:
            self._take(frame)
        elif link.reconnected() or not (self._joined or self._leaving):
            self._join()

    def _take(self, frame: bytes) -> None:
        message = wire.decode_to_worker(frame)
        if type(message) is wire.Lease:
            self._leased(message)
        elif isinstance(message, wire.Blob):
            self._blobs[message.digest] = message.blob
        elif isinstance(message, wire.Watched):
            (self.unwatched.discard if message.watched else self.unwatched.add)(message.stream)
        elif isinstance(message, wire.Told):
            self._told(message)
        elif isinstance(message, wire.Rejoin):
            if message.version != wire.VERSION:
                raise VersionMismatch(
                    f"the node at {self.address.url} speaks version {message.version} of the protocol, and this worker "
                    f"version {wire.VERSION}: install the same zerocelery on both sides"
                )
            self._join()
        elif isinstance(message, wire.Malformed):
            logger.warning("dropped a frame that is no message: %s", message.reason)

    def _told(self, message: wire.Told) -> None:
        if message.queues is not None:
            self.queues = list(message.queues)
        told = getattr(self.strategy, "told", None)
        if message.body and told is not None:
            told(message.body)

    def cast(self, stream: str, bodies: Sequence[bytes]) -> bool:
        """Send to whoever listens to a stream; False where that is nobody, as far as it is known."""
        return stream not in self.unwatched and self._send(wire.Cast("", stream, list(bodies)))

    def _leased(self, lease: wire.Lease) -> None:
        if lease.generation != self._generation:
            return  # meant for this worker before it joined again; the node has counted them as not arrived
        unanswered = self._unanswered
        while unanswered and unanswered[0][0] <= lease.acked:
            unanswered.popleft()
        if lease.limit is not None:
            self._limit = lease.limit
        if lease.keep is not None:
            self._keep_only(set(lease.keep))
        self._todo.extend(lease.entries)

    def _keep_only(self, keep: set[int]) -> None:
        """The answer to a join: what was settled while this worker was away is not to be started."""
        void = [entry for entry in list(self._todo) if entry.key not in keep]
        for entry in void:
            self._todo.remove(entry)
        # Where the node has settled something of ours, our word is no longer its: begin anew when nothing runs.
        self._stale = bool(void) or bool(self.since and self._running_key >= 0 and self._running_key not in keep)
        if self._word.revoked and not self._todo and not self.since and not keep:
            self._word.renew()  # the node has all reports, and nothing is ours
        self._joined = True
        if void:
            logger.warning("worker %s was away: %d tasks that it held went to others", self.name, len(void))
        if self._on_joined is not None:
            self._on_joined()
            self._on_joined = None

    # ── working ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _next(self) -> wire.LeaseEntry | None:
        # In one step for the watch: a task that is neither to do nor running would look as if it had never come.
        with self.lock:
            entry = self._todo.popleft() if self._todo else None
            if entry is not None:
                self._running_key = entry.key
        return entry

    def _work(self, entry: wire.LeaseEntry, watch: Watch) -> None:
        if not self._word.start(entry.key):
            self._revoked()
            return
        self.since = time.monotonic()
        if self._counts is not None:
            self._counts.busy(self.since)
        if not watch.awake:
            watch.wake()
        report = self._run(entry)
        if self._limited:
            self.unlimit()
        if self._forked:
            os._exit(0)  # the task forked, and came back from it twice: the other process is this worker
        with self.lock:  # the watch may have sent, and replaced, the list of reports while the task ran
            self._reports.append(report)
            self._running_key = -1
            # From here on the watch keeps off: it would send this report as a busy worker's, and nobody would say that
            # it is busy no more.
            self.since = 0.0
        self.finished += 1
        self._running = None
        if self._counts is not None:
            self._counts.busy(0.0)
        if self.max_tasks is not None and self.finished >= self.max_tasks:
            self._leaving = True
        elif self.max_memory is not None and _memory() > self.max_memory:
            logger.info("worker %s takes more than %d KiB of memory: it is replaced", self.name, self.max_memory)
            self._leaving = True
        elif self._todo and (self._reports_bytes > _TOGETHER_BYTES or time.monotonic() - self._flushed > _TOGETHER):
            self._flush(busy=False)
            self._flushed = time.monotonic()

    def _run(self, entry: wire.LeaseEntry) -> wire.Report:
        task = wire.decode_task(entry.task)
        if isinstance(task, wire.Malformed):
            outcome = failure(ValueError(f"the task can't be read: {task.reason}"))
            head = wire.decode_task_head(entry.task)
            return self._report(entry.key, head.id if isinstance(head, wire.TaskHead) else "", outcome, 0.0)
        self._running = task
        began = time.perf_counter()
        try:
            if not self.strategy.accept(task):
                raise LookupError(f"worker {self.name} has no use for tasks named {task.name!r}")
            failpoint("worker.before_run")
            value = self.strategy.run(task)
            failpoint("worker.after_run")
            outcome = value if type(value) is Outcome else success(value)
            return self._report(entry.key, task.id, outcome, time.perf_counter() - began)
        except Stopped as error:
            loss = wire.Loss("terminated", str(error.number))
            outcome = self._outcome_of_ours(task.id, loss, wire.REVOKED)
            return self._report(entry.key, task.id, outcome, time.perf_counter() - began)
        except Ended:
            raise
        except BaseException as error:  # whatever a task does, or packing what it returned: its end is reported
            return self._report(entry.key, task.id, failure(error), time.perf_counter() - began)

    def _report(self, key: int, task_id: str, outcome: Outcome, runtime: float) -> wire.Report:
        raw = wire.encode_result(task_id, outcome.state, outcome.final, outcome.content_type, outcome.value,
                                 outcome.info, time.time())  # fmt: skip
        followups: list[Raw] = []
        gathers: list[Raw] = []
        for one in outcome.followups:
            (followups if type(one) is wire.Task else gathers).append(Raw(wire.encode(one)))
        size = len(raw) + sum(memoryview(task).nbytes for task in followups)
        self._reports_bytes += size
        if size > self._limit:
            loss = wire.Loss(
                "too-large", f"the result takes {size:,} bytes, and the node at {self.address.url} takes "
                f"{self._limit:,} (its --max-message): return a path or a key instead of the data, or start the node "
                "with a larger limit",
            )  # fmt: skip
            return self._report(key, task_id, self._outcome_of_ours(task_id, loss, wire.FAILURE), runtime)
        return wire.Report(
            key, runtime, outcome.store, Raw(raw), followups, gathers, list(outcome.endings), outcome.bury
        )

    def _outcome_of_ours(self, task_id: str, loss: wire.Loss, state: str) -> Outcome:
        """The running task's end where it is not its strategy that says so."""
        value, task = wire.encode(loss), self._running
        followups: tuple[wire.Task, ...] = ()
        if task is not None and task.flags & wire.AFTERMATH:
            raw = wire.encode_result(task_id, state, True, wire.LOSS_TYPE, value, b"", time.time())
            followups = (wire.aftermath(task, raw),)
        return Outcome(state, value, wire.LOSS_TYPE, followups=followups)

    def _revoked(self) -> None:
        """The node took the lease away (this process was stopped for long): ask what is still its own."""
        with self.lock:
            self._todo.clear()
            self.since = 0.0
        self._join()

    def _flush(self, *, busy: bool) -> None:
        self._report_all(wire.Done, self._returned, busy)

    def _report_all(self, kind: type[wire.Done] | type[wire.Bye], returned: list[int], *more: bool) -> None:
        """Send all that is finished; keep it until the node has answered."""
        if self.before_report is not None:
            self.before_report()
        with self.lock:
            reports, self._reports = self._reports, []
            self._reports_bytes = 0
            self._returned = []
            if kind is wire.Bye:
                everything = [r for _, kept in self._unanswered for r in kept] + reports
                self._unanswered = deque([(0, everything)])
                self._send(wire.Bye(self._generation, everything, returned))
                return
            self._number += 1
            self._unanswered.append((self._number, reports))
            self._send(wire.Done(self._generation, self._number, reports, returned, *more))
            failpoint("worker.after_report")

    # ── time limits ──────────────────────────────────────────────────────────────────────────────────────────────────

    def limit(self, soft: float | None, hard: float | None, interrupt: Callable[[], object], label: str) -> None:
        """Limit the time of the running task, from now on; called by its strategy, in its thread.

        Arguments:
            soft: seconds until ``interrupt`` is called, by another thread of this process.
            hard: seconds until the process is killed and replaced, and the task ended with a loss of kind *time-limit*;
                only a pool of processes does that.
            label: the task, for people.
        """
        now = time.monotonic()
        self._limited = True
        if soft:
            self._interrupt = interrupt
            self.interrupt_at = now + soft
        if hard and self._row is not None:
            self._row.begin(now + hard, hard, label.encode("utf-8", "replace"))

    def unlimit(self) -> None:
        """The task that was limited has ended."""
        self._limited = False
        self.interrupt_at = self.insist_at = 0.0
        if self._row is not None:
            self._row.end()

    def interrupt(self) -> None:
        """Called by the watch when the running task's soft limit is over."""
        self.interrupt_at = 0.0
        interrupt = self._interrupt
        if interrupt is not None:
            interrupt()

    # ── in a green thread ────────────────────────────────────────────────────────────────────────────────────────────

    def expose(self, exposure: Exposure | None) -> None:
        """Exceptions may be raised in the running task, until None is given; called by its strategy."""
        self._exposure = exposure

    def throw(self, error: BaseException) -> bool:
        """Raise this in the running task, where it waits; False where that can't be done."""
        exposure = self._exposure
        if exposure is not None:
            exposure.throw(error)
        return exposure is not None

    def insist(self, error: Callable[[], BaseException], after: float = 0.0) -> None:
        """Raise this in the running task after so many seconds, and again and again while it goes on."""
        self._limited = True
        self._insists = error
        self.insist_at = time.monotonic() + after

    def insist_again(self) -> None:
        """Called by the watch when it is time."""
        self.insist_at += _INSIST
        if self._insists is not None:
            self.throw(self._insists())

    def stop_task(self, key: int, number: int) -> bool:
        """End the running task, if it is this one, as revoked; False where it can't be.

        Arguments:
            number: of the signal that stands for it.
        """
        if not self.since or self._running_key != key or self._exposure is None:
            return False
        self.insist(lambda: Stopped(number))
        return True

    # ── while a task runs ────────────────────────────────────────────────────────────────────────────────────────────

    def unblock(self) -> None:
        """Called by the watch while a task runs for long: let nothing wait for it."""
        with self.lock:
            link = self._link
            if not self.since or link is None:
                return
            if link.reconnected():
                self._join()
            while (frame := link.receive(0)) is not None:
                self._take(frame)
            returned: list[int] = []
            while self._todo:
                try:
                    returned.append(self._todo.pop().key)
                except IndexError:  # the task ended just now, and its thread took the last one
                    break
            if self._reports or returned:
                self._returned.extend(reversed(returned))
                self._flush(busy=True)
            elif self.before_report is not None:
                self.before_report()
            if (now := time.monotonic()) - self._beat > _BEAT:
                self._beat = now
                self._send(wire.Beat([self.id]))

    def update(self, state: str, value: bytes = b"", *, content_type: str = "", info: bytes = b"") -> None:
        """Tell a state of the running task that does not end it (STARTED, progress); from the task's own thread."""
        task = self._running
        if task is None:
            return
        raw = wire.encode_result(task.id, state, False, content_type, value, info, time.time())
        self._send(wire.Update(self._running_key, Raw(raw)))

    def fetch(self, digest: str, *, timeout: float = 10.0) -> bytes:
        """A shipped callable, from the node; called while a task runs, by its thread.

        Raises:
            CallableError: the node has none of that digest, or did not answer.
        """
        if self._blobs.get(digest) is None:
            self._blobs.pop(digest, None)
            deadline = time.monotonic() + timeout
            with self.lock:
                link = self._link
                self._send(wire.Fetch(digest))
                while link is not None and digest not in self._blobs and (left := deadline - time.monotonic()) > 0:
                    frame = link.receive(left)
                    if frame is not None:
                        self._take(frame)
                    elif link.reconnected():
                        self._join()
                        self._send(wire.Fetch(digest))
        blob = self._blobs.pop(digest, None)
        if blob is None:
            raise CallableError(
                f"the node at {self.address.url} has no function with digest {digest[:12]}: submit the task again "
                "from the process that defines it"
            )
        return blob


class Watch:
    """One thread of a process that looks after its workers: it lets nothing wait behind a long task.

    It ticks only while tasks run, and sleeps without a timer when there are none.
    """

    _instance: Watch | None = None
    _instance_lock = threading.Lock()

    def __init__(self) -> None:
        self._workers: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._active = threading.Event()
        self._stopping = False
        self.awake = False

    @classmethod
    def of_process(cls) -> Watch:
        """This process's watch."""
        with cls._instance_lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    def add(self, worker: Worker) -> None:
        with self._lock:
            self._workers.add(worker)
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._run, name="zerocelery-watch", daemon=True)
                self._thread.start()

    def remove(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
            thread = self._thread if not self._workers else None
            if thread is not None:
                self._stopping = True
                self._thread = None
                self._active.set()
        if thread is not None:
            thread.join()

    def wake(self) -> None:
        """A task begins, and the watch may be asleep."""
        self.awake = True
        self._active.set()

    def _run(self) -> None:
        pause = threading.Event()  # never set: its wait is the tick
        idle = 0
        while not self._stopping:
            if idle > _IDLE_TICKS:
                self.awake = False
                self._active.clear()
                # A task may have begun just before `awake` was taken back: only wait when none has.
                if not any(worker.since for worker in list(self._workers)) and not self._stopping:
                    self._active.wait()
                self.awake = True
                idle = 0
            pause.wait(_LONG)
            now = time.monotonic()
            idle += 1
            for worker in list(self._workers):
                since = worker.since
                if since:
                    idle = 0
                    if 0.0 < worker.interrupt_at <= now:
                        worker.interrupt()
                    if 0.0 < worker.insist_at <= now:
                        worker.insist_again()
                    if now - max(since, worker.looked_at) > min(_LOOK_AT_MOST, max(_LONG, (now - since) / 2)):
                        worker.looked_at = now
                        worker.unblock()


def _memory() -> int:
    """How much memory this process takes, in KiB; where the system doesn't tell, the most that it has taken."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * (_PAGE >> 10)
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most >> 10 if sys.platform == "darwin" else most


def _after_fork() -> None:
    Watch._instance = None
    Watch._instance_lock = threading.Lock()
    worker = current_worker()
    if worker is not None:
        worker._forked = True


os.register_at_fork(after_in_child=_after_fork)
