"""Beat: sends periodic tasks when they are due.

A :class:`Scheduler` keeps entries in a heap by the time of their next run; ``tick()`` sends the one that is due and
says how long nothing will be. :class:`Service` ticks until it is told to stop. Subclasses of ``Scheduler`` keep their
entries elsewhere (a database, Redis): what they override is as in Celery.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import heapq
import multiprocessing
import os
import select
import shelve
import signal
import threading
import time
from calendar import timegm
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from kombu import matcher, pidbox

from zerocelery import __version__, signals
from zerocelery._state import app_or_default
from zerocelery.app import carried
from zerocelery.app.beatlease import RENEW_SECONDS, STAND_BY_SECONDS, BeatLease, slot_options
from zerocelery.engine.errors import EngineError
from zerocelery.engine.producer import ProducerOptions
from zerocelery.engine.station import Station
from zerocelery.schedules import crontab, maybe_schedule
from zerocelery.utils.collections import AttributeDict
from zerocelery.utils.imports import load_extension_class_names, symbol_by_name
from zerocelery.utils.log import get_logger
from zerocelery.utils.nodenames import default_nodename, host_format
from zerocelery.utils.time import humanize_seconds, maybe_make_aware

__all__ = (
    "DEFAULT_MAX_INTERVAL",
    "BeatLazyFunc",
    "BeatPidbox",
    "EmbeddedService",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
)

logger = get_logger("celery.beat")
debug, info, error, warning = logger.debug, logger.info, logger.error, logger.warning

#: Seconds after which beat looks again, however long nothing is due.
DEFAULT_MAX_INTERVAL = 300

#: beat's name as a node, before the host's.
NODENAME_DEFAULT = "celerybeat"

_PRIORITY = 5

#: What a dbm that locks its file says while another process has it open: that file must not be removed.
_LOCKED = (errno.EAGAIN, errno.EWOULDBLOCK)

#: Seconds to wait for the node to know of a beat, and between two looks while something has to be looked after.
_KNOWN_WITHIN = 5.0
_RESTLESS = 0.3

_LOST = "beat: the connection that brings commands is lost: %r"
_NOT_CONNECTED = (
    "beat: could not connect to the broker that brings commands: %r. How often that is tried is up to the settings "
    "broker_connection_retry_on_startup, broker_connection_retry and broker_connection_max_retries"
)

#: Schedulers by the names they have in settings made for Celery, which need not be importable under these.
_OURS = {
    f"celery.beat{separator}{name}": f"zerocelery.beat:{name}"
    for separator in ":."
    for name in ("PersistentScheduler", "Scheduler")
}


class SchedulingError(Exception):
    """A periodic task could not be sent."""


class event_t(NamedTuple):
    """When to look at an entry next."""

    time: float
    priority: int
    entry: Any


class BeatLazyFunc:
    """An argument of a periodic task that is computed whenever it is sent: ``BeatLazyFunc(datetime.now)``."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._func_params: dict[str, Any] = {"args": args, "kwargs": kwargs}

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        """Compute it."""
        return self._func(*self._func_params["args"], **self._func_params["kwargs"])


def _computed(value: Any) -> Any:
    return value() if isinstance(value, BeatLazyFunc) else value


