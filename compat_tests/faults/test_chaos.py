"""The table of what is lost under which fault, as runs of some seconds each, and the checker that judges them.

Every run has a seed of its own, the same each time, and prints it; ``ZC_SEED=n`` chooses another. The long version,
with new seeds: ``python -m compat_tests.faults.chaos``.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from compat_tests.faults.chaos import MODES, NODES, ROWS, SHORT, Run, Scale
from compat_tests.faults.checker import Fault, History, Operation, Verdict, check
from compat_tests.faults.planted import BUGS
from compat_tests.faults.worker_strategies import EARLY, LATE_REJECT, Line

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

_T = TypeVar("_T")

#: For bugs that are to be found: nobody waits long for what is lost.
TINY = Scale(tasks=160, seconds=1.5, freeze=1.0, burst=600, patience=4.0)

#: Each row once, in a mode and with a node that change from row to row; the long version does all of them.
VARIANTS = [
    (row, *variant)
    for row, variant in zip([n for n in ROWS if n != "everything"], itertools.cycle(itertools.product(MODES, NODES)))
] + [("everything", "early", "embedded"), ("everything", "late", "alone")]

#: Runs wait more than they work, so some go at the same time.
_TOGETHER = 4


def seed_of(*what: str) -> int:
    """The seed of ZC_SEED, else the one of this run."""
    return int(os.environ.get("ZC_SEED") or zlib.crc32(" ".join(what).encode()) % 1_000_000)


def judge(*runs: Run) -> list[Verdict]:
    """Do them at the same time; what a failing test prints is what is needed to understand it."""
    with concurrent.futures.ThreadPoolExecutor(len(runs)) as executor:
        verdicts = list(executor.map(Run.attempt, runs))
    for run, verdict in zip(runs, verdicts, strict=True):
        print(f"ZC_SEED={run.seed}: {run.row.name}, {run.mode}, node {run.node_kind}: {verdict}")
        if not verdict.well:
            print("\n".join(run.notes))
    return verdicts


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROCELERY_HOME", raising=False)


def together(items: Iterable[_T]) -> dict[str, list[_T]]:
    """Some at a time, as parameters of a test."""
    rest = list(items)
    return {f"{n // _TOGETHER + 1}": rest[n : n + _TOGETHER] for n in range(0, len(rest), _TOGETHER)}


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("some", together(VARIANTS).values(), ids=lambda some: ", ".join(row for row, _, _ in some))
def test_rows_of_the_table(some: list[tuple[str, str, str]]) -> None:
    verdicts = judge(
        *(Run(ROWS[row], mode=mode, node=node, seed=seed_of(row, mode, node), scale=SHORT) for row, mode, node in some)
    )
    assert [row for (row, _, _), verdict in zip(some, verdicts, strict=True) if not verdict.well] == []


def test_a_row_in_other_pools() -> None:
    row = ROWS["worker killed 3 ×"]
    runs = [
        Run(row, mode="early", node="embedded", seed=seed_of(*pool), scale=SHORT, pool=pool)
        for pool in (["--start-method", "spawn"], ["--pool", "threads"])
    ]
    assert [verdict.problems for verdict in judge(*runs)] == [{}, {}]


# ── the checker finds what is wrong ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("names", together(BUGS).values(), ids=lambda names: ", ".join(names))
def test_planted_bugs_are_found(names: list[str]) -> None:
    # A fault may miss: the clock decides what runs at that moment. Three runs don't all miss.
    for n in range(3):
        bugs = {name: BUGS[name] for name in names}
        runs = [
            Run(ROWS[bug.row], mode=bug.mode, node="alone", seed=seed_of(name) + n, scale=TINY, plant=name)
            for name, bug in bugs.items()
        ]
        found = dict(zip(bugs.values(), judge(*runs), strict=True))
        names = [name for name, bug in bugs.items() if bug.finds not in found[bug].problems]
        if not names:
            return
    pytest.fail(f"not found: {names}")


def line(what: str, task: str = "t", *, at: float, pid: int = 7) -> Line:
    return Line(what, task, pid, at)


def run_of(at: float, *, pid: int = 7, took: float = 0.1) -> list[Line]:
    return [line("start", at=at, pid=pid), line("end", at=at + took, pid=pid)]


def operation(kind: str, what: str, **more: Any) -> Operation:
    return Operation(kind, what, "t", more.pop("at", 0.0), **more)


def submitted(flags: int = EARLY, *, receipt: str = "ok", eta: float | None = None) -> list[Operation]:
    return [operation("invoke", "submit", flags=flags, expected=4, eta=eta), operation(receipt, "submit")]


def seen(outcome: str = "SUCCESS", value: Any = 4, *, by_id: str | None = None) -> list[Operation]:
    return [
        operation("ok", "result", outcome=outcome, value=value),
        operation("ok", "stored", outcome=by_id or outcome, value=value),
    ]


KILLED = Fault("killed", 7, 1.05)


@dataclasses.dataclass(frozen=True)
class Case:
    operations: list[Operation]
    runs: list[Line]
    problems: Sequence[str] = ()
    faults: Sequence[Fault] = ()


CASES = {
    "all well": Case(submitted() + seen(), run_of(1.0)),
    "lost": Case(submitted(), [], ["lost"]),
    "lost though it ran": Case(submitted(), run_of(1.0), ["lost"]),
    "no receipt, no outcome: nothing was promised": Case(submitted(receipt="info"), []),
    "refused, and it ran": Case(submitted(receipt="fail") + seen(), run_of(1.0), ["unexpected"]),
    "never submitted": Case(seen(), run_of(1.0), ["unexpected"]),
    "two outcomes": Case(
        submitted() + seen("worker-lost", None, by_id="SUCCESS"), run_of(1.0), ["conflicting"], [KILLED]
    ),
    "not for its owner": Case(submitted() + seen()[1:], run_of(1.0), ["unseen"]),
    "not by its id": Case(submitted() + seen()[:1], run_of(1.0), ["unseen"]),
    "wrong value": Case(submitted() + seen(value=5), run_of(1.0), ["wrong"]),
    "success without a run": Case(submitted() + seen(), [], ["wrong"]),
    "failure of a task that can't fail": Case(submitted() + seen("FAILURE", None), run_of(1.0), ["wrong"]),
    "early, twice": Case(submitted() + seen(), run_of(1.0) + run_of(2.0), ["duplicated"], [KILLED]),
    "late, twice, because of a kill": Case(submitted(LATE_REJECT) + seen(), run_of(1.0) + run_of(2.0), [], [KILLED]),
    "late, twice, without a fault": Case(submitted(LATE_REJECT) + seen(), run_of(1.0) + run_of(2.0), ["duplicated"]),
    "late, twice, the kill hit another": Case(
        submitted(LATE_REJECT) + seen(), run_of(1.0) + run_of(2.0), ["duplicated"], [Fault("killed", 8, 1.05)]
    ),
    "late, twice, the kill came before": Case(
        submitted(LATE_REJECT) + seen(), run_of(1.0) + run_of(2.0), ["duplicated"], [Fault("killed", 7, 0.5)]
    ),
    "late, twice, the kill came long after": Case(
        submitted(LATE_REJECT) + seen(), run_of(1.0) + run_of(9.0), ["duplicated"], [Fault("killed", 7, 5.0)]
    ),
    "late, twice, the kill came long after, and there was no node": Case(
        submitted(LATE_REJECT) + seen(), run_of(1.0) + run_of(9.0), [],
        [Fault("killed", 7, 5.0), Fault("node", 0, 0.9, 6.0)],
    ),
    "late, twice, frozen": Case(
        submitted(LATE_REJECT) + seen(), run_of(1.0, took=8.0) + run_of(4.0, pid=9), [], [Fault("frozen", 7, 1.02, 8.0)]
    ),
    "late, three times, one fault": Case(
        submitted(LATE_REJECT) + seen(), run_of(1.0) + run_of(2.0, pid=8) + run_of(3.0), ["duplicated"], [KILLED]
    ),
    "told, because of a kill": Case(submitted() + seen("worker-lost", None), run_of(1.0), [], [KILLED]),
    "told, before it could write that it ran": Case(submitted() + seen("worker-lost", None), [], [], [KILLED]),
    "told without a fault": Case(submitted() + seen("worker-lost", None), run_of(1.0), ["unexplained"]),
    "told, and it was to be run again": Case(
        submitted(LATE_REJECT) + seen("worker-lost", None), run_of(1.0), ["unexplained"], [KILLED]
    ),
    "before its ETA": Case(submitted(eta=2.0) + seen(), run_of(1.0), ["hasty"]),
    "at its ETA": Case(submitted(eta=1.0) + seen(), run_of(1.0)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_checker_says_what_is_wrong(case: Case) -> None:
    verdict = check(case.operations, case.runs, case.faults)
    assert sorted(verdict.problems) == sorted(case.problems)
    assert verdict.well is not bool(case.problems)


def test_what_a_poison_task_does_to_itself_explains_its_end() -> None:
    runs = [row for at in (1.0, 2.0) for row in (line("start", at=at, pid=int(at)), line("die", at=at, pid=int(at)))]
    assert check(submitted(LATE_REJECT) + seen("dead", None), runs, []).well


def test_what_nobody_could_or_would_ask_for_is_not_unseen() -> None:
    assert check(submitted() + seen()[1:], run_of(1.0), [], orphaned=frozenset("t")).well
    assert check(submitted() + seen()[:1], run_of(1.0), [], not_asked=frozenset("t")).well


def test_a_receipt_that_never_came_is_counted_not_blamed() -> None:
    verdict = check(submitted(receipt="info") + seen(), run_of(1.0), [])
    assert (verdict.well, verdict.recovered, verdict.accepted) == (True, 1, 0)


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.add("invoke", "submit", "t", flags=6, expected=[1, "x"], eta=None)
    history.add_all(("ok", "submit", f"t{n}", {}) for n in range(3))
    history.close()
    read = History.read(history.path)
    assert [(op.kind, op.task) for op in read] == [("invoke", "t"), ("ok", "t0"), ("ok", "t1"), ("ok", "t2")]
    assert (read[0].flags, read[0].expected) == (6, [1, "x"])
