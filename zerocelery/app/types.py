"""What decorators make of functions, for type checkers: a task keeps what its function takes and gives.

Nothing here is there when a program runs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from zerocelery.app.task import Task

__all__ = ("AsyncTask", "BoundDecorator", "Decorator")

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T")


class AsyncTask(Task[P, R]):
    """A task that is an ``async def``: called here it gives a coroutine; its result is what that returns."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        raise NotImplementedError


class Decorator(Protocol):
    """``@app.task(…)``."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncTask[P, T]: ...
    @overload
    def __call__(self, fun: Callable[P, T], /) -> Task[P, T]: ...


class BoundDecorator(Protocol):
    """``@app.task(bind=True, …)``: the function's first parameter is the task."""

    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], /) -> AsyncTask[P, T]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], T], /) -> Task[P, T]: ...
