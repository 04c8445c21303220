"""``zerocelery purge``: remove what waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from zerocelery.bin.base import (
    COMMA_SEPARATED_LIST,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    connected,
    handle_preload_options,
)
from zerocelery.utils.text import pluralize

_GROUP = "Purging Options"

#: Seconds that a node may take to answer.
_PATIENCE = 4.0


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.option("-f", "--force", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Don't ask.")
@click.option(
    "-Q", "--queues", cls=CeleryOption, type=COMMA_SEPARATED_LIST, help_group=_GROUP, help="These queues only."
)
@click.option(
    "-X",
    "--exclude-queues",
    cls=CeleryOption,
    type=COMMA_SEPARATED_LIST,
    help_group=_GROUP,
    help="All queues but these.",
)
@click.pass_context
@handle_preload_options
def purge(ctx: click.Context, /, force: bool, queues: list[str] | None, exclude_queues: list[str] | None) -> None:
    """Remove all waiting tasks of the app's queues. It can't be undone."""
    cli: CLIContext = ctx.obj
    names = sorted(set(queues or cli.app.amqp.queues) - set(exclude_queues or ()))
    if not names:
        return
    word = pluralize(len(names), "queue")
    if not force:
        cli.secho(f"WARNING: this removes all tasks from {word} {', '.join(names)}, and can't be undone.", fg="red")
        cli.echo("         (-f does it without asking)\n")
        click.confirm("Are you sure you want to delete all tasks?", abort=True)
    with connected(cli):
        removed = _purge_node(cli.app, names) if cli.app.has_node else _purge_broker(cli.app, names)
    if removed:
        cli.echo(f"Purged {removed} {pluralize(removed, 'message')} from {len(names)} known task {word}.")
    else:
        cli.echo(f"No messages purged from {len(names)} {word}.")


def _purge_broker(app: Any, names: Iterable[str]) -> int:
    removed = 0
    with app.connection_for_write() as connection:
        for name in names:
            try:
                removed += connection.default_channel.queue_purge(name) or 0
            except connection.channel_errors:
                pass  # there is no such queue: nothing waits in it
    return removed


def _purge_node(app: Any, names: Iterable[str]) -> int:
    from zerocelery.app.utils import broker_url
    from zerocelery.bin.nodes import client_of
    from zerocelery.engine.address import parse_address
    from zerocelery.engine.purging import purge_queue

    with client_of(parse_address(broker_url(app.conf)), timeout=_PATIENCE) as client:
        return sum(purge_queue(client, name) for name in names)
