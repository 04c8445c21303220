"""The tasks on stock Celery: Redis as broker and result backend, JSON, everything else by default."""

# What runs here is installed for the contestant's interpreter, not for the type checker's.
# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery, chain, chord, group

import workload

app = Celery("celery_app", broker=os.environ["BENCHMARK_BROKER"], backend=os.environ["BENCHMARK_BROKER"])

noop = app.task(workload.noop)
add = app.task(workload.add)
echo = app.task(workload.echo)
stamp = app.task(workload.stamp)
total = app.task(workload.total)

SEND = {"noop": noop.delay, "add": add.delay, "echo": echo.delay, "stamp": stamp.delay}
SHAPES = {
    "chain": lambda n: chain(add.s(0, 1), *(add.s(1) for _ in range(n - 1)))(),
    "group": lambda n: group(add.s(i, i) for i in range(n))(),
    "chord": lambda n: chord((add.s(i, i) for i in range(n)), total.s())(),
}


def get(handle: Any, timeout: float) -> Any:
    """The result of one sent task."""
    return handle.get(timeout=timeout)


def listen(ready: Callable[[], None], each: Callable[[object], None]) -> None:
    """Give each task event to a function, for ever."""
    handlers = {f"task-{what}": each for what in ("received", "started", "succeeded")}
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers=handlers)
        for _ in receiver.itercapture(wakeup=True):  # that asks the workers for a heartbeat
            ready()
