"""Running a task: what happens, in which order, between its message and its outcome.

    prerun signal → STARTED, where tracked → before_start → the task
        returned → callbacks and next in chain → result stored → on_success → success signal → log
        raised   → failure stored → errbacks → on_failure → failure signal → log
        Retry    → state stored, message for the next run → on_retry → retry signal → log
        Ignore, Reject → log
    after_return → postrun signal

A :class:`Tracer` is prepared once per task and holds what its runs have in common. A *run* is where one of them came
from and where its outcome goes: :class:`NodeRun` for a task leased from a node, :class:`LocalRun` for one that is
run on the spot.
"""

from __future__ import annotations

import logging
import os
import traceback as _traceback
import warnings
from collections import namedtuple
from time import monotonic
from types import CoroutineType
from typing import Any

import msgspec

from zerocelery import signals, states
from zerocelery._state import Frame, frames, get_current_app
from zerocelery.app import codec, timelimits
from zerocelery.app.context import Context, ReadAsDict
from zerocelery.app.einfo import ExceptionInfo
from zerocelery.app.gathering import (
    chain_endings,
    fail_canvas,
    ignored_ending,
    parent_of,
    run_canvas,
    verdict_error,
    with_results,
)
from zerocelery.app.links import call_errbacks, send_callbacks
from zerocelery.app.message import NO_EMBED, USUAL, Head, body_of, head_bytes, read_head, request_of
from zerocelery.app.sending import policy
from zerocelery.app.task import Task as BaseTask
from zerocelery.app.taskevents import TaskEvents
from zerocelery.app.traceinfo import (
    LOG_FAILURE,
    LOG_IGNORED,
    LOG_INTERNAL_ERROR,
    LOG_RECEIVED,
    LOG_REJECTED,
    LOG_RETRY,
    LOG_SUCCESS,
    TraceInfo,
    get_log_policy,
    get_task_name,
    log_policy_expected,
    log_policy_ignore,
    log_policy_internal,
    log_policy_reject,
    log_policy_unexpected,
    logger,
    traceback_clear,
)
from zerocelery.backends.zmq import NodeBackend
from zerocelery.engine import wire
from zerocelery.engine.strategy import Outcome
from zerocelery.exceptions import (
    BackendGetMetaError,
    Ignore,
    InvalidTaskError,
    NotRegistered,
    Reject,
    Retry,
    TaskRevokedError,
    WorkerLostError,
)
from zerocelery.result import ResultBase
from zerocelery.utils.log import get_logger
from zerocelery.utils.nodenames import gethostname
from zerocelery.utils.serialization import get_pickleable_exception
from zerocelery.utils.time import rate
from zerocelery.worker.state import successful_requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.app.base import Celery
    from zerocelery.app.task import Task
    from zerocelery.engine.worker import Worker

__all__ = (
    "LOG_RECEIVED",
    "TraceInfo",
    "build_tracer",
    "fast_trace_task",
    "get_log_policy",
    "get_task_name",
    "log_policy_expected",
    "log_policy_ignore",
    "log_policy_internal",
    "log_policy_reject",
    "log_policy_unexpected",
    "reset_worker_optimizations",
    "setup_worker_optimizations",
    "trace_task",
    "trace_task_ret",
    "traceback_clear",
)

# People configure loggers by this name.
received_logger = get_logger("celery.worker.strategy")

IGNORE_STATES = frozenset({states.IGNORED, states.RETRY, states.REJECTED})

#: The flag of an ``async def``'s code.
_CO_COROUTINE = 0x80

trace_ok_t = namedtuple("trace_ok_t", ("retval", "info", "runtime", "retstr"))

_prerun = signals.task_prerun
_postrun = signals.task_postrun
_success = signals.task_success
_received = signals.task_received


def task_has_custom(task: Any, attr: str) -> bool:
    """Whether the task's class brings its own version of a method."""
    for kind in type(task).__mro__:
        if kind is BaseTask or kind is object:
            return False
        if attr in kind.__dict__:
            return True
    return False


def _rejects_failures(task: Any) -> bool:
    """Whether a failure is no acknowledgement: then the message is kept for people to look at."""
    said = task.acks_on_failure
    return bool(task.acks_late) and (task.acks_on_failure_or_timeout if said is None else said) is False


