"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Heart",)


class Heart(StartStopStep):
    """Heartbeats are sent."""

    requires: Any = ("celery.worker.consumer.events:Events",)
