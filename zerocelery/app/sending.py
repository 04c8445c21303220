"""Sending tasks: a call becomes a message, the message an engine's task, and that goes to the node.

Two ways lead there. A :class:`Plan` holds all that is the same in every plain call of one task, and only adds id and
arguments; ``compose`` takes every option there is.
"""

from __future__ import annotations

import time
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from inspect import ismethod
from typing import Any

import msgspec

from zerocelery import _state, signals
from zerocelery._ids import uuid
from zerocelery._state import frames
from zerocelery.app import message as _message
from zerocelery.app.codec import plain_json, plain_value, safe_repr
from zerocelery.app.message import Head, TaskMessage, gather_of, head_bytes, plain_body, to_wire
from zerocelery.app.routes import Router
from zerocelery.app.ship import Shipment
from zerocelery.canvas.signature import Signature
from zerocelery.engine import wire
from zerocelery.exceptions import AlwaysEagerIgnored, ImproperlyConfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeVar

    _T = TypeVar("_T")

    from zerocelery.app.base import Celery
    from zerocelery.app.task import Task
    from zerocelery.engine.producer import Patience

_before = signals.before_task_publish
_after = signals.after_task_publish
_sent = signals.task_sent

#: What the node keeps results for unless a task says otherwise: a day.
_USUAL_KEEP = 86_400.0
#: "For ever", as a number of seconds.
_FOREVER = 100 * 365 * _USUAL_KEEP

#: Options of apply_async that mean something to somebody else only.
_DROPPED = frozenset(
    [
        "producer",
        "connection",
        "router",
        "publisher",
        "retry",
        "retry_policy",
        "add_to_parent",
        "exchange_type",
        "timeout",
        "confirm_timeout",
        "mandatory",
        "immediate",
        "declare",
        "result_cls",
        "route_name",
        "expiration",
        "taskset",
    ]
)


#: What is sent together leaves when it is this much, or this old (seconds).
_TOGETHER = 500
_TOGETHER_SECONDS = 0.02


#: The method as it is here: where it was replaced, whoever did so sees every call.
_apply_async = Signature.apply_async


class _Outgoing:
    """Where tasks and groups go that are sent now.

    Arguments:
        topics: where their results go; None: to this process.
        streams: whether they may leave one by one.
    """

    __slots__ = ("items", "since", "streams", "topics")

    def __init__(self, items: list[Any], *, topics: tuple[str, ...] | None = None, streams: bool = False) -> None:
        self.items = items
        self.topics = topics
        self.streams = streams
        self.since = time.monotonic()


_outgoing: ContextVar[_Outgoing | None] = ContextVar("zerocelery_outgoing", default=None)


class Results:
    """The argument of a chord's body that its worker puts in: the list of the header's results.

    Arguments:
        shape: True for a flat list; else nested lists, with None in the place of each result.
    """

    __slots__ = ("shape",)

    def __init__(self, shape: Any) -> None:
        self.shape = shape

    def __repr__(self) -> str:
        return "[...]"


