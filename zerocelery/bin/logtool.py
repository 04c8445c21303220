"""``zerocelery logtool``: what a worker's log says of its tasks."""

from __future__ import annotations

import fileinput
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import click

from zerocelery.bin.base import CeleryCommand, CLIContext, Failed, handle_preload_options

_START = re.compile(r"\[\d{4}-\d\d-\d\d ")
_TASK = re.compile(r"\] Task (?P<name>[^\s\[\]]+)\[(?P<id>[^\s\[\]]+)\] (?P<what>.*)")
_RECEIVED = re.compile(r"\] Received task: (?P<name>[^\s\[\]]+)\[(?P<id>[^\s\[\]]+)\]")  # as Celery 4 wrote it

_REPORT = """
Report
======
Task total: {received}
Task errors: {errors}
Task success: {succeeded}
Task completed: {completed}
Tasks
=====
{types}
"""


@dataclass(slots=True)
class Audit:
    """Reads a log, counts, and calls what wants to know.

    Arguments:
        on_task_error: gets each line by which a task failed.
        on_trace: gets each whole traceback.
        on_debug: gets each line of the log that is not of a task.
    """

    on_task_error: Callable[[str], object] | None = None
    on_trace: Callable[[str], object] | None = None
    on_debug: Callable[[str], object] | None = None
    received: int = 0
    ended: set[str] = field(default_factory=set)
    open: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    succeeded: int = 0
    types: Counter[str] = field(default_factory=Counter)
    _trace: list[str] = field(default_factory=list)

    def run(self, lines: Iterable[str]) -> Audit:
        """Read all lines."""
        for line in lines:
            self.feed(line.rstrip("\r\n"))
        self._end_trace()
        return self

    def feed(self, line: str) -> None:
        """Read one line."""
        if not _START.match(line):
            # Only what begins as a traceback is one: a banner, too, has lines without a time.
            if self._trace or line.startswith("Traceback "):
                self._trace.append(line)
            return
        self._end_trace()
        task = _RECEIVED.search(line)
        if task is not None:
            self._receive(task["name"], task["id"])
            return
        task = _TASK.search(line)
        if task is None:
            if self.on_debug:
                self.on_debug(line)
        elif task["what"].startswith("received"):
            self._receive(task["name"], task["id"])
        else:
            self._ready(line, task["id"], task["what"])

    def _receive(self, name: str, task_id: str) -> None:
        self.received += 1
        self.types[name] += 1
        if task_id not in self.ended:
            self.open[task_id] = name

    def _ready(self, line: str, task_id: str, what: str) -> None:
        if what.startswith("retry:"):
            return  # it comes again
        self.open.pop(task_id, None)
        self.ended.add(task_id)
        if what.startswith(("succeeded", "ignored")):
            self.succeeded += 1
        elif what.startswith("raised"):
            self.failed += 1
            if self.on_task_error:
                self.on_task_error(line)

    def _end_trace(self) -> None:
        if self._trace and self.on_trace:
            self.on_trace("\n".join(self._trace))
        self._trace.clear()

    def report(self) -> str:
        """The counts, as text."""
        return _REPORT.format(
            received=self.received,
            errors=self.failed,
            succeeded=self.succeeded,
            completed=len(self.ended),
            types="\n".join(f"{name}: {count}" for name, count in self.types.most_common()),
        )


@click.group()
@click.pass_context
@handle_preload_options
def logtool(ctx: click.Context, /) -> None:
    """Look through a worker's log: of each FILE, or of stdin."""


_files = click.argument("files", nargs=-1)


def _lines(files: Sequence[str]) -> Iterator[str]:
    try:
        with fileinput.input(files or ("-",), encoding="utf-8", errors="replace") as lines:
            yield from lines
    except OSError as error:
        raise Failed(f"the log can't be read: {error}") from error


@logtool.command(cls=CeleryCommand)
@_files
@click.pass_context
def stats(ctx: click.Context, /, files: tuple[str, ...]) -> None:
    """Count tasks: by name, and by how they ended."""
    ctx.obj.echo(Audit().run(_lines(files)).report())


@logtool.command(cls=CeleryCommand)
@_files
@click.pass_context
def traces(ctx: click.Context, /, files: tuple[str, ...]) -> None:
    """Print all tracebacks."""
    Audit(on_trace=ctx.obj.echo).run(_lines(files))


@logtool.command(cls=CeleryCommand)
@_files
@click.pass_context
def errors(ctx: click.Context, /, files: tuple[str, ...]) -> None:
    """Print the lines of tasks that failed."""
    Audit(on_task_error=ctx.obj.echo).run(_lines(files))


@logtool.command(cls=CeleryCommand)
@_files
@click.pass_context
def incomplete(ctx: click.Context, /, files: tuple[str, ...]) -> None:
    """Print the ids of tasks that were received and have not ended."""
    cli: CLIContext = ctx.obj
    for task_id in Audit().run(_lines(files)).open:
        cli.echo(f"Did not complete: {task_id}")


@logtool.command(cls=CeleryCommand)
@_files
@click.pass_context
def debug(ctx: click.Context, /, files: tuple[str, ...]) -> None:
    """Print the lines that are not of tasks."""
    Audit(on_debug=ctx.obj.echo).run(_lines(files))
