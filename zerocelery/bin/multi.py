"""``zerocelery multi``: several workers in the background."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from zerocelery import __version__
from zerocelery.bin.base import EX_FAILURE, EX_OK, CLIContext, handle_preload_options

__all__ = ("MultiTool",)

USAGE = """\
usage: {prog_name} start <node1 node2 nodeN|range> [worker options]
       {prog_name} stop <n1 n2 nN|range> [-SIG (default: -TERM)]
       {prog_name} stopwait <n1 n2 nN|range> [-SIG (default: -TERM)]
       {prog_name} restart <n1 n2 nN|range> [-SIG] [worker options]
       {prog_name} kill <n1 n2 nN|range>

       {prog_name} show <n1 n2 nN|range> [worker options]
       {prog_name} get hostname <n1 n2 nN|range> [-qv] [worker options]
       {prog_name} names <n1 n2 nN|range>
       {prog_name} expand template <n1 n2 nN|range>
       {prog_name} help

additional options (must appear after command name):

    * --nosplash:   Don't print the program's name.
    * --quiet:      Print less.
    * --verbose:    Print more.
    * --no-color:   No colours.
"""

HELP = """\
Starts, stops and restarts several workers in the background; each has a pid file and a log file.

    # one worker, by its name
    zerocelery -A proj multi start w1 --pidfile=/run/proj/%n.pid --logfile=/var/log/proj/%n%I.log

    # the same pid files say which to stop, and the same options are needed to start again
    zerocelery -A proj multi stopwait w1 --pidfile=/run/proj/%n.pid
    zerocelery -A proj multi restart w1 --pidfile=/run/proj/%n.pid --logfile=/var/log/proj/%n%I.log

    # three: celery1, celery2, celery3; with --range-prefix=w: w1, w2, w3
    zerocelery -A proj multi start 3 -c 4

    # options for some: by number, by range, by name
    zerocelery -A proj multi start 10 -Q default -Q:1-3 images,video -Q:4,5 data -c:1 10
    zerocelery -A proj multi start images data -c 4 -c:images 10

    # on another host's name
    zerocelery -A proj multi start w1@example.com w2@example.com
    zerocelery -A proj multi start 2 --hostname=example.com

    # only the command lines
    zerocelery -A proj multi show 3 -c 4
"""

_RESERVED = (
    ("--nosplash", "nosplash"), ("--quiet", "quiet"), ("-q", "quiet"), ("--verbose", "verbose"),
    ("--no-color", "no_color"),
)  # fmt: skip

_SIGNALS = {name[3:]: number for name, number in vars(signal).items() if name.startswith("SIG") and "_" not in name}


class TermLogger:
    """Prints, in colours or without, more or less."""

    splash_text = "zerocelery multi v{version}"
    splash_context = {"version": __version__}  # noqa: RUF012 - read only
    retcode = EX_OK

    def setup_terminal(
        self,
        stdout: Any,
        stderr: Any,
        nosplash: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        no_color: bool = False,
        **kwargs: Any,
    ) -> None:
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self.nosplash = nosplash
        self.quiet = quiet
        self.verbose = verbose
        self.no_color = no_color

    def style(self, text: str, **style: Any) -> str:
        plain = self.no_color or not getattr(self.stdout, "isatty", bool)()
        return text if plain else click.style(text, **style)

    def ok(self, m: str, newline: bool = True, file: Any = None) -> int:
        """Print, and give the code for: all went well."""
        self.say(m, newline=newline, file=file)
        return EX_OK

    def say(self, m: str, newline: bool = True, file: Any = None) -> None:
        """Print."""
        file = file or self.stdout
        file.write(f"{m}\n" if newline else m)
        file.flush()

    def carp(self, m: str, newline: bool = True, file: Any = None) -> None:
        """Print on stderr."""
        self.say(m, newline, file or self.stderr)

    def error(self, msg: str | None = None) -> int:
        """Print what is wrong, and how it is used; gives the code for a failure."""
        if msg:
            self.carp(msg)
        self.usage()
        return EX_FAILURE

    def info(self, msg: str, newline: bool = True) -> None:
        """Print what is wanted with ``--verbose``."""
        if self.verbose:
            self.note(msg, newline=newline)

    def note(self, msg: str, newline: bool = True) -> None:
        """Print what isn't wanted with ``--quiet``."""
        if not self.quiet:
            self.say(msg, newline=newline)

    def usage(self) -> None:
        """Print how it is used."""
        self.splash()
        self.say(USAGE.format(prog_name=getattr(self, "prog_name", "multi")))

    def splash(self) -> None:
        """Print what this is."""
        if not self.nosplash:
            self.note(self.style(self.splash_text.format(**self.splash_context), fg="cyan", bold=True))


