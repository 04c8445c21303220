"""A step to require."""

from __future__ import annotations

from typing import Any

from zerocelery.bootsteps import StartStopStep

__all__ = ("Connection",)


class Connection(StartStopStep):
    """The way to the node or the broker is there."""

    requires: Any = ()
