"""What runs in the processes of the fault tests: workers whose tasks do as they are told, and nodes with limits.

    python -m compat_tests.faults.strategies node URL OPTIONS
    python -m compat_tests.faults.strategies worker URL OPTIONS

OPTIONS is a JSON object, see :func:`_node` and :func:`_worker`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import resource
import select
import sys
from pathlib import Path
from typing import Any

from zerocelery.engine import wire, worker
from zerocelery.engine.collector import Limits
from zerocelery.engine.node import run_node
from zerocelery.engine.pool import run_worker
from zerocelery.transport import zmq as transport


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a task, as its process noted it when it began."""

    id: str
    attempt: int
    pid: int


def read_runs(record: Path) -> list[Run]:
    """All runs, in their order."""
    attempts: dict[str, int] = {}
    runs = []
    for line in record.read_text().splitlines() if record.exists() else ():
        task_id, pid = line.split()
        attempts[task_id] = attempts.get(task_id, 0) + 1
        runs.append(Run(task_id, attempts[task_id], int(pid)))
    return runs


class Deeds:
    """The strategy: a task's body is a JSON list, the name of one of these methods and its arguments.

    Each run is noted first, outside of the system under test, as one line that is appended to a file: what was run, how
    often and where is known whatever is killed.
    """

    def __init__(self, record: str) -> None:
        self._record = os.open(record, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def accept(self, task: wire.Task, /) -> bool:
        return True

    def run(self, task: wire.Task, /) -> Any:
        os.write(self._record, f"{task.id} {os.getpid()}\n".encode())  # one write: lines of two processes never mix
        deed, *arguments = json.loads(task.body)
        return getattr(self, deed)(*arguments)

    def echo(self, value: Any = None, *_: Any) -> Any:
        return value

    def blob(self, size: int) -> bytes:
        return b"x" * size

    def gate(self, path: str, value: Any = None) -> Any:
        """Wait until the test opens the gate: a FIFO, which blocks its reader until there is a writer."""
        with open(path, "rb"):
            return value

    def hoard(self, path: str) -> int:
        """Take all descriptors that this process may have until the gate opens; how many there were."""
        gate = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        poller = select.poll()
        poller.register(gate, select.POLLIN)
        taken = hoard_descriptors()
        poller.poll()
        for fd in (*taken, gate):
            os.close(fd)
        return len(taken)


def hoard_descriptors() -> list[int]:
    """Take every descriptor that this process may still have."""
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    return taken


def limit_resources(options: dict[str, Any]) -> None:
    """Take over the limits that the options name: ``nofile`` (descriptors), ``memory`` (bytes above those in use)."""
    if nofile := options.pop("nofile", None):
        resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
    if memory := options.pop("memory", None):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def _node(url: str, options: dict[str, Any]) -> int:
    """Be a node; options: its limits, ``durability``, ``nofile``, ``memory``, ``hwm`` (of all its sockets)."""
    limit_resources(options)
    if hwm := options.pop("hwm", None):
        transport._SUBSCRIBER_HWM = transport._TASKS_HWM = hwm  # type: ignore[misc]
    durability = options.pop("durability", "process")
    return run_node(
        url, durability=durability, limits=Limits(**options),
        on_ready=lambda node: print("node at", node.address.url, flush=True),
    )  # fmt: skip


def _worker(url: str, options: dict[str, Any]) -> int:
    """Be a pool of workers; options: ``record`` and those of run_worker, ``nofile``, ``memory``.

    ``elsewhere``: seem to be on another machine; ``beat``: how often to say that a long task still runs.
    """
    limit_resources(options)
    if options.pop("elsewhere", False):
        worker.host_id = lambda: "elsewhere"
    if beat := options.pop("beat", None):
        worker._BEAT = beat  # type: ignore[misc]
    factory = functools.partial(Deeds, options.pop("record"))
    return run_worker(
        address=url, strategy_factory=factory, on_ready=lambda: print("worker ready", flush=True), **options
    )


def main(kind: str, url: str, options: str) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    return {"node": _node, "worker": _worker}[kind](url, json.loads(options))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