def _hook(task: Any, name: str) -> Any:
    """The task's own version of a hook, or None: what nobody wrote needs no call."""
    return getattr(task, name) if task_has_custom(task, name) or name in task.__dict__ else None


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class NodeRun(ReadAsDict):
    """One run of a task that was leased from a node; its outcome is what the engine's worker returns."""

    __slots__ = ("_last", "args", "backend", "embed", "head", "hostname", "kwargs", "outcome", "task", "watched")

    is_eager = False
    #: A node hands a task out again only if nothing of its end was stored.
    redelivered = False

    def __init__(
        self, task: wire.Task, head: Head, args: Any, kwargs: Any, embed: Any, hostname: str, backend: NodeBackend
    ) -> None:
        self.task = task
        self.head = head
        self.args = args
        self.kwargs = kwargs
        self.embed = embed
        self.hostname = hostname
        self.backend = backend
        self.outcome: Outcome | None = None
        self._last: tuple[str, Any] | None = None
        self.watched = False  # whether events are made of it

    @property
    def id(self) -> str:
        return self.task.id

    @property
    def parent_id(self) -> str | None:
        """The task that has started this one; of a chord's body a member of its header."""
        return parent_of(self.task) or self.head.parent_id

    @property
    def worker(self) -> Worker | None:
        from zerocelery.engine.worker import current_worker

        return current_worker()

    def followups(self) -> list[Any] | None:
        """Where messages go that are sent together with the outcome."""
        return []

    @property
    def ignored_by_caller(self) -> bool:
        """Whether who sent the task wants no result."""
        return bool(self.task.flags & wire.IGNORE_RESULT)

    def ignores_result(self, task: Task[..., Any]) -> bool:
        if self.task.flags & wire.IGNORE_RESULT:
            return True
        return self.head.ignore_result is None and bool(task.ignore_result)

    def context(self) -> Context:
        """The request, for who looks at it."""
        fields = request_of(self.task, self.head, ignore_result=bool(self.task.flags & wire.IGNORE_RESULT))
        fields.update(self.embed, args=self.args, kwargs=self.kwargs, hostname=self.hostname, called_directly=False)
        if self.task.inputs:
            fields["parent_id"] = self.parent_id
        context = Context.__new__(Context)
        context.update(fields)
        return context

    # outcomes

    def started(self, meta: dict[str, Any]) -> None:
        self.backend.store_result(self.task.id, meta, states.STARTED)

    def noted(self, state: str, meta: Any) -> None:
        """Remember the state that was told last: with Ignore it stays."""
        self._last = (state, meta)

    def succeeded(self, frame: Frame, retval: Any, ignored: bool) -> None:
        followups = frame.followups or ()
        if ignored and self.task.gather is None:
            self.outcome = Outcome(states.SUCCESS, store=False, followups=followups)
            return
        backend = self.backend
        if not frame.children and backend.is_plain:
            data = codec.plain_value(retval)
            if data is not None:
                self.outcome = Outcome(states.SUCCESS, data, codec.JSON, store=not ignored, followups=followups)
                return
        if isinstance(retval, ResultBase):
            retval = retval.as_tuple()
        content_type, value, info = backend.encode(retval, self._info(frame))
        self.outcome = Outcome(states.SUCCESS, value, content_type, info, store=not ignored, followups=followups)

    def failed(self, frame: Frame, error: BaseException, text: str | None, store: bool) -> None:
        content_type, value, info = self.backend.encode_exception(error, self._info(frame, text))
        followups, chain = frame.followups or (), self.embed.get("chain")
        self.outcome = Outcome(states.FAILURE, value, content_type, info, store=store, followups=followups)
        if frame.task is not None and _rejects_failures(frame.task):
            self.outcome.bury = f"it failed: {codec.safe_repr(error)}"
        if chain:
            self.outcome.endings = chain_endings(self.backend.app, chain, error, self.backend, self.task.topics)

    def retried(self, frame: Frame, error: BaseException | None, text: str, store: bool) -> None:
        encode: Any = self.backend.encode if error is None else self.backend.encode_exception
        content_type, value, info = encode(error, self._info(frame, text))
        followups = frame.followups or ()
        self.outcome = Outcome(states.RETRY, value, content_type, info, final=False, store=store, followups=followups)

    def ignored(self, frame: Frame) -> None:
        """Leave the state that the task itself has told."""
        followups = frame.followups or ()
        if self._last is None or self._last[0] not in states.READY_STATES:
            self.outcome = Outcome(states.IGNORED, final=False, store=False, followups=followups)
            if self.task.gather is not None and not frame.replaced:
                self.outcome.endings = [ignored_ending(self.task)]
            return
        state, meta = self._last
        encode: Any = self.backend.encode_exception if isinstance(meta, BaseException) else self.backend.encode
        content_type, value, info = encode(meta, self._info(frame))
        self.outcome = Outcome(state, value, content_type, info, followups=followups)

    def requeued(self, frame: Frame) -> None:
        """Give the message back."""
        head = head_bytes(msgspec.structs.replace(self.head, redelivered=True))
        again = msgspec.structs.replace(self.task, head=head, flags=self.task.flags & ~wire.SETTLED, verdict=b"")
        followups = [*(frame.followups or ()), again]
        self.outcome = Outcome(states.REJECTED, final=False, store=False, followups=followups)

    def _info(self, frame: Frame, traceback: str | None = None) -> dict[str, Any]:
        info: dict[str, Any] = {}
        if traceback:
            info["traceback"] = traceback
        if frame.children:
            info["children"] = [child.as_tuple() for child in frame.children]
        parent_id = self.parent_id
        if parent_id:
            info["parent_id"] = parent_id
        if self.head.group:
            info["group_id"] = self.head.group
        if self.backend.extended:
            info["extended"] = {
                "name": self.task.name,
                "args": codec.portable(self.args),
                "kwargs": codec.portable(self.kwargs),
                "worker": self.hostname,
                "retries": self.head.retries,
                "queue": self.task.queue,
                **(self.head.stamps or {}),
            }
        return info


