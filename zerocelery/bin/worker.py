"""``zerocelery worker``: fetch tasks, run them, return results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import click

from zerocelery.bin.base import (
    LOG_FORMAT,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    add_options,
    comma_separated,
    log_options,
    node_name,
    setup_logging,
)

if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.engine.strategy import Strategy

logger = logging.getLogger(__name__)

AUTO_CONCURRENCY = "auto"

PoolName = Literal["prefork", "threads", "solo"]
StartMethod = Literal["fork", "spawn"]

#: Celery's names for pools, and what they are here.
_POOLS: dict[str, PoolName] = {"prefork": "prefork", "processes": "prefork", "threads": "threads", "solo": "solo"}
_GREEN_POOLS = ("eventlet", "gevent")


def worker_pool(value: str) -> PoolName:
    """A pool by Celery's name for it; one that isn't here is answered with what to take."""
    if value in _GREEN_POOLS:
        raise click.BadParameter(f"there is no {value} pool: take threads, as in -P threads -c 100")
    if value not in _POOLS:
        raise click.BadParameter(f"there is no pool {value!r}: take prefork, threads or solo")
    return _POOLS[value]


def concurrency_number(value: str | int) -> int:
    """How many tasks at a time; ``auto`` is one for each processor that this process may use."""
    if value == AUTO_CONCURRENCY:
        return processors()
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise click.BadParameter(f"{value!r} is no number of tasks at a time: take 1 or more, or auto")
    return number


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has none
        return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, slots=True)
class StrategyFactory:
    """Makes the app's strategy in whatever process a pool calls it: also in one that spawn started from nothing."""

    app_name: str | None
    include: tuple[str, ...] = ()
    loglevel: int = logging.WARNING
    logfile: str | None = None
    log_format: str = LOG_FORMAT

    def __call__(self) -> Strategy:
        if not logging.getLogger().handlers:
            setup_logging(self.loglevel, self.logfile, format=self.log_format)
        return ready_app(self.app_name, self.include).strategy()


@functools.cache
def ready_app(name: str | None, include: tuple[str, ...]) -> Celery:
    """The app with all its tasks, made ready once a process."""
    from zerocelery.bin.lookup import import_tasks, load_app

    app = load_app(name)
    import_tasks(app, include)
    app.finalize()
    return app


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a worker is going to be: what it says when it starts, and what the pool is told."""

    name: str
    app: str
    address: str
    pool: PoolName
    concurrency: int
    queues: list[str]
    tasks: list[str]

    def banner(self, *, all_tasks: bool) -> str:
        """A few lines for a person; with every task's name where asked."""
        from zerocelery import __version__

        rows = {
            "app": self.app,
            "node": self.address,
            "pool": self.pool if self.pool == "solo" else f"{self.pool} x {self.concurrency}",
            "queues": ", ".join(self.queues),
            "tasks": str(len(self.tasks)) if self.tasks else "none of its own; runs those that clients ship",
        }
        lines = [f"{self.name} (zerocelery {__version__})"]
        lines += [f"  {label:<6}  {text}" for label, text in rows.items()]
        if all_tasks:
            lines += [f"          {name}" for name in self.tasks]
        return "\n".join(lines)


def _served_queues(app: Celery, wanted: Sequence[str] | None, excluded: Sequence[str]) -> list[str]:
    """Which queues to serve.

    Raises:
        CommandError: one isn't there and may not be made, or none is left.
    """
    known = _configured_queues(app)
    names = list(dict.fromkeys(wanted or known))
    unknown = [name for name in names if name not in known]
    if unknown and not app.conf.task_create_missing_queues:
        raise CommandError(
            f"there is no queue {unknown[0]!r}: the app has {', '.join(known)}; "
            "add it to task_queues, or set task_create_missing_queues"
        )
    left = [name for name in names if name not in excluded]
    if not left:
        raise CommandError(f"no queue is left to serve: -X takes away {', '.join(names)}")
    return left


