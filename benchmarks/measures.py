"""The measures: one function each, from a contestant at rest to figures."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import procfs
from benchmarks.contestants import Contestant, Parts
from benchmarks.errors import Failed, Hung
from benchmarks.processes import SCRIPTS, Client
from benchmarks.sizes import Sizes

Figures = dict[str, float]

#: Processes are left alone for this long before their memory or idleness is read.
_SETTLE = 2.0

#: A contestant that uses less than this share of a core for this long has finished what it had to do.
_QUIET_SHARE = 0.05
_QUIET_SECONDS = 0.5

_POLL = 0.005

_IMPORT_DEADLINE = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Meter:
    """Processor time of a contestant's parts and of the machine, at one moment."""

    at: float
    parts: Parts
    worker: float
    broker: float
    runner: float
    machine: float

    @classmethod
    def read(cls, contestant: Contestant, client: Client | None = None) -> Meter:
        parts = contestant.parts(client)
        return cls(
            at=time.monotonic(),
            parts=parts,
            worker=procfs.cpu_seconds(parts.worker),
            broker=procfs.cpu_seconds(parts.broker),
            runner=time.process_time(),
            machine=procfs.machine_busy_seconds(),
        )

    def since(self, before: Meter, *, client_cpu: float = 0.0) -> Figures:
        """Seconds spent by each part since `before`, and what others took of the machine meanwhile."""
        worker, broker, runner = self.worker - before.worker, self.broker - before.broker, self.runner - before.runner
        others = self.machine - before.machine - worker - broker - runner - client_cpu
        capacity = (self.at - before.at) * (os.cpu_count() or 1)
        return {"worker_cpu": worker, "broker_cpu": broker, "others_percent": max(0.0, 100 * others / capacity)}


def noop(contestant: Contestant, sizes: Sizes) -> Figures:
    """Send N tasks that do nothing, then collect N results."""
    with contestant.running() as client:
        return _throughput(contestant, client, task="noop", tasks=sizes.tasks(contestant.name))


def echo(contestant: Contestant, sizes: Sizes) -> Figures:
    """The same with 10 KiB there and back, a quarter as many."""
    with contestant.running() as client:
        return _throughput(contestant, client, task="echo", tasks=sizes.tasks(contestant.name, 0.25), size=10_240)


def latency(contestant: Contestant, sizes: Sizes) -> Figures:
    """One task at a time: from delay() to the result."""
    with contestant.running() as client:
        before = Meter.read(contestant, client)
        figures = client.ask("latency", trips=sizes.trips)
        spent = Meter.read(contestant, client).since(before, client_cpu=figures.pop("client_cpu"))
        return {**figures, "others_percent": spent["others_percent"]}


def canvas(contestant: Contestant, sizes: Sizes) -> Figures:
    """A chain of 10, a group of 1,000 and a chord of 100: from the call to the last result, one at a time."""
    with contestant.running() as client:
        before = Meter.read(contestant, client)
        figures = client.ask("shapes", sizes=dict(SHAPES), rounds=sizes.shapes)
        spent = Meter.read(contestant, client).since(before, client_cpu=figures.pop("client_cpu"))
        return {**figures, "others_percent": spent["others_percent"]}


def events(contestant: Contestant, sizes: Sizes) -> Figures:
    """The rate of no-op tasks with task events and somebody who listens, of that without."""
    tasks = sizes.tasks(contestant.name, 0.5)
    with contestant.running() as client:
        without = client.ask("throughput", task="noop", tasks=tasks)
    with contestant.running(events=True) as client, contestant.client() as listener:
        listener.ask("listen")
        before = listener.ask("heard")["events"]
        with_events = client.ask("throughput", task="noop", tasks=tasks)
        _await_quiet(contestant, sizes.deadline)
        heard = listener.ask("heard")["events"] - before
    return {
        "without_per_second": tasks / without["seconds"],
        "with_per_second": tasks / with_events["seconds"],
        "with_to_without": without["seconds"] / with_events["seconds"],
        "heard_a_task": heard / tasks,
    }


def imports(contestant: Contestant, sizes: Sizes) -> Figures:
    """A script with an app and one task, less the bare interpreter, each in a process of its own, in turn."""
    scripts = (contestant.import_script, "import_nothing.py")
    # The first round compiles what isn't compiled yet and doesn't count.
    rounds = [[_run_seconds(contestant, script) for script in scripts] for _ in range(1 + sizes.imports)][1:]
    script_ms, bare_ms = (1000 * statistics.median(column) for column in zip(*rounds, strict=True))
    return {"import_ms": script_ms - bare_ms, "interpreter_ms": bare_ms}


def start(contestant: Contestant, sizes: Sizes) -> Figures:
    """From the start of the worker to the first result at a client that is already there."""
    with contestant.cleared():
        contestant.prepare()
        with contestant.client() as client:
            begin = time.monotonic()
            contestant.start_worker()
            client.ask("first")
            return {"start_seconds": time.monotonic() - begin}