class Plan:
    """How one task is sent, as settings and attributes are now.

    Arguments:
        usable: whether plain calls differ in id and arguments alone; else every call goes the long way.
        options: the options that the task itself has.
        shipment: what travels along where workers can't import the task.
    """

    __slots__ = (
        "_client", "_head", "_keep", "_make_result", "_name", "_pattern", "_priority", "_queue", "_wire_flags", "app",
        "check", "eager", "epoch", "flags", "ignored", "options", "shipment", "usable",
    )  # fmt: skip

    def __init__(self, sender: Sender, task: Task[..., Any]) -> None:
        app = sender.app
        limits = task.time_limit, task.soft_time_limit
        if limits[0] and limits[1] and limits[1] > limits[0]:
            raise ValueError("soft_time_limit must be less than or equal to time_limit")
        self.app = app
        self.epoch = app.epoch
        self.check = task.__header__ if task.typing else None
        self.flags = policy(task) | sender.aftermath
        self.ignored = bool(task.ignore_result)
        self.options = {**task._get_exec_options(), "ignore_result": self.ignored}
        self.eager = bool(app.conf["task_always_eager"])
        self.shipment = None if self.eager else sender.shipment(task)
        self.usable = not self.eager and _can_be_planned(sender, task)
        if not self.usable:
            return
        options = sender.router.route(self.options, task.name, (), {}, task)
        priority = options.get("priority")
        self._name: str = task.name
        self._queue = sender.queue_of(options)
        self._priority = min(max(int(priority or 0), 0), 255)
        self._wire_flags = self.flags | (wire.IGNORE_RESULT if self.ignored else 0)
        self._keep = sender.keep
        self._pattern = Head(
            origin=_message.origin(),
            timelimit=limits if limits != (None, None) else None,
            has_priority=priority is not None,
        )
        self._head = head_bytes(self._pattern)
        self._client = app.client
        self._make_result = _result_maker(app, task)

    def send(self, args: Any, kwargs: Any, task_id: str | None) -> Any:
        """Send the task; None where this call needs the long way."""
        if frames.get() is not None or _before.receivers or _after.receivers or _sent.receivers:
            return None
        kind = type(args)
        if (kind is not tuple and kind is not list) or type(kwargs) is not dict:
            return None
        if self.check is not None:
            self.check(*args, **kwargs)
        body = plain_body(args, kwargs)
        if body is None:
            return None
        if task_id is None:
            task_id = uuid()
        client = self._client
        task = wire.Task(
            id=task_id,
            name=self._name,
            queue=self._queue,
            priority=self._priority,
            flags=self._wire_flags,
            topics=() if self.ignored else (client.producer.inbox,),
            keep=self._keep,
            digest=None if self.shipment is None else self.shipment.send(client),
            head=self._head,
            body=body,
        )
        result = self._make_result(task_id)
        result._token = client.submit(task)
        result.ignored = self.ignored
        return result

    def direct(
        self, sender: Sender, args: Any, kwargs: Any, topics: tuple[str, ...], place: dict[str, Any], chord: Any,
        gather: str | None,
    ) -> tuple[wire.Task, Any] | None:  # fmt: skip
        """A plain call with no options of its own, as a member of a group, and its result; None where this call needs
        the long way.

        Arguments:
            place: what the head says of the group.
        """
        if self.check is not None:
            self.check(*args, **kwargs)
        body = plain_body(args, kwargs) if chord is None else sender.member_body(args, kwargs, chord)
        if body is None:
            return None
        task_id = uuid()
        task = wire.Task(
            id=task_id,
            name=self._name,
            queue=self._queue,
            priority=self._priority,
            flags=self._wire_flags if gather is None else self._wire_flags | wire.MEMBER,
            topics=() if self.ignored else topics,
            keep=self._keep,
            digest=None if self.shipment is None else self.shipment.send(self._client),
            head=head_bytes(msgspec.structs.replace(self._pattern, **place)),
            body=body,
            gather=gather,
        )
        result = self._make_result(task_id)
        result.ignored = self.ignored
        return task, result

    def next_step(self, run: Any, args: Any, kwargs: Any, options: dict[str, Any], rest: list[Any]) -> wire.Task | None:
        """A plain call that follows a run in a chain; None where it needs the long way.

        Arguments:
            rest: what follows this one.
        """
        if self.shipment is not None:
            return None
        if self.check is not None:
            self.check(*args, **kwargs)
        body, flags = plain_body(args, kwargs), self._wire_flags
        if rest and body is not None:
            after, body = plain_value(rest), plain_json(args, kwargs)
            if after is None or body is None:
                return None
            body = b'%s,{"callbacks":null,"errbacks":null,"chain":%s,"chord":null}]' % (body[:-1], after)
            flags |= wire.AFTERMATH | wire.QUIET
        if body is None:
            return None
        task_id: str = options["task_id"]
        root_id = options.get("root_id") or run.head.root_id or run.id
        return wire.Task(
            id=task_id,
            name=self._name,
            queue=self._queue,
            priority=self._priority,
            flags=flags,
            topics=run.task.topics,
            keep=self._keep,
            head=head_bytes(
                msgspec.structs.replace(
                    self._pattern,
                    root_id=root_id if root_id != task_id else None,
                    parent_id=options.get("parent_id") or run.id,
                )
            ),
            body=body,
        )

    def member(self, sender: Sender, args: Any, kwargs: Any, options: dict[str, Any]) -> wire.Task | None:
        """A plain call of the task as a member of a group or chord; None where this call needs the long way."""
        if not _MEMBERS_OPTIONS.issuperset(options) or _before.receivers or _after.receivers or _sent.receivers:
            return None
        parent_id = options.get("parent_id")
        if frames.get() is not None and not parent_id:
            return None  # what runs here is its parent
        if self.check is not None:
            self.check(*args, **kwargs)
        chord = options.get("chord")
        gather = gather_of(chord)
        body = plain_body(args, kwargs) if chord is None else sender.member_body(args, kwargs, chord)
        if body is None or (chord is not None and gather is None):
            return None
        task_id, root_id = options["task_id"], options.get("root_id")
        index = options.get("group_index")
        return wire.Task(
            id=task_id,
            name=self._name,
            queue=self._queue,
            priority=self._priority,
            flags=self._wire_flags if gather is None else self._wire_flags | wire.MEMBER,
            topics=() if self.ignored else sender.topics,
            keep=self._keep,
            digest=None if self.shipment is None else self.shipment.send(self._client),
            head=head_bytes(
                msgspec.structs.replace(
                    self._pattern,
                    root_id=root_id if root_id != task_id else None,
                    parent_id=parent_id,
                    group=options.get("group_id"),
                    group_index=index,
                )
            ),
            body=body,
            gather=gather,
        )


