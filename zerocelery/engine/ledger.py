"""The state of every task: waiting → leased → ended; pure, with no clock and no I/O of its own.

Of each queue only a window is in memory: the tasks that will be handed out next. All others are in the journal alone,
so a backlog of a million costs disk and neither memory nor time. The *frontier* of a queue is the key up to which every
waiting task is in the window; what lies beyond is read in pages when the window runs low.

A *key* is the node's own name of one accepted message: queue number, inverted priority and arrival in one integer.
Task ids are the users' names; the same id may be accepted again and is another key.
"""

from __future__ import annotations

import bisect
import logging
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from zerocelery.engine import wire
from zerocelery.engine.wire import TaskHead

logger = logging.getLogger("zerocelery.node")

ARRIVAL_BITS: Final = 39
PRIORITY_BITS: Final = 8
QUEUE_SHIFT: Final = ARRIVAL_BITS + PRIORITY_BITS
ARRIVAL_MASK: Final = (1 << ARRIVAL_BITS) - 1
_RANK_MASK: Final = (1 << QUEUE_SHIFT) - 1
MAX_PRIORITY: Final = (1 << PRIORITY_BITS) - 1
MAX_QUEUES: Final = (1 << 16) - 2  # so that the end of the last one's keys is a number for SQLite, too

#: How many tasks of a queue are kept in memory; at twice as many the last ones are left to the journal.
WINDOW: Final = 4_000

#: The same in bytes: of large tasks fewer are kept.
WINDOW_BYTES: Final = 8 << 20

#: Moments of acceptance that are remembered.
_NOTED: Final = 2_000

#: Arrival numbers are set aside in the journal this many at a time, so that a restarted node gives none a second time:
#: a worker may still have a report with a key of the node's former life.
_SET_ASIDE: Final = 1 << 20


class Pages(Protocol):
    """What the ledger reads from and writes to its journal."""

    def page(self, after: int, before: int, limit: int, most_bytes: int) -> list[tuple[int, int, bytes]]: ...
    def insert(self, key: int, losses: int, raw: bytes) -> None: ...
    def hold(self, n: int, due: float, raw: bytes) -> None: ...
    def queue(self, number: int, name: str) -> None: ...
    def meta(self, name: str, value: int) -> None: ...
    def write(self) -> None: ...


class Entry:
    """One accepted task in memory."""

    __slots__ = ("flags", "head", "key", "lease", "losses", "raw", "revoked", "since")

    def __init__(self, key: int, head: TaskHead, raw: bytes, *, losses: int = 0) -> None:
        self.since = 0.0  # when it was leased (wall clock)
        self.revoked = False  # it is being ended while it runs
        self.key = key
        self.head = head
        self.raw = raw
        self.losses = losses
        self.flags = head.flags
        self.lease = 0

    @property
    def rank(self) -> int:
        """Its place among the tasks of all queues: by priority, then by arrival."""
        return self.key & _RANK_MASK


