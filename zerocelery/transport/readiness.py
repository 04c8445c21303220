"""What a node waits for: descriptors, each with what is to be done when it is ready."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable


class Readiness:
    """Descriptors and what each is waited for with; belongs to one thread."""

    def __init__(self) -> None:
        self._poller = select.poll()
        self._acts: dict[int, Callable[[], object]] = {}

    def add(self, fd: int, act: Callable[[], object]) -> None:
        """Call this whenever the descriptor can be read."""
        self._acts[fd] = act
        self._poller.register(fd, select.POLLIN)

    def writing(self, fd: int, also: bool) -> None:
        """Whether to call also when it can be written to."""
        self._poller.modify(fd, select.POLLIN | select.POLLOUT if also else select.POLLIN)

    def remove(self, fd: int) -> None:
        """Before the descriptor is closed."""
        del self._acts[fd]
        self._poller.unregister(fd)

    def wait(self, seconds: float | None, awake: float = 0.0) -> None:
        """Block until some are ready, at most this long (None: no limit), and do what is to be done for these.

        Arguments:
            awake: of these seconds the first so many are spent without sleeping.
        """
        ready = self._watch(awake) if awake else []
        acts = self._acts
        for fd, _ in ready or self._poller.poll(None if seconds is None else int(seconds * 1000 + 0.999)):
            act = acts.get(fd)
            if act is not None:  # else what was done for another has removed it
                act()

    def _watch(self, seconds: float) -> list[tuple[int, int]]:
        """Those that become ready within so many seconds, looked for without sleeping."""
        poll, now, give_way = self._poller.poll, time.monotonic, os.sched_yield
        until = now() + seconds
        while not (ready := poll(0)) and now() < until:
            give_way()  # to whoever has something to do on this processor
        return ready
