"""Tasks run on the spot: ``apply()`` and task_always_eager."""

from __future__ import annotations

from typing import Any

from zerocelery import _state, states
from zerocelery._ids import uuid
from zerocelery.app import trace as _trace
from zerocelery.app.context import Context
from zerocelery.app.einfo import ExceptionInfo
from zerocelery.exceptions import Retry
from zerocelery.result import EagerResult
from zerocelery.utils.nodenames import gethostname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.task import Task


def apply_eagerly(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], call: dict[str, Any], options: dict[str, Any]
) -> EagerResult[Any]:
    """Run a task here; a retry is another run here. See :meth:`Task.apply`."""
    app = task.app
    throw = app.conf["task_eager_propagates"] if call["throw"] is None else call["throw"]
    task_id = call["task_id"] or uuid()
    request = _request(task, task_id, call, options)
    tracer = _trace.build_tracer(task.name, task, eager=True, propagate=throw, app=app)
    task.request_stack.push(Context(request, args=args, kwargs=kwargs, called_directly=False))
    try:
        answer = tracer(task_id, args, kwargs, request)
    finally:
        task.request_stack.pop()
    retval: Any = answer.retval
    traceback: str | None = None
    if isinstance(retval, ExceptionInfo):
        traceback = retval.traceback
        retval = retval.exception
    if isinstance(retval, Retry) and retval.sig is not None:
        again: EagerResult[Any] = retval.sig.apply(retries=request["retries"] + 1, throw=call["throw"])
        return again
    state = states.SUCCESS if answer.info is None else answer.info.state
    return EagerResult(task_id, retval, state, traceback=traceback, name=task.name)


def _request(task: Task[..., Any], task_id: str, call: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    above = _state.running_frame()
    parent = above.request if above is not None and above.task is not None else None
    limits = task.time_limit, task.soft_time_limit
    request = {
        "id": task_id,
        "task": task.name,
        "parent_id": parent.id if parent is not None else None,
        "root_id": (parent.root_id if parent is not None else None) or task_id,
        "retries": call["retries"] or 0,
        "is_eager": True,
        "logfile": call["logfile"],
        "loglevel": call["loglevel"] or 0,
        "hostname": gethostname(),
        "callbacks": _several(call["link"]),
        "errbacks": _several(call["link_error"]),
        "headers": call["headers"],
        "timelimit": None if limits == (None, None) else list(limits),
        "ignore_result": options.get("ignore_result", task.ignore_result),
        "delivery_info": {
            "is_eager": True,
            "exchange": options.get("exchange"),
            "routing_key": options.get("routing_key"),
            "priority": options.get("priority"),
        },
    }
    stamped = options.get("stamped_headers")
    if stamped is not None:
        names = _several(stamped) or []
        request["stamped_headers"] = names
        request["stamps"] = {name: _several(options.get(name)) or [] for name in names}
    return request


def _several(value: Any) -> list[Any] | None:
    return value if value is None or isinstance(value, list) else [value]


__all__ = ("apply_eagerly",)
