"""What tasks run in, by Celery's names.

zerocelery's own worker runs its tasks in the engine's pools (``zerocelery.engine.pool``). The classes here are the same
kinds of pool for whoever uses one directly, and the hooks that others wrap.
"""

from __future__ import annotations

import os
from typing import Any

from zerocelery.utils.imports import symbol_by_name

__all__ = ("get_available_pool_names", "get_implementation")

ALIASES = {
    "prefork": "zerocelery.concurrency.prefork:TaskPool",
    "eventlet": "zerocelery.concurrency.eventlet:TaskPool",
    "gevent": "zerocelery.concurrency.gevent:TaskPool",
    "solo": "zerocelery.concurrency.solo:TaskPool",
    "processes": "zerocelery.concurrency.prefork:TaskPool",
}

try:
    import concurrent.futures  # noqa: F401 - a Python built without threads lacks it
except ImportError:
    pass
else:
    ALIASES["threads"] = "zerocelery.concurrency.thread:TaskPool"

#: A class of one's own, by where it is.
custom = os.environ.get("CELERY_CUSTOM_WORKER_POOL")
if custom:
    ALIASES["custom"] = custom


def get_implementation(cls: Any) -> Any:
    """The class of a pool, by its name, by where it is (``package.module:Class``), or as such.

    Raises:
        ImportError: it isn't there, or needs what isn't installed.
    """
    return symbol_by_name(cls, ALIASES)


def get_available_pool_names() -> tuple[str, ...]:
    """The names that pools have."""
    return (*(name for name in ALIASES if name != "custom"), "custom")
