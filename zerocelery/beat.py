"""Beat: sends periodic tasks when they are due.

A :class:`Scheduler` keeps entries in a heap by the time of their next run; ``tick()`` sends the one that is due and
says how long nothing will be. :class:`Service` ticks until it is told to stop. Subclasses of ``Scheduler`` keep their
entries elsewhere (a database, Redis): what they override is as in Celery.
"""

from __future__ import annotations

import contextlib
import copy
import dbm
import heapq
import multiprocessing
import os
import pickle
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

from zerocelery import __version__, signals
from zerocelery._state import app_or_default
from zerocelery.app.beatlease import RENEW_SECONDS, STAND_BY_SECONDS, BeatLease, slot_options
from zerocelery.schedules import crontab, maybe_schedule
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
        """Store the entries, and let go of the broker."""
        try:
            self.sync()
        except BaseException:
            self._release(failed=True)
            raise
        self._release(failed=False)

    def _release(self, *, failed: bool) -> None:
        """Close the connection, if there is one; after a failure what else fails is only logged."""
        self.__dict__.pop("producer", None)
        connection = self.__dict__.pop("connection", None)
        if connection is None:
            return
        try:
            connection.release()
        except (*connection.connection_errors, *connection.channel_errors):
            debug("beat: the broker was gone before its connection was closed", exc_info=True)
        except Exception:
            if not failed:
                raise
            error("beat: the connection can't be closed either", exc_info=True)

    @property
    def info(self) -> str:
        """A line for the banner."""
        return ""


class PersistentScheduler(Scheduler):
    """Keeps in a file when each entry ran."""

    persistence: Any = shelve
    known_suffixes = ("", ".db", ".dat", ".bak", ".dir")

    _store: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: str = kwargs.get("schedule_filename") or "celerybeat-schedule"
        super().__init__(*args, **kwargs)

    def _remove_db(self) -> None:
        for suffix in self.known_suffixes:
            with contextlib.suppress(FileNotFoundError), _missing_is_fine():
                os.remove(f"{self.schedule_filename}{suffix}")

    def _open_schedule(self) -> Any:
        return self.persistence.open(self.schedule_filename, writeback=True)

    def _destroy_open_corrupted_schedule(self, exc: BaseException) -> Any:
        error("beat: the file %r can't be read, and is made anew: %r", self.schedule_filename, exc, exc_info=True)
        self._remove_db()
        return self._open_schedule()

    def setup_schedule(self) -> None:
        """Open the file, and have the entries of the settings, with what the file knows of them."""
        try:
            self._store = self._open_schedule()
            # some databases find out that they are broken only when they are read
            self._store.keys()
        except Exception as exc:  # each kind of database has its own
            self._store = self._destroy_open_corrupted_schedule(exc)
        self._create_schedule()
        facts = {"tz": self.app.conf.timezone, "utc_enabled": self.app.conf.enable_utc}
        self._forget_if_changed(facts)
        self._store.setdefault("entries", {})
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self._store.update({"__version__": __version__, **facts})
        self.sync()
        for entry in self.schedule.values():
            debug("beat: there is %r", entry)

    def _forget_if_changed(self, facts: Mapping[str, Any]) -> None:
        """In another time zone, what was stored of the times of runs means something else."""
        for fact, value in facts.items():
            stored = self._store.get(fact)
            if stored is not None and stored != value:
                warning("beat: %s was %r and is %r: when the entries ran is forgotten", fact, stored, value)
                self._store.clear()

    def _create_schedule(self) -> None:
        """See to it that the file has entries that can be read, and says what it was made for."""
        unreadable = (KeyError, TypeError, UnicodeDecodeError, pickle.UnpicklingError)
        for _ in range(2):
            try:
                self._store["entries"]
            except (*unreadable, ValueError) as exc:
                if isinstance(exc, ValueError):
                    warning("beat: the stored entries can't be read, and are made anew: %r", exc)
                try:
                    self._store["entries"] = {}
                except (*unreadable, *dbm.error) as broken:
                    self._store = self._destroy_open_corrupted_schedule(broken)
                    continue
            else:
                missing = [fact for fact in ("__version__", "tz", "utc_enabled") if fact not in self._store]
                if missing:
                    warning("beat: the file doesn't say its %s: when the entries ran is forgotten", missing[0])
                    self._store.clear()
            return

    def get_schedule(self) -> Any:
        """The entries by name."""
        return self._store["entries"]

    def set_schedule(self, schedule: Any) -> None:
        """Have other entries."""
        self._store["entries"] = schedule

    schedule = property(get_schedule, set_schedule)

    def sync(self) -> None:
        """Write the file."""
        if self._store is not None:
            self._store.sync()

    def close(self) -> None:
        """Write and close the file, and let go of the broker."""
        try:
            super().close()
        except BaseException:
            self._close_store(failed=True)
            raise
        self._close_store(failed=False)

    def _close_store(self, *, failed: bool) -> None:
        if self._store is None:
            return
        try:
            self._store.close()
        except Exception:
            if not failed:
                raise
            error("beat: the file %s can't be closed either", self.schedule_filename, exc_info=True)

    @property
    def info(self) -> str:
        """A line for the banner."""
        return f"    . db -> {self.schedule_filename}"


