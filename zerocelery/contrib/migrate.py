"""Moving waiting messages: from one broker to another, or between the queues of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from kombu.common import maybe_declare
from kombu.entity import Queue
from kombu.messaging import Producer
from kombu.utils.encoding import ensure_bytes

from zerocelery._state import app_or_default
from zerocelery.utils.nodenames import worker_direct
from zerocelery.utils.text import str_to_list

__all__ = (
    "State",
    "StopFiltering",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_task_by_id",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
)

#: Properties that are said anew when a message is sent on.
_SAID_ANEW = ("application_headers", "content_type", "content_encoding", "headers")


class StopFiltering(Exception):
    """Raised by a callback: enough messages have been seen."""


class State:
    """How far it is.

    Attributes:
        count: messages seen.
        filtered: messages moved.
        total_apx: messages there were at the start, about.
    """

    count = 0
    filtered = 0
    total_apx = 0

    @property
    def strtotal(self) -> str:
        """The total as text; ``?`` where it isn't known."""
        return str(self.total_apx) if self.total_apx else "?"

    def __repr__(self) -> str:
        return f"^{self.filtered}" if self.filtered else f"{self.count}/{self.strtotal}"


def republish(
    producer: Any,
    message: Any,
    exchange: Any = None,
    routing_key: str | None = None,
    remove_props: Iterable[str] | None = None,
) -> None:
    """Send a message on as it is, to where it went before unless another destination is given."""
    info = message.delivery_info
    headers = dict(message.headers)
    compression = headers.pop("compression", None)
    without = set(_SAID_ANEW if remove_props is None else remove_props)
    properties = {name: value for name, value in message.properties.items() if name not in without}
    if isinstance(properties.get("expiration"), str):  # in milliseconds, as it travels; publish() wants seconds
        properties["expiration"] = int(properties["expiration"]) / 1000
    as_bytes: Any = ensure_bytes
    producer.publish(
        as_bytes(message.body),
        exchange=info["exchange"] if exchange is None else exchange,
        routing_key=info["routing_key"] if routing_key is None else routing_key,
        compression=compression,
        headers=headers,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        **properties,
    )


def migrate_task(producer: Any, body_: Any, message: Any, queues: Mapping[str, str] | None = None) -> None:
    """Send one message on; ``queues`` gives exchanges and routing keys their new names."""
    info, queues = message.delivery_info, queues or {}
    republish(producer, message, queues.get(info["exchange"]), queues.get(info["routing_key"]))


def filter_callback(callback: Callable[[Any, Any], Any], tasks: Iterable[str] | None) -> Callable[[Any, Any], Any]:
    """The callback, called for these tasks only."""

    def filtered(body: Any, message: Any) -> Any:
        if tasks and _name_of(body, message) not in tasks:
            return None
        return callback(body, message)

    return filtered


def migrate_tasks(
    source: Any,
    dest: Any,
    migrate: Callable[..., Any] = migrate_task,
    app: Any = None,
    queues: Any = None,
    **kwargs: Any,
) -> State:
    """Send the messages of one broker on to another; each may be a node.

    Arguments:
        source, dest: connections.
        migrate: sends one message on.
        queues: names of queues, or a mapping of their old names to new ones; default: all of the app's.
        kwargs: as for :func:`start_filter`. With ``ack_messages`` they are removed from the source.
    """
    from zerocelery.app.moving import confirm, node_of

    app = app_or_default(app)
    names = prepare_queues(queues)
    producer = Producer(dest, auto_declare=False)  # type: ignore[no-untyped-call]

    def declare(queue: Any) -> None:
        there = queue(producer.channel)
        there.name = names.get(queue.name, queue.name)
        if there.routing_key == queue.name:
            there.routing_key = there.name
        if there.exchange.name == queue.name:
            there.exchange.name = there.name
        there.declare()

    def send(body: Any, message: Any) -> None:
        migrate(producer, body, message, queues=names)
        if node is not None:
            confirm(node)  # before it may be removed where it was

    node, its_source = node_of(dest), node_of(source)
    if its_source is not None:
        return _from_node(app, its_source, node, send, declare, names, **kwargs)
    return start_filter(app, source, send, queues=names, on_declare_queue=declare, **kwargs)


