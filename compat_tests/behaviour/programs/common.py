"""What the programs share. They know Celery only: whose it is depends on who runs them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.contrib.testing.worker import start_worker

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)?")
_ORIGIN = re.compile(r"gen\d+@[^\"' ]+")


def make_app(**settings: Any) -> Celery:
    """An app at the broker and the result backend that the environment names."""
    app = Celery("prog", broker=os.environ["SIDE_BROKER"], backend=os.environ["SIDE_BACKEND"])
    app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True, **settings)
    return app


@contextmanager
def working(app: Celery, **options: Any) -> Iterator[Any]:
    """A worker in this process."""
    with start_worker(app, perform_ping_check=False, pool="solo", loglevel="CRITICAL", **options) as worker:
        yield worker


def plain(value: Any) -> Any:
    """A value without what differs from run to run: ids, dates, hosts."""
    if isinstance(value, dict):
        return {str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        value = _MOMENT.sub("<date>", _UUID.sub("<id>", value))
        return _ORIGIN.sub("<origin>", value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return type(value).__name__


def tell(facts: dict[str, Any]) -> None:
    """Print what was found, for the one who compares."""
    sys.stdout.write("FACTS " + json.dumps(plain(facts), sort_keys=True) + "\n")