def idle(contestant: Contestant, sizes: Sizes) -> Figures:
    """Processor time and memory of a worker (and node or Redis) that had a few tasks and now waits."""
    with contestant.running() as client:
        client.stop()
        time.sleep(_SETTLE)
        before = Meter.read(contestant)
        time.sleep(sizes.idle_seconds)
        after = Meter.read(contestant)
        spent, seconds = after.since(before), after.at - before.at
        return {
            "worker_percent": 100 * spent["worker_cpu"] / seconds,
            "broker_percent": 100 * spent["broker_cpu"] / seconds,
            "worker_pss_mb": procfs.memory_mb(after.parts.worker, "Pss"),
            "broker_pss_mb": procfs.memory_mb(after.parts.broker, "Pss"),
            "processes": len(after.parts.worker),
            "others_percent": spent["others_percent"],
        }


def backlog(contestant: Contestant, sizes: Sizes) -> Figures:
    """The rate of the workers while few and while many tasks wait: the same number drained and timed."""
    few, many = (_rate_with_waiting(contestant, sizes, level) for level in sizes.levels)
    return {
        "few_waiting": sizes.levels[0],
        "many_waiting": sizes.levels[1],
        "few_per_second": few["per_second"],
        "many_per_second": many["per_second"],
        "many_to_few": many["per_second"] / few["per_second"],
        "few_broker_us": few["broker_us"],
        "many_broker_us": many["broker_us"],
        "few_worker_us": few["worker_us"],
        "many_worker_us": many["worker_us"],
        "enqueue_per_second": many["enqueue_per_second"],
        "others_percent": max(few["others_percent"], many["others_percent"]),
    }


def million(contestant: Contestant, sizes: Sizes) -> Figures:
    """Memory of the node while a million small tasks wait in it and no worker is there."""
    with contestant.cleared():
        contestant.start_broker()
        with contestant.client() as client:
            client.ask("enqueue", task="add", tasks=1, keep=False)
            _await_quiet(contestant, sizes.deadline)
            node = contestant.parts().broker
            empty = procfs.memory_mb(node, "Pss")
            sent = client.ask("enqueue", task="add", tasks=sizes.million - 1, keep=False)
            _await_quiet(contestant, sizes.deadline)
            return {
                "waiting": contestant.waiting(),
                "empty_pss_mb": empty,
                "pss_mb": procfs.memory_mb(node, "Pss"),
                "rss_mb": procfs.memory_mb(node, "Rss"),
                "enqueue_per_second": sizes.million / sent["seconds"],
            }


