"""The loop of a worker with ``-P asyncio``: all its ``async def`` tasks run on it, as many at a time as it has slots.

Each slot is a worker of its own to the engine, in a thread that only waits for its coroutine, so leases, reports and
shutdowns are those of every other pool. A plain task runs in its slot's thread, and holds up no coroutine.

Time limits hold here, too: the soft one raises SoftTimeLimitExceeded where the coroutine waits, the hard one cancels it
and doesn't wait for it any longer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from contextvars import ContextVar
from typing import Any

from zerocelery.app import timelimits
from zerocelery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from zerocelery.app.trace import NodeRun

logger = get_logger("celery.worker.request")

#: The limits of the task that this thread runs: hard, soft, and its name for people.
_limits: ContextVar[tuple[Any, Any, str]] = ContextVar("zerocelery_time_limits", default=(None, None, ""))

_loop: asyncio.AbstractEventLoop | None = None
_owner = 0


def share() -> None:
    """Run all coroutines of this process's tasks on one loop from now on, in a thread of its own."""
    global _loop, _owner
    if is_shared():
        return
    _loop, _owner = asyncio.new_event_loop(), os.getpid()
    timelimits.caller = call
    threading.Thread(target=_loop.run_forever, name="zerocelery-loop", daemon=True).start()


def is_shared() -> bool:
    """Whether there is such a loop here; a forked child has none."""
    return _loop is not None and _owner == os.getpid()


def call(function: Callable[..., Any], args: Any, kwargs: Any, run: NodeRun, limits: tuple[Any, Any]) -> Any:
    """Call a task's function; if it is a coroutine's, within its time.

    Arguments:
        limits: hard and soft, in seconds, where the message says nothing.
    """
    said = run.head.timelimit
    if said is not None:
        limits = said[0] or limits[0], said[1] or limits[1]
    token = _limits.set((*limits, f"{run.head.shadow or run.task.name}[{run.id}]"))
    try:
        return function(*args, **kwargs)
    finally:
        _limits.reset(token)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on the shared loop; gives what it returns, and raises what it raises."""
    if _loop is None:
        raise RuntimeError("this process has no shared loop: share() makes one")
    try:
        return asyncio.run_coroutine_threadsafe(_within(coroutine, *_limits.get()), _loop).result()
    except concurrent.futures.CancelledError as error:
        raise asyncio.CancelledError(*error.args) from error


async def _within(coroutine: Coroutine[Any, Any, Any], hard: Any, soft: Any, label: str) -> Any:
    if not hard and not soft:
        return await coroutine
    from zerocelery.app.asynchronous import _awaited, _Interruptible

    loop = asyncio.get_running_loop()
    interruptible = _Interruptible(coroutine)
    task = loop.create_task(_awaited(interruptible))

    def interrupt() -> None:
        logger.warning("Soft time limit (%ss) exceeded for %s", soft, label)
        interruptible.interrupt = SoftTimeLimitExceeded()
        task.cancel()

    handle = loop.call_later(soft, interrupt) if soft else None
    try:
        done, _ = await asyncio.wait({task}, timeout=hard or None)
    finally:
        if handle is not None:
            handle.cancel()
    if not done:
        logger.error("Hard time limit (%ss) exceeded for %s", hard, label)
        task.cancel()
        raise TimeLimitExceeded(hard)
    return task.result()
