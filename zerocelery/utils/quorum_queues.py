"""Whether an app has quorum queues, with which RabbitMQ does some things in other ways."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("detect_quorum_queues",)


def detect_quorum_queues(app: Any, driver_type: str) -> tuple[bool, str]:
    """Whether a broker of this kind has a quorum queue of the app's, and the first one's name."""
    if driver_type != "amqp":
        return False, ""
    for queue in app.amqp.queues.values():
        if (queue.queue_arguments or {}).get("x-queue-type") == "quorum":
            return True, queue.name
    return False, ""
