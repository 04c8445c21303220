"""``zerocelery events``: what happens to tasks and workers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from zerocelery.bin.base import (
    LOG_LEVEL,
    CeleryDaemonCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    handle_preload_options,
    handle_remote_command_error,
)

_SNAPSHOT = "Snapshot"


def _run_evdump(app: Any) -> None:
    from zerocelery.events.dumper import evdump

    evdump(app=app)


def _run_evcam(camera: str, app: Any, **options: Any) -> None:
    from zerocelery.bin.daemon import in_background
    from zerocelery.events.snapshot import evcam

    place = {name: options.pop(name) for name in ("detach", "uid", "gid", "umask", "executable", "workdir")}
    with in_background(logfile=options["logfile"], pidfile=options["pidfile"], what="camera", **place):
        evcam(camera, app=app, **{**options, "pidfile": None})


def _run_evtop(app: Any) -> None:
    try:
        from zerocelery.events.cursesmon import evtop
    except ImportError as error:
        raise CommandError(f"this Python has no curses ({error}): take --dump") from error
    evtop(app=app)


@click.command(cls=CeleryDaemonCommand)
@click.option("-d", "--dump", cls=CeleryOption, is_flag=True, help_group="Dumper", help="Print events as they come.")
@click.option(
    "-c", "--camera", cls=CeleryOption, metavar="CLASS", help_group=_SNAPSHOT, help="Give snapshots to this class."
)
@click.option("-D", "--detach", cls=CeleryOption, is_flag=True, help_group=_SNAPSHOT, help="Run in the background.")
@click.option(
    "-F",
    "--frequency",
    "--freq",
    cls=CeleryOption,
    type=float,
    default=1.0,
    show_default=True,
    help_group=_SNAPSHOT,
    help="Seconds between two snapshots.",
)
@click.option("-r", "--maxrate", cls=CeleryOption, help_group=_SNAPSHOT, help="No more snapshots than this: 10/m.")
@click.option(
    "-l",
    "--loglevel",
    cls=CeleryOption,
    type=LOG_LEVEL,
    default="WARNING",
    help_group=_SNAPSHOT,
    help="DEBUG, INFO, WARNING, ERROR or CRITICAL.",
)
@click.pass_context
@handle_preload_options
def events(ctx: click.Context, /, dump: bool, camera: str | None, frequency: float, **options: Any) -> None:
    """Watch events: on a screen, or as lines (--dump), or as snapshots that a class of yours gets (--camera)."""
    cli: CLIContext = ctx.obj
    try:
        run: Callable[[], None]
        if dump:
            run = functools.partial(_run_evdump, cli.app)
        elif camera:
            options = {name: options.get(name) for name in _OF_CAMERA}
            run = functools.partial(_run_evcam, camera, cli.app, freq=frequency, workdir=cli.workdir, **options)
        else:
            run = functools.partial(_run_evtop, cli.app)
        run()
    except Exception as error:
        handle_remote_command_error("events", error)


_OF_CAMERA = ("detach", "maxrate", "loglevel", "logfile", "pidfile", "uid", "gid", "umask", "executable")
