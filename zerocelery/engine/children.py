"""The processes of a pool: each is a worker of its own to the node; here they are started, replaced and ended."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Final

from zerocelery.engine.address import Address
from zerocelery.engine.autoscale import INTERVAL
from zerocelery.engine.board import LOOK, MESSAGE, SLOTS, Board
from zerocelery.engine.nodewatch import NodeWatch
from zerocelery.engine.obituary import Obituaries
from zerocelery.engine.processes import SHUTDOWN, TERMINATED, TIME_LIMIT, give_cause, read_key, signal_main_thread
from zerocelery.engine.strategy import Strategy
from zerocelery.engine.worker import Ended, Worker

if TYPE_CHECKING:
    from zerocelery.engine.pool import Supervisor

logger = logging.getLogger("zerocelery.worker")

#: Children that die at once are replaced ever more slowly: first and longest pause (seconds).
_RESTART_PAUSE: Final = 0.05
_RESTART_PAUSE_MOST: Final = 5.0
_SOON: Final = 1.0

#: A child that is to end at once may clean up for so long, then it is killed (seconds).
CLEAN_UP: Final = 0.5

#: How long a stopped process may take to be seen as stopped (seconds): one that waits for a disk does nothing else.
_STOPS_WITHIN: Final = 0.1

#: What ends a child at once: the task that runs is interrupted by :class:`Ended`. A terminal sends other signals; what
#: they mean is for the pool's process to say.
END_SIGNAL: Final = signal.Signals(getattr(signal, "SIGRTMIN", signal.SIGUSR2))


#: Signals that mean the end of a task when they are sent to its process.
_MEAN_END: Final = frozenset((signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP, signal.SIGKILL))


class Children:
    """All processes of one pool.

    Arguments:
        supervisor: what they are to be, and whether they are to stop.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.context = multiprocessing.get_context(supervisor.start_method)
        self.slots: dict[int, BaseProcess] = {}
        self.born: dict[int, float] = {}
        self.due: dict[int, float] = {}  # slot → when it may be filled again
        self.pause: dict[int, float] = {}
        self.leaving: set[int] = set()  # slots that are not filled again
        self.ended: dict[int, float] = {}  # slot → when its process is killed, having been told to end at once
        self.ready_read, self.ready_write = os.pipe2(os.O_NONBLOCK)
        self.ready: set[int] = set()
        self.fresh: set[int] = set()  # slots whose process has not joined yet
        # Children see the end of this process as the end of this pipe.
        self.life_read, self.life_write = os.pipe2(0)
        self.watch = NodeWatch(supervisor.address)
        self.board = Board()
        self.obituaries = Obituaries(supervisor.address)
        self.told = 0  # how urgently they were told to stop
        self.scaled = time.monotonic()

    def run(self) -> int:
        """Keep the pool complete until it is told to stop, and all have left."""
        for slot in range(self.supervisor.concurrency):
            self._start(slot)
        attendant = self.supervisor.attendant
        try:
            if attendant is not None:
                attendant.begin(self.supervisor)
            while self.slots or (self.due and not self.supervisor.stopping):
                self._wait()
                if attendant is not None:
                    attendant.attend()
                self._pass_on_stop()
                self._kill_unwilling()
                self._enforce_limits()
                self._reap()
                if not self.supervisor.stopping:
                    self._scale()
                    self._resize()
                    self._refill()
                if self.slots:  # also those that leave need a node, to take their last reports
                    self.watch.revive(self.supervisor.durability)
        finally:
            self._kill_all()
            self.obituaries.close()
            if attendant is not None:
                attendant.end()
            self.watch.close()
            self.board.close()
            for fd in (self.ready_read, self.ready_write, self.life_read, self.life_write):
                if fd >= 0:
                    os.close(fd)
        return 0

    def pids(self) -> list[int]:
        """The processes that live now."""
        return [process.pid for process in list(self.slots.values()) if process.pid is not None]

    def busy(self) -> dict[int, float]:
        """Since when each slot that runs a task has been busy (monotonic); only where the pool counts that."""
        found = {slot: self.board.row(slot).busy_since for slot in self.slots}
        return {slot: since for slot, since in found.items() if since > 0.0}

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, slot: int) -> None:
        supervisor = self.supervisor
        if slot >= SLOTS:
            raise ValueError(f"a pool has at most {SLOTS} processes")
        if supervisor.before_child is not None:
            supervisor.before_child()
        self.board.row(slot).clear()
        fork = supervisor.start_method == "fork"
        process = self.context.Process(  # type: ignore[attr-defined]
            target=_child,
            args=(
                Birth(supervisor, slot, _child_name(supervisor.name, slot, supervisor.concurrency)),
                Pipes(self.context, self.ready_write, self.life_read, self.life_write),
                self.board,
            ),
            name=f"ForkPoolWorker-{slot + 1}" if fork else f"SpawnPoolWorker-{slot + 1}",
        )
        self.fresh.add(slot)
        process.start()
        self.slots[slot] = process
        self.born[slot] = time.monotonic()

    def _resize(self) -> None:
        """Start or stop as many as the pool is to have more or fewer."""
        wanted = self.supervisor.concurrency
        staying = [slot for slot in (*self.slots, *self.due) if slot not in self.leaving]
        for slot in self._least_busy(staying)[wanted:]:
            self.leaving.add(slot)
            self.due.pop(slot, None)
            process = self.slots.get(slot)
            if process is None:
                self.leaving.discard(slot)
            else:
                _signal(process, signal.SIGTERM)
        for _ in range(wanted - len(staying)):
            self._start(self._free_slot())

    def _scale(self) -> None:
        autoscale, now = self.supervisor.autoscale, time.monotonic()
        if autoscale is not None and now - self.scaled >= INTERVAL:
            self.scaled = now
            size = len(self.slots) - len(self.leaving)
            self.supervisor.concurrency = autoscale.wanted(now, size, len(self.busy()))

    def _least_busy(self, slots: list[int]) -> list[int]:
        """The slots, those last that can best be done without: idle ones, and of them the highest."""
        busy = self.busy()
        return sorted(slots, key=lambda slot: (slot not in busy, slot))

    def _free_slot(self) -> int:
        slot = 0
        while slot in self.slots or slot in self.due:
            slot += 1
        return slot

    def _refill(self) -> None:
        now = time.monotonic()
        for slot, due in list(self.due.items()):
            if now >= due:
                del self.due[slot]
                self._start(slot)

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _wait(self) -> None:
        """Sleep until a process ends, the node ends, somebody calls, or a moment comes."""
        poller = select.poll()
        for process in self.slots.values():
            poller.register(process.sentinel, select.POLLIN)
        poller.register(self.supervisor._wake_read, select.POLLIN)
        poller.register(self.ready_read, select.POLLIN)
        fd = self.watch.fd()
        if fd >= 0:
            poller.register(fd, select.POLLIN)
        now = time.monotonic()
        refills = () if self.supervisor.stopping else self.due.values()  # a pool that ends fills no slot again
        waits = [due - now for due in (*refills, *self.ended.values())]
        if self.supervisor.autoscale is not None:
            waits.append(self.scaled + INTERVAL - now)
        if self.supervisor.stopping == 1 and self.supervisor.stop_by is not None:
            waits.append(self.supervisor.stop_by - now)
        if fd < 0 and self.supervisor.address.is_local:
            waits.append(self.watch.patience())
        attendant = self.supervisor.attendant
        if attendant is not None:
            waits.append(attendant.patience() - now)
            if attendant.fileno() >= 0:
                poller.register(attendant.fileno(), select.POLLIN)
        waits.append(self._next_limit() - now)
        wait = min(waits)
        poller.poll(max(0, math.ceil(wait * 1000)) if wait < math.inf else None)
        with contextlib.suppress(BlockingIOError):
            os.read(self.supervisor._wake_read, 4096)
        with contextlib.suppress(BlockingIOError):
            self._hear(os.read(self.ready_read, 4096))

    def _hear(self, messages: bytes) -> None:
        slots = {slot for (slot,) in MESSAGE.iter_unpack(messages)} - {LOOK}
        self.ready.update(slots)
        self.fresh.difference_update(slots)
        on_ready = self.supervisor.on_ready
        if on_ready is not None and len(self.ready) >= self.supervisor.concurrency:
            self.supervisor.on_ready = None
            on_ready()

    # ── time limits ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _next_limit(self) -> float:
        """When the first of the running tasks is to be ended; said on the board before it is looked up."""
        self.board.sleep_until(0.0)  # from here on nobody needs to wake this process: it looks once more
        dues = [due for slot in self.slots if (due := self.board.row(slot).due) > 0.0]
        first = min(dues, default=math.inf)
        self.board.sleep_until(first)
        late = [due for slot in self.slots if 0.0 < (due := self.board.row(slot).due) < first]
        return min(late, default=first)

    def _enforce_limits(self) -> None:
        now = time.monotonic()
        for slot, process in self.slots.items():
            if 0.0 < self.board.row(slot).due <= now and process.is_alive():
                self._end_task(slot, process)

    def _end_task(self, slot: int, process: BaseProcess) -> None:
        """Kill a process for its task; but not for the one that has begun just now, so it is stopped first."""
        row = self.board.row(slot)
        due = row.due
        _signal(process, signal.SIGSTOP)
        _await_stop(process)
        if row.due != due:
            _signal(process, signal.SIGCONT)
            return
        self._give_cause(slot, TIME_LIMIT, row.limit)
        process.kill()
        row.end()
        logger.error("Hard time limit (%.12gs) exceeded for %s", row.limit, row.label)

    def _give_cause(self, slot: int, cause: int, number: float = 0.0) -> None:
        worker_id = self.board.row(slot).worker_id
        if worker_id:
            give_cause(self.supervisor.address.words / worker_id, cause, number)

    # ── ending one task ──────────────────────────────────────────────────────────────────────────────────────────────

    def terminate(self, worker_id: str, key: int, number: int) -> bool:
        """Send a signal to the process that runs this task, if it still does.

        A signal that means "end" interrupts the task, which may clean up for some moments, and then ends the process;
        SIGKILL doesn't wait; any other does what the task makes of it.

        Arguments:
            key: the node's name for the task.
            number: of the signal.
        """
        slot = next((slot for slot in self.slots if self.board.row(slot).worker_id == worker_id), None)
        if slot is None:
            return False
        process = self.slots[slot]
        _signal(process, signal.SIGSTOP)  # or it might be in the next task when the signal comes
        _await_stop(process)
        try:
            if read_key(self.supervisor.address.words / worker_id) != key:
                return False
            if number in _MEAN_END:
                self._give_cause(slot, TERMINATED, number)
            if number == signal.SIGKILL:
                process.kill()
            else:
                # To its main thread, where the task runs: one that is stopped lets any of its threads take it.
                signal_main_thread(process.pid or 0, END_SIGNAL if number in _MEAN_END else number)
        finally:
            _signal(process, signal.SIGCONT)
        if number in _MEAN_END:
            self.ended[slot] = time.monotonic() + CLEAN_UP
        return True

    def restart(self) -> None:
        """Replace all processes, each when it has finished what it runs."""
        for process in self.slots.values():
            _signal(process, signal.SIGTERM)

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _pass_on_stop(self) -> None:
        supervisor = self.supervisor
        if supervisor.stopping == 0:
            return
        if supervisor.stop_by is not None and time.monotonic() >= supervisor.stop_by:
            supervisor.stopping = max(supervisor.stopping, 2)
        if self.life_write >= 0:
            os.close(self.life_write)  # reaches a child whose tasks changed what SIGTERM does, too
            self.life_write = -1
        if self.told < 1 and supervisor.stopping < 2:
            self.told = 1
            for process in self.slots.values():
                _signal(process, signal.SIGTERM)
        if supervisor.stopping >= 2 and self.told < 2:
            self.told = 2
            until = time.monotonic() + CLEAN_UP
            for slot, process in self.slots.items():
                self._give_cause(slot, SHUTDOWN)
                # To its main thread, where the task runs: while that has a signal to deal with, another takes the next.
                signal_main_thread(process.pid or 0, END_SIGNAL)
                self.ended[slot] = until

    def _kill_unwilling(self) -> None:
        """Kill those that were told to end at once and take too long."""
        now = time.monotonic()
        for slot, until in list(self.ended.items()):
            if slot in self.slots and (now >= until or self.supervisor.stopping > 2):
                self.slots[slot].kill()
                del self.ended[slot]

    def _reap(self) -> None:
        now = time.monotonic()
        for slot, process in list(self.slots.items()):
            if process.is_alive():
                continue
            process.join()
            code, pid = process.exitcode, process.pid
            process.close()
            self.obituaries.write(self.board.row(slot).worker_id)
            del self.slots[slot]
            self.ended.pop(slot, None)
            if slot in self.leaving:
                self.leaving.discard(slot)
                self.ready.discard(slot)
                continue
            if self.supervisor.stopping or code == 0:
                pause = 0.0
            else:
                kind = "Fork" if self.supervisor.start_method == "fork" else "Spawn"
                logger.error("Process '%sPoolWorker-%d' pid:%s exited with '%s'", kind, slot + 1, pid, _ending(code))
                # Who had joined was ended by a task, and tasks are given up after some losses: others need not wait.
                useful = slot not in self.fresh or now - self.born[slot] > _SOON
                pause = 0.0 if useful else min(self.pause.get(slot, _RESTART_PAUSE) * 2, _RESTART_PAUSE_MOST)
            self.pause[slot] = pause
            self.due[slot] = now + pause

    def _kill_all(self) -> None:
        for slot, process in self.slots.items():
            self._give_cause(slot, SHUTDOWN)
            process.kill()
            process.join()
            self.obituaries.write(self.board.row(slot).worker_id)


