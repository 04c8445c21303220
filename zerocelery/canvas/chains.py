"""A chain: each step is called with the result of the one before it."""

from __future__ import annotations

from zerocelery import states
from zerocelery._ids import uuid
from zerocelery.canvas.groups import group, is_empty, maybe_unroll_group
from zerocelery.canvas.lazy import several
from zerocelery.canvas.signature import Signature, copied_options, maybe_signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeAlias, overload

    from zerocelery.app.base import Celery
    from zerocelery.canvas.signature import R, T
    from zerocelery.canvas.types import ChainToGroup, EndsInGroup
    from zerocelery.result import AsyncResult, EagerResult

    _Step: TypeAlias = Signature[Any]

__all__ = ("_chain", "chain")


@Signature.register_type(name="chain")
class _chain(Signature["R"]):
    """Steps one after the other, as they were given; :class:`chain` combines them first.

    A group with a step behind it becomes a chord when the chain is sent. What is sent is the first step, with all
    others on its message.
    """

    tasks: Any = property(
        lambda self: self["kwargs"]["tasks"], lambda self, value: self["kwargs"].__setitem__("tasks", value)
    )
    #: Steps and results of the last freeze, the last one first.
    _frozen: Any = None

    @classmethod
    def from_dict(cls, d: Any, app: Celery | None = None) -> Any:
        """The chain that this dict is the form of."""
        tasks = d["kwargs"]["tasks"]
        if tasks:
            tasks = [maybe_signature(task, app=app) for task in tasks]
        made = _chain.__new__(_chain if cls is chain else cls)
        _chain.__init__(made, tasks, app=app, **d["options"])
        made.args = tuple(d["args"] or ())
        made.immutable = d.get("immutable", False)
        made.subtask_type = d.get("subtask_type", "chain")
        made.kwargs.update((key, value) for key, value in d["kwargs"].items() if key != "tasks")
        return made

    def __init__(self, *tasks: Any, **options: Any) -> None:
        if len(tasks) == 1 and not isinstance(tasks[0], dict):
            tasks = tasks[0]
        app = options.pop("app", None)
        self._use_link = options.pop("use_link", None)
        super().__init__("celery.chain", (), {"tasks": list(tasks)}, app=app, **options)
        self.subtask_type = "chain"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send the chain, where it has any steps."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        twin = super().clone(*args, **kwargs)
        twin._use_link = self._use_link
        twin.kwargs["tasks"] = [task.clone() if isinstance(task, Signature) else task for task in twin.kwargs["tasks"]]
        return twin

    @property
    def app(self) -> Any:
        if self._app is not None:
            return self._app
        return app_of(self.tasks)

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply_async(  # type: ignore[override]
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> AsyncResult[R]:
        """Send the chain; gives the last step's result, whose parents are those of the steps before it."""
        kwargs = kwargs or {}
        if self.app.conf["task_always_eager"]:
            from zerocelery.result import allow_join_result

            with allow_join_result():
                return self.apply(args, kwargs, **options)
        return self.run(args, kwargs, **_merged(self.options, options))  # type: ignore[no-any-return]

    def run(
        self,
        args: Any = None,
        kwargs: Any = None,
        group_id: str | None = None,
        chord: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        publisher: Any = None,
        producer: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        app: Celery | None = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Any:
        """Send the first step, with the others on its message."""
        from zerocelery.canvas.chords import _chord, _strip_chord_header_links

        steps, results = self.prepare_steps(
            self._arguments(args),
            {**self._own_kwargs(), **(kwargs or {})},
            self.tasks,
            root_id,
            parent_id,
            link_error,
            app or self.app,
            task_id,
            group_id,
            chord,
            group_index=group_index,
        )
        if not results:
            return None
        if link:
            steps[0].extend_list_option("link", link)
        first = steps.pop()
        if any(isinstance(step, _chord) for step in steps):
            _allow_chords(app or self.app)
        for step in steps:
            _strip_chord_header_links(step)
        # what is run first is taken from the end of the list, so what comes after this chain goes before it
        options["chain"] = [*(options.get("chain") or ()), *steps]
        more = {"root_id": root_id, "parent_id": parent_id, "producer": producer}
        options.update((key, value) for key, value in more.items() if value is not None)
        sent = first.apply_async(**options)
        if len(results) == 1:
            # the result of what was sent knows more than the one of the freeze: how to wait for it
            return sent
        # Steps but the last are asked for by who wants them; the last one's result comes to where the chain was sent.
        last = results[0]
        if type(last) is type(sent):
            last._token = sent._token
        return last

    def _links_steps(self, app: Any) -> bool:
        """Whether steps are linked as callbacks, as in the first version of the protocol, and not listed."""
        return bool(self._use_link) or (self._use_link is None and app.conf["task_protocol"] == 1)

    def _arguments(self, args: Any) -> Any:
        own = tuple(self.args or ())
        return own if self.immutable or not args else (*args, *own)

    def _own_kwargs(self) -> dict[str, Any]:
        return {key: value for key, value in self["kwargs"].items() if key != "tasks"}

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give all steps their ids now, in place; the last one's result."""
        self._frozen = self.prepare_steps(
            self.args, self._own_kwargs(), self.tasks, root_id, parent_id, None, self.app, _id, group_id, chord,
            clone=False, group_index=group_index,
        )  # fmt: skip
        results = self._frozen[1]
        return results[0] if results else None

    _freeze = freeze

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Put stamps on all steps."""
        visited = None if visitor is None else visitor.on_chain_start(self, **headers) or {}
        headers = self._stamps(headers, visited, append_stamps)
        self.stamp_links(visitor, append_stamps, **headers)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(self, **headers)

    def unchain_tasks(self) -> list[Any]:
        """Copies of the steps, the last with the chain's callbacks, all with its errbacks."""
        tasks = [maybe_signature(task, app=self._app, clone=True) for task in self.tasks]
        if tasks:
            for callback in several(self.options.get("link")):
                tasks[-1].link(callback)
            for errback in several(self.options.get("link_error")):
                for task in tasks:
                    task.link_error(maybe_signature(errback, clone=True))
        return tasks

    def prepare_steps(
        self,
        args: Any,
        kwargs: Any,
        tasks: Any,
        root_id: str | None = None,
        parent_id: str | None = None,
        link_error: Any = None,
        app: Celery | None = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        from_dict: Any = Signature.from_dict,
        group_index: int | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """The steps as they are sent, and their results; both with the last one first.

        Arguments:
            clone: leave the given ones as they are.
        """
        app = app or self.app
        steps = _Steps(app, clone=clone, from_dict=from_dict)
        steps.take(tasks, args, kwargs)
        steps.close()
        if not steps.done:
            return [], []
        errbacks = several(link_error)
        results: list[Any] = []
        before: Any = None
        last = steps.done[-1]
        for step in steps.done:
            for errback in errbacks:
                errback_of(step, errback)
            if step is last:
                result = step.freeze(
                    last_task_id, root_id=root_id, group_id=group_id, chord=chord_body, group_index=group_index
                )
            else:
                result = step.freeze(root_id=root_id)
            if before is None and parent_id:
                step.set(parent_id=parent_id)
            set_parent(result, before)
            results.append(result)
            before = result
        steps.write_back()
        self.id = last_task_id or before.id
        return steps.done[::-1], results[::-1]

    # ── eagerly ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> EagerResult[R]:
        """Run all steps here and now; gives the last one's result."""
        options = _merged(self.options, options)
        link = several(options.pop("link", None))
        task_id = options.pop("task_id", None)
        steps = _Steps(self.app, clone=True, from_dict=Signature.from_dict, upgrades=False)
        steps.take(self.tasks, self._arguments(args), {**self._own_kwargs(), **(kwargs or {})})
        result: Any = None
        for index, step in enumerate(steps.done):
            if index == len(steps.done) - 1:
                for callback in link:
                    _link_copy(step, callback)
                if task_id:
                    step.set(task_id=task_id)
            after = step.apply((result.get(),) if result is not None else (), **options)
            after.parent = result
            result = after
            if getattr(result, "state", None) in (states.IGNORED, states.REJECTED):
                break
        return result  # type: ignore[no-any-return]

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        return without_repeats(self.tasks[0]["task"], " | ".join(repr(task) for task in self.tasks))


class chain(_chain["R"]):
    """``chain(a, b, c)``: the same as ``a | b | c``.

    So a group with something behind it becomes a chord, chains within become part of this one, and what comes out need
    not be a chain. With options (``chain(a, b, task_id=…)``) the steps stay as they are until the chain is sent.
    """

    if TYPE_CHECKING:

        @overload
        def __new__(cls, a: EndsInGroup[T], /, **o: Any) -> ChainToGroup[T]: ...
        @overload
        def __new__(cls, a: Signature[T], /, **o: Any) -> chain[T]: ...
        @overload
        def __new__(cls, a: _Step, b: EndsInGroup[T], /, **o: Any) -> ChainToGroup[T]: ...
        @overload
        def __new__(cls, a: _Step, b: Signature[T], /, **o: Any) -> chain[T]: ...
        @overload
        def __new__(cls, a: _Step, b: _Step, c: EndsInGroup[T], /, **o: Any) -> ChainToGroup[T]: ...
        @overload
        def __new__(cls, a: _Step, b: _Step, c: Signature[T], /, **o: Any) -> chain[T]: ...
        @overload
        def __new__(cls, a: _Step, b: _Step, c: _Step, d: EndsInGroup[T], /, **o: Any) -> ChainToGroup[T]: ...
        @overload
        def __new__(cls, a: _Step, b: _Step, c: _Step, d: Signature[T], /, **o: Any) -> chain[T]: ...
        @overload
        def __new__(cls, tasks: Iterable[_Step], /, **o: Any) -> chain[Any]: ...
        @overload
        def __new__(cls, *tasks: dict[str, Any], **o: Any) -> chain[Any]: ...

    def __new__(cls, *tasks: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        if kwargs or not tasks or (len(tasks) == 1 and not _is_list(tasks[0])):
            return super().__new__(cls)
        made = _fold_chain(tasks[0] if len(tasks) == 1 else tasks)
        if cls is not chain and type(made) is _chain:
            own = super().__new__(cls)
            _chain.__init__(own, made.tasks)
            return own
        return made

    if not TYPE_CHECKING:  # to a checker it is __new__ that says what comes out

        def __init__(self, *tasks: Any, **kwargs: Any) -> None:
            if "kwargs" not in self:
                super().__init__(*tasks, **kwargs)


def _is_list(value: Any) -> bool:
    return not isinstance(value, (dict, str, bytes)) and hasattr(value, "__iter__")


# ── combining ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fold_chain(steps: Iterable[Any]) -> Any:
    """What ``steps[0] | steps[1] | …`` gives, beginning with an empty chain; each step is copied at most twice.

    Raises:
        TypeError: one of them is no signature.
    """
    builder = _Builder([], bare=False)
    for step in steps:
        if builder.add(step) is NotImplemented:
            raise TypeError(f"unsupported operand type(s) for |: '_chain' and {type(step).__name__!r}")
    return builder.result()


def joined(left: Any, right: Any) -> Any:
    """What ``left | right`` gives, or NotImplemented."""
    from zerocelery.canvas.chords import _chord

    if isinstance(left, _chain):
        builder = _Builder(left.unchain_tasks(), bare=False, app=left._app, kind=type(left))
    elif isinstance(left, (group, _chord)):
        builder = _Builder([left], bare=True, app=left._app)
    else:
        builder = _Builder([left], bare=False, app=left._app)
    if builder.add(right) is NotImplemented:
        return NotImplemented
    return builder.result()


def _merge_chain_step(tasks: list[Any], step: Any) -> Any:
    """Put a step behind those in the list, which is changed; NotImplemented where it is none."""
    return _Builder(tasks, bare=False).add(step)


class _Builder:
    """Steps that are put together one by one.

    Arguments:
        bare: the only thing here is a group or chord by itself, which has not become a chain.
    """

    def __init__(self, tasks: list[Any], *, bare: bool, app: Any = None, kind: Any = None) -> None:
        self.tasks = tasks
        self.bare = bare
        self.app = app
        self.kind = _chain if kind is None or kind is chain else kind
        self._own: int | None = None  # id of the chord that was made or copied here, so that it may be changed

    def result(self) -> Any:
        if self.bare:
            return self.tasks[0]
        return self.kind(self.tasks, app=self.app)

    def add(self, step: Any) -> Any:
        """Put a step behind the others; NotImplemented where it is none."""
        if isinstance(step, dict) and not isinstance(step, Signature):
            step = maybe_signature(step)
        if not isinstance(step, Signature):
            return NotImplemented
        if isinstance(step, _chain):
            return self._add_all(step)
        if isinstance(step, group):
            if is_empty(step):
                return None
            step = maybe_unroll_group(step)
            if isinstance(step, _chain):
                return self._add_all(step)
        if isinstance(step, group):
            self._add_group(step)
        else:
            self._add_step(step)
        return None

    def _add_all(self, steps: _chain) -> Any:
        if self.bare and not isinstance(self.tasks[0], group):
            self.bare = False
        for step in steps.unchain_tasks():
            if self.add(step) is NotImplemented:
                return NotImplemented
        return None

    def _add_group(self, step: Any) -> None:
        from zerocelery.canvas.chords import _chord

        if not self.tasks:
            self.tasks.append(step)
            self.bare = True
        elif self.bare and isinstance(self.tasks[0], group):
            self._to_chord(step)
        elif not self.bare and isinstance(self.tasks[-1], _chord):
            self._to_body(step)
        else:
            self.tasks.append(step)
            self.bare = False

    def _add_step(self, step: Any) -> None:
        from zerocelery.canvas.chords import _chord

        last = self.tasks[-1] if self.tasks else None
        if isinstance(last, group):
            self._to_chord(step)
            if len(self.tasks) > 1 and isinstance(self.tasks[-2], _chord):
                upgraded = self.tasks.pop()
                self._to_body(upgraded)
        elif isinstance(last, _chord) and (self.bare or not isinstance(step, _chord)):
            self._to_body(step)
        else:
            self.tasks.append(step)

    def _to_chord(self, body: Any) -> None:
        """Make the group that comes last the header of a chord."""
        from zerocelery.canvas.chords import chord

        header = self.tasks[-1]
        self.tasks[-1] = made = chord(header, body, app=header._app)
        give_arguments(made, header)
        self._own = id(made)

    def _to_body(self, step: Any) -> None:
        """Put a step behind the body of the chord that comes last."""
        last = self.tasks[-1]
        if id(last) != self._own:
            last = self.tasks[-1] = last.clone()
            self._own = id(last)
        last.body = step if last.body is None else last.body | step


# ── preparing ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Steps:
    """Steps on their way to being sent: chains within are part of this one, empty ones are left out, a group with a
    step behind it is a chord, and of a chord whose body is a chain all but the first step are steps of their own."""

    def __init__(self, app: Any, *, clone: bool, from_dict: Any, upgrades: bool = True) -> None:
        self.app = app
        self.clone = clone
        self.from_dict = from_dict
        self.upgrades = upgrades
        self.done: list[Any] = []
        self._nothing: Any = None  # an empty group: all there is where nothing else comes
        self._first: tuple[Any, Any] | None = None
        self._copies: list[tuple[Any, Any]] = []

    def take(self, tasks: Any, args: Any, kwargs: Any) -> None:
        """Take the steps; the first real one gets these arguments."""
        self._first = (args, kwargs)
        for task in tasks:
            self._take(task)
        if not self.done and self._nothing is not None:
            self.done.append(self._nothing)

    def _take(self, task: Any) -> None:
        if not isinstance(task, Signature):
            task = self.from_dict(task, app=self.app)
        if isinstance(task, group):
            task = maybe_unroll_group(task)
        if isinstance(task, _chain):
            self._splice(task)
            return
        if isinstance(task, group) and is_empty(task, look=True):
            self._nothing = self._nothing or task
            return
        self._append(self._with_arguments(task))

    def _splice(self, inner: _chain) -> None:
        own = inner._own_kwargs()
        if self._first is not None and (inner.args or own):
            args, kwargs = self._first
            self._first = inner._arguments(args), {**(own or {}), **(kwargs or {})}
        steps = inner.unchain_tasks() if self.clone else with_links(inner)
        for step in steps:
            self._take(step)

    def _with_arguments(self, task: Any) -> Any:
        args, kwargs = self._first or (None, None)
        self._first = None
        if self.clone:
            return task.clone(args, kwargs)
        if (args or kwargs) and not task.immutable:
            task.args, task.kwargs, _ = task._merge(args, kwargs)
        return task

    def _append(self, step: Any) -> None:
        from zerocelery.canvas.chords import _chord

        last = self.done[-1] if self.done and self.upgrades else None
        if isinstance(last, group):
            self.done[-1] = made = upgraded(last, step, self.app)
            self._copies.append((last, made))
        elif isinstance(last, _chord) and _ends_in_group(last):
            self.done[-1] = made = self._own(last)
            _extend_body(made, step, self.app)
        else:
            self.done.append(step)

    def _own(self, given: Any) -> Any:
        """A chord that may be changed; the one that was given stays as it was written."""
        if self.clone or any(made is given for _, made in self._copies):
            return given
        made = type(given)(given.tasks, body=given.body, app=given._app, **given.options)
        made.tasks, made.args, made.immutable = given.tasks, given.args, given.immutable
        made["kwargs"]["kwargs"] = given["kwargs"].get("kwargs", {})
        self._copies.append((given, made))
        return made

    def close(self, *, splits: bool = True) -> None:
        """All steps are here: of a chord whose body is a chain, all but the first step of that become steps."""
        if not self.clone or not splits:
            return
        from zerocelery.canvas.chords import _chord

        done, self.done = self.done, []
        for step in done:
            self.done.append(step)
            if isinstance(step, _chord):
                self.done.extend(self._split(step))

    def write_back(self) -> None:
        """Where the given steps themselves were to be frozen: let them have what was given to what stood for them."""
        if self.clone:
            return
        for given, made in self._copies:
            header = made.tasks
            if isinstance(given, group):
                given.tasks = header.tasks
                given.options["task_id"] = header.options["task_id"]
            else:
                given.tasks = header
                given.options["task_id"] = made.options["task_id"]

    def _split(self, step: Any) -> list[Any]:
        """Take all but the first step out of a chord's body."""
        body = step.body
        if not isinstance(body, _chain) or body.immutable or body.args or not body.tasks:
            return []
        inner = _Steps(self.app, clone=True, from_dict=self.from_dict)
        for task in body.unchain_tasks():
            inner._take(task)
        inner.close()
        if not inner.done or not _is_call(inner.done[0]):
            return []
        first, *rest = inner.done
        options = {key: value for key, value in body.options.items() if key not in _NOT_OF_THE_FIRST}
        if options:
            first.options = {**options, **first.options}
        _move_links(step, first, rest)
        if rest and body.options.get("task_id"):
            rest[-1].options.setdefault("task_id", body.options["task_id"])
        step.body = first
        return rest


#: Options of a chain that aren't those of its first step.
_NOT_OF_THE_FIRST = frozenset(
    {"link", "link_error", "task_id", "group_id", "group_index", "chord", "root_id", "parent_id"}
)


def _move_links(step: Any, first: Any, rest: list[Any]) -> None:
    """What was linked to a chord is linked to what comes out of it."""
    if rest and step.options.get("link"):
        rest[-1].extend_list_option("link", step.options.pop("link"))


def _allow_chords(app: Any) -> None:
    """Refuse a chord that a worker would come to later, and could not count."""
    if not app.has_node:
        app.backend.ensure_chords_allowed()


def _is_call(task: Any) -> bool:
    """Whether this is one call of one task."""
    from zerocelery.canvas.chords import _chord

    return not isinstance(task, (group, _chain, _chord)) and task["task"] != "celery.chunks"


def upgraded(header: Any, step: Any, app: Any) -> Any:
    """The chord that a group becomes by the step behind it."""
    from zerocelery.canvas.chords import chord

    made = chord(header, body=step, task_id=header.options.get("task_id"), app=app)
    give_arguments(made, header)
    if made.options["task_id"] is None:
        # known from here on to whoever is to be given it
        made.options["task_id"] = header.options["task_id"] = uuid()
    return made


def give_arguments(made: Any, header: Any) -> None:
    """Let a chord have what its header, when that was a group by itself, was to be called with."""
    if header.args:
        made.args, made.immutable = header.args, header.immutable
    more = {key: value for key, value in header["kwargs"].items() if key != "tasks"}
    if more:
        made["kwargs"]["kwargs"] = more


def as_sent(body: Any) -> Any:
    """A copy of a chord's body as it goes on messages: without what it gets again when it is sent."""
    from zerocelery.canvas.chords import _strip_chord_header_links

    copy = body.clone()
    if isinstance(copy, _chain) and copy.tasks:
        steps = _Steps(copy.app, clone=True, from_dict=Signature.from_dict)
        steps.take(copy.tasks, None, None)
        steps.close(splits=not copy._links_steps(copy.app))
        copy.tasks = steps.done
    _strip_chord_header_links(copy)
    return copy


def _ends_in_group(one: Any) -> bool:
    """Whether a chord's body, or that body's, is a group: what comes behind it makes that a chord's header."""
    from zerocelery.canvas.chords import _chord

    while isinstance(one, _chord):
        one = one.body
    return isinstance(one, group)


def _extend_body(one: Any, step: Any, app: Any) -> None:
    """Put a step behind a chord whose innermost body is a group."""
    from zerocelery.canvas.chords import _chord

    while isinstance(one.body, _chord):
        one = one.body
    one.body = upgraded(one.body, step, app)


def with_links(inner: _chain) -> list[Any]:
    """A chain's own steps, with its callbacks and errbacks put on them."""
    tasks = [maybe_signature(task) for task in inner.tasks]
    inner.tasks = tasks
    if tasks:
        for callback in several(inner.options.pop("link", None)):
            tasks[-1].link(callback)
        for errback in several(inner.options.pop("link_error", None)):
            for task in tasks:
                task.link_error(errback)
    return tasks


def errback_of(step: Any, errback: Any) -> None:
    """Call this when the step fails: of a chord its body, whatever the settings say of headers."""
    from zerocelery.canvas.chords import _chord

    while isinstance(step, _chord) and step.body is not None:
        step = step.body
    step.link_error(maybe_signature(errback, clone=True))


def _link_copy(step: Any, callback: Any) -> None:
    """Call this with the result of a step that is run here; of several at its end, with each."""
    from zerocelery.canvas.chords import _chord

    while isinstance(step, _chord) and step.body is not None:
        step = step.body
    if isinstance(step, group):
        for task in step.tasks:
            _link_copy(task, callback)
    else:
        step.extend_list_option("link", maybe_signature(callback, clone=True))


def _merged(own: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A chain's options with those of this call over them."""
    if not options:
        return copied_options(own)
    kept = {key: value for key, value in options.items() if value is not None or key not in own}
    if own.get("group_id"):
        kept.pop("group_id", None)
    return {**copied_options(own), **kept}


def set_parent(result: Any, parent: Any) -> None:
    """Put a result behind another: the first of a step's own results is the one that has no parent yet."""
    if parent is None or result is None:
        return
    node = result
    while node.parent is not None:
        if node.parent.id == parent.id:
            return
        node = node.parent
    if node.id != parent.id:
        node.parent = parent


def hand_on(sent: Any, frozen: Any) -> None:
    """Let the result of the freeze know what the one of the sending knows."""
    token = getattr(sent, "_token", None)
    if token is not None and getattr(frozen, "id", None) == sent.id:
        frozen._token = token


def app_of(tasks: Any, *others: Any) -> Any:
    """The app of the first task that has one, or else of the others, or else the current one."""
    from zerocelery._state import current_app

    found = _first_app(tasks)
    for other in others:
        found = found or _find_app(other)
    return found or current_app


def _first_app(tasks: Any) -> Any:
    if isinstance(tasks, group):
        return _find_app(tasks)
    return _find_app(tasks[0]) if tasks else None


def _find_app(task: Any) -> Any:
    """The app of a signature or of the first task in it; None where nobody has said."""
    from zerocelery.canvas.chords import _chord

    if not isinstance(task, Signature):
        return None
    if task._app is not None:
        return task._app
    if isinstance(task, (group, _chain)):
        return _first_app(task.tasks)
    if isinstance(task, _chord):
        return _first_app(task.tasks) or _find_app(task.body)
    return getattr(task._type, "app", None)


def without_repeats(task: str, text: str) -> str:
    """The text, with the module named only the first time that it comes."""
    import re

    module = task.rpartition(".")[0]
    if not module:
        return text
    first = True

    def shorten(found: re.Match[str]) -> str:
        nonlocal first
        if first:
            first = False
            return found.group()
        return ""

    return re.sub(rf"(?<![\w.\-]){re.escape(module)}\.", shorten, text)
