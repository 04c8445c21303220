"""What events tell: which workers there are, and what became of which task.

Workers' clocks differ and messages overtake each other, so events are put in order by their logical clock, and an
event that happened before what is known of a task only adds to it.
"""

from __future__ import annotations

import bisect
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar
from weakref import WeakSet, ref

from kombu.clocks import timetuple
from kombu.utils.functional import LRUCache

from zerocelery import states

__all__ = ("State", "Task", "Worker", "heartbeat_expires")

logger = logging.getLogger("celery.events.state")
warn = logger.warning

#: How long after its last heartbeat a worker counts as alive, in percent of the time between heartbeats.
HEARTBEAT_EXPIRE_WINDOW = 200

#: Seconds that the clocks of a worker and this machine may differ before it is warned of.
HEARTBEAT_DRIFT_MAX = 16

#: How many heartbeats are kept of a worker.
HEARTBEATS_KEPT = 4

#: Of how many workers it is remembered that their clock was warned of.
WARNINGS_REMEMBERED = 1000

TASK_EVENT_TO_STATE = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}


def heartbeat_expires(
    timestamp: Any,
    freq: Any = 60,
    expire_window: Any = HEARTBEAT_EXPIRE_WINDOW,
) -> float:
    """The time when a worker that was last heard of then counts as gone.

    Arguments:
        freq: seconds between heartbeats.
        expire_window: how many of these it may miss, in percent.
    """
    # databases give decimals, which don't go together with floats
    return float(timestamp) + float(freq or 60) * (float(expire_window) / 1e2)


class _Warned:
    """Warns once of each clock that is wrong."""

    def __init__(self) -> None:
        self._hosts: deque[Any] = deque(maxlen=WARNINGS_REMEMBERED)

    def drift(self, worker: Worker, here: float, there: float) -> None:
        who = worker.hostname, id(warn)
        drift = abs(int(here) - int(there))
        if drift <= HEARTBEAT_DRIFT_MAX or who in self._hosts:
            return
        self._hosts.append(who)
        warn(
            "Substantial drift from %s may mean clocks are out of sync.  Current drift is %s seconds.  "
            "[orig: %s recv: %s]",
            worker.hostname,
            drift,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(there))),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(here))),
        )


_warned = _Warned()


