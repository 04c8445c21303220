"""How long a node that has nothing to do stays awake before it sleeps: a moment, while the next thing comes at once.

In a dialogue (a client sends a task, awaits its result and sends the next one) the node has nothing to do for some
0.1 ms again and again, and to wake a processor that sleeps takes nearly as long. So after some such waits in a row it
waits awake, and when a moment brought nothing it sleeps, and stays awake no more until there have been as many again.
"""

from __future__ import annotations

from typing import Final

from zerocelery.utils.sysinfo import available_cpu_count, cgroup_cpu_quota

#: The moment (seconds).
AWAKE_SECONDS: Final = 0.0003

#: So many waits in a row that took no longer than this (seconds, with the time to wake up) make a dialogue.
SHORT_WAITS: Final = 4
SHORT_SECONDS: Final = 0.0005


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
    """How many processors this process may use; 1 where a container's quota limits its processor time, for what it
    spends in waiting would be missing for work."""
    return available_cpu_count() if cgroup_cpu_quota() is None else 1
