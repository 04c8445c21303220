"""A task's message: Celery's protocol 2 ⇄ what travels over a node. The only module that knows the protocol.

A :class:`TaskMessage` is what a call was parsed into. From it come the protocol's headers (which publish receivers and
``request.headers`` see, and which a kombu broker gets), the protocol's body, and the engine's task, whose head holds
those headers that aren't what they are in most messages.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any

import msgspec

from zerocelery.app import codec
from zerocelery.engine import wire
from zerocelery.exceptions import InvalidTaskError
from zerocelery.utils.nodenames import anon_nodename

#: The third part of a body that has nothing in it.
NO_EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_EMPTY_TAIL = b',{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'

#: Longest representation of arguments in a message.
REPR_LENGTH = 1024

#: Headers that the protocol itself has; what else is in a message's headers is the user's.
PROTOCOL_HEADERS = frozenset(
    [
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "replaced_task_nesting",
        "stamped_headers",
        "stamps",
        "compression",
        "meth",
    ]
)


class Head(msgspec.Struct, omit_defaults=True, frozen=True, kw_only=True):
    """The headers and properties of a message that differ from the usual, as they travel beside its body."""

    content_type: str = codec.JSON
    content_encoding: str = codec.UTF8
    compression: str | None = None
    retries: int = 0
    timelimit: tuple[float | None, float | None] | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    shadow: str | None = None
    origin: str = ""
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    reply_to: str | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    exchange: str | None = None
    routing_key: str | None = None
    has_priority: bool = False
    #: Whether it has been with a worker before.
    redelivered: bool = False
    #: None: nobody has said, so the worker's task decides; True travels as the engine's flag.
    ignore_result: bool | None = False
    headers: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None
    #: How a chord's results are nested that the body gets as its first argument (True: not at all); None: it gets none.
    inputs: Any = None
    #: It is no task's message: what is in it is a canvas to be sent.
    canvas: bool = False


class ResultInfo(msgspec.Struct, omit_defaults=True, frozen=True, kw_only=True):
    """What goes with a result besides its value."""

    traceback: str | None = None
    children: list[Any] | None = None
    encoding: str = codec.UTF8
    compression: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    extended: dict[str, Any] | None = None


class TaskMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One call, parsed: times are aware, options have their places, nothing is None that has a default.

    Arguments:
        queue: the name of the queue that it goes to.
        serializer, compression: how its body is written.
        headers: the user's own headers.
        properties: options that are none of ours, which a kombu broker may know.
    """

    id: str
    task: str
    args: Any = ()
    kwargs: dict[str, Any] = {}
    callbacks: list[Any] | None = None
    errbacks: list[Any] | None = None
    chain: list[Any] | None = None
    chord: Any = None
    eta: datetime | None = None
    expires: datetime | None = None
    retries: int = 0
    timelimit: tuple[float | None, float | None] = (None, None)
    root_id: str
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    shadow: str | None = None
    origin: str
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    ignore_result: bool | None = None
    reply_to: str = ""
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] = {}
    queue: str = "celery"
    exchange: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    delivery_mode: Any = None
    serializer: str = "json"
    compression: str | None = None
    headers: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    inputs: Any = None
    unique: str | None = None
    unique_for: float = 0

    @property
    def body(self) -> tuple[Any, Any, dict[str, Any]]:
        """The protocol's body before it is serialised."""
        embed = {
            "callbacks": self.callbacks,
            "errbacks": self.errbacks,
            "chain": self.chain,
            "chord": self.chord,
        }
        return self.args, self.kwargs, embed

    def protocol_headers(self) -> dict[str, Any]:
        """The protocol's headers, in its order, the user's after them."""
        return {
            "lang": "py",
            "task": self.task,
            "id": self.id,
            "shadow": self.shadow,
            "eta": _iso(self.eta),
            "expires": _iso(self.expires),
            "group": self.group,
            "group_index": self.group_index,
            "retries": self.retries,
            "timelimit": list(self.timelimit),
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "argsrepr": arguments_repr(self.args) if self.argsrepr is None else self.argsrepr,
            "kwargsrepr": arguments_repr(self.kwargs) if self.kwargsrepr is None else self.kwargsrepr,
            "origin": self.origin,
            "ignore_result": self.ignore_result,
            "replaced_task_nesting": self.replaced_task_nesting,
            "stamped_headers": self.stamped_headers,
            "stamps": self.stamps,
            **self.headers,
        }

    def protocol_properties(self) -> dict[str, Any]:
        """The protocol's properties."""
        return {"correlation_id": self.id, "reply_to": self.reply_to, **self.properties}


