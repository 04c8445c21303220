"""``zerocelery beat``: send periodic tasks when they are due."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from zerocelery.bin.base import (
    LOG_FORMAT,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    log_options,
    pid_file,
    setup_logging,
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


def _bring_up_node(cli: CLIContext) -> None:
    """Where tasks go to a node of this machine, and none runs, start one, as a worker does."""
    from zerocelery.app.utils import broker_url
    from zerocelery.engine.address import parse_address
    from zerocelery.engine.node import ensure_node

    if cli.app.has_node:
        ensure_node(parse_address(broker_url(cli.app.conf)))


@click.command(cls=CeleryCommand)
@click.option(
    "-s",
    "--schedule",
    cls=CeleryOption,
    type=click.Path(dir_okay=False),
    help="Keep in this file when each task ran last; default: the setting beat_schedule_filename.",
    help_group="Beat",
)
@click.option(
    "-S",
    "--scheduler",
    cls=CeleryOption,
    metavar="CLASS",
    help="The scheduler: module:Class, or the short name of an installed one.",
    help_group="Beat",
)
@click.option(
    "--max-interval",
    cls=CeleryOption,
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Look at the schedule at least so often.",
    help_group="Beat",
)
@click.option(
    "--enable-remote-control/--disable-remote-control",
    "remote_control",
    cls=CeleryOption,
    default=None,
    help="Answer inspect ping, over brokers that are no nodes.",
    help_group="Beat",
)
@click.option("-n", "--hostname", cls=CeleryOption, metavar="NAME", help="The name to answer under.", help_group="Beat")
@click.option(
    "--pidfile",
    cls=CeleryOption,
    type=click.Path(dir_okay=False),
    help="Keep the pid in this file while running; don't start where it is there.",
    help_group="Beat",
)
@log_options
@click.pass_context
def beat(
    ctx: click.Context,
    *,
    schedule: str | None,
    scheduler: str | None,
    max_interval: float | None,
    remote_control: bool | None,
    hostname: str | None,
    pidfile: str | None,
    loglevel: int | None,
    logfile: str | None,
) -> None:
    """Send periodic tasks when they are due. Run one for an app: two would send everything twice.

    Where no node answers at the app's address, it brings one up. Ends on SIGTERM or SIGINT.
    """
    from zerocelery.bin.lookup import import_tasks

    cli: CLIContext = ctx.obj
    app = cli.app
    conf = app.conf
    setup_logging(
        logging.WARNING if loglevel is None else loglevel, logfile, format=conf.worker_log_format or LOG_FORMAT
    )
    if cli.broker:
        conf.broker_url = cli.broker
    import_tasks(app)
    app.finalize()
    with pid_file(pidfile, what="beat"):
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
            names = sorted(name for name in service.scheduler.schedule if not name.startswith("celery."))
            cli.echo(f"beat: {len(names)} periodic tasks{': ' if names else ''}{', '.join(names)}")
            sys.stdout.flush()
        service.start()
        app.close()
