"""What was asked for and a pool of this kind doesn't do, in sentences: Celery's workers are silent about that."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from zerocelery.worker.worker import WorkController

__all__ = ("without_effect",)

#: So many tasks with limits of their own are named.
_NAMED = 5


def without_effect(worker: WorkController) -> Iterator[str]:
    """One sentence for each option, or setting, that has no effect in the worker's pool."""
    pool = worker.pool_name
    if pool in ("prefork", "processes"):
        return
    yield from _limits(worker, pool)
    if worker.own_pool_cls is not None:
        return
    for value, name in (
        (worker.max_tasks_per_child, "worker_max_tasks_per_child"),
        (worker.max_memory_per_child, "worker_max_memory_per_child"),
    ):
        if value:
            yield f"{name} has no effect in a pool of kind {pool}, which has no process to replace: take prefork"
    if worker.autoscale:
        yield f"--autoscale has no effect in a pool of kind {pool}, which stays at {worker.concurrency}: take prefork"
    if pool == "solo" and worker.options.get("concurrency") and worker.concurrency > 1:
        yield f"-c {worker.concurrency} has no effect in a solo pool, which runs one task at a time: take threads"


def _limits(worker: WorkController, pool: str) -> Iterator[str]:
    if pool in ("gevent", "eventlet") or worker.own_pool_cls is not None:
        return  # they have them, or are given them
    if pool == "asyncio":
        limited, where, instead = _limited_tasks(worker, coroutines=False), "for tasks that are not async", "prefork"
    else:
        limited, where, instead = _limited_tasks(worker), f"in a pool of kind {pool}", "prefork, gevent or asyncio"
    if worker.time_limit or worker.soft_time_limit:
        yield f"time limits are not enforced {where}: take {instead}"
    elif limited:
        names = ", ".join(limited[:_NAMED]) + (" …" if len(limited) > _NAMED else "")
        yield f"time limits are not enforced {where}, and some have one ({names}): take {instead}"


def _limited_tasks(worker: WorkController, *, coroutines: bool = True) -> list[str]:
    """The names of tasks with limits of their own.

    Arguments:
        coroutines: whether to count those that are async, too.
    """
    import inspect

    return sorted(
        name
        for name, task in worker.app.tasks.items()
        if (task.time_limit or task.soft_time_limit) and (coroutines or not inspect.iscoroutinefunction(task.run))
    )
