"""``zerocelery status``: how the node, its queues and its workers are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from zerocelery.bin.base import EX_OK, EX_UNAVAILABLE, CeleryCommand, CeleryOption, CLIContext

if TYPE_CHECKING:
    from zerocelery.engine.address import Address

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@click.command(cls=CeleryCommand)
@click.option("-b", "--broker", cls=CeleryOption, metavar="URL", help="The node's address.")
@click.option(
    "-t", "--timeout", cls=CeleryOption, type=click.FloatRange(min=0), default=2.0, metavar="SECONDS", show_default=True
)
@click.option("-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help="Print it as JSON.")
@click.pass_context
def status(ctx: click.Context, *, broker: str | None, timeout: float, as_json: bool) -> None:
    """Show the node, its queues and its workers. Exits with 69 where no node or no worker answers."""
    from zerocelery.engine.address import parse_address

    cli: CLIContext = ctx.obj
    address = parse_address(cli.node_url(broker))
    found = ask(address, timeout=timeout)
    if as_json:
        cli.echo(json.dumps(found, sort_keys=True))
    else:
        for line in describe(address.url, found):
            cli.echo(line)
    ctx.exit(EX_OK if found["workers"] else EX_UNAVAILABLE)


def ask(address: Address, *, timeout: float) -> dict[str, Any]:
    """What the node says of itself.

    Raises:
        NodeUnreachable: none answered in time.
    """
    import msgspec

    from zerocelery.engine.producer import Producer, ProducerOptions

    producer = Producer(address, options=ProducerOptions(connect_timeout=timeout))
    try:
        return msgspec.msgpack.decode(producer.query("status", timeout=timeout), type=dict[str, Any])
    finally:
        producer.close(timeout=0)


def describe(url: str, found: Mapping[str, Any]) -> Iterator[str]:
    """A node's status for a person. The workers' lines begin as Celery writes them."""
    yield f"node {url}: pid {found['pid']}, up {_duration(found['uptime'])}, durability {found['durability']}"
    for name, queue in sorted(found["queues"].items()):
        yield f"queue {name}: {queue['waiting']} waiting, {queue['scheduled']} scheduled"
    workers: dict[str, list[Mapping[str, Any]]] = {}
    for process in found["workers"]:
        workers.setdefault(_worker_of(process["name"]), []).append(process)
    for name, pool in sorted(workers.items()):
        running = sum(len(process["running"]) for process in pool)
        queues = sorted({queue for process in pool for queue in process["queues"]})
        yield f"->  {name}: OK ({running} of {len(pool)} busy, queues {', '.join(queues)})"
    yield ""
    yield f"{len(workers)} {'worker' if len(workers) == 1 else 'workers'} online."


def _worker_of(process_name: str) -> str:
    """Each process or thread of a pool is numbered, as in ``w1@host/2``."""
    name, slash, number = process_name.rpartition("/")
    return name if slash and number.isdecimal() else process_name


def _duration(seconds: float) -> str:
    """The two largest units, as in ``3 h 12 min``."""
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