class Lane:
    """One queue."""

    __slots__ = ("base", "buckets", "bytes", "end", "frontier", "loaded", "name", "order", "scheduled", "stored")

    def __init__(self, number: int, name: str) -> None:
        self.name = name
        self.base = number << QUEUE_SHIFT
        self.end = (number + 1) << QUEUE_SHIFT
        self.buckets: dict[int, deque[Entry]] = {}  # inverted priority → tasks in order of arrival
        self.order: list[int] = []  # the keys of `buckets` that hold something, best first
        self.loaded = 0
        self.bytes = 0  # of what is loaded
        self.stored = 0  # waiting beyond the frontier: in the journal only
        self.frontier = self.base
        self.scheduled = 0

    @property
    def waiting(self) -> int:
        return self.loaded + self.stored

    def push(self, entry: Entry) -> None:
        """Take a task that was just written to the journal into the window, or leave it to the journal."""
        key = entry.key
        if key > self.frontier:
            if self.stored or self.loaded >= WINDOW or self.bytes >= WINDOW_BYTES:
                self.stored += 1
                return
            self.frontier = key
        self._load(entry, key)
        if self.loaded >= 2 * WINDOW or self.bytes >= 2 * WINDOW_BYTES:
            self._spill()

    def load(self, entry: Entry) -> None:
        """Take a task that was read from beyond the frontier into the window."""
        self.stored -= 1
        self.frontier = entry.key
        self._load(entry, entry.key)

    def _load(self, entry: Entry, key: int) -> None:
        self.loaded += 1
        self.bytes += len(entry.raw)
        inverted = (key >> ARRIVAL_BITS) & MAX_PRIORITY
        bucket = self.buckets.get(inverted)
        if bucket is None:
            bucket = self.buckets[inverted] = deque()
        if not bucket:
            self.order.append(inverted)
            self.order.sort()
        elif key < bucket[-1].key:
            self._insert(bucket, entry)
            return
        bucket.append(entry)

    @staticmethod
    def _insert(bucket: deque[Entry], entry: Entry) -> None:
        """Put a task that came back where it was: near the front, as it had been handed out before the others."""
        index = 0
        for index, other in enumerate(bucket):  # noqa: B007 - the index at which the loop ends is what is wanted
            if other.key > entry.key:
                break
        bucket.insert(index, entry)

    def _spill(self) -> None:
        """Leave the last of the window to the journal again; the next task stays, however large it is."""
        while self.loaded > 1 and (self.loaded > WINDOW or self.bytes > WINDOW_BYTES):
            inverted = self.order[-1]
            bucket = self.buckets[inverted]
            self.bytes -= len(bucket.pop().raw)
            self.loaded -= 1
            self.stored += 1
            if not bucket:
                self.order.pop()
        self.frontier = self.buckets[self.order[-1]][-1].key

    def first(self) -> Entry | None:
        """The task that is next, left where it is."""
        return self.buckets[self.order[0]][0] if self.order else None

    def remove(self, entry: Entry) -> None:
        """Remove a task of the window, wherever it is."""
        inverted = (entry.key >> ARRIVAL_BITS) & MAX_PRIORITY
        bucket = self.buckets[inverted]
        bucket.remove(entry)
        if not bucket:
            self.order.remove(inverted)
        self.loaded -= 1
        self.bytes -= len(entry.raw)

    def take(self) -> Entry:
        """Remove the task that is next."""
        bucket = self.buckets[self.order[0]]
        entry = bucket.popleft()
        if not bucket:
            del self.order[0]
        self.loaded -= 1
        self.bytes -= len(entry.raw)
        return entry


