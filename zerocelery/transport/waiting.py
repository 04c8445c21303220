"""Waiting for descriptors, also where threads are green (gevent, eventlet) and a call that blocks in C stops them all.

Both patch the standard library's ``select``; whoever waits by it, and never within libzmq, lets the others run.
"""

from __future__ import annotations

import math
import posix
import select
import selectors
import sys
import time
from typing import Any, Final, Protocol

#: Longer than this nobody waits in one go (seconds): green hubs take no infinity.
_LONG: Final = 3600.0


class Poll(Protocol):
    """What there is of ``select.poll``."""

    def register(self, fd: int, eventmask: int = ..., /) -> object: ...

    def unregister(self, fd: int, /) -> object: ...

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]: ...


class _OneDescriptor:
    """Waits by ``select.select``, which is all that eventlet leaves, for one descriptor: that of an epoll.

    Not for several: eventlet switches to who waits once for each that is ready, and the second time that one is already
    somewhere else.
    """

    def __init__(self, epoll: Any) -> None:
        self._epoll = epoll

    def register(self, fd: int, eventmask: int = 1, /) -> None:
        self._epoll.register(fd, eventmask)

    def unregister(self, fd: int, /) -> None:
        self._epoll.unregister(fd)

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        seconds = None if timeout is None or timeout < 0 else timeout / 1000
        ready, _, _ = select.select([self._epoll.fileno()], [], [], seconds)
        found: list[tuple[int, int]] = self._epoll.poll(0) if ready else []
        return found


#: ``select.POLLIN`` and ``select.POLLOUT``, which eventlet takes away with the rest.
READ: Final = 1
WRITE: Final = 4


def poll() -> Poll:
    """An object to wait with."""
    if hasattr(select, "poll"):
        return select.poll()
    patcher = sys.modules["eventlet.patcher"]
    return _OneDescriptor(patcher.original("select").epoll())


def is_green() -> bool:
    """Whether this process's threads are green: gevent or eventlet has patched the standard library."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("select"):
        return True
    eventlet = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("select"))


def read_now(fd: int, most: int = 4096) -> bytes:
    """What a descriptor that doesn't block has to read now; b"" where that is nothing.

    By ``posix``: eventlet's ``os.read`` waits all the same.
    """
    try:
        return posix.read(fd, most)
    except BlockingIOError:
        return b""


def wait_readable(fd: int, until: float) -> bool:
    """Wait for something to read until that moment (monotonic); False where it has passed."""
    left = min(until - time.monotonic(), _LONG)
    if left <= 0:
        return False
    poller = poll()
    poller.register(fd, READ)
    poller.poll(math.ceil(left * 1000))
    return True


_native: dict[str, Any] = {}


def keep_native() -> None:
    """Keep what blocks a whole thread for those who want just that; called before the standard library is patched."""
    _native["selector"] = selectors.DefaultSelector


def native_selector() -> selectors.BaseSelector:
    """A selector that blocks its thread, whatever has been patched.

    Raises:
        RuntimeError: eventlet has patched it, without anybody's having called :func:`keep_native` before.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    saved = monkey.saved.get("selectors", {}).get("DefaultSelector") if monkey is not None else None
    selector = _native.get("selector") or saved
    if selector is None:
        raise RuntimeError(
            "async def tasks need a loop of asyncio, and eventlet has patched what it waits with: start the worker "
            "with -P eventlet, and let no program call eventlet.monkey_patch() before"
        )
    made: selectors.BaseSelector = selector()
    return made
