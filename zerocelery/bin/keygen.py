"""``zerocelery keygen``: the keys with which a node can be reached from other machines."""

from __future__ import annotations

from pathlib import Path

import click

from zerocelery.bin.base import CeleryCommand, CLIContext


@click.command(cls=CeleryCommand)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def keygen(ctx: click.Context, directory: Path) -> None:
    """Make the CURVE keys of a node and of its clients in DIRECTORY."""
    from zerocelery.transport.curve import generate

    cli: CLIContext = ctx.obj
    for path in generate(directory):
        cli.echo(str(path))
    cli.echo(f"\nThe node:    zerocelery node -b 'zmq://0.0.0.0:5757?keys={directory}'")
    cli.echo("Clients and workers get node.key, client.key and client.key_secret, and use")
    cli.echo("             zmq://HOST:5757?keys=DIRECTORY, or zmq://HOST:5757 with ZEROCELERY_KEYS=DIRECTORY")