#: Options of a group that only say where it belongs.
_BELONGING = frozenset(["root_id", "parent_id"])


class Members:
    """The short way of a group's members that are plain calls: without a copy that is frozen, as nobody keeps it.

    Arguments:
        call: more arguments and keyword arguments for each.
        chord: the reference that they carry, where they are a chord's header.
        options: the group's.
    """

    __slots__ = ("_app", "_args", "_chord", "_gather", "_kwargs", "_place", "_sender", "_topics", "_usable")

    def __init__(
        self, sender: Sender, call: tuple[Any, Any], group_id: str, chord: Any, options: dict[str, Any]
    ) -> None:
        self._sender = sender
        self._app = sender.app
        self._args, self._kwargs = call
        self._chord = chord
        self._gather = gather_of(chord)
        self._place = {"group": group_id, **{key: options.get(key) for key in _BELONGING}}
        # what runs here is their parent, unless they have another
        has_parent = frames.get() is None or bool(options.get("parent_id"))
        self._usable = (
            sender.app.has_node
            and has_parent
            and _BELONGING.issuperset(options)
            and (chord is None or self._gather is not None)
        )
        self._topics = sender.topics if self._usable else ()

    def prepare(self, call: Any, index: int) -> tuple[wire.Task, Any] | None:
        """The engine's task for a call, and its result; None where it needs the long way."""
        task = call._type
        if (
            not self._usable or task is None or type(call) is not Signature or call["options"]
            or Signature.apply_async is not _apply_async or type(task).apply_async is not _task_apply_async()
            or task.app is not self._app or call._app not in (None, self._app)
            or _before.receivers or _after.receivers or _sent.receivers
        ):  # fmt: skip
            return None
        plan = task._planned()
        if not plan.usable:
            return None
        args, kwargs = call["args"], call["kwargs"]
        if not call["immutable"]:
            args = (*self._args, *args) if self._args else args
            kwargs = {**kwargs, **self._kwargs} if self._kwargs else kwargs
        self._place["group_index"] = index
        found: tuple[wire.Task, Any] | None = plan.direct(
            self._sender, args, kwargs, self._topics, self._place, self._chord, self._gather
        )
        return found

    def send(self, call: Any, index: int) -> Any:
        """Send a call; its result, or None where it needs the long way."""
        prepared = self.prepare(call, index)
        if prepared is None:
            return None
        task, result = prepared
        result._token = self._sender.dispatch(task)
        return result


#: Options that a step of a chain has in any case.
_STEPS_OPTIONS = frozenset(["task_id", "root_id", "parent_id"])

#: Options that a call in a group has in any case.
_MEMBERS_OPTIONS = frozenset(["task_id", "group_id", "group_index", "root_id", "parent_id", "chord"])


