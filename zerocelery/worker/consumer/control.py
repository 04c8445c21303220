"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Control",)


class Control(StartStopStep):
    """Remote control is listened to."""

    requires: Any = ("celery.worker.consumer.tasks:Tasks",)