def _signal(process: BaseProcess, number: int) -> None:
    if process.pid is not None and process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _await_stop(process: BaseProcess) -> None:
    """Return when the process was stopped, has ended, or does neither for some time."""
    if process.pid is None:
        return
    pause = threading.Event()  # never set: its wait is the pause
    deadline = time.monotonic() + _STOPS_WITHIN
    while time.monotonic() < deadline:
        try:
            seen = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if seen is not None:
            return
        pause.wait(0.0005)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exitcode {code}"


def _child_name(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name}/{index + 1}"


# ── in the child ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Pipes:
    """The pipes between a pool and its children, inherited by fork and passed on by spawn."""

    def __init__(self, context: multiprocessing.context.BaseContext, ready: int, life: int, other_end: int) -> None:
        self.ready = ready
        self.life = life
        self.other_end = other_end

    def __getstate__(self) -> tuple[object, object]:
        return reduction.DupFd(self.ready), reduction.DupFd(self.life)

    def __setstate__(self, state: tuple[Any, Any]) -> None:
        ready, life = state
        self.ready, self.life = ready.detach(), life.detach()
        self.other_end = -1


class Birth:
    """All that a child is told of itself."""

    def __init__(self, supervisor: Supervisor, slot: int, name: str) -> None:
        self.slot = slot
        self.name = name
        self.supervisor = os.getpid()
        self.address: Address = supervisor.address
        self.strategy_factory: Callable[[], Strategy] = supervisor.strategy_factory
        self.queues = supervisor.queues
        self.max_tasks = supervisor.max_tasks_per_child
        self.max_memory = supervisor.max_memory_per_child
        self.counts = supervisor.counts
        self.in_child = supervisor.in_child
        self.child_ends = supervisor.child_ends


