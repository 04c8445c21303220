"""``app.events``: the events' classes, bound to the app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

__all__ = ("Events",)


class Events:
    """Sends events, receives them, and keeps the state that they tell of."""

    receiver_cls: Any = "zerocelery.events.receiver:EventReceiver"
    dispatcher_cls: Any = "zerocelery.events.dispatcher:EventDispatcher"
    state_cls: Any = "zerocelery.events.state:State"

    def __init__(self, app: Any = None) -> None:
        self.app = app

    @cached_property
    def Receiver(self) -> Any:
        """EventReceiver of this app."""
        return self.app.subclass_with_self(self.receiver_cls)

    @cached_property
    def Dispatcher(self) -> Any:
        """EventDispatcher of this app."""
        return self.app.subclass_with_self(self.dispatcher_cls)

    @cached_property
    def State(self) -> Any:
        """State of this app."""
        return self.app.subclass_with_self(self.state_cls)

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """A dispatcher that borrows one of the app's producers, or sends through the app's node."""
        if self.app.has_node:
            from zerocelery.events.stream import dispatcher_here

            with dispatcher_here(self.app, hostname, enabled, buffer_while_offline) as through_node:
                yield through_node
            return
        with (
            self.app.amqp.producer_pool.acquire(block=True) as producer,
            self.Dispatcher(
                producer.connection, hostname, enabled, producer.channel, buffer_while_offline
            ) as dispatcher,
        ):
            yield dispatcher
