"""Events through a node: they are cast to a stream, and heard by whoever listens; kept for nobody.
See :mod:`zerocelery.app.taskevents` for how they are written, and for those of tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from zerocelery.app.taskevents import pack
from zerocelery.events.dispatcher import EventDispatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

__all__ = ("NodeDispatcher", "dispatcher_here")


class _Caster:
    """What a dispatcher takes for kombu's producer."""

    def __init__(self, cast: Callable[[str, list[bytes]], bool]) -> None:
        self._cast = cast

    def publish(self, event: Any, *, routing_key: str, exchange: str, serializer: str, **_: Any) -> None:
        self._cast(exchange, [pack(event, routing_key, serializer)])


class NodeDispatcher(EventDispatcher):
    """Sends events through a node.

    Arguments:
        cast: sends messages to a stream; says whether somebody may hear them.
        is_watched: whether somebody listens to a stream, as far as it is known.
    """

    def __init__(
        self,
        cast: Callable[[str, list[bytes]], bool],
        is_watched: Callable[[str], bool],
        *,
        app: Celery,
        hostname: str | None = None,
        enabled: bool = True,
        **options: Any,
    ) -> None:
        self._caster = _Caster(cast)
        self._is_watched = is_watched
        super().__init__(None, hostname, enabled, app=app, **options)

    def enable(self) -> None:
        """Send from now on."""
        with self.mutex:
            self.producer = self._caster
            self.enabled = True
            self._closed = False
        for callback in self.on_enabled:
            callback()

    def send(self, type: str, blind: bool = False, **fields: Any) -> None:  # type: ignore[override]
        """Send an event, if anybody listens."""
        if self.enabled and self._is_watched(self.exchange.name):
            self.clock.adjust(int(time.time() * 1000))  # as the clocks of the pool's processes do
            super().send(type, blind=blind, **fields)


@contextmanager
def dispatcher_here(app: Celery, hostname: str | None, enabled: bool, offline: bool) -> Iterator[NodeDispatcher]:
    """A dispatcher for this very thread: a worker's, where one runs in it, else the app's client's."""
    from zerocelery.engine.worker import current_worker

    worker = current_worker()
    cast: Any = app.client.producer.cast if worker is None else worker.cast
    watched: Any = app.client.producer.is_watched if worker is None else lambda stream: stream not in worker.unwatched
    with NodeDispatcher(
        cast, watched, app=app, hostname=hostname, enabled=enabled, buffer_while_offline=offline
    ) as dispatcher:
        yield dispatcher  # type: ignore[misc]
