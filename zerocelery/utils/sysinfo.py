"""What this machine has: load, space, processors, and how many of them a container may use."""

from __future__ import annotations

import math
import os
import posixpath
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = (
    "AUTO_CONCURRENCY",
    "CpuBudget",
    "available_cpu_count",
    "cgroup_cpu_quota",
    "cpu_budget",
    "df",
    "is_auto_concurrency",
    "load_average",
)

#: The concurrency that stands for as many processors as there are.
AUTO_CONCURRENCY = "auto"

CGROUP_ROOT = "/sys/fs/cgroup"
PROC_SELF_CGROUP = "/proc/self/cgroup"

#: Where the first version of control groups has its processors: some systems have the short name only as a link.
_V1_MOUNTS = ("cpu", "cpu,cpuacct")


def load_average() -> tuple[float, ...]:
    """How many processes wanted a processor in the last 1, 5 and 15 minutes; zeros where the system can't tell."""
    return _load_average()


def _load_average() -> tuple[float, ...]:
    if not hasattr(os, "getloadavg"):
        return (0.0, 0.0, 0.0)
    return tuple(math.ceil(load * 100) / 100 for load in os.getloadavg())


class df:
    """Space on the disk that a path is on.

    Arguments:
        path: any file or directory there.
    """

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        self.path = path
        self._stat: Any = None

    @property
    def total_blocks(self) -> float:
        """How large it is (blocks)."""
        return self.stat.f_blocks * self.stat.f_frsize / 1024

    @property
    def available(self) -> float:
        """How much of it is free for this user (blocks)."""
        return self.stat.f_bavail * self.stat.f_frsize / 1024

    @property
    def capacity(self) -> int:
        """How full it is (percent)."""
        free, used = self.stat.f_bavail, self.stat.f_blocks - self.stat.f_bfree
        return math.ceil(100 * used / (used + free)) if used + free else 0

    @property
    def stat(self) -> os.statvfs_result:
        """What the system says of it, read once."""
        if self._stat is None:
            self._stat = os.statvfs(os.path.abspath(self.path))
        return self._stat  # type: ignore[no-any-return]


def is_auto_concurrency(value: Any) -> bool:
    """Whether a concurrency is ``auto``, in whatever case."""
    return isinstance(value, str) and value.strip().lower() == AUTO_CONCURRENCY


# ── processors ───────────────────────────────────────────────────────────────────────────────────────────────────────


class CpuBudget(NamedTuple):
    """How many processors to count on: what is available, cut to the container's quota and rounded up."""

    count: int  # type: ignore[assignment]  # Celery's name; it hides tuple's method
    available: int
    quota: float | None


def available_cpu_count() -> int:
    """How many processors this process may run on; 2 where nobody can tell."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return os.process_cpu_count() or os.cpu_count() or 2
    if hasattr(os, "sched_getaffinity"):
        try:
            return len(os.sched_getaffinity(0)) or 2
        except OSError:
            pass
    return os.cpu_count() or 2


def cpu_budget(use_cgroup_quota: bool = True) -> CpuBudget:
    """How many processors to count on: at least one.

    Arguments:
        use_cgroup_quota: mind what the container may use.
    """
    available = available_cpu_count()
    quota = cgroup_cpu_quota() if use_cgroup_quota else None
    count = available if quota is None else max(1, min(available, math.ceil(quota)))
    return CpuBudget(count, available, quota)


def cgroup_cpu_quota() -> float | None:
    """How many processors' time this process's control group may use, as in 1.5; None where there is no limit.

    The limit of every group above counts, too: the tightest one is what holds.
    """
    v2, v1, _ = _cgroup_paths()
    quota = _min_quota(CGROUP_ROOT, v2 or "/", _read_v2_quota)
    for mount in _V1_MOUNTS:
        if quota is None:
            quota = _min_quota(posixpath.join(CGROUP_ROOT, mount), v1 or "/", _read_v1_quota)
    return quota


def _cgroup_paths() -> tuple[str | None, str | None, str]:
    """This process's group in either version's tree, and the controllers that the first one has there."""
    v2 = v1 = None
    controllers = ""
    for line in (_read_text(PROC_SELF_CGROUP) or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            v2 = path
        elif "cpu" in names.split(","):
            v1, controllers = path, names
    return v2, v1, controllers


def _ancestors(path: str) -> list[str]:
    """A group and all those above it, the root last. Paths of groups have slashes on any system."""
    here = posixpath.normpath(f"/{path.lstrip('/')}")
    found = [here]
    while here != "/":
        here = posixpath.dirname(here)
        found.append(here)
    return found


def _min_quota(base: str, cgroup_path: str, read: Callable[[str], tuple[str, str] | None]) -> float | None:
    quotas = []
    for ancestor in _ancestors(cgroup_path):
        said = read(posixpath.join(base, ancestor.lstrip("/")).rstrip("/"))
        quota = None if said is None else _parse_quota(*said)
        if quota is not None:
            quotas.append(quota)
    return min(quotas, default=None)


def _parse_quota(quota_us: str, period_us: str) -> float | None:
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:  # "max", or nothing that makes sense
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read_v2_quota(cgroup_dir: str) -> tuple[str, str] | None:
    words = (_read_text(f"{cgroup_dir}/cpu.max") or "").split()
    return (words[0], words[1]) if len(words) == 2 else None


def _read_v1_quota(cgroup_dir: str) -> tuple[str, str] | None:
    quota, period = (_read_text(f"{cgroup_dir}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return None if quota is None or period is None else (quota.strip(), period.strip())


def _read_text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):
        return None
