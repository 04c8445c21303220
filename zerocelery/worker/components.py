"""The steps of a worker that others may require.

Here a worker starts in one function, so these do nothing but come in their order: a step that requires one of them runs
when the thing is there.
"""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep, Step

__all__ = ("Beat", "Consumer", "Hub", "Pool", "StateDB", "Timer")


class Timer(Step):
    """``worker.timer`` is there."""


class Hub(StartStopStep):
    """The loop would be there: a worker here has none of kombu's."""

    requires: Any = (Timer,)


class Pool(StartStopStep):
    """``worker.pool`` is there; its processes are started when all steps have been."""

    requires: Any = (Hub,)


class Beat(StartStopStep):
    """The embedded beat is going to be started, where one is asked for."""

    label = "Beat"
    conditional = True


class StateDB(Step):
    """What was revoked before is known."""


class Consumer(StartStopStep):
    """The last step: the consumer's own steps are stopped with it, before all others."""

    last = True

    def stop(self, parent: Any) -> None:
        parent.steps_of_others.stop_consumer()

    terminate = stop
