"""A client: sends tasks, hears receipts and results in its inbox.

What is submitted is numbered, kept, and sent; the node's receipts name the highest number that is in the journal, and
all up to it are let go. After a reconnect, a restart of the node or a long silence the producer says ``Hello``; the
``Welcome`` says what the node has, and the rest is sent again in order. Data is never resent on a timer alone, so a
slow node meets no storm.

Threads: there is no thread of our own on the path of a task. ``submit`` sends under one lock. Whoever waits for a
result reads the inbox itself (the *reader*), for itself and for all others that wait; when it has what it wanted it
passes the role on. A *keeper* thread exists only while something is unacknowledged and nobody reads: it takes receipts
in and says ``Hello`` when none come.

Fork: the child forgets the parent's sockets and state, and starts as a producer of its own with a new inbox.
"""

from __future__ import annotations

import atexit
import dataclasses
import itertools
import logging
import os
import secrets
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Raw

from zerocelery.engine import wire
from zerocelery.engine.address import Address, parse_address
from zerocelery.engine.clock import Clock, SystemClock
from zerocelery.engine.errors import EngineError, NodeUnreachable, PayloadTooLarge, QueueFull, VersionMismatch
from zerocelery.engine.failpoints import failpoint
from zerocelery.transport.base import ClientLink
from zerocelery.transport.zmq import ZmqClientLink

logger = logging.getLogger("zerocelery.producer")


@dataclasses.dataclass(frozen=True, slots=True)
class ProducerOptions:
    """How patient a producer is and how much it keeps.

    Arguments:
        connect_timeout: seconds that a call waits for a node before it raises NodeUnreachable.
        submit_timeout: seconds that ``submit`` waits for a node or for room; ``connect_timeout`` unless given.
        once: whether ``submit`` raises at once where nobody listens at the address.
        window: unacknowledged messages kept before ``submit`` waits; ``window_bytes`` likewise, in bytes.
        cache: results kept that nobody has asked for yet; older ones are asked for again when they are wanted.
        cache_bytes: likewise, in bytes.
        exit_timeout: seconds that the interpreter's exit waits for receipts.
        keeper: False where the owner calls :meth:`Producer.look` itself, often enough, instead of a thread.
    """

    connect_timeout: float = 4.0
    submit_timeout: float | None = None
    once: bool = False
    window: int = 20_000
    window_bytes: int = 128 << 20
    cache: int = 100_000
    cache_bytes: int = 64 << 20
    exit_timeout: float = 2.0
    keeper: bool = True


#: Whether to raise at once where nobody listens, and else the seconds that a submission waits.
Patience = tuple[bool, float]

#: While something is unacknowledged and nobody reads, the keeper looks into the inbox this often (seconds).
_KEEPER_TICK: Final = 0.05

#: Without any news for this long, say Hello; doubled each time up to the second figure (seconds).
_HELLO_AFTER: Final = 0.3
_HELLO_AT_MOST: Final = 5.0

#: A burst of ``submit`` calls reads the inbox itself, every so many.
_DRAIN_EVERY: Final = 256

#: A get() that hears nothing asks (again) after this long, doubled each time up to the second figure (seconds).
_ASK_AFTER: Final = 1.0
_ASK_AT_MOST: Final = 30.0

#: Tasks of one ``submit_many`` frame: their number, and their bytes.
_BATCH: Final = 500
_BATCH_BYTES: Final = 1 << 20

#: A refused task is offered again after this long (seconds).
_OFFER_AGAIN: Final = 0.1
_NOT_OFFERED: Final = 1 << 62

#: Who waits looks after what is due this often (seconds).
_TICK: Final = 0.1

#: The node is told how far its deliveries were read when they come to this many bytes.
_TELL_BYTES: Final = 2 << 20

#: States and answers that nobody came for.
_REMEMBERED: Final = 10_000

#: Epochs are unique over all producers of a process and over its forks.
_epochs = itertools.count(1)


@dataclasses.dataclass(slots=True)
class _Kept:
    """A message without a receipt; ``tasks`` are those in it, for what has to be offered again after a refusal."""

    seq: int
    count: int
    frame: bytes
    tasks: Sequence[wire.Task]

    @property
    def last(self) -> int:
        return self.seq + self.count - 1


