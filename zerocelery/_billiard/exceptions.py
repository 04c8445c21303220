"""``billiard.exceptions``: multiprocessing's, Celery's, and those of billiard's own pool."""

from __future__ import annotations

from multiprocessing import AuthenticationError, BufferTooShort, ProcessError, TimeoutError

from zerocelery.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError

__all__ = (
    "AuthenticationError",
    "BufferTooShort",
    "CoroStop",
    "ProcessError",
    "RestartFreqExceeded",
    "SoftTimeLimitExceeded",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
)


class RestartFreqExceeded(Exception):
    """Processes die faster than they may be replaced."""


class CoroStop(Exception):
    """A coroutine of the pool has ended."""
