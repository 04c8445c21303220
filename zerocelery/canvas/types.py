"""Canvases for type checkers: what sends several calls at once gives a GroupResult, however it begins.

Nothing here is there when a program runs.
"""

from __future__ import annotations

from typing import Any, TypeVar

from zerocelery.canvas.chains import chain
from zerocelery.canvas.signature import Signature
from zerocelery.result import GroupResult

__all__ = ("ChainToGroup", "EndsInGroup")

#: What each member gives.
M = TypeVar("M")


class EndsInGroup(Signature[list[M]]):
    """A group, or a chain whose last step is one."""

    def __call__(self, *args: Any, **kwargs: Any) -> GroupResult[M]:
        raise NotImplementedError

    def delay(self, *args: Any, **kwargs: Any) -> GroupResult[M]:  # type: ignore[override]
        raise NotImplementedError

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult[M]:  # type: ignore[override]
        raise NotImplementedError

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult[M]:  # type: ignore[override]
        raise NotImplementedError

    async def adelay(self, *args: Any, **kwargs: Any) -> GroupResult[M]:  # type: ignore[override]
        raise NotImplementedError

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult[M]:  # type: ignore[override]
        raise NotImplementedError

    def freeze(self, *args: Any, **kwargs: Any) -> GroupResult[M]:  # type: ignore[override]
        raise NotImplementedError

    def __ror__(self, other: Signature[Any]) -> EndsInGroup[M]:  # type: ignore[override]
        raise NotImplementedError


class ChainToGroup(EndsInGroup[M], chain[list[M]]):  # type: ignore[misc]
    """``chain(…, group(…))``."""
