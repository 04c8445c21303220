"""What fails with a task: the chord whose member it is, the rest of its chain, and whoever wanted to hear of it.

Functions over a backend; the published methods of the same names are in :mod:`zerocelery.backends.base`.
"""

from __future__ import annotations

import inspect
import sys
import traceback as _traceback
from typing import Any

from zerocelery import states
from zerocelery._ids import uuid
from zerocelery.app.context import Context
from zerocelery.app.einfo import ExceptionInfo
from zerocelery.canvas import maybe_signature
from zerocelery.exceptions import ChordError
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zerocelery.app.base import Celery

logger = get_logger("celery.backends.base")

_UNLOCK = "celery.chord_unlock"
_ROUTING = ("exchange", "routing_key", "headers")


def _create_chord_error_with_cause(message: Any, original_exc: Any = None) -> ChordError:
    """A ChordError that was caused by an exception, if it is one."""
    error = ChordError(message)
    if isinstance(original_exc, BaseException):
        error.__cause__ = original_exc
    return error


def _create_fake_task_request(task_id: str, errbacks: Any = None, task_name: str = "unknown", **extra: Any) -> Context:
    """The request of a task that never had one."""
    return Context({"id": task_id, "errbacks": errbacks or [], "delivery_info": {}, "task": task_name, **extra})


def join_failure(members: Any, error: Exception) -> str:
    """Why a chord's header could not be joined."""
    culprit = next(iter(members._failed_join_report()), None)
    return f"Dependency {culprit.id} raised {error!r}" if culprit is not None else repr(error)


def fail_from_current_stack(backend: Any, task_id: str, exc: BaseException | None) -> Any:
    """Mark a task as failed with the exception that is being handled; its frames are let go."""
    kind, value, tb = sys.exc_info()
    error = exc if exc is not None else value
    try:
        about: Any = (kind or type(error), error, tb)
        info = ExceptionInfo(about)
        backend.mark_as_failure(task_id, error, info.traceback)
        return info
    finally:
        if tb is not None:
            _traceback.clear_frames(tb)
        del tb


# ── errbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def call_errbacks(
    app: Celery, request: Any, exc: BaseException, traceback: Any, *, make_group: Callable[..., Any]
) -> None:
    """Call the errbacks that take request, exception and traceback here; send all others the task's id."""
    old: list[Any] = []
    for one in request.errbacks:
        errback = maybe_signature(one, app=app)
        if errback is None:
            continue
        task = app.tasks.get(errback["task"]) if hasattr(app, "tasks") else None
        if task is None or not _takes_the_error(task, errback):
            old.append(errback)
            continue
        try:
            errback(request, exc, traceback)
        except Exception:
            logger.exception("Error callback %r of task %s failed", errback["task"], request.id)
    if not old:
        return
    family = {"parent_id": request.id, "root_id": request.root_id or request.id}
    together = make_group(old, app=app)
    delivery = request.delivery_info if isinstance(request.delivery_info, dict) else {}
    if app.conf["task_always_eager"] or delivery.get("is_eager", False):
        together.apply((request.id,), **family)
    else:
        together.apply_async((request.id,), **family)


def _takes_the_error(task: Any, errback: Any) -> bool:
    """Whether the errback is of the kind that is called with request, exception and traceback."""
    run: Any = getattr(task, "run", None)
    try:
        signature = inspect.signature(run)
    except (TypeError, ValueError):
        return False
    positional = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    more = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    if len(positional) < 2 and not more:
        return False
    if errback.immutable:
        return True  # it gets none of them anyway
    try:
        # with its own arguments it may be one that wants the id and no more
        signature.bind("task_id", *errback.args, **errback.kwargs)
    except TypeError:
        return True
    return False


# ── chains ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def fail_chain(backend: Any, chain: Any, exc: BaseException, *, traceback: Any, state: str) -> None:
    """Give every task that would have followed the error as its result."""
    for element in chain:
        signature = maybe_signature(element, app=backend.app)
        body = _last_body(signature)
        if body is None:
            continue
        if _is_group(body):  # whoever waits for a group waits for its members
            for member in _leaves(body.freeze()):
                _fail_element(backend, member.id, {}, exc, traceback=traceback, state=state)
        task_id = body.options.get("task_id")
        if not task_id:
            continue
        _fail_element(backend, task_id, body.options, exc, traceback=traceback, state=state)


def _leaves(result: Any) -> Iterator[Any]:
    """The results of single tasks that a group's result is made of."""
    for member in result.results:
        if getattr(member, "results", None) is not None:
            yield from _leaves(member)
        else:
            yield member


def _last_body(signature: Any) -> Any:
    """What a chord's result is the result of; another signature is its own."""
    while signature is not None and getattr(signature, "subtask_type", None) == "chord":
        signature = signature.body
    return signature


def _fail_element(backend: Any, task_id: str, options: Any, exc: BaseException, *, traceback: Any, state: str) -> None:
    chord = options.get("chord")
    if chord is not None:
        backend.ensure_chords_allowed()
        if backend.get_state(task_id) in states.READY_STATES:
            return  # its chord has been told
    backend.store_result(task_id, exc, state, traceback=traceback)
    if chord is not None:
        request = _create_fake_task_request(
            task_id, chord=chord, group=options.get("group_id"), group_index=options.get("group_index")
        )
        backend.on_chord_part_return(request, state, exc)


