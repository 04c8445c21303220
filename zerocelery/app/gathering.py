"""Chords on a node: the header's members count in a group of the engine, whose body is the chord's.

The body travels once, with the group. What a member's message has in the place of ``chord`` is a reference: the body's
name and id, and the group's id as ``gather``; it goes wherever Celery passes the chord on (retries, replacements, the
last step of a chain).

A body that is one call is an engine's task whose first argument the worker fills in. One that is a group or a chord is
a message of no task: the worker sends what is in it. Where a member has failed, either comes with a verdict, and the
worker ends it with ChordError.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw

from zerocelery import _state, states
from zerocelery._ids import uuid
from zerocelery.app import codec, links
from zerocelery.app.context import Context
from zerocelery.app.message import Head, gather_of, head_bytes
from zerocelery.app.sending import Results
from zerocelery.canvas.chains import _chain, as_sent, hand_on
from zerocelery.canvas.chords import _chord
from zerocelery.canvas.groups import group, maybe_unroll_group
from zerocelery.canvas.lazy import LazyList, several
from zerocelery.canvas.signature import maybe_signature
from zerocelery.engine import wire
from zerocelery.engine.strategy import Outcome
from zerocelery.exceptions import ChordError
from zerocelery.result import GroupResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zerocelery.app.base import Celery
    from zerocelery.app.sending import Sender

logger = logging.getLogger("celery.app.trace")

#: What a message of no task says that it is.
CANVAS = "celery.chord"


def reference(gather: str, body: Any) -> dict[str, Any]:
    """What a member's message has in the place of its chord."""
    options = {"task_id": body.options.get("task_id"), "gather": gather}
    return {
        "task": body["task"],
        "args": [],
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": False,
    }


# ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def start_chord(
    app: Celery,
    header: Any,
    group_id: str,
    body: Any,
    body_result: Any,
    call: tuple[Any, Any],
    options: dict[str, Any],
    *,
    add_to_parent: bool = True,
    **unlock: Any,
) -> Any:
    """Send a header, and see to it that its body follows; gives the header's result.

    Arguments:
        body: frozen.
        call: more arguments and keyword arguments for the header's calls.
        options: for the header's calls.
        unlock: how a backend that can't count looks after the header.
    """
    if not app.has_node:
        return _start_elsewhere(app, header, group_id, body, call, options, add_to_parent, unlock)
    args, kwargs = call
    producer = options.pop("producer", None)
    gather = uuid()
    place = reference(gather, body)
    sender = app.sender
    with sender.together() as streams:
        members = _members(app, header, group_id, place, (args, kwargs, producer, options))
        if streams and isinstance(header.tasks, LazyList) and not header.tasks.exhausted:
            results = _stream(app, members, gather, body, body_result)
        else:
            ready = list(members)
            results = [result for result, _ in ready]
            if ready:
                ids, shape = _leaves(results)
                body_result._token = sender.dispatch(_gathering(app, gather, ids, body, shape))
            for _, send in ready:
                send()
    if not results:
        hand_on(body.apply_async(([],), add_to_parent=False), body_result)
    return header.result_of(app, group_id, results, add_to_parent)


def _members(
    app: Celery, header: Any, group_id: str, place: dict[str, Any], call: tuple[Any, ...]
) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """The result of each of a header's calls, and what sends it."""
    args, kwargs, producer, options = call
    short = app.sender.members((args, kwargs), group_id, place, options) if producer is None else None
    index = 0
    for task in header._flat(header.tasks, header._app):
        prepared = short.prepare(task, index) if short is not None else None
        if prepared is not None:
            yield prepared[1], partial(_dispatch, app.sender, *prepared)
        else:
            member = header._frozen(task, group_id, index, chord=place, root_id=options.get("root_id"))
            if member is None:
                continue
            yield member[1], partial(header.send_member, *member, *call)
        index += 1


