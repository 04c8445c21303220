"""``zerocelery inspect`` and ``zerocelery control``: ask workers, and tell them what to do."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from zerocelery.bin.base import (
    COMMA_SEPARATED_LIST,
    EX_OK,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    Unavailable,
    add_options,
    handle_preload_options,
    handle_remote_command_error,
)
from zerocelery.utils.text import pluralize

if TYPE_CHECKING:
    Kind = Literal["inspect", "control"]

NOBODY = "No nodes replied within time constraint"

#: The shortest wait for answers, in seconds: 0 means for ever to those below.
_LEAST = 0.001

_GROUP = "Remote Control Options"

remote_options = add_options(
    click.option("-t", "--timeout", cls=CeleryOption, type=float, help_group=_GROUP, help="Seconds to wait."),
    click.option(
        "-d",
        "--destination",
        cls=CeleryOption,
        type=COMMA_SEPARATED_LIST,
        help_group=_GROUP,
        help="These workers only, as in w1@host,w2@host.",
    ),
    click.option("-j", "--json", "as_json", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Print JSON."),
)


def commands_of(kind: Kind) -> dict[str, Any]:
    """The commands that workers know, an app's own among them, and what each takes."""
    from zerocelery.worker.control import Panel

    return {name: info for name, info in sorted(Panel.meta.items()) if info.type == kind and info.visible}


def _listing(kind: Kind) -> Callable[[click.Context, click.Parameter, bool], None]:
    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if not value or ctx.resilient_parsing:
            return
        _ = ctx.obj.app  # with the commands that it adds
        formatter = click.HelpFormatter()
        with formatter.section(f"{kind.capitalize()} Commands"):
            formatter.write_dl(
                [
                    (f"{name} {info.signature}" if info.signature else name, info.help or "")
                    for name, info in commands_of(kind).items()
                ]
            )
        ctx.obj.echo(formatter.getvalue(), nl=False)
        ctx.exit(EX_OK)

    return show


def _list_option(kind: Kind) -> Callable[[Any], Any]:
    return click.option(
        "--list",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_listing(kind),
        help=f"List the {kind} commands, and exit.",
    )


def _known(kind: Kind, command: str) -> Any:
    known = commands_of(kind)
    if command not in known:
        raise click.UsageError(
            f"Command {command} not recognized. Available {kind} commands: {', '.join(known)}",
            ctx=click.get_current_context(),
        )
    return known[command]


def _arguments(command: str, info: Any, given: Sequence[str]) -> dict[str, Any]:
    """What was written behind the command, by name and of the type that the command takes."""
    names = list(info.args or ())
    found: dict[str, Any] = {}
    for (name, convert), text in zip(names, given, strict=False):
        try:
            found[name] = convert(text) if convert else text
        except (TypeError, ValueError) as error:
            raise click.UsageError(f"{command}: {text!r} can't be its {name}: {error}") from error
    rest = list(given[len(names) :])
    if info.variadic:
        found[info.variadic] = _headers(rest) if info.variadic == "headers" else rest
    elif rest:
        raise click.UsageError(f"{command} takes {len(names) or 'no'} arguments: {' '.join(rest)} is too much")
    return found


def _headers(given: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is no header: write it as key=value")
        found.setdefault(key, []).append(value)
    return found


def _say(cli: CLIContext, answer: Mapping[str, Any], *, show_body: bool) -> None:
    """One worker's answer, as it comes."""
    name = next(iter(answer))
    status, body = cli.pretty(answer[name])
    cli.say_chat("->", f"{name}: {status}", body, show_body=show_body)


def online(replies: Sequence[Any] | Mapping[str, Any]) -> str:
    """The line that ends a list of workers."""
    return f"{len(replies)} {pluralize(len(replies), 'node')} online."


def patience(given: float | None, usual: float) -> float:
    """How many seconds to wait for answers."""
    return max(usual if given is None else given, _LEAST)


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command")
@_list_option("inspect")
@remote_options
@click.pass_context
@handle_preload_options
def inspect(
    ctx: click.Context, /, command: str, timeout: float | None, destination: list[str] | None, as_json: bool
) -> None:
    """Ask workers how they are. Exits with 69 where none answers."""
    cli: CLIContext = ctx.obj
    try:
        app = cli.app
        info = _known("inspect", command)
        arguments = _arguments(command, info, ctx.args)
        replies = app.control.inspect(
            timeout=patience(timeout, info.default_timeout),
            destination=destination,
            callback=None if as_json else functools.partial(_say, cli, show_body=True),
        )._request(command, **arguments)
    except Exception as error:
        handle_remote_command_error(f"inspect {command}", error)
    if not replies:
        raise Unavailable(NOBODY)
    if as_json:
        cli.echo(json.dumps(replies, default=repr))
    elif not cli.quiet:
        cli.echo(f"\n{online(replies)}")


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.argument("command")
@_list_option("control")
@remote_options
@click.pass_context
@handle_preload_options
def control(
    ctx: click.Context, /, command: str, timeout: float | None, destination: list[str] | None, as_json: bool
) -> None:
    """Tell workers what to do. Exits with 69 where none answers."""
    cli: CLIContext = ctx.obj
    try:
        app = cli.app
        info = _known("control", command)
        arguments = _arguments(command, info, ctx.args)
        replies = app.control.broadcast(
            command,
            timeout=patience(timeout, info.default_timeout),
            destination=destination,
            callback=None if as_json else functools.partial(_say, cli, show_body=True),
            reply=True,
            arguments=arguments,
        )
    except Exception as error:
        handle_remote_command_error(f"control {command}", error)
    if not replies:
        raise Unavailable(NOBODY)
    if as_json:
        cli.echo(json.dumps(replies, default=repr))
