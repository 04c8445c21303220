"""Tasks that take and give pydantic models: ``@app.task(pydantic=True)``.

A worker is sent what a model says of itself, validates that, and calls the function with a model. A caller may give the
model itself: it is dumped when it is sent, where what arrives would be the same model.
"""

from __future__ import annotations

import inspect
import typing
from functools import cached_property, wraps
from types import CoroutineType

from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.utils.annotations import annotation_issubclass, get_optional_arg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zerocelery.app.base import Celery

__all__ = ("Models",)

#: Serializers that can carry a model as it is.
_PICKLES = frozenset({"pickle", "application/x-python-serialize"})


def _base_model() -> Any:
    import importlib

    try:
        return importlib.import_module("pydantic").BaseModel
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured("You need to install pydantic to use pydantic model serialization.") from error


class Models:
    """The models among a function's parameters, and how they are read and written.

    Arguments:
        bound: the function's first parameter is the task.
        strict, context: as for ``BaseModel.model_validate``; the context has ``celery_app`` and ``celery_task_name``.
        dump_kwargs: as for ``BaseModel.model_dump``, whose mode is ``json`` unless it is given.
    """

    def __init__(
        self,
        app: Celery,
        function: Callable[..., Any],
        name: str,
        *,
        bound: bool,
        strict: bool = False,
        context: dict[str, Any] | None = None,
        dump_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.bound = bound
        self.strict = strict
        self.context = {**(context or {}), "celery_app": app, "celery_task_name": name}
        self.dump_kwargs = {"mode": "json", **(dump_kwargs or {})}

    @cached_property
    def signature(self) -> inspect.Signature:
        """What the function takes; looked at when it is first needed, for annotations may name what comes later."""
        return inspect.signature(self.function)

    @cached_property
    def _kinds(self) -> dict[str, Any]:
        """Model by parameter; that of ``return`` is what the function gives."""
        base = _base_model()
        try:
            hints = typing.get_type_hints(self.function)
        except (NameError, TypeError):
            hints = {name: hint for name, hint in _annotations(self.function).items() if not isinstance(hint, str)}
        whole = {name: get_optional_arg(hint) or hint for name, hint in hints.items()}
        return {name: hint for name, hint in whole.items() if annotation_issubclass(hint, base)}

    def wrapped(self) -> Callable[..., Any]:
        """The function, called with what a message has."""

        @wraps(self.function)
        def validated(*args: Any, **kwargs: Any) -> Any:
            base = _base_model()
            call = self.signature.bind(*args, **kwargs)
            for name, value in call.arguments.items():
                kind = self._kinds.get(name)
                if kind is not None and value is not None and not isinstance(value, kind):
                    call.arguments[name] = self._read(kind, value)
            given = self.function(*call.args, **call.kwargs)
            return self._awaited(given, base) if isinstance(given, CoroutineType) else self._written(given, base)

        return validated

    async def _awaited(self, coroutine: Any, base: Any) -> Any:
        return self._written(await coroutine, base)

    def _written(self, given: Any, base: Any) -> Any:
        """What the function gives, as it is stored."""
        if isinstance(given, base) and "return" in self._kinds:
            return given.model_dump(**self.dump_kwargs)
        return given

    def _read(self, kind: Any, value: Any) -> Any:
        return kind.model_validate(value, strict=self.strict, context=self.context)

    def dumped(self, args: Any, kwargs: Any, serializer: Any) -> tuple[Any, Any]:
        """Arguments as they are sent: the very same objects where there is no model among them."""
        if serializer in _PICKLES or not isinstance(args or (), (list, tuple)) or not isinstance(kwargs or {}, dict):
            return args, kwargs
        base = _base_model()
        if not any(isinstance(value, base) for value in (*(args or ()), *(kwargs or {}).values())):
            return args, kwargs
        names = list(self._positional())
        new_args = [self._dump(names[at] if at < len(names) else "", value) for at, value in enumerate(args or ())]
        new_kwargs = {name: self._dump(name, value) for name, value in (kwargs or {}).items()}
        if args and any(new is not old for new, old in zip(new_args, args, strict=True)):
            args = new_args if isinstance(args, list) else tuple(new_args)
        if kwargs and any(new_kwargs[name] is not kwargs[name] for name in kwargs):
            kwargs = new_kwargs
        return args, kwargs

    def _positional(self) -> list[str]:
        kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = [name for name, parameter in self.signature.parameters.items() if parameter.kind in kinds]
        return names[1:] if self.bound else names

    def _dump(self, name: str, value: Any) -> Any:
        """The model's dump; or, if that is read as another model, itself: what to do is the serializer's business."""
        parameter = self.signature.parameters.get(name)
        several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        kind = self._kinds.get(name) if parameter is not None and parameter.kind not in several else None
        if kind is None or not isinstance(value, kind) or hasattr(value, "__json__"):
            return value
        try:
            dump = value.model_dump(**self.dump_kwargs)
            return dump if self._read(kind, dump) == value else value
        except Exception:
            # a validator may need what only workers have
            return value


def _annotations(function: Any) -> dict[str, Any]:
    return getattr(function, "__annotations__", {}) or {}
