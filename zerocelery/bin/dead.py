"""``zerocelery dead``: tasks that were given up because too many workers were lost with them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from zerocelery.bin.base import CeleryCommand, CLIContext, CommandError, connected


@click.command(cls=CeleryCommand)
@click.argument("task_ids", nargs=-1, metavar="[TASK_ID]...")
@click.option("--send-again", is_flag=True, help="Send these tasks again; with --all, all.")
@click.option("--forget", is_flag=True, help="Keep these no longer; with --all, all.")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def dead(
    ctx: click.Context, /, *, task_ids: tuple[str, ...], send_again: bool, forget: bool, everything: bool, as_json: bool
) -> None:
    """Show dead letters: tasks that were given up because too many workers were lost while running them."""
    cli: CLIContext = ctx.obj
    if send_again and forget:
        raise CommandError("take one of --send-again and --forget")
    if (send_again or forget) and not task_ids and not everything:
        raise CommandError("say which: name task ids, or --all")
    with connected(cli):
        control = cli.app.control
        if not send_again and not forget:
            _show(cli, [one for one in control.dead_letters() if not task_ids or one["id"] in task_ids], as_json)
            return
        ids = None if everything else list(task_ids)
        done = control.send_again(ids) if send_again else control.forget_dead(ids)
    if as_json:
        cli.echo(json.dumps(done))
        return
    cli.echo(f"{len(done)} {'sent again' if send_again else 'forgotten'}{': ' if done else ''}{', '.join(done)}")
    missing = sorted(set(task_ids) - set(done))
    if missing:
        raise CommandError(f"there is no dead letter with the id {', '.join(missing)}")


def _show(cli: CLIContext, letters: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        cli.echo(json.dumps(letters))
        return
    for letter in letters:
        moment = datetime.fromtimestamp(letter["at"]).strftime("%Y-%m-%d %H:%M:%S")
        cli.echo(f"{letter['id']}  {letter['name']}  queue {letter['queue']}  {moment}")
        for line in json.loads(letter["history"]):
            cli.echo(f"    {line}")
    if not letters:
        cli.echo("There are no dead letters.")
