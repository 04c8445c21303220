"""Calls in processes, and what begins and ends each process of a worker.

:func:`process_initializer` and :func:`process_destructor` are looked up each time that they are called: monitoring
tools wrap them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from zerocelery import platforms, signals
from zerocelery._state import set_default_app
from zerocelery.app.einfo import ExceptionInfo
from zerocelery.concurrency.base import BasePool
from zerocelery.concurrency.thread import ApplyResult
from zerocelery.exceptions import WorkerLostError
from zerocelery.utils.log import get_logger

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

__all__ = ("TaskPool", "process_destructor", "process_initializer")

logger = get_logger(__name__)

#: What a process does as by default, whatever the worker does at it: the worker tells it when to end.
WORKER_SIGRESET = {"SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1"}
#: What it passes over: Ctrl-C reaches all processes of a terminal, and ends the worker, which then ends these.
WORKER_SIGIGNORE = {"SIGINT"}

_process_hostname: str | None = None


def process_initializer(app: Any, hostname: str | None) -> None:
    """What a worker's process does first: titles, signals, loader, logging; then ``worker_process_init`` is sent.

    Arguments:
        app: becomes the process's app, with all its tasks.
        hostname: the worker's name.
    """
    global _process_hostname
    _process_hostname = hostname
    platforms.signals.reset(*WORKER_SIGRESET)
    platforms.signals.ignore(*WORKER_SIGIGNORE)
    platforms.set_mp_process_title("celeryd", hostname=hostname)
    app.loader.init_worker()
    app.loader.init_worker_process()
    _open_log(app, hostname)
    app.set_current()
    set_default_app(app)
    app.finalize()
    signals.worker_process_init.send(sender=hostname)


def _open_log(app: Any, hostname: str | None) -> None:
    """A process whose log file has its number in the name (``%I``) gets one of its own."""
    logfile = os.environ.get("CELERY_LOG_FILE") or ""
    if "%i" in logfile.lower() and getattr(app, "log", None) is not None:
        app.log.already_setup = False
        app.log.setup(
            int(os.environ.get("CELERY_LOG_LEVEL") or 0),
            logfile,
            bool(os.environ.get("CELERY_LOG_REDIRECT")),
            os.environ.get("CELERY_LOG_REDIRECT_LEVEL", ""),
            hostname=hostname,
        )


def process_destructor(pid: int | None, exitcode: int | None) -> None:
    """What a worker's process does last: ``worker_process_shutdown`` is sent."""
    signals.worker_process_shutdown.send(sender=_process_hostname, pid=pid, exitcode=exitcode)


class TaskPool(BasePool):
    """Calls functions in processes of its own; they, their arguments and what they return must be picklable."""

    uses_semaphore = True
    _pool: ProcessPoolExecutor | None = None

    def on_start(self) -> None:
        initargs = self.options.get("initargs") or ()
        from concurrent.futures import ProcessPoolExecutor  # what workers have of this module never needs it

        self._pool = ProcessPoolExecutor(
            self.limit,
            mp_context=get_context("fork" if self.forking_enable else "spawn"),
            initializer=_begin if initargs else None,
            initargs=initargs,
        )

    def restart(self) -> None:
        """Replace all processes."""
        self.on_stop()
        self.on_start()

    def did_start_ok(self) -> bool:
        return self._pool is not None

    def on_stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def on_terminate(self) -> None:
        if self._pool is not None:
            for pid in self._pids():
                self.terminate_job(pid)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def terminate_job(self, pid: int, signal: Any = signal.SIGTERM) -> None:
        """End the process, and with it the call that it is at."""
        try:
            os.kill(pid, platforms.signals.signum(signal or "TERM"))
        except ProcessLookupError:
            pass

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> ApplyResult:
        if self._pool is None:
            raise RuntimeError("the pool takes no calls: start() it first")
        future = self._pool.submit(_call, target, args or (), kwargs or {})

        def done(ended: Any) -> None:
            error = None if ended.cancelled() else ended.exception()
            if error is None and not ended.cancelled() and callback is not None:
                callback(ended.result())
            elif error is not None and error_callback is not None:
                lost = WorkerLostError(f"The process of a call has ended: {error}") if _is_loss(error) else error
                error_callback(ExceptionInfo((type(lost), lost, lost.__traceback__)))

        future.add_done_callback(done)
        return ApplyResult(future)

    def _pids(self) -> list[int]:
        return list(self._pool._processes) if self._pool is not None and self._pool._processes else []

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "max-concurrency": self.limit,
            "processes": self._pids(),
            "max-tasks-per-child": "N/A",
            "put-guarded-by-semaphore": self.putlocks,
            "timeouts": (self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0),
        }

    @property
    def num_processes(self) -> int | None:
        return self.limit


def _begin(app: Any, hostname: str | None) -> None:
    process_initializer(app, hostname)


def _call(target: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return target(*args, **kwargs)


def _is_loss(error: BaseException) -> bool:
    from concurrent.futures.process import BrokenProcessPool

    return isinstance(error, BrokenProcessPool)
