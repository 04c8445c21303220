"""The task that tells whether a worker works."""

from __future__ import annotations

from typing import Any

from zerocelery.app import shared_task

__all__ = ("ping",)


def ping_task() -> str:
    """Answer."""
    return "pong"


#: The task ``celery.ping`` of the current app; every app has it from now on.
ping: Any = shared_task(name="celery.ping")(ping_task)
