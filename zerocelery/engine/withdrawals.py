"""Tasks that are not run though they were accepted: those that expired, and revoked ones wherever they wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from zerocelery.engine import wire
from zerocelery.engine.claims import bounded
from zerocelery.engine.ledger import Entry, Lane
from zerocelery.engine.revocations import Wanted

if TYPE_CHECKING:
    from zerocelery.engine.collector import Collector

#: How many stored tasks are searched at once for one that was revoked.
_SWEEP: Final = 200_000

_PAGE: Final = 2_000

#: For how long a revocation is remembered at most (seconds).
_MOST_KEEP: Final = 365 * 86_400.0


class Withdrawals:
    """Takes tasks out."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.clock = collector.clock
        self.journal = collector.journal
        self.ledger = collector.ledger
        self.revocations = collector.revocations

    def why_not(self, entry: Entry, now: float) -> str:
        """Why a task is not to be started: expired or revoked; '' where it is."""
        head = entry.head
        if head.expires is not None and head.expires <= now:
            return "expired"
        if not head.flags & wire.SETTLED and self.revocations.revokes(head, entry.raw, now):
            return "revoked"
        return ""

    def revoke(self, message: wire.Revoke) -> None:
        """Take the tasks out that wait here, and remember those that may still come; or take that back."""
        if message.keep < 0:
            self.revocations.take_back(message.ids, message.labels)
            return
        now = self.clock.wall()
        self.revocations.add(message.ids, message.labels, int(now + bounded(message.keep, _MOST_KEEP)))
        wanted = Wanted(message.ids, message.labels)
        if message.terminate:
            for entry in self.ledger.leased.values():
                entry.revoked = entry.revoked or wanted.matches(entry.head, entry.raw)
        for lane in list(self.ledger.lanes.values()):
            self._revoke_waiting(lane, wanted)
        self._revoke_scheduled(wanted)

    def _revoke_waiting(self, lane: Lane, wanted: Wanted) -> None:
        window = [e for bucket in lane.buckets.values() for e in bucket if wanted.matches(e.head, e.raw)]
        found = [entry for entry in window if not entry.head.flags & wire.SETTLED]
        for entry in found:
            lane.remove(entry)
        if 0 < lane.stored <= _SWEEP:  # in a longer one it ends when its turn comes
            for key, head, raw in wanted.among(self._stored(lane)):
                if not head.flags & wire.SETTLED:
                    lane.stored -= 1
                    found.append(Entry(key, head, raw))
        for entry in found:
            self.journal.remove(entry.key)
            self._collector.fail(entry, "revoked", "revoked", state=wire.REVOKED)

    def _revoke_scheduled(self, wanted: Wanted) -> None:
        if sum(lane.scheduled for lane in self.ledger.lanes.values()) > _SWEEP:
            return
        found = list(wanted.among(self._scheduled()))
        if not found:
            return
        self.journal.take_held(number for number, _, _ in found)
        for _, head, raw in found:
            self.ledger.lane(head.queue).scheduled -= 1
            self._collector.fail(Entry(0, head, raw), "revoked", "revoked", state=wire.REVOKED)
        self.ledger.next_due = self.journal.next_due()

    def _stored(self, lane: Lane) -> Iterator[tuple[int, bytes]]:
        """What waits in a queue beyond its window, with the keys."""
        after, leased = lane.frontier, self.ledger.leased
        while rows := self.journal.page(after, lane.end, _PAGE):
            after = rows[-1][0]
            yield from ((key, raw) for key, _, raw in rows if key not in leased)

    def _scheduled(self) -> Iterator[tuple[int, bytes]]:
        """What waits for its ETA, with its numbers."""
        after = -1
        while rows := self.journal.held_page(after, _PAGE):
            after = rows[-1][0]
            yield from rows
