"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Events",)


class Events(StartStopStep):
    """Events are sent."""

    requires: Any = ("celery.worker.consumer.connection:Connection",)
