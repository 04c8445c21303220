"""How far a task, or a group of tasks, has come: told by the task, seen by anybody who has its id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from zerocelery import states

__all__ = ("PROGRESS", "Progress")

#: The state of a task that has told how far it is; its data are ``{"done": …, "total": …}``.
PROGRESS = "PROGRESS"


class Progress(NamedTuple):
    """So much of so much; as text it is a bar.

    Arguments:
        done: of a group it counts members, and parts of those that tell how far they are.
    """

    done: float
    total: float

    @property
    def fraction(self) -> float:
        """Between 0 and 1; 1 where there is nothing to do."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total else 1.0

    def bar(self, width: int = 30) -> str:
        """``[#########·····················]  30 %  3/10``."""
        full = round(self.fraction * width)
        return f"[{'#' * full}{'·' * (width - full)}] {self.fraction:4.0%} {self.done:g}/{self.total:g}"

    def __str__(self) -> str:
        return self.bar()


def of_meta(meta: dict[str, Any]) -> Progress | None:
    """What a task's state says of its progress; None where that is nothing."""
    if meta["status"] == states.SUCCESS:
        return Progress(1, 1)
    told = meta["result"] if meta["status"] == PROGRESS else None
    if not isinstance(told, dict) or not isinstance(told.get("done"), (int, float)):
        return None
    return Progress(told["done"], told.get("total") or 0)


def of_members(metas: Iterable[dict[str, Any]]) -> Progress:
    """That of a group, of its members' states: who has failed or was revoked has nothing left to do either."""
    done = total = 0.0
    for meta in metas:
        total += 1
        if meta["status"] in states.READY_STATES:
            done += 1
        else:
            part = of_meta(meta)
            done += part.fraction if part is not None and part.total else 0.0
    return Progress(round(done, 3), int(total))
