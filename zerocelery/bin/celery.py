"""The program ``zerocelery``: its own options, and the commands by name."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import os
import sys
from typing import Any

import click

from zerocelery import __version__
from zerocelery.bin.base import (
    EX_OK,
    CLIContext,
    CommandError,
    Failed,
    Unavailable,
    environment,
    handle_preload_options,
)
from zerocelery.engine.errors import AddressError, EngineError, NodeRunning, NodeUnreachable

#: Each command's module and its line in the help: a command's own module is imported when it is called.
COMMANDS = {
    "amqp": ("zerocelery.bin.amqp", "Declare, bind, purge, publish and get at a broker."),
    "beat": ("zerocelery.bin.beat", "Send periodic tasks when they are due."),
    "call": ("zerocelery.bin.call", "Call a task by its name."),
    "control": ("zerocelery.bin.control", "Tell workers what to do."),
    "dead": ("zerocelery.bin.dead", "Show tasks that were given up, and send them again."),
    "events": ("zerocelery.bin.events", "Watch events: as lines, as snapshots, on a screen."),
    "graph": ("zerocelery.bin.graph", "Draw the worker's parts, or the workers, for graphviz."),
    "inspect": ("zerocelery.bin.control", "Ask workers how they are."),
    "keygen": ("zerocelery.bin.keygen", "Make the keys of a node that other machines may reach."),
    "list": ("zerocelery.bin.list", "List the bindings of a broker."),
    "logtool": ("zerocelery.bin.logtool", "Count what a worker's log says of tasks."),
    "migrate": ("zerocelery.bin.migrate", "Move waiting tasks between brokers and nodes."),
    "multi": ("zerocelery.bin.multi", "Start and stop several workers in the background."),
    "node": ("zerocelery.bin.node", "Run the node alone, as a service."),
    "purge": ("zerocelery.bin.purge", "Remove all waiting tasks."),
    "report": ("zerocelery.bin.report", "Print what belongs into a bug report."),
    "result": ("zerocelery.bin.result", "Print the result of a task."),
    "shell": ("zerocelery.bin.shell", "Start Python with the app and its tasks."),
    "status": ("zerocelery.bin.status", "Show the node, its queues and its workers."),
    "top": ("zerocelery.bin.top", "Show workers, queues and tasks in the terminal, live."),
    "upgrade": ("zerocelery.bin.upgrade", "Rewrite settings of Celery 3 with their names of today."),
    "worker": ("zerocelery.bin.worker", "Start a worker, and a node if none answers."),
}

#: Commands that never look at the app: ``-A`` is not loaded for them.
APPLESS = frozenset({"keygen", "logtool", "multi", "node"})

#: Where packages announce commands of their own.
PLUGINS = "celery.commands"


class DYMGroup(click.Group):
    """Commands that are imported when called; a wrong name is answered with the nearest right one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *_plugins(), *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            if cmd_name in COMMANDS:
                module = importlib.import_module(COMMANDS[cmd_name][0])
                # A command that is called as a builtin is has a _ behind its name.
                self.add_command(getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_"), cmd_name)
            elif cmd_name in _plugins():
                self.add_command(_plugin(cmd_name), cmd_name)
        return self.commands.get(cmd_name)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; options of the app (``app.user_options["preload"]``) don't trouble one that knows none."""
        if cmd.callback is not None:
            cmd.callback = handle_preload_options(cmd.callback)
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: text for name, (_, text) in COMMANDS.items()}
        for name in {*_plugins(), *self.commands} - set(COMMANDS):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                lines[name] = command.get_short_help_str()
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what the engine refuses is one sentence and an exit code, not a traceback."""
        if ctx.obj is None:
            ctx.obj = _context(**ctx.params)
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
        if ctx.resilient_parsing:  # the shell completes a line, and may load nothing
            return super().resolve_command(ctx, args)
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            names = self.list_commands(ctx)
            near = difflib.get_close_matches(name, names)
            fix = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(names)}"
            ctx.fail(f"there is no command {name!r}: {fix}")
        name, command, rest = super().resolve_command(ctx, args)  # type: ignore[assignment]
        return name, command and _with_user_options(ctx, name, command), rest


def _plugins() -> dict[str, Any]:
    from importlib.metadata import entry_points  # 30 ms that a command of our own does without

    return {point.name: point for point in entry_points(group=PLUGINS)}


def _plugin(name: str) -> click.Command:
    """The command of a package; where its module can't be imported, a command that says so."""
    try:
        found = _plugins()[name].load()
    except Exception as error:
        # With the others the program goes on working.
        return _broken_plugin(name, f"the command {name!r} of an installed package can't be loaded: {error!r}")
    if not isinstance(found, click.Command):
        return _broken_plugin(name, f"the command {name!r} of an installed package is no click command: {found!r}")
    return found


