"""A chord: a group, and a body that is called with the list of its results."""

from __future__ import annotations

from operator import length_hint

from zerocelery._ids import uuid
from zerocelery.canvas.chains import _chain, app_of, set_parent, without_repeats
from zerocelery.canvas.groups import group
from zerocelery.canvas.lazy import LazyList, several
from zerocelery.canvas.signature import Signature, call_text, maybe_signature, signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, overload

    from zerocelery.app.base import Celery
    from zerocelery.canvas.signature import R, T
    from zerocelery.canvas.types import EndsInGroup
    from zerocelery.result import AsyncResult, GroupResult

__all__ = ("chord",)

#: Options of a chord that say what its body is a part of, or when: nothing for the header.
_OF_THE_BODY = frozenset(
    ["link", "link_error", "chain", "chord", "group_id", "group_index", "task_id", "interval", "max_retries",
     "reply_to", "stamped_headers", "replaced_task_nesting"]
)  # fmt: skip
#: Those that are the header's alone.
_OF_THE_HEADER = frozenset(["countdown", "eta", "parent_id", "producer", "add_to_parent", "task_id"])


@Signature.register_type(name="chord")
class _chord(Signature["R"]):
    """``chord(header, body)``, or ``chord(header)(body)``: the body gets the list of the header's results.

    The header's members are counted by the node, in its journal: the body is called once, whatever dies. Where a member
    fails, the body fails with ChordError, and its errbacks are called.

    Arguments:
        header: a group, or an iterable of signatures.
        body: the signature that is called with the list; may be given later, by calling the chord.
        options: as for :meth:`Signature.apply_async`.
    """

    tasks: Any = property(
        lambda self: self["kwargs"]["header"], lambda self, value: self["kwargs"].__setitem__("header", value)
    )
    body: Any = property(
        lambda self: self["kwargs"].get("body"), lambda self, value: self["kwargs"].__setitem__("body", value)
    )

    @classmethod
    def from_dict(cls, d: Any, app: Celery | None = None) -> Any:
        """The chord that this dict is the form of."""
        options = dict(d)
        kwargs = options.pop("kwargs")
        header, body = kwargs["header"], kwargs.get("body")
        if isinstance(header, dict):
            header = maybe_signature(header, app=app)
        made = cls(header, body=body, kwargs=kwargs.get("kwargs"), app=app, **d["options"])
        if isinstance(header, group):
            made.tasks = header if header.options else header.tasks
        made.args = tuple(d["args"] or ())
        made.immutable = d.get("immutable", False)
        more = {key: value for key, value in kwargs.items() if key not in ("header", "body", "kwargs")}
        made["kwargs"].update(more)
        return made

    if TYPE_CHECKING:

        @overload
        def __init__(self: _chord[T], header: Iterable[Any], body: Signature[T], **options: Any) -> None: ...
        @overload
        def __init__(
            self: _chord[Any], header: Iterable[Any], body: dict[str, Any] | None = None, **options: Any
        ) -> None: ...

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Any = None,
        kwargs: Any = None,
        app: Celery | None = None,
        **options: Any,
    ) -> None:
        own = {"kwargs": kwargs or {}, "header": _maybe_group(header, app), "body": maybe_signature(body, app=app)}
        super().__init__(task, args, own, app=app, **options)
        self.subtask_type = "chord"

    if TYPE_CHECKING:

        @overload
        def __call__(self, body: EndsInGroup[T], **options: Any) -> GroupResult[T]: ...
        @overload
        def __call__(self, body: Signature[T], **options: Any) -> AsyncResult[T]: ...
        @overload
        def __call__(self, body: dict[str, Any], **options: Any) -> AsyncResult[Any]: ...
        @overload
        def __call__(self, body: None = None, **options: Any) -> AsyncResult[R]: ...

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send the header; the body is this one, or that which was given before."""
        return self.apply_async((), {"body": body} if body else {}, **options)

    def __length_hint__(self) -> int:
        """How many ends the body waits for."""
        return sum(_size(task) for task in _listed(self.tasks))

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        twin = super().clone(*args, **kwargs)
        header = twin.tasks
        if isinstance(header, group):
            twin.tasks = header.clone()
        elif not isinstance(header, LazyList):
            twin.tasks = [task.clone() if isinstance(task, Signature) else task for task in header]
        twin.body = maybe_signature(twin.body, clone=True)
        return twin

    @property
    def app(self) -> Any:
        return self._get_app(self.body)

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    def _get_app(self, body: Any = None) -> Any:
        if self._app is not None:
            return self._app
        tasks = self.tasks.tasks if isinstance(self.tasks, group) else self.tasks
        return app_of(tasks, body)

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply_async(  # type: ignore[override]
        self,
        args: Any = (),
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        publisher: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send the header; gives the body's result, whose parent is the header's.

        Callbacks and errbacks among the options are the body's; a delay is the header's.
        """
        from zerocelery.result import allow_join_result

        kwargs = dict(kwargs or {})
        own = tuple(self.args or ())
        args = own if self.immutable or not args else (*args, *own)
        body = maybe_signature(kwargs.pop("body", None)) or self.body
        kwargs = {**self._header_kwargs(), **kwargs}
        app = self._get_app(body)
        options = self._with_own(options)
        own_id = options.pop("task_id", None)
        if task_id is None and body is not None and not body.options.get("task_id"):
            task_id = own_id
        link, link_error = options.pop("link", None), options.pop("link_error", None)
        if body is not None:
            body = body.clone(**{key: value for key, value in options.items() if key in _BODY_KEEPS})
            link_body(body, link)
            link_error_body(body, link_error)
        header = self._header(app)
        if app.conf["task_always_eager"]:
            with allow_join_result():
                return self.apply(args, kwargs, body=body, task_id=task_id, **options)  # type: ignore[no-any-return]
        if producer is not None:
            options["producer"] = producer
        if body is None:
            return header.apply_async(args, kwargs, **options)  # type: ignore[no-any-return]
        return self.run(header, body, args, task_id=task_id, kwargs=kwargs, **options)  # type: ignore[no-any-return]

    def _with_own(self, options: dict[str, Any]) -> dict[str, Any]:
        own = self.options
        given = {
            key: value for key, value in options.items() if key not in own or (value is not None and key != "group_id")
        }
        return {**own, **given}

    def _header_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for the header's calls."""
        own = self["kwargs"]
        return {**(own.get("kwargs") or {}), **{k: v for k, v in own.items() if k not in ("kwargs", "header", "body")}}

    def _header(self, app: Any) -> Any:
        """The header as a group of its own."""
        tasks = self.tasks
        if isinstance(tasks, group):
            return tasks.clone()
        return group(tasks, app=app, task_id=self.options.get("task_id") or uuid())

    def run(
        self,
        header: Any,
        body: Any,
        partial_args: Any,
        app: Celery | None = None,
        interval: float | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        eager: bool = False,
        task_id: str | None = None,
        kwargs: Any = None,
        header_delay: Any = None,
        **options: Any,
    ) -> Any:
        """Send a header with this body; gives the body's result.

        Arguments:
            header_delay: options for the header's calls alone, as ``{"countdown": 5}`` or ``{"eta": …}``.
        """
        from zerocelery.app.gathering import start_chord

        app = app or self._get_app(body)
        if eager:
            return header.apply(args=partial_args, kwargs=kwargs, task_id=task_id, **options)
        if countdown is not None:
            options["countdown"] = countdown
        group_id = header.options.get("task_id") or uuid()
        root_id = options.get("root_id")
        body.options.update((k, v) for k, v in options.items() if k not in _OF_THE_HEADER and v is not None)
        result = body.freeze(task_id or uuid(), group_id=group_id, root_id=root_id)
        add_to_parent = options.pop("add_to_parent", True)
        sent = {key: value for key, value in options.items() if key not in _OF_THE_BODY}
        sent = {
            **{k: v for k, v in header.options.items() if k not in _OF_THE_BODY},
            **sent,
            **dict(header_delay or ()),
        }
        header_result = start_chord(
            app, header, group_id, body, result, header._arguments(partial_args, kwargs), sent,
            add_to_parent=add_to_parent, interval=interval, max_retries=max_retries,
        )  # fmt: skip
        result.parent = header_result
        return result

    def apply(
        self,
        args: Any = None,
        kwargs: Any = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run the header and then the body here and now."""
        body = self.body if body is None else body
        app = self._get_app(body)
        own = tuple(self.args or ())
        if not args:
            args = own
        kwargs = {**self._header_kwargs(), **(kwargs or {})}
        header = self._header(app)
        results = header.apply(args, kwargs).get(propagate=propagate)
        task_id = options.pop("task_id", None)
        more = {key: options[key] for key in ("root_id", "parent_id") if options.get(key)}
        link_body(body := body.clone(), options.get("link"))
        if task_id:
            body.set(task_id=task_id)
        return body.apply((results,), **more)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give header and body their ids now, in place; the body's result."""
        if not isinstance(self.tasks, group):
            self.tasks = group(self.tasks, app=self.app, task_id=self.options.get("task_id"))
        header = self.tasks
        body_result = None
        if self.body is not None:
            body_result = self.body.freeze(
                _id, root_id=root_id, chord=chord, group_id=group_id, group_index=group_index
            )
        header_result = header.freeze(parent_id=parent_id, root_id=root_id, chord=self.body)
        self.id = header.id
        if body_result is None:
            return header_result
        set_parent(body_result, header_result)
        return body_result

    _freeze = freeze

    # ── completing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def link(self, callback: Any) -> Any:
        """Call this when the body has succeeded."""
        callback = maybe_signature(callback)
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call this when the body has failed, as it does when a member fails; with
        ``task_allow_error_cb_on_chord_header`` also for each member that does."""
        if self.app.conf["task_allow_error_cb_on_chord_header"]:
            own = maybe_signature(errback)
            for task in _listed(self.tasks):
                task.link_error(own.clone(immutable=True))
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Whether later arguments change nothing, for the header's calls; the body always gets the results."""
        for task in _listed(self.tasks):
            task.set_immutable(immutable)

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put stamps on header and body."""
        tasks = self.tasks
        if isinstance(tasks, LazyList):
            tasks = self.tasks = list(tasks)
        visited = None if visitor is None else visitor.on_chord_header_start(self, **headers) or {}
        header_stamps = self._stamps(headers, visited, append_stamps)
        self.stamp_links(visitor, append_stamps, **header_stamps)
        if isinstance(self.tasks, group):
            self.tasks.stamp(visitor, append_stamps, **header_stamps)
        else:
            for task in self.tasks:
                task.stamp(visitor, append_stamps, **header_stamps)
        if visitor is not None:
            visitor.on_chord_header_end(self, **header_stamps)
        if self.body is not None:
            visited = None if visitor is None else visitor.on_chord_body(self, **header_stamps) or {}
            self.body.stamp(visitor, append_stamps, **self._stamps(header_stamps, visited, append_stamps))

    def __repr__(self) -> str:
        tasks = list(_listed(self.tasks))
        body = self.body
        if body is None:
            return f"<chord without body: {tasks!r}>"
        if isinstance(body, _chain) and body.tasks:
            first, *rest = body.tasks
            text = " | ".join([first.reprcall(tasks), *(repr(task) for task in rest)])
            return without_repeats(first["task"], f"%({text})")
        if isinstance(body, Signature) and not isinstance(body, (group, _chord)):
            return f"%{body.reprcall(tasks)}"
        return f"%{call_text('celery.chord', (tasks, body), {})}"


chord = _chord

#: Options of a chord that its body is made with.
_BODY_KEEPS = frozenset(["chord", "group_id", "group_index", "chain"])


# ── header ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _listed(tasks: Any) -> Any:
    return tasks.tasks if isinstance(tasks, group) else tasks


def _maybe_group(tasks: Any, app: Any) -> Any:
    """The calls of what may be one call, a group, a chain or any iterable of calls."""
    if isinstance(tasks, dict) and not isinstance(tasks, Signature):
        tasks = signature(tasks, app=app)
    if isinstance(tasks, (group, _chain)):
        return tasks.tasks
    if isinstance(tasks, Signature):
        return [tasks]
    if isinstance(tasks, LazyList):
        return tasks
    if isinstance(tasks, (list, tuple, set, frozenset)):
        return [signature(task, app=app) for task in tasks]
    return LazyList(signature(task, app=app) for task in tasks)


def _size(task: Any) -> int:
    """How many ends come of one thing in a header: the last step's of a chain, all of a group's."""
    if isinstance(task, dict) and not isinstance(task, Signature):
        task = Signature.from_dict(task)
    if isinstance(task, group):
        return sum(_size(member) for member in task.tasks)
    if isinstance(task, _chain):
        for step in reversed(task.tasks):
            size = _size(step)
            if size:
                return size
        return 0
    if isinstance(task, _chord):
        return _size(task.body)
    if isinstance(task, (list, tuple)):
        return length_hint(task)
    return 1


# ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def link_body(body: Any, callbacks: Any) -> None:
    """Put callbacks on a body that is the caller's own copy."""
    for callback in several(callbacks):
        if isinstance(body, group) and body.tasks:
            body.link(callback)
        elif isinstance(body, _chord) and body.body is not None:
            link_body(body.body, callback)
        else:
            body.extend_list_option("link", callback)


def link_error_body(body: Any, errbacks: Any) -> None:
    """Put errbacks on a body that is the caller's own copy.

    A group that has errbacks of its own gives those to its tasks, in the place of theirs.
    """
    for errback in several(errbacks):
        if isinstance(body, group) and body.options.get("link_error") is None and "link_error" not in body.options:
            for task in body.tasks:
                _link_error_member(task, errback)
        else:
            body.extend_list_option("link_error", errback)


def _link_error_member(task: Any, errback: Any) -> None:
    if isinstance(task, group):
        for member in task.tasks:
            _link_error_member(member, errback)
    elif isinstance(task, _chord) and task.body is not None:
        _link_error_member(task.body, errback)
    else:
        task.extend_list_option("link_error", maybe_signature(errback, clone=True))


# ── what a message need not carry ────────────────────────────────────────────────────────────────────────────────────


def _clear_chord_option(task: Any) -> None:
    """Undo what freezing with a chord has put into a member of its header: that chord's body."""
    if isinstance(task, _chord):
        if task.body is not None:
            _clear_chord_option(task.body)
    elif isinstance(task, Signature):
        if isinstance(task, group):
            for member in task.tasks:
                _clear_chord_option(member)
        elif isinstance(task, _chain) and task.tasks:
            _clear_chord_option(task.tasks[-1])
        task.options.pop("chord", None)


def _strip_chord_header_links(task: Any) -> None:
    """Take the body out of each member of a chord's header, all the way down: they get it again when they are sent."""
    if isinstance(task, _chord):
        for member in _listed(task.tasks):
            if task.body is not None:
                _clear_chord_option(member)
            _strip_chord_header_links(member)
        if isinstance(task.tasks, group) and task.body is not None:
            task.tasks.options.pop("chord", None)
        _strip_chord_header_links(task.body)
    elif isinstance(task, (group, _chain)):
        for member in task.tasks:
            _strip_chord_header_links(member)
