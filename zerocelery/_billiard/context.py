"""``billiard.context``: multiprocessing's."""

from __future__ import annotations

from multiprocessing import Process
from multiprocessing.context import (
    BaseContext,
    DefaultContext,
    ForkContext,
    ForkProcess,
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
    assert_spawning,
)

__all__ = (
    "BaseContext",
    "DefaultContext",
    "ForkContext",
    "ForkProcess",
    "ForkServerContext",
    "ForkServerProcess",
    "Process",
    "SpawnContext",
    "SpawnProcess",
    "assert_spawning",
)
