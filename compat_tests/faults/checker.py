"""Says whether a run under faults kept the promises, from what clients, tasks and the nemesis wrote down themselves.

Each client appends a line for each operation: ``invoke`` before it, and after it ``ok``, ``fail`` (it certainly did not
happen) or ``info`` (nobody knows: never counted as failed). Each task appends a line when it begins and when it ends.
The nemesis appends a line for each process that it killed or froze. After the run everything is healed and drained, and
then :func:`check` compares; it asks the system under test nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compat_tests.faults.worker_strategies import Line
from zerocelery.engine import wire

#: Outcomes that the engine itself makes when a process was lost.
LOSSES = frozenset({"worker-lost", "dead"})

#: What two processes write down at the same time may be out of order by this much (seconds).
_SKEW = 0.005

#: A run's result has left its process this long after the run, where there is a node to take it (seconds).
_SETTLED = 0.3


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of a history.

    Arguments:
        kind: invoke, ok, fail or info.
        what: submit; result (the owner got it); stored (anybody with the id got it).
        outcome: SUCCESS, FAILURE, or the kind of the engine's own outcome.
        members: for the body of a group, the tasks whose values it gets.
        the rest: for an invoked submit: what is needed to know what the task should give.
    """

    kind: str
    what: str
    task: str
    at: float
    outcome: str = ""
    value: Any = None
    flags: int = 0
    expected: Any = None
    eta: float | None = None
    members: Sequence[str] = ()


