"""Records to tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.campaign import Record
from benchmarks.contestants import CONTESTANTS
from benchmarks.measures import SHAPES
from benchmarks.spread import Reading, Readings
from benchmarks.tables import Table
from benchmarks.targets import BUDGET, OURS, TARGETS, total_pss

_NAMES = tuple(contestant.name for contestant in CONTESTANTS)
_QUEUES = tuple(contestant.name for contestant in CONTESTANTS if contestant.is_queue)
_STANDARD = "celery"


def tables(records: Sequence[Record], *, facts: Mapping[str, str], absent: Mapping[str, str]) -> list[Table]:
    """Everything worth printing; a table whose measure wasn't taken is left out."""
    readings = Readings(records)
    taken = {record.measure for record in records}
    made = [make(readings) for measures, make in _TABLES if taken & set(measures)]
    return [
        _facts(facts),
        *(table for table in made if table.rows),
        *_failures(records, absent),
        _targets(readings),
    ]


def _facts(facts: Mapping[str, str]) -> Table:
    return Table("Machine and versions", ("what", "which"), [(name, value) for name, value in facts.items()])


def _throughput(readings: Readings) -> Table:
    return Table(
        "Throughput: send N, collect N",
        ("contestant", "runs", "no-op tasks/s", "to celery", "enqueue/s", "10 KiB tasks/s", "to celery", "others' CPU"),
        [
            (
                name,
                str(readings.runs("noop", name)),
                readings.spread("noop", name, "per_second").text(),
                _to_celery(readings, "noop", "per_second", name),
                readings.spread("noop", name, "enqueue_per_second").text(),
                readings.spread("echo", name, "per_second").text(),
                _to_celery(readings, "echo", "per_second", name),
                readings.spread("noop", name, "others_percent").text(" %"),
            )
            for name in _with(readings, ("noop", "echo"), _NAMES)
        ],
        note="Median (min–max) of the repeats; ratios are those within one repeat.",
    )


def _processor_time(readings: Readings) -> Table:
    columns = ("client_us", "worker_us", "broker_us", "sum_us")
    return Table(
        "CPU µs a no-op task, and who spends it",
        ("contestant", "client", "worker", "node or Redis", "sum", "to celery", "10 KiB: sum"),
        [
            (
                name,
                *(readings.spread("noop", name, column).text() for column in columns),
                _to_celery(readings, "noop", "sum_us", name),
                readings.spread("echo", name, "sum_us").text(),
            )
            for name in _with(readings, ("noop", "echo"), _NAMES)
        ],
    )


def _latency(readings: Readings) -> Table:
    return Table(
        "delay().get(), one at a time, ms",
        ("contestant", "runs", "median", "p95", "p99", "median to celery", "others' CPU"),
        [
            (
                name,
                str(readings.runs("latency", name)),
                *(readings.spread("latency", name, f"{rank}_ms").text() for rank in ("median", "p95", "p99")),
                _to_celery(readings, "latency", "median_ms", name),
                readings.spread("latency", name, "others_percent").text(" %"),
            )
            for name in _with(readings, ("latency",), _NAMES)
        ],
    )


def _canvas(readings: Readings) -> Table:
    columns = tuple(f"{shape}_ms" for shape in SHAPES)
    return Table(
        "Canvas: from the call to the last result, ms",
        (
            "contestant",
            "runs",
            *(f"{shape} of {size:,}" for shape, size in SHAPES.items()),
            *(f"{shape}, to celery" for shape in SHAPES),
        ),
        [
            (
                name,
                str(readings.runs("canvas", name)),
                *_texts(readings, "canvas", name, columns),
                *(_to_celery(readings, "canvas", column, name) for column in columns),
            )
            for name in _with(readings, ("canvas",), _QUEUES)
        ],
    )


def _events(readings: Readings) -> Table:
    columns = ("without_per_second", "with_per_second", "with_to_without", "heard_a_task")
    return Table(
        "With task events (-E) and a listener",
        ("contestant", "runs", "tasks/s without", "with", "with to without", "events heard a task"),
        [
            (name, str(readings.runs("events", name)), *_texts(readings, "events", name, columns))
            for name in _with(readings, ("events",), _QUEUES)
        ],
    )


def _at_rest(readings: Readings) -> Table:
    return Table(
        "Start, import, at rest",
        (
            "contestant",
            "start → first result s",
            "import ms",
            "idle CPU % worker",
            "node or Redis",
            "PSS MB worker",
            "node or Redis",
            "both",
            "PSS MB after load, worker",
            "node or Redis",
        ),
        [
            (
                name,
                readings.spread("start", name, "start_seconds").text(),
                readings.spread("imports", name, "import_ms").text(),
                readings.spread("idle", name, "worker_percent").text(),
                readings.spread("idle", name, "broker_percent").text(),
                readings.spread("idle", name, "worker_pss_mb").text(),
                readings.spread("idle", name, "broker_pss_mb").text(),
                readings.spread("idle", name, total_pss).text(),
                readings.spread("noop", name, "loaded_worker_pss_mb").text(),
                readings.spread("noop", name, "loaded_broker_pss_mb").text(),
            )
            for name in _with(readings, ("start", "imports", "idle"), _QUEUES)
        ],
        note="The import time is less that of the bare interpreter. Redis may serve others too.",
    )


