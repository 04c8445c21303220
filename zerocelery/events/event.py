"""One event, and the exchange it goes to."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from typing import Any

from kombu.entity import Exchange

__all__ = ("EVENT_EXCHANGE_NAME", "Event", "event_exchange", "get_exchange", "group_from")

EVENT_EXCHANGE_NAME = "celeryev"

#: Everybody who listens gets every event that it asks for by its routing key.
event_exchange: Any = Exchange(EVENT_EXCHANGE_NAME, type="topic")  # type: ignore[no-untyped-call]

#: Transports whose topics don't reach everybody.
_FANOUT = frozenset({"gcpubsub", "redis"})


def Event(
    type: str,
    _fields: dict[str, Any] | None = None,
    __dict__: Callable[..., dict[str, Any]] = dict,
    __now__: Callable[[], float] = time.time,
    **fields: Any,
) -> dict[str, Any]:
    """An event: a mapping with its type (as in ``task-started``), the time, and whatever else there is to say."""
    event = __dict__(_fields or (), **fields)
    event.setdefault("timestamp", __now__())
    event["type"] = type
    return event


def group_from(type: str) -> str:
    """What an event is about: ``task`` of ``task-started``."""
    return type.split("-", 1)[0]


def get_exchange(conn: Any, name: str = EVENT_EXCHANGE_NAME) -> Any:
    """The exchange for events on a connection."""
    exchange = copy(event_exchange)
    exchange.name = name
    if conn.transport.driver_type in _FANOUT:
        exchange.type = "fanout"
    return exchange
