"""Delays that RabbitMQ keeps by itself: with quorum queues, a task with an ETA waits in the broker.

A consumer of a quorum queue can't raise how many messages it takes, so tasks that wait in a worker would keep others
out. kombu's *native delayed delivery* is a tree of exchanges and queues, one level for each bit of the delay; a message
goes in with the delay in its routing key, and comes out into its own queue when its time has come. Who sends has to
address it, and who consumes has to tie its queues to the tree's end: both are done here, as Celery does them.
"""

from __future__ import annotations

from typing import Any

from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

logger = get_logger("celery.app.base")

_DIRECT = (
    "Direct exchanges are not supported with native delayed delivery.\n"
    "%s is a direct exchange but should be a topic exchange or "
    "a fanout exchange in order for native delayed delivery to work properly.\n"
    "If quorum queues are used, this task may block the worker process until the ETA arrives."
)


def natively(app: Celery, connection: Any = None) -> bool:
    """Whether delays of the app's tasks are the affair of the broker: of this connection's, or of the producers'."""
    from zerocelery.app import base  # by its place: people replace the function there

    connection = connection or app.producer_pool.connections.connection
    return bool(base.detect_quorum_queues(app, connection.transport.driver_type)[0])


def readdressed(publishing: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The publisher's options of a message that is to wait for so many seconds on its way."""
    queue = publishing.get("queue")
    exchange = getattr(queue, "exchange", None)
    kind = getattr(exchange, "type", None) or publishing.get("exchange_type") or "direct"
    if seconds <= 0:
        return publishing
    if kind == "direct":
        logger.warning(_DIRECT, getattr(exchange, "name", None) or publishing.get("exchange") or queue)
        return publishing
    from kombu import entity
    from kombu.transport import native_delayed_delivery as native

    make: Any = entity.Exchange
    key = publishing.get("routing_key") or getattr(queue, "routing_key", None) or ""
    return {
        **{name: value for name, value in publishing.items() if name != "queue"},
        "exchange": make(native.level_name(native.MAX_LEVEL), type="topic"),
        "routing_key": native.calculate_routing_key(int(seconds), key),
    }


def prepare(app: Celery, connection: Any) -> None:
    """Make the tree in the broker, and tie the queues that are consumed to its end.

    Raises:
        ImproperlyConfigured: the setting names a kind of queue that there is not.
    """
    from kombu.transport import native_delayed_delivery as native

    kind = app.conf["broker_native_delayed_delivery_queue_type"]
    if kind not in ("classic", "quorum"):
        raise ImproperlyConfigured(
            f"broker_native_delayed_delivery_queue_type can't be {kind!r}: it is 'quorum', or else 'classic'"
        )
    try:
        native.declare_native_delayed_delivery_exchanges_and_queues(connection, kind)
    except connection.channel_errors as error:
        logger.error("the broker's queues for delays can't be made, and tasks with an ETA won't arrive: %s", error)
        return
    for queue in app.amqp.queues.consume_from.values():
        tie(connection, queue)


def tie(connection: Any, queue: Any) -> None:
    """Let what has waited for a queue come into it."""
    from kombu.transport import native_delayed_delivery as native

    try:
        native.bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    except connection.channel_errors as error:
        logger.error("tasks with an ETA won't arrive in the queue %s: %s", queue.name, error)
