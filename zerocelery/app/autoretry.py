"""Tasks that retry by themselves: autoretry_for, with back-off and jitter."""

from __future__ import annotations

from functools import wraps

from zerocelery.exceptions import Ignore, Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("add_autoretry_behaviour",)


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Let the task retry when it raises what ``autoretry_for`` names; does nothing to a task that names nothing."""

    def option(name: str, default: Any) -> Any:
        return options.get(name, getattr(task, name, default))

    wanted = tuple(option("autoretry_for", ()))
    if not wanted or hasattr(task, "_orig_run"):
        return
    unwanted = tuple(option("dont_autoretry_for", ()))
    retry_kwargs = dict(option("retry_kwargs", {}))
    backoff = float(option("retry_backoff", False))
    backoff_max = int(option("retry_backoff_max", 600))
    jitter = option("retry_jitter", True)
    original = task.run

    @wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return task._orig_run(*args, **kwargs)
        except (Ignore, Retry, *unwanted):
            raise
        except wanted as error:
            again = dict(retry_kwargs)
            if backoff:
                again["countdown"] = _pause(backoff, backoff_max, jitter, task.request.retries)
            limit = task.__dict__.pop("override_max_retries", None)
            if limit is not None:
                again["max_retries"] = limit
            retry = task.retry(exc=error, **again)
            task.__dict__.pop("override_max_retries", None)
            raise retry from error

    task._orig_run, task.run = original, run


def _pause(backoff: float, maximum: int, jitter: bool, retries: int) -> int:
    from zerocelery.utils.time import get_exponential_backoff_interval

    return get_exponential_backoff_interval(
        factor=int(max(1.0, backoff)), retries=retries, maximum=maximum, full_jitter=jitter
    )
