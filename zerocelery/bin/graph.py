"""``zerocelery graph``: pictures for graphviz, as dot."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from zerocelery.bin.base import (
    CeleryCommand,
    CLIContext,
    CommandError,
    handle_preload_options,
    handle_remote_command_error,
)

#: What a worker is made of, and what each part needs. The node may be another process's.
PARTS = {
    "Journal": (),
    "Publisher": ("Journal",),
    "Collector": ("Journal", "Publisher"),
    "Node": ("Collector", "Publisher"),
    "Worker": ("Node",),
    "Pool": ("Worker",),
    "Strategy": ("Pool",),
}

_SHAPES = {"broker": "circle", "backend": "folder", "worker": "box", "process": "oval", "rest": "box"}

#: Processes of one worker that are drawn; the others are counted in one more.
_MOST = 10


@click.group()
@click.pass_context
@handle_preload_options
def graph(ctx: click.Context, /) -> None:
    """Draw the worker's parts, or the workers: pipe it to ``dot -Tpng``."""


@graph.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.pass_context
def bootsteps(ctx: click.Context, /) -> None:
    """Draw what a worker is made of; with ``worker`` or ``consumer``: the steps that the app adds there."""
    cli: CLIContext = ctx.obj
    wanted = list(ctx.args) or ["worker", "consumer"]
    unknown = [name for name in wanted if name not in ("worker", "consumer")]
    if unknown:
        raise CommandError(f"there are no steps of {unknown[0]!r}: take worker or consumer")
    parts: dict[str, Sequence[str]] = dict(PARTS)
    for place in wanted:
        for step in sorted(cli.app.steps[place], key=_name):
            parts[_name(step)] = ["Worker", *(_name(needed) for needed in getattr(step, "requires", ()))]
    _draw([(name, "rest") for name in parts], [(name, needed) for name, all_ in parts.items() for needed in all_])


def _name(step: Any) -> str:
    return step.rpartition(":")[2].rpartition(".")[2] if isinstance(step, str) else step.__name__


@graph.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.pass_context
def workers(ctx: click.Context, /) -> None:
    """Draw the workers that answer, with their processes, the broker and the result store.

    ``nodes:w1,w2 threads:4,2`` draws these instead, and asks nobody.
    """
    cli: CLIContext = ctx.obj
    given = _given(ctx.args)
    try:
        sizes = _planned(given) if "nodes" in given else _answering(cli)
    except Exception as error:
        handle_remote_command_error("graph workers", error)
    conf = cli.app.conf
    broker, backend = _addresses(conf)
    nodes = [(broker, "broker")] + ([(backend, "backend")] if backend != broker else [])
    edges: list[tuple[str, str]] = []
    for worker, processes in sizes.items():
        nodes.append((worker, "worker"))
        edges += [(worker, broker)] + ([(worker, backend)] if backend != broker else [])
        names = processes if len(processes) <= _MOST else [*processes[:_MOST], f"{len(processes) - _MOST} more"]
        for process in names:
            nodes.append((f"{worker} {process}", "process"))
            edges.append((f"{worker} {process}", worker))
    _draw(nodes, edges)


def _given(arguments: Sequence[str]) -> dict[str, list[str]]:
    found = {}
    for argument in arguments:
        name, colon, values = argument.replace("=", ":", 1).partition(":")
        if not colon or name not in ("nodes", "threads"):
            raise CommandError(f"{argument!r} is not understood: write nodes:w1,w2 and threads:4,2")
        found[name] = values.split(",")
    return found


def _planned(given: Mapping[str, list[str]]) -> dict[str, list[str]]:
    names, threads = given["nodes"], given.get("threads", [])
    counts = [*map(int, threads), *[0] * len(names)]
    return {name: [str(number + 1) for number in range(count)] for name, count in zip(names, counts, strict=False)}


def _answering(cli: CLIContext) -> dict[str, list[str]]:
    replies = cli.app.control.inspect().stats() or {}
    found = {}
    for name, stats in sorted(replies.items()):
        pool = stats.get("pool") or {}
        processes = pool.get("processes") or range(1, int(pool.get("max-concurrency") or 0) + 1)
        found[name] = [str(process) for process in processes]
    return found


def _addresses(conf: Any) -> tuple[str, str]:
    from zerocelery.app.censor import sanitize_url
    from zerocelery.app.utils import broker_url

    broker = sanitize_url(broker_url(conf))
    backend = conf.result_backend
    return broker, sanitize_url(str(backend)) if backend else broker


def _draw(nodes: Sequence[tuple[str, str]], edges: Sequence[tuple[str, str]]) -> None:
    lines = ["digraph dependencies {"]
    lines += [f'    "{_quoted(name)}" [shape="{_SHAPES[kind]}"]' for name, kind in nodes]
    lines += [f'    "{_quoted(one)}" -> "{_quoted(other)}"' for one, other in edges]
    lines.append("}")
    sys.stdout.write("\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
