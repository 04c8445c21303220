"""``zerocelery status``: which workers answer; and how the node is and its queues are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from zerocelery.bin.base import (
    EX_OK,
    EX_UNAVAILABLE,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    Unavailable,
    handle_preload_options,
    handle_remote_command_error,
)
from zerocelery.bin.control import NOBODY, online, patience, remote_options
from zerocelery.bin.nodes import ask

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))

#: Seconds that a node may take to answer.
_PATIENCE = 2.0


@click.command(cls=CeleryCommand)
@click.option("-b", "--broker", cls=CeleryOption, metavar="URL", help="The node's address, where no app is given.")
@click.option("--node", "only_node", cls=CeleryOption, is_flag=True, help="All that the node says of itself.")
@remote_options
@click.pass_context
@handle_preload_options
def status(
    ctx: click.Context,
    /,
    broker: str | None,
    only_node: bool,
    timeout: float | None,
    destination: list[str] | None,
    as_json: bool,
) -> None:
    """Show the node, its queues, and the workers that answer. Exits with 69 where none does."""
    cli: CLIContext = ctx.obj
    url = cli.node_url(broker)
    about = _about_node(url, timeout or _PATIENCE)
    if only_node:
        if about is None:
            raise Unavailable(f"there is no node at {url}, but a broker: leave --node out")
        cli.echo(json.dumps(about, sort_keys=True) if as_json else "\n".join(describe(url, about)))
        ctx.exit(EX_OK if about["workers"] else EX_UNAVAILABLE)
    if about is not None and not as_json and not cli.quiet:
        for line in describe(url, about):
            cli.echo(line)
    replies = _ping(cli, broker, patience(timeout, 1.0), destination)
    if not replies:
        raise Unavailable(NOBODY)
    if as_json:
        cli.echo(json.dumps(replies))
    else:
        for name in sorted(replies):
            word, _ = cli.pretty(replies[name])
            cli.say_chat("->", f"{name}: {word}")
    cli.echo(f"\n{online(replies)}")


def _about_node(url: str, timeout: float) -> dict[str, Any] | None:
    """What the node says of itself; None where a broker is in its place."""
    from zerocelery.engine.address import is_node, parse_address

    if not is_node(url):
        return None
    found: dict[str, Any] = ask(parse_address(url), timeout=timeout)
    return found


def _ping(cli: CLIContext, broker: str | None, timeout: float, destination: list[str] | None) -> Any:
    app = cli.app
    if broker:
        app.conf.broker_url = broker
    try:
        return app.control.inspect(timeout=timeout, destination=destination).ping()
    except Exception as error:
        handle_remote_command_error("status", error)


def describe(url: str, found: Mapping[str, Any]) -> Iterator[str]:
    """A node and its queues, for a person."""
    yield f"node {url}: pid {found['pid']}, up {duration(found['uptime'])}, durability {found['durability']}"
    for name, queue in sorted(found["queues"].items()):
        line = f"queue {name}: {queue['waiting']} waiting, {queue['scheduled']} scheduled"
        if queue.get("leased"):
            line += f", {queue['leased']} with workers"
        if queue.get("dead"):
            line += f", {queue['dead']} dead"
        if queue.get("oldest"):
            line += f", oldest waits {duration(queue['oldest'])}"
        yield line


def worker_of(process_name: str) -> str:
    """The worker that a process or thread of its pool belongs to: those are numbered, as in ``w1@host/2``."""
    name, slash, number = process_name.rpartition("/")
    return name if slash and number.isdecimal() else process_name


def duration(seconds: float) -> str:
    """The two largest units, as in ``3 h 12 min``."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