class Ledger:
    """All queues and all leases.

    Arguments:
        journal: where tasks are written and backlogs are read.
        queue_limit: how many tasks one queue holds, waiting and scheduled.
        arrival: the highest arrival number that may have been used so far.
    """

    def __init__(self, journal: Pages, *, queue_limit: int, arrival: int = 0) -> None:
        self.journal = journal
        self.queue_limit = queue_limit
        self.lanes: dict[str, Lane] = {}
        self.leased: dict[int, Entry] = {}
        self.next_due: float | None = None
        self._arrival = self._set_aside = arrival
        self.accepted: list[tuple[int, float]] = []  # arrival numbers and when they were given, at most one a second
        self._note_at = 0.0

    def lane(self, name: str) -> Lane:
        """The queue of this name, made if there is none."""
        lane = self.lanes.get(name)
        if lane is None:
            number = len(self.lanes) + 1
            lane = self.lanes[name] = Lane(number, name)
            self.journal.queue(number, name)
        return lane

    def restore_lane(self, number: int, name: str, *, stored: int) -> None:
        """Take up a queue from the journal, with all its tasks beyond the frontier."""
        lane = self.lanes[name] = Lane(number, name)
        lane.stored = stored

    def count_scheduled(self, raw: bytes) -> None:
        """Take up a task from the journal that waits for its ETA."""
        head = wire.decode_task_head(raw)
        if isinstance(head, TaskHead):
            self.lane(head.queue).scheduled += 1

    def may_accept(self, head: TaskHead) -> str:
        """'' where the task can be taken, else the reason why not, for a :class:`wire.Refusal`."""
        lane = self.lanes.get(head.queue)
        if lane is None:
            if len(self.lanes) >= MAX_QUEUES:
                return "too-many-queues"
        elif lane.loaded + lane.stored + lane.scheduled >= self.queue_limit:
            return "queue-full"
        return ""

    def accept(self, head: TaskHead, raw: bytes, now: float) -> None:
        """Write a new task to the journal, and queue it, now or when its time comes."""
        self._arrival += 1
        if self._arrival > self._set_aside:
            self._set_aside = self._arrival + _SET_ASIDE
            self.journal.meta("arrival", self._set_aside)
        if now >= self._note_at:
            self._note(now)
        eta = head.eta
        if eta is not None and eta > now:
            self.journal.hold(self._arrival, eta, raw)
            self.lane(head.queue).scheduled += 1
            if self.next_due is None or eta < self.next_due:
                self.next_due = eta
            return
        lane = self.lanes.get(head.queue) or self.lane(head.queue)
        priority = head.priority
        inverted = MAX_PRIORITY - (0 if priority < 0 else MAX_PRIORITY if priority > MAX_PRIORITY else priority)
        key = lane.base | inverted << ARRIVAL_BITS | self._arrival
        self.journal.insert(key, 0, raw)
        lane.push(Entry(key, head, raw))

    def _note(self, now: float) -> None:
        self._note_at = now + 1.0
        self.accepted.append((self._arrival, now))
        if len(self.accepted) > _NOTED:
            del self.accepted[1::2]  # coarser, the longer it is ago

    def oldest(self, lane: Lane) -> float | None:
        """When the oldest task of a queue was accepted, or became due; None where that is not known."""
        if not lane.order and lane.stored:
            self.fill(lane)
        if not lane.order:
            return None
        arrival = min(lane.buckets[inverted][0].key & ARRIVAL_MASK for inverted in lane.order)
        index = bisect.bisect_right(self.accepted, (arrival, float("inf"))) - 1
        return self.accepted[index][1] if index >= 0 else None

    def release(self, raws: Iterable[tuple[int, bytes]], now: float) -> None:
        """Queue tasks whose time has come (they have left the journal's list of held ones)."""
        for _, raw in raws:
            head = wire.decode_task_head(raw)
            if isinstance(head, TaskHead):
                self.lane(head.queue).scheduled -= 1
                self.accept(head, raw, max(now, head.eta or now))

    def put_back(self, entry: Entry) -> None:
        """Queue a leased task again, in its old place; its row never left the journal."""
        self.leased.pop(entry.key, None)
        entry.lease = 0
        self.lane(entry.head.queue).push(entry)

    def fill(self, lane: Lane) -> None:
        """Read the next page of a backlog into an empty window; more than one where all in it are leased."""
        self.journal.write()
        more = True
        while not lane.order and lane.stored > 0 and more:
            rows = self.journal.page(lane.frontier, lane.end, WINDOW, WINDOW_BYTES)
            more = len(rows) == WINDOW or sum(len(raw) for _, _, raw in rows) >= WINDOW_BYTES
            for key, losses, raw in rows:
                head = wire.decode_task_head(raw) if key not in self.leased else None
                if isinstance(head, TaskHead):
                    lane.load(Entry(key, head, raw, losses=losses))
                    continue
                lane.frontier = key
                if head is not None:
                    logger.error("task %d in the journal can't be read, and is left there: %s", key, head.reason)
        if not more:
            lane.stored = 0

    def best(self, names: Iterable[str]) -> Lane | None:
        """The one of these queues whose next task comes first."""
        best: Lane | None = None
        best_rank = 0
        for name in names:
            lane = self.lanes.get(name)
            if lane is None:
                continue
            if not lane.order:
                if lane.stored > 0:
                    self.fill(lane)
                if not lane.order:
                    continue
            rank = lane.buckets[lane.order[0]][0].rank
            if best is None or rank < best_rank:
                best, best_rank = lane, rank
        return best

    def waiting(self, names: Iterable[str]) -> int:
        """How many tasks these queues have ready."""
        return sum(lane.loaded + lane.stored for name in names if (lane := self.lanes.get(name)))
