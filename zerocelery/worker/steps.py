"""The steps that others have added to a worker: ``app.steps["worker"].add(Step)``, ``app.steps["consumer"].add(Step)``.

When each of their methods is called:

    __init__, create   when the worker is made, with its options
    start              worker: before the first process of the pool; consumer: when all processes take tasks, before
                       ``worker_ready``
    close, stop        when the pool has ended: first the consumer's, then the worker's (``terminate`` in a cold
                       shutdown)
    shutdown           last, before ``worker_shutdown``

An app that adds none costs nothing: none of this is imported.
"""

from __future__ import annotations

import threading
from typing import Any

from zerocelery.bootsteps import RUN, Blueprint, ConsumerStep
from zerocelery.utils.log import get_logger
from zerocelery.worker import components

__all__ = ("StepsOfOthers",)

logger = get_logger("celery.worker")

#: How long one look at the broker takes (seconds).
_LOOK = 0.5
#: The longest pause between two attempts to reach a broker that is gone (seconds).
_LONGEST_PAUSE = 30.0


class WorkerBlueprint(Blueprint):
    """Of a worker."""

    name = "Worker"
    default_steps = frozenset(
        {components.Timer, components.Hub, components.Pool, components.Beat, components.StateDB, components.Consumer}
    )


class ConsumerBlueprint(Blueprint):
    """Of a consumer."""

    name = "Consumer"
    default_steps = frozenset(
        f"celery.worker.consumer.{part}"
        for part in (
            "connection:Connection", "control:Control", "events:Events", "heart:Heart", "mingle:Mingle", "tasks:Tasks",
        )
    )  # fmt: skip

    def shutdown(self, parent: Any) -> None:
        """The last that the steps hear."""
        self.send_all(parent, "shutdown", propagate=False)


class StepsOfOthers:
    """Makes, starts and stops them.

    Arguments:
        worker: theirs; it and its ``consumer`` get a ``blueprint``, ``steps`` and a ``timer``.
        options: what the worker was made with, given to the steps.
    """

    def __init__(self, worker: Any, options: dict[str, Any]) -> None:
        self._worker = worker
        self._pump: _Pump | None = None
        worker.steps_of_others = self
        for parent, kind, place in (
            (worker, WorkerBlueprint, "worker"),
            (worker.consumer, ConsumerBlueprint, "consumer"),
        ):
            parent.steps = []
            parent.blueprint = kind(steps=worker.app.steps[place])
            parent.blueprint.apply(parent, **options)

    def start(self) -> None:
        """Start the worker's; what one raises is raised."""
        self._worker.blueprint.start(self._worker)

    def start_consumer(self) -> None:
        """Start the consumer's; what one raises is raised."""
        consumer = self._worker.consumer
        consumer.blueprint.start(consumer)
        reading = [step for step in consumer.steps if isinstance(step, ConsumerStep) and step.consumers]
        if reading:
            self._pump = _Pump(consumer, reading)
            self._pump.start()

    def stop(self, *, terminate: bool = False) -> None:
        """Stop all that were started."""
        consumer = self._worker.consumer
        self._worker.blueprint.stop(self._worker, terminate=terminate)
        self.stop_consumer()
        consumer.blueprint.shutdown(consumer)
        consumer.close_connection()

    def stop_consumer(self) -> None:
        """Stop the consumer's, once."""
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        consumer = self._worker.consumer
        consumer.blueprint.stop(consumer)


class _Pump(threading.Thread):
    """Reads the broker's connection for steps that consume messages of their own; makes a lost one anew."""

    def __init__(self, consumer: Any, steps: list[Any]) -> None:
        super().__init__(name="zerocelery-consumer-steps", daemon=True)
        self._consumer = consumer
        self._steps = steps
        self._over = threading.Event()

    def run(self) -> None:
        pause = 0.0
        while not self._over.wait(pause) and self._consumer.blueprint.state == RUN:
            connection = self._consumer.connection
            try:
                if pause:
                    connection = self._reconnect()
                connection.drain_events(timeout=_LOOK)
                pause = 0.0
            except TimeoutError:
                pause = 0.0
            except (*connection.connection_errors, *connection.channel_errors) as error:
                pause = min(max(pause * 2, _LOOK), _LONGEST_PAUSE)
                logger.warning("consumer steps: the broker is gone (%r); trying again in %g s", error, pause)

    def _reconnect(self) -> Any:
        self._consumer.close_connection()
        connection = self._consumer.connection
        connection.connect()
        for step in self._steps:
            step.start(self._consumer)
        return connection

    def stop(self) -> None:
        """Read no more."""
        self._over.set()
        self.join()
