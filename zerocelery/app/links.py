"""What follows a task: callbacks and the next of a chain when it has succeeded, errbacks when it has failed."""

from __future__ import annotations

import logging
from typing import Any

from zerocelery.canvas.signature import maybe_signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery._state import Frame
    from zerocelery.app.base import Celery
    from zerocelery.app.einfo import ExceptionInfo

logger = logging.getLogger("celery.app.trace")


def send_callbacks(app: Celery, frame: Frame, embed: dict[str, Any], retval: Any) -> None:
    """Send the callbacks, then the next of the chain, each with the result; they are this task's children."""
    options = _family(frame)
    chain = embed.get("chain")
    following: list[tuple[Any, dict[str, Any]]] = [(callback, {}) for callback in embed.get("callbacks") or ()]
    if chain:
        following.append((chain[-1], {"chain": chain[:-1]}))
    for one, more in following:
        result = app.sender.follow(frame, maybe_signature(one, app=app), (retval,), {**options, **more})
        if frame.task is not None:
            frame.task.add_trail(result)


def call_errbacks(app: Celery, frame: Frame, errbacks: list[Any], error: BaseException, einfo: ExceptionInfo) -> None:
    """Call or send the errbacks.

    One that takes more than the failed task's id is called here with request, exception and traceback, if this process
    has it; all others are sent with the id.
    """
    request = frame.request
    for one in errbacks:
        errback = maybe_signature(one, app=app)
        task = errback._known_type()
        try:
            if task is not None and not errback.immutable and _takes_more_than_id(task):
                task(request, error, einfo.traceback, *errback.args, **errback.kwargs)
            else:
                app.sender.follow(frame, errback, (request.id,), _family(frame))
        except Exception:
            logger.exception("Errback %r of task %s failed", errback, request.id)


def _family(frame: Frame) -> dict[str, Any]:
    request = frame.request
    return {"parent_id": request.id, "root_id": request.root_id or request.id}


def _takes_more_than_id(task: Any) -> bool:
    import inspect

    try:
        parameters = list(inspect.signature(task.run).parameters.values())
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
