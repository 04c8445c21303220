"""Results: what a caller holds of a task that was sent, or was run on the spot."""

from __future__ import annotations

from contextlib import contextmanager

from zerocelery import states
from zerocelery._state import _join_blocks, app_or_default, task_join_will_block
from zerocelery.exceptions import TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Generic, TypeVar

    from zerocelery.app.base import Celery

    R = TypeVar("R")

    class _Typed(Generic[R]):
        pass

    EXC = BaseException
else:

    class _Typed:
        __class_getitem__ = classmethod(lambda cls, item: cls)


__all__ = (
    "AsyncResult",
    "EagerResult",
    "ResultBase",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
    "task_join_will_block",
)

_WOULD_BLOCK = (
    "Never call result.get() within a task!\n"
    "A worker that waits for another task may be the only one that could run it. Call the rest as a callback or a "
    "chain; if you know that it can't block: get(disable_sync_subtasks=False), or with allow_join_result()."
)


def assert_will_not_block() -> None:
    """Raise RuntimeError within a task, where waiting for another may never end."""
    if task_join_will_block():
        raise RuntimeError(_WOULD_BLOCK)


@contextmanager
def _joining(blocks: bool) -> Iterator[None]:
    token = _join_blocks.set(blocks)
    try:
        yield
    finally:
        _join_blocks.reset(token)


def allow_join_result() -> Any:
    """Within this context tasks may wait for results."""
    return _joining(False)


def denied_join_result() -> Any:
    """Within this context nobody may wait for results."""
    return _joining(True)


class Unreadable:
    """In the place of a result that can't be decoded here: who wants the result gets the error, the rest is fine."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class ResultBase:
    """Base of all results."""

    #: The result of the task whose callback or follower this is.
    parent: Any = None

    def as_tuple(self) -> Any:
        """The form in which a result travels within another's."""
        raise NotImplementedError


