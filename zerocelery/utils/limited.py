"""A set that keeps what is new: of bounded size, and of bounded age."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import Any

__all__ = ("LimitedSet",)


class LimitedSet:
    """Items in the order of their last addition; the oldest leave first.

    Arguments:
        maxlen: how many there may be; 0: any number.
        expires: how old an item may grow (seconds); 0: any age.
        data: items to begin with.
        minlen: how many stay whatever their age.
    """

    def __init__(
        self, maxlen: int | None = 0, expires: float | None = 0, data: Any = None, minlen: int | None = 0
    ) -> None:
        self.maxlen = 0 if maxlen is None else maxlen
        self.minlen = 0 if minlen is None else minlen
        self.expires = 0 if expires is None else expires
        if not self.maxlen >= self.minlen >= 0:
            raise ValueError("minlen must be a positive number, less or equal to maxlen.")
        if self.expires < 0:
            raise ValueError("expires cannot be negative!")
        #: item → when it was added; kept in that order.
        self._data: dict[Any, float] = {}
        if data:
            self.update(data)

    def add(self, item: Any, now: float | None = None) -> None:
        """Add an item, or make it the newest."""
        stamp = monotonic() if now is None else now
        newest = next(reversed(self._data.values()), stamp)
        self._data.pop(item, None)
        self._data[item] = stamp
        if stamp < newest:
            self._data = dict(sorted(self._data.items(), key=lambda pair: pair[1]))
        if self.maxlen and len(self._data) >= self.maxlen:
            self.purge()

    def update(self, other: Any) -> None:
        """Add items: of another of these or a mapping with their times, else as of now."""
        if not other:
            return
        if isinstance(other, LimitedSet):
            other = other._data
        if isinstance(other, Mapping):
            for item, stamp in other.items():
                stamp = stamp[0] if isinstance(stamp, (tuple, list)) else stamp
                if self._data.get(item, float("-inf")) < stamp:
                    self.add(item, stamp)
        else:
            for item in other:
                self.add(item)

    def discard(self, item: Any) -> None:
        """Take an item out, if it is there."""
        self._data.pop(item, None)

    pop_value = discard

    def pop(self, default: Any = None) -> Any:
        """Take the oldest item out."""
        for item in self._data:
            del self._data[item]
            return item
        return default

    def purge(self, now: float | None = None) -> None:
        """Let go of what is too much or too old."""
        moment = monotonic() if now is None else now
        moment = moment() if callable(moment) else moment
        if self.maxlen:
            while len(self._data) > self.maxlen:
                self.pop()
        if self.expires:
            while len(self._data) > self.minlen and next(iter(self._data.values())) < moment - self.expires:
                self.pop()

    def clear(self) -> None:
        """Take all items out."""
        self._data.clear()

    def as_dict(self) -> dict[Any, float]:
        """Items and when they were added."""
        return dict(self._data)

    def __contains__(self, item: object) -> bool:
        return item in self._data

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._data))

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return bool(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}({len(self)}): maxlen={self.maxlen}, expires={self.expires}, minlen={self.minlen}>"
        )

    def __reduce__(self) -> Any:
        return type(self), (self.maxlen, self.expires, self.as_dict(), self.minlen)


def fresh(items: Iterable[Any]) -> dict[Any, float]:
    """The items, all as of now."""
    now = monotonic()
    return dict.fromkeys(items, now)
