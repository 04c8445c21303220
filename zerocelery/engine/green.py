"""Green threads, of gevent or eventlet: what a pool of them needs beyond the standard library that these have patched.

Threads, locks, sleeps and sockets are the patched ones, so everything that runs in a threads pool runs in green threads
as it is. More than that can be done to a green thread: an exception can be raised in it where it waits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from zerocelery.transport import waiting

#: The pools of green threads; each is the name of the package, and of the extra that brings it.
GREEN: Final = ("gevent", "eventlet")


class Hub(Protocol):
    """What switches between green threads."""

    def here(self) -> Any:
        """The green thread that calls this."""

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called between two green threads, where it must not wait."""

    def outside(self, function: Callable[[], Any]) -> Any:
        """Call a function in a thread of the system's, and let other green threads run until it returns."""


class _Gevent:
    def __init__(self) -> None:
        import gevent  # noqa: PLC0415 - an extra
        import gevent.threadpool  # noqa: PLC0415

        self._gevent = gevent
        self._threads: Any = None
        self.here: Callable[[], Any] = gevent.getcurrent

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        self._gevent.get_hub().loop.run_callback(function, *args)

    def outside(self, function: Callable[[], Any]) -> Any:
        if self._threads is None:
            self._threads = self._gevent.threadpool.ThreadPool(_OUTSIDE)
        return self._threads.apply(function)


class _Eventlet:
    def __init__(self) -> None:
        from eventlet import hubs, tpool  # noqa: PLC0415 - an extra
        from eventlet.support import greenlets  # noqa: PLC0415

        self._hubs = hubs
        self._tpool = tpool
        self.here: Callable[[], Any] = greenlets.getcurrent

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        self._hubs.get_hub().schedule_call_global(0, function, *args)

    def outside(self, function: Callable[[], Any]) -> Any:
        return self._tpool.execute(function)


#: So many functions may run outside of gevent at a time; eventlet has EVENTLET_THREADPOOL_SIZE.
_OUTSIDE: Final = 1_000

_HUBS: Final[Mapping[str, Callable[[], Hub]]] = {"gevent": _Gevent, "eventlet": _Eventlet}


def hub(kind: str) -> Hub:
    """The hub of gevent or eventlet.

    Raises:
        ImportError: it is not installed.
    """
    return _HUBS[kind]()


_mine: list[Hub] = []


def current_hub() -> Hub | None:
    """The hub of this process; None where its threads are not green."""
    if not _mine and waiting.is_green():
        monkey = sys.modules.get("gevent.monkey")
        green = monkey is not None and monkey.is_module_patched("select")
        _mine.append(hub("gevent" if green else "eventlet"))
    return _mine[0] if _mine else None


class Exposure:
    """While this is open, exceptions may be raised in the green thread that made it, wherever it waits."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._thread = hub.here()
        self._open = True

    def throw(self, error: BaseException) -> None:
        """Raise this in the thread, if it is still exposed when its turn comes."""
        self._hub.soon(self._throw, error)

    def _throw(self, error: BaseException) -> None:
        if self._open:
            self._thread.throw(error)

    def close(self) -> None:
        """Nothing is raised any more."""
        self._open = False


class Signals:
    """Calls what signals mean in a green thread of its own: a handler may run in the hub, where nothing may wait.

    The number of each signal comes through a pipe, so a hub that waits for descriptors wakes up.
    """

    def __init__(self, actions: Mapping[int, Callable[[int, Any], object]]) -> None:
        self._actions = dict(actions)
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._over = False
        for number in self._actions:
            signal.signal(number, _heard)
        threading.Thread(target=self._listen, name="zerocelery-signals", daemon=True).start()

    def _listen(self) -> None:
        poller = waiting.poll()
        poller.register(self._read, waiting.READ)
        while not self._over:
            poller.poll(None)
            for number in waiting.read_now(self._read):
                action = self._actions.get(number)
                if action is not None:
                    action(number, None)


def _heard(*_: object) -> None:
    """The interpreter writes the signal's number into the pipe; there has to be a handler for it to do so."""
