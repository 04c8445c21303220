"""``zerocelery migrate``: move waiting tasks to another broker."""

from __future__ import annotations

from typing import Any

import click

from zerocelery.bin.base import CeleryCommand, CeleryOption, CLIContext, CommandError, connected, handle_preload_options

_GROUP = "Migration Options"


@click.command(cls=CeleryCommand)
@click.argument("source")
@click.argument("destination")
@click.option("-n", "--limit", cls=CeleryOption, type=int, help_group=_GROUP, help="No more than so many tasks.")
@click.option(
    "-t",
    "--timeout",
    cls=CeleryOption,
    type=float,
    default=1.0,
    show_default=True,
    help_group=_GROUP,
    help="End when no task came for so many seconds.",
)
@click.option("-a", "--ack-messages", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Remove them there.")
@click.option("-T", "--tasks", cls=CeleryOption, help_group=_GROUP, help="Only tasks of these names, as in a.b,a.c.")
@click.option("-Q", "--queues", cls=CeleryOption, help_group=_GROUP, help="Only of these queues; old:new renames one.")
@click.option("-F", "--forever", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Go on until it is killed.")
@click.pass_context
@handle_preload_options
def migrate(ctx: click.Context, /, source: str, destination: str, **options: Any) -> None:
    """Send the tasks that wait at SOURCE to DESTINATION: URLs of brokers, or of nodes (zmq://).

    Without -a they stay in SOURCE, too. Stop its workers before: what they hold is not moved.
    """
    from kombu.connection import Connection as _Connection

    from zerocelery.app.channel import register
    from zerocelery.contrib.migrate import migrate_tasks
    from zerocelery.engine.address import is_node

    if options["forever"] and is_node(source) and not options["ack_messages"]:
        raise CommandError("-F with a node as SOURCE needs -a: what is left there would be sent again and again")
    register()
    Connection: Any = _Connection
    # RabbitMQ is to say that it has a task before that is removed from where it was.
    confirmed = {"confirm_publish": True} if destination.startswith(("amqp", "pyamqp")) else {}
    cli: CLIContext = ctx.obj

    def told(state: Any, body: Any, message: Any) -> None:
        headers = message.headers
        cli.echo(f"Migrating task {state.count + 1}/{state.strtotal}: {headers.get('task')}[{headers.get('id')}]")

    with connected(cli), Connection(source) as old, Connection(destination, transport_options=confirmed) as new:
        migrate_tasks(old, new, app=cli.app, callback=told, **options)
