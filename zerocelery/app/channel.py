"""A node as kombu sees it: what ``app.connection()`` gives where the broker is one.

The hot path never comes here: a task goes to its node without kombu. This is for code that asks for a connection, a
channel or a producer, to publish a task's message by itself, to look how many wait in a queue, or to see whether the
broker is there. A node hands tasks to workers by leases, so nobody consumes them here; and it keeps no exchanges, so
bindings are those that this process has declared, as with kombu's other virtual transports. What is no task and goes to
many (events, by a topic or fanout exchange) is a stream of the node.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata
from queue import Empty
from typing import Any

import msgspec
from kombu import transport as transports
from kombu.transport import virtual

from zerocelery import _state
from zerocelery._ids import uuid
from zerocelery.app import codec
from zerocelery.app.client import NodeClient, celery_errors
from zerocelery.app.defaults import DEFAULT_BROKER
from zerocelery.app.intake import task_from_message
from zerocelery.app.sending import policy
from zerocelery.app.taskevents import unpack
from zerocelery.engine.errors import EngineError
from zerocelery.engine.station import Station

__all__ = ("Channel", "Transport", "register")

#: How long the node may take until what is cast is heard here (seconds).
_LISTENS_WITHIN = 5.0

# kombu has no types
_Channel: Any = virtual.Channel
_Transport: Any = virtual.Transport
_Message: Any = virtual.Message

_read_json = msgspec.json.Decoder().decode


def register() -> None:
    """Let kombu know what ``zmq://`` is."""
    transports.TRANSPORT_ALIASES.setdefault("zmq", f"{__name__}:Transport")


class Heard(_Message):  # type: ignore[misc]
    """A message of a stream."""

    def _decode(self) -> Any:
        accepted = self.accept is None or self.content_type in self.accept
        # kombu's reader of JSON calls a function for each object in it; only what has types of its own needs that.
        if accepted and self.content_type == codec.JSON and b"__type__" not in self.body:
            try:
                return _read_json(self.body)
            except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
                pass  # NaN, and other things that Python's JSON lets pass
        return super()._decode()


