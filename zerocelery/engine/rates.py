"""How often tasks of a name may start: for each worker, and over all of the node.

A limit spaces starts evenly: ten a minute are one every six seconds, not ten at once. Where a limit allows many a
second, those of a moment may come together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

#: Starts that are this close to each other may come together (seconds).
_TOGETHER: Final = 0.02

#: A limit of so many a second is none.
_MOST: Final = 1e6

#: The worker that stands for all of them.
EVERYBODY: Final = ""


class Rates:
    """When each limited name may start next. Times are seconds of a clock that only goes on."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, str], float] = {}  # (worker, task name) → starts a second
        self._next: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._limits)

    def change(self, worker: str, limits: Mapping[str, float]) -> None:
        """Set these limits of a worker, and leave its others as they are; 0 is no limit."""
        for name, limit in limits.items():
            if 0.0 < limit < _MOST:
                self._limits[worker, name] = limit
            else:
                self._limits.pop((worker, name), None)
                self._next.pop((worker, name), None)

    def keep(self, workers: Collection[str]) -> None:
        """Forget the limits of all other workers."""
        for key in [key for key in self._limits if key[0] not in workers and key[0] != EVERYBODY]:
            del self._limits[key]
            self._next.pop(key, None)

    def start(self, worker: str, name: str, now: float) -> float:
        """0.0 where a task of this name may start now, which is counted; else the seconds to wait."""
        keys = [key for key in ((worker, name), (EVERYBODY, name)) if key in self._limits]
        wait = max((self._next.get(key, now) - now for key in keys), default=0.0)
        if wait > _TOGETHER:
            return wait
        for key in keys:
            self._next[key] = max(self._next.get(key, now), now) + 1.0 / self._limits[key]
        return 0.0
