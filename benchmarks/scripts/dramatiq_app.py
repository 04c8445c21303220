"""The tasks on dramatiq: Redis as broker and result backend, JSON, everything else by default."""

# What runs here is installed for the contestant's interpreter, not for the type checker's.
# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

import workload

broker = RedisBroker(url=os.environ["BENCHMARK_BROKER"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCHMARK_BROKER"])))
dramatiq.set_broker(broker)

noop = dramatiq.actor(workload.noop, store_results=True)
add = dramatiq.actor(workload.add, store_results=True)
echo = dramatiq.actor(workload.echo, store_results=True)
stamp = dramatiq.actor(workload.stamp, store_results=True)

SEND = {"noop": noop.send, "add": add.send, "echo": echo.send, "stamp": stamp.send}


def get(handle: Any, timeout: float) -> Any:
    """The result of one sent task."""
    return handle.get_result(block=True, timeout=int(timeout * 1000))
