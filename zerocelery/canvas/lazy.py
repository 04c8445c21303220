"""Tasks that come from a generator: made one by one as they are asked for, kept, and from then on a list."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    _Base = list[Any]
else:
    _Base = list


class LazyList(_Base):
    """A list whose items are taken from an iterator when somebody looks at them.

    It is one item ahead of who iterates, so that who has got the last one can know that it was.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__()
        self._source: Iterator[Any] | None = iter(items)
        self._ahead: list[Any] = []

    @property
    def exhausted(self) -> bool:
        """Whether all items are here."""
        return self._source is None and not self._ahead

    def _pull(self) -> bool:
        """Take one more item; whether there was one."""
        self._look_ahead()
        if not self._ahead:
            return False
        list.append(self, self._ahead.pop())
        self._look_ahead()
        return True

    def _look_ahead(self) -> None:
        if self._source is not None and not self._ahead:
            try:
                self._ahead.append(next(self._source))
            except StopIteration:
                self._source = None

    def _all(self) -> LazyList:
        while self._pull():
            pass
        return self

    def __iter__(self) -> Iterator[Any]:
        index = 0
        while index < list.__len__(self) or self._pull():
            yield list.__getitem__(self, index)
            index += 1

    def __len__(self) -> int:
        return list.__len__(self._all())

    def __length_hint__(self) -> int:
        return list.__len__(self) + len(self._ahead)

    def __bool__(self) -> bool:
        return list.__len__(self) > 0 or self._pull()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and index >= 0:
            while index >= list.__len__(self) and self._pull():
                pass
        else:
            self._all()
        return list.__getitem__(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        list.__setitem__(self._all(), index, value)

    def __contains__(self, item: Any) -> bool:
        return any(item == other for other in self)

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __add__(self, other: Any) -> Any:
        return list(self) + list(other)

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        from copy import deepcopy

        return deepcopy(list(self), memo)

    def __repr__(self) -> str:
        return list.__repr__(self._all())


def as_tasks(items: Any) -> Any:
    """A list of what may be any iterable; generators stay lazy, lists are taken as they are."""
    return items if isinstance(items, list) else list(items) if isinstance(items, tuple) else LazyList(items)


def several(value: Any) -> list[Any]:
    """A list of what may be one thing, several, or nothing."""
    if value is None:
        return []
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return [value]
