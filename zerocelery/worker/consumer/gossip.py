"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Gossip",)


class Gossip(StartStopStep):
    """Workers hear of each other: here the node knows them all."""

    requires: Any = ("celery.worker.consumer.mingle:Mingle",)
