"""What the fault tests let workers do, and the programs that they run: a pool, a node with limits of its own.

Every run of a task leaves lines in a file that the system under test knows nothing of (O_APPEND, one write each), so
what really ran is known whatever the system says.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import functools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from zerocelery.engine import losses, tenure, wire
from zerocelery.engine.collector import Limits
from zerocelery.engine.node import Node, run_node
from zerocelery.engine.pool import run_worker
from zerocelery.engine.strategy import Outcome
from zerocelery.engine.worker import current_worker

EARLY = 0
LATE = wire.ACK_LATE
LATE_REJECT = wire.ACK_LATE | wire.REJECT_ON_LOST


# ── the record of what ran ───────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the record: ``what`` is start, end, or die (the task is about to end its process)."""

    what: str
    task: str
    pid: int
    at: float


class Record:
    """The file that says what ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, what: str, task: str) -> None:
        """One write, so that the lines of many processes never mix."""
        line = f"{what} {task} {os.getpid()} {time.monotonic():.6f}\n".encode()
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def lines(self) -> list[Line]:
        with contextlib.suppress(FileNotFoundError):
            rows = (row.split() for row in self.path.read_text().splitlines())
            return [Line(what, task, int(pid), float(at)) for what, task, pid, at in rows]
        return []

    def starts(self, task: str | None = None) -> list[Line]:
        return [line for line in self.lines() if line.what == "start" and task in (None, line.task)]

    def ends(self, task: str | None = None) -> list[Line]:
        return [line for line in self.lines() if line.what == "end" and task in (None, line.task)]

    def running(self) -> set[str]:
        """Tasks that have begun more often than they have ended."""
        counts: dict[str, int] = {}
        for line in self.lines():
            counts[line.task] = counts.get(line.task, 0) + {"start": 1, "end": -1}.get(line.what, 0)
        return {task for task, count in counts.items() if count > 0}


# ── what tasks do ────────────────────────────────────────────────────────────────────────────────────────────────────


class NeedsTwo(Exception):
    """Can be pickled, and not rebuilt: its ``args`` hold one of the two that it takes."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


class NoText(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("no text today")


class Explodes:
    """Comes apart when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _explode, ("unpickled",)


class ExitsWhenPickled:
    """Ends its process when somebody pickles it."""

    def __reduce__(self) -> str:
        raise SystemExit("pickled")


def _explode(what: str) -> None:
    raise ArithmeticError(what)


def echo(value: Any = None) -> Any:
    return value


def square(number: int) -> int:
    return number * number


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def spin(seconds: float) -> float:
    """Compute, in Python, without ever waiting."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return seconds


def hold_the_interpreter(seconds: float) -> None:
    """Sleep in C without letting another thread of this process run."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def sometimes_hold(seconds: float | None) -> None:
    """Short, unless a time is given: then see ``hold_the_interpreter``."""
    if seconds:
        hold_the_interpreter(seconds)


def gate(path: str) -> str:
    """Go on when the file is there."""
    pause = threading.Event()
    while not os.path.exists(path):
        pause.wait(0.005)
    return path


def sometimes(path: str | None) -> str | None:
    """Short, unless a path is given: then see ``gate``. One name, so the node expects it to be short."""
    return gate(path) if path else None


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(7)


def recurse_in_c() -> None:
    """Overflow the C stack, where no recursion limit helps."""
    nested: tuple[Any, ...] = ()
    for _ in range(200_000):
        nested = (nested,)
    hash(nested)
    os.abort()  # where the interpreter of the day guards even this


POISON: dict[str, Callable[[], None]] = {
    "SIGKILL": killed, "segfault": segfault, "os._exit": leave, "C recursion": recurse_in_c,
}  # fmt: skip


def poison(kind: str) -> None:
    POISON[kind]()


def sometimes_poison(kind: str | None) -> str:
    """Short and good, unless a kind of poison is given."""
    if kind:
        poison(kind)
    return "fine"


def kill_once(mark: str, *, how: str = "SIGKILL") -> str:
    """End this process the first time; well the second time."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return "second"
    poison(how)
    return "unreachable"


def raises(kind: str) -> None:
    if kind == "plain":
        raise ValueError("plain")
    if kind == "unpicklable":
        raise RuntimeError("holds a lock", threading.Lock())
    if kind == "needs two":
        raise NeedsTwo("one", "two")
    if kind == "local class":

        class Local(Exception):
            pass

        raise Local("of a class that nobody can import")
    if kind == "no text":
        raise NoText
    if kind == "interrupt":
        raise KeyboardInterrupt("from within")
    raise SystemExit(kind)


def returns(kind: str) -> Any:
    return {
        "lock": threading.Lock, "generator": lambda: (n for n in range(3)), "explodes": Explodes,
        "exits when pickled": ExitsWhenPickled, "deep": _deep, "megabytes": lambda: b"x" * (3 << 20),
    }[kind]()  # fmt: skip


def _deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def fork_and_return() -> str:
    """Both processes return from the task."""
    return "parent" if os.fork() else "child"


def fork_and_exit() -> int:
    """The usual way: the forked process ends itself, and is waited for."""
    pid = os.fork()
    if not pid:
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def close_descriptors() -> str:
    os.closerange(3, 200)
    return "closed"


def change_directory() -> str:
    os.chdir("/")
    return os.getcwd()


def change_signals() -> str:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    return "changed"


def progress(step: str, path: str) -> str:
    worker = current_worker()
    assert worker is not None
    worker.update("PROGRESS", step.encode())
    return gate(path)


def odd_outcome() -> Outcome:
    """What a careless strategy returns: bytes are promised, and this is none."""
    return Outcome(wire.SUCCESS, object())  # type: ignore[arg-type]


def total(numbers: list[float]) -> float:
    return sum(numbers)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        echo, square, nap, spin, hold_the_interpreter, sometimes_hold, gate, sometimes, poison,
        sometimes_poison, kill_once, raises, returns, fork_and_return, fork_and_exit, close_descriptors,
        change_directory, change_signals, progress, odd_outcome, total,
    )
}  # fmt: skip


