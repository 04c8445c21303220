"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Tasks",)


class Tasks(StartStopStep):
    """Tasks are taken in."""

    requires: Any = ("celery.worker.consumer.mingle:Mingle",)
