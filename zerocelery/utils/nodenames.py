"""Names of workers: ``name@host``."""

from __future__ import annotations

import os
import socket
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = (
    "anon_nodename",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "worker_direct",
)

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


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """The whole name of a worker that was given only a part of one."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str, name: str, **extra: Any) -> str:
    """The text with ``%n``, ``%h``, ``%d``, ``%p`` … of this worker."""
    short, host = nodesplit(name)
    return host_format(s, host, short or NODENAME_DEFAULT, p=name, **extra)


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: Any) -> str:
    """The text with ``%h`` (host), ``%n`` (name), ``%d`` (domain) and ``%i``, ``%I`` (number of the child)."""
    from zerocelery.utils.text import simple_format

    host = host or gethostname()
    first, _, domain = host.partition(".")
    keys = {"h": host, "n": name or first, "d": domain, "i": _child_number, "I": _child_suffix, **extra}
    return simple_format(s, keys)


def _child_number() -> str:
    from zerocelery.utils.log import current_process_index

    return str(current_process_index() or 0)


def _child_suffix() -> str:
    number = _child_number()
    return f"-{number}" if number != "0" else ""


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
