"""How many workers run, and in what: processes (fork or spawn), threads, or the calling thread itself (solo).

Each worker of a pool is a worker of its own to the node. The process that runs the pool only keeps it complete: it
replaces children that die, starts a node when there is none, and passes on the order to stop. What a dead child held is
settled by the node, which sees the process end by itself.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Final, Literal

from zerocelery.engine import node
from zerocelery.engine.address import Address, parse_address
from zerocelery.engine.errors import EngineError
from zerocelery.engine.journal import Durability
from zerocelery.engine.strategy import Strategy
from zerocelery.engine.worker import Worker

logger = logging.getLogger("zerocelery.worker")

PoolKind = Literal["prefork", "threads", "solo"]
StartMethod = Literal["fork", "spawn"]

#: Children that die at once are replaced ever more slowly: first and longest pause (seconds).
_RESTART_PAUSE: Final = 0.05
_RESTART_PAUSE_MOST: Final = 5.0
_SOON: Final = 1.0

#: How often a node that could not be watched is looked after (seconds).
_LOOK_AFTER_NODE: Final = 2.0


class Supervisor:
    """Runs a pool until it is told to stop.

    Arguments:
        strategy_factory: makes the strategy, once in each process; must be picklable with ``spawn``.
        on_ready: called when all workers have joined.
        in_child: called first in each child process (logging, signals of the application).
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
        start_method: StartMethod = "fork",
        durability: Durability = "process",
        on_ready: Callable[[], None] | None = None,
        in_child: Callable[[], None] | None = None,
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
        self.start_method: StartMethod = start_method
        self.durability: Durability = durability
        self.on_ready = on_ready
        self.in_child = in_child
        self.stopping = 0
        self._workers: list[Worker] = []
        self._keeping = True
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Work until :meth:`stop`; the exit status.

        Raises:
            NodeUnreachable: there is no node, and none could be started.
        """
        node.ensure_node(self.address, durability=self.durability)
        try:
            if self.pool == "prefork":
                return _Children(self).run()
            return self._run_threads()
        finally:
            os.close(self._wake_read)
            os.close(self._wake_write)

    def stop(self) -> None:
        """First call: finish what runs and leave. Second: end at once. Safe in a signal handler."""
        self.stopping += 1
        for worker in self._workers:
            worker.stop()
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")
        if self.stopping > 1 and self.pool != "prefork":
            os._exit(1)

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
        keeper = threading.Thread(target=self._keep_node, name="zerocelery-node-watch", daemon=True)
        keeper.start()
        if self.pool == "solo":
            self._workers[0].run()
        else:
            self._run_in_threads()
        self._keeping = False
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")
        keeper.join(timeout=1.0)
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
        watch = _NodeWatch(self.address)
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        while self._keeping and not all(worker.left for worker in self._workers):
            fd = watch.fd()
            if fd >= 0:
                poller.register(fd, select.POLLIN)
            woken = {ready for ready, _ in poller.poll(None if fd >= 0 else int(_LOOK_AFTER_NODE * 1000))}
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


class _NodeWatch:
    """Notices the end of the node's process, and starts another one."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._fd = -1
        self._pid = 0

    def fd(self) -> int:
        """A descriptor that becomes readable when the node ends; -1 where there is none to be had."""
        if not self.address.is_local:
            return -1
        pid = node.owner_pid(self.address)
        if self._fd < 0 or pid != self._pid:
            self.close()
            self._pid = pid
            with contextlib.suppress(OSError, AttributeError):
                self._fd = os.pidfd_open(pid) if pid else -1
        return self._fd

    def revive(self, durability: Durability) -> None:
        """Start a node if there is none."""
        if not self.address.is_local or node.is_owned(self.address):
            return
        self.close()
        logger.warning("the node at %s is gone: starting another on its journal", self.address.url)
        try:
            node.ensure_node(self.address, durability=durability)
        except EngineError as error:
            logger.error("%s", error)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Children:
    """The processes of a prefork pool."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.context = multiprocessing.get_context(supervisor.start_method)
        self.slots: dict[int, BaseProcess] = {}
        self.born: dict[int, float] = {}
        self.due: dict[int, float] = {}  # slot → when it may be filled again
        self.pause: dict[int, float] = {}
        self.ready_read, self.ready_write = os.pipe2(os.O_NONBLOCK)
        self.ready: set[int] = set()
        self.fresh: set[int] = set()  # slots whose process has not joined yet
        # Children see the end of this process as the end of this pipe.
        self.life_read, self.life_write = os.pipe2(0)
        self.watch = _NodeWatch(supervisor.address)

    def run(self) -> int:
        for slot in range(self.supervisor.concurrency):
            self._start(slot)
        try:
            while self.slots or (self.due and not self.supervisor.stopping):
                self._wait()
                self._pass_on_stop()
                self._reap()
                if not self.supervisor.stopping:
                    self._refill()
                if self.slots:  # also those that leave need a node, to take their last reports
                    self.watch.revive(self.supervisor.durability)
        finally:
            self._kill_all()
            self.watch.close()
            for fd in (self.ready_read, self.ready_write, self.life_read, self.life_write):
                if fd >= 0:
                    os.close(fd)
        return 0

    def _start(self, slot: int) -> None:
        supervisor = self.supervisor
        process = self.context.Process(  # type: ignore[attr-defined]
            target=_child,
            args=(
                supervisor.address, supervisor.strategy_factory, supervisor.queues,
                _child_name(supervisor.name, slot, supervisor.concurrency), supervisor.max_tasks_per_child,
                os.getpid(), supervisor.in_child, slot,
                _Pipes(self.context, self.ready_write, self.life_read, self.life_write),
            ),
            name=f"ForkPoolWorker-{slot + 1}" if supervisor.start_method == "fork" else f"SpawnPoolWorker-{slot + 1}",
        )  # fmt: skip
        self.fresh.add(slot & 255)
        process.start()
        self.slots[slot] = process
        self.born[slot] = time.monotonic()

    def _wait(self) -> None:
        poller = select.poll()
        for process in self.slots.values():
            poller.register(process.sentinel, select.POLLIN)
        poller.register(self.supervisor._wake_read, select.POLLIN)
        poller.register(self.ready_read, select.POLLIN)
        fd = self.watch.fd()
        if fd >= 0:
            poller.register(fd, select.POLLIN)
        waits = [due - time.monotonic() for due in self.due.values()]
        if fd < 0 and self.supervisor.address.is_local:
            waits.append(_LOOK_AFTER_NODE)
        poller.poll(max(0, int(min(waits) * 1000) + 1) if waits else None)
        with contextlib.suppress(BlockingIOError):
            os.read(self.supervisor._wake_read, 4096)
        with contextlib.suppress(BlockingIOError):
            self._joined(os.read(self.ready_read, 4096))

    def _joined(self, slots: bytes) -> None:
        self.ready.update(slots)
        self.fresh.difference_update(slots)
        on_ready = self.supervisor.on_ready
        if on_ready is not None and len(self.ready) >= min(self.supervisor.concurrency, 256):
            self.supervisor.on_ready = None
            on_ready()

    def _pass_on_stop(self) -> None:
        if self.supervisor.stopping == 0:
            return
        if self.life_write >= 0:
            os.close(self.life_write)  # reaches a child whose tasks changed what SIGTERM does, too
            self.life_write = -1
        number = signal.SIGTERM if self.supervisor.stopping == 1 else signal.SIGKILL
        for process in self.slots.values():
            if process.pid is not None and process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _reap(self) -> None:
        now = time.monotonic()
        for slot, process in list(self.slots.items()):
            if process.is_alive():
                continue
            process.join()
            code = process.exitcode
            process.close()
            del self.slots[slot]
            if self.supervisor.stopping or code == 0:
                pause = 0.0
            else:
                logger.error("worker process %s ended with %s; it is replaced", slot + 1, _ending(code))
                # Who had joined was ended by a task, and tasks are given up after some losses: others need not wait.
                useful = slot & 255 not in self.fresh or now - self.born[slot] > _SOON
                pause = 0.0 if useful else min(self.pause.get(slot, _RESTART_PAUSE) * 2, _RESTART_PAUSE_MOST)
            self.pause[slot] = pause
            self.due[slot] = now + pause

    def _refill(self) -> None:
        now = time.monotonic()
        for slot, due in list(self.due.items()):
            if now >= due:
                del self.due[slot]
                self._start(slot)

    def _kill_all(self) -> None:
        for process in self.slots.values():
            process.kill()
            process.join()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit status {code}"


def _child_name(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name}/{index + 1}"


class _Pipes:
    """The pipes between a pool and its children, inherited by fork and passed on by spawn."""

    def __init__(self, context: multiprocessing.context.BaseContext, ready: int, life: int, other_end: int) -> None:
        self.ready = ready
        self.life = life
        self.other_end = other_end
        self._duplicate = context.get_start_method() == "spawn"

    def __getstate__(self) -> tuple[object, object]:
        from multiprocessing.reduction import DupFd  # noqa: PLC0415 - only while spawning

        return DupFd(self.ready), DupFd(self.life)

    def __setstate__(self, state: tuple[object, object]) -> None:
        ready, life = state
        self.ready, self.life = ready.detach(), life.detach()  # type: ignore[attr-defined]
        self.other_end = -1


def _child(
    address: Address,
    strategy_factory: Callable[[], Strategy],
    queues: Sequence[str],
    name: str,
    max_tasks: int | None,
    supervisor: int,
    in_child: Callable[[], None] | None,
    slot: int,
    pipes: _Pipes,
) -> None:
    """A child's whole life."""
    # Ctrl-C reaches the whole terminal; the pool's process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if pipes.other_end >= 0:
        os.close(pipes.other_end)
    if in_child is not None:
        in_child()

    def joined() -> None:
        with contextlib.suppress(OSError):
            os.write(pipes.ready, bytes((slot & 255,)))

    worker = Worker(
        address, strategy_factory(), queues=queues, name=name, max_tasks=max_tasks, supervisor=supervisor,
        on_joined=joined,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    orphan = threading.Thread(target=_outlive, args=(pipes.life, worker), name="zerocelery-orphan", daemon=True)
    orphan.start()
    worker.run()


def _outlive(life: int, worker: Worker) -> None:
    """When the pool's process is gone, finish what runs and leave: nobody would replace or stop this child."""
    with contextlib.suppress(OSError):
        while os.read(life, 1):
            pass
    worker.stop()


def run_worker(
    *,
    address: str | Address,
    strategy_factory: Callable[[], Strategy],
    pool: PoolKind = "prefork",
    concurrency: int = 1,
    queues: Sequence[str] = ("celery",),
    name: str = "worker",
    max_tasks_per_child: int | None = None,
    start_method: StartMethod = "fork",
    durability: Durability = "process",
    on_ready: Callable[[], None] | None = None,
    in_child: Callable[[], None] | None = None,
) -> int:
    """Run a pool until SIGTERM or SIGINT (once: finish what runs; twice: end now); the exit status."""
    supervisor = Supervisor(
        address, strategy_factory, concurrency=concurrency, pool=pool, queues=queues, name=name,
        max_tasks_per_child=max_tasks_per_child, start_method=start_method, durability=durability,
        on_ready=on_ready, in_child=in_child,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    return supervisor.run()
