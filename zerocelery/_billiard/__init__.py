"""What people import from ``billiard``, Celery's fork of multiprocessing, where it isn't installed.

The names are multiprocessing's own where that has them, and zerocelery's where they are Celery's: exceptions, exception
infos. Pools are multiprocessing's; zerocelery's workers use none of them.
"""

from __future__ import annotations

import multiprocessing as _multiprocessing
from multiprocessing import (
    Array,
    AuthenticationError,
    Barrier,
    BoundedSemaphore,
    BufferTooShort,
    Condition,
    Event,
    JoinableQueue,
    Lock,
    Manager,
    Pipe,
    Pool,
    Process,
    ProcessError,
    Queue,
    RawArray,
    RawValue,
    RLock,
    Semaphore,
    SimpleQueue,
    TimeoutError,
    Value,
    active_children,
    allow_connection_pickling,
    cpu_count,
    current_process,
    freeze_support,
    get_all_start_methods,
    get_context,
    get_logger,
    get_start_method,
    log_to_stderr,
    set_executable,
    set_forkserver_preload,
    set_start_method,
)

from zerocelery._billiard import context, exceptions, process
from zerocelery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

#: The version of billiard that these names are of.
VERSION = (4, 3, 2, "")
__version__ = "4.3.2"

SUBDEBUG = 5
SUBWARNING = 25

__all__ = (
    "SUBDEBUG",
    "SUBWARNING",
    "VERSION",
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "SoftTimeLimitExceeded",
    "TimeLimitExceeded",
    "TimeoutError",
    "Value",
    "WorkerLostError",
    "active_children",
    "allow_connection_pickling",
    "context",
    "cpu_count",
    "current_process",
    "ensure_multiprocessing",
    "exceptions",
    "forking_enable",
    "forking_is_enabled",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "process",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
)


def ensure_multiprocessing() -> None:
    """Always true here: this is multiprocessing."""


def forking_enable(value: bool) -> None:
    """Whether new processes are forks of this one, or start from nothing."""
    _multiprocessing.set_start_method("fork" if value else "spawn", force=True)


def forking_is_enabled() -> bool:
    """Whether new processes are forks of this one."""
    return _multiprocessing.get_start_method() == "fork"
