"""How many workers run, and in what: processes (fork or spawn), threads, or the calling thread itself (solo).

Each worker of a pool is a worker of its own to the node. The process that runs the pool only keeps it complete: it
replaces children that die, ends those whose task's time is over, starts a node when there is none, and passes on the
order to stop. What a dead child held is settled by the node, which sees the process end by itself.

A pool is stopped *warmly* (what runs is finished), *softly* (it may be finished within a time) or *coldly* (what runs
is ended: acknowledged late it goes back into its queue, else it fails). What has not begun is always handed back.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from zerocelery.engine import green, tenure
from zerocelery.engine.address import Address, parse_address
from zerocelery.engine.attendant import Attendant, AttendantThread
from zerocelery.engine.autoscale import Autoscale
from zerocelery.engine.children import CLEAN_UP, END_SIGNAL, Children, _child_name
from zerocelery.engine.errors import EngineError
from zerocelery.engine.nodewatch import NodeWatch
from zerocelery.engine.processes import raise_descriptor_limit
from zerocelery.engine.strategy import Strategy
from zerocelery.engine.worker import Ended, Worker
from zerocelery.transport import waiting
from zerocelery.transport.zmq import SharedContext

if TYPE_CHECKING:
    from zerocelery.engine.journal import Durability

logger = logging.getLogger("zerocelery.worker")

PoolKind = Literal["prefork", "threads", "solo", "gevent", "eventlet"]
StartMethod = Literal["fork", "spawn"]


class Supervisor:
    """Runs a pool until it is told to stop.

    Arguments:
        strategy_factory: makes the strategy, once in each process; must be picklable with ``spawn``.
        max_tasks_per_child: a process is replaced after so many tasks.
        max_memory_per_child: a process is replaced after the task with which it took more than this (KiB).
        counts: whether to keep in view which workers are busy (:meth:`busy`).
        autoscale: how many processes there are, depending on how many are busy; begins with the least.
        on_ready: called when all workers have joined.
        before_child: called in the pool's process before each start of another.
        in_child: called first in each child process (logging, signals of the application).
        attendant: sits in this process and answers for the pool.
        child_ends: called last in each child process that was not killed, with its exit status.
    """

    def __init__(
        self,
        address: str | Address,
        strategy_factory: Callable[[], Strategy],
        *,
        concurrency: int = 1,
        pool: PoolKind = "prefork",
        queues: Sequence[str] = ("celery",),
        name: str = "worker",
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        counts: bool = False,
        autoscale: Autoscale | None = None,
        start_method: StartMethod = "fork",
        durability: Durability = "process",
        on_ready: Callable[[], None] | None = None,
        before_child: Callable[[], None] | None = None,
        in_child: Callable[[], None] | None = None,
        child_ends: Callable[[int], None] | None = None,
        attendant: Attendant | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"a pool has at least one worker, not {concurrency}")
        self.address = parse_address(address)
        self.strategy_factory = strategy_factory
        self.concurrency = concurrency
        self.pool = pool
        self.queues = tuple(queues)
        self.name = name
        self.max_tasks_per_child = max_tasks_per_child
        self.max_memory_per_child = max_memory_per_child
        self.counts = counts or autoscale is not None
        self.autoscale = autoscale if pool == "prefork" else None
        if self.autoscale is not None:
            self.concurrency = self.autoscale.least
        self.start_method: StartMethod = start_method
        self.durability: Durability = durability
        self.on_ready = on_ready
        self.before_child = before_child
        self.in_child = in_child
        self.child_ends = child_ends
        self.attendant = attendant
        #: 0: works; 1: finishes what runs; 2: ends what runs; 3: has no more patience
        self.stopping = 0
        #: when finishing becomes ending (monotonic)
        self.stop_by: float | None = None
        self.children: Children | None = None
        #: what the process ends with where it can't wait for its threads
        self.exit_status = 0
        self._workers: list[Worker] = []
        self._solo_thread: threading.Thread | None = None
        self._hub = green.hub(pool) if pool in green.GREEN else None
        self._keeping = True
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._main_read, self._main_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Work until :meth:`stop`; the exit status.

        Raises:
            NodeUnreachable: there is no node, and none could be started.
        """
        tenure.ensure_node(self.address, durability=self.durability)
        try:
            if self.pool == "prefork":
                self.children = Children(self)
                return self.children.run()
            return self._run_threads()
        finally:
            for fd in (self._wake_read, self._wake_write, self._main_read, self._main_write):
                os.close(fd)

    def stop(self, *, within: float | None = None) -> None:
        """Finish what runs and leave; safe in a signal handler, and when repeated.

        Arguments:
            within: seconds after which what still runs is ended; None: it takes what it takes.
        """
        self.stopping = max(self.stopping, 1)
        if within is not None:
            self.stop_by = time.monotonic() + within
            if self.pool != "prefork":
                timer = threading.Timer(within, self.end)
                timer.daemon = True
                timer.start()
        for worker in self._workers:
            worker.stop()
        self._wake()

    def end(self) -> None:
        """End what runs, and leave; the second time without waiting for anybody. Safe in a signal handler."""
        self.stopping = 3 if self.stopping >= 2 else 2
        for worker in self._workers:
            worker.stop()
        self._wake()
        if self.pool == "solo":
            self._end_solo()
        self._rouse()

    def _end_solo(self) -> None:
        """Interrupt the task where it runs, if that is a thread that can be: the main one."""
        if not any(worker.since for worker in self._workers):
            return
        main = threading.main_thread()
        if self._solo_thread is threading.current_thread():
            raise Ended
        if self._solo_thread is main and main.ident is not None:
            signal.pthread_kill(main.ident, END_SIGNAL)
        else:
            for worker in self._workers:
                worker.give_up()

    def _on_end_signal(self, *_: object) -> None:
        if any(worker.since for worker in self._workers):
            raise Ended

    def resize(self, concurrency: int) -> None:
        """Have more or fewer workers; those that are too many finish what they run.

        Raises:
            ValueError: none would be left, or it is a solo pool.
        """
        if concurrency < 1:
            raise ValueError(f"a pool has at least one worker, not {concurrency}")
        if self.pool == "solo":
            raise ValueError("a solo pool has one worker: take prefork or threads")
        self.concurrency = concurrency
        self._wake()
        self._rouse()

    def busy(self) -> int:
        """How many workers run a task now."""
        if self.children is not None:
            return len(self.children.busy())
        return sum(1 for worker in self._workers if worker.since)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    # ── threads and solo ─────────────────────────────────────────────────────────────────────────────────────────────

    def terminate(self, worker_id: str, key: int, number: int) -> bool:
        """End a task that runs; False where it no longer does, or can't be ended in such a pool.

        Arguments:
            key: the node's name for the task.
            number: of the signal: what a green thread gets is an exception, whatever the signal is.
        """
        if self.children is not None:
            return self.children.terminate(worker_id, key, number)
        worker = next((worker for worker in self._workers if worker.id == worker_id), None)
        return worker is not None and worker.stop_task(key, number)

    @property
    def can_terminate(self) -> bool:
        """Whether a task that runs can be ended."""
        return self.children is not None or self._hub is not None

    def _run_threads(self) -> int:
        raise_descriptor_limit()
        strategy = self.strategy_factory()
        count = 1 if self.pool == "solo" else self.concurrency
        joined = _Countdown(count, self.on_ready)
        links = SharedContext()

        def another() -> Worker:
            index = next(numbers)
            worker = Worker(
                self.address, strategy, queues=self.queues, name=_child_name(self.name, index, max(count, index + 1)),
                on_joined=joined.down, link=links.link, hub=self._hub,
            )  # fmt: skip
            self._workers.append(worker)
            return worker

        if self.stopping:
            return 0
        numbers = itertools.count()
        for _ in range(count):
            another()
        attending = None
        if self.attendant is not None:
            self.attendant.begin(self)
            attending = AttendantThread(self.attendant)
            attending.start()
        keeper = threading.Thread(target=self._keep_node, name="zerocelery-node-watch", daemon=True)
        keeper.start()
        try:
            if self.pool == "solo":
                self._solo_thread = threading.current_thread()
                if self._solo_thread is threading.main_thread():
                    signal.signal(END_SIGNAL, self._on_end_signal)
                self._workers[0].run()
            else:
                self._run_in_threads(another)
        except Ended:
            pass  # the task that this very thread ran was ended; the node has been told
        finally:
            self._keeping = False
            self._wake()
            keeper.join(timeout=1.0)
            if attending is not None:
                attending.stop()
                attending.attendant.end()
        return 0

    def _run_in_threads(self, another: Callable[[], Worker]) -> None:
        failures: list[BaseException] = []

        def run(worker: Worker) -> None:
            try:
                worker.run()
            except EngineError as error:
                failures.append(error)
                self.stop()
            except Ended:
                pass
            finally:
                self._rouse()

        def start(worker: Worker) -> None:
            threading.Thread(target=run, args=(worker,), name=worker.name, daemon=True).start()

        for worker in self._workers:
            start(worker)
        poller = waiting.poll()
        poller.register(self._main_read, waiting.READ)
        while self.has_threads and self.stopping < 2:
            poller.poll(None)  # a signal handler runs in between
            waiting.read_now(self._main_read)
            for _ in range(self._missing()):
                start(another())
        if self.has_threads:
            self._abandon(poller)
        if failures:
            raise failures[0]

    def _missing(self) -> int:
        """How many workers are to be started; those that are too many, idle ones first, are told to leave."""
        if self.stopping:
            return 0
        self._workers[:] = [worker for worker in self._workers if not worker.left]
        staying = [worker for worker in self._workers if not worker.leaves]
        for worker in sorted(staying, key=lambda worker: not worker.since)[self.concurrency :]:
            worker.stop()
        return self.concurrency - len(staying)

    def _abandon(self, poller: waiting.Poll) -> None:
        """End what runs. A green task is interrupted, and may clean up; a thread can't be, so it runs on until the
        process ends, and the node is told that nobody waits for it."""
        for worker in self._workers:
            if worker.since and not worker.throw(Ended()):
                worker.give_up()
        until = time.monotonic() + CLEAN_UP
        while self.has_threads and self.stopping < 3 and (left := until - time.monotonic()) > 0:
            if self._hub is None and all(worker.since for worker in self._workers if not worker.left):
                break  # those that had nothing to do have left
            poller.poll(max(1, int(left * 1000)))
            waiting.read_now(self._main_read)
        for worker in self._workers:
            if worker.since and not worker.left:
                worker.give_up()

    @property
    def has_threads(self) -> bool:
        """Whether any of its threads has not left; after :meth:`run` these are such as can't be ended."""
        return any(not worker.left for worker in self._workers)

    def _rouse(self) -> None:
        """Wake the thread that waits for the others."""
        with contextlib.suppress(OSError):
            os.write(self._main_write, b".")

    def _keep_node(self) -> None:
        watch = NodeWatch(self.address)
        poller = waiting.poll()
        poller.register(self._wake_read, waiting.READ)
        while self._keeping and not all(worker.left for worker in self._workers):
            fd = watch.fd()
            if fd >= 0:
                poller.register(fd, waiting.READ)
            woken = {ready for ready, _ in poller.poll(None if fd >= 0 else int(watch.patience() * 1000))}
            if fd >= 0:
                poller.unregister(fd)
            if self._wake_read in woken:  # to stop; until all have left, their last reports need a node
                waiting.read_now(self._wake_read)
            watch.revive(self.durability)
        watch.close()


class _Countdown:
    """Calls a function when it has counted down."""

    def __init__(self, count: int, then: Callable[[], None] | None) -> None:
        self._count = count
        self._then = then
        self._lock = threading.Lock()

    def down(self) -> None:
        with self._lock:
            self._count -= 1
            done = self._count == 0
        if done and self._then is not None:
            self._then()


def run_worker(
    *,
    address: str | Address,
    strategy_factory: Callable[[], Strategy],
    on_start: Callable[[Supervisor], None] | None = None,
    **options: Any,
) -> int:
    """Run a pool until it is told to stop; the exit status.

    Arguments:
        on_start: gets the pool before it runs, and says which signals stop it. Without it SIGTERM and SIGINT do: once,
            to finish what runs; twice, to end at once.
        options: those of :class:`Supervisor`.
    """
    supervisor = Supervisor(address, strategy_factory, **options)
    if on_start is not None:
        on_start(supervisor)
    else:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.end() if supervisor.stopping else supervisor.stop())
    return supervisor.run()
