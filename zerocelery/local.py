"""Objects that stand for another one: ``current_app``, ``current_task``, shared tasks."""

from __future__ import annotations

from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ("PromiseProxy", "Proxy", "class_property", "maybe_evaluate", "try_import")

#: Operators by name; each special method asks the operator, for it may be the other operand that knows how.
_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "matmul": "matmul", "truediv": "truediv", "floordiv": "floordiv",
    "mod": "mod", "pow": "pow", "lshift": "lshift", "rshift": "rshift", "and": "and_", "or": "or_", "xor": "xor",
}  # fmt: skip


def try_import(module: str, default: Any = None) -> Any:
    """The module, or the default if there is none of that name."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        return default


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


def _reflect_right(name: str) -> Any:
    """A binary operator of which the proxy is the right operand."""

    def method(self: Proxy, other: Any) -> Any:
        import operator

        return getattr(operator, name)(other, self._get_current_object())

    method.__name__ = name
    return method


class _Documentation:
    """``__doc__``: of a proxy that of the object behind it, of the class its own."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, proxy: Any, owner: Any = None) -> Any:
        if proxy is None:
            return self.text
        own = _own(proxy, "_Proxy__doc")
        return own if own is not None else proxy._get_current_object().__doc__

    def __set__(self, proxy: Any, value: Any) -> None:
        object.__setattr__(proxy, "_Proxy__doc", value)


def _own(proxy: Any, name: str) -> Any:
    """An attribute of the proxy itself; None if it has none."""
    try:
        return object.__getattribute__(proxy, name)
    except AttributeError:
        return None


class Proxy:
    __doc__ = _Documentation("Behaves as the object that ``local()`` returns at the moment.")

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
            object.__setattr__(self, "_Proxy__doc", __doc__)

    def _get_current_object(self) -> Any:
        """The object behind the proxy."""
        local = object.__getattribute__(self, "_Proxy__local")
        return local(*object.__getattribute__(self, "_Proxy__args"), **object.__getattribute__(self, "_Proxy__kwargs"))

    @property
    def __name__(self) -> str:
        name = _own(self, "__custom_name__")
        return name if name is not None else str(self._get_current_object().__name__)

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        try:
            return self._get_current_object().__dict__
        except RuntimeError:
            raise AttributeError("__dict__") from None

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
        if name == "__members__":
            return dir(self._get_current_object())
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __dir__(self) -> list[str]:
        try:
            return dir(self._get_current_object())
        except RuntimeError:
            return []

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
    __lt__ = _reflect("lt")
    __le__ = _reflect("le")
    __gt__ = _reflect("gt")
    __ge__ = _reflect("ge")
    __int__ = _forward("__int__")
    __float__ = _forward("__float__")
    __complex__ = _forward("__complex__")
    __index__ = _forward("__index__")
    __neg__ = _forward("__neg__")
    __pos__ = _forward("__pos__")
    __abs__ = _forward("__abs__")
    __invert__ = _forward("__invert__")
    __divmod__ = _forward("__divmod__")

    if TYPE_CHECKING:
        __or__ = _reflect("or_")
        __and__ = _reflect("and_")
        __add__ = _reflect("add")


for _name, _operator in _OPERATORS.items():
    setattr(Proxy, f"__{_name}__", _reflect(_operator))
    setattr(Proxy, f"__r{_name}__", _reflect_right(_operator))


class PromiseProxy(Proxy):
    """Behaves as the object that ``local()`` returns when it is first needed."""

    __slots__ = ("__pending__",)

    def _get_current_object(self) -> Any:
        """The object behind the proxy; made at the first call."""
        if not self.__evaluated__():
            object.__setattr__(self, "_PromiseProxy__thing", super()._get_current_object())
            waiting = _own(self, "__pending__")
            if waiting is not None:
                object.__delattr__(self, "__pending__")
                for function, args, kwargs in waiting:
                    function(*args, **kwargs)
        return object.__getattribute__(self, "_PromiseProxy__thing")

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function as soon as the object is there."""
        if self.__evaluated__():
            return fun(*args, **kwargs)
        waiting = _own(self, "__pending__")
        if waiting is None:
            waiting = []
            object.__setattr__(self, "__pending__", waiting)
        waiting.append((fun, args, kwargs))
        return None

    def __evaluated__(self) -> bool:
        """Whether the object is there."""
        try:
            object.__getattribute__(self, "_PromiseProxy__thing")
        except AttributeError:
            return False
        return True

    def __maybe_evaluate__(self) -> Any:
        """The object behind the proxy."""
        return self._get_current_object()


def maybe_evaluate(obj: Any) -> Any:
    """What is behind a proxy; anything else as it is."""
    return obj._get_current_object() if type(obj) in (Proxy, PromiseProxy) else obj


class class_property:
    """A property of the class: its functions are given the class, also where it is read or set on an instance."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(self, getter: Any = None, setter: Any = None) -> None:
        self._get = getter
        self._set = setter

    def __get__(self, obj: Any, type: Any = None) -> Any:
        return self._get(type if type is not None else obj.__class__)

    def __set__(self, obj: Any, value: Any) -> None:
        if self._set is None:
            raise AttributeError("this property can't be set")
        self._set(obj.__class__, value)

    def setter(self, setter: Any) -> class_property:
        """The same, with this to set it."""
        return self.__class__(self._get, setter)
