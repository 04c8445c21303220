"""``billiard.pool``: multiprocessing's pools, and the name that error trackers wrap."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.pool import RUN, TERMINATE, ApplyResult, AsyncResult, MapResult, Pool, ThreadPool
from typing import Any

from zerocelery.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError

__all__ = (
    "RUN",
    "TERMINATE",
    "ApplyResult",
    "AsyncResult",
    "MapResult",
    "Pool",
    "SoftTimeLimitExceeded",
    "Terminated",
    "ThreadPool",
    "TimeLimitExceeded",
    "Worker",
    "WorkerLostError",
)


class Worker:
    """A pool's process, as error trackers know it: they wrap ``workloop`` to send what is left when it ends.

    zerocelery's workers have signals for that (``worker_process_shutdown``), and run none of these.
    """

    def __init__(self, run: Callable[[], object], **options: Any) -> None:
        self.run = run
        self.options = options

    def workloop(self, *args: Any, **kwargs: Any) -> Any:
        """Work until there is no more."""
        return self.run()

    def __call__(self) -> Any:
        return self.workloop()
