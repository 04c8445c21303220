"""Cameras: look at the state of everything every so often."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from kombu.utils.limits import TokenBucket

from zerocelery._state import app_or_default
from zerocelery.utils.dispatch import Signal
from zerocelery.utils.imports import instantiate
from zerocelery.utils.time import rate

__all__ = ("Polaroid", "evcam")

logger = logging.getLogger("celery.evcam")


class _Repeating(threading.Thread):
    """Calls a function every so many seconds; called itself, it calls it now."""

    def __init__(self, seconds: float, function: Callable[[], object]) -> None:
        super().__init__(name=f"every-{seconds:g}-s", daemon=True)
        self._seconds = seconds
        self._function = function
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._over.wait(self._seconds):
            self._function()

    def __call__(self) -> None:
        self._function()

    def cancel(self) -> None:
        self._over.set()
        if threading.current_thread() is not self:
            self.join()


class _Timer:
    """The least that a timer must know."""

    def call_repeatedly(self, secs: float, fun: Callable[[], object], *args: Any, **kwargs: Any) -> Any:
        """Call the function every so many seconds, until the handle's ``cancel()``."""
        return _Repeating(secs, fun)


class Polaroid:
    """Takes pictures of a :class:`~zerocelery.events.state.State`; subclasses say in ``on_shutter`` what that means.

    Arguments:
        freq: seconds between pictures.
        maxrate: no more than so many, as in ``10/m``.
        cleanup_freq: seconds between calls of ``on_cleanup``.
        timer: what has ``call_repeatedly(seconds, function)``.
    """

    timer: Any = None
    shutter_signal = Signal({"state"}, name="shutter_signal")
    cleanup_signal = Signal(name="cleanup_signal")
    #: Whether to forget what has ended, after each picture.
    clear_after = False

    _tref: Any = None
    _ctref: Any = None

    def __init__(
        self,
        state: Any,
        freq: float = 1.0,
        maxrate: Any = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Any = None,
    ) -> None:
        self.app = app_or_default(app)
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.timer = timer or self.timer or _Timer()
        self.logger = logger
        self.maxrate = maxrate and TokenBucket(rate(maxrate))  # type: ignore[no-untyped-call]

    def install(self) -> None:
        """Begin."""
        self._tref = self.timer.call_repeatedly(self.freq, self.capture)
        self._ctref = self.timer.call_repeatedly(self.cleanup_freq, self.cleanup)

    def cancel(self) -> None:
        """Take a last picture, and end."""
        if self._tref:
            self._tref()
            self._tref.cancel()
        if self._ctref:
            self._ctref.cancel()

    def on_shutter(self, state: Any) -> None:
        """Called with the state at each picture."""

    def on_cleanup(self) -> None:
        """Called from time to time, to throw old pictures away."""

    def cleanup(self) -> None:
        """Throw old pictures away."""
        self.logger.debug("Cleanup: Running...")
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def shutter(self) -> None:
        """Take a picture, unless that were too many."""
        if self.maxrate is None or self.maxrate.can_consume():
            self.logger.debug("Shutter: %s", self.state)
            self.shutter_signal.send(sender=self.state)
            self.on_shutter(self.state)

    def capture(self) -> None:
        """Take a picture while nothing moves."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def __enter__(self) -> Polaroid:
        self.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: Any = None,
    loglevel: Any = 0,
    logfile: str | None = None,
    pidfile: str | None = None,
    timer: Any = None,
    app: Any = None,
    **kwargs: Any,
) -> None:
    """Take pictures with a camera (or the class of this name) until interrupted.

    Raises:
        SystemExit: it was interrupted.
    """
    app = app_or_default(app)
    if pidfile:
        importlib.import_module("zerocelery.platforms").create_pidlock(pidfile)
    app.log.setup_logging_subsystem(loglevel, logfile)
    logger.info("-> evcam: Taking snapshots with %s (every %s secs.)", camera, freq)
    state = app.events.State()
    taker = instantiate(camera, state, app=app, freq=freq, maxrate=maxrate, timer=timer)
    taker.install()
    connection = app.connection_for_read()
    try:
        receiver = app.events.Receiver(connection, handlers={"*": state.event})
        try:
            receiver.capture(limit=None)
        except KeyboardInterrupt:
            raise SystemExit from None
    finally:
        taker.cancel()
        connection.close()
