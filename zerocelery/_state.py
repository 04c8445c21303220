"""Who is who right now: the current app, the current task, the request that is running.

One :class:`Frame` per running task, linked to the one below it and held by a context variable, so threads, asyncio
tasks and eager calls within tasks each see their own.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from contextvars import ContextVar

from zerocelery.local import Proxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from zerocelery.app.base import Celery
    from zerocelery.app.context import Context
    from zerocelery.app.task import Task

__all__ = (
    "connect_on_app_finalize",
    "current_app",
    "current_task",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "set_default_app",
)

#: The app of all threads that have no other.
default_app: Celery | None = None

_finalizers: dict[Any, Callable[[Celery], Any]] = {}
_apps: weakref.WeakSet[Celery] = weakref.WeakSet()
_guard = threading.RLock()


class _Local(threading.local):
    current_app: Celery | None = None


_TLS = _Local
_tls = _Local()


# ── apps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def connect_on_app_finalize(callback: Callable[[Celery], Any], *, key: Any = None) -> Callable[[Celery], Any]:
    """Call with every app that is finalised from now on.

    Arguments:
        key: what is connected with the same key later takes this one's place.
    """
    with _guard:
        _finalizers[callback if key is None else key] = callback
    return callback


def _announce_app_finalized(app: Celery) -> None:
    with _guard:
        callbacks = list(_finalizers.values())
    for callback in callbacks:
        callback(app)


def set_default_app(app: Celery | None) -> None:
    """Make this the app of all threads that have no other."""
    global default_app
    default_app = app


def _set_current_app(app: Celery | None) -> None:
    _tls.current_app = app


def _get_current_app() -> Celery:
    app = _tls.current_app or default_app
    if app is None:
        from zerocelery.app.base import Celery

        with _guard:
            app = default_app
            if app is None:
                app = Celery("default", fixups=[], set_as_current=False, loader=os.environ.get("CELERY_LOADER"))
                set_default_app(app)
    return app


get_current_app = _get_current_app


def _register_app(app: Celery) -> None:
    with _guard:
        _apps.add(app)


def _deregister_app(app: Celery) -> None:
    with _guard:
        _apps.discard(app)


def _get_active_apps() -> Iterable[Celery]:
    with _guard:
        return list(_apps)


def app_or_default(app: Celery | None = None) -> Celery:
    """The app given, or else the current one."""
    return app if app is not None else _get_current_app()


@contextmanager
def app_set(app: Celery) -> Iterator[None]:
    """Within this context the app is the current one."""
    before = _tls.current_app
    _tls.current_app = app
    try:
        yield
    finally:
        _tls.current_app = before


#: Whether what is pickled here is on its way to a worker: tasks that it can't import go by value, apps by name.
packing: ContextVar[bool] = ContextVar("zerocelery_packing", default=False)


# ── running tasks ────────────────────────────────────────────────────────────────────────────────────────────────────


class Frame:
    """One run of a task.

    Arguments:
        task: what runs; None for a frame that only says what the current task is.
        source: makes the request when somebody asks for it.
        followups: messages that are sent with the task's outcome, in one transaction; None where that can't be.
    """

    __slots__ = ("_request", "children", "followups", "previous", "replaced", "running", "source", "task")

    def __init__(
        self,
        task: Task[..., Any] | None,
        source: Any = None,
        *,
        request: Context | None = None,
        running: bool = True,
        followups: list[Any] | None = None,
    ) -> None:
        self.task = task
        self.source = source
        self.running = running
        self.followups = followups
        self.previous: Frame | None = None
        #: whether another task has taken this one's place
        self.replaced = False
        self.children: list[Any] | None = None
        self._request = request

    def add_child(self, result: Any) -> None:
        """Count a result among this run's children, without making its request."""
        if self.task is None or not self.task.trail:
            return
        if self.children is None:
            self.children = []
        self.children.append(result)

    @property
    def request(self) -> Context:
        """The request of this run, made at the first look."""
        request = self._request
        if request is None:
            request = self._request = self.source.context()
            if self.children is not None:
                request._children = self.children
            self.children = request.children
        return request


frames: ContextVar[Frame | None] = ContextVar("zerocelery_frames", default=None)


