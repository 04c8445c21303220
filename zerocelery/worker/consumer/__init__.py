"""The part of a worker that takes tasks in, and the steps that others may require of it."""

from __future__ import annotations

from zerocelery.worker.consumer.consumer import Consumer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.worker.consumer.agent import Agent
    from zerocelery.worker.consumer.connection import Connection
    from zerocelery.worker.consumer.control import Control
    from zerocelery.worker.consumer.delayed_delivery import DelayedDelivery
    from zerocelery.worker.consumer.events import Events
    from zerocelery.worker.consumer.gossip import Gossip
    from zerocelery.worker.consumer.heart import Heart
    from zerocelery.worker.consumer.mingle import Mingle
    from zerocelery.worker.consumer.tasks import Tasks

__all__ = (
    "Agent",
    "Connection",
    "Consumer",
    "Control",
    "DelayedDelivery",
    "Events",
    "Gossip",
    "Heart",
    "Mingle",
    "Tasks",
)

#: Where the steps are: most workers need none of them.
_HOMES = {
    "Agent": "agent",
    "Connection": "connection",
    "Control": "control",
    "DelayedDelivery": "delayed_delivery",
    "Events": "events",
    "Gossip": "gossip",
    "Heart": "heart",
    "Mingle": "mingle",
    "Tasks": "tasks",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