def _can_be_planned(sender: Sender, task: Task[..., Any]) -> bool:
    """Whether plain calls of the task differ in id and arguments alone."""
    from zerocelery.app.base import Celery
    from zerocelery.app.task import Task as BaseTask

    app, kind = sender.app, type(task)
    return (
        app.has_node
        and not app.conf["task_send_sent_event"]
        and task.unique_key is None
        and task.serializer in (None, "json", "application/json")
        and task.compression is None
        and task.expires is None
        and not sender.routes_by_arguments
        # whoever replaces one of these wants to see every call
        and kind.shadow_name is BaseTask.shadow_name
        and kind._apply_async is BaseTask._apply_async
        and type(app).send_task is Celery._sends_by_itself
    )


def unique_key(said: Any, name: str, args: Any, kwargs: Any) -> str | None:
    """The unique key of a call: as it was said, made by the function that was given, or of name and arguments."""
    if said is None or said is False:
        return None
    if said is True:
        named = sorted((kwargs or {}).items())
        return f"{name}({', '.join([*map(safe_repr, args or ()), *(f'{k}={safe_repr(v)}' for k, v in named)])})"
    return str(said(*(args or ()), **(kwargs or {})) if callable(said) else said)


def _result_maker(app: Celery, task: Task[..., Any]) -> Any:
    from zerocelery.app.task import Task as BaseTask

    if type(task).AsyncResult is not BaseTask.AsyncResult:
        return task.AsyncResult
    make, backend, name = app.AsyncResult, task.backend, task.name

    def result(task_id: str) -> Any:
        return make(task_id, backend, name)

    return result


def policy(task: Task[..., Any]) -> int:
    """The engine's flags for a task's acknowledgement."""
    flags = 0
    if task.acks_late:
        flags |= wire.ACK_LATE
        if task.reject_on_worker_lost:
            flags |= wire.REJECT_ON_LOST
        on_timeout = task.acks_on_timeout
        if (task.acks_on_failure_or_timeout if on_timeout is None else on_timeout) is False:
            flags |= wire.AGAIN_ON_TIMEOUT
    if task.retry_on_worker_lost:
        flags |= wire.RETRY_ON_LOST
    return flags


