"""Results: what a caller holds of a task that was sent, or was run on the spot."""

from __future__ import annotations

from contextlib import contextmanager

from zerocelery import states
from zerocelery._state import _join_blocks, app_or_default, task_join_will_block
from zerocelery.exceptions import ChordError, ImproperlyConfigured, IncompleteStream, TaskRevokedError, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any, Generic, overload

    from typing_extensions import TypeVar

    from zerocelery.app.base import Celery
    from zerocelery.app.progress import Progress

    #: What the task gives; of several results, each. Anything, where a result is named without it.
    R = TypeVar("R", default=Any)

    class _Typed(Generic[R]):
        pass

    EXC = BaseException
else:
    from types import GenericAlias

    class _Typed:
        __class_getitem__ = classmethod(GenericAlias)


__all__ = (
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
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
    """What results of one task and of several have in common: a parent, and what it takes to wait for them."""

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
    _ignored: bool | None = False
    #: Called when the end of the task has been seen.
    _watchers: Any = None

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
        self._ignored = False
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
        parents = self.parent is not None and follow_parents and propagate
        if parents:
            told = getattr(self.backend, "tells_followers", False) is True
            self._maybe_reraise_parent_error(known=told)
            if not told:
                on_interval = self._with_parents(on_interval)
        if self._cache is not None:
            return self._from_cache(parents, propagate, callback)  # type: ignore[no-any-return]
        try:
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
        except ChordError:
            if parents:
                # what the member itself has raised says more
                self._maybe_reraise_parent_error()
            raise

    def _from_cache(self, parents: bool, propagate: bool, callback: Callable[[str, Any], Any] | None) -> Any:
        try:
            return self.maybe_throw(propagate=propagate, callback=callback)
        except ChordError:
            if parents:
                self._maybe_reraise_parent_error()
            raise

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        follow_parents: bool = True,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """As :meth:`get`, in a coroutine: ``await result`` is ``await result.aget()``.

        Any number may be awaited at a time. Results of a node take no thread each; those of other backends do.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        arrival = getattr(self.backend, "arrival", None)
        if arrival is None:
            import asyncio

            return await asyncio.to_thread(
                self.get, timeout, propagate=propagate, follow_parents=follow_parents, disable_sync_subtasks=False
            )
        if self._cache is None:
            await arrival(self, timeout)
        return self.get(propagate=propagate, follow_parents=follow_parents, disable_sync_subtasks=False)

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def _with_parents(self, on_interval: Callable[[], Any] | None) -> Callable[[], Any]:
        def look() -> None:
            self._maybe_reraise_parent_error()
            if on_interval is not None:
                on_interval()

        return look

    def _maybe_reraise_parent_error(self, *, known: bool = False) -> None:
        """Raise the exception of a task before this one.

        Arguments:
            known: look only at what needs no question: who follows a failed task is told in any case.
        """
        for node in reversed(list(self._parents())):
            if known:
                node._throw_known()
            else:
                node.maybe_throw()

    def _throw_known(self) -> None:
        """Raise the task's exception if it is known to have failed."""
        if self._is_known():
            self.maybe_throw()

    def _is_known(self) -> bool:
        """Whether the end of the task has been seen."""
        return self._cache is not None

    @property
    def ignored(self) -> bool | None:
        """Whether nobody keeps this result."""
        ignored: bool | None = self.__dict__.get("_ignored", False)
        return ignored

    @ignored.setter
    def ignored(self, value: bool | None) -> None:
        self.__dict__["_ignored"] = value

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
            self.throw(value, self._to_remote_traceback(meta.get("traceback")))
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def _to_remote_traceback(self, text: Any) -> Any:
        """The worker's traceback as one that an exception can carry, with ``task_remote_tracebacks`` and tblib."""
        if not text or not isinstance(text, str) or self.app is None or not self.app.conf["task_remote_tracebacks"]:
            return None
        try:
            from tblib import Traceback
        except ImportError:
            return None
        return Traceback.from_string(text).as_traceback()

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
        children = meta.get("children")
        if children and not isinstance(children[0], ResultBase):
            meta["children"] = [result_from_tuple(child, self.app) for child in children]
        self._cache = meta
        watchers, self._watchers = self._watchers, None
        for watcher in watchers or ():
            watcher(self)
        return meta

    def then(self, callback: Callable[[Any], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Call this with the result object when the task's end has been seen, or now if it has been; returns the
        callback.

        It is seen by who waits for the result or looks at its state.
        """
        if self._is_known():
            callback(self)
        else:
            self._watchers = [*(self._watchers or ()), callback]
        return callback

    # ── the tree of what the task has called ─────────────────────────────────────────────────────────────────────────

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Pairs of a result and one that its task has called, from this one on.

        Arguments:
            intermediate: take what there is by now.

        Raises:
            IncompleteStream: one of the tasks has not ended.
        """
        from collections import deque

        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        while waiting:
            parent, node = waiting.popleft()
            yield parent, node
            if node.ready():
                waiting.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Pairs of each result in the tree and its value.

        With a task that has called a group, each member of which has called a task that squares a number::

            >>> [value for _, value in result.collect() if isinstance(value, int)]
            [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
        """
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result in the tree."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(self, intermediate: bool = False, formatter: Any = None) -> Any:
        """The tree as a graph."""
        from zerocelery.utils.graph import DependencyGraph

        graph = DependencyGraph(formatter=formatter)
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> Any:
        """The tree as a graph."""
        return self.build_graph()

    # ── ending it ────────────────────────────────────────────────────────────────────────────────────────────────────

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Let no worker run the task.

        Arguments:
            terminate: also end it where it runs.
            signal: what its process is ended with.
            wait: wait for the workers' answers, for ``timeout`` seconds.
            connection: to a broker that isn't a node.
        """
        self.app.control.revoke(
            self.id, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    def revoke_by_stamped_headers(
        self,
        headers: Any,
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Let no worker run the tasks that have these stamps."""
        self.app.control.revoke_by_stamped_headers(
            headers, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

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
    def progress(self) -> Progress | None:
        """How far the task is, where it tells (``self.progress(done, total)``); None where nothing is known of that."""
        from zerocelery.app.progress import of_meta

        return of_meta(self._get_task_meta())

    @property
    def traceback(self) -> str | None:
        """The traceback of a task that failed, as text."""
        return self._get_task_meta().get("traceback")

    @property
    def children(self) -> Any:
        """Results of the tasks that this one called."""
        return (self._cache or self._get_task_meta()).get("children")

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
        """The result, at once; waiting was done when the task ran.

        Arguments:
            propagate: raise the task's exception; else return it.
            timeout, disable_sync_subtasks: taken, as there is nothing to wait for.

        Raises:
            Exception: what the task raised.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.successful():
            return self._result  # type: ignore[no-any-return]
        if self._state in states.PROPAGATE_STATES:
            if propagate:
                raise self._result if isinstance(self._result, Exception) else Exception(self._result)
            return self._result  # type: ignore[no-any-return]
        return None  # type: ignore[return-value]

    wait = get  # type: ignore[assignment]

    async def aget(  # type: ignore[override]
        self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True, **kwargs: Any
    ) -> R:
        """The result, or the exception raised; it is there."""
        return self.get(timeout, propagate, disable_sync_subtasks)

    def _get_task_meta(self) -> dict[str, Any]:
        return {
            "task_id": self.id,
            "result": self._result,
            "status": self._state,
            "traceback": self._traceback,
            "name": self._name,
        }

    def _is_known(self) -> bool:
        return True

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
        self._result = TaskRevokedError("revoked")
        self._traceback = None

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


class ResultSet(ResultBase, _Typed["R"]):
    """Several results as one.

    Arguments:
        results: what is in it; more can be added.
    """

    _app: Any = None

    def __init__(self, results: Any, app: Celery | None = None, ready_barrier: Any = None, **kwargs: Any) -> None:
        if app is not None:
            self._app = app
        self.results = results
        self._callbacks: list[Callable[[Any], Any]] = []

    @property
    def app(self) -> Any:
        if self._app is None:
            self._app = self.results[0].app if self.results else app_or_default()
        return self._app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        """Where the results are kept."""
        return self.app.backend if self.app else self.results[0].backend

    @property
    def supports_native_join(self) -> bool | None:
        """Whether all can be waited for at once; None of an empty set."""
        return self.results[0].supports_native_join if self.results else None

    # ── what is in it ────────────────────────────────────────────────────────────────────────────────────────────────

    def add(self, result: Any) -> None:
        """Put a result in, unless it is in."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Take a result out; by itself, or by its id.

        Raises:
            KeyError: it isn't in.
        """
        if isinstance(result, str):
            result = self.app.AsyncResult(result)
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Take a result out if it is in."""
        try:
            self.remove(result)
        except KeyError:
            pass

    def update(self, results: Any) -> None:
        """Put several results in."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Take all results out."""
        self.results[:] = []

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def successful(self) -> bool:
        """Whether all tasks have returned."""
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        """Whether one of the tasks has raised."""
        return any(result.failed() for result in self.results)

    def waiting(self) -> bool:
        """Whether one of the tasks has not ended."""
        return any(not result.ready() for result in self.results)

    def ready(self) -> bool:
        """Whether all tasks have ended."""
        if not all(result.ready() for result in self.results):
            return False
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
        return True

    def completed_count(self) -> int:
        """How many tasks have returned."""
        return sum(int(result.successful()) for result in self.results)

    def progress(self) -> Progress:
        """How many of the tasks have ended, and how far those are that tell it; as text it is a bar."""
        from zerocelery.app.progress import of_members

        return of_members(result._get_task_meta() for result in self.results)

    def maybe_throw(self, callback: Callable[[str, Any], Any] | None = None, propagate: bool = True) -> Any:
        """Raise the exception of the first task that has failed."""
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def _throw_known(self) -> None:
        for result in self.results:
            result._throw_known()

    def _is_known(self) -> bool:
        return bool(self.results) and all(result._is_known() for result in self.results)

    def then(self, callback: Callable[[Any], Any], on_error: Any = None, weak: bool = False) -> Any:
        """Call this with the set when the end of all its tasks has been seen; returns the callback."""
        if self._is_known():
            callback(self)
        else:
            self._callbacks.append(callback)
        return callback

    def _failed_join_report(self) -> Iterator[Any]:
        return (
            result
            for result in self.results
            if result.backend.is_cached(result.id) and result.state in states.PROPAGATE_STATES
        )

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[R]:
        """Wait for all tasks, and return the list of their results; see :meth:`join`."""
        if disable_sync_subtasks:
            assert_will_not_block()
        return (self.join_native if self.supports_native_join else self.join)(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            no_ack=no_ack,
            on_message=on_message,
            disable_sync_subtasks=disable_sync_subtasks,
            on_interval=on_interval,
        )

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[R]:
        """Wait for the tasks one after the other, and return the list of their results.

        Arguments:
            timeout: seconds for all of them; 0 takes what is there.
            propagate: raise the first exception; else it is in the list.
            callback: called with each id and result; then the list is not returned.

        Raises:
            zerocelery.exceptions.TimeoutError: it took longer than the timeout.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured("this result backend sends no messages that on_message could be called with")
        from time import monotonic

        deadline = None if timeout is None else monotonic() + timeout
        values: list[Any] = []
        for result in self.results:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0 and timeout and not result.ready():
                raise TimeoutError("join operation timed out")
            value = result.get(
                timeout=left if left is None else max(left, 0.0),
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback is not None:
                callback(result.id, value)
            else:
                values.append(value)
        return values if callback is None else None  # type: ignore[return-value]

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, disable_sync_subtasks: bool = True
    ) -> list[R]:
        """As :meth:`get`, in a coroutine: ``await result`` is ``await result.aget()``."""
        from time import monotonic

        if disable_sync_subtasks:
            assert_will_not_block()
        deadline = None if timeout is None else monotonic() + timeout
        values = []
        for result in self.results:
            left = None if deadline is None else max(deadline - monotonic(), 0.0)
            values.append(await result.aget(left, propagate=propagate, disable_sync_subtasks=False))
        return values

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self.aget().__await__()

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs of id and meta, as the tasks end; of a group within, its results instead of a meta."""
        if not self.results:
            return iter(())
        return self.backend.iter_native(  # type: ignore[no-any-return]
            self, timeout=timeout, interval=interval, no_ack=no_ack, on_message=on_message, on_interval=on_interval
        )

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[R]:
        """As :meth:`join`, waiting for all of them at once."""
        if disable_sync_subtasks:
            assert_will_not_block()
        from time import monotonic

        deadline = None if timeout is None else monotonic() + timeout
        place = {result.id: index for index, result in enumerate(self.results)}
        values: list[Any] = [None] * len(place) if callback is None else []
        for task_id, meta in self.iter_native(timeout, interval, no_ack, on_message, on_interval):
            if isinstance(meta, list):
                left = None if deadline is None else max(deadline - monotonic(), 0.0)
                value = self._group_value(meta, left, propagate, disable_sync_subtasks)
            else:
                value = _readable(meta["result"])
                if propagate and meta["status"] in states.PROPAGATE_STATES:
                    raise value
            if callback is not None:
                callback(task_id, value)
            else:
                values[place[task_id]] = value
        return values if callback is None else None  # type: ignore[return-value]

    def _group_value(
        self, results: list[Any], timeout: float | None, propagate: bool, disable_sync_subtasks: bool
    ) -> Any:
        return [
            result.get(timeout=timeout, propagate=propagate, disable_sync_subtasks=disable_sync_subtasks)
            for result in results
        ]

    # ── ending it ────────────────────────────────────────────────────────────────────────────────────────────────────

    def forget(self) -> None:
        """Remove all results from where they are kept."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Let no worker run the tasks.

        Arguments:
            terminate: also end them where they run.
            signal: what their processes are ended with.
            wait: wait for the workers' answers, for ``timeout`` seconds.
            connection: to a broker that isn't a node.
        """
        self.app.control.revoke(
            [result.id for result in self.results],
            connection=connection,
            terminate=terminate,
            signal=signal,
            reply=wait,
            timeout=timeout,
        )

    # ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        return iter(self.results)

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> AsyncResult[R]: ...
        @overload
        def __getitem__(self, index: slice) -> list[AsyncResult[R]]: ...

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return bool(other.results == self.results)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(result.id for result in self.results)}]>"


class GroupResult(ResultSet["R"]):
    """The results of a group's members.

    Arguments:
        id: the group's.
        parent: the result of the task before the group in a chain.
    """

    #: The group's id.
    id: Any = None

    def __init__(self, id: str | None = None, results: Any = None, parent: Any = None, **kwargs: Any) -> None:
        self.id = id
        self.parent = parent
        super().__init__(results, **kwargs)

    @property
    def children(self) -> Any:
        """The members' results."""
        return self.results

    def get(self, *args: Any, **kwargs: Any) -> list[R]:
        """Wait for all members, and return the list of their results; see :meth:`join`."""
        try:
            return super().get(*args, **kwargs)
        except ChordError:
            if self.parent is not None:
                # what the member of the header has raised says more
                self.parent.maybe_throw()
            raise

    def save(self, backend: Any = None) -> Any:
        """Store which results the group has, for :meth:`restore`."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Any = None) -> None:
        """Undo :meth:`save`."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Celery | None = None) -> Any:
        """The result of a group that was saved; None of one that was not.

        Arguments:
            id: the group's.
            backend, app: where it was saved; those of the current app unless given.
        """
        own: Any = cls.__dict__.get("app")  # set where an app has made a class of its own; else it is a property
        found: Any = app or (own if own is not None and not isinstance(own, property) else app_or_default())
        return (backend or found.backend).restore_group(id)

    def as_tuple(self) -> Any:
        """``((id, parent), members)``: what :func:`result_from_tuple` reads."""
        parent = self.parent
        return (
            (self.id, parent.as_tuple() if parent is not None else None),
            [result.as_tuple() for result in self.results],
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return bool(other.id == self.id and other.results == self.results and other.parent == self.parent)
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]  # a set of results changes, a group's id doesn't
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(result.id) for result in self.results)}]>"

    def __reduce__(self) -> Any:
        return _rebuild_group, (self.id, self.results, self.parent)


def _rebuild_group(id: str, results: Any, parent: Any) -> GroupResult:
    return GroupResult(id, results, parent=parent)


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """The result that ``as_tuple`` has described; a result is returned as it is."""
    if isinstance(r, ResultBase):
        return r
    app = app_or_default(app)
    result, members = r
    id, parent = result if isinstance(result, (list, tuple)) else (result, None)
    if parent:
        parent = result_from_tuple(parent, app)
    if members is not None:
        return app.GroupResult(id, [result_from_tuple(member, app) for member in members], parent=parent or None)
    return app.AsyncResult(id, parent=parent or None)
