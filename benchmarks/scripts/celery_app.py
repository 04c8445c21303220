"""The tasks on stock Celery: Redis as broker and result backend, JSON, everything else by default."""

# What runs here is installed for the contestant's interpreter, not for the type checker's.
# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import os
from typing import Any

from celery import Celery

import workload

app = Celery("celery_app", broker=os.environ["BENCHMARK_BROKER"], backend=os.environ["BENCHMARK_BROKER"])

noop = app.task(workload.noop)
add = app.task(workload.add)
echo = app.task(workload.echo)
stamp = app.task(workload.stamp)

SEND = {"noop": noop.delay, "add": add.delay, "echo": echo.delay, "stamp": stamp.delay}


def get(handle: Any, timeout: float) -> Any:
    """The result of one sent task."""
    return handle.get(timeout=timeout)
