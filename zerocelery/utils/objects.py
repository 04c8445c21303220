"""Objects and their attributes."""

from __future__ import annotations

from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("Bunch", "FallbackContext", "getitem_property", "mro_lookup")


class Bunch:
    """Whatever attributes it is given."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)


def mro_lookup(cls: type, attr: str, stop: Any = None, monkey_patched: Any = None) -> Any:
    """The first of a class and its bases that has an attribute of its own.

    Arguments:
        stop: don't look into these or beyond; None if one of them is reached.
        monkey_patched: modules; an attribute of a stop that is of none of them was patched in, and counts.
    """
    for base in cls.__mro__:
        if stop and base in stop:
            found = base.__dict__.get(attr)
            patched = found is not None and monkey_patched and getattr(found, "__module__", None) not in monkey_patched
            return base if patched else None
        if attr in base.__dict__:
            return base
    return None


class FallbackContext:
    """A context whose value is what it is given; or else what another context gives, which is left at the end."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(self, provided: Any, fallback: Any, *fb_args: Any, **fb_kwargs: Any) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        context = self.fallback(*self.fb_args, **self.fb_kwargs)
        value = context.__enter__()
        self._context = context
        return value

    def __exit__(self, *exc_info: Any) -> Any:
        context, self._context = self._context, None
        return None if context is None else context.__exit__(*exc_info)


class getitem_property:
    """An attribute that is an item of the object, which is a mapping.

    Arguments:
        keypath: the item's key; with dots, the way to it through mappings in the object.
    """

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        *self.path, self.key = keypath.split(".")
        if doc:
            self.__doc__ = doc

    def _holder(self, obj: Any) -> Any:
        for key in self.path:
            obj = obj[key]
        return obj

    def __get__(self, obj: Any, type: Any = None) -> Any:
        return type if obj is None else self._holder(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._holder(obj)[self.key] = value
