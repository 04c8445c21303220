"""What follows a task: callbacks and the next of a chain when it has succeeded, errbacks when it has failed."""

from __future__ import annotations

import logging
from typing import Any

from zerocelery.canvas.signature import maybe_signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery._state import Frame
    from zerocelery.app.base import Celery

logger = logging.getLogger("celery.app.trace")


def send_callbacks(app: Celery, frame: Frame, embed: dict[str, Any], retval: Any) -> None:
    """Send the callbacks, then the next of the chain, each with the result; they are this task's children."""
    chain, callbacks = embed.get("chain"), embed.get("callbacks")
    if chain and not callbacks and app.sender.send_next(frame, chain[-1], chain[:-1], retval):
        return
    options = _family(frame)
    with app.sender.following(frame):
        for callback in callbacks or ():
            maybe_signature(callback, app=app).apply_async((retval,), **options)
        if chain:
            maybe_signature(chain[-1], app=app).apply_async((retval,), chain=chain[:-1], **options)


def call_errbacks(app: Celery, frame: Frame, errbacks: list[Any], error: BaseException, traceback: Any) -> None:
    """Call or send the errbacks.

    One that takes more than the failed task's id is called here with request, exception and traceback, if this process
    has it; all others are sent with the id.
    """
    request = frame.request
    for one in errbacks:
        errback = maybe_signature(one, app=app)
        try:
            task = errback._known_type() if not errback.subtask_type else None
            if task is not None and _takes_more_than_id(task, errback):
                errback(request, error, traceback)
            elif getattr(frame.source, "is_eager", False):
                errback.apply((request.id,), **_family(frame))
            else:
                with app.sender.following(frame):
                    errback.apply_async((request.id,), **_family(frame))
        except Exception:
            logger.exception("Errback %r of task %s failed", errback, request.id)


def _family(frame: Frame) -> dict[str, Any]:
    request = frame.request
    return {"parent_id": request.id, "root_id": request.root_id or request.id}


def _takes_more_than_id(task: Any, errback: Any) -> bool:
    """Whether the errback wants request, exception and traceback; a bound task never does: it may be retried."""
    import inspect

    if task._recipe is not None and task._recipe.bind:
        return False
    try:
        parameters = list(inspect.signature(task.run).parameters.values())
    except (TypeError, ValueError):
        return False
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    given = errback.kwargs or {}
    open_ones = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in given
    ]
    return len(open_ones) - len(errback.args or ()) > 1
