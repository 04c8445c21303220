"""Tasks that are not to be started: by their ids or labels, whether they are here or still to come.

What was revoked is remembered in the journal for as long as the caller said, and in memory for the look that is taken
at each task before it is leased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from zerocelery.engine import wire

#: Remembered ids and labels; beyond, the oldest are forgotten.
_MOST: Final = 50_000

_ID, _LABEL = "revoked", "revoked-label"


class Marks(Protocol):
    """Where it is kept."""

    def mark(self, kind: str, name: str, number: int, value: bytes | None) -> None: ...
    def unmark(self, kind: str, name: str) -> None: ...
    def marked(self, kind: str) -> list[tuple[str, int, bytes | None]]: ...


class Revocations:
    """What is revoked."""

    def __init__(self, journal: Marks) -> None:
        self.journal = journal
        self.ids: dict[str, int] = {name: until for name, until, _ in journal.marked(_ID)}
        self.labels: dict[str, int] = {name: until for name, until, _ in journal.marked(_LABEL)}

    def __bool__(self) -> bool:
        return bool(self.ids or self.labels)

    def add(self, ids: Iterable[str], labels: Iterable[str], until: int) -> None:
        """Remember these until that time (wall-clock seconds)."""
        for kind, known, names in ((_ID, self.ids, ids), (_LABEL, self.labels, labels)):
            for name in names:
                known.pop(name, None)  # the latest are last
                known[name] = until
                self.journal.mark(kind, name, until, None)
            while len(known) > _MOST:
                oldest = next(iter(known))
                del known[oldest]
                self.journal.unmark(kind, oldest)

    def take_back(self, ids: Iterable[str], labels: Iterable[str]) -> None:
        """Remember these no more."""
        for kind, known, names in ((_ID, self.ids, ids), (_LABEL, self.labels, labels)):
            for name in names:
                if known.pop(name, None) is not None:
                    self.journal.unmark(kind, name)

    def expire(self, now: float) -> None:
        """Forget those whose time is over."""
        for kind, known in ((_ID, self.ids), (_LABEL, self.labels)):
            for name in [name for name, until in known.items() if until <= now]:
                del known[name]
                self.journal.unmark(kind, name)

    def revokes(self, head: wire.TaskHead, raw: bytes, now: float) -> bool:
        """Whether this task is not to be started."""
        return self.ids.get(head.id, 0) > now or (
            bool(self.labels) and any(self.labels.get(label, 0) > now for label in labels_of(head, raw))
        )


class Wanted:
    """Finds the tasks that one revocation concerns, among many that it does not."""

    def __init__(self, ids: Iterable[str], labels: Iterable[str]) -> None:
        self.ids = frozenset(ids)
        self.labels = frozenset(labels)
        self._needles = [task_id.encode() for task_id in self.ids]
        self._reach = max((len(needle) for needle in self._needles), default=0) + 8

    def matches(self, head: wire.TaskHead, raw: bytes) -> bool:
        return head.id in self.ids or (bool(self.labels) and not self.labels.isdisjoint(labels_of(head, raw)))

    def among(self, rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, wire.TaskHead, bytes]]:
        """Those of the stored tasks that it concerns."""
        for number, raw in rows:
            if not self.labels:
                start = raw[: self._reach]  # the id is the first of a task's fields: most need not be decoded
                if not any(needle in start for needle in self._needles):
                    continue
            head = wire.decode_task_head(raw)
            if isinstance(head, wire.TaskHead) and self.matches(head, raw):
                yield number, head, raw


def labels_of(head: wire.TaskHead, raw: bytes) -> list[str]:
    """A task's labels."""
    if not head.flags & wire.LABELLED:
        return []
    task = wire.decode_task(raw)
    return [] if isinstance(task, wire.Malformed) else task.labels