# ── chords ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def chord_error(backend: Any, callback: Any, exc: BaseException | None) -> Any:
    """Fail a chord's body and what follows it; of a body that is a chord itself, which is never sent, its own body."""
    app = backend.app
    error = exc if exc is not None else sys.exc_info()[1]
    around: list[Any] = []
    chain: list[Any] = []
    while getattr(callback, "subtask_type", None) == "chord" and callback.body is not None:
        around += _several(callback.options.get("link_error"))
        chain += _several(callback.options.get("chain"))
        callback = maybe_signature(callback.body, app=app)
    task = app.tasks.get(callback.task) if callback.task in app._tasks else None
    of_body = task.backend if task is not None else backend
    following = callback.options.get("chain") if hasattr(callback.options, "get") else None
    if isinstance(following, (list, tuple)):  # what stands in for a signature in tests may answer with anything
        chain += following
    if _is_group(callback):
        outcome = backend._handle_group_chord_error(group_callback=callback, backend=of_body, exc=error)
        _fail_rest(backend, chain, error)
        return outcome
    task_id = callback.id
    if not task_id:
        task_id = callback.options["task_id"] = uuid()
    options = {key: value for key, value in callback.options.items() if key not in ("id", "errbacks", "task_id")}
    errbacks = _unique([*_several(callback.options.get("link_error")), *around])
    request = Context({**options, "id": task_id, "errbacks": errbacks, "delivery_info": {}})
    request.chain = None
    try:
        backend._call_task_errbacks(request, error, None)
    except Exception as raised:
        error = raised
    _fail_rest(backend, chain, error)
    return of_body.fail_from_current_stack(task_id, exc=error)


def _fail_rest(backend: Any, chain: Any, error: BaseException | None) -> None:
    if isinstance(chain, (list, tuple)) and chain and error is not None:
        backend._fail_chain(chain, error)


def _is_group(callback: Any) -> bool:
    from zerocelery.canvas import group

    return isinstance(callback, group)


def group_error(backend: Any, callback: Any, of_body: Any, exc: BaseException | None) -> Any:
    """Fail every member of a chord's body that is a group."""
    error = exc.__cause__ if isinstance(exc, ChordError) and exc.__cause__ is not None else exc
    try:
        frozen = callback.freeze()
        own = dict(_errbacks_by_id(callback, backend.app))
        shared = _several(callback.options.get("link_error"))
        for member in frozen.results:
            _fail_member(of_body, member, _unique([*own.get(member.id, ()), *shared]), error)
        of_body.mark_as_failure(frozen.id, error)
        # a revoke leaves alone what is ready: so that comes first
        frozen.revoke()
    except Exception as raised:
        logger.exception("Failed to handle chord error of group %r", getattr(callback, "id", None))
        return of_body.fail_from_current_stack(callback.id, exc=raised)
    return None


def _fail_member(backend: Any, member: Any, errbacks: list[Any], error: Any) -> None:
    try:
        request = _create_fake_task_request(member.id, errbacks, getattr(member, "task", None) or "unknown")
        try:
            backend._call_task_errbacks(request, error, None)
        except Exception as raised:
            error = raised
        backend.fail_from_current_stack(member.id, exc=error)
    except Exception:
        logger.exception("Failed to handle chord error for task %s", member.id)


def _errbacks_by_id(callback: Any, app: Any) -> Any:
    for one in callback.tasks:
        task = maybe_signature(one, app=app)
        errbacks: list[Any] = []
        while getattr(task, "subtask_type", None) == "chord":
            errbacks += _several(task.options.get("link_error"))
            task = task.body
            if task is None:
                break
        if task is None:
            continue
        errbacks += _several(task.options.get("link_error"))
        for member in task.tasks if getattr(task, "subtask_type", None) == "group" else ():
            errbacks += _several(maybe_signature(member, app=app).options.get("link_error"))
        yield task.options.get("task_id"), _unique(errbacks)


def _several(value: Any) -> list[Any]:
    if not value:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _unique(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def send_chord_unlock(app: Celery, header: Any, body: Any, *, countdown: float | None, **kwargs: Any) -> None:
    """Send the task that looks whether the header is done, by the body's own route."""
    kwargs["result"] = [one.as_tuple() for one in header]
    options = _body_options(app, body)
    queue = options.get("queue")
    name = getattr(queue, "name", queue)
    priority = options.get("priority", 0) if hasattr(body, "options") else 0
    routed: dict[str, Any] = {key: options[key] for key in _ROUTING if options.get(key) is not None}
    stamped = set(options.get("stamped_headers") or ()) if options else set()
    if "headers" in routed and (stamped or not isinstance(routed["headers"], dict)):
        del routed["headers"]
    exchange_type = options.get("exchange_type") or _exchange_type(app, name)
    if exchange_type:
        kwargs["_chord_unlock_exchange_type"] = exchange_type
        routed["exchange_type"] = exchange_type
    app.tasks[_UNLOCK].apply_async(
        (header.id, body), kwargs, countdown=countdown, queue=name, priority=priority, **routed
    )


def _body_options(app: Any, body: Any) -> dict[str, Any]:
    task = app._tasks.get(body.name)
    options = dict(body.options)
    if not options.get("queue"):
        own = getattr(task, "queue", None)
        if own:
            options["queue"] = own
        else:
            routed = app.amqp.router.route(dict(options), body.name, body.args, body.kwargs)
            if routed.get("queue") is not None:
                options["queue"] = routed["queue"]
    return options


def _exchange_type(app: Any, queue: Any) -> str | None:
    found = app.amqp.queues.get(queue) if isinstance(queue, str) else None
    exchange = getattr(found, "exchange", None)
    return getattr(exchange, "type", None)
