"""Calls in green threads of eventlet."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.greenpool

from zerocelery import signals
from zerocelery.concurrency.base import BasePool, apply_target

__all__ = ("TaskPool",)


class TaskPool(BasePool):
    """Calls functions in green threads of its own."""

    signal_safe = False
    is_green = True
    task_join_will_block = False

    def on_start(self) -> None:
        self._pool = eventlet.greenpool.GreenPool(self.limit or 1)
        self._running: dict[int, Any] = {}
        signals.eventlet_pool_started.send(sender=self)

    def on_stop(self) -> None:
        signals.eventlet_pool_preshutdown.send(sender=self)
        if self._pool is not None:
            self._pool.waitall()
        signals.eventlet_pool_postshutdown.send(sender=self)

    def on_terminate(self) -> None:
        for thread in list(self._running.values()):
            thread.kill()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> Any:
        signals.eventlet_pool_apply.send(sender=self, target=target, args=args, kwargs=kwargs)

        def begin() -> Any:
            me = id(eventlet.getcurrent())
            return apply_target(target, args or (), kwargs or {}, callback, accept_callback, me)

        thread = self._pool.spawn(begin)
        self._running[id(thread)] = thread
        thread.link(self._ended)
        return thread

    def _ended(self, thread: Any) -> None:
        self._running.pop(id(thread), None)

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """End a call by what its ``accept_callback`` was given as the process's id."""
        thread = self._running.get(pid)
        if thread is not None:
            thread.kill()

    def grow(self, n: int = 1) -> None:
        """Let n calls more run at a time."""
        self.limit = (self.limit or 1) + n
        self._pool.resize(self.limit)

    def shrink(self, n: int = 1) -> None:
        """Let n calls less run at a time, one at least; those that run go on."""
        self.limit = max(1, (self.limit or 1) - n)
        self._pool.resize(self.limit)

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "processes": [os.getpid()],
            "max-concurrency": self.limit,
            "free-threads": self._pool.free(),
            "running-threads": self._pool.running(),
        }

    @property
    def num_processes(self) -> int | None:
        return self.limit
