"""Tasks that retry by themselves: autoretry_for, with back-off and jitter."""

from __future__ import annotations

from functools import wraps
from types import CoroutineType

from zerocelery.exceptions import Ignore, Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ("add_autoretry_behaviour",)


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Let the task retry when it raises what ``autoretry_for`` names; does nothing to a task that names nothing."""

    def option(name: str, default: Any) -> Any:
        return options.get(name, getattr(task, name, default))

    wanted = tuple(option("autoretry_for", ()))
    if not wanted or hasattr(task, "_orig_run"):
        return
    again, retry_kwargs = _Again(task, option), dict(option("retry_kwargs", {}))
    let_through = (Ignore, Retry, *option("dont_autoretry_for", ()))
    original = task.run

    async def awaited(coroutine: Any) -> Any:
        try:
            return await coroutine
        except let_through:
            raise
        except wanted as error:
            raise again(error, retry_kwargs) from error

    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            given = task._orig_run(*args, **kwargs)
        except let_through:
            raise
        except wanted as error:
            raise again(error, retry_kwargs) from error
        return awaited(given) if type(given) is CoroutineType else given

    task._orig_run, task.run = original, run


class _Again:
    """Sends a task's next run, and gives what ends this one."""

    def __init__(self, task: Any, option: Callable[[str, Any], Any]) -> None:
        self.task = task
        self.backoff = float(option("retry_backoff", False))
        self.backoff_max = int(option("retry_backoff_max", 600))
        self.jitter = option("retry_jitter", True)

    def __call__(self, error: BaseException, retry_kwargs: dict[str, Any]) -> Any:
        task, options = self.task, dict(retry_kwargs)
        if self.backoff:
            options["countdown"] = _pause(self.backoff, self.backoff_max, self.jitter, task.request.retries)
        limit = task.__dict__.pop("override_max_retries", None)
        if limit is not None:
            options["max_retries"] = limit
        retry = task.retry(exc=error, **options)
        task.__dict__.pop("override_max_retries", None)
        return retry


def _pause(backoff: float, maximum: int, jitter: bool, retries: int) -> int:
    from zerocelery.utils.time import get_exponential_backoff_interval

    return get_exponential_backoff_interval(
        factor=int(max(1.0, backoff)), retries=retries, maximum=maximum, full_jitter=jitter
    )
