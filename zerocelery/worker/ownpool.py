"""A pool of a class that others have written (``-P package.module:Class``), as Celery takes them.

The engine's pool of threads fetches and reports, and each of its threads passes its task to ``pool.apply_async`` and
waits until that has called it: here, in a thread of its own, in a green one, with whatever the class does before and
after. What is called is a function of this process, so a pool that sends its calls to other processes is none for it.
"""

from __future__ import annotations

import threading
from typing import Any

from zerocelery.app.einfo import ExceptionInfo
from zerocelery.app.message import USUAL, read_head
from zerocelery.concurrency import get_implementation
from zerocelery.concurrency.base import BasePool
from zerocelery.engine import wire
from zerocelery.engine.strategy import Outcome
from zerocelery.engine.worker import acting_for, current_worker
from zerocelery.exceptions import ImproperlyConfigured, TimeLimitExceeded, WorkerLostError
from zerocelery.transport.waiting import is_green

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.worker.worker import WorkController

__all__ = ("PoolStrategy", "make_pool", "pool_class")

#: The modules of the pools that the engine has itself, and their names.
_KNOWN = {"prefork": "prefork", "thread": "threads", "solo": "solo", "gevent": "gevent", "eventlet": "eventlet"}


def pool_class(where: Any) -> Any:
    """The class of a pool, by where it is; the name, where it is one of those that the engine has itself.

    Raises:
        ImproperlyConfigured: there is no such class, or it is none that works here.
    """
    try:
        found = get_implementation(where)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"there is no pool {where!r}: take {', '.join((*_KNOWN.values(), 'asyncio'))}, or say where its class is, "
            f"as in package.module:Class ({error})"
        ) from error
    if not isinstance(found, type) or not issubclass(found, BasePool):
        raise ImproperlyConfigured(f"{where!r} is no pool: a class of one's own is derived from BasePool")
    package, _, module = found.__module__.rpartition(".")
    if package == "zerocelery.concurrency" and found.__name__ == "TaskPool":
        return _KNOWN[module]
    if any(base.__module__ == "zerocelery.concurrency.prefork" for base in found.__mro__):
        raise ImproperlyConfigured(
            f"the pool {path_of(found)} calls in processes of its own, and a worker has those of the engine: take "
            "prefork, or derive it from the pool of threads"
        )
    if found.is_green and not is_green():
        raise ImproperlyConfigured(
            f"the pool {path_of(found)} is one of green threads, and nothing has been patched: call monkey.patch_all() "
            "of gevent, or eventlet.monkey_patch(), as the program begins"
        )
    return found


def path_of(found: type[BasePool]) -> str:
    """Where a class is, as it is written in settings."""
    return f"{found.__module__}:{found.__qualname__}"


def make_pool(found: type[BasePool], worker: WorkController) -> BasePool:
    """A pool with the arguments that Celery gives."""
    return found(
        worker.concurrency,
        initargs=(worker.app, worker.hostname),
        maxtasksperchild=worker.max_tasks_per_child,
        max_memory_per_child=worker.max_memory_per_child,
        timeout=worker.time_limit,
        soft_timeout=worker.soft_time_limit,
        putlocks=bool(worker.app.conf["worker_pool_putlocks"]),
        lost_worker_timeout=worker.app.conf["worker_lost_wait"],
        threads=True,
        forking_enable=False,
        semaphore=None,
        app=worker.app,
    )


class _Call:
    """A call that a pool was asked for; the first word about its end counts."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._outcome: Outcome | None = None
        self._error: Exception | None = None

    def returned(self, value: Any) -> None:
        """The pool's callback; it also gets what ends a process, as an ExceptionInfo."""
        if isinstance(value, ExceptionInfo):
            self.failed(value)
        elif not self._over.is_set():
            self._outcome = value
            self._over.set()

    def failed(self, einfo: Any) -> None:
        """The pool's errback."""
        if not self._over.is_set():
            error = getattr(einfo, "exception", einfo)
            self._error = error if isinstance(error, Exception) else WorkerLostError(repr(error))
            self._over.set()

    def overdue(self, soft: bool, timeout: float | None) -> None:
        """The pool's timeout callback: what has only been warned goes on."""
        if not soft and not self._over.is_set():
            self._error = TimeLimitExceeded(timeout)
            self._over.set()

    def outcome(self) -> Outcome:
        """How it went, when it has ended.

        Raises:
            Exception: what the pool says has gone wrong.
        """
        self._over.wait()
        if self._error is not None:
            raise self._error
        if not isinstance(self._outcome, Outcome):
            raise WorkerLostError("the pool has called back without the task's outcome")
        return self._outcome


class PoolStrategy:
    """Does with a task what an app's strategy does, where a pool calls it.

    Arguments:
        strategy: the app's.
        pool: of a class that others have written.
    """

    def __init__(self, strategy: Any, pool: BasePool) -> None:
        self.strategy = strategy
        self.pool = pool
        strategy.unlimited = None  # the pool is given them

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)

    def around(self, strategy: Any) -> PoolStrategy:
        """The same pool for another strategy."""
        return PoolStrategy(strategy, self.pool)

    def run(self, task: wire.Task, /) -> Outcome:
        """Pass the task to the pool, and wait until it has been run."""
        call, worker = _Call(), current_worker()

        def target() -> Outcome:
            with acting_for(worker):
                outcome: Outcome = self.strategy.run(task)
            call.returned(outcome)
            return outcome

        try:
            hard, soft = self._limits_of(task)
            self.pool.apply_async(
                target, accept_callback=_accepted, callback=call.returned, error_callback=call.failed,
                timeout_callback=call.overdue, soft_timeout=soft, timeout=hard, correlation_id=task.id,
            )  # fmt: skip
            return call.outcome()
        except Exception as error:  # whatever the pool raises: the task ends with it
            outcome: Outcome = self.strategy._unrunnable(task, _head_of(task), error)
            return outcome

    def _limits_of(self, task: wire.Task) -> tuple[float | None, float | None]:
        said = _head_of(task).timelimit or (None, None)
        known = self.strategy.app.tasks.get(task.name)
        usual = (known.time_limit, known.soft_time_limit) if known is not None else (None, None)
        return said[0] or usual[0], said[1] or usual[1]


def _accepted(*_: Any) -> None:
    """The pool says that it has begun: the node knows already."""


def _head_of(task: wire.Task) -> Any:
    try:
        return read_head(task.head)
    except Exception:  # a message that can't be read is the strategy's to refuse
        return USUAL
