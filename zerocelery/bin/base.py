"""What the commands share: their context, their option types, their way to fail and to log."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pprint import pformat
from textwrap import indent
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from zerocelery.bin.params import (
    COMMA_SEPARATED_LIST,
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    LOG_LEVEL,
    CommaSeparatedList,
    ISO8601DateTime,
    ISO8601DateTimeOrFloat,
    JsonArray,
    JsonObject,
    LogLevel,
)

if TYPE_CHECKING:
    from zerocelery.app.base import Celery

__all__ = (
    "COMMA_SEPARATED_LIST",
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "ISO8601",
    "ISO8601_OR_FLOAT",
    "JSON_ARRAY",
    "JSON_OBJECT",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "CLIContext",
    "CeleryCommand",
    "CeleryDaemonCommand",
    "CeleryOption",
    "CommaSeparatedList",
    "CommandError",
    "DaemonOption",
    "Failed",
    "ISO8601DateTime",
    "ISO8601DateTimeOrFloat",
    "JsonArray",
    "JsonObject",
    "LogLevel",
    "Unavailable",
    "add_options",
    "comma_separated",
    "connected",
    "consume_preload_options",
    "daemon_options",
    "environment",
    "handle_preload_options",
    "handle_remote_command_error",
    "known_broker",
    "log_format_option",
    "log_options",
    "loglevel_option",
    "node_name",
    "pid_file",
    "settings_of",
    "setup_logging",
)

_F = TypeVar("_F", bound=Callable[..., Any])

EX_OK = 0
EX_FAILURE = 1
EX_USAGE = 2
EX_UNAVAILABLE = 69

#: Celery's own formats, so that log parsers made for it go on working.
LOG_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"

#: Options of the program itself, and how each is written: people put them after the command, as Celery 4 allowed.
_PROGRAM_OPTIONS = {
    "-A": "-A proj",
    "--app": "--app proj",
    "-b": "-b URL",
    "--broker": "--broker URL",
    "--result-backend": "--result-backend URL",
    "--loader": "--loader CLASS",
    "--config": "--config MODULE",
    "--workdir": "--workdir DIRECTORY",
    "-C": "-C",
    "--no-color": "--no-color",
    "-q": "-q",
    "--quiet": "--quiet",
}


class CommandError(click.ClickException):
    """Ends the command with one sentence on stderr, which names the fix: it was called wrongly."""

    exit_code = EX_USAGE


class Failed(CommandError):
    """It was called rightly and can't be done."""

    exit_code = EX_FAILURE


class Unavailable(CommandError):
    """Nobody answers where somebody should."""

    exit_code = EX_UNAVAILABLE


