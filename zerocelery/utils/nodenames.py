"""Names of workers: ``name@host``."""

from __future__ import annotations

import os
import socket
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("anon_nodename", "default_nodename", "gethostname", "nodename", "nodesplit", "worker_direct")

NODENAME_DEFAULT = "celery"
NODENAME_SEP = "@"
WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq"

gethostname = lru_cache(maxsize=1)(socket.gethostname)


def nodename(name: str, hostname: str) -> str:
    """``name@hostname``."""
    return f"{name}{NODENAME_SEP}{hostname}"


def nodesplit(name: str) -> tuple[str | None, str]:
    """Name and host; without a name it is all host."""
    first, separator, rest = name.partition(NODENAME_SEP)
    return (first, rest) if separator else (None, first)


def default_nodename(hostname: str | None) -> str:
    """The name of a worker that was given only a part of one."""
    name, host = nodesplit(hostname or "")
    return nodename(name or NODENAME_DEFAULT, host or gethostname())


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """The name of a process that is no worker, as the origin of its messages."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def worker_direct(hostname: Any) -> Any:
    """The queue that only this worker reads."""
    from kombu.entity import Exchange, Queue

    if isinstance(hostname, Queue):
        return hostname
    exchange = Exchange("C.dq2")  # type: ignore[no-untyped-call]
    name = WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname)
    return Queue(name, exchange, routing_key=hostname)  # type: ignore[no-untyped-call]
