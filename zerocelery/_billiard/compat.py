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
    for fd in sorted(int(name) for name in os.listdir("/dev/fd")):
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                pass