def _from_node(
    app: Any,
    source: Any,
    dest: Any,
    send: Callable[[Any, Any], Any],
    declare: Callable[[Any], Any],
    names: dict[str, str],
    *,
    limit: int | None = None,
    ack_messages: bool = False,
    tasks: Any = None,
    callback: Callable[..., Any] | None = None,
    state: State | None = None,
    forever: bool = False,
    timeout: float = 1.0,
    **kwargs: Any,
) -> State:
    """Send on what waits at a node: all its queues, unless some are named."""
    from zerocelery.app.moving import Mover, to_node

    if forever and not ack_messages:
        raise ValueError("with a node as source, forever needs ack_messages: what is left there would be sent again")
    state = state or State()

    def moved(message: Any) -> None:
        if callback is not None:
            callback(state, message.payload, message)
        state.count += 1

    mover = Mover(
        source,
        to_node(dest, names) if dest is not None else lambda task, message: send(message.payload, message),
        tasks=frozenset(str_to_list(tasks) or ()), take=ack_messages, told=moved,
    )  # fmt: skip
    declared: set[str] = set()
    while True:
        waiting = mover.queues()
        state.total_apx += sum(waiting.get(name, 0) for name in names or waiting)
        for name in list(names or waiting):
            if dest is None and name not in declared:
                declare(app.amqp.queues[name])
                declared.add(name)
            mover.move(name, None if limit is None else limit - state.count)
        if not forever or (limit is not None and state.count >= limit):
            return state
        time.sleep(timeout)


def prepare_queues(queues: Any) -> dict[str, str]:
    """Queues' old names and new ones, from ``a,b:c``, a list of such, or a mapping."""
    if isinstance(queues, str):
        queues = queues.split(",")
    if isinstance(queues, Mapping):
        return dict(queues)
    pairs = (str(item).partition(":") for item in queues or ())
    return {old: new or old for old, _, new in pairs}


def start_filter(app: Any, conn: Any, filter: Callable[[Any, Any], Any], **kwargs: Any) -> State:
    """Give each waiting message to ``filter(body, message)``, until no more come.

    Arguments:
        limit: how many messages are enough.
        timeout: seconds without a message after which it ends.
        ack_messages: remove each from its queue.
        tasks: names of tasks; others are passed over.
        queues: names of queues to count and declare; others are not.
        callback: is called with (state, body, message) after each.
        forever: don't end when no more come.
        on_declare_queue: is called with each queue at the start.
        consume_from: the queues to read; default: all of the app's.
        state: counts.
        accept: content types to decode.
    """
    return Filterer(app, conn, filter, **kwargs).start()


