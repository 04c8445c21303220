"""What became of a run that didn't return: how it is logged, stored and told of."""

from __future__ import annotations

import logging
import sys
import traceback as _traceback
from collections import namedtuple
from typing import Any

from zerocelery import signals, states
from zerocelery.app import codec
from zerocelery.app.einfo import ExceptionInfo
from zerocelery.exceptions import Ignore, Reject
from zerocelery.utils.log import get_logger
from zerocelery.utils.serialization import get_pickleable_exception

# People configure loggers by these names.
logger = get_logger("celery.app.trace")

LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"

log_policy_t = namedtuple("log_policy_t", ("format", "description", "severity", "traceback", "mail"))

log_policy_reject = log_policy_t(LOG_REJECTED, "rejected", logging.WARNING, 1, 1)
log_policy_ignore = log_policy_t(LOG_IGNORED, "ignored", logging.INFO, 0, 0)
log_policy_internal = log_policy_t(LOG_INTERNAL_ERROR, "INTERNAL ERROR", logging.CRITICAL, 1, 1)
log_policy_expected = log_policy_t(LOG_FAILURE, "raised expected", logging.INFO, 0, 0)
log_policy_unexpected = log_policy_t(LOG_FAILURE, "raised unexpected", logging.ERROR, 1, 1)


def get_log_policy(task: Any, einfo: Any, exc: Any) -> Any:
    """How a run that didn't return is logged."""
    if isinstance(exc, Reject):
        return log_policy_reject
    if isinstance(exc, Ignore):
        return log_policy_ignore
    if einfo.internal:
        return log_policy_internal
    if task.throws and isinstance(exc, tuple(task.throws) if isinstance(task.throws, list) else task.throws):
        return log_policy_expected
    return log_policy_unexpected


def get_task_name(request: Any, default: str) -> str:
    """The name to show: the one that the caller gave, or else the task's own."""
    return getattr(request, "shadow", None) or default


class TraceInfo:
    """How a run that didn't return went: its state and the exception."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval

    def handle_error_state(self, task: Any, req: Any, eager: bool = False, call_errbacks: bool = True) -> Any:
        """Do what follows from this state; for code that runs tasks by itself."""
        if self.state == states.RETRY:
            return self.handle_retry(task, req, store_errors=_stores_errors(task, req, eager))
        if self.state == states.FAILURE:
            return self.handle_failure(
                task, req, store_errors=_stores_errors(task, req, eager), call_errbacks=call_errbacks
            )
        return None

    def handle_reject(self, task: Any, req: Any, **kwargs: Any) -> None:
        """Log that the task was rejected."""
        self._log_error(task, req, ExceptionInfo())

    def handle_ignore(self, task: Any, req: Any, **kwargs: Any) -> None:
        """Log that the task was ignored."""
        self._log_error(task, req, ExceptionInfo())

    def handle_retry(self, task: Any, req: Any, store_errors: bool = True, **kwargs: Any) -> ExceptionInfo:
        """Store, tell and log that the task will be run again."""
        reason = self.retval
        einfo = ExceptionInfo((type(reason), reason, reason.__traceback__))
        if store_errors:
            task.backend.mark_as_retry(req.id, reason.exc, einfo.traceback, request=req)
        task.on_retry(reason.exc, req.id, req.args, req.kwargs, einfo)
        signals.task_retry.send(sender=task, request=req, reason=reason, einfo=einfo)
        self._log_error(task, req, einfo)
        return einfo

    def handle_failure(
        self, task: Any, req: Any, store_errors: bool = True, call_errbacks: bool = True
    ) -> ExceptionInfo:
        """Store, tell and log that the task has failed."""
        error = get_pickleable_exception(self.retval)
        einfo = ExceptionInfo((type(error), error, self.retval.__traceback__))
        task.backend.mark_as_failure(
            req.id, error, einfo.traceback, request=req, store_result=store_errors, call_errbacks=call_errbacks
        )
        task.on_failure(error, req.id, req.args, req.kwargs, einfo)
        signals.task_failure.send(
            sender=task, task_id=req.id, exception=error, args=req.args, kwargs=req.kwargs, traceback=einfo.tb,
            einfo=einfo,
        )  # fmt: skip
        self._log_error(task, req, einfo)
        return einfo

    def _log_error(self, task: Any, req: Any, einfo: ExceptionInfo) -> None:
        exc = einfo.exception
        policy = get_log_policy(task, einfo, exc)
        context = {
            "hostname": req.hostname, "id": req.id, "name": get_task_name(req, task.name),
            "args": codec.safe_repr(req.args), "kwargs": codec.safe_repr(req.kwargs), "exc": codec.safe_repr(exc),
            "traceback": einfo.traceback, "description": policy.description, "internal": einfo.internal,
        }  # fmt: skip
        exc_info = einfo.exc_info if policy.traceback else None
        logger.log(policy.severity, policy.format.strip(), context, exc_info=exc_info, extra={"data": context})


def _stores_errors(task: Any, req: Any, eager: bool) -> bool:
    if eager and not task.store_eager_result:
        return False
    # a Context has a value of its own only where the caller gave one
    said = vars(req).get("ignore_result") if req is not None else None
    ignored = task.ignore_result if said is None else said
    return not ignored or bool(task.store_errors_even_if_ignored)


def traceback_clear(exc: Any = None) -> None:
    """Let go of the locals of a finished run, which its exception would keep alive.

    Arguments:
        exc: the exception; the one that is being handled unless given.
    """
    tb = getattr(exc, "__traceback__", None) if isinstance(exc, BaseException) else sys.exc_info()[2]
    if tb is not None:
        _traceback.clear_frames(tb)