class LocalRun:
    """One run on the spot. Its outcome is what the tracer returns; an eager one is stored only if the task says so.

    Arguments:
        uuid: the task's id, where the request has none.
        eager: asked for by ``apply``; else by code that runs tasks itself, and wants results stored as usual.
    """

    __slots__ = ("_backend", "_request", "_stores", "args", "id", "kwargs")

    is_eager = True
    worker = None

    def __init__(
        self, request: Any, args: Any, kwargs: Any, task: Task[..., Any], *, uuid: Any = None, eager: bool = True
    ) -> None:
        self._request = request if isinstance(request, dict) else dict(vars(request)) if request else {}
        self.id = self._request.get("id") or uuid
        self.args = args
        self.kwargs = kwargs
        self._stores = not eager or bool(task.store_eager_result)
        self._backend = task.backend

    @property
    def redelivered(self) -> bool:
        """Whether the broker has handed the message out before."""
        return bool((self._request.get("delivery_info") or {}).get("redelivered"))

    @property
    def embed(self) -> dict[str, Any]:
        return {key: self._request.get(key) for key in NO_EMBED}

    def followups(self) -> list[Any] | None:
        return None

    def ignores_result(self, task: Task[..., Any]) -> bool:
        said = self._request.get("ignore_result")
        return bool(task.ignore_result if said is None else said)

    def context(self) -> Context:
        return Context(self._request, id=self.id, args=self.args, kwargs=self.kwargs, called_directly=False)

    def started(self, meta: dict[str, Any]) -> None:
        self._backend.store_result(self.id, meta, states.STARTED, request=Context(self._request))

    def noted(self, state: str, meta: Any) -> None:
        """Nobody watches."""

    def succeeded(self, frame: Frame, retval: Any, ignored: bool) -> None:
        store = self._stores and not ignored
        if not isinstance(self._backend, NodeBackend):
            self._backend.mark_as_done(self.id, retval, frame.request, store)
        elif store:
            self._backend.store_result(self.id, retval, states.SUCCESS, request=frame.request)

    def failed(self, frame: Frame, error: BaseException, text: str, store: bool) -> None:
        store = self._stores and store
        if not isinstance(self._backend, NodeBackend):
            self._backend.mark_as_failure(
                self.id, error, text, request=frame.request, store_result=store, call_errbacks=False
            )
        elif store:
            self._backend.store_result(self.id, error, states.FAILURE, traceback=text, request=frame.request)

    def retried(self, frame: Frame, error: BaseException | None, text: str, store: bool) -> None:
        # of an eager one there is nothing to store: its caller runs it again
        if store and self._stores and not frame.request.is_eager:
            self._backend.store_result(self.id, error, states.RETRY, traceback=text, request=frame.request)

    def skipped(self) -> None:
        """Its result is stored already."""

    def cleanup(self) -> None:
        self._backend.process_cleanup()

    def ignored(self, frame: Frame) -> None:
        """There is no state to leave."""

    def requeued(self, frame: Frame) -> None:
        """There is no queue to go back to."""


