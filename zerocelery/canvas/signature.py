"""A signature: one call of one task, as a value that can be kept, sent and completed later."""

from __future__ import annotations

from zerocelery._state import app_or_default
from zerocelery.canvas.lazy import several
from zerocelery.utils import abstract

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ClassVar, Generic, overload

    from typing_extensions import Self, TypeVar

    from zerocelery.app.base import Celery
    from zerocelery.app.task import Task
    from zerocelery.canvas.types import EndsInGroup
    from zerocelery.result import AsyncResult, EagerResult

    #: What the task gives; anything, where a signature is named without it.
    R = TypeVar("R", covariant=True, default=Any)
    #: As above, of another signature; and how a class is given back as it came.
    T = TypeVar("T", default=Any)
    Class = TypeVar("Class", bound=type)

    class _Base(dict[str, Any], Generic[R]):
        pass

else:
    _Base = dict

__all__ = ("Signature", "maybe_signature", "maybe_subtask", "signature", "subtask")


def _item(name: str) -> Any:
    """A key of the dict as an attribute."""
    return property(lambda self: self.get(name), lambda self, value: self.__setitem__(name, value))


def _option(name: str) -> Any:
    """An option as an attribute."""
    return property(lambda self: self.options.get(name), lambda self, value: self.options.__setitem__(name, value))


