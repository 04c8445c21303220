"""The seam for who sits in a pool's process and answers for it, beside keeping the pool complete."""

from __future__ import annotations

import math
import os
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from zerocelery.transport import waiting

if TYPE_CHECKING:
    from zerocelery.engine.pool import Supervisor

#: How often it is looked after while what it waits for has no descriptor (seconds).
_LOOK: Final = 0.05


class Attendant(Protocol):
    """Called by the pool's process, never while it forks; whatever it does, it must not block for long."""

    def begin(self, supervisor: Supervisor) -> None:
        """The pool is there: its workers have been started."""

    def fileno(self) -> int:
        """Readable when there may be something to attend to; -1: none."""

    def patience(self) -> float:
        """When it wants to be called in any case (monotonic; infinity: never)."""

    def attend(self) -> None:
        """See to what there is; does not block."""

    def end(self) -> None:
        """The pool is about to end."""


class AttendantThread:
    """Attends in a thread, for pools that have no processes to fork: their own threads may be busy."""

    def __init__(self, attendant: Attendant) -> None:
        self.attendant = attendant
        self._over = False
        self._thread = threading.Thread(target=self._run, name="zerocelery-attendant", daemon=True)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        attendant = self.attendant
        while not self._over:
            wait = max(0.0, min(attendant.patience() - time.monotonic(), 1.0))
            poller = waiting.poll()
            poller.register(self._wake_read, waiting.READ)
            fd = attendant.fileno()
            if fd < 0:
                wait = min(wait, _LOOK)
            else:
                poller.register(fd, waiting.READ)
            poller.poll(math.ceil(wait * 1000))
            attendant.attend()

    def stop(self) -> None:
        """Return when it attends to nothing any more."""
        self._over = True
        os.write(self._wake_write, b".")
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)
