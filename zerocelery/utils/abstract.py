"""What tasks and signatures look like to code that doesn't want to know more of them."""

from __future__ import annotations

from abc import ABCMeta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("CallableSignature", "CallableTask")


class _Thing(metaclass=ABCMeta):  # noqa: B024 - what it asks for is in __required_attributes__
    """Base: a class belongs to it by having its methods, or by being registered."""

    __required_attributes__: frozenset[str] = frozenset()

    @classmethod
    def __subclasshook__(cls, other: Any) -> Any:
        required = cls.__dict__.get("__required_attributes__")
        if not required:
            return NotImplemented
        return (
            True if all(any(name in base.__dict__ for base in other.__mro__) for name in required) else NotImplemented
        )


class CallableTask(_Thing):
    """Something that can be called here, or sent."""

    __required_attributes__ = frozenset({"delay", "apply_async", "apply"})


class CallableSignature(CallableTask):
    """A call of a task, as a value."""

    __required_attributes__ = frozenset({"clone", "freeze", "set", "link", "link_error", "__or__", "__invert__"})