class ScheduleEntry:
    """A task and when it runs.

    Arguments:
        name: tells it from all others.
        task: the task's name.
        last_run_at: when it ran last; now unless given.
        total_run_count: how often it has been run.
        schedule: seconds, a timedelta or a schedule.
        args, kwargs: for the task.
        options: for ``apply_async``.
        relative: whether seconds count from the full minute, hour or day.
    """

    name: str | None = None
    schedule: Any = None
    args: Any = None
    kwargs: Any = None
    options: Any = None
    last_run_at: Any = None
    total_run_count: int = 0

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: Any = None,
        options: Any = None,
        relative: bool = False,
        app: Any = None,
    ) -> None:
        self.app = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> datetime:
        """The time, by the schedule's clock."""
        found: datetime = self.schedule.now() if self.schedule else app_or_default(self.app).now()
        return found

    _default_now = default_now

    def next(self, last_run_at: datetime | None = None) -> ScheduleEntry:
        """The entry as it is after a run."""
        fields = dict(self)
        fields.update(last_run_at=last_run_at or self.default_now(), total_run_count=self.total_run_count + 1)
        return type(self)(**fields)

    __next__ = _next_instance = next

    def is_due(self) -> Any:
        """Whether to run now, and in how many seconds to look again."""
        return self.schedule.is_due(self.last_run_at)

    def update(self, other: ScheduleEntry) -> None:
        """Take over from another entry what people write into settings; not when and how often it ran."""
        for field in ("task", "schedule", "args", "kwargs", "options"):
            setattr(self, field, getattr(other, field))

    def editable_fields_equal(self, other: Any) -> bool:
        """Whether what people write into settings is the same."""
        fields = ("task", "args", "kwargs", "options", "schedule")
        return all(getattr(self, field) == getattr(other, field) for field in fields)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __eq__(self, other: object) -> bool:
        return self.editable_fields_equal(other) if isinstance(other, ScheduleEntry) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, other: Any) -> bool:
        # any order will do: it is asked for only where two entries of a heap are due at the same time
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    def __repr__(self) -> str:
        given = [*map(repr, self.args or ()), *(f"{name}={value!r}" for name, value in (self.kwargs or {}).items())]
        return f"<{type(self).__name__}: {self.name} {self.task}({', '.join(given)}) {self.schedule}"

    def __reduce__(self) -> Any:
        fields = ("name", "task", "last_run_at", "total_run_count", "schedule", "args", "kwargs", "options")
        return type(self), tuple(getattr(self, field) for field in fields)


