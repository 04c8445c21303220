"""What type annotations say."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

__all__ = ("annotation_issubclass", "get_optional_arg", "is_none_type")


def is_none_type(value: Any) -> bool:
    """Whether it is the type of None."""
    return value is type(None)


def get_optional_arg(annotation: Any) -> Any:
    """The type that may also be None; None if the annotation says anything else."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    others = [arg for arg in get_args(annotation) if not is_none_type(arg)]
    return others[0] if len(others) == 1 and len(get_args(annotation)) == 2 else None


def annotation_issubclass(annotation: Any, cls: type) -> bool:
    """Whether the annotation is a plain class, and a subclass of the other."""
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, cls)
