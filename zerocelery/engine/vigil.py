"""How long a node that has nothing to do stays awake before it sleeps: a moment, while the next thing comes at once.

In a dialogue (a client sends a task, awaits its result and sends the next one) the node has nothing to do for some
0.1 ms again and again, and to wake a processor that sleeps takes nearly as long. So it waits awake, and sleeps when a
moment brought nothing; then it stays awake no more until something has come that fast again.
"""

from __future__ import annotations

import os
from typing import Final

#: The moment (seconds).
AWAKE_SECONDS: Final = 0.0003


class Vigil:
    """Decides it from how long the last waits took, and only where a processor is left for it.

    Arguments:
        processors: how many this process may use.
    """

    def __init__(self, processors: int | None = None) -> None:
        self._processors = usable_processors() if processors is None else processors
        self._lively = False

    def moment(self, running: int) -> float:
        """For how many seconds to stay awake now; 0.0 is not at all.

        Arguments:
            running: how many tasks workers have: each may need a processor, and else whoever sends the next one does.
        """
        spare = self._processors - max(1, running)
        return AWAKE_SECONDS if self._lively and spare > 0 else 0.0

    def waited(self, seconds: float) -> None:
        """Something has come, or was due, after so long."""
        self._lively = seconds < AWAKE_SECONDS


def usable_processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