class Scheduler:
    """Knows what is due, and sends it.

    Arguments:
        schedule: the entries by name, or a function that returns them.
        max_interval: seconds after which ``tick`` wants to be called again at the latest.
        Producer: makes producers of connections, where the broker isn't a node.
        lazy: don't read the entries yet.
        sync_every_tasks: store the entries after so many tasks.
    """

    Entry: Any = ScheduleEntry

    #: Seconds.
    max_interval: float = DEFAULT_MAX_INTERVAL
    #: Seconds after which the entries are stored.
    sync_every: float = 3 * 60
    sync_every_tasks: int | None = None

    logger = logger

    #: What the unique keys of slots begin with; None: they have none (no node, or nobody to share it with).
    slot_scope: str | None = None

    _last_sync: float | None = None
    _tasks_since_sync = 0

    def __init__(
        self,
        app: Any,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.data: Any = schedule() if callable(schedule) else {} if schedule is None else schedule
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.Producer: Any = Producer or app.amqp.Producer
        #: By the time of their next run; None before they were looked at.
        self._heap: list[event_t] | None = None
        #: The entries that the heap was made of.
        self.old_schedulers: Any = None
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # ── entries ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def setup_schedule(self) -> None:
        """Read the entries."""
        self.install_default_entries(self.data)
        self.update_from_dict(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Any) -> None:
        """Add the entries that the app itself needs: old results go, where the backend can't do that by itself."""
        name = "celery.backend_cleanup"
        if self.app.conf.result_expires and not self.app.backend.supports_autoexpire and name not in data:
            entry = {"task": name, "schedule": crontab("0", "4", "*"), "options": {"expires": 12 * 3600}}
            self.update_from_dict({name: entry})

    def get_schedule(self) -> Any:
        """The entries by name."""
        return self.data

    def set_schedule(self, schedule: Any) -> None:
        """Have other entries."""
        self.data = schedule

    schedule = property(get_schedule, set_schedule)

    def add(self, **kwargs: Any) -> Any:
        """Make and add an entry."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        return self.Entry(**{**dict(entry), "name": name, "app": self.app})

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add entries by name, or what entries are made of."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Have these entries and no others; those that are here already keep when they ran."""
        entries = self.schedule
        for name in [name for name in entries if name not in b]:
            del entries[name]
        for name, given in b.items():
            made = self.Entry(**{**dict(given), "name": name, "app": self.app})
            known = entries.get(name)
            if known is None:
                entries[name] = made
            else:
                known.update(made)

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Whether these are the same entries, not counting when they ran."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        if set(old_schedules) != set(new_schedules):
            return False
        return all(new_schedules.get(name) == entry for name, entry in old_schedules.items())

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def adjust(self, n: Any, drift: float = -0.010) -> Any:
        """Seconds to wait, a bit less than asked for: it is better to be early, and look again."""
        return n + drift if n and n > 0 else n

    def is_due(self, entry: Any) -> Any:
        """Whether to run an entry now, and in how many seconds to look again."""
        return entry.is_due()

    def _when(self, entry: Any, next_time_to_run: Any, mktime: Callable[[Any], float] = timegm) -> float:
        now = maybe_make_aware(entry.default_now())
        return mktime(now.utctimetuple()) + now.microsecond / 1e6 + (self.adjust(next_time_to_run) or 0)

    def _ask(self, entry: Any) -> tuple[bool, float]:
        """Whether an entry is due, and the seconds to wait; one that can't say doesn't keep the others from it."""
        try:
            due, wait = self.is_due(entry)
        except Exception as exc:
            error("Scheduler: entry %r can't say when it is due: %r", entry.name, exc, exc_info=True)
            return False, self.max_interval
        return due, wait if isinstance(wait, (int, float)) else self.max_interval

    def populate_heap(self) -> None:
        """Look at all entries."""
        self._heap = sorted(self._planned(entry) for entry in self.schedule.values())  # what is sorted is a heap

    def _planned(self, entry: Any) -> event_t:
        due, wait = self._ask(entry)
        return event_t(self._when(entry, 0 if due else wait), _PRIORITY, entry)

    def _notice_changes(self) -> None:
        """Look at all entries anew where there are others than the last time."""
        if self._heap is None or not self.schedules_equal(self.old_schedulers, self.schedule):
            self.old_schedulers = copy.copy(self.schedule)
            self.populate_heap()

    def tick(self) -> float:
        """Send the entry that is due, if one is; gives the seconds to wait until the next call."""
        self._notice_changes()
        if not self._heap:
            return self.max_interval
        first = self._heap[0]
        due, wait = self._ask(first.entry)
        if self._heap[0] is not first:  # who was asked has changed the entries
            return self._until_next()
        return self._send_first(wait) if due else self._put_off_first(wait)

    def _send_first(self, wait: float) -> float:
        """Send the entry that is first; it comes back into its place as it is after this run."""
        heap = self._heap or []
        _, priority, entry = heapq.heappop(heap)
        following = self.reserve(entry)
        self.apply_entry(entry, producer=self.producer)
        heapq.heappush(heap, event_t(self._when(following, wait), priority, following))
        return 0

    def _put_off_first(self, wait: float) -> float:
        """The entry that is first is not due: put it where it belongs, and see who is first then."""
        heap = self._heap or []
        entry = heap[0].entry
        heapq.heapreplace(heap, event_t(self._when(entry, wait), heap[0].priority, entry))
        if heap[0].entry is not entry:
            return max(self._until_next(), 0)
        return min(float(self.adjust(wait)), self.max_interval)

    def _until_next(self) -> float:
        event = (self._heap or [])[0]
        return min(event.time - self._when(event.entry, 0), self.max_interval)

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def reserve(self, entry: Any) -> Any:
        """Note that an entry runs now; gives the entry as it is after that."""
        following = self.schedule[entry.name] = next(entry)
        return following

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry's task; an error is logged."""
        info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception as exc:  # what a broker, a router or an argument raises must not end beat
            error("beat: %s was not sent: %s", entry.name, exc, exc_info=True)
            return
        if getattr(result, "id", None) is None:
            debug("%s sent.", entry.task)
        else:
            debug("%s sent. id->%s", entry.task, result.id)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Send an entry's task.

        Arguments:
            advance: note that it runs.

        Raises:
            SchedulingError: it couldn't be sent.
        """
        if advance:
            entry = self.reserve(entry)
        task = self.app.tasks.get(entry.task)
        try:
            args = [_computed(value) for value in entry.args or ()]
            named = {name: _computed(value) for name, value in (entry.kwargs or {}).items()}
            options = dict(entry.options or {})
            options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
            if self.slot_scope is not None and not advance:
                options = {**slot_options(entry, self.slot_scope), **options}
            if task is not None:
                return task.apply_async(args, named, producer=producer, **options)
            return self.send_task(entry.task, args, named, producer=producer, **options)
        except Exception as exc:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task that this process doesn't know."""
        return self.app.send_task(*args, **kwargs)

    @cached_property
    def connection(self) -> Any:
        """The connection to a broker that isn't a node."""
        return self.app.connection_for_write()

    @cached_property
    def producer(self) -> Any:
        """What sends, where the broker isn't a node; a node is the app's own affair."""
        if self.app.has_node:
            return None
        return self.Producer(self._ensure_connected(), auto_declare=False)

    def _ensure_connected(self) -> Any:
        def report(exc: BaseException, interval: float) -> None:
            error("beat: the broker can't be reached: %s; trying again in %s seconds", exc, interval)

        return self.connection.ensure_connection(report, self.app.conf.broker_connection_max_retries)

    # ── storing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def should_sync(self) -> bool:
        """Whether it is time to store the entries."""
        if not self._last_sync or time.monotonic() - self._last_sync > self.sync_every:
            return True
        return bool(self.sync_every_tasks) and self._tasks_since_sync >= (self.sync_every_tasks or 0)

    def _do_sync(self) -> None:
        try:
            debug("beat: storing when the entries ran")
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Store the entries; here there is nowhere to."""

    def close(self) -> None:
        """Store the entries, and let go of the broker.

        Raises:
            Exception: what failed first; the rest is done all the same, and what fails then is logged.
        """
        first: BaseException | None = None
        for what, step in self._last_steps():
            try:
                step()
            except BaseException as exc:
                if first is not None:
                    error("beat: %s failed, too: %r", what, exc, exc_info=True)
                first = first or exc
        if first is not None:
            raise first

    def _last_steps(self) -> list[tuple[str, Callable[[], Any]]]:
        """What :meth:`close` does, in this order."""
        return [("storing the entries", self.sync), ("closing the connection", self._release)]

    def _release(self) -> None:
        """Let go of the connection, if there is one; the broker may be gone already."""
        self.__dict__.pop("producer", None)
        connection = self.__dict__.pop("connection", None)
        if connection is None:
            return
        try:
            connection.release()
        except (*connection.connection_errors, *connection.channel_errors):
            debug("beat: the broker was gone before its connection was closed", exc_info=True)

    @property
    def info(self) -> str:
        """A line for the banner."""
        return ""


class PersistentScheduler(Scheduler):
    """Remembers in a file when each entry ran; what the entries are is what the settings say.

    A file that can't be used any more costs what it remembered, never the schedule: it is made anew.

    Arguments:
        schedule_filename: the file, a :mod:`shelve`; default: the setting ``beat_schedule_filename``.

    Raises:
        OSError: the file can be neither used nor made anew, or another process has it open.
    """

    #: What opens the file.
    persistence: Any = shelve
    #: What the names of the files begin with ``schedule_filename`` may end with: each kind of dbm has its own.
    known_suffixes = ("", ".db", ".dat", ".bak", ".dir", ".pag", "-wal", "-shm")

    _store: Any = None

    def __init__(self, *args: Any, schedule_filename: str | None = None, **kwargs: Any) -> None:
        self.schedule_filename = schedule_filename
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Open the file, have it agree with the settings, and store it."""
        if self.schedule_filename is None:
            self.schedule_filename = self.app.conf.beat_schedule_filename
        try:
            self._store = self._open_schedule()
        except Exception as exc:
            if getattr(exc, "errno", None) in _LOCKED:
                raise
            self._store = self._destroy_open_corrupted_schedule(exc)
        self._create_schedule()
        conf = self.app.conf
        made_for = {"__version__": __version__, "tz": conf.timezone, "utc_enabled": conf.enable_utc}
        self._begin_anew_unless(made_for)
        self.merge_inplace(conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._store.update(made_for)
        self.sync()

    def _open_schedule(self) -> Any:
        return self.persistence.open(self.schedule_filename, writeback=True)

    def _create_schedule(self) -> None:
        """See to it that there are entries: those in the file, if it has any that can be read, or else none."""
        try:
            if isinstance(self._store["entries"], Mapping):
                return
            raise TypeError("the entries are no dict")
        except KeyError:
            pass
        except Exception as exc:  # unpickling runs whatever the file says, and may raise anything
            warning("beat: the stored entries can't be read (%r): when they ran is forgotten", exc)
        try:
            self._store["entries"] = {}
        except Exception as exc:  # what a dbm raises depends on which one it is
            self._store = self._destroy_open_corrupted_schedule(exc)
            self._store["entries"] = {}

    def _begin_anew_unless(self, made_for: Mapping[str, Any]) -> None:
        """Forget when entries ran where the file's times mean something else by now."""
        store = self._store
        if "__version__" in store:
            other = [name for name in ("tz", "utc_enabled") if name in store and store[name] != made_for[name]]
        else:
            other = ["__version__"] if store["entries"] else []
        if other:
            warning("beat: %s is of another %s: when entries ran is forgotten", self.schedule_filename, other[0])
            store.clear()
            store["entries"] = {}

    def _destroy_open_corrupted_schedule(self, exc: BaseException) -> Any:
        """Put an empty file in the place of one that can't be used; gives it opened."""
        error("beat: %s can't be used, and is made anew: %r", self.schedule_filename, exc, exc_info=exc)
        if self._store is not None:
            with contextlib.suppress(Exception):  # the damaged one; nothing in it is wanted
                self._store.close()
        self._remove_db()
        return self._open_schedule()

    def _remove_db(self) -> None:
        for suffix in self.known_suffixes:
            try:
                os.remove(f"{self.schedule_filename}{suffix}")
            except OSError as exc:
                if exc.errno != errno.ENOENT:
                    raise

    def get_schedule(self) -> Any:
        """The entries by name, as the file has them."""
        return self._store["entries"]

    def set_schedule(self, schedule: Any) -> None:
        """Have other entries, in the file, too."""
        self._store["entries"] = schedule

    schedule = property(get_schedule, set_schedule)

    def sync(self) -> None:
        """Write the entries into the file; before it is opened there is nothing to write."""
        if self._store is not None:
            self._store.sync()

    def _last_steps(self) -> list[tuple[str, Callable[[], Any]]]:
        storing, *others = super()._last_steps()
        closing = [] if self._store is None else [("closing the schedule file", self._store.close)]
        return [storing, *closing, *others]

    @property
    def info(self) -> str:
        """The banner's line that names the file."""
        return f"    . db -> {self.schedule_filename}"


# ── being asked ──────────────────────────────────────────────────────────────────────────────────────────────────────


def beat_nodename(hostname: str | None = None) -> str:
    """The name that beat answers under: ``celerybeat@`` and the host's, unless ``hostname`` has a name of its own."""
    return host_format(default_nodename(hostname, NODENAME_DEFAULT))


# kombu has no types
_Node: Any = pidbox.Node
_match: Any = matcher.match


class _Silent(_Node):  # type: ignore[misc]
    """A mailbox's node that passes a command on only while its owner wants to answer."""

    declines: Callable[[Any], bool]

    def dispatch(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Carry out a command that is known to be meant for this node."""
        return None if self.declines(method) else super().dispatch(method, *args, **kwargs)


class BeatPidbox:
    """Answers ``inspect ping`` for a beat, from a thread of its own.

    That a beat is stuck shows by silence: who has not ticked for :attr:`max_tick_age` seconds does not answer, and a
    probe such as ``inspect ping -d celerybeat@host`` fails. Where the broker is a node it is asked through that; any
    other broker must be able to send a message to many (fanout).

    Arguments:
        service: the beat. Its ``hostname`` is the name to answer under.
    """

    #: Seconds between the loss of a connection and the next.
    retry_interval = 5.0
    #: Seconds that :meth:`stop` waits for the thread.
    join_timeout = 3.0
    #: Seconds that may lie between two ticks however often beat ticks, unless the setting says otherwise.
    min_tick_age = 60.0

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = service.app
        self.hostname = beat_nodename(service.hostname)
        self.state = AttributeDict(app=self.app, service=service)
        self.node: Any = _Silent(
            self.hostname, state=self.state, handlers={"ping": self._pong}, mailbox=self.app.control.mailbox
        )
        self.node.declines = self._declines
        self.thread: threading.Thread | None = None
        #: Whether the next connection is the one that the settings for a start are for.
        self.first_connection_attempt = True
        self._shutdown = threading.Event()
        self._bell: tuple[int, int] | None = None  # a pipe; what is written wakes the thread at a node

    # ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def _pong(state: Any, **_: Any) -> dict[str, str]:
        return {"ok": "pong"}

    @property
    def max_tick_age(self) -> float:
        """Seconds without a tick after which beat is taken to be stuck; 0: never.

        The setting ``beat_remote_control_max_tick_age``, or twice the seconds between two ticks.
        """
        configured = self.app.conf.beat_remote_control_max_tick_age
        if configured is not None:
            return float(configured)
        between = self.service.effective_max_interval or self.service.max_interval or DEFAULT_MAX_INTERVAL
        return max(2.0 * between, self.min_tick_age)

    def tick_age(self) -> float | None:
        """Seconds since the last tick; None before the first."""
        last = self.service._last_tick
        return None if last is None else time.monotonic() - last

    def is_stale(self) -> bool:
        """Whether the last tick is too long ago."""
        age, allowed = self.tick_age(), self.max_tick_age
        return age is not None and 0 < allowed < age

    def _declines(self, method: Any) -> bool:
        if not self.is_stale():
            return False
        warning("beat: %s is not answered, as the last tick was %.1f s ago", method, self.tick_age())
        return True

    def on_message(self, body: Any, message: Any) -> None:
        """Carry out a command that a broker has brought; one that is unknown, or fails, changes nothing."""
        if not isinstance(body, dict) or body.get("method") not in self.node.handlers:
            return
        try:
            self.node.handle_message(body, message)
        except Exception as exc:  # whatever a stranger has sent: beat has more to do than this
            error("beat: the command %r failed: %r", body["method"], exc, exc_info=True)

    def _called(self, data: bytes) -> bytes:
        """Carry out a command that the node has brought; gives the answer, b"" to decline."""
        try:
            call: Any = carried.unpack(data, carried.acceptable(self.app))
            method, handler = call["method"], self.node.handlers.get(call["method"])
            pattern, by = call.get("pattern"), call.get("matcher") or "glob"
            if handler is None or (pattern and not _match(self.hostname, pattern, by)) or self._declines(method):
                return b""
            answer = handler(self.state, **(call.get("arguments") or {}))
            return carried.pack({self.hostname: answer}, self.app.conf.task_serializer)
        except Exception as exc:  # as above
            error("beat: a command failed: %r", exc, exc_info=True)
            return b""

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Answer from now on; where nobody could ask, say so and do nothing."""
        if self.thread is not None and self.thread.is_alive():
            return
        at_node = self.app.has_node is True
        if not at_node:
            possible, transport = self.fanout_support()
            if not possible:
                warning("beat: nobody can ask this beat anything: the transport %s can't send to many", transport)
                return
        self._shutdown.clear()
        self.first_connection_attempt = True
        if at_node:
            self._bell = os.pipe()
        target, arguments = (self._answer_at_node, self._bell[:1]) if self._bell else (self._loop, ())
        self.thread = threading.Thread(target=target, args=arguments, name="beat-control", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Answer no more; returns when the thread has ended, or after :attr:`join_timeout`."""
        if self.thread is None:
            return
        self._shutdown.set()
        if self._bell is not None:
            os.write(self._bell[1], b"\0")
        self.thread.join(timeout=self.join_timeout)
        if self.thread.is_alive():
            warning("beat: the thread that answers commands has not ended within %s s", self.join_timeout)
            return
        self.thread = None
        for end in self._bell or ():
            os.close(end)
        self._bell = None

    # ── at a node ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer_at_node(self, bell: int) -> None:
        station = Station(self.app.client.producer.address, options=ProducerOptions(keeper=False))
        try:
            with _node_may_be_away():
                station.attend(self.hostname, self._called, timeout=_KNOWN_WITHIN)
            while not self._shutdown.is_set():
                with _node_may_be_away():
                    station.serve()
                watched = [end for end in (bell, station.fileno()) if end >= 0]
                select.select(watched, [], [], _RESTLESS if station.is_restless else None)
        finally:
            station.close(timeout=0.5)

    # ── at a broker ──────────────────────────────────────────────────────────────────────────────────────────────────

    def fanout_support(self) -> tuple[bool, str]:
        """Whether the broker's transport can send a message to many, and the transport's name."""
        connection = self.app.connection_for_read()
        try:
            return connection.supports_exchange_type("fanout"), connection.transport_cls
        finally:
            connection.release()

    def _loop(self) -> None:
        while not self._shutdown.is_set() and self._answer_while_connected():
            self._shutdown.wait(self.retry_interval)
        if not self._shutdown.is_set():
            warning("beat: nobody can ask this beat anything until it is started again")

    def _answer_while_connected(self) -> bool:
        """Answer over one connection; whether another is to be tried."""
        again = False
        try:
            connection = self._connect()
            again = bool(self.app.conf.broker_connection_retry)
            with connection as open_connection:
                self.node.channel = open_connection.channel()
                self.node.listen(callback=self.on_message)
                while not self._shutdown.is_set():
                    with contextlib.suppress(TimeoutError):
                        open_connection.drain_events(timeout=1.0)
        except Exception as exc:  # the thread's last resort: each transport has errors of its own
            if self._shutdown.is_set():
                return False
            error(_LOST if again else _NOT_CONNECTED, exc)
        return again

    def _connect(self) -> Any:
        conf = self.app.conf
        retried = conf.broker_connection_retry
        if self.first_connection_attempt and conf.broker_connection_retry_on_startup is not None:
            retried = conf.broker_connection_retry_on_startup
        self.first_connection_attempt = False
        connection = self.app.connection_for_read()
        try:
            attempts = conf.broker_connection_max_retries if retried else 0
            connection.ensure_connection(self._error_handler, attempts, callback=self._abort_if_stopping)
        except BaseException:
            connection.release()
            raise
        return connection

    def _error_handler(self, exc: BaseException, interval: float) -> None:
        error("beat: the broker that brings commands can't be reached: %s; trying again in %s s", exc, interval)

    def _abort_if_stopping(self) -> None:
        """Called while a connection is waited for: what it raises ends the wait."""
        if self._shutdown.is_set():
            raise _EndedMeanwhileError


class _EndedMeanwhileError(Exception):
    """beat was stopped while it waited for its broker."""


@contextlib.contextmanager
def _node_may_be_away() -> Iterator[None]:
    """A node that is away knows of this beat as soon as it is back."""
    try:
        yield
    except EngineError as exc:
        debug("beat: the node brings no commands now: %s", exc)


class Service:
    """Ticks.

    Arguments:
        max_interval: seconds after which to tick at the latest.
        schedule_filename: where it is kept when each entry ran.
        scheduler_cls: class of the scheduler, or its name.
        remote_control: whether to answer ``inspect ping``.
        hostname: the name to answer under.
    """

    scheduler_cls: Any = PersistentScheduler

    def __init__(
        self,
        app: Any,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
    ) -> None:
        conf = app.conf
        self.app = app
        self.max_interval = max_interval or conf.beat_max_loop_interval
        self.schedule_filename = schedule_filename or conf.beat_schedule_filename
        self.scheduler_cls = scheduler_cls or self.scheduler_cls
        self.remote_control = conf.beat_enable_remote_control if remote_control is None else remote_control
        self.hostname = hostname
        #: What the scheduler made of max_interval, once there is one.
        self.effective_max_interval: float | None = None
        self._last_tick: float | None = None
        self._is_waiting = False
        self._is_interrupted = False
        self._is_shutdown = threading.Event()
        self._is_stopped = threading.Event()

    def __reduce__(self) -> Any:
        fields = ("app", "max_interval", "schedule_filename", "scheduler_cls", "remote_control", "hostname")
        return type(self), tuple(getattr(self, field) for field in fields)

    def start(self, embedded_process: bool = False) -> None:
        """Tick until :meth:`stop`."""
        info("beat: Starting...")
        scheduler = self.scheduler
        self.effective_max_interval = scheduler.max_interval
        debug("beat: looking after at most %s", humanize_seconds(scheduler.max_interval))
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        pidbox = BeatPidbox(self) if self.remote_control else None
        if pidbox is not None:
            pidbox.start()
        self._last_tick = time.monotonic()
        try:
            self._tick_on(scheduler)
        except (KeyboardInterrupt, SystemExit):
            self._is_shutdown.set()
        finally:
            if pidbox is not None:
                pidbox.stop()
            self.sync()

    def _tick_on(self, scheduler: Any) -> None:
        lease = BeatLease(self.app, scheduler) if self.app.has_node is True else None
        try:
            self._tick_until_over(scheduler, lease)
        finally:
            if lease is not None:
                lease.release()

    def _tick_until_over(self, scheduler: Any, lease: BeatLease | None) -> None:
        while not self._is_shutdown.is_set() and not self._is_interrupted:
            if lease is not None and not lease.hold():
                self._last_tick = time.monotonic()
                self._wait(STAND_BY_SECONDS)
                continue
            sent = scheduler._tasks_since_sync if lease is not None else 0
            interval = scheduler.tick()
            self._last_tick = time.monotonic()
            if lease is not None:
                interval = min(interval, RENEW_SECONDS)
                if interval == 0 or scheduler._tasks_since_sync != sent:
                    lease.tell()
            if interval and interval > 0:
                debug("beat: nothing to do for %s", humanize_seconds(interval))
                self._wait(interval)
                if scheduler.should_sync():
                    scheduler._do_sync()

    def _wait(self, seconds: float) -> None:
        self._is_waiting = True
        try:
            if not self._is_interrupted:
                self._is_shutdown.wait(seconds)
        finally:
            self._is_waiting = False

    def interrupt(self, *_: Any) -> None:
        """End, as a signal handler: at once while nothing is due, else when what is due has been sent.

        A handler must not set the event that its own thread may be about to wait for.
        """
        self._is_interrupted = True
        if self._is_waiting:
            raise SystemExit(0)

    def sync(self) -> None:
        """Store the entries, and say that it is over."""
        self.scheduler.close()
        self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """Tick no more.

        Arguments:
            wait: return when it is over.
        """
        info("beat: Shutting down...")
        self._is_shutdown.set()
        if wait:
            self._is_stopped.wait()

    def get_scheduler(self, lazy: bool = False, extension_namespace: str = "celery.beat_schedulers") -> Any:
        """Make the scheduler; its class may be one that an installed package offers under a short name."""
        aliases = {**dict(load_extension_class_names(extension_namespace)), **_OURS}
        return symbol_by_name(self.scheduler_cls, aliases=aliases)(
            app=self.app, schedule_filename=self.schedule_filename, max_interval=self.max_interval, lazy=lazy
        )

    @cached_property
    def scheduler(self) -> Any:
        """What knows the entries."""
        return self.get_scheduler()


class _Threaded(threading.Thread):
    """beat as a thread."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service: Any = Service(app, **kwargs)

    def run(self) -> None:
        self.app.set_current()
        self.service.start()

    def stop(self) -> None:
        """End it."""
        self.service.stop(wait=True)


class _Process(multiprocessing.Process):
    """beat as a child."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        super().__init__(name="Beat")
        self.app = app
        self.service: Any = Service(app, **kwargs)

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self.service.interrupt)
        signal.signal(signal.SIGINT, self.service.interrupt)
        self.app.set_default()
        self.app.set_current()
        self.service.start(embedded_process=True)

    def stop(self) -> None:
        """End it."""
        self.service.stop()
        self.terminate()


def EmbeddedService(app: Any, max_interval: float | None = None, **kwargs: Any) -> Any:
    """beat in a worker: a thread (``thread=True``) or a child; has ``start()`` and ``stop()``.

    It is reached through its worker, so it answers no commands of its own unless told to.
    """
    thread = kwargs.pop("thread", False)
    kwargs.setdefault("remote_control", False)
    if thread:
        # beat of a thread wakes up every second, so that it ends soon when its worker does
        return _Threaded(app, max_interval=1, **kwargs)
    return _Process(app, max_interval=max_interval, **kwargs)
