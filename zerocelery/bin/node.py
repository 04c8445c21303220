"""``zerocelery node``: the node alone, for systemd or a container. It loads no app, so it stays small."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import click

from zerocelery.bin.base import (
    LOG_FORMAT,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    log_format_option,
    log_options,
    setup_logging,
)
from zerocelery.bin.metrics import metrics_option, serving

if TYPE_CHECKING:
    from zerocelery.engine.journal import Durability


@click.command(cls=CeleryCommand)
@click.option(
    "-b",
    "--broker",
    cls=CeleryOption,
    metavar="URL",
    help="The address: zmq:// (default), zmq:///a/directory or zmq://host:port.",
)
@click.option(
    "--directory",
    cls=CeleryOption,
    type=click.Path(file_okay=False),
    help="Where a TCP node keeps its journal. Default: below this user's state.",
)
@click.option(
    "--durability",
    cls=CeleryOption,
    type=click.Choice(["none", "process", "power"]),
    default="process",
    show_default=True,
    help="What accepted tasks survive: nothing; the end of any process; a power cut, too.",
    help_group="Limits and promises",
)
@click.option(
    "--queue-limit",
    cls=CeleryOption,
    type=click.IntRange(min=1),
    metavar="TASKS",
    help="Refuse tasks for a queue that holds so many.",
    help_group="Limits and promises",
)
@click.option(
    "--max-message",
    cls=CeleryOption,
    type=click.IntRange(min=1024),
    metavar="BYTES",
    help="Refuse larger tasks and results.",
    help_group="Limits and promises",
)
@click.option(
    "--insecure",
    cls=CeleryOption,
    is_flag=True,
    help="Listen where other machines can reach it: whoever reaches a node can run code.",
    help_group="Limits and promises",
)
@metrics_option
@log_options
@log_format_option
@click.pass_context
def node(
    ctx: click.Context,
    *,
    broker: str | None,
    directory: str | None,
    durability: Durability,
    queue_limit: int | None,
    max_message: int | None,
    insecure: bool,
    loglevel: int | None,
    logfile: str | None,
    log_format: str | None,
    metrics: str | None,
) -> None:
    """Run the node alone; workers and clients of its address find it. Ends on SIGTERM or SIGINT."""
    from zerocelery.engine.address import parse_address
    from zerocelery.engine.collector import Limits
    from zerocelery.engine.node import run_node

    cli: CLIContext = ctx.obj
    usual = logging.WARNING if cli.quiet else logging.INFO  # at INFO the node says where it is, once it is ready
    setup_logging(
        usual if loglevel is None else loglevel, logfile, format="json" if log_format == "json" else LOG_FORMAT
    )
    address = parse_address(cli.node_url(broker), directory=directory)
    limits = Limits()
    limits = dataclasses.replace(
        limits, queue_limit=queue_limit or limits.queue_limit, max_message=max_message or limits.max_message
    )
    with serving(metrics, address.url):
        code = run_node(address, durability=durability, limits=limits, insecure=insecure)
    ctx.exit(code)