def growth(contestant: Contestant, sizes: Sizes) -> Figures:
    """Memory of worker and node over many tasks: a line through what is read after each tenth but the first two."""
    with contestant.running() as client:
        run, worker, node = [], [], []
        for tenth in range(1, 11):
            client.ask("throughput", task="noop", tasks=sizes.growth // 10)
            parts = contestant.parts()
            run.append(tenth * sizes.growth / 10)
            worker.append(procfs.memory_mb(parts.worker, "Pss"))
            node.append(procfs.memory_mb(parts.broker, "Pss"))
        return {
            "tasks": sizes.growth,
            "worker_first_mb": worker[0],
            "worker_last_mb": worker[-1],
            "worker_bytes_a_task": 1e6 * statistics.linear_regression(run[2:], worker[2:]).slope,
            "node_first_mb": node[0],
            "node_last_mb": node[-1],
            "node_bytes_a_task": 1e6 * statistics.linear_regression(run[2:], node[2:]).slope,
        }


def budget(contestant: Contestant, sizes: Sizes) -> Figures:
    """Where the processor time of a task goes: delay(), node, worker, and get() once all results are there."""
    tasks = sizes.tasks(contestant.name, 0.25)
    with contestant.running() as client:
        before = Meter.read(contestant, client)
        sent = client.ask("enqueue", task="add", tasks=tasks)
        _await_quiet(contestant, sizes.deadline)
        collected = client.ask("collect")
        spent = Meter.read(contestant, client).since(before, client_cpu=sent["client_cpu"] + collected["client_cpu"])
        return {
            "delay_us": 1e6 * sent["thread_cpu"] / tasks,
            "delay_threads_us": 1e6 * (sent["client_cpu"] - sent["thread_cpu"]) / tasks,
            "broker_us": 1e6 * spent["broker_cpu"] / tasks,
            "worker_us": 1e6 * spent["worker_cpu"] / tasks,
            "get_us": 1e6 * collected["client_cpu"] / tasks,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Measure:
    """A measure and who takes part in it. `for_peers`: whether the peers' share is worth its time in a quick run."""

    run: Callable[[Contestant, Sizes], Figures]
    contestants: tuple[str, ...]
    for_peers: bool = True

    @property
    def name(self) -> str:
        return self.run.__name__


#: The shapes of `canvas`, with their sizes.
SHAPES: Mapping[str, int] = {"chain": 10, "group": 1_000, "chord": 100}

_ALL = ("zerocelery", "celery", "dramatiq", "ppe")
_QUEUES = ("zerocelery", "celery", "dramatiq")

MEASURES = (
    Measure(noop, _ALL),
    Measure(echo, _ALL),
    Measure(latency, _ALL),
    Measure(canvas, ("zerocelery", "celery")),
    Measure(events, ("zerocelery", "celery")),
    Measure(start, _QUEUES),
    Measure(imports, _QUEUES),
    Measure(idle, _QUEUES),
    Measure(budget, ("zerocelery", "celery")),
    Measure(backlog, _QUEUES, for_peers=False),
    Measure(million, ("zerocelery",)),
    Measure(growth, ("zerocelery",)),
)


def _throughput(contestant: Contestant, client: Client, *, task: str, tasks: int, size: int = 0) -> Figures:
    before = Meter.read(contestant, client)
    figures = client.ask("throughput", task=task, tasks=tasks, size=size)
    after = Meter.read(contestant, client)
    spent = after.since(before, client_cpu=figures["client_cpu"])
    client_us, worker_us, broker_us = (
        1e6 * seconds / tasks for seconds in (figures["client_cpu"], spent["worker_cpu"], spent["broker_cpu"])
    )
    return {
        "tasks": tasks,
        "per_second": tasks / figures["seconds"],
        "enqueue_per_second": tasks / figures["enqueue_seconds"],
        "client_us": client_us,
        "worker_us": worker_us,
        "broker_us": broker_us,
        "sum_us": client_us + worker_us + broker_us,
        "loaded_worker_pss_mb": procfs.memory_mb(after.parts.worker, "Pss"),
        "loaded_broker_pss_mb": procfs.memory_mb(after.parts.broker, "Pss"),
        "others_percent": spent["others_percent"],
    }


def _rate_with_waiting(contestant: Contestant, sizes: Sizes, waiting: int) -> Figures:
    """The rate at which workers run tasks while at least so many more wait; the client only looks on."""
    tasks = sizes.tasks(contestant.name)
    first, last = contestant.scratch / "first", contestant.scratch / "last"
    for stamp in (first, last):
        stamp.unlink(missing_ok=True)
    with contestant.cleared():
        contestant.start_broker()
        with contestant.client() as client:
            stamps = {"first": str(first), "last": str(last)}
            sent = client.ask("backlog", before=tasks // 5, between=tasks, after=waiting, **stamps)
            _await_quiet(contestant, sizes.deadline)
            contestant.start_worker()
            _await_file(first, contestant, sizes.deadline)
            before = Meter.read(contestant)
            _await_file(last, contestant, sizes.deadline)
            spent = Meter.read(contestant).since(before)
            return {
                "per_second": tasks / (float(last.read_text()) - float(first.read_text())),
                "enqueue_per_second": (tasks + tasks // 5 + waiting) / sent["seconds"],
                "broker_us": 1e6 * spent["broker_cpu"] / tasks,
                "worker_us": 1e6 * spent["worker_cpu"] / tasks,
                "others_percent": spent["others_percent"],
            }


def _await_file(path: Path, contestant: Contestant, deadline: float) -> None:
    """Return once a task has left this file.

    Raises:
        Hung: it hasn't by the deadline.
    """
    end = time.monotonic() + deadline
    while not path.exists():
        contestant.check()
        if time.monotonic() > end:
            raise Hung(f"the workers did not get through the waiting tasks within {deadline:g} s")
        time.sleep(_POLL)


def _await_quiet(contestant: Contestant, deadline: float) -> None:
    """Return once worker and broker have done what they had to do.

    Raises:
        Failed: they still work at the deadline.
    """
    end = time.monotonic() + deadline
    before = Meter.read(contestant)
    while time.monotonic() < end:
        time.sleep(_QUIET_SECONDS)
        after = Meter.read(contestant)
        spent = after.since(before)
        if spent["worker_cpu"] + spent["broker_cpu"] < _QUIET_SHARE * (after.at - before.at):
            return
        before = after
    raise Failed(f"not quiet within {deadline:g} s")


def _run_seconds(contestant: Contestant, script: str) -> float:
    command = [contestant.interpreter.python, script]
    variables = dict(contestant.interpreter.variables)
    begin = time.perf_counter()
    try:
        subprocess.run(command, cwd=SCRIPTS, env=variables, check=True, timeout=_IMPORT_DEADLINE, stderr=sys.stderr)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{script}: {error}") from error
    return time.perf_counter() - begin
