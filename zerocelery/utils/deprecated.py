"""Names that are going away."""

from __future__ import annotations

import warnings
from functools import wraps
from typing import Any

from zerocelery.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from zerocelery.utils.imports import qualname

__all__ = ("Callable", "Property", "warn")


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Warn that something is deprecated, or will be.

    Arguments:
        deprecation: the version that deprecates it; without one it is deprecated already.
        removal: the version that removes it.
        alternative: what to do instead.
    """
    said = f"{description} is scheduled for "
    if deprecation:
        said += f"deprecation in version {deprecation}" + (f" and removal in version {removal}" if removal else "")
    else:
        said += f"removal in version {removal}"
    kind = CPendingDeprecationWarning if deprecation else CDeprecationWarning
    warnings.warn(f"{said}. {alternative or ''}".rstrip(), kind, stacklevel=stacklevel)


def Callable(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Any:
    """Warn whenever the function is called."""

    def decorate(fun: Any) -> Any:
        @wraps(fun)
        def call(*args: Any, **kwargs: Any) -> Any:
            warn(
                description=description or qualname(fun),
                deprecation=deprecation,
                removal=removal,
                alternative=alternative,
                stacklevel=3,
            )
            return fun(*args, **kwargs)

        return call

    return decorate


def Property(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Any:
    """Warn whenever the attribute is looked at, set or deleted."""

    def decorate(fun: Any) -> Any:
        said = {
            "deprecation": deprecation,
            "removal": removal,
            "alternative": alternative,
            "description": description or fun.__name__,
        }
        return _Property(fun, said=said)

    return decorate


class _Property:
    def __init__(self, fget: Any = None, fset: Any = None, fdel: Any = None, *, said: dict[str, Any]) -> None:
        self._get, self._set, self._del, self._said = fget, fset, fdel, said
        self.__name__ = fget.__name__
        self.__doc__ = fget.__doc__

    def __get__(self, obj: Any, type: Any = None) -> Any:
        if obj is None:
            return self
        warn(stacklevel=3, **self._said)
        return self._get(obj)

    def __set__(self, obj: Any, value: Any) -> Any:
        if obj is None:
            return self
        if self._set is None:
            raise AttributeError("cannot set attribute")
        warn(stacklevel=3, **self._said)
        self._set(obj, value)
        return None

    def __delete__(self, obj: Any) -> Any:
        if obj is None:
            return self
        if self._del is None:
            raise AttributeError("cannot delete attribute")
        warn(stacklevel=3, **self._said)
        self._del(obj)
        return None

    def setter(self, fset: Any) -> _Property:
        """The same with a way to set it."""
        return _Property(self._get, fset, self._del, said=self._said)

    def deleter(self, fdel: Any) -> _Property:
        """The same with a way to delete it."""
        return _Property(self._get, self._set, fdel, said=self._said)
