"""What a pool is."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from zerocelery.app.einfo import ExceptionInfo
from zerocelery.exceptions import WorkerLostError, WorkerShutdown, WorkerTerminate, reraise
from zerocelery.utils.log import get_logger
from zerocelery.utils.text import truncate

__all__ = ("BasePool", "apply_target")

logger = get_logger("celery.pool")


def apply_target(
    target: Callable[..., Any],
    args: Any = (),
    kwargs: Any = None,
    callback: Callable[..., Any] | None = None,
    accept_callback: Callable[..., Any] | None = None,
    pid: int | None = None,
    getpid: Callable[[], int] = os.getpid,
    propagate: Any = (),
    monotonic: Callable[[], float] = time.monotonic,
    **_: Any,
) -> None:
    """Call a function here and now, as a pool does.

    Arguments:
        accept_callback: called first, with the process's id and the time (monotonic).
        callback: called last, with what the function returned. What ends a process (``SystemExit`` and its like) gives
            it an ExceptionInfo of a ``WorkerLostError``; any other exception is raised.
    """
    if accept_callback is not None:
        accept_callback(pid or getpid(), monotonic())
    try:
        result = target(*args, **(kwargs or {}))
    except (Exception, WorkerShutdown, WorkerTerminate, *propagate):
        raise
    except BaseException as error:
        result = _lost(error)
    if callback is not None:
        callback(result)


def _lost(error: BaseException) -> ExceptionInfo:
    try:
        reraise(WorkerLostError, WorkerLostError(repr(error)), sys.exc_info()[2])
    except WorkerLostError:
        return ExceptionInfo()


class _LazyTimer:
    """The class of timers, imported when somebody asks: kombu's event loop comes along, and few pools have a timer."""

    def __get__(self, pool: Any, owner: type) -> Any:
        from zerocelery.utils.timer2 import Timer

        return Timer


class BasePool:
    """Calls functions for others: what each kind of pool adds is in its ``on_`` methods.

    Arguments:
        limit: how many at a time.
        putlocks: wait with a call until there is room.
        forking_enable: processes may be forks of this one.
        callbacks_propagate: what callbacks may raise.
        options: those of the kind of pool.
    """

    RUN = 0x1
    CLOSE = 0x2
    TERMINATE = 0x3

    Timer: Any = _LazyTimer()

    #: Whether it may be stopped in a signal handler.
    signal_safe = True
    #: Whether its tasks are green threads.
    is_green = False
    #: Whether a message's body may be kept without a copy.
    body_can_be_buffer = False
    #: Whether a task that waits for another one blocks it.
    task_join_will_block = True
    uses_semaphore = False

    _state: int | None = None
    _pool: Any = None
    _does_debug = True

    def __init__(
        self,
        limit: int | None = None,
        putlocks: bool = True,
        forking_enable: bool = True,
        callbacks_propagate: Any = (),
        app: Any = None,
        **options: Any,
    ) -> None:
        self.limit = limit
        self.putlocks = putlocks
        self.options = options
        self.forking_enable = forking_enable
        self.callbacks_propagate = callbacks_propagate
        self.app = app

    # ── what a kind of pool does ─────────────────────────────────────────────────────────────────────────────────────

    def on_start(self) -> Any:
        """Begin."""

    def did_start_ok(self) -> bool:
        """Whether it began."""
        return True

    def flush(self) -> Any:
        """Let go of what has not begun."""

    def on_stop(self) -> Any:
        """End, when all is done."""

    def register_with_event_loop(self, loop: Any) -> Any:
        """For pools that are driven by one."""

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function."""

    def on_terminate(self) -> Any:
        """End at once."""

    def on_soft_timeout(self, job: Any) -> Any:
        """A call took longer than its soft limit."""

    def on_hard_timeout(self, job: Any) -> Any:
        """A call took longer than its hard limit."""

    def maintain_pool(self, *args: Any, **kwargs: Any) -> Any:
        """Replace what is lost."""

    def on_close(self) -> Any:
        """Take no more calls."""

    def terminate_job(self, pid: int, signal: Any = None) -> Any:
        """End a call.

        Raises:
            NotImplementedError: a pool of this kind can't.
        """
        raise NotImplementedError(f"{type(self).__name__} of {type(self).__module__} can't end a call")

    def restart(self) -> Any:
        """Begin anew.

        Raises:
            NotImplementedError: a pool of this kind can't.
        """
        raise NotImplementedError(f"{type(self).__name__} of {type(self).__module__} can't be restarted")

    # ── what each of them has ────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin."""
        self._does_debug = logger.isEnabledFor(logging.DEBUG)
        self.on_start()
        self._state = self.RUN

    def stop(self) -> None:
        """End, when all is done."""
        self.on_stop()
        self._state = self.TERMINATE

    def terminate(self) -> None:
        """End at once."""
        self._state = self.TERMINATE
        self.on_terminate()

    def close(self) -> None:
        """Take no more calls."""
        self._state = self.CLOSE
        self.on_close()

    def apply_async(self, target: Callable[..., Any], args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Call a function in the pool; the options are those of :func:`apply_target`."""
        args = args or ()
        kwargs = kwargs or {}
        if self._does_debug:
            logger.debug(
                "TaskPool: Apply %s (args:%s kwargs:%s)",
                target,
                truncate(repr(args), 1024),
                truncate(repr(kwargs), 1024),
            )
        return self.on_apply(
            target, args, kwargs,
            waitforslot=self.putlocks, callbacks_propagate=self.callbacks_propagate, **options,
        )  # fmt: skip

    def _get_info(self) -> dict[str, Any]:
        kind = type(self)
        return {
            "implementation": f"{kind.__module__.removeprefix('zero')}:{kind.__name__}",
            "max-concurrency": self.limit,
        }

    @property
    def info(self) -> dict[str, Any]:
        """What ``inspect stats`` tells of it."""
        return self._get_info()

    @property
    def active(self) -> bool:
        """Whether it takes calls."""
        return self._state == self.RUN

    @property
    def num_processes(self) -> int | None:
        """How many calls at a time there may be."""
        return self.limit
