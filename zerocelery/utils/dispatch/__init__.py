"""Observer signals."""

from __future__ import annotations

from zerocelery.utils.dispatch.signal import Signal

__all__ = ("Signal",)
