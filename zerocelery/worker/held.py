"""The tasks of one pool, as its node knows them: what a worker's process is asked about them it asks its node.

Nobody keeps a second book: what runs, what waits and what is revoked is the node's to know, and it answers in a
millisecond. So the pool's process needs to be told nothing while all goes well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any, NamedTuple

from zerocelery.app import codec
from zerocelery.app.message import NO_EMBED, arguments_repr, body_of, read_head, request_of
from zerocelery.engine import wire
from zerocelery.engine.processes import host_id
from zerocelery.engine.producer import ProducerOptions
from zerocelery.engine.station import Station
from zerocelery.exceptions import InvalidTaskError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

#: A scheduled task's priority as Celery shows it: that of its timer, the same for all.
_TIMER_PRIORITY = 6

#: How long taking a revocation back may take (seconds).
_TAKEN_BACK_WITHIN = 5.0

#: A queue that nothing was ever sent to.
_EMPTY = {"waiting": 0, "scheduled": 0, "leased": 0, "dead": 0, "oldest": None}


class HeldTask(NamedTuple):
    """A task that a worker of the pool has."""

    message: wire.Task
    worker_id: str
    worker_pid: int
    key: int
    since: float
    runs: bool

    @property
    def id(self) -> str:
        return self.message.id

    @property
    def labels(self) -> set[str]:
        return set(self.message.labels)


class HeldTasks:
    """What the node knows of this process's pool.

    Arguments:
        queues: gives the names of the queues that the pool serves.
    """

    def __init__(self, app: Celery, station: Station, hostname: str, queues: Callable[[], Iterable[str]]) -> None:
        self.app = app
        self.station = station
        self.hostname = hostname
        self.serves = queues
        self.accepts = codec.acceptable(app.conf["accept_content"])
        self._host = host_id()

    def _pool(self, tasks: bool = True, timeout: float = 2.0) -> dict[str, Any]:
        argument = {"host": self._host, "pid": os.getpid(), "tasks": tasks}
        return self.station.ask("pool", argument, timeout=timeout)  # type: ignore[no-any-return]

    def held(self) -> list[HeldTask]:
        """All that its workers have."""
        found = []
        for worker in self._pool()["workers"]:
            for since, key, raw in worker["tasks"]:
                message = wire.decode_task(raw)
                if isinstance(message, wire.Task):
                    runs = key == worker["running"]
                    found.append(HeldTask(message, worker["id"], worker["pid"], key, since, runs))
        return found

    def running(self, wanted: Callable[[HeldTask], bool]) -> list[HeldTask]:
        """Those of the running tasks that are wanted."""
        return [task for task in self.held() if task.runs and wanted(task)]

    def active(self, safe: bool = False) -> list[dict[str, Any]]:
        return [self._described(task, safe=safe) for task in self.held() if task.runs]

    def reserved(self) -> list[dict[str, Any]]:
        return [self._described(task) for task in self.held() if not task.runs]

    def scheduled(self) -> list[dict[str, Any]]:
        """The tasks of the pool's queues that wait for their time; of all that serve a queue, one lists each."""
        found = []
        argument = {"queues": list(self.serves()), "host": self._host, "pid": os.getpid()}
        for due, raw in self.station.ask("scheduled", argument):
            message = wire.decode_task(raw)
            if isinstance(message, wire.Task):
                found.append(
                    {
                        "eta": datetime.fromtimestamp(due, timezone.utc).isoformat(),
                        "priority": _TIMER_PRIORITY,
                        "request": self.info(message),
                    }
                )
        return found

    def query(self, ids: Iterable[str]) -> dict[str, Any]:
        """State and description of those of these tasks that the pool has, or will have."""
        wanted = set(ids)
        found: dict[str, Any] = {
            item["request"]["id"]: ("scheduled", item["request"])
            for item in self.scheduled()
            if item["request"]["id"] in wanted
        }
        for task in self.held():
            if task.id in wanted:
                found[task.id] = ("active" if task.runs else "reserved", self._described(task))
        return found

    def revoked(self) -> list[str]:
        return list(self.station.ask("revoked"))

    def revoke(self, ids: Iterable[str], labels: Iterable[str] = (), *, terminate: bool = False) -> None:
        """Have the node start these no more."""
        from zerocelery.worker.state import REVOKE_EXPIRES

        self.station.revoke(list(ids), list(labels), terminate=terminate, keep=REVOKE_EXPIRES)

    def take_back(self, ids: Iterable[str], labels: Iterable[str] = ()) -> None:
        """Have the node start these again; in any thread, so by a connection of its own."""
        ids, labels = list(ids), list(labels)
        if not ids and not labels:
            return
        station = Station(self.station.address, options=ProducerOptions(keeper=False))
        try:
            station.take_back(ids, labels, timeout=_TAKEN_BACK_WITHIN)
        finally:
            station.close(timeout=0.0)

    def queues(self) -> dict[str, Any]:
        """The pool's queues."""
        known = self.station.ask("queues")
        return {name: known.get(name, _EMPTY) for name in self.serves()}

    def totals(self) -> dict[str, int]:
        """How many tasks of each name were begun."""
        pool = self._pool()
        totals = dict(pool["totals"])
        for worker in pool["workers"]:
            for _, key, raw in worker["tasks"]:
                head = wire.decode_task_head(raw) if key == worker["running"] else None
                if isinstance(head, wire.TaskHead):
                    totals[head.name] = totals.get(head.name, 0) + 1
        return totals

    def counts(self) -> tuple[int, int]:
        """How many tasks run, and how many were begun; for heartbeats, so a node that is away is not waited for."""
        pool = self._pool(tasks=False, timeout=0.25)
        running = sum(any(key == worker["running"] for _, key, _ in worker["tasks"]) for worker in pool["workers"])
        return running, sum(pool["totals"].values()) + running

    def pids(self) -> list[int]:
        """The processes of the pool's workers."""
        return sorted({worker["pid"] for worker in self._pool(tasks=False)["workers"]})

    def _described(self, task: HeldTask, *, safe: bool = False) -> dict[str, Any]:
        late = bool(task.message.flags & wire.ACK_LATE)
        return self.info(
            task.message, safe=safe, since=task.since if task.runs else None, acknowledged=task.runs and not late,
            pid=task.worker_pid if task.runs else None,
        )  # fmt: skip

    def info(
        self, message: wire.Task, *, safe: bool = False, since: float | None = None, acknowledged: bool = False,
        pid: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """A task as ``inspect`` tells of it."""
        fields, args, kwargs = self.request_of(message)
        return {
            "id": message.id,
            "name": message.name,
            "args": fields.get("argsrepr") or _written(args) if safe else codec.portable(args),
            "kwargs": fields.get("kwargsrepr") or _written(kwargs) if safe else codec.portable(kwargs),
            "type": message.name,
            "hostname": self.hostname,
            "time_start": since,
            "acknowledged": acknowledged,
            "delivery_info": {**fields["delivery_info"], "priority": message.priority},
            "worker_pid": pid,
        }

    def request_of(self, message: wire.Task) -> tuple[dict[str, Any], Any, Any]:
        """A message's headers, and its arguments, or what there is of them where they can't be read here."""
        try:
            head = read_head(message.head)
        except InvalidTaskError:
            return {"delivery_info": {}}, (), {}
        fields = request_of(message, head, ignore_result=bool(message.flags & wire.IGNORE_RESULT))
        try:
            args, kwargs, embed = body_of(message, head, self.accepts)
        except Exception:  # whatever a serialiser raises: a body that was left out, or is not accepted here
            return {**NO_EMBED, **fields}, fields.get("argsrepr") or "...", fields.get("kwargsrepr") or "..."
        return {**embed, **fields}, args, kwargs


def _written(arguments: Any) -> str:
    """Arguments for people; those that couldn't be read are a text already."""
    if isinstance(arguments, str):
        return arguments
    return arguments_repr(tuple(arguments) if isinstance(arguments, list) else arguments)
