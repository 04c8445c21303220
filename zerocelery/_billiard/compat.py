"""``billiard.compat``: file descriptors."""

from __future__ import annotations

import os
import resource

__all__ = ("close_open_fds", "get_fdmax")


def get_fdmax(default: int | None = None) -> int | None:
    """The highest number of a file descriptor that this process may have; the default where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return default if limit == resource.RLIM_INFINITY else limit


def close_open_fds(keep: object = None) -> None:
    """Close all file descriptors but these."""
    kept = {f if isinstance(f, int) else f.fileno() for f in keep or () if f is not None}  # type: ignore[attr-defined]
    # Ranges between those that stay: the system closes each in one go, however many numbers it has.
    low = 0
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, get_fdmax(2048) or 2048)
