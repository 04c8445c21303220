"""Takes events in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from kombu.connection import maybe_channel
from kombu.entity import Queue
from kombu.mixins import ConsumerMixin

from zerocelery._ids import uuid
from zerocelery._state import app_or_default
from zerocelery.events.event import get_exchange
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.utils.time import adjust_timestamp, utcoffset

__all__ = ("EventReceiver",)

if TYPE_CHECKING:
    Base: Any = object
else:
    Base = ConsumerMixin

#: A client's clock stands still, so its events are said to be just before ours.
CLIENT_CLOCK_SKEW = -1

_TZ_FIELDS = itemgetter("utcoffset", "timestamp")


class EventReceiver(Base):  # type: ignore[misc]
    """Calls handlers with the events that come over a connection.

    Arguments:
        channel: a kombu connection, or a channel of one.
        handlers: event type to function; that of ``*`` takes the others.
        routing_key: which events, as in ``task.#``.
        node_id: what the queue is called after its prefix.
        accept: content types that are read.
        queue_prefix, queue_ttl, queue_expires, queue_exclusive, queue_durable: instead of the settings
            ``event_queue_…``.

    Raises:
        ImproperlyConfigured: a queue can't be both exclusive and durable.
    """

    app: Any = None

    def __init__(
        self,
        channel: Any,
        handlers: dict[str, Callable[[dict[str, Any]], object]] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Any = None,
        queue_prefix: str | None = None,
        accept: Iterable[str] | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        conf = self.app.conf
        self.channel: Any = maybe_channel(channel)
        self.handlers = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or uuid()
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        self.exchange = get_exchange(self.connection or self.app.connection_for_write(), name=conf.event_exchange)
        exclusive = conf.event_queue_exclusive if queue_exclusive is None else queue_exclusive
        durable = conf.event_queue_durable if queue_durable is None else queue_durable
        if exclusive and durable:
            raise ImproperlyConfigured(
                "a queue for events can't be both exclusive and durable: "
                "turn off event_queue_exclusive or event_queue_durable"
            )
        self.queue: Any = Queue(
            f"{self.queue_prefix}.{self.node_id}",
            exchange=self.exchange,
            routing_key=self.routing_key,
            auto_delete=not durable,
            durable=durable,
            exclusive=exclusive,
            message_ttl=conf.event_queue_ttl if queue_ttl is None else queue_ttl,
            expires=conf.event_queue_expires if queue_expires is None else queue_expires,
        )  # type: ignore[no-untyped-call]
        self.clock = self.app.clock
        self.adjust_clock = self.clock.adjust
        self.forward_clock = self.clock.forward
        self.accept = {conf.event_serializer, "json"} if accept is None else accept

    @property
    def connection(self) -> Any:
        """The connection that events come over."""
        return self.channel.connection.client if self.channel else None

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Call the event's handler, if it has one."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        """For kombu: what to consume."""
        return [Consumer(queues=[self.queue], callbacks=[self._receive], no_ack=True, accept=self.accept)]

    def on_consume_ready(
        self, connection: Any, channel: Any, consumers: Any, wakeup: bool = True, **kwargs: Any
    ) -> None:
        """For kombu: workers are asked to say that they are there."""
        if wakeup:
            self.wakeup_workers(channel=channel)

    def itercapture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> Iterator[Any]:
        """Take in events; yields after each message.

        Raises:
            TimeoutError: nothing came in that many seconds.
        """
        found: Iterator[Any] = self.consume(limit=limit, timeout=timeout, wakeup=wakeup)
        return found

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Take in events, until there were so many, or else until ``should_stop`` is set."""
        for _ in self.consume(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask all workers for a heartbeat."""
        self.app.control.broadcast("heartbeat", connection=self.connection, channel=channel)

    def event_from_message(
        self,
        body: dict[str, Any],
        localize: bool = True,
        now: Callable[[], float] = time.time,
        tzfields: Callable[[dict[str, Any]], tuple[float, float]] = _TZ_FIELDS,
        adjust_timestamp: Callable[[float, float], float] = adjust_timestamp,
        CLIENT_CLOCK_SKEW: int = CLIENT_CLOCK_SKEW,
    ) -> tuple[str, dict[str, Any]]:
        """Type and event of a message: with a clock, the time when it came, and its own in this machine's zone."""
        type = body["type"]
        if type == "task-sent":
            body["clock"] = (self.clock.value or 1) + CLIENT_CLOCK_SKEW
            self.adjust_clock(body["clock"])
        elif "clock" in body:
            self.adjust_clock(body["clock"])
        else:
            body["clock"] = self.forward_clock()
        if localize and "utcoffset" in body and "timestamp" in body:
            offset, timestamp = tzfields(body)
            body["timestamp"] = adjust_timestamp(timestamp, offset)
        body["local_received"] = now()
        return type, body

    def _receive(self, body: Any, message: Any) -> None:
        if not isinstance(body, list):
            self.process(*self.event_from_message(body))
        elif getattr(self.event_from_message, "__func__", None) is EventReceiver.event_from_message:
            self._receive_many(body)
        else:  # somebody's own
            for event in body:
                self.process(*self.event_from_message(event))

    def _receive_many(self, events: list[dict[str, Any]]) -> None:
        """As :meth:`event_from_message`, with what is the same for all events of a message done once."""
        process, now, here = self.process, time.time(), utcoffset()
        latest = max((event.get("clock", 0) for event in events if event["type"] != "task-sent"), default=0)
        if latest:
            self.adjust_clock(latest)
        for event in events:
            type = event["type"]
            if type == "task-sent" or "clock" not in event or "utcoffset" not in event or "timestamp" not in event:
                process(*self.event_from_message(event))
                continue
            event["timestamp"] -= (event["utcoffset"] - here) * 3600
            event["local_received"] = now
            process(type, event)
