"""What zerocelery raises.

    Exception
    ├── CeleryError
    │   ├── ImproperlyConfigured        a setting can't be what it is
    │   ├── SecurityError               something would have let in what must stay out
    │   ├── TaskPredicate               not errors: a task's words to its worker
    │   │   ├── Ignore                  leave my state alone
    │   │   ├── Reject                  I can't do this: (reason, requeue)
    │   │   └── Retry                   run me again later
    │   └── TaskError
    │       ├── QueueNotFound           (also a KeyError)
    │       ├── NotRegistered           (also a KeyError) no task of this name
    │       ├── IncompleteStream
    │       ├── AlreadyRegistered
    │       ├── TimeoutError            the result didn't come in time
    │       ├── MaxRetriesExceededError
    │       ├── TaskRevokedError        the task was revoked, or expired
    │       ├── InvalidTaskError
    │       └── ChordError              a part of the chord failed
    ├── BackendError
    │   ├── BackendGetMetaError         a result couldn't be read
    │   └── BackendStoreError           a result couldn't be stored
    ├── SoftTimeLimitExceeded           raised in the task: time to clean up
    ├── TimeLimitExceeded               the task's process was killed
    ├── WorkerLostError                 the worker died with the task
    ├── Terminated                      the task was terminated by request
    ├── kombu's KombuError ── OperationalError     the broker can't be reached, or refused
    └── click's ClickException ── CeleryCommandException
    Warning
    ├── UserWarning ── CeleryWarning
    │   └── AlwaysEagerIgnored, DuplicateNodenameWarning, DuplicateTaskNameWarning, FixupWarning, NotConfigured,
    │       SecurityWarning
    ├── DeprecationWarning ── CDeprecationWarning
    └── PendingDeprecationWarning ── CPendingDeprecationWarning
    SystemExit
    ├── WorkerShutdown                  a warm shutdown, please
    └── WorkerTerminate                 a cold one

OperationalError is kombu's own class and CeleryCommandException derives from click's: both are looked up when first
asked for, since importing kombu costs more than all of this package.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, NoReturn

    from click import ClickException
    from kombu.exceptions import OperationalError

    class CeleryCommandException(ClickException):
        def __init__(self, message: str, exit_code: int) -> None: ...


__all__ = (
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "QueueNotFound",
    "Reject",
    "Retry",
    "RetryTaskError",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "SystemTerminate",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "reraise",
)


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> NoReturn:
    """Raise the exception with this traceback."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


class CeleryWarning(UserWarning):
    """Base of the warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """task_always_eager says nothing to send_task, which knows only a name."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers have one name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """Two callables were registered under one name."""


class FixupWarning(CeleryWarning):
    """A fixup for another framework met something odd."""


class NotConfigured(CeleryWarning):
    """There is no configuration module."""


class SecurityWarning(CeleryWarning):
    """Something is less safe than it could be."""


class CDeprecationWarning(DeprecationWarning):
    """This goes in a coming version."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """This will be deprecated."""


class CeleryError(Exception):
    """Base of what is raised on purpose."""


class TaskPredicate(CeleryError):
    """Base of what a task raises to tell its worker something."""


class Retry(TaskPredicate):
    """The task is to run again.

    Arguments:
        message: why, in words.
        exc: the exception that was the cause.
        when: seconds from now, or a point in time.
        sig: the signature that was, or is to be, sent.
    """

    message: str | None = None
    exc: BaseException | None = None
    when: Any = None

    def __init__(
        self,
        message: str | None = None,
        exc: Any = None,
        when: Any = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        self.message = message
        self.exc = None if isinstance(exc, str) else exc
        self.excs: str | None = exc if isinstance(exc, str) else repr(exc) if exc is not None else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(exc, when, **kwargs)

    def humanize(self) -> str:
        """When it will be, in words."""
        return f"in {self.when}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}: {self.excs}" if self.excs else f"Retry {self.humanize()}"

    def __reduce__(self) -> Any:
        return type(self), (self.message, self.exc, self.when)


RetryTaskError = Retry


class Ignore(TaskPredicate):
    """The task's state is to stay as it is."""


class Reject(TaskPredicate):
    """The task gives its message back: dropped, or queued again with ``requeue``."""

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class ImproperlyConfigured(CeleryError):
    """A setting can't be what it is."""


class SecurityError(CeleryError):
    """Something would have let in what must stay out."""


class TaskError(CeleryError):
    """Base of errors about tasks."""


class QueueNotFound(KeyError, TaskError):
    """The task was routed to a queue that doesn't exist and may not be made."""


class IncompleteStream(TaskError):
    """The data ended too early."""


class NotRegistered(KeyError, TaskError):
    """There is no task of this name."""

    def __repr__(self) -> str:
        return f"Task {self} is not registered: is the module that defines it imported (include, imports)?"


class AlreadyRegistered(TaskError):
    """There is a task of this name."""


class TimeoutError(TaskError):
    """What was waited for didn't come in time."""


class MaxRetriesExceededError(TaskError):
    """The task was retried as often as it may be."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", [])
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args, **kwargs)


class TaskRevokedError(TaskError):
    """The task was revoked, or it expired: there is no result."""


class InvalidTaskError(TaskError):
    """The message makes no sense."""


class ChordError(TaskError):
    """A part of the chord failed, so its body doesn't run."""


class BackendError(Exception):
    """Base of errors of result backends."""


class BackendGetMetaError(BackendError):
    """A result couldn't be read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


class BackendStoreError(BackendError):
    """A result couldn't be stored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state = kwargs.get("state", "")
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"


class SoftTimeLimitExceeded(Exception):
    """The task's soft time limit is over; it may still clean up."""

    def __str__(self) -> str:
        return f"SoftTimeLimitExceeded{self.args}"


class TimeLimitExceeded(Exception):
    """The task's time limit is over, and its process was killed."""

    def __str__(self) -> str:
        return f"TimeLimitExceeded{self.args}"


class WorkerLostError(Exception):
    """The worker died with the task."""


class Terminated(Exception):
    """The task was terminated by request."""


class WorkerTerminate(SystemExit):
    """The worker is to end at once."""


SystemTerminate = WorkerTerminate


class WorkerShutdown(SystemExit):
    """The worker is to finish what runs, and end."""


def __getattr__(name: str) -> Any:
    make = _LAZY.get(name)
    if make is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = make()
    return found


def _operational_error() -> Any:
    from kombu.exceptions import OperationalError

    return OperationalError


def _command_exception() -> Any:
    from click import ClickException

    class CeleryCommandException(ClickException):
        """A command failed: the message to print and the code to exit with."""

        def __init__(self, message: str, exit_code: int) -> None:
            super().__init__(message)
            self.exit_code = exit_code  # type: ignore[misc]

    CeleryCommandException.__qualname__ = "CeleryCommandException"
    return CeleryCommandException


_LAZY = {"OperationalError": _operational_error, "CeleryCommandException": _command_exception}