def _broken_plugin(name: str, why: str) -> click.Command:
    @click.command(name, help=why, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def broken() -> None:
        raise Failed(why)

    return broken


def _with_user_options(ctx: click.Context, name: str, command: click.Command) -> click.Command:
    """The command with the options that the app adds to it: a copy, for the next call may be another app's."""
    cli: CLIContext = ctx.obj
    if not cli.app_name or name in APPLESS:
        return command
    user_options = cli.app.user_options
    own = sorted(user_options.get(name) or (), key=lambda option: str(option.name))
    preload = sorted(user_options.get("preload") or (), key=lambda option: str(option.name))
    if not own and not preload:
        return command
    command = copy.copy(command)
    known = {param.name for param in command.params}
    command.params = [*command.params, *(option for option in (*own, *preload) if option.name not in known)]
    return command


def _load(name: Any) -> Any:
    from zerocelery.bin.lookup import load_app

    # app.start() gives the app itself
    return load_app(name) if name is None or isinstance(name, str) else name


def _context(
    *,
    app: Any,
    broker: str | None,
    result_backend: str | None,
    loader: str | None,
    config: str | None,
    workdir: str | None,
    no_color: bool,
    quiet: bool,
    skip_checks: bool,
) -> CLIContext:
    if workdir:
        os.chdir(workdir)
    environment(
        [
            ("CELERY_BROKER_URL", broker),
            ("CELERY_RESULT_BACKEND", result_backend),
            ("CELERY_LOADER", loader),
            ("CELERY_CONFIG_MODULE", config),
            ("CELERY_SKIP_CHECKS", "true" if skip_checks else None),
        ]
    )
    return CLIContext(
        None,
        no_color or bool(os.environ.get("NO_COLOR")),
        workdir,
        quiet=quiet,
        load=functools.partial(_load, app),
        broker=broker,
        app_name=app,
    )


@click.group(cls=DYMGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-A",
    "--app",
    type=click.UNPROCESSED,
    envvar="APP",
    metavar="MODULE",
    help="The app: proj, proj.module or proj.module:app.",
)
@click.option("-b", "--broker", envvar="BROKER_URL", metavar="URL", help="The node's address, or a broker's.")
@click.option("--result-backend", envvar="RESULT_BACKEND", metavar="URL", help="Where results go; default: the node.")
@click.option("--loader", envvar="LOADER", metavar="CLASS", help="The loader class, module:attribute.")
@click.option("--config", envvar="CONFIG_MODULE", metavar="MODULE", help="The module with the settings.")
@click.option("--workdir", type=click.Path(exists=True, file_okay=False), help="Work in this directory.")
@click.option("-C", "--no-color", is_flag=True, help="No colours.")
@click.option("-q", "--quiet", is_flag=True, help="No banner and no notices.")
@click.option("--skip-checks", envvar="SKIP_CHECKS", is_flag=True, help="Without the checks that Django does first.")
@click.version_option(__version__, message="zerocelery %(version)s")
@click.pass_context
def celery(ctx: click.Context, /, **options: Any) -> None:
    """A task queue with Celery's API that needs no server."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> int:
    """Run the program with this process's arguments; click exits with the command's code, so this returns never."""
    from zerocelery.concurrency.green import patch_for_command

    patch_for_command()  # a script that was installed before comes here, and not by __main__
    celery(auto_envvar_prefix="CELERY")
    return EX_OK


if __name__ == "__main__":
    sys.exit(main())
