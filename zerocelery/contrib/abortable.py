"""Tasks that can be asked to stop, and that look now and then whether they were.

>>> @app.task(bind=True, base=AbortableTask)
... def count(self):
...     for step in range(1000):
...         if self.is_aborted():
...             return f"aborted at {step}"
...         do(step)
>>> result = count.delay()
>>> result.abort()

Whether a task was aborted is its state in the result backend. A revoked task is stopped from outside; this one stops
itself, and may clean up.
"""

from __future__ import annotations

from typing import Any

from zerocelery import Task, states
from zerocelery.result import AsyncResult

__all__ = ("AbortableAsyncResult", "AbortableTask")

#: The state of a task that was asked to stop.
ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult[Any]):
    """The result of a task that can be asked to stop."""

    def is_aborted(self) -> bool:
        """Whether it was asked to."""
        return bool(self.state == ABORTED)

    def abort(self) -> Any:
        """Ask the task to stop. It does so when it looks, not at once."""
        ask = getattr(self.backend, "ask_of_task", None)
        if ask is not None:
            return ask(self.id, ABORTED)
        return self.backend.store_result(self.id, result=None, state=ABORTED, traceback=None)

    def _get_task_meta(self) -> dict[str, Any]:
        meta = super()._get_task_meta()
        asked = getattr(self.backend, "asked_of_task", None)
        if asked is None or meta["status"] in states.READY_STATES:
            return meta
        # A node takes a task's states from its worker alone, so what was asked of the task is stored beside them.
        return {**meta, "status": asked(self.id) or meta["status"]}


class AbortableTask(Task[..., Any]):
    """A task that can be asked to stop."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:
        """The result of a call, by its id."""
        return AbortableAsyncResult(task_id, backend=self.backend, **kwargs)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether the call that runs was asked to stop: it asks the result backend.

        Arguments:
            task_id: of another call.
        """
        task_id = kwargs.get("task_id", self.request.id)
        result = self.AsyncResult(task_id)
        return bool(getattr(result, "is_aborted", bool)())
