"""Calls in threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from zerocelery.concurrency.base import BasePool, apply_target

__all__ = ("TaskPool",)


class ApplyResult:
    """A call that is under way.

    Arguments:
        future: what it gives.
    """

    def __init__(self, future: Future[Any]) -> None:
        self.f = future
        self.get = self.f.result

    def wait(self, timeout: float | None = None) -> None:
        """Return when it is done, or the time is over (seconds)."""
        wait([self.f], timeout)


class TaskPool(BasePool):
    """Calls functions in threads of its own."""

    body_can_be_buffer = True
    signal_safe = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.executor = ThreadPoolExecutor(max_workers=self.limit)

    def on_stop(self) -> None:
        self.executor.shutdown(cancel_futures=True)
        super().on_stop()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> ApplyResult:
        return ApplyResult(self.executor.submit(apply_target, target, args or (), kwargs, callback, accept_callback))

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "max-concurrency": self.limit, "threads": len(self.executor._threads)}