def _dispatch(sender: Sender, task: wire.Task, result: Any) -> Any:
    result._token = sender.dispatch(task)
    return result


def _stream(
    app: Celery, members: Iterator[tuple[Any, Callable[[], Any]]], gather: str, body: Any, body_result: Any
) -> list[Any]:
    """Send members as a generator makes them; their number is told when it has ended."""
    results: list[Any] = []
    for _, send in app.sender.paced(members):
        if not results:
            body_result._token = app.sender.dispatch(_gathering(app, gather, None, body, True))
        results.append(send())
    if results:
        app.sender.flush_now()
        ids, _ = _leaves(results)
        app.client.grow(gather, ids, close=True)
    return results


def _start_elsewhere(
    app: Celery,
    header: Any,
    group_id: str,
    body: Any,
    call: tuple[Any, Any],
    options: dict[str, Any],
    add_to_parent: bool,
    unlock: dict[str, Any],
) -> Any:
    """The way of brokers that count nothing: by the result backend."""
    args, kwargs = call
    producer = options.pop("producer", None)
    body = as_sent(body)
    frozen = list(header.members(group_id, chord=body, root_id=options.get("root_id")))
    results = [result for _, result in frozen]
    if not frozen:
        body.apply_async(([],))
        return header.result_of(app, group_id, results, add_to_parent)
    app.backend.apply_chord((group_id, results), body, countdown=1, **unlock)
    sizes = sum(len(_leaves([result])[0]) for result in results)
    for index, (task, result) in enumerate(frozen):
        if index == len(frozen) - 1:
            app.backend.set_chord_size(group_id, sizes)
        header.send_member(task, result, args, kwargs, producer, options)
    return header.result_of(app, group_id, results, add_to_parent)


def _leaves(results: list[Any]) -> tuple[list[str], Any]:
    """The ids of all tasks in a header's results, and how they are nested (True: not at all)."""
    ids: list[str] = []

    def walk(one: Any) -> Any:
        if isinstance(one, GroupResult):
            return [walk(member) for member in one.results]
        ids.append(one.id)
        return None

    shape = [walk(result) for result in results]
    return ids, shape if any(one is not None for one in shape) else True


def _gathering(app: Celery, gather: str, ids: list[str] | None, body: Any, shape: Any) -> wire.Gathering:
    """The engine's group for a header and its body."""
    task, collect, delay, lifetime = _compose(app, body, shape)
    return wire.Gathering(
        id=gather,
        members=ids or [],
        closed=ids is not None,
        body=Raw(wire.encode(task)),
        collect=collect,
        delay=delay,
        lifetime=lifetime,
    )


def _compose(app: Celery, body: Any, shape: Any) -> tuple[wire.Task, bool, float | None, float | None]:
    """The engine's task for a body; whether it wants the results; its delay and lifetime from the last result on."""
    first = first_call(body)
    if first is None or isinstance(_first_step(body), (group, _chord)):
        return _canvas_task(app, body, first, shape), True, None, None
    sender = app.sender
    with sender.catching() as caught:
        body.apply_async((Results(shape),), add_to_parent=False)
    task: wire.Task = caught[0]
    now = time.time()
    delay = lifetime = None
    if task.eta is not None and first.options.get("countdown"):
        delay = task.eta - now
        task = msgspec.structs.replace(task, eta=None)
    if task.expires is not None and not isinstance(first.options.get("expires"), (datetime, str)):
        lifetime = task.expires - now
        task = msgspec.structs.replace(task, expires=None)
    return task, not first.immutable, delay, lifetime