def _backlog(readings: Readings) -> Table:
    return Table(
        "With tasks waiting",
        (
            "contestant",
            "waiting, few",
            "many",
            "tasks/s, few",
            "many",
            "many to few",
            "node or Redis µs/task, few",
            "many",
            "worker µs/task, few",
            "many",
            "enqueue/s, nobody working",
        ),
        [
            (
                name,
                *_texts(readings, "backlog", name, ("few_waiting", "many_waiting", "few_per_second")),
                *_texts(readings, "backlog", name, ("many_per_second", "many_to_few", "few_broker_us")),
                *_texts(readings, "backlog", name, ("many_broker_us", "few_worker_us", "many_worker_us")),
                *_texts(readings, "backlog", name, ("enqueue_per_second",)),
            )
            for name in _with(readings, ("backlog",), _QUEUES)
        ],
        note="Enqueued while nobody works; then workers start. Timed is the same number, with so many more behind it.",
    )


def _million(readings: Readings) -> Table:
    return Table(
        "Node's memory with tasks waiting, MB",
        ("contestant", "waiting", "PSS with one", "PSS", "RSS", "enqueue/s"),
        [
            (
                name,
                *_texts(readings, "million", name, ("waiting", "empty_pss_mb", "pss_mb", "rss_mb")),
                *_texts(readings, "million", name, ("enqueue_per_second",)),
            )
            for name in _with(readings, ("million",), _QUEUES)
        ],
    )


def _growth(readings: Readings) -> Table:
    return Table(
        "Memory (PSS) over many tasks, MB",
        (
            "contestant",
            "tasks",
            "worker, first tenth",
            "last",
            "bytes a task",
            "node, first tenth",
            "last",
            "bytes a task",
        ),
        [
            (
                name,
                *_texts(readings, "growth", name, ("tasks", "worker_first_mb", "worker_last_mb")),
                *_texts(readings, "growth", name, ("worker_bytes_a_task", "node_first_mb", "node_last_mb")),
                *_texts(readings, "growth", name, ("node_bytes_a_task",)),
            )
            for name in _with(readings, ("growth",), _QUEUES)
        ],
        note="The slope is that of a line through what was read after each tenth but the first two.",
    )


def _budget(readings: Readings) -> Table:
    return Table(
        "Budget: CPU µs a task, by part",
        ("part", "budget", OURS, "within", _STANDARD),
        [
            (
                part,
                f"≤ {bound}" if bound else "",
                readings.spread("budget", OURS, figure).text(),
                _within(readings, figure, bound),
                readings.spread("budget", _STANDARD, figure).text(),
            )
            for part, bound, figure in BUDGET
            if _with(readings, ("budget",), (OURS, _STANDARD))
        ],
        note="All are sent, then the machine is left alone until nothing works any more, then all are collected.",
    )


def _within(readings: Readings, figure: str, bound: int | None) -> str:
    spread = readings.spread("budget", OURS, figure)
    if not spread or bound is None:
        return ""
    return "yes" if spread.median <= bound else "NO"


def _targets(readings: Readings) -> Table:
    rows = []
    for target in TARGETS:
        spread = target.read(readings)
        rows.append((target.what, target.wanted(), spread.text(target.unit), target.verdict(spread)))
    return Table("Targets of zerocelery", ("what", "wanted", "measured", "met"), rows, note="By the median.")


def _failures(records: Iterable[Record], absent: Mapping[str, str]) -> list[Table]:
    rows = [(name, "all", "", why) for name, why in absent.items()]
    rows += [(r.contestant, r.measure, str(r.repeat), r.failure) for r in records if r.failure]
    return [Table("What could not be measured", ("contestant", "measure", "repeat", "why"), rows)] if rows else []


def _with(readings: Readings, measures: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of the contestants that have figures of one of the measures."""
    wanted = tuple(measures)
    return [name for name in names if any(readings.runs(measure, name) for measure in wanted)]


def _texts(readings: Readings, measure: str, name: str, columns: Iterable[str | Reading]) -> list[str]:
    return [readings.spread(measure, name, column).text() for column in columns]


def _to_celery(readings: Readings, measure: str, reading: str | Reading, name: str) -> str:
    return readings.ratio(measure, reading, of=name, to=_STANDARD).text("×")


_TABLES: tuple[tuple[tuple[str, ...], Callable[[Readings], Table]], ...] = (
    (("noop", "echo"), _throughput),
    (("noop", "echo"), _processor_time),
    (("latency",), _latency),
    (("canvas",), _canvas),
    (("events",), _events),
    (("start", "imports", "idle"), _at_rest),
    (("backlog",), _backlog),
    (("million",), _million),
    (("growth",), _growth),
    (("budget",), _budget),
)
