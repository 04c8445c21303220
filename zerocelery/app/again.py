"""The arguments of a task that is run again: those of the run before, and what the retry says instead."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.app.task import Task


def arguments(task: Task[..., Any], before: tuple[Any, Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments of the next run.

    A retry may give both, or one of them; an argument that it gives takes the place of the same one of the run before,
    however that was given. No parameter is given twice.

    Arguments:
        before: args and kwargs of the run before.
        args, kwargs: what the retry gives, or None.
    """
    old_args, old_kwargs = before
    if args is None and kwargs is None:
        return old_args, old_kwargs
    if args is not None and kwargs is not None:
        return args, kwargs
    names = _names_by_place(task)
    if args is not None:
        taken = set(names[: len(args)])
        return args, {name: value for name, value in (old_kwargs or {}).items() if name not in taken}
    moved = {name: names.index(name) for name in kwargs if name in names[: len(old_args or ())]}
    places = {place: name for name, place in moved.items()}
    merged = [kwargs[places[at]] if at in places else value for at, value in enumerate(old_args or ())]
    return tuple(merged), {name: value for name, value in kwargs.items() if name not in moved}


def _names_by_place(task: Task[..., Any]) -> list[str]:
    """Names of the parameters that may be given by place; empty for one that can't be given by its name."""
    import inspect

    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return []  # a callable that doesn't say what it takes
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    by_place = (inspect.Parameter.POSITIONAL_ONLY, named)
    return [parameter.name if parameter.kind is named else "" for parameter in parameters if parameter.kind in by_place]
