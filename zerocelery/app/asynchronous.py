"""``async def`` tasks: run by an event loop, in whatever pool the worker has.

Each thread that runs tasks keeps one loop for all of them, so connections that belong to a loop live on from task to
task. A soft time limit is raised within the coroutine, where it waits. Among green threads (gevent, eventlet) each
coroutine has a thread of the system's, and a loop, for itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from typing import Any

from zerocelery.app import sharedloop
from zerocelery.engine.green import current_hub
from zerocelery.transport.waiting import native_selector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from zerocelery.engine.green import Hub

__all__ = ("run",)


class _Kept:
    """A thread's loop; closed when the thread ends."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.pid = os.getpid()

    def __del__(self) -> None:
        if self.pid == os.getpid() and not self.loop.is_running():
            self.loop.close()


_here = threading.local()


class _Interruptible:
    """A coroutine into which an exception can be thrown while it waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        #: thrown in the place of the cancellation that comes next
        self.interrupt: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        error: BaseException | None = None
        while True:
            try:
                waits_for = next(steps) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            try:
                yield waits_for
            except BaseException as thrown:
                error = thrown if self.interrupt is None else self.interrupt
                self.interrupt = None


async def _awaited(call: _Interruptible) -> Any:
    return await call


def _kept_loop() -> asyncio.AbstractEventLoop:
    """This thread's loop; a forked child makes its own."""
    kept: Any = getattr(_here, "kept", None)
    if kept is None or kept.loop.is_closed() or kept.pid != os.getpid():
        kept = _here.kept = _Kept()
    return kept.loop  # type: ignore[no-any-return]


def run(coroutine: Coroutine[Any, Any, Any], *, keep: bool = True) -> Any:
    """Run a coroutine to its end here; gives what it returns, and raises what it raises.

    Arguments:
        keep: by this thread's own loop, which is kept; else by one of its own.
    """
    hub = current_hub()
    if hub is not None:
        return _run_outside(hub, coroutine)
    if asyncio._get_running_loop() is not None:
        # An eager call within a coroutine: this thread is busy with the caller's loop.
        return _run_beside(coroutine)
    if keep and sharedloop.is_shared():
        return sharedloop.run(coroutine)
    if keep:
        return _run_in(_kept_loop(), coroutine)
    loop = asyncio.new_event_loop()
    try:
        return _run_in(loop, coroutine)
    finally:
        loop.close()


def _run_outside(hub: Hub, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it in a thread of the system's: a loop belongs to one of these, and all green threads share theirs."""
    context = contextvars.copy_context()

    def outside() -> tuple[Any, BaseException | None]:
        loop = asyncio.SelectorEventLoop(native_selector())
        try:
            return context.run(_run_in, loop, coroutine), None
        except BaseException as error:  # raised where the call was made
            return None, error
        finally:
            loop.close()

    value, error = hub.outside(outside)
    if error is not None:
        raise error
    return value


def _run_in(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> Any:
    call = _Interruptible(coroutine)
    task = loop.create_task(_awaited(call))
    try:
        return loop.run_until_complete(task)
    except BaseException as error:
        if task.done():
            raise
        # a signal handler has raised it while the loop waited: a time limit, or the end of the worker
        call.interrupt = error
        task.cancel()
        return loop.run_until_complete(task)


def _run_beside(coroutine: Coroutine[Any, Any, Any]) -> Any:
    context = contextvars.copy_context()
    outcome: list[Any] = []

    def beside() -> None:
        try:
            outcome.append((context.run(lambda: run(coroutine, keep=False)), None))
        except BaseException as error:  # raised where the call was made
            outcome.append((None, error))

    thread = threading.Thread(target=beside, name="zerocelery-eager")
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
