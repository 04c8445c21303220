"""Apps and their tasks."""

from __future__ import annotations

from zerocelery import _state
from zerocelery._state import app_or_default, disable_trace, enable_trace, pop_current_task, push_current_task
from zerocelery.local import Proxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, Literal, ParamSpec, TypeVar, overload

    from zerocelery.app.base import Celery
    from zerocelery.app.task import Task
    from zerocelery.app.types import AsyncTask, BoundDecorator, Decorator

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = (
    "Celery",
    "app_or_default",
    "bugreport",
    "default_app",
    "disable_trace",
    "enable_trace",
    "pop_current_task",
    "push_current_task",
    "shared_task",
)

#: The app of threads that have no other.
default_app: Any = Proxy(lambda: _state.default_app)


def bugreport(app: Celery | None = None) -> str:
    """What to put into a bug report: versions, platform and settings."""
    return str((app or _state.get_current_app()).bugreport())


if TYPE_CHECKING:

    @overload
    def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def shared_task(*, bind: Literal[True], **options: Any) -> BoundDecorator: ...
    @overload
    def shared_task(*, bind: Literal[False] = False, **options: Any) -> Decorator: ...


def shared_task(*args: Any, **kwargs: Any) -> Any:
    """Make a task of every app, those to come included; calls go to the current one's.

    For libraries, which know no app: ``@shared_task`` or ``@shared_task(bind=True, …)``.
    """

    def decorate(function: Any, **options: Any) -> Any:
        if type(function) is Proxy:
            raise TypeError("@shared_task was applied more than once to the same function: once is enough")
        # of a task of some app, its function
        function = getattr(function, "_decorated_fun", None) or function
        name = options.get("name")
        # set shared to False, or the task would be shared by the app that it is made for too
        options.setdefault("shared", False)

        def make(app: Celery) -> Any:
            return app._task_from_fun(function, **{k: v for k, v in options.items() if k not in ("shared", "lazy")})

        _state.connect_on_app_finalize(make)
        for app in _state._get_active_apps():
            if app.finalized:
                with app._finalize_mutex:
                    make(app)

        def current() -> Any:
            app = _state.get_current_app()
            return app.tasks[name or app.gen_task_name(function.__name__, function.__module__)]

        return Proxy(current, __doc__=function.__doc__)

    if len(args) == 1 and callable(args[0]):
        return decorate(args[0], **kwargs)
    if args:
        raise TypeError("@shared_task() takes keyword arguments only")
    return lambda function: decorate(function, **kwargs)


def __getattr__(name: str) -> Any:
    if name == "Celery":
        from zerocelery.app.base import Celery

        globals()["Celery"] = Celery
        return Celery
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
