"""A task's message as a worker has it: what receivers of ``task_received`` get, and what control commands tell of it.

In this engine the node keeps the message, and what the worker reports acknowledges it. A request is a view of it, whose
fields people's signal receivers read. What it can do with its message (acknowledge, reject, tell how it ended) is for
consumers that are somebody's own, who give it the callbacks for that.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zerocelery import signals, states
from zerocelery._state import app_or_default
from zerocelery.app.context import Context
from zerocelery.app.message import arguments_repr
from zerocelery.app.trace import build_tracer
from zerocelery.exceptions import (
    Ignore,
    InvalidTaskError,
    Reject,
    Retry,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from zerocelery.utils.log import get_logger
from zerocelery.utils.nodenames import gethostname
from zerocelery.utils.time import maybe_iso8601, maybe_make_aware
from zerocelery.worker import state

if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.app.trace import NodeRun

__all__ = ("Request",)

logger = get_logger("celery.worker.request")


def _nothing(*_: Any, **__: Any) -> None:
    """Nobody is to be told."""


class Request:
    """One message of a task.

    Arguments:
        message: kombu's; or anything with its attributes.
        on_ack, on_reject: called with logger, connection errors (and whether to requeue) to settle the message.
        hostname: of the worker.
        eventer: sends events of what becomes of the task; None: nobody does.
        request_dict, headers: the protocol's headers; the message's unless given.
        task: the registered task; found by its name unless given.
        body, decoded: a body that was read already.

    Raises:
        InvalidTaskError: eta or expires is no time.
    """

    acknowledged = False
    time_start: float | None = None
    worker_pid: int | None = None
    time_limits: Any = (None, None)

    def __init__(
        self,
        message: Any,
        on_ack: Callable[..., Any] = _nothing,
        hostname: str | None = None,
        eventer: Any = None,
        app: Any = None,
        connection_errors: Any = None,
        request_dict: dict[str, Any] | None = None,
        task: Any = None,
        on_reject: Callable[..., Any] = _nothing,
        body: Any = None,
        headers: dict[str, Any] | None = None,
        decoded: bool = False,
        utc: bool = True,
        maybe_make_aware: Callable[..., Any] = maybe_make_aware,
        maybe_iso8601: Callable[..., Any] = maybe_iso8601,
        **opts: Any,
    ) -> None:
        fields = dict(headers if headers is not None else request_dict or message.headers)
        delivery = dict(message.delivery_info or {})
        properties = dict(message.properties or {})
        self.message = message
        self.app = app_or_default(app)
        self.on_ack, self.on_reject = on_ack, on_reject
        self.hostname = hostname or gethostname()
        self.eventer = eventer
        self.connection_errors = connection_errors or ()
        self.id: str = fields["id"]
        self.type: str = fields["task"]
        self.name: str = fields.get("shadow") or self.type
        self.root_id: str | None = fields.get("root_id")
        self.parent_id: str | None = fields.get("parent_id")
        self.argsrepr: str = fields.get("argsrepr", "")
        self.kwargsrepr: str = fields.get("kwargsrepr", "")
        self.time_limits = fields.get("timelimit") or (None, None)
        self.task = self.app.tasks[self.type] if task is None else task
        self.body = message.body if body is None else body
        # What stands for a message, made by hand, needs to have no body that was ever encoded.
        self.content_type = getattr(message, "content_type", None)
        self.content_encoding = getattr(message, "content_encoding", None)
        self._decoded = decoded
        self.utc = utc
        self.delivery_info = {
            "exchange": delivery.get("exchange"),
            "routing_key": delivery.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": delivery.get("redelivered", False),
        }
        self._settled = False

        def moment(name: str) -> Any:
            value = fields.get(name)
            if value is None:
                return None
            try:
                return maybe_make_aware(maybe_iso8601(value), self.app.timezone)
            except (AttributeError, ValueError, TypeError) as error:
                raise InvalidTaskError(f"invalid {name} value {value!r}: {error}") from error

        self.eta = moment("eta")
        self.expires = moment("expires")
        self.request_dict = {
            **fields,
            "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "hostname": self.hostname,
            "delivery_info": self.delivery_info,
        }

    @classmethod
    def of_run(cls, app: Any, run: NodeRun, task: Any) -> Request:
        """The request of a task that a node has leased to this process."""
        fields = run.context().__dict__
        message = SimpleNamespace(
            headers=fields,
            properties=fields["properties"],
            delivery_info=fields["delivery_info"],
            content_type=run.head.content_type,
            content_encoding=run.head.content_encoding,
            body=run.task.body,
            payload=(run.args, run.kwargs, run.embed),
        )
        if not fields.get("argsrepr"):
            fields = {
                **fields, "argsrepr": arguments_repr(tuple(run.args)), "kwargsrepr": arguments_repr(run.kwargs),
            }  # fmt: skip
        return cls(message, hostname=run.hostname, app=app, task=task, headers=fields)

    # ── what the message says ────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def __payload(self) -> Any:
        return self.body if self._decoded else self.message.payload

    @property
    def task_id(self) -> str:
        return self.id

    @property
    def task_name(self) -> str:
        return self.name

    @property
    def args(self) -> Any:
        return self.__payload[0]

    @property
    def kwargs(self) -> Any:
        return self.__payload[1]

    @property
    def chord(self) -> Any:
        """The chord that the task is a part of."""
        return (self.__payload[2] or {}).get("chord")

    @property
    def errbacks(self) -> Any:
        """What is called when it fails."""
        return (self.__payload[2] or {}).get("errbacks")

    @property
    def group(self) -> str | None:
        return self.request_dict.get("group")

    @property
    def group_index(self) -> int | None:
        return self.request_dict.get("group_index")

    @property
    def groups(self) -> list[str]:
        """The groups that its stamps name."""
        return self.request_dict.get("groups") or []

    @property
    def reply_to(self) -> str | None:
        return self.request_dict["reply_to"]  # type: ignore[no-any-return]

    @property
    def correlation_id(self) -> str | None:
        return self.request_dict["correlation_id"]  # type: ignore[no-any-return]

    @property
    def replaced_task_nesting(self) -> int:
        return self.request_dict.get("replaced_task_nesting") or 0

    @property
    def stamped_headers(self) -> list[str]:
        return self.request_dict.get("stamped_headers") or []

    @property
    def stamps(self) -> dict[str, Any]:
        stamps = self.request_dict.get("stamps") or {}
        return {name: stamps.get(name) for name in self.stamped_headers}

    @property
    def ignore_result(self) -> bool | None:
        return self.request_dict.get("ignore_result")

    @property
    def store_errors(self) -> bool:
        """Whether a failure is stored."""
        return not self.task.ignore_result or bool(self.task.store_errors_even_if_ignored)

    @property
    def tzlocal(self) -> Any:
        return self.app.timezone

    @cached_property
    def _context(self) -> Context:
        args, kwargs, embed = self.__payload
        return Context({**self.request_dict, **(embed or {}), "args": args, "kwargs": kwargs})

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What control commands tell of it.

        Arguments:
            safe: arguments as they were written for people, not as they are.
        """
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr if safe else self.args,
            "kwargs": self.kwargsrepr if safe else self.kwargs,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def humaninfo(self) -> str:
        """Name and id."""
        return f"{self.name}[{self.id}]"

    def __str__(self) -> str:
        """Name, id, and when it is due and expires."""
        moments = ("eta", self.eta), ("expires", self.expires)
        return " ".join([self.humaninfo(), *(f" {name}:[{value}]" for name, value in moments if value)])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()} {self.argsrepr} {self.kwargsrepr}>"

    # ── what becomes of it ───────────────────────────────────────────────────────────────────────────────────────────

    def send_event(self, type: str, **fields: Any) -> None:
        """Tell of the task, if somebody sends events."""
        if self.eventer is not None and self.eventer.enabled and self.task.send_events:
            self.eventer.send(type, uuid=self.id, **fields)

    def acknowledge(self) -> None:
        """The message is done with."""
        if not self.acknowledged:
            self.on_ack(logger, self.connection_errors)
            self.acknowledged = True

    def reject(self, requeue: bool = False) -> None:
        """The message is given back (requeue), or thrown away."""
        if not self.acknowledged:
            self.on_reject(logger, self.connection_errors, requeue)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=requeue)

    def maybe_expire(self) -> bool:
        """Whether its time is over; then it counts as revoked."""
        if self.expires is None:
            return False
        if datetime.now(timezone.utc) <= maybe_make_aware(self.expires, self.app.timezone):
            return False
        state.revoked.add(self.id)
        return True

    def revoked(self) -> bool:
        """Whether it isn't to be run: its time is over, or somebody has revoked it. Then its result says so."""
        if self._settled:
            return True
        expired = self.maybe_expire()
        if not expired and self.id not in state.revoked:
            return False
        self._revoked("expired" if expired else "revoked", expired=expired)
        return True

    def _revoked(self, reason: str, *, terminated: bool = False, signum: Any = None, expired: bool = False) -> None:
        state.task_ready(self)
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        self.task.backend.mark_as_revoked(self.id, reason, request=self._context, store_result=self.store_errors)
        self.acknowledge()
        self._settled = True
        signals.task_revoked.send(
            sender=self.task, request=self._context, terminated=terminated, signum=signum, expired=expired
        )

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """It runs, in that process, since that moment (monotonic)."""
        self.worker_pid = pid
        self.time_start = time.time() - (time.monotonic() - time_accepted)
        state.task_accepted(self)
        if not self.task.acks_late:
            self.acknowledge()
        self.send_event("task-started")

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """It has run for so many seconds."""
        if soft:
            logger.warning("Soft time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
            return
        state.task_ready(self)
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", timeout, self.name, self.id)
        error = TimeLimitExceeded(timeout)
        self.task.backend.mark_as_failure(self.id, error, request=self._context, store_result=self.store_errors)
        if self.task.acks_late and self.task.acks_on_failure_or_timeout:
            self.acknowledge()

    def on_success(self, failed__retval__runtime: tuple[Any, Any, Any], **kwargs: Any) -> Any:
        """It has returned; or it has failed, and this is how."""
        failed, retval, runtime = failed__retval__runtime
        if failed:
            if isinstance(retval.exception, (SystemExit, KeyboardInterrupt)):
                raise retval.exception
            return self.on_failure(retval, return_ok=True)
        state.task_ready(self, successful=True)
        if self.task.acks_late:
            self.acknowledge()
        self.send_event("task-succeeded", result=retval, runtime=runtime)
        return None

    def on_retry(self, exc_info: Any) -> None:
        """It will run again; that is another message."""
        if self.task.acks_late:
            self.acknowledge()
        self.send_event("task-retried", exception=repr(exc_info.exception.exc), traceback=str(exc_info.traceback))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """It has failed, its process was lost, or it asked for something by an exception."""
        state.task_ready(self)
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(exc_info.exception, (MemoryError,)):
            raise MemoryError(f"Process got: {exc_info.exception}")
        if isinstance(exc_info.exception, Retry):
            return self.on_retry(exc_info)
        if isinstance(error, Ignore):
            return self.acknowledge()
        if isinstance(error, Reject) and error.requeue:
            return self.reject(requeue=True)
        if isinstance(error, Terminated):
            return self._revoked("terminated", terminated=True, signum=str(error))
        if isinstance(error, WorkerLostError) and self._runs_again():
            # nothing is stored: the next run will
            return self.reject(requeue=True)
        self._failed(exc_info, error)
        if send_failed_event:
            self.send_event("task-failed", exception=repr(error), traceback=str(exc_info.traceback))
        if not return_ok:
            logger.error("Task handler raised error: %r", error, exc_info=getattr(exc_info, "exc_info", None))
        return None

    def _runs_again(self) -> bool:
        """Whether a lost worker means another run: once, for a message that came back has lost a worker already."""
        return bool(
            self.task.acks_late and self.task.reject_on_worker_lost and not self.delivery_info.get("redelivered")
        )

    def _failed(self, exc_info: Any, error: Any) -> None:
        if isinstance(error, (WorkerLostError, Reject)):
            self.task.backend.mark_as_failure(self.id, error, request=self._context, store_result=self.store_errors)
            signals.task_failure.send(
                sender=self.task,
                task_id=self.id,
                exception=error,
                args=self.args,
                kwargs=self.kwargs,
                traceback=exc_info.traceback,
                einfo=exc_info,
            )
        if isinstance(error, Reject):
            self.reject(requeue=False)
        elif self.task.acks_late:
            if self.task.acks_on_failure_or_timeout:
                self.acknowledge()
            else:
                self.reject(requeue=False)

    def execute(self, loglevel: Any = None, logfile: Any = None) -> Any:
        """Run it here and now; what it returned.

        Raises:
            TaskRevokedError: it was revoked.
        """
        if self.revoked():
            raise TaskRevokedError(states.REVOKED)
        if not self.task.acks_late:
            self.acknowledge()
        trace = build_tracer(self.type, self.task, hostname=self.hostname, app=self.app, propagate=True)
        answer = trace(self.id, self.args, self.kwargs, {**self._context.__dict__, "loglevel": loglevel})
        if self.task.acks_late:
            self.acknowledge()
        return answer.retval


def create_request_cls(
    base: type[Request],
    task: Any,
    pool: Any,
    hostname: str,
    eventer: Any,
    app: Any = None,
    **_: Any,
) -> type[Request]:
    """A request's class for one task: what all its requests have in common is in it."""

    class TaskRequest(base):  # type: ignore[valid-type,misc]
        def __init__(self, message: Any, **options: Any) -> None:
            given = {"task": task, "hostname": hostname, "eventer": eventer, "app": app or task.app, **options}
            super().__init__(message, **given)

        def execute_using_pool(self, pool: Any = pool, **kwargs: Any) -> Any:
            """Hand it to a pool that runs functions."""
            if self.revoked():
                raise TaskRevokedError(self.id)
            return pool.apply_async(self.execute, accept_callback=self.on_accepted, **kwargs)

    TaskRequest.__name__ = TaskRequest.__qualname__ = base.__name__
    return TaskRequest
