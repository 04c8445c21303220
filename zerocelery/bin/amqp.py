"""``zerocelery amqp``: a broker's own commands, one at a time or in a shell; a node has none of these."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pprint import pformat
from typing import Any, TypeVar

import click

from zerocelery.bin.base import (
    CeleryCommand,
    CLIContext,
    CommandError,
    Failed,
    Unavailable,
    handle_preload_options,
)

__all__ = ("AMQPContext", "amqp", "dump_message")

_F = TypeVar("_F", bound=Callable[..., Any])

_PROMPT = "amqp> "

#: What ends the shell, and what lists its commands; with a colon as in Celery's, or without.
_LEAVE = frozenset({":exit", ":quit", ":q", "exit", "quit"})
_HELP = frozenset({":help", ":h", ":?", "help", "?"})


class AMQPContext:
    """The connection that the commands of one call, or one shell, share."""

    def __init__(self, cli_context: CLIContext) -> None:
        self.cli = cli_context
        self.connection: Any = cli_context.app.connection()
        self._channel: Any = None

    @property
    def channel(self) -> Any:
        """The channel; connected at the first look, and again after an error."""
        from kombu.exceptions import OperationalError

        if self._channel is None:
            if self.cli.app.has_node:
                raise CommandError(
                    "a node has no exchanges and no commands of a broker: see status, list bindings, purge and dead"
                )
            self.cli.echo(f"-> connecting to {self.connection.as_uri()}.")
            try:
                self.connection.ensure_connection(max_retries=1)
                self._channel = self.connection.default_channel
            except (OperationalError, *self.connection.connection_errors, *self.connection.channel_errors) as error:
                raise Unavailable(f"the broker can't be reached: {error}") from error
            self.cli.echo("-> connected.")
        return self._channel

    def close(self) -> None:
        """Let go of the broker."""
        self._channel = None
        self.connection.release()

    @property
    def app(self) -> Any:
        """The app."""
        return self.cli.app

    def reconnect(self) -> Any:
        """Connect anew; the channel."""
        self.close()
        return self.channel

    def respond(self, retval: Any) -> None:
        """Print what a command gives."""
        self.cli.echo(retval if isinstance(retval, str) else pformat(retval))

    def echo_error(self, exception: object) -> None:
        """Print why it was not done."""
        self.cli.error(f"Error: {exception}")

    def echo_ok(self) -> None:
        """Say that it was done."""
        self.cli.echo(self.cli.OK)

    @contextlib.contextmanager
    def asked(self) -> Iterator[Any]:
        """The channel; what the broker refuses is one sentence, and costs the channel."""
        channel = self.channel
        try:
            yield channel
        except KeyError as error:  # kombu's virtual brokers keep their exchanges in a dictionary of this process
            raise Failed(f"nothing is known here of {error}: declare it first") from error
        except (*self.connection.connection_errors, *self.connection.channel_errors, ValueError) as error:
            self.close()
            raise Failed(f"the broker refuses that: {error}") from error


def dump_message(message: Any) -> Any:
    """A message as it is printed."""
    if message is None:
        return "No messages in queue. basic.publish something."
    body = message.body.decode("utf-8", "replace") if isinstance(message.body, bytes) else message.body
    delivery = {"delivery_tag": message.delivery_tag, **(message.delivery_info or {})}
    return {"body": body, "properties": message.properties, "delivery_info": delivery}


class Dotted(click.Group):
    """Commands with a dot in their name; alone, it connects, and says so."""

    def invoke(self, ctx: click.Context) -> Any:
        cli: CLIContext = ctx.obj
        if isinstance(cli, AMQPContext):  # in the shell
            return super().invoke(ctx)
        shared = ctx.obj = AMQPContext(cli)
        try:
            return super().invoke(ctx)
        finally:
            shared.close()
            cli.app.close()


@click.group(cls=Dotted, invoke_without_command=True)
@click.pass_context
@handle_preload_options
def amqp(ctx: click.Context, /) -> None:
    """Declare, bind, purge, publish and get at a broker, as it is; without a command in a shell of its own."""
    if ctx.invoked_subcommand is None:
        _shell(ctx.obj)


def _command(name: str, *arguments: tuple[str, Any, Any]) -> Callable[[_F], click.Command]:
    """A command whose arguments are given by their place: (name, type, default; ... where there is none)."""

    def decorate(function: _F) -> click.Command:
        made: Any = click.pass_obj(function)
        for argument, type_, default in reversed(arguments):
            optional = {} if default is ... else {"default": default, "required": False}
            made = click.argument(argument, type=type_, **optional)(made)
        command: click.Command = click.command(name, cls=CeleryCommand)(made)
        amqp.add_command(command)
        return command

    return decorate


_YES_OR_NO = click.BOOL


@_command("exchange.declare", ("exchange", str, ...), ("type", str, ...), ("passive", _YES_OR_NO, False),
          ("durable", _YES_OR_NO, False), ("auto_delete", _YES_OR_NO, False))  # fmt: skip
def exchange_declare(shared: AMQPContext, exchange: str, type: str, **options: bool) -> None:
    """Make an exchange."""
    with shared.asked() as channel:
        channel.exchange_declare(exchange=exchange, type=type, **options)
    shared.echo_ok()


@_command("exchange.delete", ("exchange", str, ...), ("if_unused", _YES_OR_NO, False))
def exchange_delete(shared: AMQPContext, exchange: str, if_unused: bool) -> None:
    """Remove an exchange."""
    with shared.asked() as channel:
        channel.exchange_delete(exchange=exchange, if_unused=if_unused)
    shared.echo_ok()


@_command("queue.bind", ("queue", str, ...), ("exchange", str, ...), ("routing_key", str, ...))
def queue_bind(shared: AMQPContext, **names: str) -> None:
    """Have a queue get what goes to an exchange with a routing key."""
    with shared.asked() as channel:
        channel.queue_bind(**names)
    shared.echo_ok()


@_command("queue.declare", ("queue", str, ...), ("passive", _YES_OR_NO, False), ("durable", _YES_OR_NO, False),
          ("auto_delete", _YES_OR_NO, False))  # fmt: skip
def queue_declare(shared: AMQPContext, queue: str, **options: bool) -> None:
    """Make a queue, and say how many messages and consumers it has."""
    with shared.asked() as channel:
        name, messages, consumers = channel.queue_declare(queue=queue, **options)
    shared.cli.secho(f"queue:{name} messages:{messages} consumers:{consumers}", fg="cyan", bold=True)
    shared.echo_ok()


@_command("queue.delete", ("queue", str, ...), ("if_unused", _YES_OR_NO, False), ("if_empty", _YES_OR_NO, False))
def queue_delete(shared: AMQPContext, queue: str, **options: bool) -> None:
    """Remove a queue with all that is in it."""
    with shared.asked() as channel:
        deleted = channel.queue_delete(queue=queue, **options)
    shared.cli.echo(f"{deleted or 0} messages deleted.")
    shared.echo_ok()


@_command("queue.purge", ("queue", str, ...))
def queue_purge(shared: AMQPContext, queue: str) -> None:
    """Remove the messages of a queue."""
    with shared.asked() as channel:
        deleted = channel.queue_purge(queue=queue)
    shared.cli.echo(f"{deleted or 0} messages deleted.")
    shared.echo_ok()


@_command("basic.get", ("queue", str, ...), ("no_ack", _YES_OR_NO, False))
def basic_get(shared: AMQPContext, queue: str, no_ack: bool) -> None:
    """Take the next message of a queue, and print it; unless it is acknowledged it goes back at the end."""
    with shared.asked() as channel:
        message = channel.basic_get(queue, no_ack=no_ack)
    shared.respond(dump_message(message))
    shared.echo_ok()


@_command("basic.publish", ("msg", str, ...), ("exchange", str, ...), ("routing_key", str, ...),
          ("mandatory", _YES_OR_NO, False), ("immediate", _YES_OR_NO, False))  # fmt: skip
def basic_publish(shared: AMQPContext, msg: str, exchange: str, routing_key: str, **options: bool) -> None:
    """Send a text to an exchange; to the exchange "" it goes to the queue that the routing key names."""
    from kombu.messaging import Producer

    with shared.asked() as channel:
        producer: Any = Producer(channel, auto_declare=False)  # type: ignore[no-untyped-call]
        producer.publish(
            msg, exchange=exchange, routing_key=routing_key, content_type="text/plain", content_encoding="utf-8",
            **options,
        )  # fmt: skip
    shared.echo_ok()


@_command("basic.ack", ("delivery_tag", str, ...))
def basic_ack(shared: AMQPContext, delivery_tag: str) -> None:
    """Acknowledge a message that basic.get has taken."""
    with shared.asked() as channel:
        channel.basic_ack(int(delivery_tag) if delivery_tag.isdigit() else delivery_tag)
    shared.echo_ok()


@amqp.command("repl", cls=CeleryCommand)
@click.pass_obj
def repl(shared: AMQPContext) -> None:
    """Read commands, and do each: from the terminal, or from stdin."""
    _shell(shared)


# ── the shell ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shell(shared: AMQPContext) -> None:
    shared.channel  # noqa: B018 - whether there is a broker is said before the first command
    for line in _lines(sys.stdin.isatty()):
        if line in _LEAVE:
            return
        if line in _HELP:
            shared.cli.echo("\n".join(sorted(amqp.commands)))
        elif line:
            _do(shared, line)


def _do(shared: AMQPContext, line: str) -> None:
    try:
        words = shlex.split(line)
        if words and words[0] != "repl":
            amqp.main(args=words, prog_name="amqp", standalone_mode=False, obj=shared)
    except click.ClickException as error:
        error.show()
    except ValueError as error:  # a quotation mark that is not closed
        shared.echo_error(error)


def _lines(asks: bool) -> Iterator[str]:
    if not asks:
        yield from (line.strip() for line in sys.stdin)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - so that a line can be edited
    while True:
        try:
            line = input(_PROMPT)
        except EOFError:
            return
        yield line.strip()
