"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Agent",)


class Agent(StartStopStep):
    """Celery's agents: there are none here."""

    requires: Any = ("celery.worker.consumer.connection:Connection",)
