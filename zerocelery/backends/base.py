"""The published base classes of result backends.

A backend is a handful of methods that know the store:

=====================  ==============================================================
``_store_result``      keep one task's document
``_get_task_meta_for`` give it back
``_forget``            remove it
``_save_group`` …      the same for groups (``_restore_group``, ``_delete_group``)
``on_chord_part_return``  count a finished member of a chord
=====================  ==============================================================

:class:`Backend` is what is the same for all of them, :class:`KeyValueStoreBackend` what is the same for all that keep
documents under keys. What is in a document is told by :mod:`zerocelery.backends.document`, what happens when a chord
or a chain fails by :mod:`zerocelery.backends.failing`.
"""

from __future__ import annotations

import time
import uuid as _uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, ClassVar, NoReturn

from kombu import serialization
from kombu.utils import encoding, functional
from kombu.utils.url import maybe_sanitize_url

from zerocelery import states
from zerocelery._state import get_current_task
from zerocelery.app import codec
from zerocelery.backends import document, failing
from zerocelery.backends.document import COMPRESSED_PAYLOAD_MAGIC, compress_payload, decompress_payload
from zerocelery.backends.failing import _create_chord_error_with_cause, _create_fake_task_request
from zerocelery.canvas import group, maybe_signature
from zerocelery.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    ChordError,
    ImproperlyConfigured,
    TaskRevokedError,
    TimeoutError,
)
from zerocelery.result import GroupResult, ResultBase, ResultSet, allow_join_result, result_from_tuple
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.app.base import Celery

__all__ = (
    "COMPRESSED_PAYLOAD_MAGIC",
    "BaseBackend",
    "BaseDictBackend",
    "BaseKeyValueStoreBackend",
    "DisabledBackend",
    "KeyValueStoreBackend",
    "_create_chord_error_with_cause",
    "_create_fake_task_request",
    "compress_payload",
    "decompress_payload",
    "get_current_task",
    "group",
)

logger = get_logger("celery.backends.base")

# kombu has no types
dumps: Any = serialization.dumps
loads: Any = serialization.loads
prepare_accept_content: Any = serialization.prepare_accept_content
serializer_registry: Any = serialization.registry
bytes_to_str: Any = encoding.bytes_to_str
ensure_bytes: Any = encoding.ensure_bytes
LRUCache: Any = functional.LRUCache

EXCEPTION_ABLE_CODECS = frozenset({"pickle", "cloudpickle"})

#: Seconds between two looks at a store that has to be polled.
_POLL = 0.5
#: Members of a chord that can't be counted: how often the unlock task looks.
_UNLOCK_INTERVAL = 1.0


class _nulldict(dict[Any, Any]):
    """A dict that forgets at once."""

    def ignore(self, *args: Any, **kwargs: Any) -> None:
        """Forget."""

    __setitem__ = update = setdefault = ignore


def _is_ready(meta: dict[str, Any]) -> bool:
    return meta["status"] in states.READY_STATES