class Producer:
    """One client of one node; nothing is connected before it is used.

    Safe in any number of threads, after ``fork``, in signal handlers, and at interpreter exit.

    Arguments:
        address: of the node.
        link: makes the transport; for tests, as is ``clock``.
    """

    def __init__(
        self,
        address: str | Address,
        *,
        options: ProducerOptions | None = None,
        link: Callable[[Address], ClientLink] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.address = parse_address(address)
        self.options = options or ProducerOptions()
        self._clock = clock or SystemClock()
        self._now = self._clock.monotonic
        self._make_link = link or ZmqClientLink
        self._closed = False
        self._callables: dict[str, bytes] = {}
        self._reset()
        _producers.add(self)

    def _reset(self) -> None:
        """A new life with a new inbox: at the start, and in a forked child."""
        self.inbox = secrets.token_hex(12)
        self.epoch = next(_epochs)
        self._link: ClientLink | None = None
        self._letting_go: weakref.finalize[..., Producer] | None = None
        # Both are re-entrant: a signal handler or a finaliser may submit while this very thread holds them.
        self._lock = threading.RLock()  # the numbering, what is kept, and the sending side
        self._reader = threading.RLock()  # the receiving side; whoever holds it reads for all
        self._waiting = threading.Lock()  # the table of those who wait while somebody else reads
        self._waiters: dict[str, list[threading.Lock]] = {}
        # What is kept. Appending to `_kept` is the one step that takes a number, so that an interrupt between any two
        # steps leaves no hole in the numbering.
        self._kept: deque[_Kept] = deque()
        self._let_go = 0  # the highest number that is not kept any more
        self._unsent_from = 1  # the first number that was not handed to the transport
        self._kept_bytes = 0
        self._kept_tasks = 0
        self._refused: deque[wire.Task] = deque()
        self._known: set[int] = set()  # numbers whose refusals were seen, and that are still kept
        self._blocked: dict[str, int] = {}  # queue that refused → the number at which its tasks were offered again
        self._offer_at = 0.0
        # The connection.
        self._session = ""
        self._deliveries = -1
        self._complete = False  # no delivery is missing: what was refused is known, so receipts can be believed
        self._untold_bytes = 0  # read since the node was told how far
        self._max_message = 1 << 62
        self._connected = False
        self._problem: EngineError | None = None
        self._heard = 0.0
        self._hello_at = 0.0
        self._greeted = False  # whether the last Hello found somebody to go to
        self._hello_wait = _HELLO_AFTER
        # What was heard.
        self._results: dict[str, Raw] = {}
        self._results_bytes = 0
        self._states: dict[str, Raw] = {}  # the latest state of tasks that have not ended
        self._unasked: dict[str, bool] = {}  # ids that could not be asked for, and whether somebody waits for their end
        self._pending: dict[str, None] = {}  # ids of which the node has said that they have not ended
        self._answers: dict[str, bytes] = {}
        self._shipped: set[str] = set()
        self._keeper: threading.Thread | None = None
        self._keeper_wanted = threading.Event()
        self._ended = threading.Event()

    # ── connecting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> None:
        """Make the sockets and say Hello; called with ``_lock`` held."""
        if self._link is None:
            if self._closed:
                raise EngineError("this producer is closed: make a new one")
            self._link = link = self._make_link(self.address)
            self._letting_go = weakref.finalize(self, _let_go, link)
            self._letting_go.atexit = False
            _flush_with_multiprocessing()
            link.subscribe(self.inbox)
            self._say_hello(self._now())

    def _say_hello(self, now: float) -> None:
        """Ask the node what it has of ours; called with ``_lock`` held."""
        if self._link is None:
            return
        lowest = self._kept[0].seq if self._kept else self._let_go + 1
        self._greeted = self._link.send(wire.encode(wire.Hello(wire.VERSION, self.inbox, lowest)))
        self._hello_at = now + self._hello_wait
        self._hello_wait = min(self._hello_wait * 2, _HELLO_AT_MOST)

    def _await_node(self, deadline: float) -> None:
        """Wait for the node's welcome.

        Raises:
            NodeUnreachable, VersionMismatch
        """
        begun = self._now()
        with self._lock:
            self._connect()
        while not self._connected:
            if self._problem is not None:
                raise self._problem
            left = deadline - self._now()
            if left <= 0:
                raise self._unreachable(max(0.0, deadline - begun))
            if not self._greeted:
                self._greet(min(left, _TICK))
            self._step(min(left, _TICK))

    def _greet(self, seconds: float) -> None:
        """Say the Hello that could not be sent because nobody was connected, as soon as somebody is."""
        with self._lock:
            if not self._greeted and self._link is not None and self._link.wait_sendable(seconds):
                self._hello_wait = _HELLO_AFTER
                self._say_hello(self._now())

    def _unreachable(self, seconds: float | None = None) -> NodeUnreachable:
        seconds = self.options.connect_timeout if seconds is None else seconds
        kept = self._kept_tasks
        waiting = f"; {kept:,} tasks of this process wait for its acknowledgement" if kept else ""
        with self._lock:
            problem = self._link.problem() if self._link is not None else ""
        if problem:
            return NodeUnreachable(f"the node at {self.address.url} does not let this client in: {problem}{waiting}")
        return NodeUnreachable(
            f"no node answered at {self.address.url} within {seconds:.3g} s{waiting}. Start a "
            f"worker there (zerocelery -A your_app worker), or a node alone: {self.address.start_command}"
        )

    # ── submitting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, task: wire.Task, patience: Patience | None = None) -> int:
        """Send a task; it is kept until the node has it in its journal.

        Arguments:
            patience: other than the options have it.

        Returns:
            a token for :meth:`wait` and :meth:`peek`: with it they know whether its result may have been missed.

        Raises:
            NodeUnreachable: no node answered within ``submit_timeout``.
            QueueFull: the task's queue is at its limit and stayed there that long.
            PayloadTooLarge: the node would not take it.
        """
        return self._submit((task,), patience)

    def submit_many(self, tasks: Sequence[wire.Task]) -> int:
        """Send tasks in as few messages as their size allows; else like :meth:`submit`."""
        if tasks and not self._connected:
            self._await_node_to_submit(None)  # it says how large a message may be
        token = self.epoch
        for batch in self._batches(tasks):
            self._submit(batch)
        return token

    def _batches(self, tasks: Sequence[wire.Task]) -> Iterator[Sequence[wire.Task]]:
        """The tasks in portions that fit into a message; one that is too large is alone."""
        most = min(_BATCH_BYTES, self._max_message // 2)
        start = size = 0
        for index, task in enumerate(tasks):
            cost = len(task.body) + len(task.head)
            if index > start and (index - start >= _BATCH or size + cost > most):
                yield tasks[start:index]
                start, size = index, 0
            size += cost
        if start < len(tasks):
            yield tasks[start:]

    def _submit(self, tasks: Sequence[wire.Task], patience: Patience | None = None) -> int:
        if _exiting and sys.is_finalizing():
            raise RuntimeError("the interpreter is shutting down: it is too late to submit a task")
        if (
            not self._connected
            or self._blocked
            or self._kept_tasks >= self.options.window
            or self._kept_bytes >= self.options.window_bytes
        ):
            self._make_room(tasks, patience)
        count = len(tasks)
        with self._lock:
            token = self.epoch
            seq = self._next()
            frame = wire.encode_submit(self.inbox, seq, tasks)
            if len(frame) > self._max_message:
                raise self._too_large(f"task {tasks[0].name!r}", len(frame))
            self._keep(_Kept(seq, count, frame, tasks))
        if (seq & (_DRAIN_EVERY - 1)) < count:
            self._read_if_free()
        if not self._keeper_wanted.is_set() and self.options.keeper:
            self._want_keeper()
        if _exiting:
            self.confirm(self.options.exit_timeout)
        return token

    def _too_large(self, what: str, size: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"{what} takes {size:,} bytes, and the node at {self.address.url} takes {self._max_message:,} (its "
            "--max-message): pass a path or a key instead of the data, or start the node with a larger limit"
        )

    def _next(self) -> int:
        """The next free number; called with ``_lock`` held."""
        return (self._kept[-1].last if self._kept else self._let_go) + 1

    def _keep(self, kept: _Kept) -> None:
        """Number, keep and send one message; called with ``_lock`` held."""
        if not self._kept:
            self._kept_bytes = self._kept_tasks = 0
            self._heard = self._now()
            self._hello_wait = _HELLO_AFTER
            self._hello_at = self._heard + _HELLO_AFTER
        self._kept.append(kept)
        self._kept_bytes += len(kept.frame)
        self._kept_tasks += kept.count
        failpoint("producer.before_send")
        # In order: nothing overtakes what the pipe had no room for.
        if self._unsent_from == kept.seq and self._connected and self._link is not None and self._link.send(kept.frame):
            self._unsent_from = kept.seq + kept.count
        failpoint("producer.after_send")

    def reach(self, patience: Patience) -> None:
        """Wait for the node.

        Raises:
            NodeUnreachable: no node answered in time.
        """
        if not self._connected:
            self._await_node_to_submit(patience)

    def _await_node_to_submit(self, patience: Patience | None) -> float:
        """Wait for the node as long as a submission may; until when the rest may take."""
        options = self.options
        usual = options.connect_timeout if options.submit_timeout is None else options.submit_timeout
        once, seconds = (options.once, usual) if patience is None else patience
        if once and not self._connected and self.address.is_deserted():
            raise self._unreachable(0.0)
        deadline = self._now() + seconds
        self._await_node(deadline)
        return deadline

    def _make_room(self, tasks: Sequence[wire.Task], patience: Patience | None) -> None:
        """Wait until tasks may be taken: for the node's welcome, for receipts, for room in their queue."""
        options = self.options
        deadline = self._await_node_to_submit(patience)
        while True:
            blocked = next((t.queue for t in tasks if t.queue in self._blocked), None)
            full = self._kept_tasks >= options.window or self._kept_bytes >= options.window_bytes
            if not full and blocked is None:
                return
            left = deadline - self._now()
            if left <= 0:
                raise self._unreachable() if blocked is None else self._queue_full(blocked)
            self._step(min(left, _TICK))

    def _queue_full(self, queue: str) -> QueueFull:
        waiting = sum(task.queue == queue for task in list(self._refused))
        return QueueFull(
            f"queue {queue!r} at {self.address.url} is full, and {waiting:,} tasks of this process wait for room. "
            "Start more workers, submit more slowly, or start the node with a larger --queue-limit"
        )

    def ship(self, digest: str, blob: bytes) -> None:
        """Give the node a callable; a task with this digest may follow at once. Does nothing the second time.

        Raises:
            NodeUnreachable, PayloadTooLarge
        """
        if digest in self._shipped:
            return
        if not self._connected:
            self._await_node_to_submit(None)
        if len(blob) + 1024 > self._max_message:
            raise self._too_large("the function, with what it refers to,", len(blob))
        with self._lock:
            self._callables[digest] = blob
            self._ship(digest, blob)

    def _ship(self, digest: str, blob: bytes) -> None:
        seq = self._next()
        self._keep(_Kept(seq, 1, wire.encode(wire.Ship(self.inbox, seq, digest, blob)), ()))
        self._shipped.add(digest)

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def gather(self, group: wire.Gathering) -> int:
        """Open a group; its members are to be submitted after it. Gives a token, as :meth:`submit`, for its body.

        Raises:
            NodeUnreachable, PayloadTooLarge
        """
        raw = Raw(wire.encode(group))
        return self._number("a group", lambda seq: wire.encode(wire.Gather(self.inbox, seq, raw)))

    def grow(self, gather: str, members: Sequence[str], *, close: bool = False) -> None:
        """Let an open group wait for more members, which are to be submitted after this.

        Arguments:
            close: these were all of a group that was opened with ``closed=False``; they have been submitted.

        Raises:
            NodeUnreachable, PayloadTooLarge
        """
        ids = list(members)
        self._number("a group", lambda seq: wire.encode(wire.Grow(self.inbox, seq, gather, ids, close)))

    def put(self, result: wire.Result, *, keep: float | None = None) -> None:
        """Store a result that is none of a task's run.

        Raises:
            NodeUnreachable, PayloadTooLarge
        """
        raw = Raw(wire.encode(result))
        self._number("a result", lambda seq: wire.encode(wire.Put(self.inbox, seq, raw, keep)))

    def _number(self, what: str, encode: Callable[[int], bytes]) -> int:
        """Number, keep and send a message that is no task."""
        if not self._connected:
            self._await_node_to_submit(None)
        with self._lock:
            token = self.epoch
            seq = self._next()
            frame = encode(seq)
            if len(frame) > self._max_message:
                raise self._too_large(what, len(frame))
            self._keep(_Kept(seq, 1, frame, ()))
        if not self._keeper_wanted.is_set() and self.options.keeper:
            self._want_keeper()
        return token

    def confirm(self, timeout: float | None = None) -> bool:
        """Wait until the node has everything that was submitted so far; whether it has.

        Arguments:
            timeout: seconds; None waits for ever.
        """
        with self._lock:
            goal = self._next() - 1
            if self._kept and self._connected:
                self._say_hello(self._now())  # receipts may wait for company; an answer to this does not
        deadline = None if timeout is None else self._now() + timeout
        # While a queue is blocked, tasks of before wait for room in it, or were offered again just now.
        while (self._kept and self._kept[0].seq <= goal) or self._blocked:
            left = _TICK if deadline is None else deadline - self._now()
            if left <= 0:
                return False
            self._step(min(left, _TICK))
        return True

    # ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def wait(self, task_id: str, *, token: int | None = None, timeout: float | None = None) -> wire.Result:
        """A task's final result.

        Arguments:
            token: what ``submit`` returned; None for a task that another process, or nobody, submitted.
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: the task has not ended in time.
            NodeUnreachable: no node could be asked.
        """
        raw = self._results.pop(task_id, None)
        if raw is None:
            raw = self._wait(task_id, token, timeout)
        self._results_bytes -= memoryview(raw).nbytes
        return _decoded(raw)

    def _wait(self, task_id: str, token: int | None, timeout: float | None) -> Raw:
        deadline = None if timeout is None else self._now() + timeout
        if not self._connected:
            patience = self._now() + self.options.connect_timeout
            self._await_node(patience if deadline is None else min(deadline, patience))
        mine = threading.Lock()
        mine.acquire()
        self._enrol((task_id,), mine)
        try:
            if token != self.epoch and task_id not in self._results:
                self._ask([task_id], wait=True)
            return self._listen(task_id, mine, deadline)
        finally:
            self._dismiss((task_id,), mine)

    def wait_each(self, tasks: Mapping[str, int | None], *, timeout: float | None = None) -> Iterator[wire.Result]:
        """The final results of many tasks, as they come.

        Arguments:
            tasks: ids, with the token of each as for :meth:`wait`.
            timeout: seconds for all of them; None waits for ever.

        Raises:
            TimeoutError: not all have ended in time.
            NodeUnreachable: no node could be asked.
        """
        deadline = None if timeout is None else self._now() + timeout
        if not self._connected:
            patience = self._now() + self.options.connect_timeout
            self._await_node(patience if deadline is None else min(deadline, patience))
        mine = threading.Lock()
        mine.acquire()
        pending = dict.fromkeys(tasks)
        self._enrol(pending, mine)
        try:
            unknown = [i for i, token in tasks.items() if token != self.epoch and i not in self._results]
            if unknown:
                self._ask(unknown, wait=True)
            while pending:
                for task_id in [i for i in pending if i in self._results]:
                    raw = self._results.pop(task_id, None)
                    if raw is not None:
                        del pending[task_id]
                        self._results_bytes -= memoryview(raw).nbytes
                        yield _decoded(raw)
                if pending:
                    self._listen_once(pending, mine, deadline)
        finally:
            self._dismiss(tasks, mine)

    def _collect(self, task_id: str) -> wire.Result | None:
        """A result that has come, out of the inbox; None if somebody else was faster."""
        raw = self._results.pop(task_id, None)
        if raw is None:
            return None
        self._results_bytes -= memoryview(raw).nbytes
        return _decoded(raw)

    def _enrol(self, ids: Iterable[str], mine: threading.Lock) -> None:
        with self._waiting:
            for task_id in ids:
                self._waiters.setdefault(task_id, []).append(mine)

    def _dismiss(self, ids: Iterable[str], mine: threading.Lock) -> None:
        with self._waiting:
            for task_id in ids:
                others = self._waiters.get(task_id, [])
                if mine in others:
                    others.remove(mine)
                if not others:
                    self._waiters.pop(task_id, None)

    def _listen_once(self, pending: Mapping[str, None], mine: threading.Lock, deadline: float | None) -> None:
        """Read the inbox, or wait for whoever reads it, until something has come for one of these."""
        ask_at = self._now() + _ASK_AFTER
        while not any(task_id in self._results for task_id in pending):
            now = self._now()
            patience = _ASK_AFTER if deadline is None else deadline - now
            if patience <= 0:
                raise TimeoutError(f"{len(pending)} of the tasks have not ended in time")
            try:
                reading = self._reader.acquire(blocking=False)
                if reading:
                    self._read(min(patience, _TICK if self._kept or self._unasked else _ASK_AFTER))
            finally:
                self._stop_reading()
            if not reading:
                mine.acquire(timeout=min(patience, _ASK_AFTER))
            now = self._now()
            if self._kept or self._unasked or not self._connected:
                self._maintain(now)
            if now >= ask_at:
                self._ask(list(pending), wait=True)
                ask_at = now + _ASK_AT_MOST

    def _listen(self, task_id: str, mine: threading.Lock, deadline: float | None) -> Raw:
        """Read the inbox, or wait for whoever reads it, until the result is there."""
        ask_wait = _ASK_AFTER
        ask_at = self._now() + ask_wait
        patience = _ASK_AFTER
        while True:
            raw = self._results.pop(task_id, None)
            if raw is not None:
                return raw
            if deadline is not None:
                patience = deadline - self._now()
                if patience <= 0:
                    raise TimeoutError(f"task {task_id} has not ended in time")
            try:
                if self._reader.acquire(blocking=False):
                    self._read(min(patience, _TICK if self._kept or self._unasked else _ASK_AFTER))
                    raw = self._results.pop(task_id, None)
                    if raw is not None:
                        return raw
                    reading = True
                else:
                    reading = False
            finally:
                self._stop_reading()
            if not reading:
                mine.acquire(timeout=min(patience, _ASK_AFTER))
            now = self._now()
            if self._kept or self._unasked or not self._connected:
                self._maintain(now)
            if now >= ask_at:
                # A net under the numbering of deliveries: costs nothing where results come.
                self._ask([task_id], wait=True)
                ask_wait = min(ask_wait * 2, _ASK_AT_MOST)
                ask_at = now + ask_wait

    def peek(self, task_id: str, *, token: int | None = None, timeout: float = 2.0) -> wire.Result | None:
        """A task's latest state, without waiting for its end; None where the node knows no state of it.

        Arguments:
            token: as for :meth:`wait`; without it the node is asked.
            timeout: seconds to wait for the node's answer.

        Raises:
            TimeoutError: the node did not answer.
            NodeUnreachable: no node could be asked.
        """
        self._read_if_free()
        raw = self._results.get(task_id)
        if raw is None and token != self.epoch:
            self._ask_now(task_id, timeout)
            raw = self._results.get(task_id)
        if raw is None:
            raw = self._states.get(task_id)
        return None if raw is None else _decoded(raw)

    def _ask_now(self, task_id: str, timeout: float) -> None:
        deadline = self._now() + timeout
        if not self._connected:
            self._await_node(deadline)
        self._pending.pop(task_id, None)
        self._ask([task_id], wait=False)
        while task_id not in self._results and task_id not in self._pending:
            left = deadline - self._now()
            if left <= 0:
                raise TimeoutError(f"the node at {self.address.url} did not answer within {timeout:g} s")
            self._step(min(left, _TICK))

    def _ask(self, ids: Sequence[str], *, wait: bool) -> None:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            frame = wire.encode(wire.Ask(self.inbox, list(batch), wait, self._deliveries))
            self._untold_bytes = 0
            with self._lock:
                if self._link is None or not self._link.send(frame):
                    self._unasked.update(dict.fromkeys(batch, wait))

    def _ask_again(self) -> None:
        """Ask what could not be sent, for the connection was lost just then; called with ``_lock`` held."""
        unasked, self._unasked = self._unasked, {}
        for wait in (True, False):
            self._ask([task_id for task_id, waits in unasked.items() if waits is wait], wait=wait)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Remove results here and in the store."""
        for task_id in task_ids:
            self._drop_result(task_id)
            self._states.pop(task_id, None)
        deadline = self._now() + self.options.connect_timeout
        if not self._connected:
            self._await_node(deadline)
        self._post(wire.encode(wire.Forget(self.inbox, list(task_ids))), deadline)

    def _post(self, frame: bytes, deadline: float) -> None:
        """Send what takes no number and is sent once; where the connection was lost just now, to the next one."""
        while True:
            with self._lock:
                if self._link is not None and self._link.send(frame):
                    return
            left = deadline - self._now()
            if left <= 0:
                raise self._unreachable()
            self._step(min(left, _TICK))

    def query(self, what: str, argument: bytes = b"", *, timeout: float = 2.0) -> bytes:
        """Ask the node about itself; b"" where it doesn't know the question.

        Raises:
            NodeUnreachable: it did not answer in time.
        """
        deadline = self._now() + timeout
        self._await_node(deadline)
        token = secrets.token_hex(8)
        self._post(wire.encode(wire.Query(self.inbox, token, what, argument)), deadline)
        while token not in self._answers:
            left = deadline - self._now()
            if left <= 0:
                raise self._unreachable()
            self._step(min(left, _TICK))
        return self._answers.pop(token)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _step(self, seconds: float) -> None:
        """Read once, or let whoever reads do it; then see to what is due."""
        try:
            if self._reader.acquire(timeout=seconds):
                self._read(seconds)
        finally:
            self._stop_reading()
        self._maintain(self._now())

    def _read_if_free(self) -> None:
        """Take what is there, unless somebody else is reading."""
        try:
            if self._reader.acquire(blocking=False):
                self._read(0)
        finally:
            self._stop_reading()

    def _stop_reading(self) -> None:
        """Give the role up, if this thread has it (an interrupt may come at any step), and wake who may take it."""
        if not self._reader._is_owned():  # type: ignore[attr-defined]
            return
        self._reader.release()
        if len(self._waiters) < 2 and not any(len(w) > 1 for w in list(self._waiters.values())):
            return
        with self._waiting:
            for waiters in self._waiters.values():
                for other in waiters:
                    if other.locked():
                        other.release()
                        return

    def _read(self, seconds: float) -> None:
        """Wait for one delivery, then take all that is there; called by the reader."""
        if self._closed and seconds:
            raise EngineError("this producer was closed while a thread waited for its node")
        link = self._link
        if link is None:
            return
        try:
            frame = link.receive(seconds)
            while frame is not None:
                self._take(frame)
                frame = link.receive(0)
        except BaseException:
            # Interrupted with a delivery in hand: whoever comes for a result that was in it has to ask.
            self.epoch = next(_epochs)
            raise

    def _take(self, frame: bytes) -> None:
        message = wire.decode_to_inbox(memoryview(frame)[frame.find(b"\0") + 1 :])
        if type(message) is wire.Delivery:
            self._delivered(message)
            self._untold_bytes += len(frame)
            if self._untold_bytes >= _TELL_BYTES:
                self._tell_how_far()
        elif isinstance(message, wire.Welcome):
            self._welcomed(message)

    def _delivered(self, delivery: wire.Delivery) -> None:
        if delivery.session != self._session:
            # Of a node that has not welcomed this producer yet, or whose welcome was lost: it says what was missed.
            self._connected = False
            return
        if delivery.seq != self._deliveries + 1:
            self._missed()
            self._complete = False
            with self._lock:
                self._say_hello(self._now())  # the welcome says what was refused
        self._deliveries = delivery.seq
        for raw in delivery.results:
            self._result(raw)
        if delivery.refusals:
            self._take_back(delivery.refusals)
        if delivery.upto >= 0 and self._complete:
            self._receipted(delivery.upto, gap=delivery.gap, refusals=bool(delivery.refusals))
        for task_id in delivery.pending:
            self._pending[task_id] = None
            if len(self._pending) > _REMEMBERED:
                self._pending.pop(next(iter(self._pending)))
        for answer in delivery.answers:
            self._answers[answer.token] = answer.value
            if len(self._answers) > _REMEMBERED:
                self._answers.pop(next(iter(self._answers)))

    def _result(self, raw: Raw) -> None:
        head = wire.decode_result_head(raw)
        if isinstance(head, wire.Malformed):
            return
        task_id = head.id
        if not head.final:
            self._states[task_id] = raw
            if len(self._states) > _REMEMBERED:
                self._states.pop(next(iter(self._states)))
            return
        if task_id in self._results:
            self._drop_result(task_id)
        self._results[task_id] = raw
        self._results_bytes += memoryview(raw).nbytes
        if self._states:
            self._states.pop(task_id, None)
        if len(self._results) > self.options.cache or self._results_bytes > self.options.cache_bytes:
            self._evict()
        waiters = self._waiters.get(task_id)
        if waiters:
            with self._waiting:
                for waiter in waiters:
                    if waiter.locked():
                        waiter.release()

    def _drop_result(self, task_id: str) -> None:
        raw = self._results.pop(task_id, None)
        if raw is not None:
            self._results_bytes -= memoryview(raw).nbytes

    def _evict(self) -> None:
        """Let the oldest results go that nobody came for; whoever still comes asks the node."""
        count = len(self._results)
        for task_id in list(itertools.islice(self._results, min(max(1, count // 10), count - 1))):
            if task_id not in self._waiters:
                self._drop_result(task_id)
        self.epoch = next(_epochs)

    def _tell_how_far(self) -> None:
        """Let the node send more."""
        self._untold_bytes = 0
        with self._lock:
            if self._link is not None:
                self._link.send(wire.encode(wire.Ask(self.inbox, [], False, self._deliveries)))

    def _missed(self) -> None:
        """Some deliveries never came: whoever waits has to ask, whoever comes later too."""
        self.epoch = next(_epochs)
        with self._waiting:
            ids = list(self._waiters)
        if ids:
            self._ask(ids, wait=True)

    # ── acceptance ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _welcomed(self, welcome: wire.Welcome) -> None:
        if welcome.version != wire.VERSION:
            self._problem = VersionMismatch(
                f"the node at {self.address.url} speaks version {welcome.version} of the protocol, and this process "
                f"version {wire.VERSION}: install the same zerocelery on both sides"
            )
            return
        self._max_message = welcome.max_message
        missed = welcome.session != self._session or welcome.seq != self._deliveries
        if welcome.session != self._session:
            self._session = welcome.session
            self._connected = False
        self._deliveries = welcome.seq
        with self._lock:
            if welcome.last < self._let_go:  # it does not know this inbox, or has lost some of what it had receipted
                self._say_hello(self._now())
                return
            self._connected = True
            self._complete = True
            self._unsent_from = min(self._unsent_from, welcome.last + 1)
        refusals = wire.decode_refusals(welcome.refusals)
        if refusals and not isinstance(refusals, wire.Malformed):
            self._take_back(refusals)
        self._receipted(welcome.last, refusals=bool(refusals))
        if missed:
            self._missed()

    def _receipted(self, upto: int, *, gap: bool = False, refusals: bool = False) -> None:
        """Let go what is in the journal, and send what comes after it and has not been sent.

        Arguments:
            gap: the node has not got what came after it.
            refusals: some were refused among these.
        """
        with self._lock:
            kept = self._kept
            while kept and kept[0].last <= upto:
                self._let_go = kept[0].last
                gone = kept.popleft()
                self._kept_bytes -= len(gone.frame)
                self._kept_tasks -= gone.count
            if self._known:
                self._known = {number for number in self._known if number > self._let_go}
            self._heard = self._now()
            self._hello_wait = _HELLO_AFTER
            self._hello_at = self._heard + _HELLO_AFTER
            if gap:
                self._unsent_from = upto + 1
            self._send_unsent()
            if self._blocked:
                # Offered again and not refused again: there is room.
                refused = {task.queue for task in self._refused}
                self._blocked = {q: n for q, n in self._blocked.items() if n > upto or q in refused}
            if refusals:
                self._say_hello(self._now())  # tells by its lowest number that they are known

    def _send_unsent(self) -> None:
        """Called with ``_lock`` held."""
        if not self._kept or self._unsent_from > self._kept[-1].last or not self._connected or self._link is None:
            return
        for kept in self._kept:
            if kept.last >= self._unsent_from:
                if not self._link.send(kept.frame):
                    return
                self._unsent_from = kept.last + 1

    def _take_back(self, refusals: Sequence[wire.Refusal]) -> None:
        """Set refused tasks aside to be offered again, or end them where that is no use; before their receipt."""
        with self._lock:
            by_number = {
                kept.seq + index: task for kept in self._kept for index, task in enumerate(kept.tasks)
            }  # fmt: skip
            for refusal in refusals:
                task = by_number.get(refusal.seq)
                if task is None or refusal.seq in self._known:
                    continue
                self._known.add(refusal.seq)
                if refusal.reason == "callable-unknown" and refusal.detail in self._callables:
                    self._shipped.discard(refusal.detail)
                elif refusal.reason != "queue-full":
                    self._result(Raw(_refused_for_good(task, refusal, self._clock.wall())))
                    continue
                self._refused.append(task)
                self._blocked[task.queue] = _NOT_OFFERED
            self._offer_at = self._now() + _OFFER_AGAIN

    def _offer_again(self, now: float) -> None:
        """Submit refused tasks anew; called with ``_lock`` held."""
        self._offer_at = now + _OFFER_AGAIN
        tasks = tuple(self._refused)
        for digest in {task.digest for task in tasks if task.digest} - self._shipped:
            if digest in self._callables:
                self._ship(digest, self._callables[digest])
        for batch in self._batches(tasks):
            seq = self._next()
            self._keep(_Kept(seq, len(batch), wire.encode_submit(self.inbox, seq, batch), batch))
            for task in batch:
                self._blocked[task.queue] = seq + len(batch) - 1
        self._refused.clear()

    def _maintain(self, now: float) -> None:
        """What is due: Hello after silence, sending what the pipe had no room for, offering refused tasks again."""
        with self._lock:
            if self._link is None:
                return
            self._send_unsent()
            if self._unasked:
                self._ask_again()
            if now >= self._hello_at and (self._kept or not self._connected):
                if now - self._heard > self.options.connect_timeout:
                    self._connected = False  # from here on submit waits for a node, and raises when none comes
                self._say_hello(now)
            if self._refused and self._connected and now >= self._offer_at:
                self._offer_again(now)

    # ── the keeper ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _want_keeper(self) -> None:
        self._keeper_wanted.set()
        _owing.add(self)
        if self._keeper is None or not self._keeper.is_alive():
            with self._lock:
                if (self._keeper is None or not self._keeper.is_alive()) and not _exiting:
                    self._keeper = threading.Thread(
                        target=_keep_watch, args=(weakref.ref(self), self._keeper_wanted, self._ended),
                        name="zerocelery-keeper", daemon=True,
                    )  # fmt: skip
                    self._keeper.start()

    def look(self) -> None:
        """Take in what has come, and see to what is due; the keeper does so while nobody else reads."""
        self._read_if_free()
        self._maintain(self._now())
        if not self._kept and not self._refused:
            self._keeper_wanted.clear()
            _owing.discard(self)
            if self._kept or self._refused:
                self._keeper_wanted.set()
                _owing.add(self)

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def flush(self, timeout: float) -> int:
        """Wait for all receipts, at most this many seconds; how many tasks the node has not acknowledged."""
        if self.confirm(timeout):
            return 0
        return self._kept_tasks + len(self._refused)

    def unacknowledged(self) -> list[str]:
        """Ids of the tasks that have no receipt."""
        with self._lock:
            return [task.id for kept in self._kept for task in kept.tasks] + [task.id for task in self._refused]

    def close(self, timeout: float = 2.0) -> None:
        """Wait for receipts (at most ``timeout`` seconds), say what has none, and let go of the sockets."""
        if self._closed:
            return
        if self._link is not None:
            self._report(self.flush(timeout), timeout)
        self._closed = True
        self._ended.set()
        self._keeper_wanted.set()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join(timeout=1.0)
        with self._reader, self._lock:
            link, self._link = self._link, None
            self._connected = False
            if self._letting_go is not None:
                self._letting_go.detach()
            if link is not None:
                link.close()
        _producers.discard(self)
        _owing.discard(self)

    def _report(self, missing: int, timeout: float) -> None:
        if missing:
            ids = self.unacknowledged()
            logger.error(
                "%d tasks were not acknowledged by the node at %s within %g s and may be lost: %s%s",
                missing, self.address.url, timeout, ", ".join(ids[:10]), " …" if len(ids) > 10 else "",
            )  # fmt: skip

    def _at_exit(self) -> None:
        if self._link is not None and (self._kept or self._refused):
            self._report(self.flush(self.options.exit_timeout), self.options.exit_timeout)

    def __del__(self) -> None:
        if hasattr(self, "_ended"):  # else its address was refused
            self._ended.set()
            self._keeper_wanted.set()

    def _after_fork(self) -> None:
        link = self._link
        if self._letting_go is not None:
            self._letting_go.detach()
        if link is not None:
            link.abandon()
        self._reset()


def _decoded(raw: Raw) -> wire.Result:
    result = wire.decode_result(raw)
    if isinstance(result, wire.Malformed):
        raise EngineError(f"a result that can't be read arrived: {result.reason}")
    return result


def _refused_for_good(task: wire.Task, refusal: wire.Refusal, now: float) -> bytes:
    loss = wire.Loss("refused", f"the node refused the task: {refusal.reason} ({refusal.detail})")
    return wire.encode(
        wire.Result(
            id=task.id, state=wire.FAILURE, final=True, content_type=wire.LOSS_TYPE, value=wire.encode(loss),
            finished=now,
        )
    )  # fmt: skip


def _keep_watch(producer: weakref.ref[Producer], wanted: threading.Event, ended: threading.Event) -> None:
    """The keeper's thread; holds no producer alive while it has nothing to do."""
    while not ended.is_set():
        wanted.wait()
        if ended.wait(_KEEPER_TICK):
            return
        one = producer()
        if one is None:
            return
        one.look()
        del one


def _let_go(link: ClientLink) -> None:
    """Close the sockets of a producer that nobody has any more.

    The link isn't part of what the garbage collector takes apart then: where a context is before its sockets, that
    would wait for ever.
    """
    if not _exiting:
        link.close()


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()

#: Those that have sent what has no receipt yet: they live until it has, whoever lets go of them.
_owing: set[Producer] = set()
_exiting = False
_finalized = False


def _flush_all() -> None:
    """At interpreter exit: nothing that was submitted goes missing without a word."""
    global _exiting
    _exiting = True
    for producer in list(_producers):
        producer._at_exit()


def _flush_with_multiprocessing() -> None:
    """A child of multiprocessing ends by ``os._exit``, which asks no atexit: there, its own finalizers do it."""
    global _finalized
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if not _finalized and util is not None and process is not None and process.parent_process() is not None:
        _finalized = True
        util.Finalize(None, _flush_all, exitpriority=0)


def _renew_all() -> None:
    global _finalized
    _finalized = False
    _owing.clear()  # what the parent has sent is the parent's to see to
    for producer in list(_producers):
        producer._after_fork()


atexit.register(_flush_all)
os.register_at_fork(after_in_child=_renew_all)
