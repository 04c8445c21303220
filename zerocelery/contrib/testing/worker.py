"""A worker within the test's own process."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zerocelery.app.intake import run_broker_worker
from zerocelery.app.utils import broker_url
from zerocelery.contrib.testing.relay import Relay
from zerocelery.engine.pool import Supervisor, run_worker
from zerocelery.result import allow_join_result
from zerocelery.signals import task_postrun
from zerocelery.states import SUCCESS
from zerocelery.utils.dispatch import Signal
from zerocelery.utils.nodenames import anon_nodename
from zerocelery.worker.desk import Desk
from zerocelery.worker.state import successful_requests
from zerocelery.worker.worker import full_name, include_modules, worker_pool

if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.engine.strategy import Strategy

__all__ = (
    "TestWorkController",
    "setup_app_for_worker",
    "start_worker",
    "test_worker_started",
    "test_worker_starting",
    "test_worker_stopped",
)

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

test_worker_starting = Signal(name="test_worker_starting", providing_args=set())
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})


class TestWorkController:
    """A worker that runs in a thread of this process (its pool may have more, or processes).

    What the processes of a prefork pool log, which tasks they receive and which succeed is told here, too.

    Arguments:
        pool: solo, threads or prefork.
        queues: which to serve; those of the app's settings unless given.
    """

    __test__ = False

    def __init__(
        self,
        app: Celery,
        *,
        concurrency: int = 1,
        pool: str = "solo",
        hostname: str | None = None,
        queues: Sequence[str] | str | None = None,
        exclude_queues: Sequence[str] | str | None = None,
        loglevel: Any = WORKER_LOGLEVEL,
        logfile: str | None = None,
        max_tasks_per_child: int | None = None,
        **options: Any,
    ) -> None:
        self.app = app
        self.hostname = full_name(hostname or anon_nodename())
        self.concurrency = concurrency
        self.pool_cls = pool
        self.loglevel = loglevel
        self.logfile = logfile
        self.options = options
        self.queues = _served(app, queues, exclude_queues)
        include_modules(app)
        self.consumer = self
        self.max_tasks_per_child = max_tasks_per_child
        self._pool = worker_pool(pool)
        self._relay: Relay | None = None
        self._strategy: Any = None
        self._joined = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._supervisor: Supervisor | None = None
        self._stopping = False

    def _make_strategy(self) -> Strategy:
        self._strategy = self.app.strategy(hostname=self.hostname)
        return self._strategy  # type: ignore[no-any-return]

    def _on_ready(self) -> None:
        test_worker_started.send(sender=self.app, worker=self, consumer=self)
        self._joined.set()

    def _on_start(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        if self._stopping:
            supervisor.stop()

    def _run(self) -> None:
        run: Any = functools.partial(run_broker_worker, self.app)
        if self.app.has_node:
            run = functools.partial(run_worker, address=broker_url(self.app.conf))
        try:
            run(
                strategy_factory=self._make_strategy,
                pool=self._pool,
                concurrency=self.concurrency,
                queues=self.queues,
                name=self.hostname,
                attendant=Desk(self.app, self.hostname),
                max_tasks_per_child=self.max_tasks_per_child,
                on_start=self._on_start,
                on_ready=self._on_ready,
                in_child=None if self._relay is None else self._relay.in_child,
            )
        except BaseException as error:
            # Raised where somebody waits for the worker, which is another thread.
            self._failure = error
        finally:
            self._joined.set()

    def _note_success(self, task_id: str, state: str | None = None, **_: Any) -> None:
        if state == SUCCESS:
            successful_requests.add(task_id)

    def start(self) -> None:
        """Begin to work; returns at once."""
        if self._pool == "prefork":
            self._relay = Relay(self.app)
        else:
            task_postrun.connect(self._note_success)
        self._thread = threading.Thread(target=self._run, name=f"worker {self.hostname}", daemon=True)
        self._thread.start()

    def ensure_started(self, timeout: float | None = None) -> None:
        """Return when the worker has joined its node.

        Raises:
            TimeoutError: it didn't in time.
            zerocelery.engine.errors.EngineError: there is no node, and none could be started.
        """
        if not self._joined.wait(timeout):
            raise TimeoutError(f"the worker {self.hostname} was not ready within {timeout:g} s")
        if self._failure is not None:
            raise self._failure

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Take up tasks that were registered, or registered anew, after the worker started."""
        again = reloader or importlib.reload
        for name in modules or ():
            module = importlib.import_module(name)
            if reload:
                again(module)
        self.app.finalize()
        tracers = getattr(self._strategy, "_tracers", None)
        if tracers is not None:
            tracers.clear()

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None, timeout: float | None = None) -> None:
        """Finish what runs, and end.

        Raises:
            RuntimeError: it was still there when the time was over.
        """
        self._stopping = True
        if self._supervisor is not None:
            self._supervisor.stop()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._relay is not None:
                self._relay.close()
            task_postrun.disconnect(self._note_success)
            if self._thread.is_alive():
                raise RuntimeError(
                    "Worker thread failed to exit within the allocated timeout. "
                    f"Consider raising `shutdown_timeout` if your tasks take longer to execute: "
                    f"it was {timeout:g} s."
                )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.hostname}>"


def _served(app: Celery, queues: Sequence[str] | str | None, excluded: Sequence[str] | str | None) -> list[str]:
    configured = [str(getattr(queue, "name", queue)) for queue in app.conf.task_queues or ()]
    wanted = _names(queues) or configured or [str(app.conf.task_default_queue)]
    return [name for name in wanted if name not in _names(excluded)]


def _names(value: Sequence[str] | str | None) -> list[str]:
    return value.split(",") if isinstance(value, str) else list(value or ())


@contextmanager
def start_worker(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: Any = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **kwargs: Any,
) -> Iterator[TestWorkController]:
    """A worker of this app for as long as the context lasts; it works when the context is entered.

    Arguments:
        perform_ping_check: send the task ``celery.ping`` first, and wait for its answer.
        shutdown_timeout: how long what runs at the end may take.

    Raises:
        RuntimeError: at the end, the worker didn't end in time.
    """
    test_worker_starting.send(sender=app)
    setup_app_for_worker(app, loglevel, logfile)
    if perform_ping_check and "celery.ping" not in app.tasks:
        raise RuntimeError(
            "the ping check needs the task celery.ping: import zerocelery.contrib.testing.tasks, "
            "or say perform_ping_check=False"
        )
    worker = TestWorkController(
        app=app, concurrency=concurrency, pool=pool, loglevel=loglevel, logfile=logfile, **kwargs
    )
    worker.start()
    try:
        worker.ensure_started(ping_task_timeout)
        if perform_ping_check:
            with allow_join_result():
                answer = app.tasks["celery.ping"].delay().get(timeout=ping_task_timeout)
            if answer != "pong":
                raise RuntimeError(f"the worker answered celery.ping with {answer!r}")
        yield worker
    finally:
        worker.stop(timeout=shutdown_timeout)
        test_worker_stopped.send(sender=app, worker=worker)


def setup_app_for_worker(app: Celery, loglevel: str | int, logfile: str | None) -> None:
    """Make the app complete, and the one that the process's tasks mean; log at this level.

    Arguments:
        logfile: where to; None leaves the process's handlers as they are.
    """
    app.finalize()
    app.set_current()
    app.set_default()
    log = getattr(app, "log", None)
    if log is None:
        logging.getLogger("celery").setLevel(loglevel.upper() if isinstance(loglevel, str) else loglevel)
        return
    type(log)._setup = False
    log.setup(loglevel=loglevel, logfile=logfile)
