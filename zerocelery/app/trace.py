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

import os
import traceback as _traceback
from collections import namedtuple
from time import monotonic
from typing import Any

from zerocelery import signals, states
from zerocelery._state import Frame, frames
from zerocelery.app import codec
from zerocelery.app.context import Context
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
from zerocelery.app.message import NO_EMBED, USUAL, Head, body_of, read_head, request_of
from zerocelery.app.sending import policy
from zerocelery.app.task import Task as BaseTask
from zerocelery.backends.zmq import NodeBackend
from zerocelery.engine import wire
from zerocelery.engine.strategy import Outcome
from zerocelery.exceptions import Ignore, InvalidTaskError, NotRegistered, Reject, Retry, WorkerLostError
from zerocelery.result import ResultBase
from zerocelery.utils.log import get_logger
from zerocelery.utils.nodenames import gethostname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.app.base import Celery
    from zerocelery.app.task import Task
    from zerocelery.engine.worker import Worker

# People configure loggers by these names.
logger = get_logger("celery.app.trace")

LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"

IGNORE_STATES = frozenset({states.IGNORED, states.RETRY, states.REJECTED})

_INFO = 20
_WARNING = 30
_ERROR = 40
_CRITICAL = 50

trace_ok_t = namedtuple("trace_ok_t", ("retval", "info", "runtime", "retstr"))

_prerun = signals.task_prerun
_postrun = signals.task_postrun
_success = signals.task_success


class TraceInfo:
    """How a run that didn't return went: its state and the exception."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval


def task_has_custom(task: Any, attr: str) -> bool:
    """Whether the task's class brings its own version of a method."""
    for kind in type(task).__mro__:
        if kind is BaseTask or kind is object:
            return False
        if attr in kind.__dict__:
            return True
    return False


