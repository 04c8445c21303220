"""Calls in green threads of gevent."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent
import gevent.lock
import gevent.pool

from zerocelery.concurrency.base import BasePool, apply_target

__all__ = ("TaskPool",)


def apply_timeout(
    target: Callable[..., Any],
    args: Any = (),
    kwargs: Any = None,
    callback: Callable[..., Any] | None = None,
    accept_callback: Callable[..., Any] | None = None,
    pid: int | None = None,
    timeout: float | None = None,
    timeout_callback: Callable[[bool, float | None], Any] | None = None,
    Timeout: Any = gevent.Timeout,
    apply_target: Callable[..., Any] = apply_target,
    **rest: Any,
) -> Any:
    """Call a function within this time (seconds); ``timeout_callback`` is called with False and the time where it took
    longer."""
    try:
        with Timeout(timeout):
            return apply_target(target, args, kwargs or {}, callback, accept_callback, pid, **rest)
    except Timeout:
        return timeout_callback(False, timeout) if timeout_callback is not None else None


class TaskPool(BasePool):
    """Calls functions in green threads of its own."""

    signal_safe = False
    is_green = True
    task_join_will_block = False

    def on_start(self) -> None:
        self._pool = gevent.pool.Group()
        self._free = gevent.lock.Semaphore(self.limit or 1)
        self._running: dict[int, Any] = {}

    def on_stop(self) -> None:
        if self._pool is not None:
            self._pool.join()

    def on_terminate(self) -> None:
        if self._pool is not None:
            self._pool.kill(block=False)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        timeout: float | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        apply_target: Callable[..., Any] = apply_target,
        **_: Any,
    ) -> Any:
        def begin() -> Any:
            me = id(gevent.getcurrent())
            if timeout:
                return apply_timeout(
                    target, args or (), kwargs, callback, accept_callback, me, timeout=timeout,
                    timeout_callback=timeout_callback, apply_target=apply_target,
                )  # fmt: skip
            return apply_target(target, args or (), kwargs or {}, callback, accept_callback, me)

        self._free.acquire()
        thread = self._pool.spawn(begin)
        self._running[id(thread)] = thread
        thread.rawlink(self._ended)
        return thread

    def _ended(self, thread: Any) -> None:
        self._running.pop(id(thread), None)
        self._free.release()

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """End a call by what its ``accept_callback`` was given as the process's id."""
        thread = self._running.get(pid)
        if thread is not None:
            thread.kill(block=False)

    def grow(self, n: int = 1) -> None:
        """Let n calls more run at a time."""
        self.limit = (self.limit or 1) + n
        for _ in range(n):
            self._free.release()

    def shrink(self, n: int = 1) -> None:
        """Let n calls less run at a time, one at least; those that run go on."""
        n = min(n, (self.limit or 1) - 1)
        self.limit = (self.limit or 1) - n
        for _ in range(n):
            gevent.spawn(self._free.acquire)  # as soon as it is free

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "processes": [os.getpid()], "running-threads": len(self._running)}

    @property
    def num_processes(self) -> int | None:
        return self.limit
