"""Exceptions and values made fit to travel."""

from __future__ import annotations

import base64
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from numbers import Real
from typing import Any, NoReturn

__all__ = (
    "UnpickleableExceptionWrapper",
    "b64decode",
    "b64encode",
    "create_exception_cls",
    "ensure_serializable",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "jsonify",
    "pickle",
    "raise_with_context",
    "strtobool",
    "subclass_exception",
)

#: Bases that say nothing of an exception.
unwanted_base_classes = (Exception, BaseException, object)

STRTOBOOL_DEFAULT_TABLE = {
    "false": False, "no": False, "0": False, "off": False,
    "true": True, "yes": True, "1": True, "on": True,
}  # fmt: skip


def _survives(value: Any, dumps: Callable[[Any], Any], loads: Callable[[Any], Any]) -> bool:
    # Whatever an object's own methods raise: they are asked whether it travels, and that is their answer.
    try:
        loads(dumps(value))
    except Exception:
        return False
    return True


def _safe_repr(value: Any) -> str:
    from kombu.utils.encoding import safe_repr

    return str(safe_repr(value))  # type: ignore[no-untyped-call]


def subclass_exception(name: str, parent: type, module: str) -> type:
    """A new exception class."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(name: str, module: str, parent: type | None = None) -> type:
    """A new exception class; of Exception, unless another base is given."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """The class and its bases, up to one of these."""
    for base in cls.__mro__:
        if base in stop:
            return
        yield base


def find_pickleable_exception(
    exc: BaseException, loads: Callable[[Any], Any] = pickle.loads, dumps: Callable[[Any], Any] = pickle.dumps
) -> BaseException | None:
    """The exception as the nearest of its bases that can be pickled; None if only Exception is left."""
    for base in itermro(type(exc), unwanted_base_classes):
        try:
            simpler = base(*getattr(exc, "args", ()))
        except Exception:  # noqa: S112 - a base that takes other arguments is no help
            continue
        if _survives(simpler, dumps, loads):
            return simpler  # type: ignore[no-any-return]
    return None


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The items, those that the encoder refuses as text."""
    return tuple(item if _survives(item, encoder, lambda data: data) else _safe_repr(item) for item in items)


class UnpickleableExceptionWrapper(Exception):
    """Stands for an exception that can't be pickled.

    Arguments:
        exc_module: the module of its class.
        exc_cls_name: its class.
        exc_args: its arguments; those that can't be pickled become text.
        text: what it looks like.
    """

    exc_module: str
    exc_cls_name: str
    exc_args: tuple[Any, ...]

    def __init__(self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None) -> None:
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = ensure_serializable(exc_args, lambda item: pickle.loads(pickle.dumps(item)))  # noqa: S301
        self.text = text
        super().__init__(exc_module, exc_cls_name, self.exc_args, text)

    def restore(self) -> Any:
        """An exception of a new class, which has the name and arguments of the one that it stands for."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    def __str__(self) -> str:
        return str(self.text)

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        """The one that stands for an exception."""
        kind = type(exc)
        made = cls(kind.__module__, kind.__name__, getattr(exc, "args", ()), _safe_repr(exc))
        return made.with_traceback(getattr(exc, "__traceback__", None))


def get_pickleable_exception(exc: BaseException) -> BaseException:
    """The exception, or what comes nearest to it and can be pickled."""
    if _survives(exc, pickle.dumps, pickle.loads):
        return exc
    return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)


def get_pickleable_etype(
    cls: Any, loads: Callable[[Any], Any] = pickle.loads, dumps: Callable[[Any], Any] = pickle.dumps
) -> Any:
    """The exception class, or Exception if it can't be pickled."""
    return cls if _survives(cls, dumps, loads) else Exception


def get_pickled_exception(exc: Any) -> Any:
    """The exception that one of :func:`get_pickleable_exception` stands for."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def b64encode(s: str | bytes) -> str:
    """Base 64 of bytes, or of a text's UTF-8."""
    return base64.b64encode(s.encode() if isinstance(s, str) else s).decode()


def b64decode(s: str | bytes) -> bytes:
    """The bytes that base 64 stands for."""
    return base64.b64decode(s)


def strtobool(term: Any, table: dict[str, bool] | None = None) -> Any:
    """Yes or no as a bool, and their like; what is no text as it is."""
    if not isinstance(term, str):
        return term
    try:
        return (STRTOBOOL_DEFAULT_TABLE if table is None else table)[term.lower()]
    except KeyError:
        raise TypeError(f"Cannot coerce {term!r} to type bool") from None


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (Real, str),
    key: Any = None,
    keyfilter: Callable[[Any], Any] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """The object as JSON has it: times as ISO 8601, kombu's objects as mappings.

    Arguments:
        keyfilter: which keys of mappings to keep.
        unknown_type_filter: makes something of what JSON doesn't know.

    Raises:
        ValueError: something is in it that JSON doesn't know.
    """
    from kombu.abstract import Object

    def again(value: Any, under: Any = key) -> Any:
        return jsonify(value, builtin_types, key=under, keyfilter=keyfilter, unknown_type_filter=unknown_type_filter)

    if isinstance(obj, Object):
        obj = obj.as_dict(recurse=True)
    if obj is None or isinstance(obj, builtin_types):
        return obj
    if isinstance(obj, (tuple, list)):
        return [again(value) for value in obj]
    if isinstance(obj, dict):
        return {name: again(value, name) for name, value in obj.items() if keyfilter is None or keyfilter(name)}
    if isinstance(obj, (date, time)):
        return _moment(obj)
    if isinstance(obj, timedelta):
        return str(obj)
    if unknown_type_filter is None:
        raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r} (parent: {key})")
    return unknown_type_filter(obj)


def _moment(obj: date | time) -> str:
    """As JavaScript writes it: milliseconds, and Z for UTC."""
    if not isinstance(obj, (datetime, time)):
        return obj.isoformat()
    text = obj.isoformat(timespec="milliseconds" if obj.microsecond else "auto")
    return f"{text[:-6]}Z" if isinstance(obj, datetime) and text.endswith("+00:00") else text


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise it, because of the exception that is being handled."""
    current = sys.exc_info()[1]
    if current is exc:
        raise
    raise exc from current