@contextlib.contextmanager
def _missing_is_fine() -> Iterator[None]:
    import errno

    try:
        yield
    except OSError as exc:  # by its number: not everything that removes files raises FileNotFoundError
        if exc.errno != errno.ENOENT:
            raise


# ── being asked whether it lives ─────────────────────────────────────────────────────────────────────────────────────


def beat_nodename(hostname: str | None = None) -> str:
    """beat's whole name as a node, of ``-n``."""
    return host_format(default_nodename(hostname, NODENAME_DEFAULT))


class _Stopping(BaseException):
    """Gets a thread out of kombu's waiting for a broker; no ``except Exception`` on the way is to stop it."""


class BeatPidbox:
    """Answers ``celery inspect ping``, on a broker that kombu talks to.

    It keeps silent while the scheduler hangs: a probe notices only that nobody answers.
    """

    #: Seconds.
    retry_interval = 5.0
    join_timeout = 3.0
    min_tick_age = 60.0

    def __init__(self, service: Service) -> None:
        from kombu import pidbox

        Node: Any = pidbox.Node
        self.service = service
        self.app = service.app
        self.hostname = beat_nodename(service.hostname)
        self.state = {"app": self.app, "service": service}
        self.node: Any = Node(
            self.hostname, state=self.state, handlers={"ping": self._ping}, mailbox=self.app.control.mailbox
        )
        # asked only for what is meant for this node; so beat doesn't log of others' probes
        answer = self.node.dispatch
        self.node.dispatch = lambda *args, **kwargs: None if self._is_silent() else answer(*args, **kwargs)
        self.thread: threading.Thread | None = None
        self.first_connection_attempt = True
        self._shutdown = threading.Event()

    @property
    def max_tick_age(self) -> float:
        """How long the last tick may be past; 0: any time."""
        said: float | None = self.app.conf.beat_remote_control_max_tick_age
        if said is not None:
            return said
        service = self.service
        interval = service.effective_max_interval or service.max_interval or DEFAULT_MAX_INTERVAL
        return max(interval * 2, self.min_tick_age)

    def tick_age(self) -> float | None:
        """How long the last tick is past."""
        last = self.service._last_tick
        return None if last is None else time.monotonic() - last

    def is_stale(self) -> bool:
        """Whether the scheduler hangs."""
        age, most = self.tick_age(), self.max_tick_age
        return bool(most) and age is not None and age > most

    def _is_silent(self) -> bool:
        stale = self.is_stale()
        if stale:
            warning("beat pidbox: no answer, for the scheduler has not ticked in %s seconds", self.max_tick_age)
        return stale

    def _ping(self, state: Any, **_: Any) -> dict[str, str]:
        return {"ok": "pong"}

    def on_message(self, body: Any, message: Any) -> None:
        """Answer a command, if it is one that beat knows."""
        if not isinstance(body, dict) or body.get("method") not in self.node.handlers:
            return
        try:
            self.node.handle_message(body, message)
        except Exception as exc:  # of a stranger's message, which must not end the thread
            error("beat pidbox command error: %r", exc, exc_info=True)

    def fanout_support(self) -> tuple[bool, str]:
        """Whether the broker can tell something to everybody, and what it is."""
        connection = self.app.connection_for_read()
        try:
            return connection.supports_exchange_type("fanout"), connection.transport_cls
        finally:
            connection.release()

    def start(self) -> None:
        """Answer from now on."""
        if self.thread is not None and self.thread.is_alive():
            return
        at_node = self.app.has_node is True
        supported, transport = (True, "zmq") if at_node else self.fanout_support()
        if not supported:
            warning("beat pidbox: over %s nobody can be told something all at once: no remote control", transport)
            return
        self.first_connection_attempt = True
        self._shutdown.clear()
        target = self._answer_at_node if at_node else self._loop
        self.thread = threading.Thread(target=target, name="BeatPidbox", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._shutdown.set()
        if self.thread is None:
            return
        self.thread.join(timeout=self.join_timeout)
        if self.thread.is_alive():
            warning("beat pidbox: the thread didn't end within %s seconds, it is left behind", self.join_timeout)
        else:
            self.thread = None

    def _error_handler(self, exc: BaseException, interval: float) -> None:
        error("beat pidbox: the broker can't be reached: %s; trying again in %s seconds", exc, interval)

    def _abort_if_stopping(self) -> None:
        if self._shutdown.is_set():
            raise _Stopping

    def _connect(self) -> Any:
        conf = self.app.conf
        retry = conf.broker_connection_retry
        if self.first_connection_attempt and conf.broker_connection_retry_on_startup is not None:
            retry = conf.broker_connection_retry_on_startup
        self.first_connection_attempt = False
        connection = self.app.connection_for_read()
        tries = conf.broker_connection_max_retries if retry else 0
        try:
            connection.ensure_connection(self._error_handler, tries, callback=self._abort_if_stopping)
        except BaseException:
            connection.release()
            raise
        return connection

    def _consume(self, connection: Any) -> None:
        info("beat pidbox: Connected to %s.", connection.as_uri())
        self.node.channel = connection.channel()
        consumer = self.node.listen(callback=self.on_message)
        try:
            while not self._shutdown.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1.0)
        finally:
            with contextlib.suppress(Exception):  # the connection may be the reason why this ends
                consumer.cancel()

    def _answer_at_node(self) -> None:
        """Answer what comes through the app's node, until it is over."""
        from zerocelery.app import carried
        from zerocelery.engine.errors import EngineError
        from zerocelery.engine.station import Station

        accepts, serializer = carried.acceptable(self.app), self.app.conf.task_serializer

        def answer(body: bytes) -> bytes:
            try:
                method = carried.unpack(body, accepts)["method"]
            except Exception as exc:  # of a stranger's message, which must not end the thread
                error("beat pidbox command error: %r", exc)
                return b""
            if method != "ping" or self._is_silent():
                return b""
            return carried.pack({self.hostname: self._ping(self.state)}, serializer)

        station = Station(self.app.client.producer.address)
        try:
            while not self._shutdown.is_set():
                try:
                    station.attend(self.hostname, answer, timeout=self.retry_interval)
                    break
                except EngineError as exc:
                    self._error_handler(exc, self.retry_interval)
            while not self._shutdown.is_set():
                fd = station.fileno()
                select.select([fd], [], [], 0.2) if fd >= 0 else self._shutdown.wait(0.2)
                station.serve()
        finally:
            station.close(timeout=0.0)

    def _loop(self) -> None:
        try:
            while not self._shutdown.is_set() and self._attend():
                self._shutdown.wait(self.retry_interval)
        except _Stopping:
            return
        if not self._shutdown.is_set():
            warning("beat pidbox: Consumer stopped, beat will no longer answer remote control commands.")

    def _attend(self) -> bool:
        """Connect, and answer as long as the connection holds; whether to try again."""
        try:
            established = self._connect()
        except Exception as exc:  # what transports raise is their own
            if not self._shutdown.is_set():
                error(
                    "beat pidbox: could not connect to the broker, so no command will be answered; see "
                    "broker_connection_retry, broker_connection_retry_on_startup and "
                    "broker_connection_max_retries: %r",
                    exc,
                    exc_info=True,
                )
            return False
        try:
            with established as connection:
                self._consume(connection)
        except Exception as exc:  # what transports raise is their own
            if not self._shutdown.is_set():
                error("beat pidbox connection error: %r", exc, exc_info=True)
        return bool(self.app.conf.broker_connection_retry)


# ── the service ──────────────────────────────────────────────────────────────────────────────────────────────────────


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
