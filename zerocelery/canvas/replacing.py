"""What takes a running task's place: the new call with everything that hangs on the old one."""

from __future__ import annotations

from zerocelery.canvas.chains import _chain
from zerocelery.canvas.groups import group
from zerocelery.canvas.lazy import several
from zerocelery.canvas.signature import maybe_signature
from zerocelery.exceptions import ImproperlyConfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.app.task import Task


def replacement(task: Task[..., Any], sig: Any) -> Any:
    """The call that is to be sent in the place of the run of this task.

    Raises:
        ImproperlyConfigured: it is part of a chord, or an empty chain.
    """
    request = task.request
    if "chord" in sig.options:
        raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
    if isinstance(sig, _chain) and not sig.tasks:
        raise ImproperlyConfigured("Cannot replace with an empty chain")
    if isinstance(sig, group) or (isinstance(sig, _chain) and isinstance(maybe_signature(sig.tasks[-1]), group)):
        # one id can have one result only
        sig |= task.app.tasks["celery.accumulate"].s(index=0)
    for callback in several(request.callbacks):
        sig.link(maybe_signature(callback, app=task.app))
    for errback in several(request.errbacks):
        sig.link_error(maybe_signature(errback, app=task.app))
    if isinstance(sig, _chain) and sig.options.get("link"):
        # what follows is put behind the last step, and so are the callbacks: they belong to the step
        sig.tasks[-1].extend_list_option("link", sig.options.pop("link"))
    sig.freeze(request.id)
    nesting = (request.get("replaced_task_nesting") or 0) + 1
    sig.set(
        chord=request.chord,
        group_id=request.group,
        group_index=request.group_index,
        root_id=request.root_id,
        replaced_task_nesting=nesting,
    )
    for step in reversed(several(request.chain)):
        following = maybe_signature(step, app=task.app, clone=True)
        following.set(replaced_task_nesting=nesting)
        sig |= following
    return sig
