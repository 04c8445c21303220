"""Maps: many calls of one task as one message, or as few."""

from __future__ import annotations

from zerocelery._state import app_or_default
from zerocelery.canvas.lazy import LazyList
from zerocelery.canvas.signature import Signature, maybe_signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import TypeVar

    from zerocelery.app.base import Celery
    from zerocelery.canvas.groups import group
    from zerocelery.result import AsyncResult, GroupResult

    #: What the task gives for each item.
    M = TypeVar("M", default=Any)

__all__ = ("chunks", "xmap", "xstarmap")


class _basemap(Signature["list[M]"]):
    _task_name: str

    @classmethod
    def from_dict(cls, d: Any, app: Celery | None = None) -> Any:
        """The map that this dict is the form of."""
        made = cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **d["options"])
        made.args = tuple(d["args"] or ())
        made.immutable = d.get("immutable", True)
        made.subtask_type = d.get("subtask_type")
        return made

    def __init__(self, task: Any, it: Any, **options: Any) -> None:
        app = options.pop("app", None)
        kwargs = {"task": maybe_signature(task, app=app), "it": it if isinstance(it, list) else list(it)}
        super().__init__(self._task_name, (), kwargs, immutable=True, app=app, **options)
        self.subtask_type = self._task_name.rpartition(".")[2] if self._task_name != "celery.map" else "xmap"

    def apply_async(  # type: ignore[override]
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> AsyncResult[list[M]]:
        """Send the map as one task, by the way of the task that it calls."""
        _, _, options = self._merge((), {}, options)
        options = dict(options)
        route_name = options.pop("route_name", None) or task_name(self["kwargs"]["task"])
        return self.type.apply_async((), self["kwargs"], route_name=route_name, **options)  # type: ignore[no-any-return]

    @property
    def app(self) -> Any:
        task = self["kwargs"]["task"]
        return self._app or (task._app if isinstance(task, Signature) else None) or app_or_default()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app


@Signature.register_type()
class xmap(_basemap["M"]):
    """``task.map(it)``: one task that calls another for each item, and gives the list of results."""

    _task_name = "celery.map"

    def __repr__(self) -> str:
        return f"[{task_name(self['kwargs']['task'])}(x) for x in {self['kwargs']['it']!r}]"


@Signature.register_type()
class xstarmap(_basemap["M"]):
    """``task.starmap(it)``: as :class:`xmap`, each item being the list of arguments."""

    _task_name = "celery.starmap"

    def __init__(self, task: Any, it: Any, **options: Any) -> None:
        super().__init__(task, it, **options)
        self.subtask_type = "xstarmap"

    def __repr__(self) -> str:
        return f"[{task_name(self['kwargs']['task'])}(*x) for x in {self['kwargs']['it']!r}]"


@Signature.register_type()
class chunks(Signature["list[list[M]]"]):
    """``task.chunks(it, n)``: a group of starmaps of n items each.

    Arguments:
        task: the task, or a signature of it.
        it: the items, each a list of arguments; an iterator is read as the chunks are sent.
        n: how many items one message has.
    """

    @classmethod
    def from_dict(cls, d: Any, app: Celery | None = None) -> Any:
        """The chunks that this dict is the form of."""
        kwargs = d["kwargs"]
        made = cls(kwargs["task"], kwargs["it"], kwargs["n"], app=app, **d["options"])
        made.args = tuple(d["args"] or ())
        made.immutable = d.get("immutable", True)
        return made

    def __init__(self, task: Any, it: Any, n: int, **options: Any) -> None:
        app = options.pop("app", None)
        items = it if isinstance(it, (list, tuple, range)) else LazyList(it)
        kwargs = {"task": maybe_signature(task, app=app), "it": items, "n": n}
        super().__init__("celery.chunks", (), kwargs, immutable=True, app=app, **options)
        self.subtask_type = "chunks"

    def __call__(self, **options: Any) -> GroupResult[list[M]]:
        """Send the chunks."""
        return self.apply_async(**options)

    def apply_async(  # type: ignore[override]
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> GroupResult[list[M]]:
        """Send the chunks as a group, by the way of the task that they call."""
        _, _, options = self._merge((), {}, options)
        options = dict(options)
        route_name = options.pop("route_name", None) or task_name(self["kwargs"]["task"])
        return self.group().apply_async((), {}, route_name=route_name, **options)

    def group(self) -> group[list[M]]:
        """The group of starmaps that this is."""
        from zerocelery.canvas.groups import group

        task, n = self["kwargs"]["task"], self["kwargs"]["n"]
        items = iter(self["kwargs"]["it"])
        app = self.app
        return group((xstarmap(task, part, app=app) for part in _parts(items, n)), app=app)

    @classmethod
    def apply_chunks(cls, task: Any, it: Any, n: int, app: Celery | None = None) -> Any:
        """Send items in chunks."""
        return cls(task, it, n, app=app)()

    @property
    def app(self) -> Any:
        task = self["kwargs"]["task"]
        return self._app or (task._app if isinstance(task, Signature) else None) or app_or_default()

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app


def _parts(items: Any, n: int) -> Any:
    from itertools import islice

    while part := list(islice(items, n)):
        yield part


def task_name(task: Any) -> str:
    """The name in a signature, its dict or a task."""
    return str(task["task"] if isinstance(task, dict) else getattr(task, "name", task))
