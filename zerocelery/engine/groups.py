"""Groups: tasks whose ends are counted, and the body that is accepted when the last of them has ended.

A group is opened by whoever sends it, before its members. Each member's end is counted in the transaction of that end,
once per task id, and so is the acceptance of the body: a node that is killed at any point has either all of it or
nothing. Which members have ended, and with what, is in the journal; in memory are the groups that were touched lately.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from zerocelery.engine import wire

#: Verdicts in the journal: the two ways to end, and, beside them or alone, that the member was added later.
WELL: Final = 1
BADLY: Final = 2
ADDED: Final = 4

#: Groups in memory, and the bytes of results that one of them keeps there; what is beyond is read from the journal.
_IN_MEMORY: Final = 2_000
_KEPT_BYTES: Final = 1 << 20


class Parts(Protocol):
    """What is written to and read from the journal."""

    def group(self, gather: str, seen: int, raw: bytes) -> None: ...
    def part(self, gather: str, task_id: str, verdict: int, raw: bytes) -> None: ...
    def mark_added(self, gather: str, task_id: str, verdict: int) -> None: ...
    def close_group(self, gather: str) -> None: ...
    def find_group(self, gather: str) -> bytes | None: ...
    def parts(self, gather: str) -> list[tuple[str, int, bytes]]: ...
    def write(self) -> None: ...


class _Group:
    """One open group in memory."""

    __slots__ = ("added", "bytes", "closed", "done", "last", "made", "results")

    def __init__(self, made: wire.Gathering) -> None:
        self.made = made
        self.closed = made.closed
        self.added: dict[str, None] = {}
        self.done: dict[str, int] = {}  # task id → verdict, in the order of their ends
        self.results: dict[str, bytes] | None = {}
        self.bytes = 0
        self.last = ""

    @property
    def size(self) -> int:
        return len(self.made.members) + len(self.added)

    def keep(self, task_id: str, raw: bytes) -> None:
        """Keep a result in memory, or, where they get too many, none of them."""
        if self.results is None:
            return
        self.bytes += len(raw)
        if self.bytes > _KEPT_BYTES:
            self.results = None
        else:
            self.results[task_id] = raw

    def order(self) -> list[str]:
        """The ids of all that have ended, in the order in which the body gets their results."""
        known = [*self.made.members, *self.added]
        strangers = self.done.keys() - set(known)
        return [task_id for task_id in (*known, *(d for d in self.done if d in strangers)) if task_id in self.done]


class Groups:
    """All open groups."""

    def __init__(self, journal: Parts) -> None:
        self.journal = journal
        self._groups: OrderedDict[str, _Group] = OrderedDict()

    def open(self, raw: Raw, now: float) -> wire.Malformed | None:
        """Remember a new group; gives what is wrong with it, if anything is."""
        made = wire.decode_gathering(raw)
        if isinstance(made, wire.Malformed):
            return made
        self.journal.group(made.id, int(now), bytes(raw))
        self._remember(made.id, _Group(made))
        return None

    def _remember(self, gather: str, group: _Group) -> None:
        self._groups[gather] = group
        if len(self._groups) > _IN_MEMORY:
            self._groups.popitem(last=False)

    def grow(self, gather: str, members: Iterable[str], *, close: bool, now: float) -> wire.Task | None:
        """Wait for these, too, and with ``close`` for nobody else; gives the body where all have ended.

        A group whose body was accepted already has no more members.
        """
        group = self._find(gather)
        if group is None:
            return None
        for task_id in members:
            if task_id not in group.added and task_id not in group.made.members:
                group.added[task_id] = None
                if task_id not in group.done:
                    self.journal.part(gather, task_id, ADDED, b"")
                else:
                    # it ended before its place was told: let the journal know that it is one of the group's
                    self.journal.mark_added(gather, task_id, ADDED)
        if close and not group.closed:
            group.closed = True
            group.made = msgspec.structs.replace(group.made, closed=True)
            self.journal.group(gather, int(now), wire.encode(group.made))
        return self._finished(gather, group, now)

    def ended(self, gather: str, task_id: str, raw: bytes, *, well: bool, now: float) -> wire.Task | None:
        """Count a member's end; gives the body where this was the last one."""
        group = self._find(gather)
        if group is None or task_id in group.done:
            return None
        verdict = WELL if well else BADLY
        group.done[task_id] = verdict
        group.last = task_id
        group.keep(task_id, raw)
        self.journal.part(gather, task_id, verdict | (ADDED if task_id in group.added else 0), raw)
        return self._finished(gather, group, now)

    def _finished(self, gather: str, group: _Group, now: float) -> wire.Task | None:
        if not group.closed or len(group.done) < group.size:
            return None
        self._groups.pop(gather, None)
        body = self._body(gather, group, now)
        self.journal.close_group(gather)
        return body

    def _body(self, gather: str, group: _Group, now: float) -> wire.Task | None:
        made = group.made
        body = wire.decode_task(made.body)
        if isinstance(body, wire.Malformed):
            return None
        results = group.results
        if results is None:
            self.journal.write()
            results = {task_id: raw for task_id, _, raw in self.journal.parts(gather)}
        order = group.order()
        for task_id in order:
            if group.done[task_id] == BADLY:
                return msgspec.structs.replace(body, verdict=results[task_id], flags=body.flags | wire.SETTLED)
        inputs = [results[task_id] for task_id in (order if made.collect else (group.last,))]
        return msgspec.structs.replace(
            body,
            inputs=inputs,
            eta=now + made.delay if made.delay else body.eta,
            expires=now + made.lifetime if made.lifetime is not None else body.expires,
        )

    def _find(self, gather: str) -> _Group | None:
        group = self._groups.get(gather)
        if group is not None:
            self._groups.move_to_end(gather)
            return group
        self.journal.write()
        raw = self.journal.find_group(gather)
        made = wire.decode_gathering(raw) if raw is not None else None
        if not isinstance(made, wire.Gathering):
            return None
        group = _Group(made)
        group.results = None
        for task_id, verdict, _ in self.journal.parts(gather):
            if verdict & ADDED:
                group.added[task_id] = None
            if verdict & ~ADDED:
                group.done[task_id] = verdict & ~ADDED
                group.last = task_id
        self._remember(gather, group)
        return group