class Worker:
    """A worker, by what it said last."""

    heartbeat_max = HEARTBEATS_KEPT
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    _fields = (
        "hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg", "sw_ident", "sw_ver",
        "sw_sys",
    )  # fmt: skip

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        #: When its last heartbeats came here, the oldest first.
        self.heartbeats = [] if heartbeats is None else heartbeats
        self.clock = clock or 0
        self.active = active
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None = None,
        timestamp: Any = None,
        local_received: Any = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in one of its events.

        Arguments:
            timestamp: when it was sent, by the worker's clock.
            local_received: when it came, by ours.
        """
        self.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
        elif local_received and timestamp:
            _warned.drift(self, local_received, timestamp)
            del self.heartbeats[: -self.heartbeat_max + 1]
            bisect.insort(self.heartbeats, local_received)

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Set its attributes."""
        for name, value in {**f, **kw}.items():
            setattr(self, name, value)

    @property
    def heartbeat_expires(self) -> float:
        """When it counts as gone."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        """Whether it was heard of lately."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        """ONLINE or OFFLINE."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        """Its name and process."""
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, Worker) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})"

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, name) for name in self._fields)


class Task:
    """A task, by what is known of it.

    Arguments:
        cluster_state: the state that it is of, which knows its parent and root.
        children: ids of the tasks that it sent.
        kwargs: attributes.
    """

    name: Any = None
    received: Any = None
    sent: Any = None
    started: Any = None
    succeeded: Any = None
    failed: Any = None
    retried: Any = None
    revoked: Any = None
    rejected: Any = None
    args: Any = None
    kwargs: Any = None
    eta: Any = None
    expires: Any = None
    retries: Any = None
    worker: Any = None
    result: Any = None
    exception: Any = None
    timestamp: Any = None
    runtime: Any = None
    traceback: Any = None
    exchange: Any = None
    routing_key: Any = None
    root_id: Any = None
    parent_id: Any = None
    client: Any = None
    state: str = states.PENDING
    clock = 0

    _fields = (
        "uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried",
        "revoked", "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception", "timestamp",
        "runtime", "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id", "parent",
        "parent_id", "children",
    )  # fmt: skip

    #: What an event that happened before the task's state still adds.
    merge_rules: ClassVar[dict[str, tuple[str, ...]]] = {
        states.RECEIVED: ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires"),
    }

    _info_fields = (
        "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key",
        "root_id", "parent_id",
    )  # fmt: skip

    def __init__(self, uuid: str | None = None, cluster_state: Any = None, children: Any = None, **kwargs: Any) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: WeakSet[Task] = WeakSet(known[child] for child in children or () if child in known)
        self.__dict__.update(kwargs)

    def event(
        self,
        type_: str,
        timestamp: Any = None,
        local_received: Any = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in one of its events; ``type_`` is what stands after ``task-``."""
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is None:
            state = type_.upper()
        else:
            setattr(self, type_, timestamp)
        news = dict(fields or {})
        if self._happened_before(state):
            kept = self.merge_rules.get(state)
            if kept is not None:
                news = {name: value for name, value in news.items() if name in kept}
        else:
            news.update(state=state, timestamp=timestamp)
        self.__dict__.update(news)

    def _happened_before(self, state: str) -> bool:
        """Whether a state is older than the one known; of a retry nobody can say."""
        if states.RETRY in (state, self.state):
            return False
        return states.precedence(state) > states.precedence(self.state)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] = ()) -> dict[str, Any]:
        """Those of these attributes that are known."""
        names = [*(self._info_fields if fields is None else fields), *extra]
        found = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """What is known, other tasks and the worker by their ids."""
        found = {name: getattr(self, name, None) for name in self._fields}
        found["children"] = [task.id for task in self.children]
        for name in ("root", "parent"):
            found[name] = getattr(self, f"{name}_id")
        return found

    @property
    def id(self) -> Any:
        """Its id, as elsewhere in the API."""
        return self.uuid

    @property
    def origin(self) -> Any:
        """Who said it last."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    @property
    def parent(self) -> Any:
        """The task that sent it, if that is known."""
        return self._known(self.parent_id)

    @property
    def root(self) -> Any:
        """The task that all began with, if that is known."""
        return self._known(self.root_id)

    def _known(self, uuid: Any) -> Any:
        if not uuid or self.cluster_state is None:
            return None
        return self.cluster_state.tasks.data.get(uuid)

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"

    def __reduce__(self) -> Any:
        return _rebuild_task, (type(self), self.as_dict())


def _rebuild_task(cls: Any, fields: dict[str, Any]) -> Any:
    for derived in ("root", "parent"):
        fields.pop(derived, None)
    return cls(**fields)


class _Index(defaultdict[Any, Any]):
    """Tasks by a key; called, it gives those of a key in the order of time."""

    def __init__(self, fun: Callable[..., Iterator[tuple[Any, Task]]]) -> None:
        super().__init__(WeakSet)
        self.fun = fun

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)

    def __copy__(self) -> _Index:
        return _Index(self.fun)

    def __reduce__(self) -> Any:
        return dict, ({key: list(tasks) for key, tasks in self.items()},)


#: In State itself, Task and Worker are its attributes, which subclasses replace.
KnownTask = Task
KnownWorker = Worker


class State:
    """What all workers and tasks do.

    Arguments:
        callback: called with the state and each event, before that is taken in.
        max_workers_in_memory, max_tasks_in_memory: when there are more, those leave that were longest not heard of.
        on_node_join, on_node_leave: called with a worker.
    """

    Worker = Worker
    Task = Task

    event_count = 0
    task_count = 0
    #: How many events are kept for each task that may be.
    heap_multiplier = 4

    app: Any = None

    def __init__(
        self,
        callback: Callable[[State, Any], object] | None = None,
        workers: Any = None,
        tasks: Any = None,
        taskheap: Any = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[KnownWorker], object] | None = None,
        on_node_leave: Callable[[KnownWorker], object] | None = None,
        tasks_by_type: Mapping[str, Iterable[KnownTask]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[KnownTask]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.workers: Any = LRUCache(max_workers_in_memory) if workers is None else workers  # type: ignore[no-untyped-call]
        self.tasks: Any = LRUCache(max_tasks_in_memory) if tasks is None else tasks  # type: ignore[no-untyped-call]
        #: (clock, time, origin, weak reference to the task) of each event, in this order.
        self._taskheap: list[Any] = [] if taskheap is None else taskheap
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self._mutex = threading.Lock()
        self._seen_types: set[str] = set()
        #: Tasks whose parent isn't known yet, by its id.
        self._tasks_to_resolve: Any = LRUCache(max_tasks_in_memory)  # type: ignore[no-untyped-call]
        self.tasks_by_type = _Index(self._tasks_by_type)
        self.tasks_by_worker = _Index(self._tasks_by_worker)
        for index, given in ((self.tasks_by_type, tasks_by_type), (self.tasks_by_worker, tasks_by_worker)):
            index.update({key: WeakSet(found) for key, found in (given or {}).items()})
        #: Other groups of events than task and worker: called with the rest of the type, and the event.
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        for task in self.tasks.values():
            task.cluster_state = self
        if taskheap is None and self.tasks:
            self.rebuild_taskheap()

    # ── taking in ────────────────────────────────────────────────────────────────────────────────────────────────────

    def event(self, event: dict[str, Any]) -> Any:
        """Take in an event: ``((worker or task, whether it is new), the type's second part)``."""
        with self._mutex:
            return self._event(event)

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        if group == "worker":
            return self._worker_event(subject, event)
        if group == "task":
            return self._task_event(subject, event)
        handler = self.handlers.get(group)
        return None if handler is None else (handler(subject, event), subject)

    def _worker_event(self, subject: str, event: dict[str, Any]) -> Any:
        if not {"hostname", "timestamp", "local_received"} <= event.keys():
            return None
        hostname, leaves = event["hostname"], subject == "offline"
        worker = self.workers.get(hostname)
        created = worker is None and not leaves
        if worker is None:
            worker = self.Worker(hostname)
            if created:
                self.workers[hostname] = worker
        worker.event(subject, event["timestamp"], event["local_received"], event)
        if self.on_node_join is not None and (created or subject == "online"):
            self.on_node_join(worker)
        if self.on_node_leave is not None and leaves:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return (worker, created), subject

    def _task_event(self, subject: str, event: dict[str, Any]) -> Any:
        uuid, hostname, timestamp = event["uuid"], event["hostname"], event["timestamp"]
        task = self.tasks.get(uuid)
        created = task is None
        if task is None:
            task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        if subject == "sent":
            task.client = origin = hostname
        else:
            task.worker = self._heard_of(hostname, timestamp, event["local_received"])
            origin = task.worker.id
        self._remember(timetuple(event["clock"], timestamp, origin, ref(task)))
        if subject == "received":
            self.task_count += 1
        task.event(subject, timestamp, event["local_received"], event)
        if task.name is not None:
            self._seen_types.add(task.name)
            if created:
                self.tasks_by_type[task.name].add(task)
                self.tasks_by_worker[hostname].add(task)
        self._relate(task)
        return (task, created), subject

    def _heard_of(self, hostname: str, timestamp: Any, local_received: Any) -> KnownWorker:
        worker: KnownWorker | None = self.workers.get(hostname)
        if worker is None:
            worker = self.workers[hostname] = self.Worker(hostname)
        worker.event(None, timestamp, local_received)
        return worker

    def _remember(self, entry: Any) -> None:
        heap = self._taskheap
        if len(heap) + 1 > self.max_tasks_in_memory * self.heap_multiplier:
            del heap[0]
        if heap and entry > heap[-1]:
            heap.append(entry)
        else:
            bisect.insort(heap, entry)

    def _relate(self, task: KnownTask) -> None:
        """Make a task its parent's child, and those that waited for it its children."""
        if task.parent_id:
            parent = self.tasks.get(task.parent_id)
            if parent is not None:
                parent.children.add(task)
            else:
                waiting = self._tasks_to_resolve.get(task.parent_id)
                if waiting is None:
                    waiting = self._tasks_to_resolve[task.parent_id] = WeakSet()
                waiting.add(task)
        task.children.update(self._tasks_to_resolve.pop(task.uuid, ()))

    def task_event(self, type_: str, fields: dict[str, Any]) -> Any:
        """Take in an event ``task-…``: the task, and whether it is new."""
        return self._event({**fields, "type": f"task-{type_}"})[0]

    def worker_event(self, type_: str, fields: dict[str, Any]) -> Any:
        """Take in an event ``worker-…``: the worker, and whether it is new."""
        return self._event({**fields, "type": f"worker-{type_}"})[0]

    # ── looking up ───────────────────────────────────────────────────────────────────────────────────────────────────

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[KnownWorker, bool]:
        """The worker, and whether it is new; the keywords become its attributes."""
        worker = self.workers.get(hostname)
        if worker is not None:
            worker.update(kwargs)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[KnownTask, bool]:
        """The task, and whether it is new."""
        task = self.tasks.get(uuid)
        if task is not None:
            return task, False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, KnownTask]]:
        """Ids and tasks, in no order."""
        return islice(list(self.tasks.items()), limit or None)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[Any, KnownTask]]:
        """Ids and tasks, the newest first.

        Arguments:
            limit: how many events to look at.
            reverse: False: the oldest first.
        """
        heap = list(self._taskheap)
        seen: set[Any] = set()
        for entry in islice(reversed(heap) if reverse else heap, limit):
            task = entry[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    tasks_by_timestamp = tasks_by_time

    def _tasks_by_type(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[Any, KnownTask]]:
        found = ((uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if task.name == name)
        return islice(found, limit)

    def _tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[Any, KnownTask]]:
        found = (
            (uuid, task)
            for uuid, task in self.tasks_by_time(reverse=reverse)
            if task.worker is not None and task.worker.hostname == hostname
        )
        return islice(found, limit)

    def task_types(self) -> list[str]:
        """Names of all tasks that were ever told of."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[KnownWorker]:
        """Workers that were heard of lately."""
        return (worker for worker in list(self.workers.values()) if worker.alive)

    # ── forgetting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def freeze_while(self, fun: Callable[..., Any], *args: Any, clear_after: bool = False, **kwargs: Any) -> Any:
        """Call a function while no event is taken in.

        Arguments:
            clear_after: forget then what :meth:`clear` does.
        """
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks that have ended; with ``ready=False`` all."""
        with self._mutex:
            self._clear_tasks(ready)

    def clear(self, ready: bool = True) -> None:
        """Forget workers and counts, and the tasks that have ended; with ``ready=False`` all."""
        with self._mutex:
            self._clear(ready)

    def _clear_tasks(self, ready: bool = True) -> None:
        left = {uuid: task for uuid, task in self.itertasks() if not task.ready} if ready else {}
        self.tasks.clear()
        self.tasks.update(left)
        self._taskheap.clear()

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = 0
        self.task_count = 0

    def rebuild_taskheap(self) -> None:
        """Put the tasks in order by what is known of them."""
        entries = [timetuple(task.clock, task.timestamp, task.origin, ref(task)) for task in self.tasks.values()]
        self._taskheap[:] = sorted(entries)

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"

    def __reduce__(self) -> Any:
        return type(self), (
            self.event_callback,
            self.workers,
            self.tasks,
            None,
            self.max_workers_in_memory,
            self.max_tasks_in_memory,
            self.on_node_join,
            self.on_node_leave,
            {name: list(tasks) for name, tasks in self.tasks_by_type.items()},
            {name: list(tasks) for name, tasks in self.tasks_by_worker.items()},
        )
