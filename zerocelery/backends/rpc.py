"""Results as messages to who asked, over the broker."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from kombu import common, entity, messaging

from zerocelery import states
from zerocelery._state import get_current_task
from zerocelery.backends.base import Backend, ListeningBackendMixin
from zerocelery.exceptions import TimeoutError as WaitTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("BacklogLimitExceeded", "RPCBackend")

# kombu has no types
maybe_declare: Any = common.maybe_declare

E_NO_CHORD_SUPPORT = (
    'The "rpc" result backend does not support chords: a chord has to wait for results of tasks that others sent. '
    "Take a backend that keeps results, such as redis://"
)


class BacklogLimitExceeded(Exception):
    """Too many messages to look through for one task's state."""


class _NoExchange(entity.Exchange):
    """The exchange that is there without being declared."""

    can_cache_declaration = True


class RPCBackend(Backend, ListeningBackendMixin):
    """One reply queue for each process; whoever waits there hands out what arrives for others."""

    persistent = False
    supports_autoexpire = True
    supports_native_join = True

    retry_policy: ClassVar[dict[str, Any]] = {
        "max_retries": 20,
        "interval_start": 0,
        "interval_step": 1,
        "interval_max": 1,
    }

    BacklogLimitExceeded = BacklogLimitExceeded
    Exchange: Any = _NoExchange
    Consumer: Any = messaging.Consumer
    Producer: Any = messaging.Producer
    Queue: Any = entity.Queue

    def __init__(
        self,
        app: Any,
        connection: Any = None,
        exchange: str | None = None,
        exchange_type: str | None = None,
        persistent: bool | None = None,
        serializer: str | None = None,
        auto_delete: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, serializer=serializer, **kwargs)
        conf = app.conf
        self._connection = connection
        self.persistent = self.prepare_persistent(persistent)
        self.delivery_mode = 2 if self.persistent else 1
        name = exchange or conf["result_exchange"]
        self.exchange = self._create_exchange(name, exchange_type or conf["result_exchange_type"], self.delivery_mode)
        self.auto_delete = auto_delete
        #: metas that have come, and when, the oldest first
        self._heard: dict[str, dict[str, Any]] = {}
        self._came: dict[str, float] = {}
        self._lock = threading.RLock()
        self._own: tuple[tuple[str, int], Any, Any] | None = None
        self._inherited: Any = None

    def _create_exchange(self, name: str, type: str = "direct", delivery_mode: int = 2) -> Any:
        # the default exchange leads to every queue by its name
        return self.Exchange("")

    def _create_binding(self, task_id: str) -> Any:
        return self.binding

    @property
    def binding(self) -> Any:
        """This process's reply queue."""
        return self.Queue(
            self.oid, self.exchange, self.oid, durable=True, auto_delete=self.auto_delete, expires=self.expires or None
        )

    @property
    def oid(self) -> str:
        """The name of the reply queue."""
        return str(self.app.thread_oid)

    def ensure_chords_allowed(self) -> None:
        raise NotImplementedError(E_NO_CHORD_SUPPORT.strip())

    def reload_task_result(self, task_id: str) -> None:
        raise NotImplementedError("reload_task_result is not supported by this backend.")

    def reload_group_result(self, task_id: str) -> None:
        raise NotImplementedError("reload_group_result is not supported by this backend.")

    def save_group(self, group_id: str, result: Any) -> Any:
        raise NotImplementedError("save_group is not supported by this backend.")

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        raise NotImplementedError("restore_group is not supported by this backend.")

    def delete_group(self, group_id: str) -> Any:
        raise NotImplementedError("delete_group is not supported by this backend.")

    # ── the worker's side ────────────────────────────────────────────────────────────────────────────────────────────

    def destination_for(self, task_id: str, request: Any) -> tuple[Any, Any]:
        """Routing key and correlation id of a task's results."""
        if request is None:
            task = get_current_task()
            if task is None:
                raise RuntimeError(f"RPC backend missing task request for {task_id!r}")
            request = task.request
        return request.reply_to, request.correlation_id or task_id

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Send a state to who asked; when nobody said where, nothing."""
        routing_key, correlation_id = self.destination_for(task_id, request)
        if not routing_key:
            return None
        with self.app.amqp.producer_pool.acquire(block=True) as producer:
            producer.publish(
                self._to_result(task_id, state, result, traceback, request),
                exchange=self.exchange,
                routing_key=routing_key,
                correlation_id=correlation_id,
                serializer=self.serializer,
                retry=True,
                retry_policy=self.retry_policy,
                declare=self.on_reply_declare(task_id),
                delivery_mode=self.delivery_mode,
            )
        return result

    def on_reply_declare(self, task_id: str) -> Any:
        """What to declare before a reply: nothing, the queue is the client's."""
        return None

    def _to_result(self, task_id: str, state: str, result: Any, traceback: Any, request: Any) -> dict[str, Any]:
        meta = self._get_result_meta(self.encode_result(result, state), state, traceback, request)
        meta["task_id"] = task_id
        return meta

    # ── the client's side ────────────────────────────────────────────────────────────────────────────────────────────

    def on_task_call(self, producer: Any, task_id: str) -> Any:
        if not get_current_task():
            maybe_declare(self.binding(producer.channel), retry=True)

    def on_result_fulfilled(self, result: Any) -> None:
        """Nothing is kept for a result that has come."""

    def _channel(self) -> tuple[Any, Any]:
        own, who = self._own, (self.oid, os.getpid())
        if own is None or own[0] != who:
            if own is not None and own[0][1] != who[1]:
                # kept, for a connection that is collected is closed, and this one is the parent's
                self._inherited, self._own = own, None
                self._after_fork()
            self.close()
            connection = self._connection or self.app.connection()
            consumer = self.Consumer(
                connection.default_channel,
                [self.binding],
                callbacks=[lambda body, message: self._take(message)],
                no_ack=True,
                accept=self.accept,
            )
            consumer.consume()
            own = self._own = who, connection, consumer
        return own[1], own[2]

    def close(self) -> None:
        """Let go of the connection; it is made anew when it is needed."""
        with self._lock:
            own, self._own = self._own, None
            if own is not None and own[0][1] == os.getpid() and own[1] is not self._connection:
                own[1].close()

    def _after_fork(self) -> None:
        self._heard.clear()
        self._came.clear()
        self._cache.clear()

    def _take(self, message: Any) -> None:
        meta = self.meta_from_decoded(message.decode())
        known = self._heard.get(meta["task_id"])
        if known is None or known["status"] not in states.READY_STATES:
            self._heard[meta["task_id"]] = meta
            self._came.pop(meta["task_id"], None)
            self._came[meta["task_id"]] = time.monotonic()
        self._drop_expired()

    def _drop_expired(self) -> None:
        """Results that nobody has asked for are kept as long as those of other backends."""
        oldest = time.monotonic() - self.expires if self.expires else 0
        while self._came:
            task_id, came = next(iter(self._came.items()))
            if came > oldest:
                return
            del self._came[task_id]
            self._heard.pop(task_id, None)

    def _drain(self, timeout: float) -> None:
        connection, _ = self._channel()
        try:
            connection.drain_events(timeout=timeout)
        except TimeoutError:
            return
        except connection.connection_errors + connection.channel_errors:
            self._own = None
            connection.close()

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        with self._lock:
            self._drain(0.001)
        return self._heard.get(task_id) or {"status": states.PENDING, "result": None}

    get_task_meta_for = _get_task_meta_for
    poll = _get_task_meta_for

    def _forget(self, task_id: str) -> None:
        self._heard.pop(task_id, None)
        self._came.pop(task_id, None)

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Pairs of id and meta, in the order in which tasks end.

        Arguments:
            on_message: called with every state that is told, also with those on the way.

        Raises:
            TimeoutError: not all ended in time.
        """
        waiting: dict[str, Any] = dict.fromkeys(task_ids)  # with what was told of them last
        deadline = None if timeout is None else time.monotonic() + timeout
        while waiting:
            for task_id, told in list(waiting.items()):
                meta = self._heard.get(task_id)
                if meta is None or meta is told:
                    continue
                waiting[task_id] = meta
                if on_message is not None:
                    on_message(meta)
                if meta["status"] in states.READY_STATES:
                    del waiting[task_id]
                    yield task_id, meta
            if not waiting:
                return
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            if left <= 0:
                raise WaitTimeout("The operation timed out.")
            if on_interval is not None:
                on_interval()
            with self._lock:
                # what another thread has taken meanwhile is looked at first
                if all(self._heard.get(task_id) is told for task_id, told in waiting.items()):
                    self._drain(left)

    def as_uri(self, include_password: bool = True) -> str:
        return "rpc://"

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {"auto_delete": self.auto_delete, "persistent": self.persistent})
