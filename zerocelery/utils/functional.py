"""Functions of functions and of iterables."""

from __future__ import annotations

import inspect
import operator
from collections import UserList
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from kombu.utils.functional import LRUCache, dictfilter, is_list, lazy, maybe_evaluate, maybe_list, memoize

from zerocelery.utils import chunks, noop

__all__ = (
    "DummyContext",
    "LRUCache",
    "arity_greater",
    "chunks",
    "dictfilter",
    "evaluate_promises",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "fun_takes_argument",
    "head_from_fun",
    "is_list",
    "is_numeric_value",
    "lazy",
    "lookahead",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "pass1",
    "regen",
    "seq_concat_item",
    "seq_concat_seq",
    "uniq",
)


class DummyContext:
    """A context that does nothing."""

    def __enter__(self) -> DummyContext:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let everything through."""


class mlazy(lazy):
    """A value that is computed when it is first needed, and then kept."""

    evaluated = False
    _value: Any = None

    def evaluate(self) -> Any:
        """The value."""
        if not self.evaluated:
            self._value = super().evaluate()  # type: ignore[no-untyped-call]
            self.evaluated = True
        return self._value


def pass1(arg: Any, *args: Any, **kwargs: Any) -> Any:
    """The first argument."""
    return arg


def evaluate_promises(it: Iterable[Any]) -> Iterator[Any]:
    """The items, lazy ones computed."""
    return (value.evaluate() if isinstance(value, mlazy) else value for value in it)


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """The first item that the predicate holds for (that is not None, without one); None if there is none."""
    holds = predicate or (lambda value: value is not None)
    return next((value for value in evaluate_promises(it) if holds(value)), None)


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that calls a method of objects in turn, until one returns something."""

    def ask(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for item in it:
            found = getattr(maybe_evaluate(item), method, None)  # type: ignore[no-untyped-call]
            if found is None:
                continue
            answer = on_call(found, *args, **kwargs) if on_call else found(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return ask


def padlist(container: Iterable[Any], size: int, default: Any = None) -> list[Any]:
    """So many items: those that there are, and then the default."""
    given = list(islice(container, size))
    return given + [default] * (size - len(given))


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """A function that gives these attributes of an object; None for one that it hasn't."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[Any]) -> Iterator[Any]:
    """Each item once, in order."""
    return iter(dict.fromkeys(it))


def lookahead(it: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each item with the next; the last with None."""
    iterator = iter(it)
    for current in islice(iterator, 1):
        for following in iterator:
            yield current, following
            current = following
        yield current, None


def regen(it: Any) -> Any:
    """An iterable as something that can be iterated again, and asked for items; it is read only as far as needed."""
    return it if isinstance(it, (list, tuple)) else _regen(it)


class _regen(UserList[Any], list[Any]):  # type: ignore[misc]
    # A list by its class, so that encoders take it for one.

    def __init__(self, it: Iterable[Any]) -> None:
        self.__it = it
        self.__source: Iterator[Any] | None = None
        #: What was read.
        self.__items: list[Any] = []
        self.__done = False

    def __reduce__(self) -> Any:
        return list, (self.data,)

    def map(self, func: Callable[[Any], Any]) -> None:
        """Replace each item by what the function makes of it; those still to be read when they are."""
        self.__items[:] = map(func, self.__items)
        self.__source = map(func, self.__start())

    def __length_hint__(self) -> int:
        return operator.length_hint(self.__it)

    def __start(self) -> Iterator[Any]:
        if self.__source is None:
            source = iter(self.__it)
            # that may have read this very list, and so have begun
            if self.__source is None:
                self.__source = source
        return self.__source

    def _read(self) -> bool:
        """Read one more item; whether there was one."""
        if self.__done:
            return False
        source = self.__start()
        for item in source:
            self.__items.append(item)
            return True
        self.__done = True
        return False

    def __iter__(self) -> Iterator[Any]:
        place, reading = 0, False
        while True:
            if place >= len(self.__items):
                reading = self._read()
                if place >= len(self.__items):
                    return
            # one item is read ahead, so that the last is known to be the last when it is given
            if reading and place + 1 >= len(self.__items):
                self._read()
            yield self.__items[place]
            place += 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.data[index]
        place = operator.index(index)
        if place < 0:
            return self.data[place]
        if len(self.__items) <= place:
            while len(self.__items) <= place and self._read():
                pass
            self._read()
        return self.__items[place]

    def __bool__(self) -> bool:
        return bool(self.__items) or self._read()

    @property
    def data(self) -> Any:  # type: ignore[override]
        """All items."""
        while self._read():
            pass
        return self.__items

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.__items))
        return f"<{type(self).__name__}: [{shown}{'' if self.__done else '...'}]>"


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., int]:
    """A function that takes the arguments that another takes, and does nothing.

    Arguments:
        bound: whether the first of them is left out.
    """
    is_function = inspect.isfunction(fun) or inspect.ismethod(fun) or inspect.isbuiltin(fun)
    subject: Any = fun if is_function or isinstance(fun, type) else type(fun).__call__
    signature = inspect.signature(getattr(subject, "__func__", subject), follow_wrapped=False)
    if bound:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])

    def head(*args: Any, **kwargs: Any) -> int:
        signature.bind(*args, **kwargs)
        return 1

    head.__name__ = getattr(fun, "__name__", type(fun).__name__)
    head.__module__ = getattr(fun, "__module__", __name__)
    return head


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Whether a function can be called with more than n arguments."""
    found = inspect.getfullargspec(fun)
    return bool(found.varargs) or len(found.args) > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> bool:
    """Whether a function takes an argument of that name, or at that position."""
    found = inspect.getfullargspec(fun)
    by_position = position is not None and len(found.args) >= position
    return bool(found.varkw or found.varargs) or (by_position if position is not None else name in found.args)


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Whether a function takes any keyword argument."""
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in inspect.signature(fun).parameters.values()
    )


def maybe(typ: Callable[[Any], Any], val: Any) -> Any:
    """The value as that type; None as it is."""
    return typ(val) if val is not None else val


def seq_concat_item(seq: Any, item: Any) -> Any:
    """The sequence and one item more, as a sequence of the same type."""
    return seq_concat_seq(seq, (item,))


def seq_concat_seq(a: Any, b: Any) -> Any:
    """Two sequences as one, of the type of the longer."""
    kind = list if isinstance(a if len(a) >= len(b) else b, list) else tuple
    return kind([*a, *b])


def is_numeric_value(value: Any) -> bool:
    """Whether it is a number, True and False not counted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
