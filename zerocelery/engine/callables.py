"""Callables that a worker can't import travel by cloudpickle, once per version.

A *version* is the digest of what cloudpickle made of the function, with all that it refers to outside importable
modules. It is packed again when something that it refers to by name was bound anew (a cell of a notebook was run
again); what is changed in place, without binding a name, is not noticed.

cloudpickle needs the same Python on both sides; so both versions travel along, and a mismatch is a sentence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

import cloudpickle
import msgspec

from zerocelery.engine.errors import CallableError

#: Of the packed form itself.
_FORMAT: Final = 1


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    format: int
    python: str
    cloudpickle: str
    name: str
    pickled: bytes


def _python() -> str:
    return f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"


def importable(function: Callable[..., Any]) -> bool:
    """Whether another process finds this very function by its module and name."""
    module_name = getattr(function, "__module__", None)
    path = getattr(function, "__qualname__", "")
    if not module_name or module_name == "__main__" or "<" in path:
        return False
    found: Any = sys.modules.get(module_name)
    if found is None or (getattr(found, "__file__", None) is None and not _has_loader(found)):
        return False
    for name in path.split("."):
        found = getattr(found, name, None)
    # A decorator may have bound a task, which wraps the function, to the function's name.
    return found is function or inner_of(found) is function


def _has_loader(module: types.ModuleType) -> bool:
    """Built-in and frozen modules have no file, and can be imported all the same."""
    try:
        return importlib.util.find_spec(module.__name__) is not None
    except (ImportError, ValueError):
        return False


def inner_of(wrapper: object) -> object:
    """The function within a decorated one."""
    return getattr(wrapper, "__wrapped__", None)


def pack(function: Callable[..., Any]) -> tuple[str, bytes]:
    """Digest and bytes of a callable.

    Raises:
        CallableError: it refers to something that can't be pickled; the message says what.
    """
    name = getattr(function, "__qualname__", repr(function))
    try:
        pickled = cloudpickle.dumps(function)
    except Exception as error:
        raise CallableError(
            f"{name} can't be sent to the workers, because something that it refers to can't be pickled: {error}. "
            "Open files, connections and locks inside the task, or put the task into a module that workers import"
        ) from error
    blob = msgspec.msgpack.encode(_Packed(_FORMAT, _python(), cloudpickle.__version__, name, pickled))
    return hashlib.sha256(blob).hexdigest(), blob


def load(blob: bytes) -> Any:
    """The callable again. Only for bytes of an authenticated peer: loading them runs them.

    Raises:
        CallableError: it was packed by another Python, is damaged, or needs a module that is not here.
    """
    try:
        packed = msgspec.msgpack.decode(blob, type=_Packed)
    except msgspec.MsgspecError as error:
        raise CallableError(f"these bytes are no packed function: {error}") from error
    if packed.python != _python():
        raise CallableError(
            f"{packed.name} was sent by {packed.python} (cloudpickle {packed.cloudpickle}), and this worker runs "
            f"{_python()} (cloudpickle {cloudpickle.__version__}): a function's bytecode does not move between Python "
            "versions. Run both on the same, or put the task into a module that the worker imports"
        )
    try:
        return cloudpickle.loads(packed.pickled)
    except Exception as error:
        raise CallableError(
            f"{packed.name} (from {packed.python}, cloudpickle {packed.cloudpickle}; here {cloudpickle.__version__}) "
            f"can't be loaded here: {type(error).__name__}: {error}"
        ) from error


class Shipped:
    """A callable and its newest packed form."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._packed: tuple[str, bytes] | None = None
        self._seen: list[tuple[dict[str, Any], str, Any]] = []

    def current(self) -> tuple[str, bytes]:
        """Digest and bytes, packed anew where a name that the function refers to was bound anew.

        Raises:
            CallableError
        """
        if self._packed is None or any(scope.get(name, _MISSING) is not value for scope, name, value in self._seen):
            self._seen = list(_references(self.function))
            self._packed = pack(self.function)
        return self._packed


_MISSING: Final = object()


def _references(function: object) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Every global name that the function, and the functions that travel with it, refer to, with its value."""
    seen: set[int] = set()
    todo: list[object] = [function]
    while todo:
        one = todo.pop()
        one = inner_of(one) or one
        if not isinstance(one, types.FunctionType) or id(one) in seen:
            continue
        seen.add(id(one))
        for code in _codes(one.__code__):
            for name in code.co_names:
                value = one.__globals__.get(name, _MISSING)
                yield one.__globals__, name, value
                inner = inner_of(value) or value  # a task among the globals travels as its function does
                if isinstance(inner, types.FunctionType) and not importable(inner):
                    todo.append(inner)
        todo.extend(_contents(one))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _contents(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
