"""``zerocelery result``: the result of a task, by its id."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

from zerocelery.bin.base import (
    EX_FAILURE,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    Unavailable,
    connected,
    handle_preload_options,
)

_GROUP = "Result Options"


@click.command(cls=CeleryCommand)
@click.argument("task_id")
@click.option("-t", "--task", cls=CeleryOption, help_group=_GROUP, help="The task's name, where it has its own store.")
@click.option("--traceback", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="The traceback instead.")
@click.pass_context
@handle_preload_options
def result(ctx: click.Context, /, task_id: str, task: str | None, traceback: bool) -> None:
    """Print the result of a task, and wait for it where it isn't there yet. Exits with 1 where the task failed."""
    cli: CLIContext = ctx.obj
    found = _result_of(cli, task_id, task)
    with connected(cli), _of_store():
        if traceback:
            cli.echo(found.traceback or "")
            return
        value = found.get(propagate=False)
        failed = found.failed() or found.state == "REVOKED"
    if not failed:
        cli.echo(value)
        return
    if found.traceback:
        sys.stderr.write(f"{str(found.traceback).rstrip()}\n")
    else:
        cli.error(f"{type(value).__name__}: {value}")
    ctx.exit(EX_FAILURE)


@contextlib.contextmanager
def _of_store() -> Iterator[None]:
    """Where results are kept may be anything, and can't be reached in as many ways: each is one sentence."""
    from kombu.exceptions import OperationalError

    try:
        yield
    except (click.ClickException, OperationalError):
        raise
    except Exception as error:
        raise Unavailable(f"the result store can't be asked: {error}") from error


def _result_of(cli: CLIContext, task_id: str, task: str | None) -> Any:
    app = cli.app
    if task is None:
        return app.AsyncResult(task_id)
    if task not in app.tasks:
        raise CommandError(f"the app has no task {task!r}: give its whole name, as in proj.add, and the app with -A")
    return app.tasks[task].AsyncResult(task_id)
