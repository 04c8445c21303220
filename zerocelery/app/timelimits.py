"""Time limits of tasks, in the processes of a prefork pool; in threads nothing can be interrupted, as in Celery
(coroutines can: :mod:`zerocelery.app.sharedloop`).

The soft limit raises SoftTimeLimitExceeded in the task: a signal to the main thread, so that a call in C that can be
interrupted is. The hard limit is the pool's: it kills the process, and the node ends the task.

The exception must hit this very task and nothing around it: a run is *exposed* only while its function is called, and
a signal that comes for one run when another is exposed is let go. ``kill -USR1`` from elsewhere means the same.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from zerocelery.engine.worker import current_worker
from zerocelery.exceptions import SoftTimeLimitExceeded
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
    said = run.head.timelimit
    if said is not None:
        limits = said[0] or limits[0], said[1] or limits[1]
    hard, soft = limits
    worker = current_worker() if hard or soft else None
    if worker is not None:
        name = run.head.shadow or run.task.name
        label = f"{name}[{run.id}]"
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
