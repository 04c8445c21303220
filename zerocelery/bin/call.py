"""``zerocelery call``: send a task by its name."""

from __future__ import annotations

import datetime
from typing import Any

import click

from zerocelery.bin.base import (
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    connected,
    handle_preload_options,
)

_CALLING, _ROUTING = "Calling Options", "Routing Options"


@click.command(cls=CeleryCommand)
@click.argument("name")
@click.option(
    "-a", "--args", cls=CeleryOption, type=JSON_ARRAY, default="[]", help_group=_CALLING, help="Arguments, as in [1,2]."
)
@click.option(
    "-k", "--kwargs", cls=CeleryOption, type=JSON_OBJECT, default="{}", help_group=_CALLING, help='As in {"x": 1}.'
)
@click.option("--eta", cls=CeleryOption, type=ISO8601, help_group=_CALLING, help="Not before this point in time.")
@click.option("--countdown", cls=CeleryOption, type=float, help_group=_CALLING, help="Not before so many seconds.")
@click.option(
    "--expires",
    cls=CeleryOption,
    type=ISO8601_OR_FLOAT,
    help_group=_CALLING,
    help="Not after this point in time, or so many seconds from now.",
)
@click.option("--serializer", cls=CeleryOption, help_group=_CALLING, help="json, pickle, yaml or msgpack.")
@click.option("--queue", cls=CeleryOption, help_group=_ROUTING, help="Send it to this queue.")
@click.option("--exchange", cls=CeleryOption, help_group=_ROUTING, help="Send it to this exchange of a broker.")
@click.option("--routing-key", cls=CeleryOption, help_group=_ROUTING, help="With this routing key.")
@click.pass_context
@handle_preload_options
def call(
    ctx: click.Context,
    /,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    eta: datetime.datetime | None,
    countdown: float | None,
    expires: Any,
    serializer: str | None,
    queue: str | None,
    exchange: str | None,
    routing_key: str | None,
) -> None:
    """Call a task by its name, and print its id. The task's code need not be here."""
    cli: CLIContext = ctx.obj
    with connected(cli):
        result = cli.app.send_task(
            name,
            args=args,
            kwargs=kwargs,
            countdown=countdown,
            serializer=serializer,
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            eta=eta,
            expires=expires,
        )
    cli.echo(result.id)
