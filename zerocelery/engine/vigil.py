"""How long a node that has nothing to do stays awake before it sleeps: a moment, while the next thing comes at once.

In a dialogue (a client sends a task, awaits its result and sends the next one) the node has nothing to do for some
0.1 ms again and again, and to wake a processor that sleeps takes nearly as long. So after some such waits in a row it
waits awake, and when a moment brought nothing it sleeps, and stays awake no more until there have been as many again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: The moment (seconds).
AWAKE_SECONDS: Final = 0.0003

#: So many waits in a row that took no longer than this (seconds, with the time to wake up) make a dialogue.
SHORT_WAITS: Final = 4
SHORT_SECONDS: Final = 0.0005

_CGROUPS: Final = Path("/sys/fs/cgroup")


class Vigil:
    """Decides it from how long the last waits took, and only where a processor is left for it.

    Arguments:
        processors: how many this process may use.
    """

    def __init__(self, processors: int | None = None) -> None:
        self._processors = spendable_processors() if processors is None else processors
        self._short = 0
        self._awake = False

    def moment(self, running: int) -> float:
        """For how many seconds to stay awake now; 0.0 is not at all.

        Arguments:
            running: how many tasks workers have: each may need a processor, and else whoever sends the next one does.
        """
        spare = self._processors - max(1, running)
        self._awake = self._short >= SHORT_WAITS and spare > 0
        return AWAKE_SECONDS if self._awake else 0.0

    def waited(self, seconds: float) -> None:
        """Something has come, or was due, so long after :meth:`moment` was asked."""
        short = seconds < (AWAKE_SECONDS if self._awake else SHORT_SECONDS)
        self._short = self._short + 1 if short else 0


def spendable_processors() -> int:
    """How many processors this process may use; 1 where its processor time is limited, for what it spends in waiting
    would be missing for work."""
    if _has_quota():
        return 1
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _has_quota() -> bool:
    """Whether this process's control group, or one above it, limits its processor time (cgroup v2)."""
    try:
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return False
    group = _CGROUPS / own.removeprefix("0::").strip("/")
    return any(_limits(place) for place in (group, *group.parents) if place.is_relative_to(_CGROUPS))


def _limits(group: Path) -> bool:
    try:
        return not (group / "cpu.max").read_text().startswith("max")
    except OSError:  # the root has no such file
        return False
