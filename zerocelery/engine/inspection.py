"""What a node tells of its tasks and workers when it is asked; all answers are plain types in msgpack, and bounded."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from zerocelery.engine import wire

if TYPE_CHECKING:
    from zerocelery.engine.collector import Collector
    from zerocelery.engine.workerstate import WorkerState

#: Tasks in one answer, and the bytes of a body that is told; larger ones are left out.
_MOST_TASKS: Final = 10_000
_MOST_BODY: Final = 64 << 10

#: Pools whose counts are remembered; the oldest are forgotten.
_MOST_POOLS: Final = 1_000

_encode = msgspec.msgpack.Encoder().encode


def answering(question: Callable[..., Any]) -> Callable[[bytes], bytes]:
    """A function as a query: its arguments come as a mapping in msgpack, and what it gives goes as msgpack."""

    def answer(argument: bytes) -> bytes:
        try:
            arguments = msgspec.msgpack.decode(argument, type=dict[str, Any]) if argument else {}
            return _encode(question(**arguments))
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            return _encode({"error": f"the question can't be understood: {error}"})

    return answer


class Inspection:
    """Answers to questions about what the collector has."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._totals: dict[tuple[str, int, int], dict[str, int]] = {}
        self.queries: dict[str, Callable[[bytes], bytes]] = {
            "pool": answering(self.pool),
            "scheduled": answering(self.scheduled),
            "queues": answering(self.queues),
            "dead": answering(self.dead),
            "unbury": answering(self.unbury),
            "stations": answering(self.stations),
            "revoked": answering(lambda: sorted(collector.revocations.ids)),
            "lease": answering(collector.leases.take),
        }

    def totals_of(self, join: wire.Join) -> dict[str, int]:
        """Where the finished tasks of a worker's pool are counted."""
        key = (join.host, join.parent_pid or join.pid, join.parent_started or join.started)
        totals = self._totals.get(key)
        if totals is None:
            if len(self._totals) >= _MOST_POOLS:
                self._totals.pop(next(iter(self._totals)))
            totals = self._totals[key] = {}
        return totals

    def _members(self, host: str, pid: int) -> list[WorkerState]:
        return [
            worker
            for worker in self.collector.workers.values()
            if worker.joined.host == host and pid in (worker.joined.pid, worker.joined.parent_pid)
        ]

    def pool(self, host: str, pid: int, tasks: bool = True) -> dict[str, Any]:
        """The workers of the pool that this process of this host runs.

        Gives ``workers``: id, name, pid, queues, word, the key that is ``running`` and, of what it holds, ``tasks`` as
        (since, key, message); and ``totals``: finished tasks by name.
        """
        members = self._members(host, pid)
        totals: dict[str, int] = {}
        for (its_host, its_pid, _), counts in self._totals.items():
            if (its_host, its_pid) == (host, pid):
                totals = counts
        workers = []
        for worker in members:
            held = list(worker.held.values())
            running = self.collector.processes.running(worker.joined.word) if held else None
            if running is None and held:
                running = held[0].key
            workers.append(
                {
                    "id": worker.id,
                    "name": worker.joined.name,
                    "pid": worker.joined.pid,
                    "queues": worker.joined.queues,
                    "word": worker.joined.word,
                    "running": running,
                    "tasks": [(entry.since, entry.key, _told(entry.raw) if tasks else entry.head.id) for entry in held],
                }
            )
        return {"workers": workers, "totals": totals}

    def scheduled(
        self, queues: list[str], limit: int = _MOST_TASKS, host: str = "", pid: int = 0
    ) -> list[tuple[float, bytes]]:
        """The tasks of these queues that wait for their ETA, the earliest first: (due, message).

        Arguments:
            host, pid: of the process that keeps a pool. Then only what this pool answers for: of all that serve a
                task's queue, one does.
        """
        found = []
        asking, pools = (host, pid), {name: self._pools_of(name) for name in queues} if host else {}
        for due, raw in self.collector.journal.schedule(max(0, min(limit, _MOST_TASKS))):
            head = wire.decode_task_head(raw)
            if isinstance(head, wire.TaskHead) and head.queue in queues:
                serving = pools.get(head.queue)
                if not serving or serving[zlib.crc32(head.id.encode()) % len(serving)] == asking:
                    found.append((due, _told(raw)))
        return found

    def _pools_of(self, queue: str) -> list[tuple[str, int]]:
        """The pools that serve a queue, by host and pid, in an order that is the same for all who ask."""
        return sorted(
            {
                (worker.joined.host, worker.joined.parent_pid or worker.joined.pid)
                for worker in self.collector.workers.values()
                if queue in worker.joined.queues
            }
        )

    def queues(self) -> dict[str, dict[str, Any]]:
        """Of each queue: how many wait, are scheduled, are with workers, and are dead; how old the oldest is (s)."""
        ledger = self.collector.ledger
        found: dict[str, dict[str, Any]] = {
            name: {
                "waiting": lane.waiting, "scheduled": lane.scheduled, "leased": 0, "dead": 0,
                "oldest": self.collector.oldest(lane),
            }
            for name, lane in ledger.lanes.items()
        }  # fmt: skip
        for entry in ledger.leased.values():
            found[entry.head.queue]["leased"] += 1
        for letter in self.dead():
            if letter["queue"] in found:
                found[letter["queue"]]["dead"] += 1
        return found

    def dead(self, limit: int = _MOST_TASKS) -> list[dict[str, Any]]:
        """The dead letters, the latest first."""
        letters = []
        for key, task_id, at, history, raw in self.collector.journal.dead_raws(max(0, min(limit, _MOST_TASKS))):
            head = wire.decode_task_head(raw)
            if isinstance(head, wire.TaskHead):
                letters.append(
                    {"key": key, "id": task_id, "name": head.name, "queue": head.queue, "at": at, "history": history}
                )
        return letters

    def unbury(self, ids: list[str] | None = None, again: bool = True) -> list[str]:
        """Take dead letters out; the ids of their tasks.

        Arguments:
            ids: of tasks; None: all letters.
            again: whether they are accepted once more, as if none of their workers had been lost; else they are
                forgotten.
        """
        collector, taken = self.collector, []
        wanted = None if ids is None else set(ids)
        now = collector.clock.wall()
        for key, task_id, _, _, raw in collector.journal.dead_raws(_MOST_TASKS):
            head = wire.decode_task_head(raw)
            if (wanted is not None and task_id not in wanted) or isinstance(head, wire.Malformed):
                continue
            if again and collector.ledger.may_accept(head):
                continue  # its queue is full: it stays where it is
            collector.journal.unbury(key)
            taken.append(task_id)
            if again:
                collector.ledger.accept(head, raw, now)
                collector.counters.accepted += 1
        return taken

    def stations(self) -> list[str]:
        """The names of the stations."""
        return sorted(station.name for station in self.collector.switchboard.stations.values())


def _told(raw: bytes) -> bytes:
    """A message as it is told: what is large in it is left out."""
    if len(raw) <= _MOST_BODY:
        return raw
    task = wire.decode_task(raw)
    if isinstance(task, wire.Malformed):
        return b""
    return wire.encode(msgspec.structs.replace(task, body=b"", inputs=[], verdict=b""))
