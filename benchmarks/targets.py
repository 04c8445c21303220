"""What zerocelery has to reach, and whether it did: a report, never a failing test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from benchmarks.measures import Figures
from benchmarks.spread import MISSING, Readings, Spread

OURS = "zerocelery"
_MILLION = 1_000_000
_MANY = 100_000
_GROWTH = 200_000


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """One bound on a median. `at_least` says on which side of it is good."""

    what: str
    bound: float
    read: Callable[[Readings], Spread]
    unit: str = ""
    at_least: bool = False

    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}{self.unit}"

    def verdict(self, spread: Spread) -> str:
        """yes or no by the median; nothing where it wasn't measured."""
        if not spread:
            return MISSING
        met = spread.median >= self.bound if self.at_least else spread.median <= self.bound
        return "yes" if met else "NO"


def total_pss(figures: Figures) -> float:
    """Worker and node together."""
    return figures["worker_pss_mb"] + figures["broker_pss_mb"]


def total_percent(figures: Figures) -> float:
    """Worker and node together."""
    return figures["worker_percent"] + figures["broker_percent"]


def _times(measure: str, reading: str, to: str) -> Callable[[Readings], Spread]:
    return lambda readings: readings.ratio(measure, reading, of=OURS, to=to)


def _better(measure: str, reading: str, than: str) -> Callable[[Readings], Spread]:
    return lambda readings: readings.ratio(measure, reading, of=than, to=OURS)


def _figure(measure: str, reading: str | Callable[[Figures], float]) -> Callable[[Readings], Spread]:
    return lambda readings: readings.spread(measure, OURS, reading)


def _memory_to_celery(readings: Readings) -> Spread:
    """Worker and node against celery's worker alone."""
    return readings.ratio("idle", total_pss, of=OURS, to="celery", to_reading=lambda f: f["worker_pss_mb"])


def _only_when(field: str, least: float, reading: str) -> Callable[[Figures], float]:
    """The figure where the run was large enough for it, nothing where it was a quick one."""
    return lambda figures: figures[reading] if figures[field] >= least else float("nan")


TARGETS = (
    Target("no-op tasks/s, times celery", 15, _times("noop", "per_second", "celery"), unit="×", at_least=True),
    Target("no-op tasks/s, times dramatiq", 3, _times("noop", "per_second", "dramatiq"), unit="×", at_least=True),
    Target("no-op tasks/s, times the process pool", 1, _times("noop", "per_second", "ppe"), unit="×", at_least=True),
    Target("10 KiB tasks/s, times celery", 8, _times("echo", "per_second", "celery"), unit="×", at_least=True),
    Target("delay().get() median, times better than celery", 5, _better("latency", "median_ms", "celery"), "×", True),
    Target("delay().get() median", 0.4, _figure("latency", "median_ms"), unit=" ms"),
    Target("delay().get() p99", 1.5, _figure("latency", "p99_ms"), unit=" ms"),
    Target("chain of 10, times faster than celery", 5, _better("canvas", "chain_ms", "celery"), "×", True),
    Target("group of 1,000, times faster than celery", 10, _better("canvas", "group_ms", "celery"), "×", True),
    Target("chord of 100, times faster than celery", 10, _better("canvas", "chord_ms", "celery"), "×", True),
    Target("rate with -E and a listener, of that without", 0.6, _figure("events", "with_to_without"), "×", True),
    Target(
        "rate with 100,000 waiting, of that with 1,000",
        0.9,
        _figure("backlog", _only_when("many_waiting", _MANY, "many_to_few")),
        unit="×",
        at_least=True,
    ),
    Target(
        "node's memory (RSS) with 1,000,000 waiting",
        300,
        _figure("million", _only_when("waiting", _MILLION, "rss_mb")),
        unit=" MB",
    ),
    Target(
        "worker's memory, growth a task over 200,000",
        10,
        _figure("growth", _only_when("tasks", _GROWTH, "worker_bytes_a_task")),
        unit=" B",
    ),
    Target("idle CPU of node and worker", 0.5, _figure("idle", total_percent), unit=" %"),
    Target("PSS of node and worker, of celery's worker alone", 1, _memory_to_celery, unit="×"),
    Target("import of a script with a task, of celery's", 0.5, _times("imports", "import_ms", "celery"), unit="×"),
    Target("start of the worker to its first result", 0.5, _figure("start", "start_seconds"), unit=" s"),
)

#: The budget of a task, in µs of processor time: the part, the bound, the figure of the measure `budget`.
BUDGET = (
    ("delay(x, y), the calling thread", 30, "delay_us"),
    ("delay(x, y), the client's other threads", None, "delay_threads_us"),
    ("node, in and out", 35, "broker_us"),
    ("worker: fetch, trace, run, return", 40, "worker_us"),
    ("get(), results there", 15, "get_us"),
)
