"""What receivers of ``worker_ready`` and ``task_received`` get as the sender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.engine.pool import Supervisor

__all__ = ("Consumer",)

logger = get_logger("celery.worker.consumer")


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

    def connect(self) -> Any:
        """A connection of one's own to the broker, opened; tried again as the settings say."""
        return self.ensure_connected(self.connection_for_read())

    def ensure_connected(self, conn: Any) -> Any:
        """Open this connection; tried again as the settings ``broker_connection_retry`` and ``…_max_retries`` say.

        Raises:
            OSError: the broker can't be reached; or what the transport raises then.
        """
        conf = self.app.conf
        if conf["broker_connection_retry"]:
            return conn.ensure_connection(self._not_connected, conf["broker_connection_max_retries"])
        conn.connect()
        return conn

    def _not_connected(self, error: BaseException, pause: float) -> None:
        logger.error("the broker can't be reached: %s; trying again in %s s", error, pause)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """For consumers of steps: a message whose body can't be read is logged, and taken out of the queue."""
        logger.critical("a message can't be read (%s), and is dropped: %r", exc, getattr(message, "headers", None))
        message.ack()

    # ── what steps do with it ────────────────────────────────────────────────────────────────────────────────────────

    def add_task_queue(
        self, queue: str, exchange: Any = None, exchange_type: Any = None, routing_key: Any = None, **options: Any
    ) -> None:
        """Serve one more queue, from the time on that the worker's processes take tasks."""
        self._at_desk.add_task_queue(queue, exchange, exchange_type, routing_key, **options)

    def cancel_task_queue(self, queue: str) -> None:
        """Serve a queue no longer."""
        self._at_desk.cancel_task_queue(queue)

    @property
    def _at_desk(self) -> Any:
        desk = getattr(self.pool, "attendant", None)
        if desk is None:
            raise RuntimeError(
                "the worker's queues are changed in its main process while it runs: from the start() of a step in "
                "app.steps['consumer'], in worker_ready, or by app.control.add_consumer()"
            )
        return desk.state.consumer

    def reset_rate_limits(self) -> None:
        """Nothing to do: a rate limit that is changed by ``app.control.rate_limit`` is told to all processes."""

    def bucket_for_task(self, type: Any) -> Any:
        """What counts a task's starts against its rate limit; None where it has none."""
        from kombu.utils import limits

        from zerocelery.utils.time import rate

        bucket: Any = limits.TokenBucket
        limit = rate(type.rate_limit)
        return bucket(limit, capacity=1) if limit else None

    def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Call a function in the timer's thread; gives the function."""
        self.timer.call_after(0, p, args, kwargs)
        return p

    def stop(self) -> None:
        """Have the worker finish what runs, and leave."""
        if self.controller is not None:
            self.controller.stop()

    shutdown = stop

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
