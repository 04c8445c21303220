"""``zerocelery list``: what is set up in a broker."""

from __future__ import annotations

import click

from zerocelery.bin.base import CeleryCommand, CLIContext, Failed, connected, handle_preload_options

_ROW = "{0:<28} {1:<28} {2}"


@click.group(name="list")
@click.pass_context
@handle_preload_options
def list_(ctx: click.Context, /) -> None:
    """List what is set up in a broker. RabbitMQ needs its management plugin for it."""


@list_.command(cls=CeleryCommand)
@click.pass_context
def bindings(ctx: click.Context, /) -> None:
    """List which queue gets what of which exchange."""
    cli: CLIContext = ctx.obj
    cli.echo(_ROW.format("Queue", "Exchange", "Routing Key"))
    cli.echo(_ROW.format("-" * 16, "-" * 16, "-" * 16))
    app = cli.app
    if app.has_node:  # its queues are bound in the app's settings
        for name, queue in sorted(app.amqp.queues.items()):
            cli.echo(_ROW.format(name, queue.exchange.name, queue.routing_key))
        return
    with connected(cli), app.connection_for_read() as connection:
        app.amqp.TaskConsumer(connection).declare()
        try:
            found = connection.manager.get_bindings()
        except NotImplementedError as error:
            raise Failed(f"a broker of {connection.transport.driver_type} can't list its bindings") from error
    for binding in found:
        cli.echo(_ROW.format(binding["destination"], binding["source"], binding["routing_key"]))