class Recording:
    """Runs the functions above by name, and records when each began and ended.

    Arguments:
        record: path of the record.
        slow_results: seconds between the end of a task's function and its result's way out.
    """

    def __init__(self, record: str, *, slow_results: float = 0.0) -> None:
        self.record = Record(Path(record))
        self.slow_results = slow_results

    def accept(self, task: wire.Task, /) -> bool:
        if task.name == "not accepted":
            raise OSError("accept() is broken")
        return task.name in FUNCTIONS

    def run(self, task: wire.Task, /) -> Any:
        if task.verdict:  # the body of a group with a member that failed: not run, it ends like that one
            told = wire.decode_result(task.verdict)
            assert isinstance(told, wire.Result)
            return Outcome(told.state, told.value, told.content_type)
        args, kwargs = pickle.loads(task.body)
        if task.inputs:
            args = ([_value(raw) for raw in task.inputs],)
        self.record.append("start", task.id)
        if task.name == "poison":
            self.record.append("die", task.id)
        try:
            return FUNCTIONS[task.name](*args, **kwargs)
        finally:
            self.record.append("end", task.id)
            if self.slow_results:
                time.sleep(self.slow_results)


def _value(raw: bytes) -> Any:
    result = wire.decode_result(raw)
    assert isinstance(result, wire.Result)
    return pickle.loads(result.value)


def body(*args: Any, **kwargs: Any) -> bytes:
    """What :class:`Recording` calls its function with."""
    return pickle.dumps((args, kwargs))


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _say(text: str) -> None:
    print(text, flush=True)


def restarting_program(arguments: list[str]) -> int:
    """As an init system does: start the program again when it dies, and pass on the order to stop."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        stopping.set()
        child.terminate()

    while True:
        child = subprocess.Popen([sys.executable, "-m", "compat_tests.faults.worker_strategies", *arguments])
        signal.signal(signal.SIGTERM, stop)
        status = child.wait()
        if stopping.is_set() or status == 0:
            return status


def _plant(name: str | None) -> None:
    """Break the engine on purpose in this process: the checker has to notice."""
    if name:
        from compat_tests.faults import planted

        planted.BUGS[name].plant()


def worker_program(options: argparse.Namespace) -> int:
    _plant(options.plant)
    if options.no_node:
        tenure.ensure_node = lambda *_, **__: None
    if options.foreign:
        # As a worker of another machine, or of another container on this one: the node can't look after its process.
        from zerocelery.engine import worker as module

        module.host_id = lambda: "another machine"  # type: ignore[attr-defined]
    return run_worker(
        address=options.url,
        strategy_factory=functools.partial(Recording, options.record, slow_results=options.slow_results),
        pool=options.pool,
        concurrency=options.concurrency,
        queues=options.queues.split(","),
        name=options.name,
        max_tasks_per_child=options.max_tasks,
        start_method=options.start_method,
        on_ready=lambda: _say("ready."),
    )


def _up(node: Node) -> None:
    _say(f"up at {node.address.url} .")


def node_program(options: argparse.Namespace) -> int:
    _plant(options.plant)
    if options.rejoin is not None:
        losses._REJOIN_SECONDS = options.rejoin  # type: ignore[misc]
    given = {
        name: getattr(options, name)
        for name in ("lease_timeout", "queue_limit", "max_losses", "max_message")
        if getattr(options, name) is not None
    }
    return run_node(options.url, limits=Limits(**given), durability=options.durability, on_ready=_up)


def main(arguments: Iterable[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    parser = argparse.ArgumentParser()
    programs = parser.add_subparsers(required=True)
    restarting = programs.add_parser("restarting")
    restarting.add_argument("arguments", nargs=argparse.REMAINDER)
    restarting.set_defaults(run=lambda options: restarting_program(options.arguments))
    worker = programs.add_parser("worker")
    worker.add_argument("url")
    worker.add_argument("record")
    worker.add_argument("--pool", default="prefork")
    worker.add_argument("--concurrency", type=int, default=1)
    worker.add_argument("--start-method", default="fork")
    worker.add_argument("--queues", default="celery")
    worker.add_argument("--name", default="worker")
    worker.add_argument("--max-tasks", type=int)
    worker.add_argument("--slow-results", type=float, default=0.0)
    worker.add_argument("--foreign", action="store_true")
    worker.add_argument("--no-node", action="store_true", help="start none")
    worker.add_argument("--plant")
    worker.set_defaults(run=worker_program)
    node = programs.add_parser("node")
    node.add_argument("url")
    node.add_argument("--lease-timeout", type=float)
    node.add_argument("--queue-limit", type=int)
    node.add_argument("--max-losses", type=int)
    node.add_argument("--max-message", type=int)
    node.add_argument("--rejoin", type=float)
    node.add_argument("--plant")
    node.add_argument("--durability", default="process")
    node.set_defaults(run=node_program)
    options = parser.parse_args(list(arguments))
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