class Sender:
    """All that an app needs to send tasks; made anew when its settings change."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.epoch = app.epoch
        conf = app.conf
        self.router = Router.of(app)
        self.default_queue = str(conf["task_default_queue"])
        self.keep = _keep(conf["result_expires"])
        self._ships = conf["ship_callables"]
        self._serializer: str = conf["task_serializer"]
        self._compression: str | None = conf["task_compression"]
        self._timezone = app.timezone
        self._inherits_priority = bool(conf["task_inherit_parent_priority"])
        self._chord: Any = None
        self._tail = b""
        self._sends_events = bool(conf["task_send_sent_event"]) and app.has_node
        self._events: Any = None

    @property
    def aftermath(self) -> int:
        """The flag of tasks whose loss has to be stored elsewhere than on the node."""
        if not self.app.has_node or not self._keeps_elsewhere():
            return 0
        return wire.AFTERMATH

    def _keeps_elsewhere(self) -> bool:
        from zerocelery.backends.zmq import NodeBackend

        backend = self.app.backend
        return not isinstance(backend, NodeBackend) and bool(getattr(backend, "keeps_results", True))

    @property
    def routes_by_arguments(self) -> bool:
        """Whether a task's queue may depend on what it is called with."""
        from zerocelery.app.routes import MapRoute

        return any(type(route) is not MapRoute for route in self.router.routes)

    def plan(self, task: Task[..., Any]) -> Plan:
        """How plain calls of this task are sent."""
        return Plan(self, task)

    def queue_of(self, options: dict[str, Any]) -> str:
        """The name of the queue that routed options lead to."""
        return self.router.queue_name(options, self.default_queue)

    def shipment(self, task: Task[..., Any] | None) -> Shipment | None:
        """What travels with a task that workers can't import; None for all others."""
        if task is None or task.ship is False:
            return None
        wanted = self._ships if task.ship is None else task.ship
        if not self.app.has_node:
            return None
        if wanted is None:
            wanted = self.app.client.is_local_socket
        return Shipment.of(task) if wanted else None

    # ── the long way ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def topics(self) -> tuple[str, ...]:
        """Where results of what is sent here and now go."""
        out = _outgoing.get()
        return (self.app.client.producer.inbox,) if out is None or out.topics is None else out.topics

    def dispatch(self, item: wire.Task | wire.Gathering, patience: Patience | None = None) -> int:
        """Send a task or a group, by itself or with what it belongs to; gives the token to wait with."""
        client = self.app.client
        out = _outgoing.get()
        if out is None:
            return client.submit(item, patience) if isinstance(item, wire.Task) else client.gather(item)
        out.items.append(item)
        if out.streams and (len(out.items) >= _TOGETHER or time.monotonic() - out.since > _TOGETHER_SECONDS):
            self.flush_now()
        return client.producer.epoch

    def send_member(self, call: Signature, result: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> bool:
        """Send a call of a group by the short way, if that can be; whether it was."""
        if type(call).apply_async is not _apply_async or call._type is None:
            return False
        task = call._type
        if type(task).apply_async is not _task_apply_async():
            return False
        plan = task._planned()
        if not plan.usable:
            return False
        args, kwargs, options = call._merge(args, kwargs, options)
        prepared = plan.member(self, args, kwargs, options)
        if prepared is None:
            return False
        result._token = self.dispatch(prepared)
        result.ignored = plan.ignored
        return True

    def send_next(self, frame: _state.Frame, step: Any, rest: list[Any], retval: Any) -> bool:
        """Send the next of a chain with the end of the run by the short way, if that can be; whether it was."""
        run: Any = frame.source
        if (
            frame.followups is None or type(step) is not dict or step.get("subtask_type")
            or not _STEPS_OPTIONS.issuperset(step["options"]) or self._inherits_priority
            or _before.receivers or _after.receivers or _sent.receivers or Signature.apply_async is not _apply_async
        ):  # fmt: skip
            return False
        registry = self.app._tasks
        task = registry[step["task"]] if step["task"] in registry else None  # noqa: SIM401 as in send_by_name
        if task is None or type(task).apply_async is not _task_apply_async() or task.app is not self.app:
            return False
        plan = task._planned()
        if not plan.usable or plan.ignored or "send_task" in self.app.__dict__:
            return False
        args = step["args"] if step.get("immutable") else (retval, *step["args"])
        prepared = plan.next_step(run, args, step["kwargs"], step["options"], rest)
        if prepared is None:
            return False
        frame.followups.append(prepared)
        if frame.task is not None:
            frame.add_child(plan._make_result(prepared.id))
        return True

    def members(self, call: tuple[Any, Any], group_id: str, chord: Any, options: dict[str, Any]) -> Members:
        """The short way of a group's members."""
        return Members(self, call, group_id, chord, options)

    def member_body(self, args: Any, kwargs: Any, chord: Any) -> bytes | None:
        """The body of a plain call with a chord's reference, which is the same for all of a header."""
        if chord is not self._chord:
            tail = plain_value(chord)
            if tail is None:
                return None
            self._chord, self._tail = chord, tail
        body = plain_json(args, kwargs)
        if body is None:
            return None
        return b'%s,{"callbacks":null,"errbacks":null,"chain":null,"chord":%s}]' % (body[:-1], self._tail)

    @contextmanager
    def together(self) -> Iterator[bool]:
        """Send what is sent within in as few messages as may be; gives whether some of it may leave before the end."""
        out = _outgoing.get()
        if out is not None or not self.app.has_node:
            yield out is not None and out.streams
            return
        token = _outgoing.set(_Outgoing([], streams=True))
        try:
            yield True
            self.flush_now()
        finally:
            _outgoing.reset(token)

    def paced(self, items: Iterable[_T]) -> Iterator[_T]:
        """The items; where one was long in coming, what was sent for it leaves before the next is asked for."""
        slow = True  # the first one may have been waited for by whoever looked what it is
        began = time.monotonic()
        for item in items:
            slow = slow or time.monotonic() - began > _TOGETHER_SECONDS
            yield item
            if slow:
                self.flush_now()
                slow = False
            began = time.monotonic()

    @contextmanager
    def following(self, frame: _state.Frame) -> Iterator[None]:
        """Send what is sent within together with the end of the task that runs, or not at all; where its task came from
        elsewhere than a node, at once."""
        run: Any = frame.source
        if frame.followups is None or run is None:
            yield
            return
        token = _outgoing.set(_Outgoing(frame.followups, topics=run.task.topics))
        try:
            yield
        finally:
            _outgoing.reset(token)

    @contextmanager
    def catching(self) -> Iterator[list[Any]]:
        """Send nothing of what is sent within; gives the list of it."""
        out = _outgoing.get()
        caught: list[Any] = []
        token = _outgoing.set(_Outgoing(caught, topics=None if out is None else out.topics))
        try:
            yield caught
        finally:
            _outgoing.reset(token)

    def flush_now(self) -> None:
        """Let what was collected by ``together`` so far leave."""
        out = _outgoing.get()
        if out is None or not out.streams or not out.items:
            return
        items, out.items = out.items, []
        client = self.app.client
        tasks: list[wire.Task] = []
        for item in items:
            if isinstance(item, wire.Task):
                tasks.append(item)
                continue
            if tasks:
                client.submit_many(tasks)
                tasks = []
            client.gather(item)
        if tasks:
            client.submit_many(tasks)
        out.since = time.monotonic()

    def send(
        self, name: str, args: Any, kwargs: Any, task: Any, options: dict[str, Any]
    ) -> tuple[str, int | None, Any]:
        """Send one call with any options; gives its id, the token to wait with, and whether its result is ignored."""
        if not self.app.has_node:
            from zerocelery.app import publish

            unique = unique_key(options.pop("unique_key", None), name, args, kwargs)
            if unique is not None:
                raise ImproperlyConfigured(
                    f"unique_key={unique!r} needs a node (zmq://), which refuses a second message with it: "
                    "brokers can't"
                )
            task_id, ignored = publish.send(self.app, name, args, kwargs, task, options, self._ancestors)
            return task_id, None, ignored
        message = self.compose(name, args, kwargs, task, options)
        message = self._announce(message, options)
        patience = self.app.client.patience(options.get("retry"), options.get("retry_policy"))
        if patience is not None:
            self.app.client.reach(patience)  # what travels with the task goes before it
        prepared = self.prepare(message, task)
        token = self.dispatch(prepared, patience)
        self._announced(message, options)
        return message.id, token, message.ignore_result

    def prepare(self, message: TaskMessage, task: Any) -> wire.Task:
        """The engine's task for a message; its callable is on its way when this returns."""
        client = self.app.client
        plan = None if task is None else task._planned()
        return to_wire(
            message,
            topics=self.topics,
            flags=self.aftermath if plan is None else plan.flags,
            keep=self.keep,
            digest=None if plan is None or plan.shipment is None else plan.shipment.send(client),
        )

    def retry(self, task: Task[..., Any], again: Signature) -> None:
        """Send a running task again: with the end of this run where it came from a node, at once elsewhere."""
        frame = _state.frame_of(task)
        run = frame.source if frame is not None else None
        if frame is None or frame.followups is None or run is None:
            again.apply_async()
            return
        options = dict(again.options)
        original: wire.Task = run.task
        if not any(options.get(key) for key in ("queue", "routing_key", "exchange")):
            options["queue"] = original.queue
        options.setdefault("ignore_result", bool(original.flags & wire.IGNORE_RESULT))
        message = self._announce(self.compose(task.name, again.args, again.kwargs, task, options), options)
        # one that is sent again by what has heard of its loss is to be run
        flags = original.flags & ~wire.SETTLED
        prepared = to_wire(message, topics=original.topics, flags=flags, keep=original.keep, digest=original.digest)
        if original.unique is not None:  # it has the key, and keeps it
            prepared = msgspec.structs.replace(
                prepared, unique=original.unique, unique_for=original.unique_for, flags=prepared.flags | wire.UNIQUE
            )
        frame.followups.append(prepared)
        self._announced(message, options)

    def compose(self, name: str, args: Any, kwargs: Any, task: Any, options: dict[str, Any]) -> TaskMessage:
        """Parse a call into a message."""
        options = self.router.route(options, options.pop("route_name", None) or name, args, kwargs, task)
        take = options.pop
        task_id = take("task_id", None) or uuid()
        root_id, parent_id = take("root_id", None), take("parent_id", None)
        root_id, parent_id = self._ancestors(task_id, root_id, parent_id, options)
        stamped = list(take("stamped_headers", None) or ())
        eta, countdown = take("eta", None), take("countdown", None)
        time_limit, soft_time_limit = take("time_limit", None), take("soft_time_limit", None)
        queue = self.queue_of(options)
        declared = take("queue", None)
        exchange = take("exchange", None) or getattr(declared, "exchange", None)
        inputs, args = None, _positional(args)
        if args and type(args[0]) is Results:
            inputs, args = args[0].shape, (None, *args[1:])
        return TaskMessage(
            id=task_id,
            task=name,
            args=args,
            kwargs=_keywords(kwargs),
            callbacks=_several(take("link", None)),
            errbacks=_several(take("link_error", None)),
            chain=take("chain", None),
            chord=take("chord", None),
            eta=self._moment(eta, countdown),
            expires=self._expiry(take("expires", None)),
            retries=take("retries", None) or 0,
            timelimit=(time_limit, soft_time_limit),
            unique=unique_key(take("unique_key", None), name, args, _keywords(kwargs)),
            unique_for=take("unique_for", None) or 0,
            root_id=root_id,
            parent_id=parent_id,
            group=take("group_id", None),
            group_index=take("group_index", None),
            shadow=take("shadow", None),
            origin=take("origin", None) or _message.origin(),
            argsrepr=take("argsrepr", None),
            kwargsrepr=take("kwargsrepr", None),
            ignore_result=take("ignore_result", None),
            reply_to=take("reply_to", None) or "",
            replaced_task_nesting=take("replaced_task_nesting", None) or 0,
            stamped_headers=stamped or None,
            stamps={stamp: take(stamp, None) for stamp in stamped},
            queue=queue,
            exchange=getattr(exchange, "name", exchange) or None,
            routing_key=take("routing_key", None) or getattr(declared, "routing_key", None) or queue,
            priority=take("priority", None),
            delivery_mode=take("delivery_mode", None),
            serializer=take("serializer", None) or self._serializer,
            compression=take("compression", None) or self._compression,
            headers=dict(take("headers", None) or {}),
            properties={key: value for key, value in options.items() if key not in _DROPPED},
            inputs=inputs,
        )

    def _ancestors(
        self, task_id: str, root_id: str | None, parent_id: str | None, options: dict[str, Any]
    ) -> tuple[str, str | None]:
        """Root and parent: those given, or else the task that runs here."""
        if not root_id or not parent_id:
            frame = _state.worker_frame()
            if frame is not None:
                request = frame.request
                root_id = root_id or request.root_id or request.id
                parent_id = parent_id or request.id
                if self.app.conf["task_inherit_parent_priority"] and options.get("priority") is None:
                    options["priority"] = (request.delivery_info or {}).get("priority")
        return root_id or task_id, parent_id

    def _moment(self, eta: Any, countdown: float | None) -> datetime | None:
        if countdown is not None and not eta:
            return datetime.fromtimestamp(time.time() + float(countdown), timezone.utc) if countdown else None
        return self._aware(eta) if eta else None

    def _expiry(self, expires: Any) -> datetime | None:
        if expires is None:
            return None
        if isinstance(expires, timedelta):
            expires = expires.total_seconds()
        if isinstance(expires, (int, float)):
            return datetime.fromtimestamp(time.time() + max(float(expires), 0.0), timezone.utc)
        return self._aware(expires)

    def _aware(self, moment: Any) -> datetime:
        """A moment in UTC; a naive one is in the app's zone."""
        from zerocelery.utils.time import to_timestamp

        return datetime.fromtimestamp(to_timestamp(moment, self._timezone), timezone.utc)

    # ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _announce(self, message: TaskMessage, options: dict[str, Any]) -> TaskMessage:
        if not _before.receivers:
            return message
        headers, properties, body = message.protocol_headers(), message.protocol_properties(), message.body
        conf = self.app.conf
        _before.send(
            sender=message.task,
            body=body,
            exchange=message.exchange or "",
            routing_key=message.routing_key,
            declare=[],
            headers=headers,
            properties=properties,
            retry_policy={**conf["task_publish_retry_policy"], **(options.get("retry_policy") or {})},
        )
        return _message.with_receivers_changes(message, headers, properties, body)

    def _tell_sent(self, message: TaskMessage, options: dict[str, Any]) -> None:
        """Send the event that a task was sent, if anybody listens; by the caller's own producer where there is one."""
        headers = message.protocol_headers()
        fields = {
            "uuid": message.id,
            "root_id": message.root_id,
            "parent_id": message.parent_id,
            "name": message.task,
            "args": headers["argsrepr"],
            "kwargs": headers["kwargsrepr"],
            "retries": message.retries,
            "eta": headers["eta"],
            "expires": headers["expires"],
            "queue": message.queue,
            "exchange": message.exchange or "",
            "routing_key": message.routing_key or message.queue,
        }
        app, producer = self.app, options.get("producer")
        if producer is not None:
            conf, retry = app.conf, options.get("retry")
            app.amqp._event_dispatcher.publish(
                "task-sent",
                fields,
                producer,
                retry=conf["task_publish_retry"] if retry is None else retry,
                retry_policy={**conf["task_publish_retry_policy"], **(options.get("retry_policy") or {})},
            )
            return
        if self._events is None:
            from zerocelery.events.stream import NodeDispatcher

            own = app.client.producer
            self._events = NodeDispatcher(own.cast, own.is_watched, app=app)
        self._events.send("task-sent", **fields)

    def _announced(self, message: TaskMessage, options: dict[str, Any]) -> None:
        if self._sends_events:
            self._tell_sent(message, options)
        if _after.receivers:
            _after.send(
                sender=message.task,
                body=message.body,
                headers=message.protocol_headers(),
                exchange=message.exchange or "",
                routing_key=message.routing_key,
            )
        if _sent.receivers:
            _sent.send(
                sender=message.task,
                task_id=message.id,
                task=message.task,
                args=message.args,
                kwargs=message.kwargs,
                eta=message.eta,
                taskset=message.group,
            )


def _task_apply_async() -> Any:
    from zerocelery.app.task import Task as BaseTask

    return BaseTask.apply_async


def send_by_name(app: Celery, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    """What ``app.send_task`` does once its arguments are in one dict; gives the AsyncResult."""
    task = options.pop("task_type", None)
    if task is None:
        if app.conf["task_always_eager"]:
            warnings.warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=3)
        registry = app._tasks
        task = registry[name] if name in registry else None  # noqa: SIM401  people's own need not have get()
        own = getattr(task, "_get_exec_options", None)
        if ismethod(own):  # of a task, and not of a class of tasks
            options = {**own(), **options}
    make = options.pop("result_cls", None) or app.AsyncResult
    add_to_parent = options.pop("add_to_parent", True)
    task_id, token, ignored = app.sender.send(name, args, kwargs, task, options)
    result = make(task_id)
    result.ignored = ignored
    result._token = token
    if add_to_parent:
        frame = _state.worker_frame()
        if frame is not None and frame.task is not None:
            frame.task.add_trail(result)
    return result


def _positional(args: Any) -> Any:
    if args is None:
        return ()
    if isinstance(args, (list, tuple)):
        return args
    raise TypeError("task args must be a list or tuple")


def _keywords(kwargs: Any) -> dict[str, Any]:
    if kwargs is None:
        return {}
    if hasattr(kwargs, "items"):
        return kwargs  # type: ignore[no-any-return]
    raise TypeError("task keyword arguments must be a mapping")


def _several(value: Any) -> list[Any] | None:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return list(value) or None
    return [value]


def _keep(expires: Any) -> float | None:
    """Seconds that results are kept, as the engine wants them: None is its own default."""
    if isinstance(expires, timedelta):
        expires = expires.total_seconds()
    if not expires:
        return _FOREVER
    return None if float(expires) == _USUAL_KEEP else float(expires)
