"""``zerocelery report``: what belongs into a bug report."""

from __future__ import annotations

import click

from zerocelery.bin.base import CeleryCommand, CLIContext, handle_preload_options


@click.command(cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def report(ctx: click.Context, /) -> None:
    """Print what belongs into a bug report: versions, platform and settings, passwords starred out."""
    cli: CLIContext = ctx.obj
    cli.app.loader.import_default_modules()
    cli.echo(cli.app.bugreport())
