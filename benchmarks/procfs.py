"""What Linux tells of processes: who is ours, their processor time, their memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

#: Environment variable by which everything that a contestant starts, daemons too, is known to be ours.
MARK = "ZEROCELERY_BENCHMARK"

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def marked(mark: str) -> list[int]:
    """Process ids that carry `mark` in their environment, in ascending order."""
    wanted = f"{MARK}={mark}".encode()
    return sorted(pid for pid in _pids() if wanted in _environment(pid))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that these processes have used so far, all threads."""
    return sum(max(_ticks(pid), _scheduled(pid)) for pid in pids)


def memory_mb(pids: Iterable[int], field: str) -> float:
    """Sum of one field of smaps_rollup (``Pss``, ``Rss``) in MB of 1,000,000 bytes."""
    return sum(_rollup(pid, field) for pid in pids) * 1024 / 1e6


def machine_busy_seconds() -> float:
    """Processor time of all cores that wasn't idle since boot, whoever used it."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) * _TICK


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie doesn't."""
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def name_of(pid: int) -> str:
    """The command name of a process, '' where it can't be seen."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except _GONE:
        return ""


def filesystem_of(path: Path) -> str:
    """Type of the file system that holds `path`."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        mount, name = line.split()[1:3]
        if len(mount) > len(best) and path.is_relative_to(mount):
            best, kind = mount, name
    return kind


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except _GONE:
        return []


def _stat(pid: int) -> list[str]:
    """Fields of stat from the state on: the command before it may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except _GONE:
        return []


def _ticks(pid: int) -> float:
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) * _TICK if stat else 0.0


def _scheduled(pid: int) -> float:
    """The same in nanoseconds, but without threads that have ended: hence the larger of the two counts."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    except _GONE:
        return 0.0
    return total / 1e9


def _rollup(pid: int, field: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except _GONE:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