class Channel(_Channel):  # type: ignore[misc]
    """Publishes tasks; declares, counts and empties queues."""

    do_restore = False
    supports_fanout = False

    @property
    def client(self) -> NodeClient:
        """The connection to the node."""
        return self.connection.node  # type: ignore[no-any-return]

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        parsed = self.message_to_python(message)
        headers = parsed.headers or {}
        if "id" not in headers or "task" not in headers:
            raise ValueError(
                f"a message for the queue {queue!r} of a node has to be a task, with the headers 'id' and 'task': "
                "send_task() makes one"
            )
        known = _state.get_current_app()._tasks.get(headers["task"])
        flags = 0 if known is None else policy(known)
        self.client.submit(task_from_message(parsed, queue=queue, flags=flags, keep=None))

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        raise Empty

    # ── streams: what is published to a topic or fanout exchange and is no task goes to whoever listens ──────────────

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bound: dict[str, tuple[str, str]] = {}  # queue → exchange that is a stream, and routing key
        #: consumer tag → stream, whether a routing key is wanted, and the consumer's callback
        self.listeners: dict[str, tuple[str, Callable[[str], object], Callable[[Any], object]]] = {}

    def _is_stream(self, exchange: str) -> bool:
        return self.state.exchanges.get(exchange, {}).get("type") in ("topic", "fanout")

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish a task into its queue, and anything else that goes to many to whoever listens."""
        headers = message.get("headers") or {}
        if not self._is_stream(exchange) or ("task" in headers and "id" in headers):
            return super().basic_publish(message, exchange, routing_key, **kwargs)
        body = message["body"]
        body = body.encode() if isinstance(body, str) else bytes(body)
        told = (routing_key, message.get("content-type") or "", message.get("content-encoding") or "", body)
        with celery_errors():
            return self.client.producer.cast(exchange, [msgspec.msgpack.encode(told)])

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Any = None, **kwargs: Any
    ) -> Any:
        """Remember which exchange a queue is bound to."""
        if exchange and self._is_stream(exchange):
            self._bound[queue] = (exchange, routing_key)
        return super().queue_bind(queue, exchange, routing_key, arguments, **kwargs)

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: Any, **kwargs: Any) -> Any:
        """Hear what is published to the topic or fanout exchange that a queue is bound to.

        Raises:
            NotImplementedError: it is a queue of tasks.
        """
        if queue not in self._bound:
            raise NotImplementedError(
                f"nobody consumes from the queue {queue!r} of a node but a worker: start one with -Q {queue}"
            )
        exchange, routing_key = self._bound[queue]
        fanout = self.state.exchanges[exchange]["type"] == "fanout"
        pattern = re.compile(".*" if fanout else _pattern_of(routing_key))
        with celery_errors():
            self.connection.listener.listen(exchange, timeout=_LISTENS_WITHIN)
        self.listeners[consumer_tag] = (exchange, pattern.fullmatch, callback)
        return consumer_tag

    def basic_cancel(self, consumer_tag: Any) -> Any:
        """Hear no more."""
        self.listeners.pop(consumer_tag, None)
        return super().basic_cancel(consumer_tag)

    def hear(self, exchange: str, data: bytes) -> None:
        """Pass a message of a stream to those that want it."""
        routing_key, content_type, encoding, body = unpack(data)
        for stream, wants, callback in list(self.listeners.values()):
            if stream != exchange or not wants(routing_key):
                continue
            delivery = {"exchange": exchange, "routing_key": routing_key}
            callback(
                Heard(
                    {
                        "body": body,
                        "content-type": content_type,
                        "content-encoding": encoding,
                        "headers": {},
                        "properties": {"delivery_tag": uuid(), "delivery_info": delivery},
                    },
                    channel=self,
                )
            )

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return True  # a node makes a queue when the first task comes

    def _size(self, queue: str) -> int:
        found = self._queues().get(queue)
        return 0 if found is None else int(found.get("waiting", 0))

    def _queues(self) -> dict[str, Any]:
        with celery_errors():
            return msgspec.msgpack.decode(self.client.producer.query("status"))["queues"]  # type: ignore[no-any-return]

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        """A queue with nothing in it costs nothing."""


def _pattern_of(routing_key: str) -> str:
    """A topic's routing key as a regular expression: ``*`` is one word, ``#`` any number of them."""
    words = [{"*": "[^.]+", "#": ".*"}.get(word, re.escape(word)) for word in routing_key.split(".")]
    return r"\.".join(words).replace(r"\..*", r"(?:\..*)?")


class Transport(_Transport):  # type: ignore[misc]
    """kombu's transport for ``zmq://``."""

    Channel = Channel
    can_parse_url = True
    driver_type = "zmq"
    driver_name = "pyzmq"
    connection_errors = (*_Transport.connection_errors, EngineError)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self._own: NodeClient | None = None
        self._listener: NodeClient | None = None

    @property
    def listener(self) -> Station:
        """What hears streams: one for each connection, so that each hears all."""
        if self._listener is None:
            self._listener = NodeClient(str(self.client.hostname or DEFAULT_BROKER))
        return self._listener.producer

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for something on the streams that are listened to.

        Raises:
            TimeoutError: nothing came in that many seconds.
        """
        streams = {stream for channel in self.channels for stream, _, _ in channel.listeners.values()}
        if not streams:
            super().drain_events(connection, timeout)
            return
        with celery_errors():
            stream, bodies = self.listener.hear_any(streams, timeout)
        if not bodies:
            raise TimeoutError("timed out")
        for body in bodies:
            for channel in list(self.channels):
                channel.hear(stream, body)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Where a connection goes that says nothing else."""
        return {"hostname": DEFAULT_BROKER}

    @property
    def node(self) -> NodeClient:
        """The app's connection to the node where that is the same, or else one of our own."""
        url = str(self.client.hostname or DEFAULT_BROKER)
        app = _state.get_current_app()
        if app.has_node and app.client.url == url:
            return app.client
        if self._own is None:
            self._own = NodeClient(url, connect_timeout=float(self.client.connect_timeout or 4.0))
        return self._own

    def establish_connection(self) -> Any:
        """Connected when the node has answered."""
        self.node.producer.query("status")
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        for own in (self._own, self._listener):
            if own is not None:
                own.close()
        self._own = self._listener = None

    def driver_version(self) -> str:
        return metadata.version("pyzmq")
