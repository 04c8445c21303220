"""One run: every measure of every repeat goes round all contestants, and whoever fails is noted and passed over."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from benchmarks.contestants import Contestant
from benchmarks.errors import BenchmarkError, Unavailable
from benchmarks.measures import MEASURES, Figures, Measure
from benchmarks.sizes import Sizes


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What one measure of one contestant gave in one repeat: figures, or why there are none."""

    repeat: int
    measure: str
    contestant: str
    figures: Figures = dataclasses.field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Which measures and contestants take part; empty is all."""

    measures: Collection[str] = ()
    contestants: Collection[str] = ()
    quick: bool = False

    def takes(self, measure: Measure, contestant: str) -> bool:
        return (
            contestant in measure.contestants
            and (not self.measures or measure.name in self.measures)
            and (not self.contestants or contestant in self.contestants)
            and (measure.for_peers or not self.quick or contestant == "zerocelery" or bool(self.measures))
        )


def available(contestants: Sequence[Contestant], choice: Choice) -> tuple[list[Contestant], dict[str, str]]:
    """Those that can run here, and why the others can't."""
    present: list[Contestant] = []
    absent: dict[str, str] = {}
    for contestant in contestants:
        if choice.contestants and contestant.name not in choice.contestants:
            continue
        try:
            contestant.available()
        except Unavailable as error:
            absent[contestant.name] = str(error)
        else:
            present.append(contestant)
    return present, absent


def run(
    contestants: Sequence[Contestant], *, choice: Choice, sizes: Sizes, report: Callable[[Record], None]
) -> list[Record]:
    """All records, in the order in which they were measured; `report` hears each at once."""
    records: list[Record] = []
    for repeat, measure, contestant in _rounds(contestants, choice=choice, repeats=sizes.repeats):
        record = _measured(repeat, measure, contestant, sizes=sizes)
        report(record)
        records.append(record)
    return records


def _rounds(
    contestants: Sequence[Contestant], *, choice: Choice, repeats: int
) -> Iterator[tuple[int, Measure, Contestant]]:
    for repeat in range(1, repeats + 1):
        for measure in MEASURES:
            for contestant in contestants:
                if choice.takes(measure, contestant.name):
                    yield repeat, measure, contestant


def _measured(repeat: int, measure: Measure, contestant: Contestant, *, sizes: Sizes) -> Record:
    begin = time.monotonic()
    figures, failure = {}, ""
    try:
        figures = measure.run(contestant, sizes)
    except BenchmarkError as error:
        failure = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - begin, 1)
    return Record(repeat, measure.name, contestant.name, figures=figures, failure=failure, seconds=seconds)
