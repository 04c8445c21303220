"""``billiard.common``: names of signals, and pickling."""

from __future__ import annotations

import pickle
import signal

__all__ = ("REMAP_SIGTERM", "TERM_SIGNAL", "TERM_SIGNAME", "human_status", "pickle", "pickle_loads")

pickle_loads = pickle.loads

TERM_SIGNAME = "SIGTERM"
TERM_SIGNAL = signal.SIGTERM
REMAP_SIGTERM = None


def human_status(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exitcode {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"