class Backend:
    """What every backend has.

    Arguments:
        serializer: of results; the setting ``result_serializer`` unless given.
        max_cached_results: how many documents to remember in this process; -1 for none.
        accept: content types that are read.
        expires: seconds, or a timedelta, that results are kept.
        url: where the store is.
    """

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES
    TimeoutError = TimeoutError

    #: Seconds between looks of a waiting client; None leaves it to the caller.
    subpolling_interval: float | None = None
    #: Whether many results can be waited for at once.
    supports_native_join = False
    #: Whether the store removes old results by itself.
    supports_autoexpire = False
    #: Whether failures may be kept for another time than results.
    supports_failure_expires = False
    #: Whether the store takes bytes, and so compressed payloads.
    supports_result_compression = False
    #: Whether results outlive the client.
    persistent = True
    #: Whether there are results at all.
    keeps_results = True

    retry_policy: ClassVar[dict[str, Any]] = {
        "max_retries": 20,
        "interval_start": 0,
        "interval_step": 1,
        "interval_max": 1,
    }

    def __init__(
        self,
        app: Celery,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Any = None,
        expires: Any = None,
        expires_type: Callable[[float], Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        conf = app.conf
        self.app = app
        self.url = url
        self.serializer: str = serializer or conf["result_serializer"]
        self.content_type, self.content_encoding, self.encoder = serializer_registry._encoders[self.serializer]
        limit = max_cached_results or conf["result_cache_max"]
        self._cache: Any = _nulldict() if limit == -1 else LRUCache(limit=limit)
        self.expires = self.prepare_expires(expires, expires_type)
        if accept is None:
            accept = conf["result_accept_content"]
        self.accept = prepare_accept_content(conf["accept_content"] if accept is None else accept)
        self.compression = self.prepare_compression(conf["result_compression"])
        if conf["result_failure_expires"] is not None and not self.supports_failure_expires:
            warnings.warn(f"{type(self).__name__} does not support result_failure_expires: it is ignored", stacklevel=2)
        self.always_retry = bool(conf["result_backend_always_retry"])
        self.max_sleep_between_retries_ms = conf["result_backend_max_sleep_between_retries_ms"]
        self.base_sleep_between_retries_ms = conf["result_backend_base_sleep_between_retries_ms"]
        self.max_retries = conf["result_backend_max_retries"]
        self.thread_safe = bool(conf.get("result_backend_thread_safe", False))
        self._pending_results: Any = None

    def prepare_compression(self, compression: str | None) -> str | None:
        """The content type of a way to compress results, by its name; None where this backend can't store such."""
        method = document.compression_method(compression)
        if method is not None and not self.supports_result_compression:
            warnings.warn(
                f"result_compression is ignored: {type(self).__name__} cannot store compressed payloads", stacklevel=3
            )
            return None
        return method

    @property
    def extended(self) -> bool:
        """Whether the request's own fields are stored too."""
        return bool(self.app.conf["result_extended"])

    def as_uri(self, include_password: bool = False) -> str:
        """The backend's URL, as one may show it."""
        if include_password or not self.url:
            return self.url or ""
        url = maybe_sanitize_url(self.url)
        return f"{url}///" if url and url.endswith("://") else str(url or "")

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """A task has begun."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """A task has returned."""
        if store_result and not _ignored(request):
            self.store_result(task_id, result, state, request=request)
        if request and request.chord:
            self.on_chord_part_return(request, state, result)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """A task has raised; what would have followed it fails with it."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)
        if not request:
            return
        if request.chord:
            self.on_chord_part_return(request, state, exc)
        chain = getattr(request, "chain", None)
        if isinstance(chain, (list, tuple)) and chain:
            self._fail_chain(chain, exc, traceback=traceback, state=state)
        if call_errbacks and request.errbacks:
            self._call_task_errbacks(request, exc, traceback)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: Any = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """A task was revoked."""
        error = TaskRevokedError(reason)
        if store_result:
            self.store_result(task_id, error, state, traceback=None, request=request)
        if request and request.chord:
            self.on_chord_part_return(request, state, error)

    def mark_as_retry(
        self,
        task_id: str,
        exc: Any,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """A task will be run again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Keep a task's state and result; tried again where the settings say so.

        Raises:
            BackendStoreError: it failed after all retries.
        """
        encoded = self.encode_result(result, state)
        self._retried(
            lambda: self._store_result(task_id, encoded, state, traceback, request=request, **kwargs),
            lambda: BackendStoreError("failed to store result on the backend", task_id=task_id, state=state),
            before_again=lambda: self._may_store(task_id, state),
        )
        return result

    def _may_store(self, task_id: str, state: str) -> bool:
        """Whether a write that seemed to fail is still wanted: it may have reached the store, or another one has."""
        try:
            return self._get_task_meta_for(task_id).get("status") != states.SUCCESS
        except Exception:
            return True

    def _retried(
        self,
        call: Callable[[], Any],
        give_up: Callable[[], Exception] | None = None,
        *,
        before_again: Callable[[], bool] | None = None,
    ) -> Any:
        """Call it, again where the settings say so; in the end raise what ``give_up`` makes, or the error itself."""
        tried = 0
        while True:
            try:
                if tried and before_again is not None and not before_again():
                    return None
                return call()
            except Exception as error:
                if not (self.always_retry and self.exception_safe_to_retry(error)):
                    raise
                if tried >= self.max_retries:
                    if give_up is None:
                        raise
                    raise give_up() from error
                tried += 1
                self._prepare_retry(error)
                self._sleep(self._pause(tried))

    def _prepare_retry(self, error: Exception) -> None:
        try:
            self.on_backend_retryable_error(error)
        except Exception:
            logger.exception("The backend's hook for errors that are tried again failed")

    def _pause(self, tried: int) -> float:
        most = min(self.base_sleep_between_retries_ms * 2.0 ** min(tried - 1, 32), self.max_sleep_between_retries_ms)
        return float(most) / 1000.0

    def _sleep(self, amount: float) -> None:
        time.sleep(amount)

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Whether after this error the same may be tried again."""
        return False

    def on_backend_retryable_error(self, exc: Exception) -> None:
        """Called before the same is tried again."""

    # ── failing what follows ─────────────────────────────────────────────────────────────────────────────────────────

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> Any:
        """Mark a task as failed with the exception that is being handled."""
        return failing.fail_from_current_stack(self, task_id, exc)

    def chord_error_from_stack(self, callback: Any, exc: BaseException | None = None) -> Any:
        """Fail a chord's body, and what follows it, because the header failed."""
        return failing.chord_error(self, callback, exc)

    def _handle_group_chord_error(self, group_callback: Any, backend: Any, exc: BaseException | None = None) -> Any:
        return failing.group_error(self, group_callback, backend, exc)

    def _fail_chain(self, chain: Any, exc: BaseException, traceback: Any = None, state: str = states.FAILURE) -> None:
        failing.fail_chain(self, chain, exc, traceback=traceback, state=state)

    def _call_task_errbacks(self, request: Any, exc: BaseException, traceback: Any) -> None:
        failing.call_errbacks(self.app, request, exc, traceback, make_group=group)

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def encode_result(self, result: Any, state: str) -> Any:
        """The value as the document has it."""
        if isinstance(result, BaseException) and (
            state in self.EXCEPTION_STATES or not self.serializer_takes_exceptions()
        ):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def serializer_takes_exceptions(self) -> bool:
        """Whether exceptions are serialised as they are."""
        return codec.is_pickling(self.serializer)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """An exception in a form that the serialiser takes."""
        serializer = serializer or self.serializer
        if codec.is_pickling(serializer):
            from zerocelery.utils.serialization import get_pickleable_exception

            return get_pickleable_exception(exc)
        return document.exception_document(exc, self.encode)

    def exception_to_python(self, exc: Any) -> Any:
        """The exception of a stored document."""
        if isinstance(exc, BaseException) and self.serializer_takes_exceptions():
            from zerocelery.utils.serialization import get_pickled_exception

            return get_pickled_exception(exc)
        return document.exception_from(exc)

    def prepare_value(self, result: Any) -> Any:
        """A value in a form that the serialiser takes."""
        if self.serializer != "pickle" and isinstance(result, ResultBase):
            return result.as_tuple()
        return result

    def _encode(self, data: Any) -> Any:
        return dumps(data, serializer=self.serializer)

    def encode(self, data: Any) -> Any:
        """The document as the store gets it."""
        payload = self._encode(data)[2]
        return compress_payload(payload, self.compression) if self.compression else payload

    def decode(self, payload: Any) -> Any:
        """What :meth:`encode` was given."""
        if payload is None:
            return payload
        payload = decompress_payload(payload)
        return loads(
            payload or str(payload),
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            accept=self.accept,
        )

    def decode_result(self, payload: Any) -> Any:
        """A task's meta, from what the store gave."""
        return self.meta_from_decoded(self.decode(payload))

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """A document with its exception rebuilt."""
        if meta["status"] in self.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        format_date: bool = True,
        encode: bool = False,
    ) -> dict[str, Any]:
        meta = document.result_document(
            result,
            state,
            traceback,
            request,
            extended=self.extended,
            as_text=format_date,
            encode=self.encode if encode else None,
        )
        if request is None:
            # what ends without having run, as a chord's body does, ends by the task that runs here
            meta["children"] = self.current_task_children()
        return meta

    def prepare_expires(self, value: Any, type: Callable[[float], Any] | None = None) -> Any:
        """Seconds that results are kept."""
        if value is None:
            value = self.app.conf["result_expires"]
        if isinstance(value, timedelta):
            value = value.total_seconds()
        return type(value) if value is not None and type is not None else value

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Whether messages with results survive the broker."""
        if enabled is not None:
            return enabled
        persistent = self.app.conf["result_persistent"]
        return self.persistent if persistent is None else bool(persistent)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """A task's meta; of an unknown one the state is PENDING.

        Raises:
            BackendGetMetaError: it failed after all retries.
        """
        self._ensure_not_eager()
        if cache:
            with suppress(KeyError):
                return self._cache[task_id]  # type: ignore[no-any-return]
        meta: dict[str, Any] = self._retried(
            lambda: self._get_task_meta_for(task_id),
            lambda: BackendGetMetaError("failed to get meta", task_id=task_id),
        )
        if cache and meta.get("status") == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def _ensure_not_eager(self) -> None:
        conf = self.app.conf
        if conf["task_always_eager"] and not conf["task_store_eager_result"]:
            warnings.warn(
                "Results are not stored in backend and should not be retrieved when task_always_eager is enabled, "
                "unless task_store_eager_result is enabled.",
                RuntimeWarning,
                stacklevel=3,
            )

    def get_state(self, task_id: str) -> str:
        """A task's state."""
        return str(self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_traceback(self, task_id: str) -> Any:
        """The traceback of a task that failed."""
        return self.get_task_meta(task_id).get("traceback")

    def get_result(self, task_id: str) -> Any:
        """What the task returned, or raised."""
        return self.get_task_meta(task_id).get("result")

    def get_children(self, task_id: str) -> Any:
        """Results of the tasks that it called."""
        return self.get_task_meta(task_id).get("children")

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything was stored for the task."""
        return self.get_task_meta(task_id, cache=False).get("status") != states.PENDING

    exists = task_result_exists

    def reload_task_result(self, task_id: str) -> None:
        """Read a task's meta again, though it is remembered."""
        self._cache[task_id] = self.get_task_meta(task_id, cache=False)

    def is_cached(self, task_id: str) -> bool:
        """Whether a task's meta is remembered."""
        return task_id in self._cache

    def forget(self, task_id: str) -> None:
        """Remove a task's meta."""
        self._cache.pop(task_id, None)
        self._retried(lambda: self._forget(task_id))

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def save_group(self, group_id: str, result: Any) -> Any:
        """Keep a group's result."""
        return self._retried(lambda: self._save_group(group_id, result))

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """A group's result, or None."""
        meta = self.get_group_meta(group_id, cache=cache)
        return meta["result"] if meta else None

    def get_group_meta(self, group_id: str, cache: bool = True) -> Any:
        """A group's document, or None."""
        self._ensure_not_eager()
        if cache:
            with suppress(KeyError):
                return self._cache[group_id]
        meta = self._retried(lambda: self._restore_group(group_id))
        if cache and meta is not None:
            self._cache[group_id] = meta
        return meta

    def reload_group_result(self, group_id: str) -> None:
        """Read a group's document again, though it is remembered."""
        self._cache[group_id] = self.get_group_meta(group_id, cache=False)

    def delete_group(self, group_id: str) -> Any:
        """Remove a group's result."""
        self._cache.pop(group_id, None)
        return self._retried(lambda: self._delete_group(group_id))

    # ── chords ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def add_to_chord(self, chord_id: str, result: Any) -> Any:
        """Add a member to a chord that runs."""
        raise NotImplementedError("Backend does not support add_to_chord")

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """A member of a chord's header has ended."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """How many members a chord's header has."""

    def ensure_chords_allowed(self) -> None:
        """Raise NotImplementedError where chords can't be had."""

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Prepare for a chord whose header is about to be sent."""
        self.ensure_chords_allowed()
        self.fallback_chord_unlock(self.app.GroupResult(*header_result_args), body, **kwargs)

    def fallback_chord_unlock(self, header_result: Any, body: Any, countdown: float | None = 1, **kwargs: Any) -> None:
        """Have a task look again and again whether the header is done."""
        failing.send_chord_unlock(self.app, header_result, body, countdown=countdown, **kwargs)

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """The results of the tasks that the current one called, as they are stored."""
        if request is None:
            request = getattr(get_current_task(), "request", None)
        return document.children_of(request)

    # ── a store's own ────────────────────────────────────────────────────────────────────────────────────────────────

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        raise NotImplementedError("store_result is not supported by this backend.")

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        raise NotImplementedError("backend does not implement reading results.")

    def _forget(self, task_id: str) -> None:
        raise NotImplementedError("backend does not implement forget.")

    def _save_group(self, group_id: str, result: Any) -> Any:
        raise NotImplementedError("backend does not implement saving groups.")

    def _restore_group(self, group_id: str) -> Any:
        raise NotImplementedError("backend does not implement restoring groups.")

    def _delete_group(self, group_id: str) -> Any:
        raise NotImplementedError("backend does not implement deleting groups.")

    def cleanup(self) -> None:
        """Remove what has expired, where the store doesn't."""

    def process_cleanup(self) -> None:
        """Called after each task in a worker's process."""

    def on_task_call(self, producer: Any, task_id: str) -> Any:
        """Called before a task is sent."""
        return {}

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Somebody will ask for this result."""
        return result

    def add_pending_results(self, results: Iterable[Any], weak: bool = False) -> None:
        """Somebody will ask for these results."""
        for result in results:
            self.add_pending_result(result, weak=weak)

    def remove_pending_result(self, result: Any) -> Any:
        """Nobody will ask for this result any more."""
        return result

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        keywords = {"url": self.url, "serializer": self.serializer, "expires": self.expires, **(kwargs or {})}
        return _rebuild, (type(self), args, {"app": self.app, **keywords})


def _rebuild(kind: type[Backend], args: tuple[Any, ...], keywords: dict[str, Any]) -> Backend:
    return kind(*args, **keywords)


def _ignored(request: Any) -> bool:
    return getattr(request, "ignore_result", None) is True


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


class SyncBackendMixin:
    """Waiting by looking again and again."""

    def wait_for_pending(
        self: Any,
        result: Any,
        timeout: float | None = None,
        interval: float = _POLL,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[Any, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Wait for a task's end, put it into the result, and return or raise it.

        Raises:
            TimeoutError: it didn't come in time.
        """
        self._ensure_not_eager()
        if on_message is not None:
            raise ImproperlyConfigured("Backend does not support on_message callback")
        meta = self.wait_for(result.id, timeout=timeout, interval=interval, on_interval=on_interval, no_ack=no_ack)
        if meta:
            result._maybe_set_cache(meta)
            return result.maybe_throw(propagate=propagate, callback=callback)
        return None

    def wait_for(
        self: Any,
        task_id: str,
        timeout: float | None = None,
        interval: float = _POLL,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        """A task's meta when it has ended.

        Raises:
            TimeoutError: it didn't end in time.
        """
        waited = 0.0
        while True:
            meta: dict[str, Any] = self.get_task_meta(task_id)
            if _is_ready(meta):
                return meta
            if on_interval is not None:
                on_interval()
            pause = interval if timeout is None else min(interval, timeout - waited)
            if pause <= 0:
                raise TimeoutError("The operation timed out.")
            time.sleep(pause)
            waited += pause

    def iter_native(
        self: Any,
        result: Any,
        timeout: float | None = None,
        interval: float = _POLL,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[Any]:
        """Pairs of id and meta of a set of results, in the order in which they end; of a group within, its results."""
        self._ensure_not_eager()
        ids = []
        for one in result.results:
            if isinstance(one, ResultSet):
                yield getattr(one, "id", None), one.results
            else:
                ids.append(one.id)
        if ids:
            yield from self.get_many(
                ids, timeout=timeout, interval=interval, no_ack=no_ack, on_message=on_message, on_interval=on_interval
            )

    @property
    def is_async(self) -> bool:
        """Whether results are told as they come."""
        return False


class ListeningBackendMixin(SyncBackendMixin):
    """Waiting by ``get_many``, to which results are told as they come."""

    def wait_for_pending(
        self: Any,
        result: Any,
        timeout: float | None = None,
        interval: float = _POLL,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[Any, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        self._ensure_not_eager()
        told = self.get_many(
            [result.id], timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval
        )
        for _, meta in told:
            result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    def wait_for(
        self: Any,
        task_id: str,
        timeout: float | None = None,
        interval: float = _POLL,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        [(_, meta)] = self.get_many([task_id], timeout=timeout, interval=interval, on_interval=on_interval)
        found: dict[str, Any] = meta
        return found


class BaseBackend(Backend, SyncBackendMixin):
    """A backend whose clients look again and again."""


BaseDictBackend = BaseBackend


class BaseKeyValueStoreBackend(Backend):
    """A backend that keeps documents under keys.

    A store has ``get``, ``mget``, ``set`` (or ``_set_with_state``) and ``delete``; one that also has ``incr`` and
    ``expire``, and says so by ``implements_incr``, counts chords.
    """

    key_t: Any = staticmethod(ensure_bytes)
    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        key_t = type(self).__dict__.get("key_t", self.key_t)
        self.key_t = getattr(key_t, "__func__", key_t)
        super().__init__(*args, **kwargs)
        self._add_global_keyprefix()
        self._encode_prefixes()
        if self.implements_incr:
            self.apply_chord = self._apply_chord_incr  # type: ignore[method-assign]

    def _add_global_keyprefix(self) -> None:
        options = self.app.conf.get("result_backend_transport_options") or {}
        prefix = options.get("global_keyprefix")
        if not prefix:
            return
        prefix = prefix if prefix[-1] in ":_-." else f"{prefix}_"
        self.task_keyprefix = f"{prefix}{self.task_keyprefix}"
        self.group_keyprefix = f"{prefix}{self.group_keyprefix}"
        self.chord_keyprefix = f"{prefix}{self.chord_keyprefix}"

    def _encode_prefixes(self) -> None:
        self.task_keyprefix = self.key_t(self.task_keyprefix)
        self.group_keyprefix = self.key_t(self.group_keyprefix)
        self.chord_keyprefix = self.key_t(self.chord_keyprefix)

    # the store

    def get(self, key: Any) -> Any:
        """What is under a key, or None."""
        raise NotImplementedError("Must implement the get method.")

    def mget(self, keys: Any) -> Any:
        """What is under several keys: a list, or a dict."""
        raise NotImplementedError("Does not support get_many")

    def set(self, key: Any, value: Any) -> Any:
        """Keep a value under a key."""
        raise NotImplementedError("Must implement the set method.")

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        return self.set(key, value)

    def delete(self, key: Any) -> Any:
        """Remove a key."""
        raise NotImplementedError("Must implement the delete method")

    def incr(self, key: Any) -> int:
        """Add one to the number under a key, and return it."""
        raise NotImplementedError("Does not implement incr")

    def expire(self, key: Any, value: Any) -> Any:
        """Keep a key for so many seconds from now."""
        raise NotImplementedError("Does not implement expire")

    # keys

    def get_key_for_task(self, task_id: Any, key: Any = "") -> Any:
        """The key of a task's document."""
        return self._key(self.task_keyprefix, task_id, key)

    def get_key_for_group(self, group_id: Any, key: Any = "") -> Any:
        """The key of a group's document."""
        return self._key(self.group_keyprefix, group_id, key)

    def get_key_for_chord(self, group_id: Any, key: Any = "") -> Any:
        """The key of a chord's count."""
        return self._key(self.chord_keyprefix, group_id, key)

    def _key(self, prefix: Any, id: Any, suffix: Any) -> Any:
        if not id:
            raise ValueError(f"an id must not be empty. Got {id} instead.")
        if isinstance(id, _uuid.UUID):
            id = str(id)
        return prefix[:0].join([prefix, self.key_t(id), self.key_t(suffix)])

    def _strip_prefix(self, key: Any) -> str:
        """The id in a key."""
        key = self.key_t(key)
        for prefix in (self.task_keyprefix, self.group_keyprefix):
            if key.startswith(prefix):
                return str(bytes_to_str(key[len(prefix) :]))
        return str(bytes_to_str(key))

    # documents

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        meta = self._get_result_meta(result, state, traceback, request)
        meta["task_id"] = bytes_to_str(task_id)
        # what has succeeded stays so, whatever a second run of it or a late revoke say
        if self._get_task_meta_for(task_id)["status"] == states.SUCCESS:
            return result
        self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        found = self.get(self.get_key_for_task(task_id))
        if not found:
            return {"status": states.PENDING, "result": None}
        return self.decode_result(found)  # type: ignore[no-any-return]

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def _save_group(self, group_id: str, result: Any) -> Any:
        payload = self.encode({"result": result.as_tuple()})
        self._set_with_state(self.get_key_for_group(group_id), payload, states.SUCCESS)
        return result

    def _restore_group(self, group_id: str) -> Any:
        found = self.get(self.get_key_for_group(group_id))
        if not found:
            return None
        meta = self.decode(found)
        meta["result"] = result_from_tuple(meta["result"], self.app)
        return meta

    def _delete_group(self, group_id: str) -> Any:
        self.delete(self.get_key_for_group(group_id))

    # many

    def _filter_ready(self, values: Any, READY_STATES: Any = states.READY_STATES) -> Iterator[tuple[Any, Any]]:
        for key, value in values:
            if value is None:
                continue
            meta = self.decode_result(value)
            if meta["status"] in READY_STATES:
                yield key, meta

    def _pairs(self, values: Any, keys: list[Any]) -> Iterator[tuple[Any, Any]]:
        if hasattr(values, "items"):
            return ((self._strip_prefix(key), value) for key, value in values.items())
        return ((bytes_to_str(key), value) for key, value in zip(keys, values, strict=False))

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float = _POLL,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Pairs of id and meta, in the order in which tasks end.

        Raises:
            TimeoutError: not all ended in time.
        """
        wanted: dict[str, Any] = {bytes_to_str(one): None for one in task_ids}
        for task_id in list(wanted):
            cached = self._cache.get(task_id)
            if cached is not None and cached["status"] in READY_STATES:
                del wanted[task_id]
                yield task_id, cached
        waited, rounds = 0.0, 0
        while wanted:
            keys = list(wanted)
            found = self.mget([self.get_key_for_task(one) for one in keys])
            for task_id, meta in self._filter_ready(self._pairs(found, keys), READY_STATES):
                self._cache[task_id] = meta
                del wanted[task_id]
                if on_message is not None:
                    on_message(meta)
                yield bytes_to_str(task_id), meta
            rounds += 1
            if not wanted or (max_iterations and rounds >= max_iterations):
                return
            pause = interval if timeout is None else min(interval, timeout - waited)
            if pause <= 0 and timeout is not None:
                raise TimeoutError(f"Operation timed out ({timeout})")
            if on_interval is not None:
                on_interval()
            time.sleep(pause)
            waited += pause

    # chords by counting

    def _apply_chord_incr(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        self.ensure_chords_allowed()
        self.app.GroupResult(*header_result_args).save(backend=self)

    def _expire_chord_key(self, key: Any) -> None:
        """Keep the count no longer than its setting says."""

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a member that has ended; the last one sends the body."""
        group_id = request.group if request else None
        if not self.implements_incr or not group_id:
            return
        key = self.get_key_for_chord(group_id)
        callback: Any = None
        try:
            callback = maybe_signature(request.chord, app=self.app)
            members = GroupResult.restore(group_id, backend=self)
        except Exception as error:
            callback = callback or maybe_signature(request.chord, app=self.app)
            logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(callback, ChordError(f"Cannot restore group: {error!r}"))
            return
        if members is None:
            gone = ChordError(f"GroupResult {group_id} no longer exists")
            logger.error("Chord %r: %s", group_id, gone)
            self.chord_error_from_stack(callback, gone)
            return
        size = _chord_size(callback) or len(members)
        count = self.incr(key)
        if count > size:
            logger.warning("Chord counter incremented too many times for %r", group_id)
        elif count == size:
            self._call_chord_body(group_id, key, members, callback)
        else:
            self._expire_chord_key(key)
            self._on_chord_counted(request, group_id, key)

    def _on_chord_counted(self, request: Any, group_id: str, key: Any) -> None:
        """A member was counted that was not the last one."""

    def _call_chord_body(self, group_id: str, key: Any, members: Any, callback: Any) -> None:
        try:
            self._join_and_send(group_id, members, callback)
        finally:
            members.delete()
            self.delete(key)

    def _join_and_send(self, group_id: str, members: Any, callback: Any) -> None:
        join = members.join_native if members.supports_native_join else members.join
        try:
            with allow_join_result():
                values = join(timeout=self.app.conf["result_chord_join_timeout"], propagate=True)
        except Exception as error:
            reason = failing.join_failure(members, error)
            logger.exception("Chord %r raised: %r", group_id, reason)
            self.chord_error_from_stack(callback, _create_chord_error_with_cause(reason, error))
            return
        try:
            callback.delay(values)
        except Exception as error:
            logger.exception("Chord %r raised: %r", group_id, error)
            reason = f"Callback error: {error!r}"
            self.chord_error_from_stack(callback, _create_chord_error_with_cause(reason, error))


def _chord_size(callback: Any) -> int | None:
    size = callback.get("chord_size") if isinstance(callback, dict) else None
    return size if isinstance(size, int) else None


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """A backend that keeps documents under keys, and whose clients look again and again."""


class DisabledBackend(BaseBackend):
    """No results are kept: asking for one is an error."""

    keeps_results = False
    _cache: Any = _nulldict()

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def ensure_chords_allowed(self) -> None:
        raise NotImplementedError(
            "Starting chords requires a result backend to be configured: result_backend is 'disabled'."
        )

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        self.ensure_chords_allowed()

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        return "disabled://"

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Nothing is kept that could be asked for.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("No result backend is configured: result_backend is 'disabled'.")

    get_state = get_status = get_result = get_traceback = get_children = _is_disabled
    get_task_meta_for = get_task_meta = wait_for = wait_for_pending = get_many = _is_disabled
    forget = exists = task_result_exists = _is_disabled
