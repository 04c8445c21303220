"""The program ``zerocelery``: its own options, and the commands by name."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import sys
from typing import Any

import click

from zerocelery import __version__
from zerocelery.bin.base import EX_OK, CLIContext, CommandError, Failed, Unavailable, environment
from zerocelery.engine.errors import AddressError, EngineError, NodeRunning, NodeUnreachable

#: Each command's module and its line in the help: a command's own module is imported when it is called.
COMMANDS = {
    "beat": ("zerocelery.bin.beat", "Send periodic tasks when they are due."),
    "keygen": ("zerocelery.bin.keygen", "Make the keys of a node that other machines may reach."),
    "node": ("zerocelery.bin.node", "Run the node alone, as a service."),
    "status": ("zerocelery.bin.status", "Show the node, its queues and its workers."),
    "worker": ("zerocelery.bin.worker", "Start a worker, and a node if none answers."),
}


class DYMGroup(click.Group):
    """Commands that are imported when called; a wrong name is answered with the nearest right one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: text for name, (_, text) in COMMANDS.items()}
        lines.update({name: command.get_short_help_str() for name, command in self.commands.items()})
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what the engine refuses is one sentence and an exit code, not a traceback."""
        try:
            return super().invoke(ctx)
        except NodeRunning as error:
            raise Failed(str(error)) from error
        except AddressError as error:
            raise CommandError(str(error)) from error
        except NodeUnreachable as error:
            raise Unavailable(str(error)) from error
        except EngineError as error:
            raise Failed(str(error)) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            names = self.list_commands(ctx)
            near = difflib.get_close_matches(name, names, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            ctx.fail(f"there is no command {name!r}: {fix}")
        return super().resolve_command(ctx, args)


def _load(name: str | None) -> Any:
    from zerocelery.bin.lookup import load_app

    return load_app(name)


@click.group(cls=DYMGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", envvar="APP", metavar="MODULE", help="The app: proj, proj.module or proj.module:app.")
@click.option("-b", "--broker", envvar="BROKER_URL", metavar="URL", help="The node's address, or a broker's.")
@click.option("--result-backend", envvar="RESULT_BACKEND", metavar="URL", help="Where results go; default: the node.")
@click.option("--loader", envvar="LOADER", metavar="CLASS", help="The loader class, module:attribute.")
@click.option("--config", envvar="CONFIG_MODULE", metavar="MODULE", help="The module with the settings.")
@click.option("--workdir", type=click.Path(exists=True, file_okay=False), help="Work in this directory.")
@click.option("-C", "--no-color", is_flag=True, help="No colours.")
@click.option("-q", "--quiet", is_flag=True, help="No banner and no notices.")
@click.version_option(__version__, message="zerocelery %(version)s")
@click.pass_context
def celery(
    ctx: click.Context,
    *,
    app: str | None,
    broker: str | None,
    result_backend: str | None,
    loader: str | None,
    config: str | None,
    workdir: str | None,
    no_color: bool,
    quiet: bool,
) -> None:
    """A task queue with Celery's API that needs no server."""
    if workdir:
        os.chdir(workdir)
    environment(
        [
            ("CELERY_BROKER_URL", broker),
            ("CELERY_RESULT_BACKEND", result_backend),
            ("CELERY_LOADER", loader),
            ("CELERY_CONFIG_MODULE", config),
        ]
    )
    no_color = no_color or bool(os.environ.get("NO_COLOR"))
    ctx.obj = CLIContext(
        None, no_color, workdir, quiet=quiet, load=functools.partial(_load, app), broker=broker, app_name=app
    )
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> int:
    """Run the program with this process's arguments; click exits with the command's code, so this returns never."""
    celery(auto_envvar_prefix="CELERY")
    return EX_OK


if __name__ == "__main__":
    sys.exit(main())