class Filterer:
    """What :func:`start_filter` runs."""

    def __init__(
        self,
        app: Any,
        conn: Any,
        filter: Callable[[Any, Any], Any],
        limit: int | None = None,
        timeout: float = 1.0,
        ack_messages: bool = False,
        tasks: Any = None,
        queues: Any = None,
        callback: Callable[..., Any] | None = None,
        forever: bool = False,
        on_declare_queue: Callable[[Any], Any] | None = None,
        consume_from: Any = None,
        state: State | None = None,
        accept: Any = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.conn = conn
        self.filter = filter
        self.limit = limit
        self.timeout = timeout
        self.ack_messages = ack_messages
        self.tasks = set(str_to_list(tasks) or ())
        self.queues = prepare_queues(queues)
        self.callback = callback
        self.forever = forever
        self.on_declare_queue = on_declare_queue
        self.consume_from = [_maybe_queue(app, queue) for queue in consume_from or self.queues]
        self.state = state or State()
        self.accept = accept

    def start(self) -> State:
        """Read until no more come, or it is enough."""
        with self.prepare_consumer(self.create_consumer()):
            try:
                for _ in eventloop(self.conn, timeout=self.timeout, ignore_timeouts=self.forever):
                    pass
            except (TimeoutError, StopFiltering):
                pass
        return self.state

    def create_consumer(self) -> Any:
        """A consumer of the queues."""
        return self.app.amqp.TaskConsumer(self.conn, queues=self.consume_from or None, accept=self.accept)

    def prepare_consumer(self, consumer: Any) -> Any:
        """Have it call what is to be called for each message, in order: the filter, then who counts."""
        steps = [self.filter]
        if self.ack_messages:
            steps.append(self.ack_message)
        if self.callback is not None:
            steps.append(partial(self.callback, self.state))
        for step in steps:
            consumer.register_callback(filter_callback(step, self.tasks))
        consumer.register_callback(self.update_state)
        self.declare_queues(consumer)
        return consumer

    def declare_queues(self, consumer: Any) -> None:
        """Have each queue declared, and count what waits in it."""
        for queue in consumer.queues:
            if self.queues and queue.name not in self.queues:
                continue
            if self.on_declare_queue is not None:
                self.on_declare_queue(queue)
            try:
                _, waiting, _ = queue(consumer.channel).queue_declare(passive=True)
            except self.conn.channel_errors:
                continue  # there is no such queue
            self.state.total_apx += waiting or 0

    def ack_message(self, body: Any, message: Any) -> None:
        """Remove the message from its queue."""
        message.ack()

    def update_state(self, body: Any, message: Any) -> None:
        """Count it."""
        self.state.count += 1
        if self.limit and self.state.count >= self.limit:
            raise StopFiltering


def eventloop(conn: Any, timeout: float | None = None, ignore_timeouts: bool = False) -> Iterator[Any]:
    """Take in messages until none has come for ``timeout`` seconds."""
    while True:
        try:
            yield conn.drain_events(timeout=timeout)
        except TimeoutError:
            if not ignore_timeouts:
                raise


# ── moving within a broker ───────────────────────────────────────────────────────────────────────────────────────────


def move(
    predicate: Callable[[Any, Any], Any],
    connection: Any = None,
    exchange: str | None = None,
    routing_key: str | None = None,
    source: Any = None,
    app: Any = None,
    callback: Callable[..., Any] | None = None,
    limit: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> State:
    """Move messages to where ``predicate(body, message)`` says, or to ``exchange`` and ``routing_key``.

    Arguments:
        predicate: gives None for a message that stays; True, a Queue or (exchange, routing key) for one that goes.
        source: the queues to read; default: all of the app's.
        callback: is called with (state, body, message) for each moved.
        limit: how many to move.
        transform: makes the destination of what the predicate gives.
        kwargs: as for :func:`start_filter`.
    """
    app = app_or_default(app)
    queues = [_maybe_queue(app, queue) for queue in source or ()] or None
    with app.connection_or_acquire(connection, pool=False) as conn:
        producer = Producer(conn)  # type: ignore[no-untyped-call]
        state = State()

        def on_task(body: Any, message: Any) -> None:
            found = predicate(body, message)
            if not found:
                return
            if transform is not None:
                found = transform(found)
            if isinstance(found, Queue):
                maybe_declare(found, conn.default_channel)  # type: ignore[no-untyped-call]
                to = found.exchange.name, found.routing_key
            else:
                to = expand_dest(found, exchange, routing_key)
            republish(producer, message, exchange=to[0], routing_key=to[1])
            message.ack()
            state.filtered += 1
            if callback is not None:
                callback(state, body, message)
            if limit and state.filtered >= limit:
                raise StopFiltering

        return start_filter(app, conn, on_task, consume_from=queues, **kwargs)


def expand_dest(ret: Any, exchange: str | None, routing_key: str | None) -> tuple[Any, Any]:
    """What a predicate gave as exchange and routing key."""
    if isinstance(ret, (tuple, list)) and len(ret) == 2:
        return ret[0], ret[1]
    return exchange, routing_key


def task_id_eq(task_id: str, body: Any, message: Any) -> bool:
    """Whether the message is this task's."""
    return bool(_id_of(body, message) == task_id)


def task_id_in(ids: Iterable[str], body: Any, message: Any) -> bool:
    """Whether the message is one of these tasks'."""
    return _id_of(body, message) in ids


def move_task_by_id(task_id: str, dest: Any, **kwargs: Any) -> State:
    """Move one task, by its id, to a queue."""
    return move_by_idmap({task_id: dest}, **kwargs)


def move_by_idmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks to the queues that are given by their ids."""
    return move(lambda body, message: map.get(_id_of(body, message)), limit=len(map), **kwargs)


def move_by_taskmap(map: Mapping[str, Any], **kwargs: Any) -> State:
    """Move tasks to the queues that are given by their names."""
    return move(lambda body, message: map.get(_name_of(body, message)), **kwargs)


def filter_status(state: State, body: Any, message: Any, **kwargs: Any) -> None:
    """Print how far it is: a callback for :func:`move`."""
    print(  # noqa: T201  printing is what it is for
        f"Moving task {state.filtered}/{state.strtotal}: {_name_of(body, message)}[{_id_of(body, message)}]"
    )


#: As the functions of these names without ``direct``; destinations are workers' names.
move_direct = partial(move, transform=worker_direct)
move_direct_by_id = partial(move_task_by_id, transform=worker_direct)


def _maybe_queue(app: Any, q: Any) -> Any:
    return app.amqp.queues[q] if isinstance(q, str) else q


def _name_of(body: Any, message: Any) -> Any:
    """Messages of protocol 2 say it in the headers, those of protocol 1 in the body."""
    return body["task"] if isinstance(body, dict) and "task" in body else message.headers.get("task")


def _id_of(body: Any, message: Any) -> Any:
    return body["id"] if isinstance(body, dict) and "id" in body else message.headers.get("id")
