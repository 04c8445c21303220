"""How much is done: a full run and a quick one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

#: Tasks of one measurement: so many that it takes seconds for each of them.
_TASKS = {"zerocelery": 40_000, "celery": 4_000, "dramatiq": 8_000, "ppe": 20_000}


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of one run. `share` scales the tasks that each contestant gets."""

    repeats: int
    share: float
    trips: int
    shapes: int
    imports: int
    idle_seconds: float
    levels: tuple[int, int]
    million: int
    growth: int
    deadline: float

    def tasks(self, contestant: str, weight: float = 1.0) -> int:
        """Tasks for one measurement of this contestant."""
        return max(200, int(_TASKS[contestant] * self.share * weight))


FULL = Sizes(
    repeats=5,
    share=1.0,
    trips=1000,
    shapes=5,
    imports=15,
    idle_seconds=20.0,
    levels=(1_000, 100_000),
    million=1_000_000,
    growth=200_000,
    deadline=300.0,
)

QUICK = Sizes(
    repeats=1,
    share=0.2,
    trips=200,
    shapes=3,
    imports=5,
    idle_seconds=5.0,
    levels=(1_000, 20_000),
    million=50_000,
    growth=20_000,
    deadline=60.0,
)

BY_NAME: Mapping[str, Sizes] = {"full": FULL, "quick": QUICK}
