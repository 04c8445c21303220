"""A group: calls that are sent together and run side by side."""

from __future__ import annotations

from zerocelery._ids import uuid
from zerocelery.canvas.lazy import LazyList, as_tasks
from zerocelery.canvas.signature import Signature, maybe_signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, overload

    from typing_extensions import Self, TypeVar

    from zerocelery.app.base import Celery
    from zerocelery.canvas.types import EndsInGroup as _Base
    from zerocelery.result import GroupResult

    #: What each member gives.
    M = TypeVar("M", default=Any)
    A = TypeVar("A", default=Any)
    B = TypeVar("B", default=Any)
    C = TypeVar("C", default=Any)
else:
    _Base = Signature

__all__ = ("group", "maybe_unroll_group")

#: What a group is itself a part of; its members are the group's.
_PLACE = ("group_id", "group_index", "chord", "chain")


@Signature.register_type()
class group(_Base["M"]):
    """``group(a, b, c)``, or of an iterable of calls: all are sent at once, the result is the list of theirs.

    Calls that a generator makes are sent as they come.
    """

    tasks: Any = property(
        lambda self: self["kwargs"]["tasks"], lambda self, value: self["kwargs"].__setitem__("tasks", value)
    )

    @classmethod
    def from_dict(cls, d: Any, app: Celery | None = None) -> Any:
        """The group that this dict is the form of."""
        tasks = d["kwargs"]["tasks"]
        if not isinstance(tasks, LazyList):
            tasks = [maybe_signature(task, app=app) for task in tasks]
        made = cls(tasks, app=app, **d["options"])
        made.args = tuple(d["args"] or ())
        made.immutable = d.get("immutable", False)
        made.kwargs.update((key, value) for key, value in d["kwargs"].items() if key != "tasks")
        return made

    if TYPE_CHECKING:

        @overload
        def __init__(self: group[A], tasks: group[A], /, **options: Any) -> None: ...
        @overload
        def __init__(self: group[A], tasks: Iterable[Signature[A]], /, **options: Any) -> None: ...
        @overload
        def __init__(self: group[A | B], a: Signature[A], b: Signature[B], /, **options: Any) -> None: ...
        @overload
        def __init__(
            self: group[A | B | C], a: Signature[A], b: Signature[B], c: Signature[C], /, **options: Any
        ) -> None: ...
        @overload
        def __init__(self: group[A], *tasks: Signature[A], **options: Any) -> None: ...
        @overload
        def __init__(self: group[Any], *tasks: dict[str, Any], **options: Any) -> None: ...

    def __init__(self, *tasks: Any, **options: Any) -> None:  # type: ignore[misc]
        given: Any = tasks
        if len(tasks) == 1:
            given = tasks[0]
            if isinstance(given, group):
                given = given.tasks
            elif isinstance(given, Signature):
                given = [given.clone()]
            elif isinstance(given, dict):
                given = [given]
        app = options.pop("app", None)
        super().__init__("celery.group", (), {"tasks": as_tasks(given)}, app=app, **options)
        self.subtask_type = "group"

    def __call__(self, *partial_args: Any, **options: Any) -> GroupResult[M]:
        """Send all calls, with more arguments."""
        return self.apply_async(partial_args, **options)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        twin = super().clone(*args, **kwargs)
        tasks = twin.tasks
        if not isinstance(tasks, LazyList) or tasks.exhausted:
            twin.tasks = [task.clone() if isinstance(task, Signature) else task for task in tasks]
        return twin

    @property
    def app(self) -> Any:
        from zerocelery.canvas.chains import app_of

        return self._app if self._app is not None else app_of(self.tasks)

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply_async(  # type: ignore[override]
        self,
        args: Any = None,
        kwargs: Any = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> GroupResult[M]:
        """Send all calls; gives a GroupResult.

        Raises:
            TypeError: a group as a whole has no callbacks; its calls have, and a chord's body has.
        """
        if link is not None:
            raise TypeError("Cannot add link to group: use a chord")
        if link_error is not None:
            raise TypeError("Cannot add link to group: do that on individual tasks")
        app = self.app
        if app.conf["task_always_eager"]:
            return self.apply(args, kwargs, **options)
        options = self._with_own(options)
        group_id = options.pop("task_id", None) or uuid()
        chord = options.get("chord")
        counted = _counted_in(options) or group_id
        for key in _PLACE:
            options.pop(key, None)
        args, kwargs = self._arguments(args, kwargs)
        results: list[Any] = []
        sender, root_id = app.sender, options.get("root_id")
        with sender.together():
            short = sender.members((args, kwargs), counted, chord, options) if producer is None else None
            for task in sender.paced(self._flat(self.tasks, self._app)):
                result = short.send(task, len(results)) if short is not None else None
                if result is None:
                    member = self._frozen(task, counted, len(results), chord=chord, root_id=root_id)
                    if member is None:
                        continue
                    result = self.send_member(*member, args, kwargs, producer, options)
                results.append(result)
        return self.result_of(app, group_id, results, add_to_parent)

    def send_member(
        self, task: Any, result: Any, args: Any, kwargs: Any, producer: Any, options: dict[str, Any]
    ) -> Any:
        """Send one call that was frozen; its result."""
        from zerocelery.canvas.chains import hand_on

        if producer is None and task._type is not None and self._sends_shortly(task, result, args, kwargs, options):
            return result
        if producer is not None:
            options = {**options, "producer": producer}
        chord = task.options.get("chord")
        if chord is not None:
            options = {**options, "chord": chord}
        hand_on(task.apply_async(args, kwargs, add_to_parent=False, **options), result)
        return result

    def _sends_shortly(self, task: Any, result: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> bool:
        sender = task.app.sender
        return bool(sender.send_member(task, result, args, kwargs, options))

    def result_of(self, app: Any, group_id: str, results: list[Any], add_to_parent: bool = True) -> GroupResult[M]:
        """The group's result; a child of the task that runs here."""
        if len(results) == 1 and hasattr(results[0], "results"):
            result = results[0]  # of a chain that ends in a group: that group's is all there is to tell
        else:
            result = app.GroupResult(group_id, results)
        if add_to_parent:
            parent = app.current_worker_task
            if parent is not None:
                parent.add_trail(result)
        return result  # type: ignore[no-any-return]

    def _with_own(self, options: dict[str, Any]) -> dict[str, Any]:
        own = self.options
        given = {
            key: value for key, value in options.items() if key not in own or (value is not None and key != "group_id")
        }
        return {**own, **given}

    def _arguments(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """What every call is given: that of this call, and that which the group itself has."""
        own = tuple(self.args or ())
        more = {key: value for key, value in self["kwargs"].items() if key != "tasks"}
        if self.immutable:
            return own, more
        return (*(args or ()), *own), {**more, **(kwargs or {})}

    def members(self, group_id: str, *, chord: Any = None, root_id: str | None = None) -> Iterator[tuple[Any, Any]]:
        """Copies of all calls, frozen as members of a group of this id, each with its result.

        Groups within are part of this one; empty chains are left out.
        """
        index = 0
        for task in self._flat(self.tasks, self._app):
            member = self._frozen(task, group_id, index, chord=chord, root_id=root_id)
            if member is not None:
                yield member
                index += 1

    def _frozen(
        self, task: Any, group_id: str, index: int, *, chord: Any = None, root_id: str | None = None
    ) -> tuple[Any, Any] | None:
        """A copy of a call, frozen as a member, and its result; None of an empty chain."""
        copy = task.clone()
        if is_nothing(copy):
            return None
        if self._app is not None:
            _lend_app(copy, self._app)
        reference = copy.options.get("chord") if chord is None else chord
        return copy, copy.freeze(group_id=group_id, chord=reference, root_id=root_id, group_index=index)

    def _flat(self, tasks: Any, app: Any) -> Iterator[Any]:
        for task in tasks:
            one = task if isinstance(task, Signature) else maybe_signature(task, app=app)
            if isinstance(one, group):
                inner = one.clone()
                args, kwargs = inner._arguments((), {})
                for member in inner._flat(inner.tasks, app):
                    yield member.clone(args, kwargs) if args or kwargs else member
            else:
                yield one

    def freeze(  # type: ignore[override]
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> GroupResult[M]:
        """Give the group and all its calls their ids now; its tasks are copies from then on."""
        options = self.options
        gid = options.get("task_id")
        if not gid:
            gid = options["task_id"] = _id or uuid()
        if group_id and not options.get("group_id"):
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        root_id = options.setdefault("root_id", root_id)
        if parent_id:
            options["parent_id"] = parent_id
        pairs = list(self.members(_counted_in(options) or gid, chord=chord, root_id=root_id))
        self.tasks = [task for task, _ in pairs]
        return self.app.GroupResult(gid, [result for _, result in pairs])  # type: ignore[no-any-return]

    _freeze = freeze  # type: ignore[assignment]

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> GroupResult[M]:  # type: ignore[override]
        """Run all calls here and now, one after the other."""
        options = self._with_own(options)
        group_id = options.pop("task_id", None) or uuid()
        chord = options.get("chord")
        for key in (*_PLACE, "producer", "add_to_parent"):
            options.pop(key, None)
        args, kwargs = self._arguments(args, kwargs)
        results = [
            task.apply(args, kwargs, **options)
            for task, _ in self.members(group_id, chord=chord, root_id=options.get("root_id"))
        ]
        return self.app.GroupResult(group_id, results)  # type: ignore[no-any-return]

    # ── completing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def set_immutable(self, immutable: bool) -> None:
        """Whether later arguments change nothing, for every call."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, sig: Any) -> Any:
        """Call this when the first call has succeeded; without a result, since it would only be one of many."""
        return self.tasks[0].link(maybe_signature(sig).clone().set(immutable=True))

    def link_error(self, sig: Any) -> Any:
        """Call this for every call that fails."""
        errback = maybe_signature(sig)
        return tuple(task.link_error(errback.clone()) for task in self.tasks)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Delay the calls: the first by ``start`` seconds, each next by ``step`` more, none by more than ``stop``."""
        delay = start * 1.0
        for task in self.tasks:
            task.set(countdown=delay)
            if stop is None or delay + step <= stop:
                delay += step
        return self

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put stamps on all calls."""
        visited = None if visitor is None else visitor.on_group_start(self, **headers) or {}
        headers = self._stamps(headers, visited, append_stamps)
        self.stamp_links(visitor, append_stamps, **headers)
        if isinstance(self.tasks, LazyList):
            self.tasks = list(self.tasks)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_group_end(self, **headers)

    def __repr__(self) -> str:
        from zerocelery.canvas.chains import without_repeats

        if not self.tasks:
            return "group(<empty>)"
        return without_repeats(self.tasks[0]["task"], f"group({list(self.tasks)!r})")


def is_empty(one: Any, *, look: bool = False) -> bool:
    """Whether a group has no calls; a generator's is not asked unless ``look`` says so."""
    tasks = one.tasks
    if isinstance(tasks, LazyList) and not tasks.exhausted and not look:
        return False
    return not tasks


def is_nothing(task: Any) -> bool:
    """Whether this is a chain that has no steps, or only such."""
    from zerocelery.canvas.chains import _chain

    if not isinstance(task, _chain):
        return False
    return all(is_nothing(maybe_signature(step)) for step in task.tasks)


def maybe_unroll_group(one: Any) -> Any:
    """The only call of a group of one; of all others the group."""
    tasks = one.tasks
    if isinstance(tasks, LazyList) and not tasks.exhausted:
        # looking at its first item may find that it is the only one
        return tasks[0] if bool(tasks) and bool(tasks.exhausted) else one
    try:
        size = len(tasks)
    except TypeError:
        hint = getattr(tasks, "__length_hint__", None)
        size = 0 if hint is None else _hinted(hint)
    return tasks[0] if size == 1 else one


def _hinted(hint: Any) -> int:
    try:
        return int(hint())
    except (AttributeError, TypeError):
        return 0


def _counted_in(options: Any) -> str | None:
    """The group that a chord counts these calls in, where they stand for one member of its header."""
    return options.get("group_id") if options.get("chord") else None


def _lend_app(task: Any, app: Any) -> None:
    """Let a copy of a call, and the calls in it, belong to the group's app, where they belong to none."""
    if not isinstance(task, Signature):
        return
    if task._app is None and task._type is None:
        task._app = app
    _lend_app(getattr(task, "body", None), app)
    inner: Any = getattr(task, "tasks", None)
    for one in inner if isinstance(inner, (list, tuple)) else ():
        _lend_app(one, app)