class Signature(_Base["R"]):
    """A task's name with arguments and options, as a dict that every serialiser takes.

    Arguments:
        task: the task, or its name; or a dict that once was a signature.
        args, kwargs: what to call it with; more may be given when it is sent.
        options: as for :meth:`Task.apply_async`; as are all further keyword arguments.
        immutable: what it is called with later changes nothing.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}
    _app: Celery | None = None
    _type: Any = None

    task: Any = _item("task")
    args: Any = _item("args")
    kwargs: Any = _item("kwargs")
    options: Any = _item("options")
    subtask_type: Any = _item("subtask_type")
    immutable: Any = _item("immutable")
    id: Any = _option("task_id")
    parent_id: Any = _option("parent_id")
    root_id: Any = _option("root_id")

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[Class], Class]:
        """Make a subclass known as what ``subtask_type`` names."""

        def register(subclass: Class) -> Class:
            Signature.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Any, app: Celery | None = None) -> Signature:
        """The signature, of the right type, that this dict is the form of."""
        kind = d.get("subtask_type")
        if kind and cls is Signature:
            target = cls.TYPES[kind]
            if target is not cls:
                return target.from_dict(d, app=app)
        return Signature(d, app=app)

    def __init__(
        self,
        task: Any = None,
        args: Any = None,
        kwargs: Any = None,
        options: Any = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Celery | None = None,
        **ex: Any,
    ) -> None:
        self._app = app
        if isinstance(task, dict):
            super().__init__(task)
            return
        name = task
        if not isinstance(task, str):
            name = getattr(task, "name", task)
            self._type = task
        if type is not None:
            self._type = type
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options=dict(options or {}, **ex) if ex else dict(options or {}),
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # ── calling ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Run the task here and now."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R]:
        """Send the task, with more arguments."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(
        self, args: Any = None, kwargs: Any = None, route_name: str | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the task, with more arguments before and options over its own."""
        if args or kwargs or options:
            args, kwargs, options = self._merge(args, kwargs, options)
        else:
            args, kwargs, options = self.args, self.kwargs, self.options
        return self._apply_async(args, kwargs, **options)  # type: ignore[no-any-return]

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R]:
        """As :meth:`delay`, in a coroutine: the event loop goes on where sending has to wait."""
        return await self.aapply_async(partial_args, partial_kwargs)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """As :meth:`apply_async`, in a coroutine."""
        import asyncio

        return await asyncio.to_thread(self.apply_async, args, kwargs, **options)

    @property
    def _apply_async(self) -> Any:
        task = self._known_type()
        if task is not None:
            return task.apply_async
        from functools import partial

        return partial(self.app.send_task, self["task"])

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> EagerResult[R]:
        """Run the task here and now, as an eager task."""
        args, kwargs, options = self._merge(args, kwargs, options)
        return self.type.apply(args, kwargs, **options)  # type: ignore[no-any-return]

    def __invert__(self) -> R:
        """``~sig``: send it, and wait for its result."""
        return self.apply_async().get()

    def election(self) -> Any:
        """Let the cluster's leader send this."""
        from zerocelery._ids import uuid

        task = self.type
        task_id = self.options.get("task_id") or uuid()
        task.app.control.election(task_id, "task", self.clone(task_id=task_id))
        return task.AsyncResult(task_id)

    def _merge(
        self, args: Iterable[Any] | None = None, kwargs: Any = None, options: Any = None, force: bool = False
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Arguments, keyword arguments and options of a call with these beside its own.

        None takes no option away, a group is for life, and a stamp stays what it is.
        """
        mine = self.options
        if options:
            fixed = {"group_id", *mine["stamped_headers"]} if mine.get("stamped_headers") else ("group_id",)
            new = {k: v for k, v in options.items() if k not in mine or (v is not None and k not in fixed)}
            options = {**mine, **new}
        else:
            options = mine
        if self.immutable and not force:
            return self.args, self.kwargs, options
        return (
            (*args, *self.args) if args else self.args,
            {**self.kwargs, **kwargs} if kwargs else self.kwargs,
            options,
        )

    # ── completing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> Self:
        """A copy, with more arguments before and options over its own."""
        args, kwargs, options = self._merge(args, kwargs, options)
        own = {**self, "args": tuple(args), "kwargs": dict(kwargs)}
        twin: Any
        if type(self) is Signature:
            twin = Signature({**own, "options": {}}, app=self._app)
            twin["options"] = copied_options(options, {id(self): twin})
        else:
            twin = Signature.from_dict({**own, "options": copied_options(options)}, app=self._app)
        twin._type = self._type
        return twin  # type: ignore[no-any-return]

    partial = clone

    def replace(self, args: Any = None, kwargs: Any = None, options: Any = None) -> Self:
        """A copy with other arguments or options in place of its own."""
        twin = self.clone()
        if args is not None:
            twin.args = args
        if kwargs is not None:
            twin.kwargs = kwargs
        if options is not None:
            twin.options = options
        return twin

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R]:
        """Give the call its id, and its place in a canvas, now; the result of the coming call."""
        from zerocelery._ids import uuid

        options = self.options
        task_id = options.get("task_id")
        if not task_id:
            task_id = options["task_id"] = _id or uuid()
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        if group_id and not options.get("group_id"):
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        if "reply_to" not in options:
            app = self.app
            # Whoever sends it later, its result comes to who has frozen it. A node knows that of itself.
            if not app.has_node:
                options["reply_to"] = app.thread_oid
        return self.AsyncResult(task_id)  # type: ignore[no-any-return]

    _freeze = freeze

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options; returns itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether later arguments change nothing."""
        self["immutable"] = immutable

    def link(self, callback: Any) -> Any:
        """Call this when the task has succeeded, with its result; returns the callback."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call this when the task has failed; returns the errback."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """As link_error, but returns itself."""
        self.link_error(errback)
        return self

    def _list_option(self, key: str) -> list[Any]:
        items = self.options.get(key)
        if not isinstance(items, list):
            items = self.options[key] = several(items)
        return items

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add to a list among the options, unless it is in it; returns the value."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add one or several to a list among the options."""
        self._list_option(key).extend(several(value))

    def flatten_links(self) -> list[Any]:
        """This signature, its callbacks, theirs, and so on."""
        found: list[Any] = [self]
        for callback in several(self.options.get("link")):
            found.extend(maybe_signature(callback, app=self._app).flatten_links())
        return found

    # ── stamping ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put stamps on the call, its callbacks and errbacks.

        Arguments:
            visitor: says which (:class:`StampingVisitor`).
            append_stamps: several values of one stamp become a list; else the given one, or the first, is it.
            headers: stamps by name.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        visited = None if visitor is None else visitor.on_signature(self, **headers) or {}
        return self.set(**self._stamps(headers, visited, append_stamps))

    def _stamps(self, headers: dict[str, Any], visited: Any, append_stamps: bool, own: bool = True) -> dict[str, Any]:
        from zerocelery.canvas.stamping import combined

        return combined(headers, visited, self.options if own else None, collect=append_stamps)

    def stamp_links(self, visitor: Any, append_stamps: bool = False, **headers: Any) -> None:
        """Put stamps on the callbacks and errbacks; not those that the call itself has."""
        for key, ask in (("link", "on_callback"), ("link_error", "on_errback")):
            links = several(self.options.get(key))
            if not links:
                continue
            # what travelled as a dict is stamped as a signature, and stays one
            links = self.options[key] = [
                link if isinstance(link, Signature) else maybe_signature(link, app=self._app) for link in links
            ]
            for link in links:
                visited = None if visitor is None else getattr(visitor, ask)(link, **headers) or {}
                link.stamp(visitor, append_stamps, **self._stamps(headers, visited, append_stamps, own=False))

    # ── combining ────────────────────────────────────────────────────────────────────────────────────────────────────

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __or__(self, other: EndsInGroup[T]) -> EndsInGroup[T]: ...
        @overload
        def __or__(self, other: Signature[T]) -> Signature[T]: ...
        @overload
        def __or__(self, other: dict[str, Any]) -> Signature[Any]: ...

    def __or__(self, other: Any) -> Any:
        """``a | b``: a chain, in which b gets a's result."""
        from zerocelery.canvas.chains import joined

        return joined(self, other)

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __ior__(self, other: EndsInGroup[T]) -> EndsInGroup[T]: ...
        @overload
        def __ior__(self, other: Signature[T]) -> Signature[T]: ...
        @overload
        def __ior__(self, other: dict[str, Any]) -> Signature[Any]: ...

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        # a dict would take the other's items over
        return self.__or__(other)

    if TYPE_CHECKING:
        # mypy looks here first where both sides are signatures, and would else find a dict's
        def __ror__(self, other: Signature[Any]) -> Signature[R]:  # type: ignore[misc, override]
            raise NotImplementedError

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def app(self) -> Any:
        return self._app or getattr(self._type, "app", None) or app_or_default()

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self["task"])

    def _known_type(self) -> Any:
        """The task, where this process has it."""
        return self._type or self.app.tasks.get(self["task"])

    @property
    def type(self) -> Any:
        """The task; NotRegistered where this process doesn't have it."""
        return self._type or self.app.tasks[self["task"]]

    @type.setter
    def type(self, task: Any) -> None:
        self._type = task

    @property
    def AsyncResult(self) -> Any:
        """Result class of the task."""
        task = self._known_type()
        return task.AsyncResult if task is not None else self.app.AsyncResult

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as Python would write it, with more arguments."""
        args, kwargs, _ = self._merge(args, kwargs, force=True)
        return call_text(self["task"], args, kwargs)

    def __repr__(self) -> str:
        return self.reprcall()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo[id(self)] = self
        return self.clone()

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    @property
    def __name__(self) -> str:
        return type(self).__qualname__


abstract.CallableSignature.register(Signature)


def copied_options(options: dict[str, Any], memo: dict[int, Any] | None = None) -> dict[str, Any]:
    """Options that can be changed without changing these: neither them nor those of the signatures in them.

    Arguments:
        memo: what was copied already, by the id of what it is a copy of: two links to one signature stay so.
    """
    from copy import deepcopy

    if not any(isinstance(value, (dict, list, set)) for value in options.values()):
        return dict(options)
    memo = {} if memo is None else memo
    found = {}
    for key, value in options.items():
        if key not in _LINKED:
            found[key] = deepcopy(value)
        elif isinstance(value, (list, tuple)):
            found[key] = [_copied_link(item, memo) for item in value]
        else:
            found[key] = _copied_link(value, memo)
    return found


#: The options that hold signatures.
_LINKED = frozenset({"chord", "link", "link_error"})


def _copied_link(item: Any, memo: dict[int, Any]) -> Any:
    """A linked signature in its plain form, with options of its own; its arguments may be iterators, and stay."""
    if not isinstance(item, dict):
        return item
    twin = memo.get(id(item))
    if twin is None:
        twin = memo[id(item)] = dict(item)
        twin["options"] = copied_options(item.get("options") or {}, memo)
    return twin


def call_text(name: str, args: Any, kwargs: Any) -> str:
    """A call as Python would write it."""
    shown = [repr(arg) for arg in args] + [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(shown)})"


if TYPE_CHECKING:

    @overload
    def signature(varies: Task[..., T], *args: Any, **kwargs: Any) -> Signature[T]: ...
    @overload
    def signature(varies: Signature[T]) -> Signature[T]: ...
    @overload
    def signature(varies: str | dict[str, Any], *args: Any, **kwargs: Any) -> Signature[Any]: ...


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """The signature of a task, by itself or by name; of a dict the signature that it is the form of."""
    app = kwargs.get("app")
    if isinstance(varies, dict):
        return varies.clone() if isinstance(varies, Signature) else Signature.from_dict(varies, app=app)
    return Signature(varies, *args, **kwargs)


subtask = signature


def maybe_signature(d: Any, app: Celery | None = None, clone: bool = False) -> Any:
    """A signature of what may be one already, or its dict, or None."""
    if d is None:
        return None
    if isinstance(d, Signature):
        if clone:
            d = d.clone()
    elif isinstance(d, dict):
        d = signature(d, app=app)
    else:
        return d
    if app is not None:
        d._app = app
    return d


maybe_subtask = maybe_signature
