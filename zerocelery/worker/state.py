"""What a worker's process knows of the tasks that it has: which wait, which run, which were revoked.

Requests are entered and taken out by whoever runs them; control commands, and tools that look into a worker, read here.
"""

from __future__ import annotations

import os
import pickle
import platform
import shelve
import weakref
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from zerocelery.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from zerocelery.utils.limited import LimitedSet, fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = (
    "SOFTWARE_INFO",
    "Persistent",
    "active_requests",
    "maybe_shutdown",
    "reserved_requests",
    "revoked",
    "task_accepted",
    "task_ready",
    "task_reserved",
    "task_scheduled",
    "total_count",
)


def _from_environment(name: str, default: Any) -> Any:
    """A limit that can be set in the environment."""
    text = os.environ.get(name)
    if text is None:
        return default
    kind = type(default)
    try:
        return kind(text)
    except ValueError as error:
        raise ImproperlyConfigured(
            f"the environment variable {name} can't be {text!r}: expected {kind.__name__}"
        ) from error


#: Who we say we are in events.
SOFTWARE_INFO = {"sw_ident": "zerocelery", "sw_ver": "5.7.0", "sw_sys": platform.system()}

#: How many revoked ids are kept, and for how long (seconds).
REVOKES_MAX: int = _from_environment("CELERY_WORKER_REVOKES_MAX", 50000)
REVOKE_EXPIRES: float = _from_environment("CELERY_WORKER_REVOKE_EXPIRES", 10800.0)

#: The same for ids of tasks that have succeeded.
SUCCESSFUL_MAX: int = _from_environment("CELERY_WORKER_SUCCESSFUL_MAX", 1000)
SUCCESSFUL_EXPIRES: float = _from_environment("CELERY_WORKER_SUCCESSFUL_EXPIRES", 10800.0)

#: Request by id.
requests: dict[str, Any] = {}
#: Here, and not yet running.
reserved_requests: weakref.WeakSet[Any] = weakref.WeakSet()
#: Here, and waiting for their time.
scheduled_requests: weakref.WeakSet[Any] = weakref.WeakSet()
#: Running.
active_requests: weakref.WeakSet[Any] = weakref.WeakSet()
#: Ids of tasks that have succeeded.
successful_requests = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)
#: How often each task was started.
total_count: Counter[str] = Counter()
#: The sum of these, in a list so that it may be held on to.
all_total_count = [0]
#: Takes revocations back where they are remembered, which is in the worker's node: given ids, and labels of stamps.
take_back: Callable[[Iterable[str], Iterable[str]], None] | None = None


class _Revoked(LimitedSet):
    """Ids that this worker was told not to run. Who takes one out by hand takes the revocation back."""

    def discard(self, item: Any) -> None:
        if take_back is not None:
            take_back([str(item)], ())
        super().discard(item)

    pop_value = discard

    def clear(self) -> None:
        if take_back is not None:
            take_back(map(str, self), ())
        super().clear()

    def __reduce__(self) -> Any:
        return LimitedSet, super().__reduce__()[1]


class _RevokedStamps(dict[str, Any]):
    """Stamps that this worker was told not to run. Who takes some out by hand takes the revocation back."""

    def __delitem__(self, header: str) -> None:
        _take_stamps_back({header: self[header]})
        super().__delitem__(header)

    def pop(self, header: str, *default: Any) -> Any:
        if header in self:
            _take_stamps_back({header: self[header]})
        return super().pop(header, *default)

    def clear(self) -> None:
        _take_stamps_back(self)
        super().clear()


def _take_stamps_back(stamps: dict[str, Any]) -> None:
    from zerocelery.app.message import stamp_labels

    if take_back is not None:
        take_back((), stamp_labels(stamps))


#: Ids of revoked tasks.
revoked = _Revoked(maxlen=REVOKES_MAX, expires=REVOKE_EXPIRES)
#: Stamps whose tasks are revoked: header → values.
revoked_stamps: dict[str, Any] = _RevokedStamps()

#: Whether to stop: None or False is no; anything else an exit code, or True.
should_stop: bool | int | None = None
should_terminate: bool | int | None = None


def merge_revoked(task_ids: Any) -> None:
    """Add revoked ids of another worker, or of another time: its clock is not ours, so they count as of now."""
    revoked.update(fresh(task_ids or ()))


def reset_state() -> None:
    """Forget all."""
    for known in (
        requests,
        reserved_requests,
        scheduled_requests,
        active_requests,
        successful_requests,
        total_count,
        revoked,
        revoked_stamps,
    ):
        known.clear()
    all_total_count[:] = [0]


