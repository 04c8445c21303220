"""Results on a node: heard in the client's inbox as they come, asked for where they don't.

A result travels as the engine's, its value serialised by the task's result serialiser. What Celery calls a task's meta
is made from it when somebody looks.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from zerocelery import _state, states
from zerocelery.app import codec
from zerocelery.app.message import ResultInfo, info_bytes, read_info
from zerocelery.engine import wire
from zerocelery.exceptions import TaskRevokedError, TimeLimitExceeded, TimeoutError, WorkerLostError
from zerocelery.result import Unreadable, result_from_tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zerocelery.app.base import Celery
    from zerocelery.app.client import NodeClient
    from zerocelery.result import AsyncResult

_FINAL = states.READY_STATES


class NodeBackend:
    """The result backend of an app whose broker is a node."""

    supports_autoexpire = True
    supports_native_join = True
    persistent = True
    #: When a task fails, all that would have followed it in its chain ends with it.
    tells_followers = True
    is_async = True
    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES

    def __init__(self, app: Celery) -> None:
        conf = app.conf
        self.app = app
        self.serializer: str = conf["result_serializer"]
        self.compression: str | None = conf["result_compression"]
        self.extended = bool(conf["result_extended"])
        accept = conf["result_accept_content"]
        self.accept = codec.acceptable(conf["accept_content"] if accept is None else accept)
        self.url = self.client.url
        self._json_is_fine = self.accept is not None and codec.JSON in self.accept
        #: Whether a plain result needs nothing but JSON.
        self.is_plain = self.serializer in ("json", codec.JSON) and not self.compression and not self.extended

    @property
    def client(self) -> NodeClient:
        return self.app.client

    def as_uri(self, include_password: bool = False) -> str:
        """The node's address."""
        return self.url

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def wait_for_pending(
        self,
        result: AsyncResult[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[Any, Any], Any] | None = None,
        on_message: Callable[[Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Wait for the result, put it into the AsyncResult and return or raise it.

        Raises:
            TimeoutError: it didn't come in time.
        """
        task_id = result.id
        if on_interval is None:
            outcome = self.client.wait(task_id, result._token, timeout)
        else:
            outcome = self._wait_in_steps(task_id, result._token, timeout, interval, on_interval)
        meta = self.meta_from(outcome)
        result._set_cache(meta)
        if on_message is not None:
            on_message(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

    async def arrival(self, result: AsyncResult[Any], timeout: float | None) -> None:
        """Wait for the result without keeping the event loop from its work, and put it into the AsyncResult.

        Raises:
            TimeoutError: it didn't come in time.
            kombu.exceptions.OperationalError: the node is not in reach.
        """
        import asyncio

        from zerocelery.app.client import operational

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(outcome: Any) -> None:
            if not future.done():
                future.set_result(outcome)

        def tell(outcome: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, outcome)

        client = self.client
        client.watch(result.id, result._token, tell)
        try:
            outcome = await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError:
            raise TimeoutError("The operation timed out.") from None
        finally:
            if not future.done() or future.cancelled():
                client.unwatch(result.id, tell)
        if isinstance(outcome, Exception):
            raise operational(outcome) from outcome
        result._set_cache(self.meta_from(outcome))

    def _wait_in_steps(
        self, task_id: str, token: int | None, timeout: float | None, interval: float, on_interval: Callable[[], Any]
    ) -> wire.Result:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = interval if deadline is None else min(interval, deadline - time.monotonic())
            try:
                return self.client.wait(task_id, token, max(left, 0.0))
            except TimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
            on_interval()

    def iter_native(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any]]:
        """Pairs of id and meta of a set's results, as they come; of a group within, its results.

        Raises:
            TimeoutError: not all came in time.
        """
        waiting: dict[str, AsyncResult[Any]] = {}
        tokens: dict[str, int | None] = {}
        for node in result.results:
            if not hasattr(node, "_cache"):
                yield node.id, node.results
            elif node._cache is not None:
                yield node.id, node._cache
            else:
                waiting[node.id] = node
                tokens[node.id] = node._token
        if not waiting:
            return
        for outcome in self.client.wait_each(tokens, timeout):
            node = waiting[outcome.id]
            meta = node._set_cache(self.meta_from(outcome))
            if on_message is not None:
                on_message(meta)
            yield node.id, meta

    def meta_of(self, result: AsyncResult[Any]) -> dict[str, Any]:
        """The meta of an AsyncResult's task, asking the node only where it has to."""
        outcome = self.client.peek(result.id, result._token)
        return self.meta_from(outcome) if outcome is not None else {"status": states.PENDING, "result": None}

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """What is known of a task, as Celery's meta dict; of an unknown one the state is PENDING."""
        outcome = self.client.peek(task_id, None)
        return self.meta_from(outcome) if outcome is not None else {"status": states.PENDING, "result": None}

    def get_state(self, task_id: str) -> str:
        return str(self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        return self.get_task_meta(task_id).get("result")

    def get_traceback(self, task_id: str) -> str | None:
        return self.get_task_meta(task_id).get("traceback")

    def get_children(self, task_id: str) -> Any:
        return self.get_task_meta(task_id).get("children")

    def exists(self, task_id: str) -> bool:
        """Whether the node knows anything of this task."""
        return self.client.peek(task_id, None) is not None

    def forget(self, task_id: str) -> None:
        """Remove a result from the store."""
        self.client.forget([task_id])

    def meta_from(self, outcome: wire.Result) -> dict[str, Any]:
        """Celery's meta dict of the engine's result."""
        state = outcome.state
        if not outcome.info and outcome.content_type == codec.JSON and state == states.SUCCESS and self._json_is_fine:
            try:
                value = codec.read_json(outcome.value)
            except Exception as error:
                value = Unreadable(error)
            return {
                "status": state,
                "result": value,
                "traceback": None,
                "children": [],
                "date_done": iso_date(outcome.finished),
                "task_id": outcome.id,
            }
        return self._full_meta(outcome)

    def _full_meta(self, outcome: wire.Result) -> dict[str, Any]:
        info = read_info(outcome.info)
        meta: dict[str, Any] = {
            "status": outcome.state,
            "result": self._value_of(outcome, info),
            "traceback": info.traceback,
            "children": self._children_from(info.children),
            "date_done": iso_date(outcome.finished) if outcome.state in _FINAL else None,
            "task_id": outcome.id,
        }
        if info.parent_id:
            meta["parent_id"] = info.parent_id
        if info.group_id:
            meta["group_id"] = info.group_id
        if info.extended:
            meta.update(info.extended)
        return meta

    def value_from(self, outcome: wire.Result) -> Any:
        """The value of an engine's result; of one that is no success, the exception.

        Raises:
            Exception: it can't be read here.
        """
        value = self.meta_from(outcome)["result"]
        if type(value) is Unreadable:
            raise value.error
        return value

    def _children_from(self, children: list[Any] | None) -> list[Any]:
        if not children:
            return []
        return [result_from_tuple(child, self.app) for child in children]

    def _value_of(self, outcome: wire.Result, info: ResultInfo) -> Any:
        try:
            if outcome.content_type == wire.LOSS_TYPE:
                return loss_exception(outcome)
            if not outcome.content_type:
                return None
            data = codec.decompress(outcome.value, info.compression) if info.compression else outcome.value
            value = codec.loads(data, outcome.content_type, info.encoding, self.accept)
            return codec.exception_from(value) if outcome.state in states.EXCEPTION_STATES else value
        except Exception as error:
            return Unreadable(error)

    # ── writing: what a worker makes of a task's end ─────────────────────────────────────────────────────────────────

    def encode(self, value: Any, info: dict[str, Any]) -> tuple[str, bytes, bytes]:
        """Content type, value and info of a result.

        Arguments:
            info: fields of :class:`ResultInfo` that are not the usual.

        Raises:
            kombu.exceptions.EncodeError: the serialiser can't.
        """
        content_type, encoding, data = codec.dumps(value, self.serializer)
        if encoding != codec.UTF8:
            info["encoding"] = encoding
        if self.compression:
            data, info["compression"] = codec.compress(data, self.compression)
        return content_type, data, info_bytes(ResultInfo(**info)) if info else b""

    def encode_exception(self, error: BaseException, info: dict[str, Any]) -> tuple[str, bytes, bytes]:
        """The same for an exception, which is never unserialisable: what can't be taken along goes as text."""
        if codec.is_pickling(self.serializer):
            try:
                encoded = self.encode(error, info)
                codec.loads(encoded[1], encoded[0], info.get("encoding", codec.UTF8), frozenset({encoded[0]}))
                return encoded
            except Exception:
                info.pop("compression", None)
        try:
            return self.encode(codec.exception_document(error), info)
        except Exception:
            return self.encode(codec.exception_text_document(error), info)

    def store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Tell a task's state. For the task that runs here its worker does it; for any other it is stored as it is.

        A SUCCESS that is stored stays, as in Celery.
        """
        frame = _state.worker_frame()
        run = frame.source if frame is not None else None
        info = {"traceback": traceback} if traceback else {}
        encode = self.encode_exception if isinstance(result, BaseException) else self.encode
        content_type, value, packed = encode(result, info)
        if run is None or run.id != task_id or run.worker is None:
            self._put(task_id, state, content_type, value, packed)
        else:
            run.noted(state, result)
            run.worker.update(state, value, content_type=content_type, info=packed)
        return result

    def _put(self, result_id: str, state: str, content_type: str, value: bytes, info: bytes) -> None:
        outcome = wire.Result(
            id=result_id,
            state=state,
            final=state in _FINAL,
            content_type=content_type,
            value=value,
            info=info,
            finished=time.time(),
        )
        self.client.put(outcome, self.app.sender.keep)

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Say that a task runs."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        """Say that a task has succeeded."""
        if store_result:
            self.store_result(task_id, result, state, request=request)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Say that a task has failed."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def mark_as_revoked(
        self, task_id: str, reason: str = "", request: Any = None, store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:  # fmt: skip
        """Say that a task was revoked."""
        if store_result:
            self.store_result(task_id, TaskRevokedError(reason), state, request=request)

    def mark_as_retry(
        self, task_id: str, exc: BaseException, traceback: str | None = None, request: Any = None,
        store_result: bool = True, state: str = states.RETRY,
    ) -> Any:  # fmt: skip
        """Say that a task is to run again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    # ── groups and chords ────────────────────────────────────────────────────────────────────────────────────────────

    def is_cached(self, task_id: str) -> bool:
        """Whether a look at this task's result asks the node: it always may."""
        return True

    def ensure_chords_allowed(self) -> None:
        """They are: the node counts a header's members itself."""

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Let the chord whose member runs here wait for this task, too; it has to be sent after this."""
        frame = _state.worker_frame()
        run = frame.source if frame is not None else None
        gather = getattr(getattr(run, "task", None), "gather", None)
        if gather is None:
            raise ValueError("Current task is not member of any chord")
        self.client.grow(gather, [result.id], confirmed=True)

    def save_group(self, group_id: str, result: Any) -> Any:
        """Store which results a group has."""
        content_type, value, info = self.encode(result.as_tuple(), {})
        self._put(_group_key(group_id), states.SUCCESS, content_type, value, info)
        return result

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """A group's result, as it was saved; None where it was not."""
        outcome = self.client.peek(_group_key(group_id), None)
        return None if outcome is None else result_from_tuple(self.value_from(outcome), self.app)

    def delete_group(self, group_id: str) -> None:
        """Forget which results a group has."""
        self.client.forget([_group_key(group_id)])

    # ── what is asked of a task that runs elsewhere ──────────────────────────────────────────────────────────────────

    def ask_of_task(self, task_id: str, state: str) -> None:
        """Store what a task is asked to come to, for it to look at when it likes (:meth:`asked_of_task`)."""
        outcome = wire.Result(id=_asked_key(task_id), state=state, final=True, finished=time.time())
        self.client.put(outcome, self.app.sender.keep)

    def asked_of_task(self, task_id: str) -> str | None:
        """What a task was asked to come to; None where nothing was."""
        outcome = self.client.peek(_asked_key(task_id), None)
        return None if outcome is None else outcome.state

    def process_cleanup(self) -> None:
        """Called after each task."""

    def cleanup(self) -> None:
        """Results expire on the node by themselves."""


def loss_exception(outcome: wire.Result) -> Exception:
    """The exception for a task that the engine itself has ended."""
    loss = wire.decode_loss(outcome.value)
    if isinstance(loss, wire.Malformed):
        return WorkerLostError(f"the task was lost, and the reason can't be read: {loss.reason}")
    if loss.kind == "time-limit":
        seconds = float(loss.message)
        return TimeLimitExceeded(int(seconds) if seconds.is_integer() else seconds)
    if outcome.state == states.REVOKED:
        return TaskRevokedError(loss.kind if loss.kind in ("expired", "terminated") else loss.message)
    text = "; ".join([loss.message, *loss.history]) if loss.kind == "dead" else loss.message
    return WorkerLostError(text)


def _asked_key(task_id: str) -> str:
    return f"asked:{task_id}"


def _group_key(group_id: str) -> str:
    """The id under which a group is saved; no task has it."""
    return f"taskset:{group_id}"


def iso_date(seconds: float) -> str:
    """A result's date as its meta has it."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
