"""``zerocelery worker``: fetch tasks, run them, return results."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from zerocelery.bin.base import (
    EX_OK,
    CeleryDaemonCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    add_options,
    comma_separated,
    known_broker,
    log_format_option,
    loglevel_option,
    pid_file,
    settings_of,
)
from zerocelery.bin.metrics import metrics_option, serving

if TYPE_CHECKING:
    from zerocelery.app.base import Celery

AUTO_CONCURRENCY = "auto"

#: Celery's names for pools, and asyncio.
_POOLS = ("prefork", "processes", "threads", "solo", "asyncio", "gevent", "eventlet")


def worker_pool(value: str) -> str:
    """A pool by Celery's name for it; one that isn't here is answered with what to take."""
    if value not in _POOLS and not (":" in value or "." in value or value == "custom"):
        raise click.BadParameter(f"there is no pool {value!r}: take {', '.join(_POOLS)} or package.module:Class")
    return "prefork" if value == "processes" else value


def concurrency_number(value: str | int) -> int | str | None:
    """How many tasks at a time; ``auto``, which the worker resolves, is one for each processor; 0 what settings say."""
    text = str(value).strip().lower()
    if text == AUTO_CONCURRENCY:
        return AUTO_CONCURRENCY
    try:
        number = int(text or 0)
    except ValueError:
        number = -1
    if number < 0:
        raise click.BadParameter(f"{value!r} is no number of tasks at a time: take 1 or more, or auto")
    return number or None


def autoscale_range(value: str | tuple[int, int]) -> tuple[int, int]:
    """``10,3``: at most 10 processes, and at least 3."""
    if isinstance(value, tuple):
        return value
    most, _, least = value.partition(",")
    try:
        numbers = int(most), int(least or 0)
    except ValueError:
        numbers = (0, 0)
    if max(numbers) < 1 or min(numbers) < 0:
        raise click.BadParameter(f"{value!r} is no range of processes: write most,least, as in 10,3")
    return max(numbers), min(numbers)


def ready_app(name: str | None, include: Sequence[str]) -> Celery:
    """The app, with all modules of tasks imported."""
    from zerocelery.bin.lookup import import_tasks, load_app

    app = load_app(name)
    import_tasks(app, include)
    return app


def node_on_its_way(app: Celery) -> contextlib.AbstractContextManager[None]:
    """While the block runs, the app's node starts, where it is one of this machine that isn't there."""
    from zerocelery.app.utils import broker_url
    from zerocelery.engine import tenure
    from zerocelery.engine.address import is_node, parse_address
    from zerocelery.engine.errors import AddressError

    url = broker_url(app.conf) or "zmq://"
    try:
        return tenure.node_on_its_way(parse_address(url)) if is_node(url) else contextlib.nullcontext()
    except AddressError:
        return contextlib.nullcontext()  # said by the worker itself, when it looks for the node


# ── in the background ────────────────────────────────────────────────────────────────────────────────────────────────


def detach(executable: str | None, pidfile: str | None) -> int:
    """Start this very command again, without ``--detach``, in a session of its own; the exit status."""
    if pidfile:
        with pid_file(pidfile, what="worker"):
            pass  # it could be written: what is wrong with it is said here, where somebody reads it
    arguments = [argument for argument in sys.orig_argv[1:] if argument != "--detach"]
    arguments = [_without_d(argument) if argument.startswith("-") else argument for argument in arguments]
    subprocess.Popen(  # noqa: S603 - this very command
        [executable or sys.executable, *filter(None, arguments)], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return EX_OK


def _without_d(argument: str) -> str:
    """The argument without a ``-D`` in it."""
    return "" if argument == "-D" else argument


def become(uid: str | None, gid: str | None, umask: str | None) -> None:
    """Be this user and group from now on, and write files with this umask.

    Raises:
        CommandError: there is no such user or group, or this process may not be it.
    """
    try:
        if umask:
            os.umask(int(umask, 8))
    except ValueError as error:
        raise CommandError(f"--umask {umask!r} is no octal number, as in 022") from error
    if not uid and not gid and os.getuid() == os.geteuid():
        return
    from zerocelery import platforms

    try:
        platforms.maybe_drop_privileges(uid, gid)
    except (KeyError, OSError) as error:
        raise CommandError(f"this process can't become user {uid} and group {gid}: {error}") from error


def _text(value: str | int | None) -> str | None:
    """A user or group as it is written; in settings it may be a number."""
    return None if value is None else str(value)


def _octal(umask: str | int | None) -> str | None:
    """A umask as it is written; in settings it is a number."""
    return f"{umask:o}" if isinstance(umask, int) else umask


@contextlib.contextmanager
def _said_clearly() -> Iterator[None]:
    """What is wrong with settings is one sentence."""
    from zerocelery.exceptions import ImproperlyConfigured, SecurityError

    try:
        yield
    except (ImproperlyConfigured, SecurityError) as error:
        raise CommandError(str(error)) from error


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _option(group: str) -> Any:
    return functools.partial(click.option, cls=CeleryOption, help_group=group)


_worker_option = _option("Worker")
_pool_option = _option("Pool")
_queue_option = _option("Queues")
_feature_option = _option("Features")
_beat_option = _option("Embedded beat")
_names = functools.partial(_queue_option, type=comma_separated, metavar="QUEUES")

_worker_options = add_options(
    _worker_option("-n", "--hostname", metavar="NAME", help="The worker's name, as in w1@%h (%h: this host)."),
    _worker_option("-D", "--detach", is_flag=True, help="Run in the background."),
    _worker_option("-S", "--statedb", metavar="PATH", help="Keep revoked ids in this file over a restart."),
    _worker_option(
        "-O", "--optimization", type=click.Choice(["default", "fair"]), help="Accepted: fair it always is."
    ),
    _worker_option(
        "--prefetch-multiplier", type=click.IntRange(min=0), help="Messages held for each process, with a kombu broker."
    ),
    _worker_option("--disable-prefetch", is_flag=True, default=None, help="Hold none, with a kombu broker."),
    _worker_option("-I", "--include", type=comma_separated, metavar="MODULES", help="More task modules."),
)  # fmt: skip
_pool_options = add_options(
    _pool_option(
        "-c", "--concurrency", type=concurrency_number, metavar="NUMBER",
        help="Tasks at a time. Default: one for each processor.",
    ),
    _pool_option(
        "-P", "--pool", type=worker_pool, metavar="POOL", help=f"{', '.join(_POOLS)}, or package.module:Class."
    ),
    _pool_option("-E", "--task-events", "--events", "task_events", is_flag=True, default=None, help="Send events."),
    _pool_option("--time-limit", type=float, help="Seconds after which a task's process is killed and replaced."),
    _pool_option("--soft-time-limit", type=float, help="Seconds after which a task gets SoftTimeLimitExceeded."),
    _pool_option("--max-tasks-per-child", type=click.IntRange(min=1), help="Replace a process after so many tasks."),
    _pool_option("--max-memory-per-child", type=click.IntRange(min=1), help="Replace a process that takes more KiB."),
    _pool_option("--pool-start-method", type=click.Choice(["fork", "spawn"]), help="How processes start; fork."),
    _pool_option(
        "--autoscale", type=autoscale_range, metavar="MOST,LEAST", help="As many processes as there is work for."
    ),
)  # fmt: skip
_queue_options = add_options(
    _queue_option("--purge", "--discard", "purge", is_flag=True, help="Remove all waiting tasks first."),
    _names("-Q", "--queues", help="Serve these queues only, as in a,b."),
    _names("-X", "--exclude-queues", help="Serve all but these."),
)
#: Celery's workers talk to each other through the broker unless told not to. These ask the node, so there is nothing to
#: leave out, and start scripts that say it go on working.
_feature_options = add_options(
    _feature_option("--without-gossip", is_flag=True, help="Accepted: there is no gossip."),
    _feature_option("--without-mingle", is_flag=True, help="Accepted: there is no mingling."),
    _feature_option("--without-heartbeat", is_flag=True, help="Send no heartbeat events."),
    _feature_option("--heartbeat-interval", type=int, help="Seconds between heartbeat events."),
)
_beat_options = add_options(
    _beat_option("-B", "--beat", is_flag=True, help="Run beat, too. One worker of an app only may."),
    _beat_option("-s", "--schedule-filename", "--schedule", metavar="PATH", help="Where beat keeps its times."),
    _beat_option("--scheduler", metavar="CLASS", help="beat's scheduler."),
)


@click.command(cls=CeleryDaemonCommand)
@_worker_options
@_pool_options
@_queue_options
@_feature_options
@_beat_options
@metrics_option
@loglevel_option
@log_format_option
@click.pass_context
def worker(
    ctx: click.Context,
    /,
    *,
    hostname: str | None,
    pidfile: str | None,
    uid: str | int | None,
    gid: str | int | None,
    umask: str | int | None,
    executable: str | None,
    autoscale: tuple[int, int] | None,
    include: Sequence[str] | None,
    loglevel: int | None,
    metrics: str | None,
    logfile: str | None,
    **options: Any,
) -> None:
    """Start a worker. Where no node answers at the app's address, it brings one up.

    SIGTERM lets it finish what runs, SIGQUIT ends that, SIGINT does the first, then the second.
    """
    cli: CLIContext = ctx.obj
    if options.pop("detach"):
        ctx.exit(detach(executable, pidfile))
    if cli.broker:
        os.environ.setdefault("CELERY_BROKER_URL", cli.broker)
    app = ready_app(cli.app_name, include or ())
    if cli.broker:
        app.conf.broker_url = cli.broker
    settings = settings_of(ctx, app)
    known_broker(app)
    become(_text(uid), _text(gid), _octal(umask))
    # The node's start takes about as long as importing the rest of the worker, and there is a second processor.
    with _said_clearly(), node_on_its_way(app):
        from zerocelery.utils.nodenames import node_format
        from zerocelery.worker.worker import full_name

        app.finalize()
        name = full_name(hostname)
        program = app.Worker(
            settings=settings,
            hostname=name,
            app_name=cli.app_name,
            include=include,
            autoscale=autoscale,
            loglevel=logging.WARNING if loglevel is None else loglevel,
            logfile=logfile,
            quiet=cli.quiet,
            no_color=cli.no_color,
            **options,
        )
        program.process.preload()
    url = app.conf.broker_read_url or app.conf.broker_url or "zmq://"
    place = node_format(pidfile, name) if pidfile else None
    with _said_clearly(), pid_file(place, what="worker"), serving(metrics, url, name):
        code = program.start()
    if program.pool is not None and program.pool.has_threads and not program.shutdown.restarts:
        # They can't be ended, but the process can; nobody waits for what they still do.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if program.shutdown.restarts:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command
    ctx.exit(code)