def with_receivers_changes(
    message: TaskMessage, headers: dict[str, Any], properties: dict[str, Any], body: Any
) -> TaskMessage:
    """The message after publish receivers had its headers, properties and body in their hands."""
    args, kwargs, embed = body
    return msgspec.structs.replace(
        message,
        args=args,
        kwargs=kwargs,
        callbacks=embed.get("callbacks"),
        errbacks=embed.get("errbacks"),
        chain=embed.get("chain"),
        chord=embed.get("chord"),
        shadow=headers.get("shadow"),
        root_id=headers.get("root_id") or message.root_id,
        parent_id=headers.get("parent_id"),
        argsrepr=headers.get("argsrepr"),
        kwargsrepr=headers.get("kwargsrepr"),
        retries=headers.get("retries") or 0,
        timelimit=tuple(headers.get("timelimit") or (None, None)),
        ignore_result=headers.get("ignore_result"),
        stamped_headers=headers.get("stamped_headers"),
        stamps=headers.get("stamps") or {},
        headers={key: value for key, value in headers.items() if key not in PROTOCOL_HEADERS},
        reply_to=properties.get("reply_to") or "",
        properties={k: v for k, v in properties.items() if k not in ("correlation_id", "reply_to")},
    )


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def arguments_repr(value: Any) -> str:
    """Arguments as people read them, cut to a bearable length."""
    text = codec.safe_repr(value)
    return text if len(text) <= REPR_LENGTH else f"{text[: REPR_LENGTH - 3]}..."


# ── onto the wire ────────────────────────────────────────────────────────────────────────────────────────────────────

_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_info = msgspec.msgpack.Decoder(ResultInfo).decode

USUAL = Head()

_origin: tuple[int, str] = (0, "")


def origin() -> str:
    """This process, as the sender of messages."""
    global _origin
    pid = os.getpid()
    if _origin[0] != pid:
        _origin = (pid, anon_nodename())
    return _origin[1]


def head_bytes(head: Head) -> bytes:
    """The head as it travels.

    Raises:
        kombu.exceptions.EncodeError: a user's header can't be written.
    """
    if head == USUAL:
        return b""
    try:
        return _encode(head)
    except (TypeError, OverflowError, UnicodeEncodeError, ValueError) as error:
        from kombu.exceptions import EncodeError

        raise EncodeError(f"a header of the message can't be written: {error}") from error


