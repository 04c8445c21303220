"""Medians with their spread, and ratios within one repeat."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

from benchmarks.campaign import Record
from benchmarks.measures import Figures

#: Reads one number off a record's figures.
Reading = Callable[[Figures], float]

MISSING = "–"


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """What some repeats gave. Without values it is missing, and says so."""

    values: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, unit: str = "") -> str:
        """``median (min–max)``; the spread only where there is one."""
        if not self.values:
            return MISSING
        low, high = min(self.values), max(self.values)
        spread = f" ({number(low)}–{number(high)})" if number(low) != number(high) else ""
        return f"{number(self.median)}{unit}{spread}"


class Readings:
    """The records of a run, read by measure and contestant."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._figures = {(r.measure, r.contestant, r.repeat): r.figures for r in records if not r.failure}

    def spread(self, measure: str, contestant: str, reading: str | Reading) -> Spread:
        """One figure over all repeats."""
        return Spread(tuple(self._by_repeat(measure, contestant, reading).values()))

    def ratio(
        self, measure: str, reading: str | Reading, *, of: str, to: str, to_reading: Reading | None = None
    ) -> Spread:
        """One contestant's figure divided by another's of the same repeat."""
        upper = self._by_repeat(measure, of, reading)
        lower = self._by_repeat(measure, to, to_reading or reading)
        return Spread(tuple(value / lower[repeat] for repeat, value in upper.items() if lower.get(repeat)))

    def runs(self, measure: str, contestant: str) -> int:
        """Repeats that succeeded."""
        return sum(key[:2] == (measure, contestant) for key in self._figures)

    def _by_repeat(self, measure: str, contestant: str, reading: str | Reading) -> dict[int, float]:
        read = reading if callable(reading) else lambda figures: figures.get(reading, float("nan"))
        found = {
            repeat: read(figures)
            for (name, who, repeat), figures in self._figures.items()
            if (name, who) == (measure, contestant)
        }
        return {repeat: value for repeat, value in found.items() if not math.isnan(value)}


def number(value: float) -> str:
    """Three significant digits, or the whole number above that."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:,.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if 0 < magnitude < 0.1 else f"{value:.2f}"
