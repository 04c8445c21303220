"""How much memory this process takes, and where it is stuck."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from zerocelery.platforms import signals

Process: Any
try:
    Process = importlib.import_module("psutil").Process
except ImportError:  # optional: without it there is nothing to tell
    Process = None

__all__ = ("blockdetection", "humanbytes", "mem_rss", "memdump", "ps", "sample", "sample_mem")

_UNITS = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "KB"), (1, "b"))

_process: Any = None
_mem_sample: list[Any] = []


def _on_blocking(signum: int, frame: FrameType | None) -> None:
    where = inspect.getframeinfo(frame) if frame is not None else None
    raise RuntimeError(f"the block took too long: it is at {where}")


@contextmanager
def blockdetection(timeout: float | None) -> Iterator[None]:
    """Raise RuntimeError, by SIGALRM, in what takes longer than this (seconds); without a time, never."""
    if not timeout:
        yield
        return
    before = signals["ALRM"]
    signals["ALRM"] = _on_blocking
    signals.arm_alarm(timeout)
    try:
        yield
    finally:
        signals.reset_alarm()
        signals["ALRM"] = None if before == _on_blocking else before


def sample_mem() -> Any:
    """Remember how much memory is taken now, for :func:`memdump`; gives it."""
    current = mem_rss()
    _mem_sample.append(current)
    return current


def memdump(samples: int = 10, file: Any = None) -> None:
    """Print some of what was remembered, and what is taken now."""
    out = file or sys.stdout
    if ps() is None:
        out.write("- rss: (psutil not installed).\n")
        return
    remembered = list(_mem_sample)
    _mem_sample.clear()
    if remembered:
        out.write("- rss (sample):\n")
        out.writelines(f"-    > {value},\n" for value in sample(remembered, samples))
    out.write(f"- rss (end): {mem_rss()}.\n")


def sample(x: Sequence[Any], n: int, k: int = 0) -> Iterator[Any]:
    """n items of a sequence, at even distances.

    Arguments:
        k: where to begin.
    """
    step = max(len(x) // n, 1)
    for place in range(n):
        yield x[min(k + place * step, len(x) - 1)]


def hfloat(f: float, p: int = 5) -> str:
    """A number in so many digits; a whole one without a point."""
    return str(int(f)) if int(f) == f else f"{f:.{p}}"


def humanbytes(s: float) -> str:
    """Bytes in the largest unit that fits."""
    return next(f"{hfloat(s / size)}{unit}" for size, unit in _UNITS if s >= size or unit == "b")


def mem_rss() -> Any:
    """How much memory is taken, for people; None without psutil."""
    process = ps()
    return None if process is None else humanbytes(process.memory_info().rss)


def ps() -> Any:
    """This process, as psutil sees it; None without psutil."""
    global _process
    if _process is None and Process is not None:
        _process = Process(os.getpid())
    return _process