def splash(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Has a command say first what this is."""

    @functools.wraps(fun)
    def splashing(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.splash()
        return fun(self, *args, **kwargs)

    return splashing


def using_cluster(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the workers that its arguments name."""

    @functools.wraps(fun)
    def with_cluster(self: Any, *argv: str, **kwargs: Any) -> Any:
        return fun(self, self.cluster_from_argv(argv), **kwargs)

    return with_cluster


def using_cluster_and_sig(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the workers, and the signal, that its arguments name."""

    @functools.wraps(fun)
    def with_both(self: Any, *argv: str, **kwargs: Any) -> Any:
        p, cluster = self._cluster_from_argv(argv)
        return fun(self, cluster, self._find_sig_argument(p), **kwargs)

    return with_both


class MultiTool(TermLogger):
    """The program. Arguments: the environment of what is started; where it prints."""

    reserved_options = _RESERVED

    def __init__(
        self, env: Any = None, cmd: str | None = None, fh: Any = None, stdout: Any = None, stderr: Any = None, **kw: Any
    ) -> None:
        from zerocelery.apps.multi import MultiParser, NamespacedOptionParser

        self.env = env
        self.cmd = cmd
        self.MultiParser = MultiParser
        self.OptionParser = NamespacedOptionParser
        self.setup_terminal(stdout or fh, stderr, **kw)
        self.prog_name = "multi"
        self.commands: dict[str, Callable[..., Any]] = {
            name: getattr(self, name)
            for name in ("start", "show", "stop", "stopwait", "restart", "kill", "names", "expand", "get", "help")
        }
        self.commands["stop_verify"] = self.stopwait  # its name of old

    def execute_from_commandline(self, argv: Sequence[str], cmd: str | None = None) -> int:
        """Do what the command line says; the exit code. Options of the program itself may stand before ``multi``."""
        self.cmd = cmd if cmd is not None else self.cmd
        words = self._handle_reserved_options(list(argv))
        self.prog_name = os.path.basename(words.pop(0)) if words else "multi"
        if not words or words[0].startswith("-"):
            return self.error()
        return self.call_command(words[0], words[1:])

    def _handle_reserved_options(self, argv: list[str]) -> list[str]:
        for option, name in self.reserved_options:
            if option in argv:
                argv.remove(option)
                setattr(self, name, True)
        return argv

    def call_command(self, command: str, argv: Sequence[str]) -> int:
        """Run a command by its name."""
        if command not in self.commands:
            return self.error(f"Invalid command: {command}")
        try:
            return self.commands[command](*argv) or EX_OK
        except KeyError as error:
            return self.error(str(error.args[0]))

    @splash
    @using_cluster
    def start(self, cluster: Any) -> int:
        """Start workers."""
        self.note("> Starting nodes...")
        return int(any(cluster.start()))

    @splash
    @using_cluster_and_sig
    def stop(self, cluster: Any, sig: int, **kwargs: Any) -> None:
        """Have workers stop, and don't wait for it."""
        cluster.stop(sig=sig, **kwargs)

    @splash
    @using_cluster_and_sig
    def stopwait(self, cluster: Any, sig: int, **kwargs: Any) -> None:
        """Have workers stop, and wait for it."""
        cluster.stopwait(sig=sig, **kwargs)

    @splash
    @using_cluster_and_sig
    def restart(self, cluster: Any, sig: int, **kwargs: Any) -> int:
        """Have workers stop, and start each again."""
        return int(any(cluster.restart(sig=sig, **kwargs)))

    @using_cluster
    def names(self, cluster: Any) -> None:
        """Print the workers' whole names."""
        self.say("\n".join(node.name for node in cluster))

    def get(self, wanted: str, *argv: str) -> int:
        """Print the command line of one worker."""
        try:
            node = self.cluster_from_argv(argv).find(wanted)
        except KeyError:
            return EX_FAILURE
        return self.ok(" ".join(node.argv))

    @using_cluster
    def show(self, cluster: Any) -> int:
        """Print the command lines."""
        return self.ok("\n".join(" ".join(node.argv_with_executable) for node in cluster))

    @splash
    @using_cluster
    def kill(self, cluster: Any) -> None:
        """End workers at once."""
        cluster.kill()

    def expand(self, template: str, *argv: str) -> int:
        """Print a text with each worker's names put in."""
        return self.ok("\n".join(node.expander(template) for node in self.cluster_from_argv(argv)))

    def help(self, *argv: str) -> None:
        """Print examples."""
        self.say(HELP)

    def _find_sig_argument(self, p: Any, default: int = signal.SIGTERM) -> int:
        for arg in p.args:
            if arg.startswith("-") and arg[1:2] not in ("-", ""):
                name = arg[1:].removeprefix("SIG")
                if name.isdecimal():
                    return int(name)
                if name in _SIGNALS:
                    return int(_SIGNALS[name])
        return default

    def _nodes_from_argv(self, argv: Sequence[str], cmd: str | None = None) -> tuple[Any, Any]:
        p = self.OptionParser(argv)
        p.parse()
        for name in ("-9", "-15", *(f"-{prefix}{name}" for name in _SIGNALS for prefix in ("", "SIG"))):
            value = p.options.pop(name, None)  # a signal is no option of the worker
            if value is not None:
                p.values.append(value)
        return p, self.MultiParser(cmd=cmd if cmd is not None else self.cmd or "").parse(p)

    def cluster_from_argv(self, argv: Sequence[str], cmd: str | None = None) -> Any:
        """The workers that the arguments name."""
        return self._cluster_from_argv(argv, cmd=cmd)[1]

    def _cluster_from_argv(self, argv: Sequence[str], cmd: str | None = None) -> tuple[Any, Any]:
        p, nodes = self._nodes_from_argv(argv, cmd=cmd)
        return p, self.Cluster(list(nodes), cmd=cmd)

    def Cluster(self, nodes: Sequence[Any], cmd: str | None = None) -> Any:
        """These workers, with all that is printed of them."""
        from zerocelery.apps.multi import Cluster

        names = (
            "on_stopping_preamble", "on_send_signal", "on_still_waiting_for", "on_still_waiting_progress",
            "on_still_waiting_end", "on_node_start", "on_node_restart", "on_node_shutdown_ok", "on_node_status",
            "on_node_signal_dead", "on_node_signal", "on_node_down", "on_child_spawn", "on_child_signalled",
            "on_child_failure",
        )  # fmt: skip
        return Cluster(nodes, cmd=cmd, env=self.env, **{name: getattr(self, name) for name in names})

    # ── what is printed ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_stopping_preamble(self, nodes: Sequence[Any]) -> None:
        self.note(self.style("> Stopping nodes...", fg="blue", bold=True))

    def on_send_signal(self, node: Any, sig: str) -> None:
        self.note(f"\t> {node.name}: {sig} -> {node.pid}")

    def on_still_waiting_for(self, nodes: Sequence[Any]) -> None:
        if nodes:
            pids = ", ".join(str(node.pid) for node in nodes)
            word = "node" if len(nodes) == 1 else "nodes"
            text = f"> Waiting for {len(nodes)} {word} -> {pids}..."
            self.note(self.style(text, fg="blue", bold=True), newline=False)

    def on_still_waiting_progress(self, nodes: Sequence[Any]) -> None:
        self.note(".", newline=False)

    def on_still_waiting_end(self) -> None:
        self.note("")

    def on_node_signal_dead(self, node: Any) -> None:
        self.note(f"Could not signal {node.name} ({node.pid}): No such process")

    def on_node_start(self, node: Any) -> None:
        self.note(f"\t> {node.name}: ", newline=False)

    def on_node_restart(self, node: Any) -> None:
        self.note(self.style(f"> Restarting node {node.name}: ", fg="blue", bold=True), newline=False)

    def on_node_down(self, node: Any) -> None:
        self.note(f"> {node.name}: {self.DOWN}")

    def on_node_shutdown_ok(self, node: Any) -> None:
        self.note(f"\n\t> {node.name}: {self.OK}")

    def on_node_status(self, node: Any, retval: int) -> None:
        self.note(self.FAILED if retval else self.OK)

    def on_node_signal(self, node: Any, sig: str) -> None:
        self.note(f"Sending signal {sig} to {node.name} ({node.pid})")

    def on_child_spawn(self, node: Any, argstr: str, env: Any) -> None:
        self.info(f"  {argstr}")

    def on_child_signalled(self, node: Any, signum: int) -> None:
        self.note(f"* Child was terminated by signal {signum}")

    def on_child_failure(self, node: Any, retcode: int) -> None:
        self.note(f"* Child terminated with exit code {retcode}")

    @functools.cached_property
    def OK(self) -> str:
        return self.style("OK", fg="green", bold=True)

    @functools.cached_property
    def FAILED(self) -> str:
        return self.style("FAILED", fg="red", bold=True)

    @functools.cached_property
    def DOWN(self) -> str:
        return self.style("DOWN", fg="magenta", bold=True)


@click.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.pass_context
@handle_preload_options
def multi(ctx: click.Context, /, **kwargs: Any) -> None:
    """Start and stop several workers in the background: ``multi help`` has examples."""
    cli: CLIContext = ctx.obj
    if ctx.args and ctx.args[0] in ("-h", "--help"):
        click.echo(USAGE.format(prog_name="multi"))
        return
    tool = MultiTool(no_color=cli.no_color, quiet=cli.quiet)
    # What stands before the command is for the workers, too: its words, as they were written.
    before = _words_before("multi", sys.argv)
    at = ctx.args.index("--") if "--" in ctx.args else len(ctx.args)
    ctx.exit(tool.execute_from_commandline(["multi", *ctx.args[:at], *before, *ctx.args[at:]]))


def _words_before(command: str, argv: Sequence[str]) -> list[str]:
    """The program's own options; a worker's parser wants those with a long name as one word, with ``=``."""
    words = list(argv[1 : argv.index(command)]) if command in argv else []
    found: list[str] = []
    for word in words:
        if found and found[-1].startswith("--") and "=" not in found[-1] and not word.startswith("-"):
            found[-1] += f"={word}"
        else:
            found.append(word)
    # This process is in that directory by now, and what it starts is, too.
    return [word for word in found if not word.startswith("--workdir=")]


def main() -> None:
    """Run it as a program of its own."""
    sys.exit(MultiTool().execute_from_commandline(sys.argv))


if __name__ == "__main__":
    main()