def _canvas_task(app: Celery, body: Any, first: Any, shape: Any) -> wire.Task:
    """The message that has a worker send a canvas with the results."""
    sender = app.sender
    copy = as_sent(body)
    options = sender.router.route(dict(first.options) if first is not None else {}, body["task"], (), {}, None)
    content_type, encoding, data = codec.dumps([[copy], {}, {}], app.conf["task_serializer"])
    head = Head(
        content_type=content_type,
        content_encoding=encoding,
        root_id=body.options.get("root_id"),
        inputs=shape,
        canvas=True,
    )
    return wire.Task(
        id=uuid(),
        name=CANVAS,
        queue=sender.queue_of(options),
        priority=min(max(int(options.get("priority") or 0), 0), 255),
        flags=wire.IGNORE_RESULT | wire.AFTERMATH,
        topics=sender.topics,
        head=head_bytes(head),
        body=data,
    )


def _first_step(body: Any) -> Any:
    """What comes first in a chain; all else itself."""
    while isinstance(body, (_chain, group)):
        if isinstance(body, group):
            unrolled = maybe_unroll_group(body)
            if unrolled is body:
                return body
            body = maybe_signature(unrolled)
        else:
            steps = [step for task in body.tasks if not _is_nothing(step := maybe_signature(task))]
            if not steps:
                return body
            body = steps[0]
    return body


def _is_nothing(step: Any) -> bool:
    if isinstance(step, (group, _chain)):
        return all(_is_nothing(maybe_signature(task)) for task in step.tasks)
    return False


def first_call(body: Any) -> Any:
    """The first call of one task in a canvas."""
    body = _first_step(body)
    while isinstance(body, (group, _chord, _chain)):
        tasks = body.tasks.tasks if isinstance(body, _chord) and isinstance(body.tasks, group) else body.tasks
        if not tasks:
            return None
        body = _first_step(maybe_signature(tasks[0]))
    return body


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_results(args: Any, shape: Any, inputs: list[bytes], backend: Any) -> list[Any]:
    """A body's arguments, with the results in the place that was left for them."""
    return [nested(shape, values_of(inputs, backend)), *args[1:]]


def values_of(inputs: list[bytes], backend: Any) -> list[Any]:
    """The values of a group's results.

    Raises:
        Exception: one of them can't be read here.
    """
    values = []
    for raw in inputs:
        result = wire.decode_result(raw)
        if isinstance(result, wire.Malformed):
            raise ValueError(f"a result that can't be read came with the chord's body: {result.reason}")
        values.append(backend.value_from(result))
    return values


def nested(shape: Any, values: list[Any]) -> list[Any]:
    """A flat list of results as their groups are nested; what is left over comes last."""
    if shape is True:
        return values
    left = iter(values)

    def fill(part: Any) -> Any:
        return next(left, None) if part is None else [fill(one) for one in part]

    return [*(fill(one) for one in shape), *left]


def parent_of(task: wire.Task) -> str | None:
    """The id of the member that has started a body: the last one there is of it."""
    if not task.inputs:
        return None
    result = wire.decode_result_head(task.inputs[-1])
    return result.id if isinstance(result, wire.ResultHead) else None


def run_canvas(app: Celery, task: wire.Task, head: Head, args: Any, backend: Any) -> Outcome:
    """Send the canvas in a message of no task, with the results that came with it."""
    canvas = maybe_signature(args[0], app=app)
    run = _Run(task, backend)
    frame = _state.Frame(None, run, followups=[])
    try:
        results = nested(head.inputs, values_of(task.inputs, backend))
        with app.sender.following(frame):
            canvas.apply_async((results,), add_to_parent=False, root_id=head.root_id, parent_id=parent_of(task))
    except Exception as error:
        logger.exception("The body %r of a chord can't be sent", canvas)
        return fail_canvas(app, task, canvas, ChordError(f"Callback error: {error!r}"), backend)
    return Outcome(states.SUCCESS, store=False, followups=frame.followups or ())


class _Run:
    """Where a frame that belongs to no task finds the message that it is for."""

    is_eager = False
    worker = None

    def __init__(self, task: wire.Task, backend: Any) -> None:
        self.task = task
        self.backend = backend
        self.id = task.id

    def context(self) -> Context:
        return Context(id=self.task.id)