class CLIContext:
    """What the program's own options say, for every command; ``ctx.obj`` in a command.

    Arguments:
        load: finds the app when a command first asks for it: one that needs none never pays for loading one.
        broker: the address given with ``-b``.
        app_name: what ``-A`` said.
    """

    def __init__(
        self,
        app: Celery | None,
        no_color: bool,
        workdir: str | None,
        quiet: bool = False,
        *,
        load: Callable[[], Celery] | None = None,
        broker: str | None = None,
        app_name: str | None = None,
    ) -> None:
        self._app = app
        self._load = load
        self.no_color = no_color
        self.workdir = workdir
        self.quiet = quiet
        self.broker = broker
        self.app_name = app_name

    @property
    def app(self) -> Celery:
        """The app of ``-A``, loaded at the first look; without ``-A`` the default app."""
        if self._app is None:
            if self._load is None:
                raise CommandError("this command needs an app: name one with -A proj")
            self._app = self._load()
        return self._app

    @property
    def loaded_app(self) -> Celery | None:
        """The app, where a command has asked for it already."""
        return self._app

    def node_url(self, given: str | None = None) -> str:
        """The address for a command that needs a node and no app: its own option, ``-b``, the app's, or ``zmq://``."""
        url = given or self.broker or os.environ.get("CELERY_BROKER_URL")
        if url is None and self.app_name:
            url = self.app.conf.broker_url
        return url or "zmq://"

    def echo(self, message: object = None, **kwargs: Any) -> None:
        """Print, with no colour where none is wanted."""
        click.echo(message, color=False if self.no_color else None, **kwargs)

    def secho(self, message: object = None, **kwargs: Any) -> None:
        """Print in a style."""
        click.secho(message, color=False if self.no_color else None, **kwargs)

    def error(self, message: object = None, **kwargs: Any) -> None:
        """Print on stderr in red."""
        self.secho(message, err=True, fg="red", **kwargs)

    def style(self, message: object = None, **kwargs: Any) -> str:
        """The message in a style, for a line that is printed later."""
        return str(message) if self.no_color else click.style(message, **kwargs)

    @functools.cached_property
    def OK(self) -> str:
        """The word for what went well."""
        return self.style("OK", fg="green", bold=True)

    @functools.cached_property
    def ERROR(self) -> str:
        """The word for what did not."""
        return self.style("ERROR", fg="red", bold=True)

    def pretty(self, n: Any) -> tuple[str, str]:
        """A worker's answer for a person: how it went, and its lines as Celery lays them out."""
        if isinstance(n, list):
            return self.OK, self.pretty_list(n)
        if isinstance(n, dict):
            if "ok" in n or "error" in n:
                return self.pretty_dict_ok_error(n)
            return self.OK, json.dumps(n, sort_keys=True, indent=4, default=repr)
        return self.OK, n if isinstance(n, str) else pformat(n)

    def pretty_list(self, n: Sequence[Any]) -> str:
        """A line for each item."""
        return "\n".join(f"{self.style('*', fg='white')} {item}" for item in n) or "- empty -"

    def pretty_dict_ok_error(self, n: Mapping[str, Any]) -> tuple[str, str]:
        """``{"ok": …}`` or ``{"error": …}``, as answers to control commands are."""
        if "ok" in n:
            return self.OK, indent(self.pretty(n["ok"])[1], "    ")
        return self.ERROR, indent(self.pretty(n["error"])[1], "    ")

    def say_chat(self, direction: str, title: str, body: str = "", show_body: bool = False) -> None:
        """A line of a talk with workers, and what was said; with ``-q`` no arrows, and nothing of what is sent."""
        if direction == "<-" and self.quiet:
            return
        arrow = "" if self.quiet else f"{self.style(direction, fg='blue', bold=True)} "
        self.echo(f"{arrow} {title}")
        if body and show_body:
            self.echo(indent(body, "    "))


