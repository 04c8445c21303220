"""Moving waiting tasks from a node to a kombu broker, or to another node.

A task is sent on before it is taken away, so it is never in neither place. What only its node can bring to its end
stays there: members of a chord that the node counts, and functions that were sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from kombu.exceptions import OperationalError

from zerocelery.app import codec
from zerocelery.app.client import NodeClient, celery_errors
from zerocelery.app.message import NO_EMBED, PROTOCOL_HEADERS, arguments_repr, body_of, read_head, request_of
from zerocelery.engine import wire
from zerocelery.engine.moving import Batch, read_waiting, take_away
from zerocelery.exceptions import InvalidTaskError
from zerocelery.utils.log import get_logger

__all__ = ("Moved", "Mover", "confirm", "node_of", "to_node")

logger = get_logger("celery.worker")

#: How long a node may take to say that it has what was sent on (seconds).
_CONFIRMED_WITHIN = 10.0

#: Whatever was sent to a node may be described in headers: nothing is run by that.
_DESCRIBED = frozenset({codec.JSON, "application/x-msgpack", "application/x-yaml"})


def node_of(connection: Any) -> NodeClient | None:
    """The client of the node that a connection goes to; None where it goes to a broker."""
    return connection.transport.node if connection.transport_cls == "zmq" else None


def confirm(client: NodeClient) -> None:
    """Return when the node has all that was sent to it.

    Raises:
        OperationalError: it doesn't say so.
    """
    with celery_errors():
        if not client.producer.confirm(_CONFIRMED_WITHIN):
            raise OperationalError(
                f"the node at {client.url} did not say that it has what was sent on: nothing is lost"
            )


class Moved:
    """A node's task as a message of a broker: what :func:`zerocelery.contrib.migrate.republish` needs of one."""

    def __init__(self, task: wire.Task) -> None:
        head = read_head(task.head)
        fields = request_of(task, head, ignore_result=bool(task.flags & wire.IGNORE_RESULT))
        body = codec.decompress(task.body, head.compression) if head.compression else task.body
        args: Any
        kwargs: Any
        try:
            args, kwargs, _ = body_of(task, head, _DESCRIBED)
        except Exception:  # it is not for us to read: a worker that may will
            args, kwargs = fields.get("argsrepr") or "...", fields.get("kwargsrepr") or "..."
        else:
            fields.setdefault("argsrepr", arguments_repr(tuple(args)))
            fields.setdefault("kwargsrepr", arguments_repr(kwargs))
        self.body = body
        self.payload = [args, kwargs, NO_EMBED]
        self.content_type, self.content_encoding = head.content_type, head.content_encoding
        self.headers = {
            **{name: value for name, value in fields.items() if name in PROTOCOL_HEADERS},
            **({"compression": head.compression} if head.compression else {}),
            **(head.headers or {}),
        }
        self.properties = {name: value for name, value in fields["properties"].items() if value is not None}
        self.delivery_info = {"exchange": "", "routing_key": task.queue}


class Mover:
    """Sends on what waits at a node.

    Arguments:
        client: of that node.
        send: sends one on, with its message; returns when it is there for good.
        tasks: names of tasks; others are passed over. Empty: all.
        take: remove from the node what was sent on.
        told: is called with each message that was sent on.
    """

    def __init__(
        self, client: NodeClient, send: Callable[[wire.Task, Moved], object], *, tasks: frozenset[str] = frozenset(),
        take: bool = False, told: Callable[[Moved], object] | None = None,
    ) -> None:  # fmt: skip
        self.client = client
        self._send = send
        self._tasks = tasks
        self._take = take
        self._told = told
        self.moved = 0

    def queues(self) -> dict[str, int]:
        """The node's queues, and how many tasks wait in each, for a worker or their time."""
        told = self.client.ask("queues")
        return {str(name): int(queue["waiting"]) + int(queue["scheduled"]) for name, queue in told.items()}

    def move(self, queue: str, limit: int | None = None) -> int:
        """Send on what waits in a queue, at most so many; how many there were.

        Raises:
            OperationalError: the node, or where they go to, can't be reached.
        """
        began = self.moved
        with celery_errors():
            for batch in read_waiting(self.client.producer, queue):
                left = None if limit is None else limit - (self.moved - began)
                if left is not None and left <= 0:
                    break
                self._move(batch, left)
        return self.moved - began

    def _move(self, batch: Batch, limit: int | None) -> None:
        sent: dict[int, str] = {}
        try:
            for key, task, message in self._wanted(batch):
                if limit is not None and len(sent) >= limit:
                    break
                self._send(task, message)
                sent[key] = task.id
                self.moved += 1
                if self._told is not None:
                    self._told(message)
        finally:
            if self._take and sent:
                for key in sent.keys() - take_away(self.client.producer, batch, list(sent)):
                    logger.warning("task %s was begun here before it could be taken away: it is in both", sent[key])

    def _wanted(self, batch: Batch) -> Iterator[tuple[int, wire.Task, Moved]]:
        for key, task in batch.tasks:
            if self._tasks and task.name not in self._tasks:
                continue
            why = _bound(task)
            if why:
                logger.warning("task %s[%s] is left: %s", task.name, task.id, why)
                continue
            try:
                yield key, task, Moved(task)
            except InvalidTaskError as error:
                logger.warning("task %s[%s] is left: %s", task.name, task.id, error)


def _bound(task: wire.Task) -> str:
    """Why a task can't leave its node; "" where it can."""
    if task.flags & wire.MEMBER or task.gather or task.inputs:
        return "it is part of a chord that this node counts"
    if task.digest is not None:
        return "its function was sent to this node, and is in no module"
    if task.flags & wire.SETTLED or task.verdict:
        return "it has ended here, and only its end is still to be told"
    return ""


def to_node(client: NodeClient, names: Mapping[str, str]) -> Callable[[wire.Task, Moved], object]:
    """Sends tasks on to another node as they are; ``names`` gives queues their new names."""

    def send(task: wire.Task, message: Moved) -> None:
        # who waits for its result hears the other node
        client.submit(msgspec.structs.replace(task, queue=names.get(task.queue, task.queue), topics=()))
        confirm(client)

    return send
