"""The worker as an object: its options and settings, what is announced when, its pool.

celeryd_init → worker_init → logging → celeryd_after_setup → a child: worker_before_create_process,
worker_process_init → all have joined: worker_ready → a signal comes: worker_shutting_down → a child leaves:
worker_process_shutdown → worker_shutdown
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from zerocelery import signals
from zerocelery._state import _set_pool_blocks, app_or_default
from zerocelery.concurrency import ALIASES, get_implementation
from zerocelery.concurrency.green import GREEN, require_patched
from zerocelery.engine.errors import EngineError
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.utils.log import get_logger, mlevel
from zerocelery.utils.nodenames import default_nodename, host_format
from zerocelery.utils.sysinfo import available_cpu_count, cpu_budget, is_auto_concurrency
from zerocelery.worker import state as worker_state
from zerocelery.worker.consumer import Consumer
from zerocelery.worker.process import PoolProcess, keep_app
from zerocelery.worker.shutdown import EX_FAILURE, EX_OK, Shutdown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.engine.pool import Supervisor
    from zerocelery.worker.steps import StepsOfOthers

__all__ = ("WorkController",)

logger = get_logger("celery.worker")

#: Celery's names for pools, and what they are here.
POOLS = {
    "prefork": "prefork", "processes": "prefork", "threads": "threads", "solo": "solo", "asyncio": "threads",
    "gevent": "gevent", "eventlet": "eventlet",
}  # fmt: skip

#: How many tasks an asyncio worker runs at a time unless it is told.
_COROUTINES = 100


class WorkController:
    """One worker of an app. Options that are not given are the app's settings.

    Arguments:
        hostname: its name, with ``%h``, ``%n``, ``%d``.
        options: those of the command, with underscores: concurrency, pool, loglevel, logfile, queues, exclude_queues,
            time_limit, soft_time_limit, max_tasks_per_child, max_memory_per_child, autoscale, statedb, beat, …
    """

    app: Celery = None  # type: ignore[assignment]
    pidlock: Any = None
    blueprint: Any = None
    semaphore: Any = None
    #: The processes or threads; None before they are started.
    pool: Supervisor | None = None
    exitcode: int | None = None
    #: Told to stop before it has begun.
    cancelled = False
    #: Steps that others have added, where there are any.
    steps_of_others: StepsOfOthers | None = None
    steps: Any = ()
    #: The pool, and its class, where that is somebody else's.
    own_pool: Any = None
    own_pool_cls: Any = None
    _timer: Any = None

    def __init__(self, app: Celery | None = None, hostname: str | None = None, **options: Any) -> None:
        self.app = app_or_default(app or self.app)
        self.hostname = full_name(hostname)
        self.options = options = self.prepare_args(**options)
        self.pid = os.getpid()
        self.shutdown = Shutdown(self)
        self._ready: Callable[[Any], Any] | None = options.pop("ready_callback", None)
        self.on_before_init(**options)
        self.app.loader.init_worker()
        self.app.finalize()
        self.setup_defaults(**options)
        self.on_after_init(**options)
        self.consumer = Consumer(self.app, self.hostname, self)
        signals.worker_init.send(sender=self)
        include_modules(self.app)
        if self.own_pool_cls is not None:
            from zerocelery.worker.ownpool import make_pool

            self.own_pool = make_pool(self.own_pool_cls, self)
        self.process = self._process()
        self.setup_queues(options.get("queues"), options.get("exclude_queues"))
        self.on_init_blueprint()
        if self.app.steps["worker"] or self.app.steps["consumer"]:
            from zerocelery.worker.steps import StepsOfOthers

            self.steps_of_others = StepsOfOthers(self, options)

    @property
    def pool_cls(self) -> Any:
        """The class of the pool by its name; pools that Celery doesn't have are known by name only."""
        if self.own_pool_cls is not None:
            return self.own_pool_cls
        return get_implementation(self.pool_name) if self.pool_name in ALIASES else self.pool_name

    @property
    def is_green(self) -> bool:
        """Whether its tasks run in green threads."""
        return self.pool_name in GREEN or (self.own_pool_cls is not None and bool(self.own_pool_cls.is_green))

    # ── what subclasses hook into ────────────────────────────────────────────────────────────────────────────────────

    def on_before_init(self, **kwargs: Any) -> None:
        """Called before settings are read."""
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=self.app.conf, options=kwargs)

    def on_after_init(self, **kwargs: Any) -> None:
        """Called when settings have been read."""

    def prepare_args(self, **kwargs: Any) -> dict[str, Any]:
        """Called first, with the options; those that it returns are used."""
        return kwargs

    def on_init_blueprint(self) -> None:
        """Called before the steps that others have added are made."""

    def on_start(self) -> None:
        """Called before the pool is started."""

    def on_consumer_ready(self, consumer: Any) -> None:
        """Called when it takes tasks."""

    def on_close(self) -> None:
        """Called when it is about to stop."""

    def on_stopped(self) -> None:
        """Called when it has stopped."""

    # ── setting up ───────────────────────────────────────────────────────────────────────────────────────────────────

    def setup_defaults(self, **given: Any) -> None:
        """Read options, and settings in the place of those that are not given."""
        conf = self.app.conf

        def either(setting: str, *names: str) -> Any:
            value = next((given[name] for name in names if given.get(name) is not None), None)
            return conf[setting] if value is None else value

        self.loglevel: int = mlevel(given.get("loglevel") or "WARN")
        self.logfile: str | None = given.get("logfile")
        self.pool_name, self.own_pool_cls = named_pool(either("worker_pool", "pool", "pool_cls") or "prefork")
        usual = _COROUTINES if self.pool_name == "asyncio" else available_cpu_count()
        wanted = either("worker_concurrency", "concurrency")
        self._auto = is_auto_concurrency(wanted)
        self.concurrency = cpu_budget().count if self._auto else int(wanted or usual)
        self.task_events = bool(either("worker_send_task_events", "task_events"))
        self.statedb: str | None = either("worker_state_db", "statedb", "state_db")
        self.schedule_filename: str = either("beat_schedule_filename", "schedule_filename")
        self.scheduler: str = either("beat_scheduler", "scheduler", "scheduler_cls")
        self.time_limit: float | None = either("task_time_limit", "time_limit", "task_time_limit")
        self.soft_time_limit: float | None = either("task_soft_time_limit", "soft_time_limit", "task_soft_time_limit")
        self.max_tasks_per_child: int | None = either("worker_max_tasks_per_child", "max_tasks_per_child")
        self.max_memory_per_child: int | None = either("worker_max_memory_per_child", "max_memory_per_child")
        self.prefetch_multiplier = int(either("worker_prefetch_multiplier", "prefetch_multiplier"))
        self.pool_start_method: str = either("worker_pool_start_method", "pool_start_method") or "fork"
        self.disable_rate_limits = bool(either("worker_disable_rate_limits", "disable_rate_limits"))
        self.autoscale: tuple[int, int] | None = given.get("autoscale")
        if self.autoscale:
            self.concurrency = max(self.autoscale)
        self.beat: bool = bool(given.get("beat"))
        self.settings = {
            "task_time_limit": self.time_limit,
            "task_soft_time_limit": self.soft_time_limit,
            "worker_send_task_events": self.task_events,
            "worker_prefetch_multiplier": self.prefetch_multiplier,
        }
        if given.get("log_format") == "json":
            self.settings.update(worker_log_format="json", worker_task_log_format="json")
        if given.get("disable_prefetch") is not None:
            self.settings["worker_disable_prefetch"] = bool(given["disable_prefetch"])
        self.settings.update(given.get("settings") or {})
        # ``inspect conf`` shows what was set, and not what was left as it is
        conf.update({name: value for name, value in self.settings.items() if conf.get(name) != value})
        if self.own_pool_cls is None:
            worker_pool(self.pool_name)

    @property
    def kind(self) -> Any:
        """What the engine calls the pool."""
        return worker_pool(self.pool_name) if self.own_pool_cls is None else "threads"

    def _process(self) -> PoolProcess:
        name = self.options.get("app_name")
        keep_app(name, self.app)
        return PoolProcess(
            app_name=name,
            hostname=self.hostname,
            include=tuple(self.options.get("include") or ()),
            settings=tuple(self.settings.items()),
            loglevel=self.loglevel,
            logfile=self.logfile,
            announces=self.kind == "solo",
            shares_loop=self.pool_name == "asyncio",
            pool=self.own_pool,
        )

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Choose the queues to serve.

        Raises:
            ImproperlyConfigured: one isn't there and may not be made, or none is left.
        """
        queues = self.app.amqp.queues
        wanted, without = _names(include), _names(exclude)
        try:
            queues.select(wanted)
        except KeyError as error:
            raise ImproperlyConfigured(
                f"there is no queue {error.args[0]!r}: the app has {', '.join(queues)}; "
                "add it to task_queues, or set task_create_missing_queues"
            ) from error
        queues.deselect(without)
        if not queues.consume_from:
            raise ImproperlyConfigured(f"no queue is left to serve: -X takes away {', '.join(without)}")
        if self.app.conf["worker_direct"]:
            from zerocelery.utils.nodenames import worker_direct

            queues.select_add(worker_direct(self.hostname))

    @property
    def queues(self) -> list[str]:
        """The names of the queues that it serves."""
        return [str(queue.name) for queue in self.app.amqp.queues.consume_from.values()]

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> int:
        """Work until told to stop; the exit status.

        Raises:
            EngineError: there is no node, and none could be started.
        """
        self._streams = sys.stdout, sys.stderr
        self.process.set_up_logging(self.app)
        if self._auto:
            logger.info(
                "worker_concurrency='auto' resolved to %s (pool=%s, available CPUs: %s)",
                self.concurrency, self.pool_name, available_cpu_count(),
            )  # fmt: skip
        self._remark()
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=self.app.conf)
        persistent = worker_state.Persistent(worker_state, self.statedb, self.app.clock) if self.statedb else None
        if self.is_green or threading.current_thread() is threading.main_thread():
            self.shutdown.listen()
        self.on_start()
        self._beat: Any = None
        try:
            if not self.cancelled:
                self._run()
        except EngineError:
            raise  # one sentence says it
        except Exception as error:
            logger.critical("Unrecoverable error: %r", error, exc_info=True)
            self.shutdown.exitcode = EX_FAILURE
        finally:
            self.exitcode = self.shutdown.exitcode
            if self._beat is not None:
                self._beat.stop()
                self._beat.join()
            if self.steps_of_others is not None:
                self.steps_of_others.stop(terminate=self.pool is not None and self.pool.stopping > 1)
            if self._timer is not None:
                self._timer.stop()
            signals.worker_shutdown.send(sender=self)
            self.on_stopped()
            if persistent is not None:
                persistent.save()
            sys.stdout, sys.stderr = self._streams  # whatever is printed now is no log line
        return self.exitcode

    def _remark(self) -> None:
        """Say which settings have no effect."""
        from zerocelery.app.unheeded import remarks
        from zerocelery.app.utils import broker_url
        from zerocelery.engine.address import is_node

        for remark in remarks(self.app.conf, on_node=is_node(broker_url(self.app.conf) or "zmq://")):
            logger.warning(remark)

    def _run(self) -> None:
        if self.is_green or self.own_pool is not None:
            _set_pool_blocks(bool(self.pool_cls.task_join_will_block))
        if self.own_pool is None:
            self._run_pool()
            return
        self.own_pool.start()
        try:
            self._run_pool()
        finally:
            if self.pool is not None and self.pool.stopping > 1:
                self.own_pool.terminate()
            else:
                self.own_pool.close()
                self.own_pool.stop()

    def _run_pool(self) -> None:
        from zerocelery.app.utils import broker_url
        from zerocelery.engine.address import is_node

        url = broker_url(self.app.conf) or "zmq://"
        run: Any
        if is_node(url):
            from zerocelery.engine.pool import run_worker

            run = functools.partial(run_worker, address=url)
        else:
            from zerocelery.app.intake import run_broker_worker

            run = functools.partial(run_broker_worker, self.app)
        conf = self.app.conf
        run(
            strategy_factory=self.process,
            pool=self.kind,
            concurrency=self.concurrency,
            queues=self.queues,
            name=self.hostname,
            max_tasks_per_child=self.max_tasks_per_child,
            max_memory_per_child=self.max_memory_per_child,
            autoscale=self._autoscale(),
            attendant=self._desk(),
            counts=bool(conf["worker_soft_shutdown_timeout"]),
            start_method=self.pool_start_method,
            on_start=self._begin,
            on_ready=self._on_ready,
            before_child=lambda: signals.worker_before_create_process.send(sender=self.pool),
            in_child=self.process.begin,
            child_ends=self.process.end,
        )

    def _desk(self) -> Any:
        from zerocelery.worker.desk import Desk

        beats = None if self.options.get("without_heartbeat") else self.options.get("heartbeat_interval") or 2.0
        return Desk(self.app, self.hostname, self, events=self.task_events, heartbeat=beats)

    def _autoscale(self) -> Any:
        if not self.autoscale:
            return None
        from zerocelery.engine.autoscale import Autoscale

        most, least = max(self.autoscale), min(self.autoscale)
        return Autoscale(most, least, keep_alive=float(os.environ.get("AUTOSCALE_KEEPALIVE", 30)))

    def _begin(self, pool: Supervisor) -> None:
        self.pool = pool
        pool.exit_status = EX_OK
        if self.cancelled:
            pool.stop()
        elif self.steps_of_others is not None:
            self.steps_of_others.start()

    def _on_ready(self) -> None:
        if self.beat and self._beat is None:
            self._start_beat()
        if self.steps_of_others is not None and not self._start_consumer_steps(self.steps_of_others):
            return
        logger.info("%s ready.", self.hostname)
        self.on_consumer_ready(self.consumer)
        signals.worker_ready.send(sender=self.consumer)
        if self._ready is not None:
            self._ready(self.consumer)

    def _start_consumer_steps(self, steps: StepsOfOthers) -> bool:
        """Start them; where one fails, so does the worker, when what runs has been finished."""
        try:
            steps.start_consumer()
        except SystemExit as error:  # WorkerShutdown, WorkerTerminate
            self.stop(exitcode=int(error.code or 0))
        except Exception as error:
            logger.critical("Unrecoverable error: %r", error, exc_info=True)
            self.stop(exitcode=EX_FAILURE)
        else:
            return True
        return False

    @property
    def timer(self) -> Any:
        """Calls functions at their time, in a thread of its own; there is none until it is asked for."""
        if self._timer is None:
            from zerocelery.utils.timer2 import Timer

            self._timer = Timer()
        return self._timer

    def _start_beat(self) -> None:
        from zerocelery.beat import EmbeddedService

        self._beat = EmbeddedService(
            self.app,
            thread=self.kind != "prefork",
            schedule_filename=self.schedule_filename,
            scheduler_cls=self.scheduler,
        )
        self._beat.start()

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Finish what runs, and leave."""
        if exitcode is not None:
            self.shutdown.exitcode = exitcode
        self.cancelled = True
        if self.pool is not None:
            self.pool.stop()

    def setup_includes(self, includes: Iterable[str]) -> None:
        """Import more modules with tasks, here and in the processes of the pool."""
        names = tuple(includes)
        self.app.conf["include"] = (*dict.fromkeys((*(self.app.conf["include"] or ()), *names)),)
        for name in names:
            self.app.loader.import_task_module(name)

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Import modules with tasks, and replace all processes of the pool.

        Arguments:
            modules: the app's task modules unless given.
            reload: import anew those that were imported.
            reloader: instead of ``importlib.reload``.
        """
        for name in self.app.loader.task_modules if modules is None else modules:
            if name not in sys.modules:
                self.app.loader.import_from_cwd(name)
            elif reload:
                (reloader or importlib.reload)(sys.modules[name])
        if self.pool is not None and self.pool.children is not None:
            self.pool.children.restart()

    def signal_consumer_close(self) -> None:
        """Take no more tasks; what runs is finished."""
        if self.pool is not None:
            self.pool.stop()

    def terminate(self, in_sighandler: bool = False) -> None:
        """End what runs, and leave."""
        self.cancelled = True
        if self.pool is not None:
            self.pool.end()

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> Any:
        """What this process knows of its tasks."""
        return worker_state

    def info(self) -> dict[str, Any]:
        """What it is, in a dictionary."""
        return {"pid": self.pid, "clock": str(self.app.clock)}

    def rusage(self) -> dict[str, Any]:
        """What the system says it has used."""
        from zerocelery.worker.stats import usage

        return usage()

    def stats(self) -> dict[str, Any]:
        """What ``inspect stats`` says of its pool."""
        pool = self.pool
        children = pool.children if pool is not None else None
        return {
            **self.info(),
            "total": dict(worker_state.total_count),
            "rusage": self.rusage(),
            "prefetch_count": self.concurrency * self.prefetch_multiplier,
            "pool": {
                "implementation": ALIASES.get(self.pool_name, f"zerocelery.engine.pool:{self.pool_name}"),
                "max-concurrency": pool.concurrency if pool is not None else self.concurrency,
                "processes": children.pids() if children is not None else [self.pid],
                "max-tasks-per-child": self.max_tasks_per_child or "N/A",
                "put-guarded-by-semaphore": False,
                "timeouts": [self.soft_time_limit or 0, self.time_limit or 0],
            },
        }

    def __repr__(self) -> str:
        if self.blueprint is not None:
            state = self.blueprint.human_state()
        else:
            state = "initializing" if self.pool is None else "running" if not self.pool.stopping else "closing"
        return f"<Worker: {self.hostname} ({state})>"


def include_modules(app: Celery) -> None:
    """Enter the modules of all the tasks into ``include``, as control commands show it."""
    modules = {task.__module__ for task in app.tasks.values() if task.__module__}
    app.conf["include"] = tuple(dict.fromkeys([*(app.conf["include"] or ()), *sorted(modules)]))


def full_name(hostname: str | None) -> str:
    """A worker's whole name of what ``-n`` says: ``w1`` is a host's name, ``w1@%h`` a worker on this host."""
    return host_format(default_nodename(hostname))


def named_pool(value: Any) -> tuple[str, Any]:
    """A pool's name, and its class where that is somebody else's.

    Raises:
        ImproperlyConfigured: there is no such pool.
    """
    if isinstance(value, str) and value in POOLS:
        return value, None
    from zerocelery.worker.ownpool import path_of, pool_class

    found = pool_class(value)
    return (found, None) if isinstance(found, str) else (path_of(found), found)


def worker_pool(name: str) -> Any:
    """A pool by Celery's name for it.

    Raises:
        ImproperlyConfigured: it isn't here; the message says what to take.
    """
    if name not in POOLS:
        raise ImproperlyConfigured(f"there is no pool {name!r}: take {', '.join(POOLS)}")
    if name in GREEN:
        try:
            require_patched(name)
        except ImportError as error:
            raise ImproperlyConfigured(str(error)) from error
    return POOLS[name]


def _names(value: str | Iterable[str] | None) -> list[str]:
    if value is None:
        return []
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)
