"""What the commands share: their context, their option types, their way to fail and to log."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from zerocelery.app.base import Celery

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

    def style(self, message: object, **kwargs: Any) -> str:
        """The message in a style, for a line that is printed later."""
        return str(message) if self.no_color else click.style(message, **kwargs)


class CeleryOption(click.Option):
    """An option that stands under its ``help_group`` in the command's help."""

    def __init__(self, *args: Any, help_group: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help_group = help_group


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


def comma_separated(value: str | Sequence[str]) -> list[str]:
    """``a,b,c`` as a list; an empty item in it is an error, for it is a slip of the hand."""
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else list(value)
    if not all(items):
        raise click.BadParameter(
            f"{value!r} has an empty name in it: write names with one comma between them, as in a,b"
        )
    return items


_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


def log_level(value: str | int) -> int:
    """A level by its name, in any case, or by its number."""
    text = str(value).upper()
    if text.isdecimal():
        return int(text)
    if text not in _LEVELS:
        raise click.BadParameter(f"{value!r} is no log level: take one of {', '.join(_LEVELS)}")
    level: int = getattr(logging, text)
    return level


def add_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Put the same options on several commands, in the order written."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


log_options = add_options(
    click.option(
        "-l",
        "--loglevel",
        cls=CeleryOption,
        type=log_level,
        metavar="LEVEL",
        help="DEBUG, INFO, WARNING, ERROR or CRITICAL.",
        help_group="Logging",
    ),
    click.option(
        "-f",
        "--logfile",
        cls=CeleryOption,
        type=click.Path(dir_okay=False),
        help="Log to this file, not to stderr.",
        help_group="Logging",
    ),
)


def setup_logging(level: int, logfile: str | None = None, *, format: str = LOG_FORMAT) -> None:
    """Log to stderr, or to a file, as Celery formats it; replaces the root logger's handlers."""
    try:
        handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.stderr)
    except OSError as error:
        raise CommandError(f"the log file {logfile} can't be written: {error.strerror}") from error
    handler.setFormatter(logging.Formatter(format))
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
    """Keep this process's pid in a file for as long as it runs; refuse where another's is.

    Arguments:
        what: what runs, for the message.
    """
    if path is None:
        yield
        return
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError as error:
        raise CommandError(
            f"the pid file {path} is there already: stop that {what}, or remove what a killed one left"
        ) from error
    except OSError as error:
        raise CommandError(f"the pid file {path} can't be written: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
