"""Time limits of tasks, in the processes of a prefork pool, and in green threads; in others nothing can be interrupted,
as in Celery (coroutines can: :mod:`zerocelery.app.sharedloop`).

The soft limit raises SoftTimeLimitExceeded in the task: a signal to the main thread, so that a call in C that can be
interrupted is. The hard limit is the pool's: it kills the process, and the node ends the task.

The exception must hit this very task and nothing around it: a run is *exposed* only while its function is called, and
a signal that comes for one run when another is exposed is let go. ``kill -USR1`` from elsewhere means the same.

In a green thread both limits are exceptions that are raised where the task waits. The hard one is no ``Exception``, and
is raised again every second while the task goes on.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from zerocelery.engine.green import Exposure
from zerocelery.engine.worker import current_worker
from zerocelery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.app.trace import NodeRun

logger = get_logger("celery.worker.request")

#: What calls tasks within their time; None where nothing can be interrupted.
caller: Callable[..., Any] | None = None

_exposed: NodeRun | None = None
_overdue: NodeRun | None = None


def enforce() -> None:
    """Enforce limits in this process from now on; called in its main thread, where its tasks run."""
    global caller
    caller = call
    signal.signal(signal.SIGUSR1, _on_signal)


def enforce_green() -> None:
    """Enforce limits in this process's green threads from now on."""
    global caller
    caller = call_green


def _on_signal(*_: object) -> None:
    global _overdue
    run, meant, _overdue = _exposed, _overdue, None
    if run is not None and (meant is None or meant is run):
        raise SoftTimeLimitExceeded()


def call(function: Callable[..., Any], args: Any, kwargs: Any, run: NodeRun, limits: tuple[Any, Any]) -> Any:
    """Call a task's function, within its time.

    Arguments:
        limits: hard and soft, in seconds, where the message says nothing.
    """
    global _exposed
    hard, soft = _limits_of(run, limits)
    worker = current_worker() if hard or soft else None
    if worker is not None:
        label = _label_of(run)
        thread = threading.get_ident()

        def interrupt() -> None:
            global _overdue
            _overdue = run
            logger.warning("Soft time limit (%ss) exceeded for %s", soft, label)
            signal.pthread_kill(thread, signal.SIGUSR1)

        worker.limit(soft, hard, interrupt, label)
    _exposed = run
    try:
        return function(*args, **kwargs)
    finally:
        _exposed = None
        if worker is not None:
            worker.unlimit()


def _limits_of(run: NodeRun, limits: tuple[Any, Any]) -> tuple[Any, Any]:
    said = run.head.timelimit
    return limits if said is None else (said[0] or limits[0], said[1] or limits[1])


def _label_of(run: NodeRun) -> str:
    return f"{run.head.shadow or run.task.name}[{run.id}]"


class _Overdue(BaseException):
    """Raised in a green task whose time is over."""


def call_green(function: Callable[..., Any], args: Any, kwargs: Any, run: NodeRun, limits: tuple[Any, Any]) -> Any:
    """Call a task's function in a green thread, within its time, and so that it can be ended."""
    worker = current_worker()
    if worker is None or worker.hub is None:
        return function(*args, **kwargs)
    hard, soft = _limits_of(run, limits)
    exposure = Exposure(worker.hub)
    worker.expose(exposure)
    try:
        if soft:

            def interrupt() -> None:
                logger.warning("Soft time limit (%ss) exceeded for %s", soft, _label_of(run))
                exposure.throw(SoftTimeLimitExceeded())

            worker.limit(soft, None, interrupt, "")
        if hard:
            worker.insist(_Overdue, hard)
        return function(*args, **kwargs)
    except _Overdue:
        logger.error("Hard time limit (%ss) exceeded for %s", hard, _label_of(run))
        raise TimeLimitExceeded(hard) from None
    finally:
        exposure.close()
        worker.expose(None)
        worker.unlimit()
