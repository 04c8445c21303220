"""``zerocelery upgrade settings``: settings by their names of today."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import click

from zerocelery.bin.base import CeleryCommand, CeleryOption, CLIContext, Failed, handle_preload_options

_GROUP = "Upgrading Options"
_NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


@click.group()
@click.pass_context
@handle_preload_options
def upgrade(ctx: click.Context, /) -> None:
    """Rewrite files that were written for older versions of Celery."""


@upgrade.command(cls=CeleryCommand)
@click.argument("filename", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--django", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Django's settings: CELERY_ before each name."
)
@click.option("--compat", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Keep the old names in capitals.")
@click.option(
    "--no-backup", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Don't keep the file as FILE.orig."
)
@click.pass_context
def settings(ctx: click.Context, /, filename: Path, django: bool, compat: bool, no_backup: bool) -> None:
    """Give the settings of a file their names of today, and keep the file as it was as FILE.orig."""
    cli: CLIContext = ctx.obj
    try:
        # Line ends and letters beyond ASCII are to stay as they are.
        with filename.open(encoding="utf-8", newline="") as file:
            before = file.read()
        cli.secho(f"processing {filename}...", fg="green", err=True)
        after = renamed(before, old_names(), django=django, compat=compat)
        if after == before:
            cli.echo("Does not seem to require any changes :-)")
            return
        if not no_backup:
            backup = filename.with_name(f"{filename.name}.orig")
            cli.secho(f"writing backup to {backup}...", fg="green", err=True)
            shutil.copy2(filename, backup)
        with filename.open("w", encoding="utf-8", newline="") as file:
            file.write(after)
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"{filename} can't be rewritten: {error}") from error
    cli.echo("Changes to your setting have been made!")


def old_names() -> dict[str, str]:
    """Settings' old names, and what each is called today."""
    from zerocelery.app.defaults import TO_NEW

    return dict(TO_NEW)


def renamed(text: str, names: Mapping[str, str], *, django: bool = False, compat: bool = False) -> str:
    """The text with each old name as it is today.

    Arguments:
        django: ``CELERY_`` before it, in capitals.
        compat: in capitals.
    """

    def today(found: re.Match[str]) -> str:
        name = names.get(found[0])
        if name is None:
            return found[0]
        if django:
            return f"CELERY_{name.upper()}"
        return name.upper() if compat else name

    return _NAME.sub(today, text)