class AsyncResult(ResultBase, _Typed["R"]):
    """The state of a task, by its id.

    Arguments:
        id: the task's.
        backend: where its result is kept; the app's unless given.
    """

    TimeoutError = TimeoutError

    app: Any = None
    id: str
    backend: Any = None
    #: Whether nobody keeps this result.
    ignored: bool | None = None

    #: What sending the task gave: with it, waiting needs no question to the node.
    _token: int | None = None
    _cache: dict[str, Any] | None = None

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Celery | None = None,
        parent: Any = None,
    ) -> None:
        if id is None:
            raise ValueError(f"AsyncResult requires valid id, not {type(id)}")
        if app is None:
            app = self.app if self.app is not None else app_or_default()
        self.app = app
        self.id = id
        self.backend = backend if backend is not None else app.backend
        self._name = task_name
        if parent is not None:
            self.parent = parent

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Any = states.EXCEPTION_STATES,
        PROPAGATE_STATES: Any = states.PROPAGATE_STATES,
    ) -> R:
        """Wait until the task is done, and return its result or raise its exception.

        Arguments:
            timeout: seconds; None waits for ever.
            propagate: raise the task's exception; else return it.
            follow_parents: with propagate, also raise the exception of a task before this one in a chain.
            callback: called with id and result.
            on_interval: called every ``interval`` seconds while waiting.
            disable_sync_subtasks: refuse to wait within a task.

        Raises:
            zerocelery.exceptions.TimeoutError: it took longer than the timeout.
            kombu.exceptions.OperationalError: the node is not in reach.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.parent is not None and follow_parents and propagate:
            self._maybe_reraise_parent_error()
            on_interval = self._with_parents(on_interval)
        if self._cache is not None:
            return self.maybe_throw(propagate=propagate, callback=callback)  # type: ignore[no-any-return]
        return self.backend.wait_for_pending(  # type: ignore[no-any-return]
            self,
            timeout=timeout,
            interval=interval,
            no_ack=no_ack,
            on_interval=on_interval,
            callback=callback,
            on_message=on_message,
            propagate=propagate,
        )

    wait = get

    def _with_parents(self, on_interval: Callable[[], Any] | None) -> Callable[[], Any]:
        def look() -> None:
            self._maybe_reraise_parent_error()
            if on_interval is not None:
                on_interval()

        return look

    def _maybe_reraise_parent_error(self) -> None:
        for node in reversed(list(self._parents())):
            node.maybe_throw()

    def _parents(self) -> Iterator[Any]:
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raise the task's exception if it has failed; else give its result as it is now."""
        meta = self._cache or self._get_task_meta()
        value = _readable(meta["result"])
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            self.throw(value)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Raise an exception as this task's."""
        error, *rest = args
        if isinstance(error, BaseException):
            # one stored exception may be raised many times, and would carry the frames of all who waited
            raise error.with_traceback(rest[0] if rest and not isinstance(rest[0], str) else None)
        raise RuntimeError(f"task {self.id} failed with what is no exception: {error!r}")

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _get_task_meta(self) -> dict[str, Any]:
        if self._cache is not None:
            return self._cache
        meta_of = getattr(self.backend, "meta_of", None)
        meta: dict[str, Any] = meta_of(self) if meta_of is not None else self.backend.get_task_meta(self.id)
        return self._maybe_set_cache(meta)

    def _maybe_set_cache(self, meta: dict[str, Any]) -> dict[str, Any]:
        if meta and meta["status"] in states.READY_STATES:
            return self._set_cache(meta)
        return meta

    def _set_cache(self, meta: dict[str, Any]) -> dict[str, Any]:
        self._cache = meta
        return meta

    def ready(self) -> bool:
        """Whether the task is done, in whatever way."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether the task has returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether the task has raised."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Whether anything is known of the task."""
        return self._cache is not None or bool(self.backend.exists(self.id))

    @property
    def state(self) -> str:
        """The task's state; PENDING also means that nothing is known of it."""
        return self._get_task_meta()["status"]  # type: ignore[no-any-return]

    status = state

    @property
    def result(self) -> Any:
        """What the task returned, or the exception that it raised, or a state's own data."""
        return _readable(self._get_task_meta()["result"])

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a task that failed, as text."""
        return self._get_task_meta().get("traceback")

    @property
    def children(self) -> Any:
        """Results of the tasks that this one called."""
        return self._get_task_meta().get("children")

    @property
    def date_done(self) -> Any:
        """When the task ended (UTC)."""
        date = self._get_task_meta().get("date_done")
        if isinstance(date, str):
            from zerocelery.utils.time import parse_iso8601

            return parse_iso8601(date)
        return date

    @property
    def name(self) -> str | None:
        """The task's name, with ``result_extended``."""
        return self._get_task_meta().get("name")

    @property
    def args(self) -> Any:
        """The task's arguments, with ``result_extended``."""
        return self._get_task_meta().get("args")

    @property
    def kwargs(self) -> Any:
        """The task's keyword arguments, with ``result_extended``."""
        return self._get_task_meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        """Who ran the task, with ``result_extended``."""
        return self._get_task_meta().get("worker")

    @property
    def retries(self) -> int | None:
        """How often the task was retried, with ``result_extended``."""
        return self._get_task_meta().get("retries")

    @property
    def queue(self) -> str | None:
        """Which queue the task came by, with ``result_extended``."""
        return self._get_task_meta().get("queue")

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    @task_id.setter
    def task_id(self, id: str) -> None:
        self.id = id

    @property
    def supports_native_join(self) -> bool:
        """Whether many results can be waited for at once."""
        return bool(self.backend.supports_native_join)

    def forget(self) -> None:
        """Remove the result, and those before it in the chain, from where they are kept."""
        self._cache = None
        if self.parent is not None:
            self.parent.forget()
        self.backend.forget(self.id)

    # ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def as_tuple(self) -> Any:
        """``((id, parent), children)``: what :func:`result_from_tuple` reads."""
        parent = self.parent
        return (self.id, parent.as_tuple() if parent is not None else None), None

    def as_list(self) -> list[Any]:
        """The ids of this result and those before it."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __str__(self) -> str:
        return str(self.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return bool(other.id == self.id)
        if isinstance(other, str):
            return other == self.id
        return NotImplemented

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self.backend, self._name, self.app, self.parent)

    def __reduce__(self) -> Any:
        return _rebuild, (self.id, self._name, self.parent)


def _rebuild(id: str, task_name: str | None, parent: Any) -> AsyncResult[Any]:
    return AsyncResult(id, task_name=task_name, parent=parent)


def _readable(value: Any) -> Any:
    if type(value) is Unreadable:
        raise value.error
    return value


class EagerResult(AsyncResult["R"]):
    """The result of a task that was run on the spot."""

    def __init__(self, id: str, ret_value: Any, state: str, traceback: Any = None, name: str | None = None) -> None:
        self.id = id
        self._result = ret_value
        self._state = state
        self._traceback = traceback
        self._name = name

    def get(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> R:
        """The result, or the exception raised."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.successful():
            return self._result  # type: ignore[no-any-return]
        if self._state in states.PROPAGATE_STATES and propagate:
            if isinstance(self._result, Exception):
                raise self._result
            raise Exception(self._result)
        return self._result  # type: ignore[no-any-return]

    wait = get  # type: ignore[assignment]

    def _get_task_meta(self) -> dict[str, Any]:
        return {
            "task_id": self.id,
            "result": self._result,
            "status": self._state,
            "traceback": self._traceback,
            "name": self._name,
        }

    def ready(self) -> bool:
        """True: it was run before this object existed."""
        return True

    def exists(self) -> bool:
        """True."""
        return True

    def forget(self) -> None:
        """Nothing was stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark as revoked; it has run all the same."""
        self._state = states.REVOKED

    @property
    def state(self) -> str:
        return self._state

    status = state

    @property
    def supports_native_join(self) -> bool:
        return False

    def __copy__(self) -> EagerResult[R]:
        return type(self)(self.id, self._result, self._state, self._traceback, self._name)

    def __reduce__(self) -> Any:
        return EagerResult, (self.id, self._result, self._state, self._traceback, self._name)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """The result that ``as_tuple`` has described; a result is returned as it is."""
    if isinstance(r, ResultBase):
        return r
    app = app_or_default(app)
    (id, parent), children = r
    if children is not None:
        raise ValueError("a group's result can't be rebuilt without its group")
    return app.AsyncResult(id, parent=result_from_tuple(parent, app) if parent else None)
