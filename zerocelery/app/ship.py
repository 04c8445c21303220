"""Tasks that a worker can't import: defined in a script, a notebook, a REPL or another function.

They travel whole, options and base class included, by cloudpickle and by digest, as the engine's callables do. Within a
packed task, other tasks of that kind travel along, all others go by name, and the app becomes the worker's.
"""

from __future__ import annotations

import sys
from typing import Any

from zerocelery import _state
from zerocelery._state import get_current_app, packing
from zerocelery.engine.callables import Shipped, importable, load
from zerocelery.engine.errors import CallableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.app.client import NodeClient
    from zerocelery.app.task import Task


class Shipment:
    """One task on its way, by its newest version."""

    __slots__ = ("_shipped",)

    def __init__(self, task: Task[..., Any]) -> None:
        self._shipped = Shipped(_Parcel(task))

    @classmethod
    def of(cls, task: Task[..., Any]) -> Shipment | None:
        """The shipment of a task that needs one; None for a task that workers can import."""
        return None if is_importable(task) else cls(task)

    def send(self, client: NodeClient) -> str:
        """Make sure that the node has the task; gives its digest.

        Raises:
            kombu.exceptions.EncodeError: it refers to something that can't be pickled.
        """
        token = packing.set(True)
        try:
            digest, blob = self._shipped.current()
        except CallableError as error:
            from kombu.exceptions import EncodeError

            raise EncodeError(str(error)) from error
        finally:
            packing.reset(token)
        client.ship(digest, blob)
        return digest


class _Parcel:
    """What is pickled in a task's place; looks like its function to who wants to know what it refers to."""

    def __init__(self, task: Task[..., Any]) -> None:
        self.task = task
        self.__wrapped__ = function_of(task)
        self.__qualname__ = task.name

    def __call__(self) -> Task[..., Any]:
        return self.task

    def __reduce__(self) -> Any:
        return _opened, (self.task,)


def _opened(task: Any) -> Any:
    return task


def function_of(task: Task[..., Any]) -> Any:
    """The function that became the task, or its class's run method."""
    return task._decorated_fun or type(task).run


def is_importable(task: Task[..., Any]) -> bool:
    """Whether a worker that imports the task's module has the task."""
    if task._decorated_fun is None:
        return importable(type(task))
    function = task._decorated_fun
    if importable(function):
        return True
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
    if module in (None, "__main__") or "<" in path:
        return False
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    return getattr(found, "_decorated_fun", None) is function


def unpack(blob: bytes, name: str, app: Celery) -> Task[..., Any]:
    """The task in these bytes, as one of this app.

    Raises:
        CallableError: another Python packed it, or it needs what isn't here.
    """
    with _state.app_set(app):
        task = load(blob)
    if getattr(task, "name", None) != name:
        raise CallableError(f"the bytes that came for task {name!r} hold something else: {task!r}")
    return task  # type: ignore[no-any-return]


def by_value(task: Task[..., Any]) -> Any:
    """What pickle needs to build the task elsewhere; it may refer to itself."""
    if task._decorated_fun is None:
        own = {key: value for key, value in vars(task).items() if key not in ("_app", "_plan", "_orig_run", "run")}
        state = {"class": type(task), "attributes": own}
    else:
        state = {"recipe": task._recipe}
    return _blank, (task.name,), state, None, None, _fill


def _blank(name: str) -> Any:
    from zerocelery.app.task import Task

    task: Any = Task.__new__(Task)
    task.name = name
    return task


def _fill(task: Any, state: dict[str, Any]) -> None:
    app = get_current_app()
    if "class" in state:
        task.__class__ = state["class"]
        vars(task).update(state["attributes"])
        app._adopt(task, {})
    else:
        recipe = state["recipe"]
        task.__class__ = app._task_class(task.name, recipe)
        app._adopt(task, recipe.options)