def _hook(task: Any, name: str) -> Any:
    """The task's own version of a hook, or None: what nobody wrote needs no call."""
    return getattr(task, name) if task_has_custom(task, name) or name in task.__dict__ else None


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class NodeRun:
    """One run of a task that was leased from a node; its outcome is what the engine's worker returns."""

    __slots__ = ("_last", "args", "backend", "embed", "head", "hostname", "kwargs", "outcome", "task")

    is_eager = False

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
        again = [*(frame.followups or ()), self.task]
        self.outcome = Outcome(states.REJECTED, final=False, store=False, followups=again)

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
    """One run on the spot; its outcome is what the tracer returns, and is stored only if the task says so."""

    __slots__ = ("_backend", "_request", "_stores", "args", "kwargs")

    is_eager = True
    worker = None

    def __init__(self, request: Any, args: Any, kwargs: Any, task: Task[..., Any]) -> None:
        self._request = request or {}
        self.args = args
        self.kwargs = kwargs
        self._stores = bool(task.store_eager_result)
        self._backend = task.backend if self._stores else None

    @property
    def id(self) -> Any:
        return self._request.get("id")

    @property
    def embed(self) -> dict[str, Any]:
        return {key: self._request.get(key) for key in NO_EMBED}

    def followups(self) -> list[Any] | None:
        return None

    def ignores_result(self, task: Task[..., Any]) -> bool:
        said = self._request.get("ignore_result")
        return bool(task.ignore_result if said is None else said)

    def context(self) -> Context:
        return Context(self._request, args=self.args, kwargs=self.kwargs, called_directly=False)

    def started(self, meta: dict[str, Any]) -> None:
        """Nobody watches."""

    def noted(self, state: str, meta: Any) -> None:
        """Nobody watches."""

    def succeeded(self, frame: Frame, retval: Any, ignored: bool) -> None:
        if self._backend is not None and not ignored:
            self._backend.store_result(self.id, retval, states.SUCCESS, request=frame.request)

    def failed(self, frame: Frame, error: BaseException, text: str, store: bool) -> None:
        if self._backend is not None and store:
            self._backend.store_result(self.id, error, states.FAILURE, traceback=text, request=frame.request)

    def retried(self, frame: Frame, error: BaseException | None, text: str, store: bool) -> None:
        """The caller runs it again."""

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
        self.before_start = _hook(task, "before_start")
        self.on_success = _hook(task, "on_success")
        self.after_return = _hook(task, "after_return")
        self.track_started = not eager and bool(task.track_started)
        self.on_task_init = _own(loader, "on_task_init")
        self.on_process_cleanup = None if eager else _own(loader, "on_process_cleanup")
        self.started = {"pid": os.getpid(), "hostname": hostname or gethostname()}
        self.logs_success = logger.isEnabledFor(_INFO)

    def __call__(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        task = self.task
        run = request if isinstance(request, NodeRun) else LocalRun(request, args, kwargs, task)
        frame = Frame(task, run, followups=run.followups())
        frame.previous = frames.get()
        token = frames.set(frame)
        try:
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
            if self.on_process_cleanup is not None:
                self.on_process_cleanup()

    def _begin(self, uuid: str, args: Any, kwargs: Any, run: Any, ignored: bool) -> None:
        if _prerun.receivers:
            _prerun.send(sender=self.task, task_id=uuid, task=self.task, args=args, kwargs=kwargs)
        if self.on_task_init is not None:
            self.on_task_init(uuid, self.task)
        if self.track_started and not ignored:
            run.started(self.started)

    # it returned

    def _returned(self, retval: Any, run: Any, frame: Frame, ignored: bool, start: float) -> Any:
        try:
            embed = run.embed
            if embed is not NO_EMBED and (embed.get("callbacks") or embed.get("chain")):
                send_callbacks(self.app, frame, embed, retval)
            run.succeeded(frame, retval, ignored)
        except (Reject, MemoryError):
            raise
        except Exception as error:
            # what can't be stored is no success
            return self._failed(error, run, frame, ignored)
        if self.on_success is not None:
            self._after("on_success", self.on_success, retval, run.id, run.args, run.kwargs)
        if not (_success.receivers or self.logs_success or self.eager):
            return _OK
        runtime = monotonic() - start
        text = _short(retval, self.task.resultrepr_maxsize)
        if _success.receivers:
            _success.send(sender=self.task, result=retval, runtime=runtime)
        if self.logs_success:
            self._log(_INFO, LOG_SUCCESS, run, frame, return_value=text, runtime=runtime)
        return trace_ok_t(retval, None, runtime, text)

    def _after(self, name: str, hook: Callable[..., Any], *args: Any) -> None:
        """Call a hook whose errors come too late to change the outcome."""
        try:
            hook(*args)
        except (Reject, MemoryError):
            raise
        except Exception as error:
            if self.eager:
                raise
            logger.exception("Task %s %s handler raised: %r", self.name, name, error)

    # it raised

    def _raised(self, error: BaseException, run: Any, frame: Frame, ignored: bool) -> Any:
        if isinstance(error, Retry):
            return self._retry(error, run, frame, ignored)
        if isinstance(error, Reject):
            return self._reject(error, run, frame, ignored)
        if isinstance(error, Ignore):
            run.ignored(frame)
            self._log(_INFO, LOG_IGNORED, run, frame, description="ignored")
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
        _forget_frames(error)
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
        self._log(_INFO, LOG_RETRY, run, frame, exc=str(retry))
        _forget_frames(retry)
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
        self._log(_WARNING, LOG_REJECTED, run, frame, exc=codec.safe_repr(reject), exc_info=einfo.exc_info)
        return trace_ok_t(einfo, self.make_info(states.REJECTED, reject), None, None)

    def _internal_error(self, uuid: str, args: Any, kwargs: Any, run: Any, frame: Frame, error: Exception) -> Any:
        """Something around the task failed: a hook, a signal's sender, or we ourselves."""
        if self.eager:
            raise error
        einfo = ExceptionInfo((type(error), error, error.__traceback__), internal=True)
        report_internal_error(self.task, uuid, args, kwargs, run, error, einfo)
        run.failed(frame, error, einfo.traceback, True)
        return trace_ok_t(einfo, self.make_info(states.FAILURE, error), None, None)

    # logs

    def _log_failure(self, error: BaseException, run: Any, frame: Frame, einfo: ExceptionInfo) -> None:
        expected = bool(self.task.throws) and isinstance(error, tuple(self.task.throws))
        self._log(
            _INFO if expected else _ERROR,
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


def _forget_frames(error: BaseException) -> None:
    """Let go of the locals of a finished run, which the exception would keep alive."""
    if error.__traceback__ is not None:
        _traceback.clear_frames(error.__traceback__)


def report_internal_error(
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

    @property
    def policy(self) -> int:
        """The acknowledgement flags of tasks that this worker doesn't know."""
        conf = self.app.conf
        if not conf["task_acks_late"]:
            return 0
        return wire.ACK_LATE | (wire.REJECT_ON_LOST if conf["task_reject_on_worker_lost"] else 0)

    @property
    def policies(self) -> dict[str, int]:
        """The acknowledgement flags of the tasks that it knows, where they differ."""
        usual = self.policy
        flags = {name: policy(task) for name, task in self.app.tasks.items()}
        return {name: flag for name, flag in flags.items() if flag != usual}

    def accept(self, task: wire.Task, /) -> bool:
        """Always: a task that can't be run here fails, so that its caller hears of it."""
        return True

    def run(self, task: wire.Task, /) -> Outcome:
        """Run a task; whatever happens, this returns an outcome."""
        backend: Any = self.codec
        head = USUAL
        try:
            head = read_head(task.head)
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
            trace(task.id, args, kwargs, run)
        except Reject as error:
            return self._unrunnable(task, head, error)
        return run.outcome if run.outcome is not None else self._unrunnable(task, head, _no_outcome(task))

    def _settle(self, task: wire.Task, head: Head, backend: Any) -> Outcome:
        """What is no call of a task: a canvas to be sent, or a task that is to be failed because of another's end."""
        args, _, embed = body_of(task, head, self.accepts)
        if not task.verdict:
            return run_canvas(self.app, task, head, args, backend)
        error, own = verdict_error(task, backend)
        if head.canvas:
            return fail_canvas(self.app, task, args[0], error, backend)
        logger.error("Task %s[%s] is not run: %r", task.name, task.id, error)
        run = self.make_run(task, head, args, {}, embed)
        # how the engine has ended a task, a node knows already
        return self._failed_unrun(run, error, None, not (own and type(run) is NodeRun) and not run.ignored_by_caller)

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
