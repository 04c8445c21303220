"""What ``zerocelery top`` shows: a model that is told what happens, and gives lines. It knows no terminal."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from zerocelery.bin.status import duration, worker_of
from zerocelery.utils.text import abbr, abbrtask

Style = Literal["title", "head", "plain", "good", "bad", "selected", "dim"]

#: Run times of which percentiles are taken, of each task's name; and failures that are remembered.
_SAMPLES = 1_000
_FAILURES = 50

#: Names of tasks, and arguments of single ones, that are remembered.
_NAMES = 500
_ARGUMENTS = 10_000

_ENDS = {"task-succeeded", "task-failed", "task-retried", "task-revoked", "task-rejected"}

KEYS = "j/k select  i details  r revoke  R terminate  e events on  q quit"


class Line(NamedTuple):
    """A line of the screen."""

    text: str
    style: Style = "plain"


@dataclasses.dataclass(slots=True)
class Running:
    """A task that runs."""

    id: str
    name: str
    worker: str
    since: float


@dataclasses.dataclass(slots=True)
class Worker:
    """A worker: from what the node says of its processes, and from its own heartbeats."""

    processes: int = 0
    busy: int = 0
    queues: tuple[str, ...] = ()
    processed: int = 0
    failed: int = 0
    load: float | None = None
    heard: float = 0.0


@dataclasses.dataclass(slots=True)
class Kind:
    """All tasks of one name, as far as events have told of them."""

    done: int = 0
    failed: int = 0
    runtimes: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=_SAMPLES))


class Failure(NamedTuple):
    """A task that failed."""

    at: float
    id: str
    name: str
    worker: str
    exception: str


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of them don't exceed; 0 where there are none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    if value < 0.001:
        return f"{value * 1_000_000:.0f} µs"
    if value < 1:
        return f"{value * 1_000:.1f} ms"
    return f"{value:.2f} s" if value < 100 else duration(value)


def _column(names: Iterable[str], least: int, most: int) -> int:
    """How wide a column of names is: as the longest of them, if there is room."""
    return max(min(max(map(len, names), default=0), most), least)


class Model:
    """All that is shown.

    Arguments:
        url: of the node or broker.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.status: Mapping[str, Any] | None = None
        self.trouble = ""
        self.notice = ""
        self.selected: str | None = None
        self.details = False
        self.rates: dict[str, float] = {}
        self.queue_rates: dict[str, float] = {}
        self.workers: dict[str, Worker] = {}
        self.running: dict[str, Running] = {}
        self.kinds: dict[str, Kind] = {}
        self.failures: deque[Failure] = deque(maxlen=_FAILURES)
        self.events: Counter[str] = Counter()
        self._told_at: float | None = None
        self._arguments: dict[str, tuple[str, str]] = {}  # id → name, call

    # ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────

    def told(self, status: Mapping[str, Any], at: float) -> None:
        """Take in what the node says of itself, at this moment of a clock that only goes forward."""
        before, self.status, self.trouble = self.status, status, ""
        if before is not None and self._told_at is not None and before["session"] == status["session"]:
            passed = max(at - self._told_at, 1e-3)
            self.rates = {
                name: (value - before["counters"].get(name, 0)) / passed for name, value in status["counters"].items()
            }
            self.queue_rates = {
                name: (queue["waiting"] - before["queues"].get(name, {"waiting": 0})["waiting"]) / passed
                for name, queue in status["queues"].items()
            }
        self._told_at = at
        self._take_workers(status["workers"])

    def _take_workers(self, processes: Iterable[Mapping[str, Any]]) -> None:
        running: dict[str, Running] = {}
        found: dict[str, Worker] = {}
        for process in processes:
            name = worker_of(process["name"])
            worker = found.setdefault(name, dataclasses.replace(self.workers.get(name, Worker()), processes=0, busy=0))
            worker.processes += 1
            worker.busy += bool(process["running"])
            worker.queues = tuple(sorted({*worker.queues, *process["queues"]}))
            for task_id, task, since in process.get("tasks", ()):
                running[task_id] = Running(task_id, task, name, since)
        self.workers = found
        self.running = running

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in an event."""
        kind = event["type"]
        self.events[kind] += 1
        if kind.startswith("worker-"):
            self._worker_event(kind, event)
        elif kind in ("task-received", "task-sent"):
            self._remember(event)
        elif kind == "task-started" and self.status is None:
            name, _ = self._arguments.get(event["uuid"], ("?", ""))
            self.running[event["uuid"]] = Running(event["uuid"], name, event["hostname"], event["timestamp"])
        elif kind in _ENDS:
            self._ended(kind, event)

    def _remember(self, event: Mapping[str, Any]) -> None:
        if len(self._arguments) >= _ARGUMENTS:
            del self._arguments[next(iter(self._arguments))]
        self._arguments[event["uuid"]] = event["name"], f"args={event['args']} kwargs={event['kwargs']}"

    def _worker_event(self, kind: str, event: Mapping[str, Any]) -> None:
        name = event["hostname"]
        if kind == "worker-offline":
            if self.status is None:
                self.workers.pop(name, None)
            return
        worker = self.workers.get(name)
        if worker is None:
            if self.status is not None:
                return  # the node knows who is there
            worker = self.workers[name] = Worker()
        worker.processed = event.get("processed", worker.processed)
        worker.load = (event.get("loadavg") or [worker.load])[0]
        worker.heard = event.get("timestamp", worker.heard)
        if self.status is None:
            worker.busy = event.get("active", worker.busy)

    def _ended(self, kind: str, event: Mapping[str, Any]) -> None:
        self.running.pop(event["uuid"], None)
        name, _ = self._arguments.get(event["uuid"], ("?", ""))
        if name not in self.kinds and len(self.kinds) >= _NAMES:
            return
        of_name = self.kinds.setdefault(name, Kind())
        if kind == "task-succeeded":
            of_name.done += 1
            if event.get("runtime") is not None:
                of_name.runtimes.append(event["runtime"])
        elif kind == "task-failed":
            of_name.failed += 1
            worker = self.workers.get(event["hostname"])
            if worker is not None:
                worker.failed += 1
            text = str(event.get("exception", ""))
            self.failures.append(Failure(event["timestamp"], event["uuid"], name, event["hostname"], text))

    # ── selecting ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def oldest(self) -> list[Running]:
        """The tasks that run, the oldest first."""
        return sorted(self.running.values(), key=lambda task: task.since)

    def move(self, steps: int) -> None:
        """Select the task so many lines further down."""
        ids = [task.id for task in self.oldest]
        if not ids:
            self.selected = None
            return
        at = ids.index(self.selected) + steps if self.selected in ids else 0
        self.selected = ids[min(max(at, 0), len(ids) - 1)]

    # ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def lines(self, width: int, height: int, now: float) -> list[Line]:
        """The whole screen, at this time of the wall clock: never more than fit."""
        body = self._details(now) if self.details and self.selected else self._tables(width, height, now)
        room = max(height - 2, 0)
        shown = [Line(line.text[: max(width - 1, 0)], line.style) for line in [*self._top(), *body][:room]]
        foot = [Line("")] * (room - len(shown))
        last = Line((self.notice or KEYS)[: max(width - 1, 0)], "dim")
        return [*shown, *foot, Line(""), last][:height]

    def _top(self) -> list[Line]:
        if self.trouble:
            return [Line(f"zerocelery top  {self.url}  {self.trouble}", "bad"), Line("")]
        if self.status is None:
            return [Line(f"zerocelery top  {self.url}", "title"), Line("")]
        status, rates = self.status, self.rates
        return [
            Line(
                f"zerocelery top  {self.url}  up {duration(status['uptime'])}  durability {status['durability']}  "
                f"{status['inboxes']} clients  {status['results']} results",
                "title",
            ),
            Line(
                f"accepted {rates.get('accepted', 0):.0f}/s  finished {rates.get('finished', 0):.0f}/s  "
                f"lost {status['counters']['lost']}  dead {status['dead']}  refused {status['counters']['refused']}"
            ),
            Line(""),
        ]

    def _tables(self, width: int, height: int, now: float) -> list[Line]:
        parts = [
            self._workers(width),
            self._queues(width),
            self._running(width, now),
            self._kinds(width),
            self._failures(width),
        ]
        return [line for part in parts if part for line in (*part[: max(height // 3, 4)], Line(""))]

    def _workers(self, width: int) -> list[Line]:
        name_width = _column(self.workers, 32, width - 62)
        rows = [Line(f"{'WORKER':<{name_width}} {'BUSY':>9} {'DONE':>9} {'FAILED':>7} {'LOAD':>6}  QUEUES", "head")]
        for name, worker in sorted(self.workers.items()):
            load = "" if worker.load is None else f"{worker.load:.2f}"
            busy = f"{worker.busy}/{worker.processes}" if worker.processes else f"{worker.busy}"
            done = str(worker.processed) if worker.heard else ""
            text = f"{abbr(name, name_width):<{name_width}} {busy:>9} {done:>9} {worker.failed or '':>7} {load:>6}  "
            rows.append(Line(text + ",".join(worker.queues), "good"))
        return rows if self.workers else [Line("no worker is there: start one with zerocelery -A proj worker", "bad")]

    def _queues(self, width: int) -> list[Line]:
        if self.status is None or not self.status["queues"]:
            return []
        name_width = _column(self.status["queues"], 20, width - 60)
        rows = [
            Line(
                f"{'QUEUE':<{name_width}} {'WAITING':>9} {'PER S':>9} {'LATER':>9} {'TAKEN':>7} {'DEAD':>6}  OLDEST",
                "head",
            )
        ]
        for name, queue in sorted(self.status["queues"].items()):
            rate = self.queue_rates.get(name, 0.0)
            oldest = duration(queue["oldest"]) if queue["oldest"] else ""
            text = f"{abbr(name, name_width):<{name_width}} {queue['waiting']:>9} {rate:>+9.1f} {queue['scheduled']:>9}"
            text += f" {queue['leased']:>7} {queue['dead']:>6}  {oldest}"
            rows.append(Line(text, "bad" if queue["dead"] else "plain"))
        return rows

    def _running(self, width: int, now: float) -> list[Line]:
        if not self.running:
            return []
        # An id is of use only when it is whole; what is left is for the names.
        room = max(width - 1 - 36 - 14, 24)
        worker_width = _column((task.worker for task in self.running.values()), 8, room // 2)
        name_width = _column((task.name for task in self.running.values()), 8, room - worker_width)
        rows = [Line(f"{'RUNNING':<{name_width}} {'WORKER':<{worker_width}} {'AGE':>10}  ID", "head")]
        for task in self.oldest:
            text = f"{abbrtask(task.name, name_width):<{name_width}} {abbr(task.worker, worker_width):<{worker_width}}"
            text += f" {seconds(max(now - task.since, 0)):>10}  {task.id}"
            rows.append(Line(text, "selected" if task.id == self.selected else "plain"))
        return rows

    def _kinds(self, width: int) -> list[Line]:
        if not self.kinds:
            return []
        name_width = _column(self.kinds, 16, width - 62)
        heads = "".join(f"{head:>11}" for head in ("P50", "P95", "P99"))
        rows = [Line(f"{'TASK':<{name_width}} {'DONE':>9} {'FAILED':>7}{heads}", "head")]
        for name, kind in sorted(self.kinds.items(), key=lambda item: -item[1].done - item[1].failed):
            times = "".join(f"{seconds(percentile(kind.runtimes, p)):>11}" for p in (50, 95, 99))
            text = f"{abbrtask(name, name_width):<{name_width}} {kind.done:>9} {kind.failed:>7}"
            rows.append(Line(text + (times if kind.runtimes else ""), "bad" if kind.failed else "plain"))
        return rows

    def _failures(self, width: int) -> list[Line]:
        if not self.failures:
            return []
        rows = [Line("LAST FAILURES", "head")]
        for failure in reversed(self.failures):
            clock = time.strftime("%H:%M:%S", time.localtime(failure.at))
            rows.append(Line(f"{clock} {abbrtask(failure.name, 40)} {failure.worker}: {failure.exception}", "bad"))
        return rows

    def _details(self, now: float) -> list[Line]:
        task = self.running.get(self.selected or "")
        if task is None:
            return [Line(f"task {self.selected} runs no more (i: back)")]
        _, call = self._arguments.get(task.id, ("", "its arguments are not known: events tell them"))
        rows = {"task": task.name, "id": task.id, "worker": task.worker, "age": seconds(max(now - task.since, 0))}
        return [
            Line("DETAILS (i: back)", "head"),
            *(Line(f"{key:<8} {text}") for key, text in rows.items()),
            Line(call),
        ]
