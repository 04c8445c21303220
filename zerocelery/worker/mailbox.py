"""Commands and events of a worker whose broker is kombu's: its pool lives on a private node, others are at the broker.

Both are the business of the thread that consumes from the broker: commands come there as tasks do, and what the pool
says on its node's stream of events is published from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zerocelery.app import delays
from zerocelery.app.taskevents import unpack
from zerocelery.engine.errors import EngineError
from zerocelery.engine.station import Station
from zerocelery.events.event import get_exchange
from zerocelery.utils.log import get_logger
from zerocelery.worker.control import Panel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.worker.desk import Desk

__all__ = ("Mailbox",)

logger = get_logger("celery.worker.control")

#: How long the private node may take until what the pool casts is heard here (seconds).
_LISTENS_WITHIN = 5.0


class _Commands(Mapping[str, Callable[..., Any]]):
    """The panel's commands, carried out by the process that runs the pool, between other things.

    Arguments:
        desk: what carries them out.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __getitem__(self, name: str) -> Callable[..., Any]:
        Panel.data[name]  # the KeyError of an unknown one is kombu's to answer
        return lambda state, **arguments: self._desk.carry_out(name, arguments)

    def __iter__(self) -> Iterator[str]:
        return iter(Panel.data)

    def __len__(self) -> int:
        return len(Panel.data)


class Mailbox:
    """One connection's consumer of commands, and publisher of events.

    Arguments:
        connection: to the broker.
        address: of the private node.
        tasks: kombu's consumer of tasks.
    """

    def __init__(self, app: Celery, desk: Desk, connection: Any, address: str, tasks: Any) -> None:
        self.app = app
        self.desk = desk
        self._connection = connection
        desk.task_consumer = tasks
        self._consumer: Any = None
        if not desk.answers:
            logger.info("remote control is switched off (worker_enable_remote_control)")
        elif connection.supports_exchange_type("fanout"):
            node = app.control.mailbox.Node(
                desk.hostname, channel=connection.channel(), state=desk.state, handlers=_Commands(desk)
            )
            self._consumer = node.listen(callback=lambda body, message: self._received(node, body, message))
        else:
            logger.warning("%s can't tell something to everybody: no remote control", connection.as_uri())
        exchange: Any = get_exchange(connection, name=app.conf["event_exchange"])
        self._stream = str(exchange.name)
        self._exchange = exchange
        self._producer: Any = app.amqp.Producer(connection.channel(), exchange=exchange, auto_declare=False)
        self._station = Station(address)
        self._station.listen(self._stream, timeout=_LISTENS_WITHIN)

    @staticmethod
    def _received(node: Any, body: Any, message: Any) -> None:
        try:
            node.handle_message(body, message)
        except Exception as error:  # a stranger's message must not end the worker
            logger.error("a command was not answered: %r", error, exc_info=True)

    def change_queues(self) -> None:
        """Take up and leave the queues that commands have named."""
        tasks, later = self.desk.task_consumer, self.desk.consume_later
        while later:
            name, wanted = later.popleft()
            if not wanted:
                tasks.cancel_by_queue(name)
            elif not tasks.consuming_from(name):
                queue = self.app.amqp.queues[name]
                tasks.add_queue(queue)
                tasks.consume()
                if self.app.conf["worker_detect_quorum_queues"] and delays.natively(self.app, self._connection):
                    delays.tie(self._connection, queue)

    def publish_events(self) -> None:
        """Publish what the pool has said since the last time."""
        try:
            heard = self._station.hear(self._stream, 0)
        except EngineError as error:
            logger.debug("the pool's events can't be heard: %s", error)
            return
        for data in heard:
            routing_key, content_type, encoding, body = unpack(data)
            self._producer.publish(
                body.decode() if encoding.lower() == "utf-8" else body, routing_key=routing_key,
                exchange=self._stream, content_type=content_type, content_encoding=encoding,
                declare=[self._exchange], delivery_mode=1, headers={"hostname": self.desk.hostname},
            )  # fmt: skip

    def close(self) -> None:
        """Hear and say no more."""
        self.desk.task_consumer = None
        self._station.close(timeout=0.0)
        if self._consumer is not None:
            try:
                self._consumer.cancel()
            except (OSError, *self.app.connection_for_read().connection_errors):
                logger.debug("the broker went away before the commands' consumer was cancelled")
