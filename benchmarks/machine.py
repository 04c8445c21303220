"""What the figures were measured on and with."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from benchmarks import procfs
from benchmarks.contestants import Contestant
from benchmarks.redis_db import RedisDatabase

#: Distributions whose versions matter.
_PACKAGES = {
    "zerocelery": ("zerocelery", "pyzmq", "kombu", "msgspec", "cloudpickle"),
    "celery": ("celery", "kombu", "billiard", "redis"),
    "dramatiq": ("dramatiq", "redis"),
    "ppe": (),
}


def describe(contestants: Sequence[Contestant], *, database: RedisDatabase, scratch: Path) -> dict[str, str]:
    """Machine, interpreter and versions, as text by name."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "processor": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "journal on": procfs.filesystem_of(scratch),
    }
    for contestant in contestants:
        versions = contestant.interpreter.versions(*_PACKAGES[contestant.name])
        if versions:
            facts[contestant.name] = ", ".join(f"{name} {version}" for name, version in versions.items())
    if any(contestant.name in ("celery", "dramatiq") for contestant in contestants):
        facts["redis server"] = database.server().get("redis_version", "unknown")
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