class History:
    """A file of operations, one JSON object a line, each written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def add(self, kind: str, what: str, task: str, **more: Any) -> None:
        self.add_all([(kind, what, task, more)])

    def add_all(self, operations: Iterable[tuple[str, str, str, dict[str, Any]]]) -> None:
        """In one write: a process that is killed leaves whole lines only."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        at = time.monotonic()
        rows = (
            {"kind": kind, "what": what, "task": task, "at": at, **more} for kind, what, task, more in operations
        )  # fmt: skip
        os.write(self._fd, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @staticmethod
    def read(path: Path) -> list[Operation]:
        return [Operation(**json.loads(row)) for row in path.read_text().splitlines()]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What the nemesis did to one process: ``killed`` or ``frozen``, until when; or that there was no ``node``."""

    what: str
    pid: int
    at: float
    until: float = 0.0


@dataclasses.dataclass
class Verdict:
    """What is wrong (empty where all is well), and what there is to count.

    Arguments:
        lost: accepted, and without an outcome.
        unexpected: has an outcome or ran, and nobody submitted it.
        conflicting: two different outcomes were seen.
        unseen: has an outcome, and its owner, or somebody with its id, could not get it.
        duplicated: ran more than once, early, or late and no fault explains each run but the last.
        wrong: SUCCESS with another value than the function gives, or without having been run.
        unexplained: told as lost, and no process that it ran in was killed or frozen, or it was to be run again.
        hasty: began before its ETA.
        recovered: has an outcome though its receipt never came (fine).
        repeated: late tasks that ran again because of a fault (fine).
        told: outcomes worker-lost and dead (fine).
    """

    lost: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    conflicting: list[str] = dataclasses.field(default_factory=list)
    unseen: list[str] = dataclasses.field(default_factory=list)
    duplicated: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    unexplained: list[str] = dataclasses.field(default_factory=list)
    hasty: list[str] = dataclasses.field(default_factory=list)
    attempted: int = 0
    accepted: int = 0
    finished: int = 0
    recovered: int = 0
    repeated: int = 0
    told: int = 0
    latest: float = 0.0

    FAULTS = ("lost", "unexpected", "conflicting", "unseen", "duplicated", "wrong", "unexplained", "hasty")

    @property
    def problems(self) -> dict[str, list[str]]:
        return {name: found for name in self.FAULTS if (found := getattr(self, name))}

    @property
    def well(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        counts = (
            f"{self.accepted} of {self.attempted} accepted, {self.finished} finished, {self.told} told as lost, "
            f"{self.repeated} run again, {self.recovered} recovered"
        )
        if self.well:
            return f"all well ({counts})"
        return "; ".join(f"{len(found)} {name}" for name, found in self.problems.items()) + f" ({counts})"


def check(
    operations: Iterable[Operation],
    runs: Iterable[Line],
    faults: Sequence[Fault],
    *,
    orphaned: frozenset[str] = frozenset(),
    not_asked: frozenset[str] = frozenset(),
) -> Verdict:
    """Compare what was promised with what happened.

    Arguments:
        orphaned: tasks whose client was killed: nobody could get their results as their owner.
        not_asked: tasks whose results nobody asked for by id.
    """
    return _Check(operations, runs, faults, orphaned, not_asked).verdict()


class _Check:
    def __init__(
        self,
        operations: Iterable[Operation],
        runs: Iterable[Line],
        faults: Sequence[Fault],
        orphaned: frozenset[str],
        not_asked: frozenset[str],
    ) -> None:
        self.orphaned, self.not_asked = orphaned, not_asked
        self.submitted: dict[str, Operation] = {}
        self.receipts: set[str] = set()
        self.refused: set[str] = set()
        self.seen: dict[str, dict[str, list[Operation]]] = {"result": defaultdict(list), "stored": defaultdict(list)}
        for operation in operations:
            self._take(operation)
        self.starts: dict[str, list[Line]] = defaultdict(list)
        self.ends: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.faults: dict[int, list[Fault]] = defaultdict(list)
        self.outages = [fault for fault in faults if fault.what == "node"]
        for fault in faults:
            self.faults[fault.pid].append(fault)
        for line in sorted(runs, key=lambda line: line.at):
            if line.what == "start":
                self.starts[line.task].append(line)
            elif line.what == "end":
                self.ends[line.task, line.pid].append(line.at)
            elif line.what == "die":  # a task that ends its own process
                self.faults[line.pid].append(Fault("killed", line.pid, line.at))

    def _take(self, operation: Operation) -> None:
        if operation.what == "submit":
            if operation.kind == "invoke":
                self.submitted[operation.task] = operation
            elif operation.kind == "ok":
                self.receipts.add(operation.task)
            elif operation.kind == "fail":
                self.refused.add(operation.task)
        elif operation.kind == "ok":
            self.seen[operation.what][operation.task].append(operation)

    def verdict(self) -> Verdict:
        verdict = Verdict()
        outcomes: dict[str, list[Operation]] = defaultdict(list)
        for by_task in self.seen.values():
            for task, operations in by_task.items():
                outcomes[task] += operations
        attempted = set(self.submitted)
        accepted = self.receipts & attempted
        verdict.attempted, verdict.accepted, verdict.finished = len(attempted), len(accepted), len(outcomes)
        verdict.lost = sorted(accepted - set(outcomes))
        impossible = self.refused - self.receipts
        verdict.unexpected = sorted((set(outcomes) | set(self.starts)) - attempted | (impossible & set(outcomes)))
        verdict.recovered = len((set(outcomes) & attempted) - self.receipts)
        for task, found in outcomes.items():
            self._judge_outcome(verdict, task, found)
            self._judge_body(verdict, task, outcomes)
        for task, starts in self.starts.items():
            self._judge_runs(verdict, task, starts)
        return verdict

    def _judge_outcome(self, verdict: Verdict, task: str, found: list[Operation]) -> None:
        if len({(operation.outcome, json.dumps(operation.value)) for operation in found}) > 1:
            verdict.conflicting.append(task)
        by_owner, by_id = self.seen["result"].get(task), self.seen["stored"].get(task)
        if (not by_owner and task not in self.orphaned) or (not by_id and task not in self.not_asked):
            verdict.unseen.append(task)
        submitted = self.submitted.get(task)
        if submitted is None:
            return
        outcome = found[0].outcome
        if outcome == "SUCCESS" and (found[0].value != submitted.expected or not self.starts.get(task)):
            verdict.wrong.append(task)
        elif outcome in LOSSES:
            verdict.told += 1
            again = submitted.flags & wire.ACK_LATE and submitted.flags & wire.REJECT_ON_LOST
            if not self._explained(task) or (again and outcome == "worker-lost"):
                verdict.unexplained.append(task)
        elif outcome not in ("SUCCESS", "expired"):
            verdict.wrong.append(task)

    def _judge_body(self, verdict: Verdict, task: str, outcomes: Mapping[str, Sequence[Operation]]) -> None:
        """A group's body is run with the values of all its members; where one has failed it fails, and is not run."""
        submitted = self.submitted.get(task)
        if submitted is None or not submitted.members:
            return
        well = all(found.outcome == "SUCCESS" for member in submitted.members for found in outcomes.get(member, ()))
        if not well and (self.starts.get(task) or outcomes[task][0].outcome == "SUCCESS"):
            verdict.wrong.append(task)
        elif well and not self.starts.get(task):
            verdict.unexplained.append(task)

    def _explained(self, task: str) -> bool:
        """Whether a loss is a fault's: of a process that it ran in, or, where it had no time to write, of any."""
        starts = self.starts.get(task)
        if not starts:
            return bool(self.faults)
        return any(self._hit(line) for line in starts)

    def _hit(self, line: Line) -> bool:
        """Whether a fault hit the process of a run before the run's result was safe."""
        return any(
            max(fault.at, fault.until) + _SKEW >= line.at and fault.at <= self._safe_at(line)
            for fault in self.faults.get(line.pid, ())
            if fault.what != "node"
        )

    def _safe_at(self, line: Line) -> float:
        """When the result of a run had left its process: soon after its end, or after the node's return."""
        end = next((end for end in self.ends[line.task, line.pid] if end >= line.at), None)
        if end is None:
            return float("inf")
        safe = end + _SETTLED
        for outage in sorted(self.outages, key=lambda outage: outage.at):
            if outage.at <= safe <= outage.until + _SETTLED:
                safe = outage.until + _SETTLED
        return safe

    def _judge_runs(self, verdict: Verdict, task: str, starts: list[Line]) -> None:
        submitted = self.submitted.get(task)
        if submitted is None:
            return
        if submitted.eta is not None:
            # ETAs are wall-clock time, runs are monotonic: what the client wrote has both.
            verdict.latest = max(verdict.latest, starts[0].at - submitted.eta)
            if starts[0].at < submitted.eta - 2 * _SKEW:
                verdict.hasty.append(task)
        if len(starts) == 1:
            return
        if not submitted.flags & wire.ACK_LATE or not all(self._hit(line) for line in starts[:-1]):
            verdict.duplicated.append(task)
        else:
            verdict.repeated += 1


def read_histories(paths: Iterable[Path]) -> list[Operation]:
    return [operation for path in sorted(paths) for operation in History.read(path)]


def outcome_of(result: wire.Result) -> str:
    """One word for a result: its state, or the kind of the engine's own outcome."""
    if result.content_type == wire.LOSS_TYPE:
        loss = wire.decode_loss(result.value)
        return loss.kind if isinstance(loss, wire.Loss) else "unreadable"
    return result.state


def tally(verdicts: Mapping[str, Verdict]) -> str:
    """A table of runs, one a line."""
    width = max(map(len, verdicts), default=0)
    return "\n".join(f"{name:{width}}  {verdict}" for name, verdict in verdicts.items())
