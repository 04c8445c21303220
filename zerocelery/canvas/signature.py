"""A signature: one call of one task, as a value that can be kept, sent and completed later."""

from __future__ import annotations

from zerocelery._state import app_or_default

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ClassVar

    from zerocelery.app.base import Celery

    _Base = dict[str, Any]
else:
    _Base = dict

__all__ = ("Signature", "maybe_signature", "signature", "subtask")

_UNSET: Any = object()


class Signature(_Base):
    """A task's name with arguments and options, as a dict that every serialiser takes.

    Arguments:
        task: the task, or its name; or a dict that once was a signature.
        immutable: what it is called with later changes nothing.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}
    _app: Celery | None = None

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[Signature]], type[Signature]]:
        """Make a subclass known as what ``subtask_type`` names."""

        def register(subclass: type[Signature]) -> type[Signature]:
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
        name = getattr(task, "name", task)
        self._type = None if isinstance(task, str) else task
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options=dict(options or {}, **ex),
            subtask_type=subtask_type,
            immutable=immutable,
        )

    _type: Any = None

    # ── calling ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Run the task here and now."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Send the task, with more arguments."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, route_name: str | None = None, **options: Any) -> Any:
        """Send the task, with more arguments before and options over its own."""
        args, kwargs, options = self._merge(args or (), kwargs or {}, options)
        task = self._known_type()
        if task is not None:
            return task.apply_async(args, kwargs, **options)
        return self.app.send_task(self["task"], args, kwargs, route_name=route_name, **options)

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Run the task here and now, as an eager task."""
        args, kwargs, options = self._merge(args or (), kwargs or {}, options)
        return self.type.apply(args, kwargs, **options)

    def _merge(
        self, args: Iterable[Any] = (), kwargs: Any = None, options: Any = None
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        options = {**self.options, **(options or {})}
        if self.immutable:
            return tuple(self.args), dict(self.kwargs), options
        return (*args, *self.args), {**self.kwargs, **(kwargs or {})}, options

    # ── completing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def clone(self, args: Any = None, kwargs: Any = None, **options: Any) -> Signature:
        """A copy, with more arguments before and options over its own."""
        from copy import deepcopy

        merged = self._merge(args or (), kwargs or {}, options)
        twin = Signature.from_dict({**self, "args": merged[0], "kwargs": merged[1], "options": deepcopy(merged[2])})
        twin._app, twin._type = self._app, self._type
        return twin

    partial = clone

    def freeze(self, _id: str | None = None, **options: Any) -> Any:
        """Give the call its id now; the result of the coming call."""
        from zerocelery._ids import uuid

        task_id = self.options.setdefault("task_id", _id or uuid())
        self.options.setdefault("reply_to", options.get("reply_to") or "")
        for key in ("group_id", "chord", "group_index", "root_id", "parent_id"):
            if options.get(key) is not None:
                self.options[key] = options[key]
        return self.AsyncResult(task_id)

    _freeze = freeze

    def set(self, immutable: bool | None = None, **options: Any) -> Signature:
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

    def on_error(self, errback: Any) -> Signature:
        """As link_error, but returns itself."""
        self.link_error(errback)
        return self

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add to a list among the options, unless it is in it; returns the value."""
        items = self.options.get(key)
        if not isinstance(items, list):
            items = self.options[key] = [] if items is None else [items]
        if value not in items:
            items.append(value)
        return value

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    task = property(lambda self: self["task"], lambda self, value: self.__setitem__("task", value))
    args = property(lambda self: self["args"], lambda self, value: self.__setitem__("args", value))
    kwargs = property(lambda self: self["kwargs"], lambda self, value: self.__setitem__("kwargs", value))
    options = property(lambda self: self["options"], lambda self, value: self.__setitem__("options", value))
    subtask_type = property(lambda self: self.get("subtask_type"))
    immutable = property(lambda self: bool(self.get("immutable")))
    id = property(lambda self: self.options.get("task_id"))
    parent_id = property(lambda self: self.options.get("parent_id"))
    root_id = property(lambda self: self.options.get("root_id"))

    @property
    def app(self) -> Celery:
        return app_or_default(self._app)

    @property
    def name(self) -> str:
        return str(self["task"])

    def _known_type(self) -> Any:
        """The task, where this process has it."""
        return self._type or self.app.tasks.get(self["task"])

    @property
    def type(self) -> Any:
        """The task; NotRegistered where this process doesn't have it."""
        return self._type or self.app.tasks[self["task"]]

    @property
    def AsyncResult(self) -> Any:
        task = self._known_type()
        return task.AsyncResult if task is not None else self.app.AsyncResult

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        from copy import deepcopy

        memo[id(self)] = self
        twin = Signature.from_dict(deepcopy(dict(self), memo))
        twin._app, twin._type = self._app, self._type
        return twin

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __repr__(self) -> str:
        shown = [repr(arg) for arg in self.args] + [f"{key}={value!r}" for key, value in self.kwargs.items()]
        return f"{self['task']}({', '.join(shown)})"


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature:
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
        d = signature(d)
    else:
        return d
    if app is not None:
        d._app = app
    return d
