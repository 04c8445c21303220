"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("DelayedDelivery",)


class DelayedDelivery(StartStopStep):
    """Delays are kept: by the node here."""

    requires: Any = ("celery.worker.consumer.tasks:Tasks",)
