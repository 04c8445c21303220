"""One call at a time, where it is asked for."""

from __future__ import annotations

import os
from typing import Any

from zerocelery import signals
from zerocelery.concurrency.base import BasePool, apply_target

__all__ = ("TaskPool",)


class TaskPool(BasePool):
    """Calls each function at once, and returns when it is done."""

    body_can_be_buffer = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = 1
        _, hostname = (*self.options.get("initargs", ()), None, None)[:2]
        signals.worker_process_init.send(sender=hostname)

    on_apply = staticmethod(apply_target)

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "max-concurrency": 1,
            "processes": [os.getpid()],
            "max-tasks-per-child": None,
            "put-guarded-by-semaphore": True,
            "timeouts": (),
        }
