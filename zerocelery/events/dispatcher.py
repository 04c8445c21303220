"""Sends events."""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

from kombu.messaging import Producer

from zerocelery._state import app_or_default
from zerocelery.events.event import Event, get_exchange, group_from
from zerocelery.utils.nodenames import anon_nodename
from zerocelery.utils.time import utcoffset

__all__ = ("EventDispatcher",)


class EventDispatcher:
    """Sends events over a connection.

    Arguments:
        connection: a kombu connection.
        hostname: who sends them.
        enabled: whether to send from the start.
        channel: a channel to use, which stays open.
        buffer_while_offline: keep what can't be sent, until :meth:`flush`; otherwise the error is raised.
        serializer: as what they travel.
        groups: send events of these groups only.
        delivery_mode: 1: those on the way are lost with the broker; 2: it keeps them.
        buffer_group: groups whose events are collected and sent together.
        buffer_limit: how many of them at most.
        on_send_buffered: called when an event was collected.
    """

    #: Transports that can't carry events.
    DISABLED_TRANSPORTS = frozenset({"sql"})

    app: Any = None

    #: Called after :meth:`enable`, and after :meth:`disable`.
    on_enabled: set[Callable[[], object]]
    on_disabled: set[Callable[[], object]]

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Any = None,
        serializer: str | None = None,
        groups: Iterable[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Iterable[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], object] | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        if connection is None and channel is not None:
            connection = channel.connection.client
        self.connection = connection
        self.channel = channel
        self.hostname = hostname or anon_nodename()
        self.pid = os.getpid()
        self.clock = self.app.clock
        self.headers = {"hostname": self.hostname}
        self.serializer = serializer or self.app.conf.event_serializer
        self.groups = set(groups or ())
        self.delivery_mode = delivery_mode
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.on_enabled = set()
        self.on_disabled = set()
        #: Held while something is published, so that nothing is once close() has returned.
        self.mutex = threading.RLock()
        self.producer: Any = None
        #: (event or list of events, routing key), which couldn't be sent.
        self._outbound_buffer: deque[tuple[Any, str]] = deque()
        self._group_buffer: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._closed = False
        described = self.connection or self.app.connection_for_write()
        self.exchange = get_exchange(described, name=self.app.conf.event_exchange)
        self.enabled = bool(enabled) and described.transport.driver_type not in self.DISABLED_TRANSPORTS
        if self.enabled:
            self.enable()

    def __enter__(self) -> EventDispatcher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def enable(self) -> None:
        """Send from now on."""
        with self.mutex:
            self.producer = Producer(
                self.channel or self.connection, exchange=self.exchange, serializer=self.serializer, auto_declare=False
            )  # type: ignore[no-untyped-call]
            self.enabled = True
            self._closed = False
        for callback in self.on_enabled:
            callback()

    def disable(self) -> None:
        """Send no more."""
        if self.enabled:
            self.enabled = False
            self.close()
            for callback in self.on_disabled:
                callback()

    def close(self) -> None:
        """Let go of the producer, as soon as nothing is being sent; what is kept stays until it is enabled again."""
        with self.mutex:
            self._closed = True
            self.producer = None

    def send(
        self,
        type: str,
        blind: bool = False,
        utcoffset: Callable[[], float] = utcoffset,
        retry: bool = False,
        retry_policy: Any = None,
        Event: Callable[..., dict[str, Any]] = Event,
        **fields: Any,
    ) -> None:
        """Send an event, or collect it.

        Arguments:
            type: as in ``task-started``.
            blind: whether the clock doesn't go on.
        """
        if not self.enabled or self.producer is None:
            return
        group = group_from(type)
        if self.groups and group not in self.groups:
            return
        if group in self.buffer_group:
            self._collect(group, self._make(type, fields, blind=False, utcoffset=utcoffset, Event=Event))
            return
        event = self._make(type, fields, blind=blind, utcoffset=utcoffset, Event=Event)
        with self.mutex:
            if not self._closed:
                self._publish(event, self.producer, _routing_key(type), retry, retry_policy)

    def publish(
        self,
        type: str,
        fields: dict[str, Any],
        producer: Any,
        blind: bool = False,
        Event: Callable[..., dict[str, Any]] = Event,
        **kwargs: Any,
    ) -> None:
        """Send an event with another producer, whether or not the dispatcher is enabled.

        Arguments:
            kwargs: retry, retry_policy.
        """
        event = self._make(type, fields, blind=blind, utcoffset=kwargs.pop("utcoffset", utcoffset), Event=Event)
        with self.mutex:
            self._publish(event, producer, _routing_key(type), **kwargs)

    def _make(
        self,
        type: str,
        fields: dict[str, Any],
        *,
        blind: bool,
        utcoffset: Callable[[], float],
        Event: Callable[..., dict[str, Any]],
    ) -> dict[str, Any]:
        clock = None if blind else self.clock.forward()
        return Event(type, hostname=self.hostname, utcoffset=utcoffset(), pid=self.pid, clock=clock, **fields)

    def _collect(self, group: str, event: dict[str, Any]) -> None:
        with self.mutex:
            collected = self._group_buffer[group]
            collected.append(event)
            if len(collected) >= self.buffer_limit:
                self.flush()
            elif self.on_send_buffered is not None:
                self.on_send_buffered()

    def _publish(
        self, event: Any, producer: Any, routing_key: str, retry: bool = False, retry_policy: Any = None
    ) -> None:
        try:
            producer.publish(
                event,
                routing_key=routing_key,
                exchange=self.exchange.name,
                retry=retry,
                retry_policy=retry_policy,
                declare=[self.exchange],
                serializer=self.serializer,
                headers=self.headers,
                delivery_mode=self.delivery_mode,
            )
        except Exception:
            # whatever a transport raises when its broker is away
            if not self.buffer_while_offline:
                raise
            self._outbound_buffer.append((event, routing_key))

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what was kept.

        Arguments:
            errors: what couldn't be sent.
            groups: what was collected.
        """
        with self.mutex:
            if self._closed:
                return
            if errors:
                self._flush_errors()
            if groups:
                self._flush_groups()

    def _flush_errors(self) -> None:
        # those that fail again stand behind
        for _ in range(len(self._outbound_buffer)):
            event, routing_key = self._outbound_buffer[0]
            self._publish(event, self.producer, routing_key)
            self._outbound_buffer.popleft()

    def _flush_groups(self) -> None:
        for group, collected in self._group_buffer.items():
            if collected:
                batch = list(collected)
                self._publish(batch, self.producer, f"{group}.multi")
                del collected[: len(batch)]

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another dispatcher couldn't send."""
        self._outbound_buffer.extend(other._outbound_buffer)

    @property
    def publisher(self) -> Any:
        """The producer, by its old name."""
        return self.producer

    @publisher.setter
    def publisher(self, producer: Any) -> None:
        self.producer = producer


def _routing_key(type: str) -> str:
    return type.replace("-", ".")
