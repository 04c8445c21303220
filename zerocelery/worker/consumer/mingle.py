"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Mingle",)


class Mingle(StartStopStep):
    """What others have revoked is known: to the node here."""

    requires: Any = ("celery.worker.consumer.events:Events",)