def read_head(data: bytes) -> Head:
    """The head of a task that arrived.

    Raises:
        InvalidTaskError: it was not made by this module.
    """
    if not data:
        return USUAL
    try:
        return _decode_head(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTaskError(f"the message's head can't be read: {error}") from error


def plain_body(args: Any, kwargs: Any) -> bytes | None:
    """The body of a call that has nothing but plain arguments, or None."""
    body = codec.plain_json(args, kwargs)
    return body[:-1] + _EMPTY_TAIL if body is not None else None


def encoded_body(message: TaskMessage) -> tuple[str, str, bytes]:
    """Content type, encoding and bytes of the body, compressed if asked for."""
    content_type, encoding, body = codec.dumps(message.body, message.serializer)
    if message.compression:
        body, _ = codec.compress(body, message.compression)
    return content_type, encoding, body


def to_wire(
    message: TaskMessage, *, topics: tuple[str, ...], flags: int, keep: float | None, digest: str | None
) -> wire.Task:
    """The engine's task for a message.

    Raises:
        kombu.exceptions.EncodeError: arguments or headers can't be serialised.
    """
    content_type, encoding, body = encoded_body(message)
    head = Head(
        content_type=content_type,
        content_encoding=encoding,
        compression=message.compression,
        retries=message.retries,
        timelimit=message.timelimit if message.timelimit != (None, None) else None,
        root_id=message.root_id if message.root_id != message.id else None,
        parent_id=message.parent_id,
        group=message.group,
        group_index=message.group_index,
        shadow=message.shadow,
        origin=message.origin,
        argsrepr=message.argsrepr,
        kwargsrepr=message.kwargsrepr,
        reply_to=message.reply_to or None,
        replaced_task_nesting=message.replaced_task_nesting,
        stamped_headers=message.stamped_headers,
        stamps=message.stamps or None,
        exchange=message.exchange,
        routing_key=message.routing_key if message.routing_key != message.queue else None,
        has_priority=message.priority is not None,
        ignore_result=None if message.ignore_result is None else False,
        headers=message.headers or None,
        properties=message.properties or None,
        inputs=message.inputs,
    )
    gather = gather_of(message.chord)
    if gather is not None:
        flags |= wire.MEMBER
    if message.errbacks or message.chain:
        flags |= wire.AFTERMATH
    if message.chain:
        flags |= wire.QUIET
    labels = sorted(stamp_labels(message.stamps)) if message.stamps else []
    if labels:
        flags |= wire.LABELLED
    if message.unique is not None:
        flags |= wire.UNIQUE
    return wire.Task(
        labels=labels,
        unique=message.unique,
        unique_for=message.unique_for,
        id=message.id,
        name=message.task,
        queue=message.queue,
        priority=min(max(int(message.priority or 0), 0), 255),
        eta=message.eta.timestamp() if message.eta is not None else None,
        expires=message.expires.timestamp() if message.expires is not None else None,
        flags=flags | (wire.IGNORE_RESULT if message.ignore_result else 0),
        topics=() if message.ignore_result else topics,
        keep=keep,
        digest=digest,
        head=head_bytes(head),
        body=body,
        gather=gather,
    )


def stamp_labels(stamps: dict[str, Any]) -> set[str]:
    """The engine's labels for stamps, one for each value: by these the tasks that have them can be revoked."""
    labels: set[str] = set()
    for header, value in stamps.items():
        several = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
        labels.update(f"{header}={one}" for one in several)
    return labels


def gather_of(chord: Any) -> str | None:
    """The engine's group that a chord's reference names (:mod:`zerocelery.app.gathering`)."""
    options = chord.get("options") if isinstance(chord, dict) else None
    return options.get("gather") if options else None


# ── off the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────


def body_of(task: wire.Task, head: Head, accept: frozenset[str] | None) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Arguments, keyword arguments and the embedded rest of a task that arrived.

    Raises:
        kombu.exceptions.ContentDisallowed, kombu.exceptions.DecodeError: as :func:`codec.loads`.
        InvalidTaskError: it is no body of protocol 2.
    """
    data = task.body
    if head.compression:
        data = codec.decompress(data, head.compression)
    body = codec.loads(data, head.content_type, head.content_encoding, accept)
    try:
        args, kwargs, embed = body
    except (TypeError, ValueError):
        raise InvalidTaskError(f"the body is no message of protocol 2: {codec.safe_repr(body)[:200]}") from None
    if not isinstance(kwargs, dict):
        raise InvalidTaskError("Task keyword arguments is not a mapping")
    return args, kwargs, embed or NO_EMBED


def request_of(task: wire.Task, head: Head, *, ignore_result: bool) -> dict[str, Any]:
    """The protocol's headers of a task that arrived, with its delivery beside them."""
    moment = _moment
    priority = task.priority if head.has_priority else None
    reply_to = head.reply_to or (task.topics[0] if task.topics else "")
    fields: dict[str, Any] = {
        **(head.headers or {}),
        "headers": head.headers,
        "lang": "py",
        "task": task.name,
        "id": task.id,
        "shadow": head.shadow,
        "eta": moment(task.eta),
        "expires": moment(task.expires),
        "group": head.group,
        "group_index": head.group_index,
        "retries": head.retries,
        "timelimit": list(head.timelimit) if head.timelimit else [None, None],
        "root_id": head.root_id or task.id,
        "parent_id": head.parent_id,
        "origin": head.origin,
        "ignore_result": ignore_result,
        "replaced_task_nesting": head.replaced_task_nesting,
        "stamped_headers": head.stamped_headers,
        "stamps": head.stamps or {},
        "correlation_id": task.id,
        "reply_to": reply_to,
        "properties": {
            "correlation_id": task.id,
            "reply_to": reply_to,
            "content_type": head.content_type,
            "content_encoding": head.content_encoding,
            "delivery_mode": 2,
            "priority": priority,
            **(head.properties or {}),
        },
        "delivery_info": {
            "exchange": head.exchange or "",
            "routing_key": head.routing_key or task.queue,
            "priority": priority,
            "redelivered": head.redelivered,
        },
    }
    if head.argsrepr is not None:
        fields["argsrepr"] = head.argsrepr
    if head.kwargsrepr is not None:
        fields["kwargsrepr"] = head.kwargsrepr
    return fields


def _moment(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat() if seconds is not None else None


def info_bytes(info: ResultInfo) -> bytes:
    """What goes with a result, as it travels; nothing in the usual case."""
    return _encode(info)


def read_info(data: bytes) -> ResultInfo:
    """What came with a result; bytes that this module didn't make are a traceback's text."""
    if not data:
        return _NO_INFO
    try:
        return _decode_info(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ResultInfo(traceback=data.decode(codec.UTF8, "replace"))


_NO_INFO = ResultInfo()
