"""Objects that stand for another one: ``current_app``, ``current_task``, shared tasks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ("Proxy", "maybe_evaluate")


def _forward(name: str) -> Any:
    """A special method that asks the object behind the proxy; Python looks these up on the class."""

    def method(self: Proxy, *args: Any) -> Any:
        return getattr(self._get_current_object(), name)(*args)

    method.__name__ = name
    return method


def _reflect(name: str) -> Any:
    """A binary operator, through the operator itself: it may be the other operand that knows how."""

    def method(self: Proxy, other: Any) -> Any:
        import operator

        return getattr(operator, name)(self._get_current_object(), other)

    method.__name__ = name
    return method


class Proxy:
    """Behaves as the object that ``local()`` returns at the moment."""

    __slots__ = ("__args", "__dict__", "__kwargs", "__local", "__weakref__")

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,
    ) -> None:
        object.__setattr__(self, "_Proxy__local", local)
        object.__setattr__(self, "_Proxy__args", args or ())
        object.__setattr__(self, "_Proxy__kwargs", kwargs or {})
        if name is not None:
            object.__setattr__(self, "__custom_name__", name)
        if __doc__ is not None:
            object.__setattr__(self, "__doc__", __doc__)

    def _get_current_object(self) -> Any:
        """The object behind the proxy."""
        local = object.__getattribute__(self, "_Proxy__local")
        return local(*object.__getattribute__(self, "_Proxy__args"), **object.__getattribute__(self, "_Proxy__kwargs"))

    @property
    def __name__(self) -> str:
        own: dict[str, str] = object.__getattribute__(self, "__dict__")
        name = own.get("__custom_name__")
        return name if name is not None else str(self._get_current_object().__name__)

    @property
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    @__class__.setter
    def __class__(self, value: type) -> None:
        self._get_current_object().__class__ = value

    @property
    def __wrapped__(self) -> Any:
        return self._get_current_object().__wrapped__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __repr__(self) -> str:
        try:
            current = self._get_current_object()
        except RuntimeError:
            return f"<{type(self).__name__} unbound>"
        return repr(current)

    def __bool__(self) -> bool:
        try:
            return bool(self._get_current_object())
        except RuntimeError:
            return False

    def __str__(self) -> str:
        return str(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == other)

    def __ne__(self, other: object) -> bool:
        return bool(self._get_current_object() != other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __len__(self) -> int:
        return len(self._get_current_object())

    def __iter__(self) -> Any:
        return iter(self._get_current_object())

    def __contains__(self, item: object) -> bool:
        return item in self._get_current_object()

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)

    __getitem__ = _forward("__getitem__")
    __setitem__ = _forward("__setitem__")
    __delitem__ = _forward("__delitem__")
    __enter__ = _forward("__enter__")
    __exit__ = _forward("__exit__")
    __or__ = _reflect("or_")
    __and__ = _reflect("and_")
    __add__ = _reflect("add")
    __lt__ = _reflect("lt")
    __le__ = _reflect("le")
    __gt__ = _reflect("gt")
    __ge__ = _reflect("ge")
    __int__ = _forward("__int__")
    __float__ = _forward("__float__")


def maybe_evaluate(obj: Any) -> Any:
    """What is behind a proxy; anything else as it is."""
    return obj._get_current_object() if type(obj) is Proxy else obj
