"""What signals do to a worker: warm, soft and cold shutdown, and a restart.

    SIGTERM          warm: what runs is finished
    SIGINT           warm; the second one as SIGQUIT
    SIGQUIT          cold: what runs is ended; with worker_soft_shutdown_timeout it has so long to finish (soft).
                     The second one doesn't wait any more
    SIGHUP           warm, and the same command begins anew
    REMAP_SIGTERM    an environment variable: SIGTERM does what this signal does

What has not begun goes back to the node at once, whatever the signal is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from typing import Any

from zerocelery import signals
from zerocelery.engine.green import Signals
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.engine.pool import Supervisor
    from zerocelery.worker.worker import WorkController

logger = get_logger("celery.worker")

EX_OK = 0
EX_FAILURE = 1


class Shutdown:
    """Listens to signals on behalf of one worker."""

    def __init__(self, worker: WorkController) -> None:
        self.worker = worker
        self.exitcode = EX_OK
        self.restarts = False
        self._interrupts = 0
        self._colds = 0

    def listen(self) -> None:
        """From now on signals mean this."""
        remapped = os.environ.get("REMAP_SIGTERM")
        term = self._quit if remapped == "SIGQUIT" else self._terminate
        actions: dict[int, Any] = {signal.SIGTERM: term, signal.SIGINT: self._interrupt, signal.SIGQUIT: self._quit}
        if not sys.stdin or not sys.stdin.isatty():
            actions[signal.SIGHUP] = self._hang_up
        actions[signal.SIGUSR1] = _cry
        if self.worker.is_green:
            # Which thread is the main one, only the interpreter knows: to eventlet, each green thread is another.
            with contextlib.suppress(ValueError):
                Signals(actions)
            return
        for number, action in actions.items():
            signal.signal(number, action)

    def warm(self, sig: str, exitcode: int = EX_OK) -> None:
        """Finish what runs, and leave."""
        self._say("worker: Warm shutdown (MainProcess)")
        self.exitcode = max(self.exitcode, exitcode)
        self._tell(sig, "Warm", exitcode)
        pool = self._pool
        if pool is not None:
            pool.stop()
        else:
            self.worker.cancelled = True

    def cold(self, sig: str) -> None:
        """End what runs, after the soft shutdown's time where there is any; the second time at once."""
        self._colds += 1
        pool = self._pool
        if pool is None:
            self.worker.cancelled = True
            return
        timeout = float(self.worker.app.conf["worker_soft_shutdown_timeout"] or 0.0)
        if self._colds == 1 and timeout > 0 and self._softly(pool, timeout):
            self._tell(sig, "Cold", EX_FAILURE)
            return
        self._say("worker: Cold shutdown (MainProcess)")
        if self._colds == 1 or timeout > 0:
            self._tell(sig, "Cold", EX_FAILURE)
        pool.exit_status = self.exitcode
        pool.end()

    def _softly(self, pool: Supervisor, timeout: float) -> bool:
        idle = not pool.busy()
        if idle and not self.worker.app.conf["worker_enable_soft_shutdown_on_idle"]:
            return False
        logger.warning("Initiating Soft Shutdown, terminating in %s seconds", timeout)
        pool.stop(within=timeout)
        return True

    @property
    def _pool(self) -> Supervisor | None:
        return self.worker.pool

    # ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _terminate(self, *_: Any) -> None:
        self.warm("SIGTERM")

    def _interrupt(self, *_: Any) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._say("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!")
            self.warm("SIGINT", EX_FAILURE)
        else:
            self._cold_by("SIGINT")

    def _quit(self, number: int, *_: Any) -> None:
        self._cold_by(signal.Signals(number).name)

    def _cold_by(self, sig: str) -> None:
        if not self._colds:
            self._say("worker: Hitting Ctrl+C again will terminate all running tasks!")
        else:
            self._say("Waiting gracefully for cold shutdown to complete...")
        self.cold(sig)

    def _hang_up(self, *_: Any) -> None:
        self._say(f"Restarting celery worker ({' '.join(sys.argv)})")
        self.restarts = True
        self.warm("SIGHUP")

    def _tell(self, sig: str, how: str, exitcode: int) -> None:
        signals.worker_shutting_down.send(sender=self.worker.hostname, sig=sig, how=how, exitcode=exitcode)

    @staticmethod
    def _say(text: str) -> None:
        """Write on stdout, from within a signal handler: whatever holds a lock there is not waited for."""
        try:
            os.write(1, f"\n{text}\n".encode())
        except OSError:
            pass


def _cry(*_: Any) -> None:
    """Log where every thread is."""
    import traceback

    frames = sys._current_frames()
    text = "\n".join("".join(traceback.format_stack(frame)) for frame in frames.values())
    logger.log(logging.ERROR, "\n%s", text)
