"""What receivers of ``worker_ready`` and ``task_received`` get as the sender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.engine.pool import Supervisor

__all__ = ("Consumer",)


class _Derived:
    """An attribute that is looked up until it is set."""

    def __init__(self, look_up: Callable[[Any], Any]) -> None:
        self.look_up = look_up
        self.__doc__ = look_up.__doc__

    def __get__(self, consumer: Any, kind: Any = None) -> Any:
        return self if consumer is None else self.look_up(consumer)


class Consumer:
    """The part of a worker that takes tasks in. Here the node does that; this knows whose worker it is.

    Arguments:
        controller: the worker; None in the process of a child.
    """

    #: Steps that others have added (:mod:`zerocelery.worker.steps`), where there are any.
    blueprint: Any = None
    steps: Any = ()
    _connection: Any = None

    def __init__(self, app: Celery, hostname: str, controller: Any = None) -> None:
        self.app = app
        self.hostname = hostname
        self.controller = controller

    @_Derived
    def timer(self) -> Any:
        """Calls functions at their time, in a thread of its own."""
        return self.controller.timer

    @property
    def connection(self) -> Any:
        """kombu's connection to the broker, opened when it is first asked for."""
        if self._connection is None:
            self._connection = self.connection_for_read()
            self._connection.connect()
        return self._connection

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Another one."""
        return self.app.connection_for_read(heartbeat=heartbeat)

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Another one, to publish."""
        return self.app.connection_for_write(url=url, heartbeat=heartbeat)

    def close_connection(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @_Derived
    def pool(self) -> Supervisor | None:
        """The worker's pool."""
        return getattr(self.controller, "pool", None)

    @_Derived
    def task_consumer(self) -> Any:
        """Which queues are read: it has ``queues``."""
        return self

    @property
    def queues(self) -> list[Any]:
        return list(self.app.amqp.queues.consume_from.values())

    def __repr__(self) -> str:
        state = "running" if self.blueprint is None else self.blueprint.human_state()
        return f"<Consumer: {self.hostname} ({state})>"
