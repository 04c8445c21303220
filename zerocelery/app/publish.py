"""Sending a task through kombu: the message that Celery itself would have sent, byte for byte where it matters."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from zerocelery.app.amqp import task_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.app.message import TaskMessage

#: Options of a call that the publisher itself takes.
_PUBLISHING = (
    "retry",
    "retry_policy",
    "exchange_type",
    "timeout",
    "confirm_timeout",
    "declare",
    "mandatory",
    "expiration",
)


def publish(app: Celery, message: TaskMessage, options: dict[str, Any]) -> None:
    """Send a message to the broker.

    Raises:
        kombu.exceptions.OperationalError: the broker can't be reached.
    """
    amqp = app.amqp
    made = _of_protocol_1(amqp, message) if app.conf["task_protocol"] == 1 else _of_protocol_2(app, message)
    given = {name: options[name] for name in _PUBLISHING if options.get(name) is not None}
    if message.priority is not None:
        given["priority"] = message.priority
    if message.expires is not None:
        # so that the broker itself drops it, where it can
        given["expiration"] = _seconds_until(message.expires)
    with app.producer_or_acquire(options.get("producer")) as producer:
        app.backend.on_task_call(producer, message.id)
        with producer.connection._reraise_as_library_errors():
            amqp.send_task_message(
                producer, message.task, made, serializer=message.serializer, **_where(app, message, options), **given
            )


def _where(app: Celery, message: TaskMessage, options: dict[str, Any]) -> dict[str, Any]:
    """Where and how the message goes, as far as that isn't the queue's own affair."""
    queue = _queue_of(app, message, options)
    own = {None, getattr(queue, "name", None), getattr(queue, "routing_key", None)}
    said = {
        "exchange": message.exchange if not options.get("queue") else None,
        "routing_key": message.routing_key if queue is None or message.routing_key not in own else None,
        "compression": message.compression,
        "delivery_mode": message.delivery_mode,
    }
    return {"queue": queue, **{name: value for name, value in said.items() if value is not None}}


def _seconds_until(moment: Any) -> float:
    when = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return max((when - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _queue_of(app: Celery, message: TaskMessage, options: dict[str, Any]) -> Any:
    """The queue to declare, and to send to; none where the caller has named an exchange."""
    if message.exchange and message.exchange not in app.amqp.queues and not options.get("queue"):
        found = next((q for q in app.amqp.queues.values() if q.exchange and q.exchange.name == message.exchange), None)
        if found is None:
            return None
    queue = options.get("queue")
    return queue if queue is not None and not isinstance(queue, str) else app.amqp.queues[message.queue]


def _of_protocol_2(app: Celery, message: TaskMessage) -> Any:
    properties = message.protocol_properties()
    properties["reply_to"] = properties["reply_to"] or app.thread_oid
    return task_message(message.protocol_headers(), properties, message.body, _event(app, message))


def _event(app: Celery, message: TaskMessage) -> dict[str, Any] | None:
    if not app.conf["task_send_sent_event"]:
        return None
    headers = message.protocol_headers()
    return {
        "uuid": message.id,
        "root_id": message.root_id,
        "parent_id": message.parent_id,
        "name": message.task,
        "args": headers["argsrepr"],
        "kwargs": headers["kwargsrepr"],
        "retries": message.retries,
        "eta": headers["eta"],
        "expires": headers["expires"],
    }


def _of_protocol_1(amqp: Any, message: TaskMessage) -> Any:
    hard, soft = message.timelimit
    return amqp.as_task_v1(
        message.id,
        message.task,
        message.args,
        message.kwargs,
        eta=message.eta,
        expires=message.expires,
        group_id=message.group,
        group_index=message.group_index,
        retries=message.retries,
        chord=message.chord,
        callbacks=message.callbacks,
        errbacks=message.errbacks,
        reply_to=message.reply_to or amqp.app.thread_oid,
        time_limit=hard,
        soft_time_limit=soft,
    )