def push(frame: Frame) -> None:
    """Put a frame on top."""
    frame.previous = frames.get()
    frames.set(frame)


def pop() -> Frame | None:
    """Take the topmost frame off."""
    frame = frames.get()
    if frame is not None:
        frames.set(frame.previous)
    return frame


def running_frame() -> Frame | None:
    """The topmost frame of a task that runs, not of a mere request."""
    frame = frames.get()
    while frame is not None and not frame.running:
        frame = frame.previous
    return frame


def frame_of(task: Task[..., Any]) -> Frame | None:
    """The topmost frame of this task."""
    frame = frames.get()
    while frame is not None and (frame.task is not task or (frame.source is None and frame._request is None)):
        frame = frame.previous
    return frame


def get_current_task() -> Task[..., Any] | None:
    """The task that runs here, or None."""
    frame = running_frame()
    return frame.task if frame is not None else None


def worker_frame() -> Frame | None:
    """The frame of the task that the worker started: a task that another calls as a function doesn't count."""
    frame = frames.get()
    while frame is not None:
        if frame.running and frame.task is not None:
            if frame.source is not None:
                return frame
            request = frame._request
            if request is None:  # the task alone was pushed, and a request of its own may have been, too
                above = frame_of(frame.task)
                request = None if above is None else above.request
                if request is not None and not request.called_directly:
                    return above
            elif not request.called_directly:
                return frame
        frame = frame.previous
    return None


def get_current_worker_task() -> Task[..., Any] | None:
    """The task that the worker started, or None; see :func:`worker_frame`."""
    frame = worker_frame()
    return frame.task if frame is not None else None


class _TaskStack:
    """The stack of running tasks, as third parties use it."""

    @property
    def top(self) -> Task[..., Any] | None:
        return get_current_task()

    @property
    def stack(self) -> list[Task[..., Any]]:
        found = []
        frame = frames.get()
        while frame is not None:
            if frame.running and frame.task is not None:
                found.append(frame.task)
            frame = frame.previous
        return found[::-1]

    def push(self, task: Task[..., Any]) -> None:
        push(Frame(task))

    def pop(self) -> Task[..., Any] | None:
        frame = pop()
        return frame.task if frame is not None else None

    def __len__(self) -> int:
        return len(self.stack)


_task_stack = _TaskStack()


def push_current_task(task: Task[..., Any]) -> None:
    """Make a task the current one."""
    _task_stack.push(task)


def pop_current_task() -> Task[..., Any] | None:
    """Undo push_current_task."""
    return _task_stack.pop()


def enable_trace() -> None:
    """Kept for programs that call it; there is nothing to trace: an app is looked up in one place."""


def disable_trace() -> None:
    """See :func:`enable_trace`."""


# ── waiting within tasks ─────────────────────────────────────────────────────────────────────────────────────────────

#: What was said with allow_join_result or denied_join_result; None: it depends on where we are.
_join_blocks: ContextVar[bool | None] = ContextVar("zerocelery_join_blocks", default=None)


#: Whether a task that waits keeps the process's pool from running another; in a pool of green threads it doesn't.
_pool_blocks = True


def _set_pool_blocks(blocks: bool) -> None:
    global _pool_blocks
    _pool_blocks = blocks


def _set_task_join_will_block(blocks: bool | None) -> None:
    _join_blocks.set(blocks)


def task_join_will_block() -> bool:
    """Whether waiting for a result here would keep a worker from running the very task that is waited for."""
    said = _join_blocks.get()
    if said is not None:
        return said
    if not _pool_blocks:
        return False
    frame = worker_frame()
    # what is run on the spot keeps no worker; but one may run all of it
    while frame is not None and getattr(frame.source, "is_eager", False):
        frame = frame.previous
        while frame is not None and frame.source is None:
            frame = frame.previous
    return frame is not None


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _after_fork() -> None:
    global _guard
    _guard = threading.RLock()
    for app in _get_active_apps():
        app._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


#: The app of this thread.
current_app: Celery = Proxy(get_current_app)  # type: ignore[assignment]
#: The task that runs here.
current_task: Task[..., Any] | None = Proxy(get_current_task)  # type: ignore[assignment]