# ── failing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def verdict_error(task: wire.Task, backend: Any) -> tuple[BaseException, bool]:
    """The exception that a task with a verdict ends with, and whether that is its own."""
    verdict = wire.decode_result(task.verdict)
    if isinstance(verdict, wire.Malformed):
        return ChordError(f"a part of the chord has failed, and how can't be read: {verdict.reason}"), False
    try:
        error = backend.value_from(verdict)
    except Exception as unreadable:
        error = unreadable
    if not isinstance(error, BaseException):
        error = ChordError(f"it ended in state {verdict.state}")
    if verdict.id == task.id:
        return error, True
    return ChordError(f"Dependency {verdict.id} raised {error!r}"), False


def fail_canvas(app: Celery, task: wire.Task, canvas: Any, error: BaseException, backend: Any) -> Outcome:
    """End all that would have come of a canvas, and call the errbacks in it."""
    frame = _state.Frame(None, _Run(task, backend), followups=[])
    encoded = backend.encode_exception(error, {})
    endings: list[wire.Ending] = []
    for call, errbacks in failures(canvas):
        endings.extend(_ending(app, call, encoded, task.topics))
        if errbacks:
            call_frame = _state.Frame(None, _Run(task, backend), request=request_for(call), followups=frame.followups)
            links.call_errbacks(app, call_frame, errbacks, error, None)
    return Outcome(states.FAILURE, store=False, followups=frame.followups or (), endings=endings)


def request_for(call: Any) -> Context:
    """The request that a call would have had."""
    options = call.options
    return Context(
        id=options.get("task_id"),
        task=call["task"],
        args=call.args,
        kwargs=call.kwargs,
        root_id=options.get("root_id"),
        parent_id=options.get("parent_id"),
        group=options.get("group_id"),
        errbacks=several(options.get("link_error")),
        called_directly=False,
        delivery_info={},
    )


def failures(canvas: Any, errbacks: Any = ()) -> Iterator[tuple[Any, list[Any]]]:
    """The calls in a canvas whose results somebody may wait for, each with the errbacks to be called for it."""
    canvas = maybe_signature(canvas)
    own = [*several(canvas.options.get("link_error")), *errbacks]
    if isinstance(canvas, group):
        for task in canvas.tasks:
            yield from failures(task, own)
    elif isinstance(canvas, _chord):
        if canvas.body is not None:
            yield from failures(canvas.body, own)
    elif isinstance(canvas, _chain):
        for index, step in enumerate(canvas.tasks):
            for call, its in failures(step, own):
                yield call, its if index == 0 else []
    else:
        yield canvas, own


def chain_endings(
    app: Celery, chain: Any, error: BaseException, backend: Any, topics: tuple[str, ...]
) -> list[wire.Ending]:
    """The ends of all that would have followed a failed task in its chain (the next step last)."""
    encoded = backend.encode_exception(error, {})
    return [
        ending
        for step in reversed(chain)
        for call, _ in failures(step)
        for ending in _ending(app, call, encoded, topics)
    ]


def _ending(
    app: Celery, call: Any, encoded: tuple[str, bytes, bytes], topics: tuple[str, ...]
) -> Iterator[wire.Ending]:
    task_id = call.options.get("task_id")
    if not task_id:
        return
    content_type, value, info = encoded
    raw = wire.encode_result(task_id, states.FAILURE, True, content_type, value, info, time.time())
    yield wire.Ending(
        result=Raw(raw),
        store=not call.options.get("ignore_result"),
        topics=topics,
        keep=app.sender.keep,
        gather=gather_of(call.options.get("chord")),
    )


def ignored_ending(task: wire.Task) -> wire.Ending:
    """The end of a member that said Ignore: it has no result, and its chord must not wait for one for ever."""
    raw = wire.encode_result(task.id, states.IGNORED, True, "", b"", b"", time.time())
    return wire.Ending(result=Raw(raw), store=False, gather=task.gather)
