"""``zerocelery beat``: send periodic tasks when they are due."""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from zerocelery.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    handle_preload_options,
    known_broker,
    log_format_option,
    settings_of,
)

if TYPE_CHECKING:
    from zerocelery.beat import Service


def _make_service(cli: CLIContext, **options: Any) -> Service:
    """The service with its scheduler, or one sentence on what is wrong with that."""
    from zerocelery.beat import Service

    service = Service(cli.app, **options)
    try:
        service.scheduler  # noqa: B018 - made here, where what is wrong with it can be said
    except (ImportError, AttributeError) as error:
        raise CommandError(
            f"there is no scheduler {options['scheduler_cls']!r} ({error}): name it with -S module:Class"
        ) from error
    except OSError as error:
        raise CommandError(
            f"the schedule file {service.schedule_filename} can't be used ({error}): name another with -s"
        ) from error
    return service


def banner(cli: CLIContext, service: Service, logfile: str | None, loglevel: int) -> str:
    """What beat says when it starts: Celery's headings, for those who look for them."""
    from zerocelery import __version__
    from zerocelery.app.censor import sanitize_url
    from zerocelery.app.utils import broker_url

    scheduler = service.scheduler
    kind = type(scheduler)
    names = sorted(name for name in scheduler.schedule if not name.startswith("celery."))
    rows = {
        "broker": sanitize_url(broker_url(cli.app.conf)),
        "scheduler": f"{kind.__module__}.{kind.__qualname__}",
        "db": service.schedule_filename,
        "logfile": f"{logfile or '[stderr]'}@%{logging.getLevelName(loglevel)}",
        "maxinterval": f"{scheduler.max_interval:g}s",
        "tasks": f"{len(names)}{': ' if names else ''}{', '.join(names)}",
    }
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"celery beat v{__version__} (zerocelery) is starting.", f"LocalTime -> {now}", "Configuration ->"]
    return "\n".join([*lines, *(f"    . {name} -> {value}" for name, value in rows.items())])


def _bring_up_node(cli: CLIContext) -> None:
    """Where tasks go to a node of this machine, and none runs, start one, as a worker does."""
    from zerocelery.app.utils import broker_url
    from zerocelery.engine.address import parse_address
    from zerocelery.engine.tenure import ensure_node

    if cli.app.has_node:
        ensure_node(parse_address(broker_url(cli.app.conf)))


@click.command(cls=CeleryDaemonCommand)
@click.option("--detach", cls=CeleryOption, is_flag=True, help_group="Beat Options", help="Run in the background.")
@click.option(
    "-s",
    "--schedule",
    cls=CeleryOption,
    type=click.Path(dir_okay=False),
    help="Keep in this file when each task ran last; default: the setting beat_schedule_filename.",
    help_group="Beat Options",
)
@click.option(
    "-S",
    "--scheduler",
    cls=CeleryOption,
    metavar="CLASS",
    help="The scheduler: module:Class, or the short name of an installed one.",
    help_group="Beat Options",
)
@click.option(
    "--max-interval",
    cls=CeleryOption,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Look at the schedule at least so often.",
    help_group="Beat Options",
)
@click.option(
    "--enable-remote-control/--no-enable-remote-control",
    "remote_control",
    cls=CeleryOption,
    default=None,
    help="Answer inspect ping while it ticks.",
    help_group="Beat Options",
)
@click.option(
    "-n", "--hostname", cls=CeleryOption, metavar="NAME", help="The name to answer under.", help_group="Beat Options"
)
@click.option(
    "-l",
    "--loglevel",
    cls=CeleryOption,
    type=LOG_LEVEL,
    default="WARNING",
    help_group="Beat Options",
    help="DEBUG, INFO, WARNING, ERROR or CRITICAL.",
)
@log_format_option
@click.pass_context
@handle_preload_options
def beat(
    ctx: click.Context,
    /,
    detach: bool,
    schedule: str | None,
    scheduler: str | None,
    max_interval: float | None,
    remote_control: bool | None,
    hostname: str | None,
    loglevel: int,
    log_format: str | None,
    logfile: str | None,
    pidfile: str | None,
    uid: str | None,
    gid: str | None,
    umask: str | None,
    executable: str | None,
    **own_options: Any,
) -> None:
    """Send periodic tasks when they are due. Over a broker run one for an app, as two would send everything twice; at
    a node further ones stand by.

    Where no node answers at the app's address, it brings one up. Ends on SIGTERM or SIGINT.
    """
    from zerocelery.bin.daemon import in_background
    from zerocelery.bin.lookup import import_tasks

    cli: CLIContext = ctx.obj
    app = cli.app
    conf = app.conf
    if cli.broker:
        conf.broker_url = cli.broker
    settings_of(ctx, app)
    known_broker(app)
    import_tasks(app)
    app.finalize()
    with in_background(
        detach=detach,
        logfile=logfile,
        pidfile=pidfile,
        uid=uid,
        gid=gid,
        umask=umask,
        workdir=cli.workdir,
        executable=executable,
        what="beat",
    ):
        if log_format == "json":
            conf.worker_log_format = conf.worker_task_log_format = log_format
        app.log.setup(loglevel, logfile, colorize=False if cli.no_color else None)
        service = _make_service(
            cli,
            max_interval=max_interval,
            schedule_filename=schedule,
            scheduler_cls=scheduler or conf.beat_scheduler,
            remote_control=remote_control,
            hostname=hostname,
        )
        _bring_up_node(cli)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, service.interrupt)
        if not cli.quiet:
            cli.echo(banner(cli, service, logfile, loglevel))
            sys.stdout.flush()
        service.start()
        app.close()
