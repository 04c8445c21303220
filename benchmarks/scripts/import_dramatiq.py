"""What a script with a broker and one task costs to import; nothing is connected."""

# What runs here is installed for the contestant's interpreter, not for the type checker's.
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"
from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url="redis://127.0.0.1:6379/14"))


@dramatiq.actor
def add(x: int, y: int) -> int:
    """The one task."""
    return x + y


NAME = add.actor_name
