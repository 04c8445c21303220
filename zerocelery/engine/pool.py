"""How many workers run, and in what: processes (fork or spawn), threads, or the calling thread itself (solo).

Each worker of a pool is a worker of its own to the node. The process that runs the pool only keeps it complete: it
replaces children that die, ends those whose task's time is over, starts a node when there is none, and passes on the
order to stop. What a dead child held is settled by the node, which sees the process end by itself.

A pool is stopped *warmly* (what runs is finished), *softly* (it may be finished within a time) or *coldly* (what runs
is ended: acknowledged late it goes back into its queue, else it fails). What has not begun is always handed back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from zerocelery.engine import tenure
from zerocelery.engine.address import Address, parse_address
from zerocelery.engine.attendant import Attendant, AttendantThread
from zerocelery.engine.autoscale import Autoscale
from zerocelery.engine.children import Children, _child_name
from zerocelery.engine.errors import EngineError
from zerocelery.engine.nodewatch import NodeWatch
from zerocelery.engine.strategy import Strategy
from zerocelery.engine.worker import Worker

if TYPE_CHECKING:
    from zerocelery.engine.journal import Durability

logger = logging.getLogger("zerocelery.worker")

PoolKind = Literal["prefork", "threads", "solo"]
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
        self._keeping = True
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

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
            os.close(self._wake_read)
            os.close(self._wake_write)

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
        if self.pool != "prefork" and any(worker.since for worker in self._workers):
            self._end_threads()

    def _end_threads(self) -> None:
        """A thread can't be ended, but the process can; the node settles what it was running."""
        for worker in self._workers:
            worker.give_cause_of_shutdown()
        os._exit(self.exit_status)

    def resize(self, concurrency: int) -> None:
        """Have more or fewer workers; those that are too many finish what they run.

        Raises:
            ValueError: none would be left, or the pool's size can't be changed (threads, solo).
        """
        if concurrency < 1:
            raise ValueError(f"a pool has at least one worker, not {concurrency}")
        if self.pool != "prefork":
            raise ValueError(f"the size of a {self.pool} pool can't be changed: take prefork")
        self.concurrency = concurrency
        self._wake()

    def busy(self) -> int:
        """How many workers run a task now."""
        if self.children is not None:
            return len(self.children.busy())
        return sum(1 for worker in self._workers if worker.since)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    # ── threads and solo ─────────────────────────────────────────────────────────────────────────────────────────────

    def _run_threads(self) -> int:
        strategy = self.strategy_factory()
        count = 1 if self.pool == "solo" else self.concurrency
        joined = _Countdown(count, self.on_ready)
        for index in range(count):
            worker = Worker(
                self.address, strategy, queues=self.queues, name=_child_name(self.name, index, count),
                on_joined=joined.down,
            )  # fmt: skip
            self._workers.append(worker)
        if self.stopping:
            return 0
        attending = None
        if self.attendant is not None:
            self.attendant.begin(self)
            attending = AttendantThread(self.attendant)
            attending.start()
        keeper = threading.Thread(target=self._keep_node, name="zerocelery-node-watch", daemon=True)
        keeper.start()
        if self.pool == "solo":
            self._workers[0].run()
        else:
            self._run_in_threads()
        self._keeping = False
        self._wake()
        keeper.join(timeout=1.0)
        if attending is not None:
            attending.stop()
            attending.attendant.end()
        return 0

    def _run_in_threads(self) -> None:
        failures: list[BaseException] = []

        def run(worker: Worker) -> None:
            try:
                worker.run()
            except EngineError as error:
                failures.append(error)
                self.stop()

        threads = [threading.Thread(target=run, args=(w,), name=w.name, daemon=True) for w in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(timeout=1.0)  # a signal handler runs in between
        if failures:
            raise failures[0]

    def _keep_node(self) -> None:
        watch = NodeWatch(self.address)
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        while self._keeping and not all(worker.left for worker in self._workers):
            fd = watch.fd()
            if fd >= 0:
                poller.register(fd, select.POLLIN)
            woken = {ready for ready, _ in poller.poll(None if fd >= 0 else int(watch.patience() * 1000))}
            if fd >= 0:
                poller.unregister(fd)
            if self._wake_read in woken:  # to stop; until all have left, their last reports need a node
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
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