class CeleryOption(click.Option):
    """An option that stands under its ``help_group`` in the command's help.

    Arguments:
        help_group: the heading.
        default_value_from_context: where no value is given, take this attribute of the :class:`CLIContext`.
    """

    def __init__(
        self,
        *args: Any,
        help_group: str | None = None,
        default_value_from_context: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.help_group = help_group
        self.default_value_from_context = default_value_from_context

    def get_default(self, ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        if self.default_value_from_context:
            self.default = getattr(ctx.obj, self.default_value_from_context)
        return super().get_default(ctx, *args, **kwargs)


class DaemonOption(CeleryOption):
    """An option of what runs in the background; its default is the setting ``COMMAND_OPTION``, as in worker_uid."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("help_group", "Daemonization Options")
        kwargs.setdefault("callback", self.daemon_setting)
        super().__init__(*args, **kwargs)

    def daemon_setting(self, ctx: click.Context, opt: click.Parameter, value: Any) -> Any:
        """What was given, or else what the app's settings say."""
        if value is not None or ctx.resilient_parsing or not isinstance(ctx.obj, CLIContext):
            return value
        return getattr(ctx.obj.app.conf, f"{ctx.command.name}_{opt.name}", None)


class CeleryCommand(click.Command):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "help_group", None) or "Options", []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            written = _PROGRAM_OPTIONS.get(error.option_name)
            if written:
                raise click.UsageError(
                    f"{error.option_name} belongs before the command: zerocelery {written} {ctx.info_name}", ctx=ctx
                ) from None
            raise


class CeleryDaemonCommand(CeleryCommand):
    """A command that can run in the background, with the options that Celery gives all of those.

    Behind ``--`` it takes settings of the app: ``worker -c 4 -- worker_prefetch_multiplier=1 .send_task_events=true``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {})["allow_extra_args"] = True
        super().__init__(*args, **kwargs)
        self.params.extend(daemon_options())

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- SETTING=VALUE...]"]


def settings_of(ctx: click.Context, app: Celery) -> dict[str, Any]:
    """The app's settings that stand behind a command's options, set; they win over what the app says.

    Raises:
        click.UsageError: they are none.
    """
    if not ctx.args:
        return {}
    import difflib

    from zerocelery.app.defaults import SETTING_KEYS

    wrong = next((word for word in ctx.args if "=" not in word), None)
    if wrong is not None:
        raise click.UsageError(
            f"{wrong!r} is no option and no setting: settings come last, as in -- worker_prefetch_multiplier=1", ctx=ctx
        )
    try:
        given = app.loader.cmdline_config_parser(ctx.args, namespace=str(ctx.info_name))
    except (ValueError, KeyError) as error:
        raise click.UsageError(f"a setting behind the options can't be read: {error}", ctx=ctx) from error
    for name in given.keys() - SETTING_KEYS:
        near = difflib.get_close_matches(name, SETTING_KEYS, n=1) or [f"{ctx.info_name}_{name}"]
        raise click.UsageError(f"there is no setting {name!r}: did you mean {near[0]!r}?", ctx=ctx)
    app.conf.update(given)
    return dict(given)


def known_broker(app: Celery) -> None:
    """Say before anything is started that the app's broker is none that kombu knows, or needs what isn't installed.

    Raises:
        CommandError: it can't be.
    """
    if app.has_node:
        return
    from kombu.transport import get_transport_cls

    url = app.conf.broker_url
    scheme = str(url[0] if isinstance(url, (list, tuple)) else url).partition("://")[0]
    try:
        get_transport_cls(scheme)
    except KeyError:
        raise CommandError(
            f"there is no broker {scheme!r}: write zmq://, redis://, amqp:// or another that kombu knows"
        ) from None
    except ImportError as error:
        raise CommandError(f"the broker {scheme}:// can't be used: {error}") from error


def daemon_options() -> list[DaemonOption]:
    """Where a process in the background logs, keeps its pid, and as whom it runs."""
    texts = {
        "-f,--logfile": "Log to this file, not to stderr.",
        "--pidfile": "Keep the pid in this file while running.",
        "--uid": "Run as this user.",
        "--gid": "Run as this group.",
        "--umask": "The umask of what is written, in octal.",
        "--executable": "Another Python than this one.",
    }
    return [DaemonOption(names.split(","), help=text) for names, text in texts.items()]


# ── options that an app adds (app.user_options["preload"]) ───────────────────────────────────────────────────────────


def handle_preload_options(f: _F) -> _F:
    """Give what an app's own options say to the signal ``user_preload_options``, and to ``f`` where it takes them."""
    if getattr(f, "_handles_preload_options", False):
        return f

    @functools.wraps(f)
    def caller(*args: Any, **kwargs: Any) -> Any:
        ctx = args[0] if args and hasattr(args[0], "obj") else click.get_current_context()
        # An app that was not loaded to find the command has no options in it.
        app = ctx.obj.loaded_app if isinstance(ctx.obj, CLIContext) else getattr(ctx.obj, "app", None)
        given, rest = _split_preload(app, f, kwargs)
        if given:
            from zerocelery.signals import user_preload_options

            user_preload_options.send(sender=f, app=app, options=given)
        return f(*args, **rest)

    caller._handles_preload_options = True  # type: ignore[attr-defined]
    return caller  # type: ignore[return-value]


#: Its name for commands of packages, which need not know of such options.
consume_preload_options = handle_preload_options


def _split_preload(app: Any, f: Callable[..., Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The app's own options among those given; and all that are left for the command."""
    options = app.user_options["preload"] if app is not None else ()
    names = {option.name for option in options if option.name in given}
    kept = {name: value for name, value in given.items() if name not in names or accepts(f, name)}
    return {name: given[name] for name in names}, kept


def accepts(f: Callable[..., Any], name: str) -> bool:
    """Whether a function can be called with an argument of this name."""
    parameters = inspect.signature(f).parameters.values()
    return any(p.kind is p.VAR_KEYWORD or (p.name == name and p.kind is not p.POSITIONAL_ONLY) for p in parameters)


@contextlib.contextmanager
def connected(cli: CLIContext) -> Iterator[None]:
    """A broker or node that can't be reached is one sentence and an exit code, not a traceback; let go of it after."""
    from kombu.exceptions import EncodeError, OperationalError, SerializerNotInstalled

    try:
        yield
    except OperationalError as error:
        raise Unavailable(str(error)) from error
    except (EncodeError, SerializerNotInstalled) as error:
        raise CommandError(str(error)) from error
    except KeyError as error:
        if "No such transport" not in str(error):
            raise
        raise CommandError(f"{error.args[0]}: write zmq://, redis://, amqp:// or another that kombu knows") from error
    finally:
        if cli.loaded_app is not None:
            cli.loaded_app.close()


# ── errors, levels, logs ─────────────────────────────────────────────────────────────────────────────────────────────


def handle_remote_command_error(command: str, exc: Exception) -> NoReturn:
    """End a command that talks to workers with one sentence on why it could not, and Celery's exit code for it.

    Raises:
        click.ClickException: always.
    """
    from kombu.exceptions import OperationalError

    if isinstance(exc, click.ClickException):
        raise exc
    if isinstance(exc, OperationalError):
        raise Unavailable(
            "Could not connect to the message broker. Is it running, and are its address and password right? "
            f"Reason: {exc}"
        ) from exc
    raise Unavailable(f"Unable to run the `{command}` command. Reason: {exc}") from exc


def comma_separated(value: str | Sequence[str]) -> list[str]:
    """``a,b,c`` as a list; an empty item in it is an error, for it is a slip of the hand."""
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else list(value)
    if not all(items):
        raise click.BadParameter(
            f"{value!r} has an empty name in it: write names with one comma between them, as in a,b"
        )
    return items


def add_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Put the same options on several commands, in the order written."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


loglevel_option = click.option(
    "-l",
    "--loglevel",
    cls=CeleryOption,
    type=LOG_LEVEL,
    metavar="LEVEL",
    help="DEBUG, INFO, WARNING, ERROR or CRITICAL.",
    help_group="Logging",
)

log_options = add_options(
    loglevel_option,
    click.option(
        "-f",
        "--logfile",
        cls=CeleryOption,
        type=click.Path(dir_okay=False),
        help="Log to this file, not to stderr.",
        help_group="Logging",
    ),
)


log_format_option = click.option(
    "--log-format",
    cls=CeleryOption,
    type=click.Choice(["text", "json"]),
    help="json: an object a line. Default: text, as worker_log_format says.",
    help_group="Logging",
)


def setup_logging(level: int, logfile: str | None = None, *, format: str = LOG_FORMAT) -> None:
    """Log to stderr, or to a file, as Celery formats it, or as JSON; replaces the root logger's handlers."""
    from zerocelery.utils.jsonlog import JSON, JsonFormatter

    try:
        handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.stderr)
    except OSError as error:
        raise CommandError(f"the log file {logfile} can't be written: {error.strerror}") from error
    handler.setFormatter(JsonFormatter() if format == JSON else logging.Formatter(format))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


def node_name(text: str | None) -> str:
    """A worker's whole name, as Celery makes it of ``-n``: ``w1`` is a host's name, ``w1@%h`` a worker on this host."""
    from zerocelery.utils.nodenames import default_nodename, gethostname

    host = gethostname()
    name, _, domain = host.partition(".")
    fields = {"%h": host, "%n": name, "%d": domain, "%%": "%"}
    return re.sub("%[hnd%]", lambda match: fields[match[0]], default_nodename(text))


def environment(pairs: Sequence[tuple[str, str | None]]) -> None:
    """Hand the program's options to every app of this process and its children, as Celery does: by environment."""
    os.environ.update({name: value for name, value in pairs if value})


@contextlib.contextmanager
def pid_file(path: str | None, *, what: str) -> Iterator[None]:
    """Keep this process's pid in a file for as long as it runs; refuse where another's is that runs.

    Arguments:
        what: what runs, for the message.
    """
    if path is None:
        yield
        return
    from zerocelery.platforms import LockFailed, Pidfile

    lock = Pidfile(path)
    if lock.is_locked() and not lock.remove_if_stale():
        raise CommandError(
            f"the pid file {path} is there already, of a {what} that runs: stop it first, or name another"
        )
    try:
        lock.acquire()
    except LockFailed as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"the pid file {path} can't be written: {error}") from error
    try:
        yield
    finally:
        lock.release()
