"""Sending a task through kombu: the message that Celery itself would have sent, made and sent by ``app.amqp``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from zerocelery._ids import uuid
from zerocelery.app import delays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

#: Options of a call that are in its message; all others are the publisher's.
_OF_THE_MESSAGE = ("ignore_result", "origin", "argsrepr", "kwargsrepr", "stamped_headers")
#: Options that mean something to nobody here.
_DROPPED = frozenset(["taskset", "unique_for"])


def send(
    app: Celery, name: str, args: Any, kwargs: Any, task: Any, options: dict[str, Any], ancestors: Any
) -> tuple[str, bool | None]:
    """Send a call to the broker; gives its id, and whether its result is ignored.

    Arguments:
        ancestors: gives root and parent of a call, and may add to its options.

    Raises:
        kombu.exceptions.OperationalError: the broker can't be reached.
    """
    amqp, conf = app.amqp, app.conf
    options = dict(options)
    take = options.pop
    task_id = take("task_id", None) or uuid()
    root_id, parent_id = take("root_id", None), take("parent_id", None)
    eta, countdown, expires = take("eta", None), take("countdown", None), take("expires", None)
    limits = take("time_limit", None), take("soft_time_limit", None)
    group_id, group_index = take("group_id", None), take("group_index", None)
    retries, chord, chain = take("retries", None) or 0, take("chord", None), take("chain", None)
    links = _several(take("link", None)), _several(take("link_error", None))
    reply_to, shadow = take("reply_to", None) or app.thread_oid, take("shadow", None)
    nesting = take("replaced_task_nesting", None) or 0
    router, route_name = take("router", None), take("route_name", None) or name
    producer, connection = take("producer", None), take("connection", None)
    if router is None:  # else it was asked already
        options = amqp.router.route(options, route_name, args, kwargs, task)
    root_id, parent_id = ancestors(task_id, root_id, parent_id, options)
    said = {key: options.pop(key, None) for key in _OF_THE_MESSAGE}
    stamps = {stamp: options.pop(stamp, None) for stamp in said["stamped_headers"] or ()}
    publishing = {key: value for key, value in options.items() if value is not None and key not in _DROPPED}
    if publishing.get("exchange") and not publishing.get("queue"):
        _find_behind(amqp, publishing)
    if (eta or countdown) and delays.natively(app):
        countdown = countdown or (_moment(app, eta) - _now(app)).total_seconds()
        publishing = delays.readdressed(publishing, countdown)
    if expires is not None:
        # so that the broker itself drops it, where it can
        publishing["expiration"] = max((_moment(app, expires) - _now(app)).total_seconds(), 0.0)
    message = amqp.create_task_message(
        task_id, name, args, kwargs, countdown or None, eta, group_id, group_index, expires, retries, chord, *links,
        reply_to, *limits, conf["task_send_sent_event"], root_id=root_id, parent_id=parent_id, shadow=shadow,
        chain=chain, replaced_task_nesting=nesting, **said, **stamps,
    )  # fmt: skip
    if connection is not None and producer is None:
        producer = amqp.Producer(connection, auto_declare=False)
    with app.producer_or_acquire(producer) as chosen, chosen.connection._reraise_as_library_errors():
        app.backend.on_task_call(chosen, task_id)
        amqp.send_task_message(chosen, name, message, **publishing)
    return task_id, said["ignore_result"]


def _find_behind(amqp: Any, publishing: dict[str, Any]) -> None:
    """Declare the queues behind an exchange, as far as they are known: without them it may not be there. They also say
    of what type it is.

    A direct exchange without a routing key leads nowhere: as with Celery, the message goes to the default queue.
    """
    exchange = publishing["exchange"]
    wanted = getattr(exchange, "name", exchange)
    behind = [queue for queue in amqp.queues.values() if queue.exchange and queue.exchange.name == wanted]
    kinds = {publishing.get("exchange_type") or getattr(exchange, "type", None)} - {None}
    kinds = kinds or {queue.exchange.type for queue in behind} or {"direct"}
    if kinds == {"direct"} and not publishing.get("routing_key"):
        del publishing["exchange"]
    elif behind:
        publishing.setdefault("declare", behind)
        if len(kinds) == 1:
            publishing.setdefault("exchange_type", kinds.pop())


def _now(app: Celery) -> datetime:
    now: datetime = app.now()
    return now.astimezone(timezone.utc)


def _moment(app: Celery, value: Any) -> datetime:
    """A moment in UTC; a number or a timedelta counts from now, and a naive time is in the app's zone."""
    if isinstance(value, timedelta):
        return _now(app) + value
    if isinstance(value, (int, float)):
        return _now(app) + timedelta(seconds=value)
    when = datetime.fromisoformat(value) if isinstance(value, str) else value
    return (when if when.tzinfo is not None else when.replace(tzinfo=app.timezone)).astimezone(timezone.utc)


def _several(value: Any) -> list[Any] | None:
    if value is None:
        return None
    return list(value) or None if isinstance(value, (list, tuple)) else [value]
