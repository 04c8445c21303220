"""The seam for who sits in a pool's process and answers for it, beside keeping the pool complete."""

from __future__ import annotations

import select
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

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
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zerocelery-attendant", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        attendant = self.attendant
        while not self._over.is_set():
            wait = max(0.0, min(attendant.patience() - time.monotonic(), 1.0))
            fd = attendant.fileno()
            if fd < 0:
                self._over.wait(min(wait, _LOOK))
            else:
                select.select([fd], [], [], wait)
            attendant.attend()

    def stop(self) -> None:
        """Return when it attends to nothing any more."""
        self._over.set()
        self._thread.join(timeout=2.0)