def _child(birth: Birth, pipes: Pipes, board: Board) -> None:
    """A child's whole life."""
    # Ctrl-C reaches the whole terminal; the pool's process decides what it means.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, END_SIGNAL):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    multiprocessing.current_process().index = birth.slot  # type: ignore[attr-defined] # names the child's log file
    if pipes.other_end >= 0:
        os.close(pipes.other_end)
    if birth.in_child is not None:
        birth.in_child()

    def joined() -> None:
        with contextlib.suppress(OSError):
            os.write(pipes.ready, MESSAGE.pack(birth.slot))

    worker = Worker(
        birth.address, birth.strategy_factory(), queues=birth.queues, name=birth.name, max_tasks=birth.max_tasks,
        max_memory=birth.max_memory, row=board.row(birth.slot, pipes.ready), counts=birth.counts,
        supervisor=birth.supervisor, on_joined=joined,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    signal.signal(END_SIGNAL, lambda *_: _end(worker))
    orphan = threading.Thread(target=_outlive, args=(pipes.life, worker), name="zerocelery-orphan", daemon=True)
    orphan.start()
    code = 0
    try:
        worker.run()
    except Ended:
        code = -END_SIGNAL
    finally:
        signal.signal(END_SIGNAL, signal.SIG_IGN)
        if birth.child_ends is not None:
            birth.child_ends(code)


def _end(worker: Worker) -> None:
    """End at once: interrupt the task that runs; where none does, what was finished is reported first."""
    worker.stop()
    if worker.since:
        raise Ended


def _outlive(life: int, worker: Worker) -> None:
    """When the pool's process is gone, finish what runs and leave: nobody would replace or stop this child."""
    with contextlib.suppress(OSError):
        while os.read(life, 1):
            pass
    worker.stop()