def _configured_queues(app: Celery) -> list[str]:
    queues = app.conf.task_queues
    if not queues:
        return [str(app.conf.task_default_queue)]
    return [str(getattr(queue, "name", queue)) for queue in queues]


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    """Keep this process's pid in a file for as long as it runs; refuse where another's is."""
    if path is None:
        yield
        return
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError as error:
        raise CommandError(
            f"the pid file {path} is there already: stop that worker, or remove what a killed one left"
        ) from error
    except OSError as error:
        raise CommandError(f"the pid file {path} can't be written: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _say_ready(cli: CLIContext, name: str) -> None:
    """On stdout, for people and scripts; with ``-q`` in the log only."""
    if cli.quiet:
        logger.info("%s ready.", name)
    else:
        cli.echo(f"{name} ready.")
        sys.stdout.flush()


#: Celery's workers talk to each other through the broker unless told not to. These don't, so there is nothing to leave
#: out, and start scripts that say it go on working.
_chatter_options = add_options(
    *(
        click.option(f"--without-{name}", is_flag=True, hidden=True, expose_value=False)
        for name in ("gossip", "mingle", "heartbeat")
    )
)

_worker_option = functools.partial(click.option, cls=CeleryOption, help_group="Worker")
_pool_option = functools.partial(click.option, cls=CeleryOption, help_group="Pool")
_queue_option = functools.partial(
    click.option, cls=CeleryOption, help_group="Queues", type=comma_separated, metavar="QUEUES"
)


@click.command(cls=CeleryCommand)
@_worker_option("-n", "--hostname", metavar="NAME", help="The worker's name, as in w1@%h (%h: this host).")
@_worker_option("-I", "--include", type=comma_separated, metavar="MODULES", help="More task modules.")
@_worker_option("--pidfile", metavar="PATH", help="Keep the pid in this file.")
@_pool_option(
    "-c",
    "--concurrency",
    type=concurrency_number,
    metavar="NUMBER",
    help="Tasks at a time. Default: one for each processor.",
)
@_pool_option("-P", "--pool", type=worker_pool, metavar="POOL", help="prefork (processes), threads or solo.")
@_pool_option("--max-tasks-per-child", type=click.IntRange(min=1), help="Replace a process after so many tasks.")
@_pool_option("--pool-start-method", type=click.Choice(["fork", "spawn"]), help="How processes start. Default: fork.")
@_queue_option("-Q", "--queues", help="Serve these queues only, as in a,b.")
@_queue_option("-X", "--exclude-queues", help="Serve all but these.")
@_chatter_options
@log_options
@click.pass_context
def worker(
    ctx: click.Context,
    *,
    hostname: str | None,
    include: Sequence[str] | None,
    pidfile: str | None,
    concurrency: int | None,
    pool: PoolName | None,
    max_tasks_per_child: int | None,
    pool_start_method: StartMethod | None,
    queues: Sequence[str] | None,
    exclude_queues: Sequence[str] | None,
    loglevel: int | None,
    logfile: str | None,
) -> None:
    """Start a worker. Where no node answers at the app's address, it brings one up."""
    from zerocelery.app.client import is_node
    from zerocelery.app.intake import run_broker_worker
    from zerocelery.app.utils import censored_url
    from zerocelery.engine.address import parse_address
    from zerocelery.engine.pool import run_worker

    cli: CLIContext = ctx.obj
    conf = cli.app.conf
    factory = StrategyFactory(
        app_name=cli.app_name,
        include=tuple(include or ()),
        loglevel=logging.WARNING if loglevel is None else loglevel,
        logfile=logfile,
        log_format=conf.worker_log_format or LOG_FORMAT,
    )
    if conf.worker_hijack_root_logger:
        setup_logging(factory.loglevel, logfile, format=factory.log_format)
    if cli.broker:
        conf.broker_url = cli.broker
    url = conf.broker_read_url or conf.broker_url or "zmq://"
    on_node = is_node(url)
    app = ready_app(cli.app_name, factory.include)
    plan = Plan(
        name=node_name(hostname),
        app=f"{app.main or 'no name'} ({cli.app_name})" if cli.app_name else "none (-A names one)",
        address=parse_address(url).url if on_node else censored_url(url),
        pool=pool or worker_pool(conf.worker_pool or "prefork"),
        concurrency=concurrency or concurrency_number(conf.worker_concurrency or AUTO_CONCURRENCY),
        queues=_served_queues(app, queues, exclude_queues or ()),
        tasks=sorted(name for name in app.tasks if not name.startswith("celery.")),
    )
    if not cli.quiet:
        cli.echo(plan.banner(all_tasks=factory.loglevel <= logging.INFO))
    with _pid_file(pidfile):
        run = functools.partial(run_worker, address=url) if on_node else functools.partial(run_broker_worker, app)
        code = run(
            strategy_factory=factory,
            pool=plan.pool,
            concurrency=plan.concurrency,
            queues=plan.queues,
            name=plan.name,
            max_tasks_per_child=max_tasks_per_child or conf.worker_max_tasks_per_child,
            start_method=pool_start_method or conf.worker_pool_start_method or "fork",
            on_ready=functools.partial(_say_ready, cli, plan.name),
        )
    ctx.exit(code)
