"""How many processes a pool has, where it may have more or fewer."""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger("zerocelery.worker")

#: How often the pool looks at itself (seconds).
INTERVAL: Final = 1.0


class Autoscale:
    """Grows a pool while all its processes are busy, and shrinks it when some have had nothing to do for long.

    Arguments:
        most, least: how many processes there may be.
        keep_alive: for how long more are kept than were needed at any moment (seconds).
    """

    def __init__(self, most: int, least: int, *, keep_alive: float = 30.0) -> None:
        self.keep_alive = keep_alive
        self.update(most, least)
        self._needed: list[tuple[float, int]] = []

    def update(self, most: int, least: int) -> None:
        """Set other limits.

        Raises:
            ValueError: they are none.
        """
        if not 0 <= least <= most or most < 1:
            raise ValueError(f"a pool can't have between {least} and {most} processes: write most,least, as in 10,3")
        self.most, self.least = most, max(1, least)

    def wanted(self, now: float, size: int, busy: int) -> int:
        """How many processes there are to be.

        Arguments:
            now: seconds of a clock that only goes on.
            size, busy: how many there are, and how many of them run a task.
        """
        self._needed = [(at, count) for at, count in self._needed if now - at < self.keep_alive]
        self._needed.append((now, busy))
        wanted = size
        if busy >= size:
            wanted = size + max(1, size // 2)
        elif now - self._needed[0][0] > self.keep_alive - 2 * INTERVAL:
            wanted = max(count for _, count in self._needed) + 1
        wanted = min(max(wanted, self.least), self.most)
        if wanted > size:
            logger.info("Scaling up %s processes.", wanted - size)
        elif wanted < size:
            logger.info("Scaling down %s processes.", size - wanted)
            self._needed.clear()
        return wanted
