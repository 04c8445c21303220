"""What ``inspect stats`` says of a worker, in Celery's words, for programs that show it, as Flower does."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

from zerocelery.concurrency import ALIASES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.worker.desk import Desk

__all__ = ("stats_of",)


def stats_of(desk: Desk) -> dict[str, Any]:
    """Counts, and what the worker is made of."""
    supervisor, conf, scaler = desk.supervisor, desk.app.conf, desk.supervisor.autoscale
    pool = str(getattr(desk.controller, "pool_name", supervisor.pool))
    told: dict[str, Any] = {
        "total": desk.tasks.totals(),
        "pid": os.getpid(),
        "clock": str(desk.app.clock.value),
        "uptime": round(time.monotonic() - desk.began),
        "pool": {
            "implementation": ALIASES.get(pool, f"zerocelery.engine.pool:{pool}"),
            "max-concurrency": supervisor.concurrency,
            "processes": desk.tasks.pids(),
            "max-tasks-per-child": supervisor.max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [conf.task_soft_time_limit or 0, conf.task_time_limit or 0],
        },
        "broker": _broker(desk),
        "prefetch_count": supervisor.concurrency * int(conf.worker_prefetch_multiplier or 0),
        "rusage": usage(),
    }
    own = getattr(desk.controller, "own_pool", None)
    if own is not None:
        told["pool"].update({"implementation": pool, **own.info})
    if scaler is not None:
        told["autoscaler"] = {
            "max": scaler.most, "min": scaler.least, "current": supervisor.concurrency, "qty": desk.tasks.counts()[0],
        }  # fmt: skip
    return told


def _broker(desk: Desk) -> dict[str, Any]:
    """The connection as kombu describes it, without its password."""
    info: dict[str, Any] = desk.app.connection_for_read().info()
    info.pop("password", None)
    if info["transport"] == "zmq":
        address = desk.supervisor.address
        info.update(hostname=address.url, virtual_host=str(address.directory), ssl=address.keys is not None)
    return info


#: The order in which getrusage(2) lists them.
_USED = (
    "utime", "stime", "maxrss", "ixrss", "idrss", "isrss", "minflt", "majflt", "nswap", "inblock", "oublock", "msgsnd",
    "msgrcv", "nsignals", "nvcsw", "nivcsw",
)  # fmt: skip


def usage() -> dict[str, Any]:
    """What the system says this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {name: getattr(used, f"ru_{name}") for name in _USED}
