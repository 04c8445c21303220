"""Reading what waits at a node, and taking it away, for one who sends it on to somewhere else.

Reading changes nothing. What was sent on is taken away by its key, and only where it still waits: a task that a worker
has begun in between stays, and the caller is told, for then it is in both places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from zerocelery.engine import wire
from zerocelery.engine.errors import EngineError
from zerocelery.engine.inspection import answering
from zerocelery.engine.ledger import QUEUE_SHIFT, Entry, Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zerocelery.engine.collector import Collector
    from zerocelery.engine.producer import Producer

#: Tasks in one answer, and about how many bytes.
_PAGE: Final = 500
_PAGE_BYTES: Final = 4 << 20

#: Scheduled tasks that are looked at for one answer: they are read whole, however large they are.
_SCHEDULED_PAGE: Final = 50

#: Seconds that the node may take for one answer.
_PATIENCE: Final = 10.0


class Moving:
    """The node's side."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.ledger = collector.ledger
        self.journal = collector.journal
        self.queries: dict[str, Callable[[bytes], bytes]] = {
            "read-waiting": answering(self.waiting),
            "read-scheduled": answering(self.scheduled),
            "take-away": answering(self.take_away),
        }

    def waiting(self, queue: str, after: int) -> dict[str, Any]:
        """The next tasks that wait in a queue: ``tasks`` as (key, message); ``next`` to go on with, None at the end."""
        lane = self.ledger.lanes.get(queue)
        if lane is None:
            return {"tasks": [], "next": None}
        rows = self.journal.page(max(after, lane.base - 1), lane.end, _PAGE, _PAGE_BYTES)
        leased = self.ledger.leased
        tasks = [(key, raw) for key, _, raw in rows if key not in leased]
        return {"tasks": tasks, "next": rows[-1][0] if rows else None}

    def scheduled(self, queue: str, after: int) -> dict[str, Any]:
        """The next tasks of a queue that wait for their time; as :meth:`waiting`, with numbers for keys."""
        tasks: list[tuple[int, bytes]] = []
        size, last = 0, None
        for number, raw in self.journal.held_page(after, _SCHEDULED_PAGE):
            if size > _PAGE_BYTES:
                break
            last = number
            head = wire.decode_task_head(raw)
            if isinstance(head, wire.TaskHead) and head.queue == queue:
                tasks.append((number, raw))
                size += len(raw)
        return {"tasks": tasks, "next": last}

    def take_away(self, keys: list[int], scheduled: list[int]) -> dict[str, list[int]]:
        """Remove those of these tasks that still wait; which these were."""
        return {"keys": list(self._from_queues(set(keys))), "scheduled": list(self._from_schedule(scheduled))}

    def _from_queues(self, wanted: set[int]) -> Iterator[int]:
        lanes = {lane.base >> QUEUE_SHIFT: lane for lane in self.ledger.lanes.values()}
        for number in {key >> QUEUE_SHIFT for key in wanted}:
            lane = lanes.get(number)
            if lane is None:
                continue
            for entry in [e for bucket in lane.buckets.values() for e in bucket if e.key in wanted]:
                lane.remove(entry)
                wanted.discard(entry.key)
                yield self._gone(entry)
            for key in [key for key in wanted if key >> QUEUE_SHIFT == number]:
                found = self._beyond(lane, key)
                if found is not None:
                    lane.stored -= 1
                    yield self._gone(found)

    def _beyond(self, lane: Lane, key: int) -> Entry | None:
        """A task that waits in the journal only."""
        row = self.journal.task(key) if key > lane.frontier and key not in self.ledger.leased else None
        head = wire.decode_task_head(row[1]) if row is not None else None
        return Entry(key, head, row[1], losses=row[0]) if row is not None and isinstance(head, wire.TaskHead) else None

    def _gone(self, entry: Entry) -> int:
        self.journal.remove(entry.key)
        if entry.losses:
            self.journal.forget_losses(entry.key)
        self.collector.dropped(entry)
        return entry.key

    def _from_schedule(self, numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            rows = self.journal.held_page(number - 1, 1)
            head = wire.decode_task_head(rows[0][1]) if rows and rows[0][0] == number else None
            if isinstance(head, wire.TaskHead):
                self.journal.take_held([number])
                self.ledger.lane(head.queue).scheduled -= 1
                self.collector.dropped(Entry(0, head, rows[0][1]))
                yield number
        self.ledger.next_due = self.journal.next_due()


class Batch(msgspec.Struct):
    """Some of the tasks that wait at a node, as they were read.

    Arguments:
        scheduled: whether they wait for their time; otherwise for a worker.
        tasks: key and message of each.
    """

    queue: str
    scheduled: bool
    tasks: list[tuple[int, wire.Task]]


def read_waiting(producer: Producer, queue: str) -> Iterator[Batch]:
    """All tasks that wait in a queue of the node, in the order in which workers get them, then the scheduled ones.

    Raises:
        NodeUnreachable: it did not answer.
        EngineError: the node is older than this, and can't.
    """
    for what, scheduled in (("read-waiting", False), ("read-scheduled", True)):
        after: int | None = -1
        while after is not None:
            page = _ask(producer, what, queue=queue, after=after)
            after = page["next"]
            read = ((key, wire.decode_task(raw)) for key, raw in page["tasks"])
            tasks = [(key, task) for key, task in read if isinstance(task, wire.Task)]
            if tasks:
                yield Batch(queue, scheduled, tasks)


def take_away(producer: Producer, batch: Batch, keys: list[int]) -> set[int]:
    """Remove tasks of a batch from the node; gives the keys of those that still waited, and now are gone.

    Raises:
        EngineError: as :func:`read_waiting`.
    """
    kept: list[int] = []
    gone = _ask(
        producer, "take-away", keys=kept if batch.scheduled else keys, scheduled=keys if batch.scheduled else kept
    )  # fmt: skip
    return {*gone["keys"], *gone["scheduled"]}


def _ask(producer: Producer, what: str, **argument: Any) -> Any:
    told = producer.query(what, msgspec.msgpack.encode(argument), timeout=_PATIENCE)
    answer = msgspec.msgpack.decode(told) if told else None
    if not isinstance(answer, dict) or "error" in answer:
        raise EngineError("this node does not know how to give away its tasks: start it again with this version")
    return answer