# ── tracing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Tracer:
    """Runs one task; prepared once, called for every run.

    Arguments:
        eager: run on the spot: errors of hooks are raised.
        propagate: raise the task's exceptions too.
    """

    def __init__(
        self,
        name: str,
        task: Task[..., Any],
        *,
        app: Celery,
        loader: Any = None,
        hostname: str | None = None,
        eager: bool = False,
        propagate: bool = False,
        info: Any = TraceInfo,
    ) -> None:
        loader = loader or app.loader
        self.name = name
        self.task = task
        self.app = app
        self.eager = eager
        self.propagate = propagate
        self.make_info = info
        # a task without a __call__ of its own is called without one
        self.function = task if task_has_custom(task, "__call__") else task.run
        if _is_async(task.run):
            self.function = _in_a_loop(self.function, keep=not eager)
        self.before_start = _hook(task, "before_start")
        self.on_success = _hook(task, "on_success")
        self.after_return = _hook(task, "after_return")
        self.track_started = not eager and bool(task.track_started)
        self.on_task_init = _own(loader, "on_task_init")
        self.on_process_cleanup = None if eager else _own(loader, "on_process_cleanup")
        self.limits = task.time_limit, task.soft_time_limit
        self.started = {"pid": os.getpid(), "hostname": hostname or gethostname()}
        self.logs_success = logger.isEnabledFor(logging.INFO)
        self.deduplicates = bool(app.conf["worker_deduplicate_successful_tasks"] and task.acks_late)

    def __call__(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        task = self.task
        run: Any = request
        if not isinstance(request, NodeRun):
            run = LocalRun(request, args, kwargs, task, uuid=uuid, eager=self.eager)
        frame = Frame(task, run, followups=run.followups())
        frame.previous = frames.get()
        token = frames.set(frame)
        try:
            if self.deduplicates and run.redelivered and self._was_done(uuid):
                run.skipped()
                return _OK
            return self._trace(uuid, args, kwargs, run, frame)
        except (MemoryError, Reject):
            raise
        except Exception as error:
            return self._internal_error(uuid, args, kwargs, run, frame, error)
        finally:
            frames.reset(token)

    def _trace(self, uuid: str, args: Any, kwargs: Any, run: Any, frame: Frame) -> Any:
        state: Any = None
        retval: Any = None
        start = monotonic()
        try:
            ignored = run.ignores_result(self.task)
            self._begin(uuid, args, kwargs, run, ignored)
            try:
                if self.before_start is not None:
                    self.before_start(uuid, args, kwargs)
                if timelimits.caller is not None and not run.is_eager:
                    retval = timelimits.caller(self.function, args, kwargs, run, self.limits)
                else:
                    retval = self.function(*args, **kwargs)
            except BaseException as error:
                answer = self._raised(error, run, frame, ignored)
            else:
                answer = self._returned(retval, run, frame, ignored, start)
            if answer.info is None:
                state = states.SUCCESS
            else:
                state, retval = answer.info.state, answer.info.retval
            if self.after_return is not None and state not in IGNORE_STATES:
                self._after("after_return", self.after_return, state, retval, uuid, args, kwargs, None)
            return answer
        finally:
            if _postrun.receivers:
                _postrun.send(
                    sender=self.task, task_id=uuid, task=self.task, args=args, kwargs=kwargs, retval=retval, state=state
                )
            if not self.eager and type(run) is LocalRun:
                self._clean_up(run)
            if self.on_process_cleanup is not None:
                self.on_process_cleanup()

    def _clean_up(self, run: LocalRun) -> None:
        try:
            run.cleanup()
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except Exception as error:
            logger.error("Process cleanup failed: %r", error, exc_info=True)

    def _was_done(self, uuid: str) -> bool:
        """Whether a message that came again was dealt with before: this process knows, or the result says so."""
        if uuid in successful_requests:
            return True
        try:
            state = self.app.AsyncResult(uuid, backend=self.task.backend).state
        except BackendGetMetaError:
            return False
        if state != states.SUCCESS:
            return False
        successful_requests.add(uuid)
        return True

    def _begin(self, uuid: str, args: Any, kwargs: Any, run: Any, ignored: bool) -> None:
        if _prerun.receivers:
            _prerun.send(sender=self.task, task_id=uuid, task=self.task, args=args, kwargs=kwargs)
        if self.on_task_init is not None:
            self.on_task_init(uuid, self.task)
        if self.track_started and not ignored:
            run.started(self.started)

    def lost(self, run: Any, error: WorkerLostError) -> Any:
        """End a run whose process was lost while its pool goes on: it is retried, or fails where that was enough."""
        task = self.task
        frame = Frame(task, run, followups=run.followups())
        frame.previous = frames.get()
        token = frames.set(frame)
        ignored = run.ignores_result(task)
        try:
            try:
                task.retry(exc=error)
            except Reject as unsent:
                logger.error("Task %s[%s] was lost, and can't be sent again: %r", self.name, run.id, unsent.reason)
                if task.acks_late and task.reject_on_worker_lost:
                    return self._reject(Reject(error, requeue=True), run, frame, ignored)
                return self._failed(error, run, frame, ignored)
            except Exception as raised:
                return self._raised(raised, run, frame, ignored)
        finally:
            frames.reset(token)

    # it returned

    def _returned(self, retval: Any, run: Any, frame: Frame, ignored: bool, start: float) -> Any:
        try:
            embed = run.embed
            if embed is not NO_EMBED and (embed.get("callbacks") or embed.get("chain")):
                self._send_callbacks(frame, embed, retval)
            run.succeeded(frame, retval, ignored)
        except (Reject, MemoryError):
            raise
        except Exception as error:
            # what can't be stored is no success
            return self._failed(error, run, frame, ignored)
        if self.deduplicates:
            successful_requests.add(run.id)
        if self.on_success is not None:
            self._after("on_success", self.on_success, retval, run.id, run.args, run.kwargs)
        if not (_success.receivers or self.logs_success or type(run) is LocalRun or run.watched):
            return _OK
        runtime = monotonic() - start
        text = _short(retval, self.task.resultrepr_maxsize)
        if _success.receivers:
            _success.send(sender=self.task, result=retval, runtime=runtime)
        if self.logs_success:
            self._log(logging.INFO, LOG_SUCCESS, run, frame, return_value=text, runtime=runtime)
        return trace_ok_t(retval, None, runtime, text)

    def _send_callbacks(self, frame: Frame, embed: dict[str, Any], retval: Any) -> None:
        if frame.followups is not None or self.app.has_node:
            send_callbacks(self.app, frame, embed, retval)
            return
        # to a broker that refuses one now it is sent again: the task itself must not be run again for that
        self.app.amqp._retry_publish(lambda: send_callbacks(self.app, frame, embed, retval))

    def _after(self, name: str, hook: Callable[..., Any], *args: Any) -> None:
        """Call a hook whose errors come too late to change the outcome."""
        try:
            hook(*args)
        except (Reject, MemoryError):
            raise
        except Exception as error:
            if self.eager:
                raise
            logger.exception(f"Task %s {name} handler raised: %r", self.name, error)

    # it raised

    def _raised(self, error: BaseException, run: Any, frame: Frame, ignored: bool) -> Any:
        if isinstance(error, Retry):
            return self._retry(error, run, frame, ignored)
        if isinstance(error, Reject):
            return self._reject(error, run, frame, ignored)
        if isinstance(error, Ignore):
            run.ignored(frame)
            traceback_clear(error)
            self._log(logging.INFO, LOG_IGNORED, run, frame, description="ignored")
            return trace_ok_t(ExceptionInfo(internal=True), self.make_info(states.IGNORED, error), None, None)
        if isinstance(error, KeyboardInterrupt) or (self.eager and not isinstance(error, Exception)):
            raise error
        if not isinstance(error, Exception):
            # A task that ends its process, or raises what nobody catches, must not leave its caller waiting.
            lost = WorkerLostError(f"Worker exited prematurely: the task raised {codec.safe_repr(error)}.")
            error = lost.with_traceback(error.__traceback__)
        return self._failed(error, run, frame, ignored)

    def _failed(self, error: BaseException, run: Any, frame: Frame, ignored: bool) -> Any:
        if self.propagate:
            raise error
        task = self.task
        tb = _own_frames_off(error.__traceback__)
        if self.eager:
            # as it would have come back from a worker
            error = get_pickleable_exception(error)
        einfo = ExceptionInfo((type(error), error, tb))
        store = not ignored or bool(task.store_errors_even_if_ignored)
        embed = run.embed
        if embed is not NO_EMBED and embed.get("errbacks"):
            call_errbacks(self.app, frame, embed["errbacks"], error, einfo.traceback)
        run.failed(frame, error, einfo.traceback, store)
        task.on_failure(error, run.id, run.args, run.kwargs, einfo)
        signals.task_failure.send(
            sender=task,
            task_id=run.id,
            exception=error,
            args=run.args,
            kwargs=run.kwargs,
            traceback=tb,
            einfo=einfo,
        )
        self._log_failure(error, run, frame, einfo)
        traceback_clear(error)
        return trace_ok_t(einfo, self.make_info(states.FAILURE, error), None, None)

    def _retry(self, retry: Retry, run: Any, frame: Frame, ignored: bool) -> Any:
        if retry.sig is None and not self.eager:
            # raised by hand: nothing has been sent that could run again
            try:
                self._send_again(retry)
            except BaseException as error:
                return self._raised(error, run, frame, ignored)
        einfo = ExceptionInfo((type(retry), retry, _own_frames_off(retry.__traceback__)))
        store = not ignored or bool(self.task.store_errors_even_if_ignored)
        run.retried(frame, retry.exc, einfo.traceback, store)
        self.task.on_retry(retry.exc, run.id, run.args, run.kwargs, einfo)
        if signals.task_retry.receivers:
            signals.task_retry.send(sender=self.task, request=frame.request, reason=retry, einfo=einfo)
        self._log(logging.INFO, LOG_RETRY, run, frame, exc=str(retry))
        traceback_clear(retry)
        return trace_ok_t(einfo, self.make_info(states.RETRY, retry), None, None)

    def _send_again(self, retry: Retry) -> None:
        when = retry.when
        moment = {"countdown": when} if isinstance(when, (int, float)) else {"eta": when}
        retry.sig = self.task.retry(exc=retry.exc, throw=False, **moment).sig

    def _reject(self, reject: Reject, run: Any, frame: Frame, ignored: bool) -> Any:
        einfo = ExceptionInfo((type(reject), reject, _own_frames_off(reject.__traceback__)), internal=True)
        if reject.requeue and self.task.acks_late:
            run.requeued(frame)
        else:
            run.failed(frame, reject, einfo.traceback, not ignored)
            signals.task_failure.send(
                sender=self.task,
                task_id=run.id,
                exception=reject,
                args=run.args,
                kwargs=run.kwargs,
                traceback=einfo.tb,
                einfo=einfo,
            )
        self._log(logging.WARNING, LOG_REJECTED, run, frame, exc=codec.safe_repr(reject), exc_info=einfo.exc_info)
        traceback_clear(reject)
        return trace_ok_t(einfo, self.make_info(states.REJECTED, reject), None, None)

    def _internal_error(self, uuid: str, args: Any, kwargs: Any, run: Any, frame: Frame, error: Exception) -> Any:
        """Something around the task failed: a hook, a signal's sender, or we ourselves."""
        if self.eager:
            raise error
        einfo = ExceptionInfo((type(error), error, error.__traceback__), internal=True)
        _tell_internal_error(self.task, uuid, args, kwargs, run, error, einfo)
        run.failed(frame, error, einfo.traceback, True)
        return trace_ok_t(einfo, self.make_info(states.FAILURE, error), None, None)

    # logs

    def _log_failure(self, error: BaseException, run: Any, frame: Frame, einfo: ExceptionInfo) -> None:
        expected = bool(self.task.throws) and isinstance(error, tuple(self.task.throws))
        self._log(
            logging.INFO if expected else logging.ERROR,
            LOG_FAILURE,
            run,
            frame,
            exc=codec.safe_repr(error),
            traceback=einfo.traceback,
            description="raised expected" if expected else "raised unexpected",
            internal=False,
            exc_info=None if expected else einfo.exc_info,
        )

    def _log(self, level: int, form: str, run: Any, frame: Frame, exc_info: Any = None, **more: Any) -> None:
        if not logger.isEnabledFor(level):
            return
        request = frame.request
        context = {
            "hostname": request.hostname,
            "id": run.id,
            "name": request.shadow or self.name,
            "args": request.get("argsrepr") or codec.safe_repr(run.args),
            "kwargs": request.get("kwargsrepr") or codec.safe_repr(run.kwargs),
            **more,
        }
        logger.log(level, form, context, exc_info=exc_info, extra={"data": context})


_OK = trace_ok_t(None, None, None, None)


def _is_async(function: Any) -> bool:
    """Whether it, or what it wraps, is an ``async def``."""
    while function is not None:
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & _CO_COROUTINE:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _in_a_loop(function: Callable[..., Any], *, keep: bool) -> Callable[..., Any]:
    """The function, with the coroutine that it gives run to its end, by the thread's own loop if that is to be kept."""
    # who has no async tasks need not import asyncio
    from zerocelery.app.asynchronous import run

    def called(*args: Any, **kwargs: Any) -> Any:
        given = function(*args, **kwargs)
        return run(given, keep=keep) if isinstance(given, CoroutineType) else given

    return called


def _own(loader: Any, name: str) -> Any:
    """The loader's own version of a hook, or None."""
    from zerocelery.loaders.base import BaseLoader

    if getattr(type(loader), name) is getattr(BaseLoader, name) and name not in vars(loader):
        return None
    return getattr(loader, name)


def _short(value: Any, size: int) -> str:
    text = codec.safe_repr(value)
    return text if len(text) <= size else f"{text[: size - 3]}..."


def _own_frames_off(tb: Any) -> Any:
    """The traceback from where the task's own code begins."""
    inner = tb
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    return inner if inner is not None else tb


def report_internal_error(task: Any, exc: BaseException) -> ExceptionInfo:
    """Warn that it was not the task that failed, but what is around it."""
    einfo = ExceptionInfo((type(exc), exc, exc.__traceback__), internal=True)
    warnings.warn(f"Exception raised outside body: {exc!r}:\n{einfo.traceback}", RuntimeWarning, stacklevel=2)
    return einfo


def _tell_internal_error(
    task: Task[..., Any], uuid: str, args: Any, kwargs: Any, request: Any, error: BaseException, einfo: ExceptionInfo
) -> None:
    """Tell people, and receivers of task_internal_error, that it was not the task that failed."""
    signals.task_internal_error.send(
        sender=task,
        task_id=uuid,
        args=args,
        kwargs=kwargs,
        request=request,
        exception=error,
        traceback=einfo.tb,
        einfo=einfo,
    )
    logger.critical(
        LOG_INTERNAL_ERROR,
        {"name": task.name, "id": uuid, "description": "INTERNAL ERROR", "exc": codec.safe_repr(error)},
        exc_info=einfo.exc_info,
    )


def build_tracer(
    name: str,
    task: Task[..., Any],
    loader: Any = None,
    hostname: str | None = None,
    store_errors: bool = True,
    Info: Any = TraceInfo,
    eager: bool = False,
    propagate: bool = False,
    app: Celery | None = None,
    **kwargs: Any,
) -> Callable[..., Any]:
    """What runs a task: called with id, arguments, keyword arguments and the request.

    Tools that watch tasks replace this function, so it is looked up each time that it is needed.
    """
    return Tracer(
        name,
        task,
        app=app or task.app,
        loader=loader,
        hostname=hostname,
        eager=eager,
        propagate=propagate,
        info=Info,
    )


def trace_task(task: Any, uuid: str, args: Any, kwargs: Any, request: Any = None, **opts: Any) -> Any:
    """Run a task as a worker does, store its result, and give what became of it; for code that runs tasks itself."""
    try:
        if task.__trace__ is None:
            task.__trace__ = build_tracer(task.name, task, **opts)
        return task.__trace__(uuid, args, kwargs, request or {})
    except Exception as error:
        einfo = report_internal_error(task, error)
        signals.task_internal_error.send(
            sender=task, task_id=uuid, args=args, kwargs=kwargs, request=request, exception=error,
            traceback=error.__traceback__, einfo=einfo,
        )  # fmt: skip
        return trace_ok_t(einfo, TraceInfo(states.FAILURE, error), 0.0, None)


def _body(body: Any, content_type: Any, content_encoding: Any, loads: Any) -> Any:
    if not content_type:
        return body
    return (loads or codec.loads)(body, content_type, content_encoding, frozenset({content_type}))


def trace_task_ret(
    name: str, uuid: str, request: Any, body: Any, content_type: Any, content_encoding: Any, loads: Any = None,
    app: Any = None, **extra_request: Any,
) -> tuple[int, Any, float]:  # fmt: skip
    """Run the task of a message: whether it failed (0 or 1), the result or its repr, and the seconds that it took."""
    app = app or get_current_app()
    args, kwargs, embed = _body(body, content_type, content_encoding, loads)
    request = {**request, "args": args, "kwargs": kwargs, "hostname": gethostname(), **(embed or {}), **extra_request}
    answer = trace_task(app.tasks[name], uuid, args, kwargs, request, app=app)
    return (1, answer.retval, answer.runtime) if answer.info else (0, answer.retstr, answer.runtime)


#: What :func:`fast_trace_task` runs tasks of: registry, accepted content and node name.
_localized: list[Any] = []


def fast_trace_task(
    task: str, uuid: str, request: Any, body: Any, content_type: Any, content_encoding: Any, loads: Any = None,
    _loc: Any = None, hostname: str | None = None, **_: Any,
) -> tuple[int, Any, float]:  # fmt: skip
    """As :func:`trace_task_ret`, in a process that :func:`setup_worker_optimizations` has prepared.

    Raises:
        RuntimeError: it is not prepared.
    """
    known = _localized if _loc is None else _loc
    if not known:
        raise RuntimeError(
            "the worker task registry is empty: call setup_worker_optimizations(app) in this process before its "
            "first task"
        )
    tasks, _accept, name = known
    args, kwargs, embed = _body(body, content_type, content_encoding, loads)
    request = {**request, "args": args, "kwargs": kwargs, "hostname": hostname or name, **(embed or {})}
    answer = trace_task(tasks[task], uuid, args, kwargs, request)
    return (1, answer.retval, answer.runtime) if answer.info else (0, answer.retstr, answer.runtime)


def setup_worker_optimizations(app: Any, hostname: str | None = None) -> None:
    """Prepare this process for running tasks of one app: it is the current one from now on."""
    app.set_current()
    app.set_default()
    app.finalize()
    _localized[:] = [app._tasks, codec.acceptable(app.conf["accept_content"]), hostname or gethostname()]


def reset_worker_optimizations(app: Any = None) -> None:
    """Undo :func:`setup_worker_optimizations`."""
    _localized[:] = []


# ── the strategy ─────────────────────────────────────────────────────────────────────────────────────────────────────


class AppStrategy:
    """What a worker of an app does with a task: runs the registered task of its name, or the one that came with it.

    Arguments:
        hostname: the worker's name, as ``request.hostname``.
    """

    def __init__(self, app: Celery, *, hostname: str | None = None) -> None:
        app.loader.init_worker()
        app.finalize()
        self.app = app
        self.hostname = hostname or f"celery@{gethostname()}"
        self.accepts = codec.acceptable(app.conf["accept_content"])
        self._tracers: dict[str, Callable[..., Any]] = {}
        self._worker: Worker | None = None
        self._limited: set[str] = set()  # names whose rate limit was changed
        #: whether nothing enforces the time limits that come with a message: names for which that was said
        self.unlimited: set[str] | None = set()
        self.events = TaskEvents(app, self.hostname, on=bool(app.conf["worker_send_task_events"]))

    @property
    def policy(self) -> int:
        """The flags of tasks that this worker doesn't know: how they are acknowledged, and that losses are told."""
        conf = self.app.conf
        flags = wire.AFTERMATH | (wire.RETRY_ON_LOST if conf["task_retry_on_worker_lost"] else 0)
        if not conf["task_acks_late"]:
            return flags
        return flags | wire.ACK_LATE | (wire.REJECT_ON_LOST if conf["task_reject_on_worker_lost"] else 0)

    @property
    def policies(self) -> dict[str, int]:
        """The flags of the tasks that it knows, where they differ."""
        usual = self.policy
        flags = {name: policy(task) | wire.AFTERMATH for name, task in self.app.tasks.items()}
        return {name: flag for name, flag in flags.items() if flag != usual}

    @property
    def rates(self) -> tuple[dict[str, float], dict[str, float]]:
        """How many tasks of a name may start in a second: in each worker, and over all of a node."""
        if self.app.conf["worker_disable_rate_limits"]:
            return {}, {}
        tasks = self.app.tasks.items()
        own = {name: rate(task.rate_limit) for name, task in tasks}
        shared = {name: rate(limit) for name, task in tasks if (limit := task.global_rate_limit)}
        return {name: limit for name, limit in own.items() if limit or name in self._limited}, shared

    def attach(self, worker: Worker) -> None:
        """Called in each worker before its first task."""
        self._worker = worker
        if worker.has_process:
            timelimits.enforce()
        elif worker.hub is not None:
            timelimits.enforce_green()
        self.events.attach(worker)

    def told(self, body: bytes) -> None:
        """What the pool's process tells its workers: attributes of tasks that were changed by a command."""
        what = msgspec.msgpack.decode(body)
        self.events.on = what.get("events", self.events.on)
        for name, attributes in what.get("tasks", {}).items():
            task = self.app.tasks.get(name)
            if task is not None:
                for attribute, value in attributes.items():
                    setattr(task, attribute, value)
                self._tracers.pop(name, None)
                self._limited.add(name)
                if "rate_limit" in attributes and self._worker is not None:
                    self._worker.tell_rates()

    def accept(self, task: wire.Task, /) -> bool:
        """Always: a task that can't be run here fails, so that its caller hears of it."""
        return True

    def run(self, task: wire.Task, /) -> Outcome:
        """Run a task; whatever happens, this returns an outcome."""
        backend: Any = self.codec
        head = USUAL
        try:
            head = read_head(task.head)
            if timelimits.caller is None and head.timelimit is not None:
                self._say_unlimited(task.name, head.timelimit)
            if task.verdict or head.canvas:
                return self._settle(task, head, backend)
            trace = self._tracers.get(task.name) or self._tracer_of(task)
            args, kwargs, embed = body_of(task, head, self.accepts)
            if head.inputs is not None:
                args = with_results(args, head.inputs, task.inputs, backend)
        except Exception as error:
            return self._unrunnable(task, head, error)
        run = self.make_run(task, head, args, kwargs, NO_EMBED if embed == NO_EMBED else embed)
        try:
            if _received.receivers or received_logger.isEnabledFor(logging.INFO):
                self._tell_received(run, getattr(trace, "task", None))
            if self.events.on:
                self._trace_watched(trace, run)
            else:
                trace(task.id, args, kwargs, run)
        except Reject as error:
            return self._unrunnable(task, head, error)
        return run.outcome if run.outcome is not None else self._unrunnable(task, head, _no_outcome(task))

    def _say_unlimited(self, name: str, limits: tuple[Any, Any]) -> None:
        """Log, once for each name, that a time limit which came with a message has no effect here."""
        if self.unlimited is not None and name not in self.unlimited and any(limits):
            self.unlimited.add(name)
            logger.warning("the time limit of %s is not enforced in this pool: take prefork, gevent or asyncio", name)

    def _trace_watched(self, trace: Callable[..., Any], run: NodeRun) -> None:
        """Run a task, and make events of it if anybody listens."""
        events = self.events
        run.watched = events.wants(getattr(trace, "task", None))
        if run.watched:
            events.begun(run)
        answer = trace(run.id, run.args, run.kwargs, run)
        if run.watched:
            events.ended(run, answer)

    def _tell_received(self, run: NodeRun, task: Any) -> None:
        """Send task_received, and log: a worker gets a task when it is about to run it."""
        from zerocelery.worker.consumer import Consumer
        from zerocelery.worker.request import Request

        request = Request.of_run(self.app, run, task)
        _received.send(sender=Consumer(self.app, self.hostname), request=request)
        if received_logger.isEnabledFor(logging.INFO):
            context = {
                "id": request.id,
                "name": request.name,
                "args": request.argsrepr,
                "kwargs": request.kwargsrepr,
                "eta": request.eta,
            }
            received_logger.info(LOG_RECEIVED, context, extra={"data": context})

    def _settle(self, task: wire.Task, head: Head, backend: Any) -> Outcome:
        """What is no call of a task: a canvas to be sent, or a task that is to be failed because of another's end."""
        args, _, embed = body_of(task, head, self.accepts)
        if not task.verdict:
            return run_canvas(self.app, task, head, args, backend)
        error, own = verdict_error(task, backend)
        if head.canvas:
            return fail_canvas(self.app, task, args[0], error, backend)
        args, kwargs, embed = body_of(task, head, self.accepts)
        run = self.make_run(task, head, args, kwargs, embed)
        if own and task.flags & wire.RETRY_ON_LOST and isinstance(error, WorkerLostError):
            return self._lost(run, error)
        if own:
            self._tell_of_loss(run, error)
        else:
            logger.error("Task %s[%s] is not run: %r", task.name, task.id, error)
        # how the engine has ended a task, a node knows already
        return self._failed_unrun(run, error, None, not (own and type(run) is NodeRun) and not run.ignored_by_caller)

    def _lost(self, run: NodeRun, error: WorkerLostError) -> Outcome:
        """A run's process was lost, and how it ends is ours to say: ``retry_on_worker_lost``."""
        task = self.app._tasks.get(run.task.name)
        if task is None:  # shipped, and not known here: there is nothing that says how often
            return self._failed_unrun(run, error, None, not run.ignored_by_caller)
        watched = run.watched = self.events.on and self.events.wants(task)
        answer = Tracer(task.name, task, app=self.app, hostname=self.hostname).lost(run, error)
        if watched:
            self.events.ended(run, answer)
        return run.outcome if run.outcome is not None else self._failed_unrun(run, error, None, True)

    def _tell_of_loss(self, run: NodeRun, error: BaseException) -> None:
        """What Celery calls where the engine has ended a task whose process was lost or killed."""
        task = self.app._tasks.get(run.task.name)
        if task is None:
            return
        frame = Frame(task, run)
        einfo = ExceptionInfo((type(error), error, None))
        token = frames.set(frame)
        try:
            if isinstance(error, TaskRevokedError):
                return
            if self.events.wants(task):
                self.events.failed(run.id, error, None)
            task.on_failure(error, run.id, run.args, run.kwargs, einfo)
            signals.task_failure.send(
                sender=task, task_id=run.id, exception=error, args=run.args, kwargs=run.kwargs, traceback=None,
                einfo=einfo,
            )  # fmt: skip
        except Exception:
            logger.exception("Task %s on_failure handler raised", run.task.name)
        finally:
            frames.reset(token)
        logger.error("Task %s[%s] raised unexpected: %r", run.task.name, run.id, error)

    def _failed_unrun(self, run: NodeRun, error: BaseException, text: str | None, store: bool) -> Outcome:
        """The outcome of a task that could not be run, with what follows from a failure."""
        frame = Frame(None, run, followups=run.followups())
        if run.embed.get("errbacks"):
            call_errbacks(self.app, frame, run.embed["errbacks"], error, text)
        run.failed(frame, error, text, store)
        outcome = run.outcome
        if outcome is None:  # pragma: no cover - failed() always makes one
            raise error
        return outcome

    @property
    def codec(self) -> Any:
        """What encodes values for the node."""
        backend = self.app.backend
        return backend if type(backend) is NodeBackend or not self.app.has_node else NodeBackend(self.app)

    def make_run(self, task: wire.Task, head: Head, args: Any, kwargs: Any, embed: Any) -> NodeRun:
        """Where this task's outcome goes."""
        backend = self.app.backend
        if type(backend) is NodeBackend:
            return NodeRun(task, head, args, kwargs, embed, self.hostname, backend)
        from zerocelery.app.stored import run_of

        return run_of(self.app, task, head, args, kwargs, embed, self.hostname, backend)

    def _tracer_of(self, task: wire.Task) -> Callable[..., Any]:
        found = self.app._tasks.get(task.name)
        key = task.name
        if found is None:
            if task.digest is None:
                raise NotRegistered(task.name)
            key = task.digest
            tracer = self._tracers.get(key)
            if tracer is not None:
                return tracer
            found = self._fetch(task)
        tracer = build_tracer(found.name, found, loader=self.app.loader, hostname=self.hostname, app=self.app)
        self._tracers[key] = tracer
        return tracer

    def _fetch(self, task: wire.Task) -> Any:
        """The task that was shipped with this message."""
        from zerocelery.app.ship import unpack
        from zerocelery.engine.worker import current_worker

        worker = current_worker()
        if worker is None or task.digest is None:
            raise NotRegistered(task.name)
        return unpack(worker.fetch(task.digest), task.name, self.app)

    def _unrunnable(self, task: wire.Task, head: Head, error: Exception) -> Outcome:
        """The outcome of a message that no task could be run for: a failure that says why."""
        name, task_id = task.name, task.id
        if isinstance(error, NotRegistered):
            logger.error("Received unregistered task of type %r: is its module among include or imports?", name)
            signals.task_unknown.send(sender=self, message=task, exc=error, name=name, id=task_id)
        else:
            logger.error("Task %s[%s] can't be run: %r", name, task_id, error)
            if isinstance(error, InvalidTaskError):
                signals.task_rejected.send(sender=self, message=task, exc=error)
        try:
            args, kwargs, embed = body_of(task, head, self.accepts)
        except Exception:
            args, kwargs, embed = (), {}, NO_EMBED
        text = "".join(_traceback.format_exception(type(error), error, error.__traceback__))
        run = self.make_run(task, head, args, kwargs, embed)
        return self._failed_unrun(run, error, text, not task.flags & wire.IGNORE_RESULT)


def _no_outcome(task: wire.Task) -> Exception:
    return InvalidTaskError(f"the tracer of {task.name} ended without an outcome")


class StrategyFactory:
    """Makes the strategy of the app that ``-A`` names; goes to a new process by name, in a forked one as it is."""

    def __init__(self, app: Celery | str, *, hostname: str | None = None) -> None:
        self.app = app
        self.hostname = hostname

    def __call__(self) -> AppStrategy:
        from zerocelery.app.utils import find_app

        return AppStrategy(find_app(self.app), hostname=self.hostname)