def maybe_shutdown() -> None:
    """Raise what ends the worker, if somebody asked for that."""
    if should_terminate is not None and should_terminate is not False:
        raise WorkerTerminate(should_terminate)
    if should_stop is not None and should_stop is not False:
        raise WorkerShutdown(should_stop)


def task_reserved(
    request: Any,
    add_request: Callable[[str, Any], Any] = requests.__setitem__,
    add_reserved_request: Callable[[Any], Any] = reserved_requests.add,
    discard_scheduled_request: Callable[[Any], Any] = scheduled_requests.discard,
) -> None:
    """The task is here, to be run next."""
    add_request(request.id, request)
    add_reserved_request(request)
    discard_scheduled_request(request)


def task_scheduled(
    request: Any,
    add_request: Callable[[str, Any], Any] = requests.__setitem__,
    add_scheduled_request: Callable[[Any], Any] = scheduled_requests.add,
    all_reserved_requests: Any = reserved_requests,
    all_active_requests: Any = active_requests,
) -> None:
    """The task is here, and its time has not come. Its timer may have been faster: then this changes nothing."""
    add_request(request.id, request)
    if request not in all_reserved_requests and request not in all_active_requests:
        add_scheduled_request(request)


def task_accepted(
    request: Any,
    _all_total_count: list[int] | None = None,
    add_request: Callable[[str, Any], Any] = requests.__setitem__,
    add_active_request: Callable[[Any], Any] = active_requests.add,
    add_to_total_count: Callable[[Any], Any] = total_count.update,
) -> None:
    """The task runs."""
    counter = all_total_count if _all_total_count is None else _all_total_count
    add_request(request.id, request)
    add_active_request(request)
    add_to_total_count({request.name: 1})
    counter[0] += 1


def task_ready(
    request: Any,
    successful: bool = False,
    remove_request: Callable[..., Any] = requests.pop,
    discard_active_request: Callable[[Any], Any] = active_requests.discard,
    discard_reserved_request: Callable[[Any], Any] = reserved_requests.discard,
    discard_scheduled_request: Callable[[Any], Any] = scheduled_requests.discard,
) -> None:
    """The task is done."""
    if successful:
        successful_requests.add(request.id)
    remove_request(request.id, None)
    discard_active_request(request)
    discard_reserved_request(request)
    discard_scheduled_request(request)


class Persistent:
    """Revoked ids and the clock in a file, so that they outlive the worker.

    Arguments:
        state: what to keep: this module.
        filename: of the database; its extension is the database's own.
        clock: the app's logical clock.
    """

    storage: Any = shelve
    protocol = 2

    def __init__(self, state: Any, filename: str, clock: Any = None) -> None:
        self.state = state
        self.filename = filename
        self.clock = clock
        self._is_open = False
        self.merge()

    def compress(self, data: bytes) -> bytes:
        """As it is stored."""
        return zlib.compress(data)

    def decompress(self, data: bytes) -> bytes:
        """As it was."""
        return zlib.decompress(data)

    def open(self) -> Any:
        """Open the database."""
        return self.storage.open(self.filename, protocol=self.protocol, writeback=True)

    @property
    def db(self) -> Any:
        """The database, opened at the first look."""
        if not self._is_open:
            self._db = self.open()
            self._is_open = True
        return self._db

    def merge(self) -> None:
        """Take over what is stored."""
        self._merge_with(self.db)

    def sync(self) -> None:
        """Store what is known."""
        self._sync_with(self.db)
        self.db.sync()

    def save(self) -> None:
        """Store what is known, and close the database."""
        self.sync()
        self.close()

    def close(self) -> None:
        """Close the database, if it is open."""
        if self._is_open:
            self._db.close()
            self._is_open = False

    def _merge_with(self, stored: Any) -> None:
        if self.clock is not None:
            stored["clock"] = self.clock.adjust(stored.get("clock") or 0)
        packed = stored.get("zrevoked")
        # The file is this worker's own: who can write it can write the worker's code.
        saved = pickle.loads(self.decompress(packed)) if packed else stored.get("revoked")  # noqa: S301
        if saved:
            merge_revoked(saved)

    def _sync_with(self, stored: Any) -> None:
        revoked.purge()
        stored.pop("revoked", None)
        stored["zrevoked"] = self.compress(self._dumps(revoked))
        if self.clock is not None:
            stored["clock"] = self.clock.forward()

    def _dumps(self, value: Any) -> bytes:
        return pickle.dumps(value, protocol=self.protocol)
