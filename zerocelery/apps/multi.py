"""Several workers in the background: their command lines, their start and their end."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
from collections import OrderedDict, UserList, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from subprocess import Popen
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from zerocelery.platforms import Pidfile, signal_name
from zerocelery.utils.nodenames import gethostname, host_format, node_format, nodesplit
from zerocelery.utils.text import simple_format

__all__ = ("Cluster", "Node")

if TYPE_CHECKING:
    Options = dict[str, str | None]

#: The program that is started: under its name of old where this is run in Celery's place.
CELERY_EXE = "celery" if "celery" in sys.modules else "zerocelery"

_PIDFILE = "/var/run/celery/%n.pid"
_LOGFILE = "/var/log/celery/%n%I.log"

#: Options that stand before the command.
_PROGRAM_OPTIONS = (
    "-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir", "-C", "--no-color",
    "-q", "--quiet", "--skip-checks",
)  # fmt: skip

#: Seconds between two looks whether a worker has ended.
_LOOK_SECONDS = 0.1


def celery_exe(*args: str) -> str:
    """The program with these arguments."""
    return " ".join((CELERY_EXE, *args))


def build_nodename(name: str, prefix: str, suffix: str) -> tuple[str, str, str]:
    """A worker's short name, its whole one, and its host."""
    if "@" in name:
        whole = host_format(name)
        short, host = nodesplit(whole)
        return short or "", whole, host
    return name, host_format(f"{prefix}{name}@{suffix}"), suffix


def build_expander(nodename: str, shortname: str, hostname: str) -> Callable[[str], str]:
    """Puts a worker's names in for %h, %n and %d; %i and %I are left to the worker."""
    keys = {"h": nodename, "n": shortname, "d": hostname, "i": "%i", "I": "%I"}
    return partial(simple_format, keys=keys)


def format_opt(opt: str, value: Any) -> str:
    """An option as it is written on a command line."""
    if value is None or value == "":
        return opt
    return f"{opt}={value}" if opt.startswith("--") else f"{opt} {value}"


def _kwargs_to_command_line(kwargs: Mapping[str, Any]) -> Options:
    """``max_tasks_per_child=3`` as ``--max-tasks-per-child``, ``c=3`` as ``-c``."""
    return OrderedDict(
        (f"-{key}" if len(key) == 1 else f"--{key.replace('_', '-')}", f"{value}") for key, value in kwargs.items()
    )


def maybe_call(fun: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> None:
    """Call it, if it is there."""
    if fun is not None:
        fun(*args, **kwargs)


class NamespacedOptionParser:
    """Options for all workers, and those for some: ``-c 3 -c:w1,w2 10 --loglevel:w3=DEBUG w1 w2 w3``.

    Attributes:
        options: for all.
        namespaces: for those that are named behind the colon.
        values: what is no option: names.
        passthrough: all from ``--`` on.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args = args
        self.options: Options = OrderedDict()
        self.values: list[str] = []
        self.passthrough = ""
        self.namespaces: dict[str, Options] = defaultdict(OrderedDict)

    def parse(self) -> None:
        """Read the arguments."""
        rest = list(self.args)
        position = 0
        while position < len(rest):
            arg = rest[position]
            if arg == "--":
                self.passthrough = " ".join(rest[position:])
                return
            if arg.startswith("--"):
                self.process_long_opt(arg[2:])
            elif arg.startswith("-") and len(arg) > 1:
                value = None
                if position + 1 < len(rest) and not rest[position + 1].startswith("-"):
                    position += 1
                    value = rest[position]
                self.process_short_opt(arg[1:], value)
            else:
                self.values.append(arg)
            position += 1

    def process_long_opt(self, arg: str, value: str | None = None) -> None:
        """Take ``name=value``."""
        if "=" in arg:
            arg, value = arg.split("=", 1)
        self.add_option(arg, value, short=False)

    def process_short_opt(self, arg: str, value: str | None = None) -> None:
        """Take a letter, and what came behind it."""
        self.add_option(arg, value, short=True)

    def optmerge(self, ns: str, defaults: Options | None = None) -> Options:
        """The options of one worker: its own, and those for all."""
        return OrderedDict({**(self.options if defaults is None else defaults), **self.namespaces.get(ns, {})})

    def add_option(self, name: str, value: str | None, short: bool = False, ns: str | None = None) -> None:
        """Note an option; ``name:ns`` is one for some."""
        name, colon, own = name.partition(":")
        ns = own if colon else ns
        (self.options if ns is None else self.namespaces[ns])[f"{'-' if short else '--'}{name}"] = value


class Node:
    """One worker, by its name: its command line, its process.

    Arguments:
        cmd: what Python is to run; default: this program's worker, in the background.
        append: is put at the end.
        options: of the worker. Without ``--pidfile`` and ``--logfile`` those are below /var.
        extra_args: all from ``--`` on.
    """

    def __init__(
        self,
        name: str,
        cmd: str | None = None,
        append: str | None = None,
        options: Options | None = None,
        extra_args: str | None = None,
    ) -> None:
        self.name = name
        self.cmd = cmd or f"-m {celery_exe('worker', '--detach')}"
        self.append = append
        self.extra_args = extra_args or ""
        self.options = self._annotate_with_default_opts(options or OrderedDict())
        self.expander = self._prepare_expander()
        self.argv = self._prepare_argv()
        self._pid: int | None = None

    @classmethod
    def from_kwargs(cls, name: str, **kwargs: Any) -> Node:
        """A worker whose options are given as arguments: ``A="proj", max_tasks_per_child=3``."""
        return cls(name, options=_kwargs_to_command_line(kwargs))

    def _annotate_with_default_opts(self, options: Options) -> Options:
        options["-n"] = self.name
        self._setdefaultopt(options, ["--pidfile", "-p"], _PIDFILE)
        self._setdefaultopt(options, ["--logfile", "-f"], _LOGFILE)
        options.setdefault("--executable", sys.executable)
        if options.get("--workdir"):
            options["--workdir"] = os.path.expanduser(str(options["--workdir"]))
        return options

    def _setdefaultopt(self, options: Options, alt: Sequence[str], value: str) -> None:
        """Give a file's option its default; make its directory."""
        name = next((name for name in alt if options.get(name)), alt[0])
        path = os.path.normpath(os.path.expanduser(options.get(name) or value))
        options[name] = path
        directory = os.path.dirname(path)
        if directory and "%" not in directory and not os.path.exists(directory):
            os.makedirs(directory)

    def _prepare_expander(self) -> Callable[[str], str]:
        short, host = self.name.split("@", 1)
        return build_expander(self.name, short, host)

    def _prepare_argv(self) -> tuple[str, ...]:
        words = self.cmd.split(" ")
        at = next((words.index(exe) + 1 for exe in (CELERY_EXE, "celery") if exe in words), 0)
        before = [format_opt(name, self.options[name]) for name in _PROGRAM_OPTIONS if name in self.options]
        cmd = " ".join([*words[:at], *before, *words[at:]]) if at else " ".join([*words, *before])
        own = [
            format_opt(name, self.expander(str(value)) if value is not None else None)
            for name, value in self.options.items()
            if name not in _PROGRAM_OPTIONS
        ]
        return (cmd, *own, self.extra_args, *((self.append,) if self.append else ()))

    def alive(self) -> bool:
        """Whether its process is there."""
        return self.send(0)

    def send(self, sig: int, on_error: Callable[[Node], Any] | None = None) -> bool:
        """Send it a signal; False, and ``on_error`` called, where there is no process of its to take one."""
        pid = self.pid
        if not pid:
            maybe_call(on_error, self)
            return False
        try:
            os.kill(pid, sig)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EPERM):
                raise
            maybe_call(on_error, self)
            return False
        return True

    def start(self, env: Mapping[str, str] | None = None, **kwargs: Any) -> int:
        """Start it; its exit code: 0 where it went into the background."""
        return self._waitexec(self.argv, path=self.executable, env=env, **kwargs)

    def _waitexec(
        self,
        argv: Sequence[str],
        path: str = sys.executable,
        env: Mapping[str, str] | None = None,
        on_spawn: Callable[..., Any] | None = None,
        on_signalled: Callable[..., Any] | None = None,
        on_failure: Callable[..., Any] | None = None,
    ) -> int:
        words = self.prepare_argv(argv, path)
        maybe_call(on_spawn, self, argstr=" ".join(words), env=env)
        process = Popen(words, env=env)  # noqa: S603  the command line is its user's
        return self.handle_process_exit(process.wait(), on_signalled=on_signalled, on_failure=on_failure)

    def handle_process_exit(
        self,
        retcode: int,
        on_signalled: Callable[..., Any] | None = None,
        on_failure: Callable[..., Any] | None = None,
    ) -> int:
        """Tell how it ended; the code, or the signal's number."""
        if retcode < 0:
            maybe_call(on_signalled, self, -retcode)
            return -retcode
        if retcode > 0:
            maybe_call(on_failure, self, retcode)
        return retcode

    def prepare_argv(self, argv: Sequence[str], path: str) -> list[str]:
        """The words of the command line."""
        return shlex.split(" ".join([path, *argv]), posix=True)

    def getopt(self, *alt: str) -> str:
        """An option, by the first of its names that is given.

        Raises:
            KeyError: none is.
        """
        for name in alt:
            if name in self.options:
                return str(self.options[name])
        raise KeyError(alt[0])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}>"

    @cached_property
    def pidfile(self) -> str:
        """Where its process keeps its pid."""
        return node_format(self.expander(self.getopt("--pidfile", "-p")), self.name)

    @cached_property
    def logfile(self) -> str:
        """Where it logs; %i and %I stand for the number of a child."""
        return self.expander(self.getopt("--logfile", "-f"))

    @property
    def pid(self) -> int | None:
        """Its process, if there is one that has left its pid."""
        if self._pid is not None:
            return self._pid
        try:
            return Pidfile(self.pidfile).read_pid()
        except ValueError:
            return None

    @pid.setter
    def pid(self, value: int | None) -> None:
        self._pid = value

    @cached_property
    def executable(self) -> str:
        """The Python that runs it."""
        return str(self.options["--executable"])

    @cached_property
    def argv_with_executable(self) -> tuple[str, ...]:
        """Its whole command line."""
        return (self.executable, *self.argv)


class MultiParser:
    """Makes workers of parsed options. Arguments: as the options ``--cmd``, ``--append``, ``--prefix`` …"""

    Node: Any = Node

    def __init__(
        self,
        cmd: str = "celery worker",
        append: str = "",
        prefix: str = "",
        suffix: str = "",
        range_prefix: str = "celery",
    ) -> None:
        self.cmd = cmd
        self.append = append
        self.prefix = prefix
        self.suffix = suffix
        self.range_prefix = range_prefix

    def parse(self, p: NamespacedOptionParser) -> Iterator[Any]:
        """The workers that are named, or so many as are asked for.

        Raises:
            KeyError: an option is for a worker by a number that none has.
        """
        options = OrderedDict(p.options)
        names = p.values
        ranges = len(names) == 1 and names[0].isdecimal()
        cmd = options.pop("--cmd", self.cmd)
        append = options.pop("--append", self.append)
        hostname = options.pop("--hostname", options.pop("-n", None)) or gethostname()
        prefix = options.pop("--prefix", self.prefix) or ""
        suffix = options.pop("--suffix", self.suffix) or hostname
        if suffix in ('""', "''"):
            suffix = ""
        range_prefix = options.pop("--range-prefix", None) or self.range_prefix
        if ranges:
            names = [f"{range_prefix}{number}" for number in self._get_ranges(names)]
        self._number_namespaces(p, names, ranges)
        for name in names:
            yield self._node_from_options(p, name, prefix, suffix, cmd, append, options)

    def _node_from_options(
        self, p: NamespacedOptionParser, name: str, prefix: str, suffix: str, cmd: Any, append: Any, options: Options
    ) -> Any:
        namespace, nodename, _ = build_nodename(name, prefix, suffix)
        namespace = next((key for key in (nodename, name) if key in p.namespaces), namespace)
        return self.Node(nodename, cmd, append, p.optmerge(namespace, options), p.passthrough)

    def _get_ranges(self, names: Sequence[str]) -> list[str]:
        return [str(number) for number in range(1, int(names[0]) + 1)]

    def _number_namespaces(self, p: NamespacedOptionParser, names: Sequence[str], ranges: bool) -> None:
        """Give each worker what is for it in ``1,2``, ``1-3`` or ``w1,w2``."""
        for ns, options in list(p.namespaces.items()):
            if ns in names:
                continue
            for part in ns.split(","):
                for name in self._meant(part, names, ranges):
                    p.namespaces[name].update(options)

    def _meant(self, part: str, names: Sequence[str], ranges: bool) -> list[str]:
        """The workers that one word between commas means."""
        if part in names or not part:
            return [part] if part else []
        if ranges and "-" in part:  # beyond the last there is nobody
            numbers = [int(number) for number in self._parse_ns_range(part, True)]
            return [names[number - 1] for number in numbers if 1 <= number <= len(names)]
        if not part.isdecimal():
            return [part]
        if not 1 <= int(part) <= len(names):
            raise KeyError(f"there is no worker number {part}: there are {len(names)}")
        return [names[int(part) - 1]]

    def _parse_ns_range(self, ns: str, ranges: bool = False) -> list[str]:
        found: list[str] = []
        for part in ns.split(",") if ranges else [ns]:
            first, dash, last = part.partition("-")
            if ranges and dash and first.isdecimal() and last.isdecimal():
                found += [str(number) for number in range(int(first), int(last) + 1)]
            else:
                found.append(part)
        return found


class Cluster(UserList[Any]):
    """Several workers. Arguments: what to call when something happens to one."""

    def __init__(
        self,
        nodes: Iterable[Any],
        cmd: str | None = None,
        env: Mapping[str, str] | None = None,
        on_stopping_preamble: Any = None,
        on_send_signal: Any = None,
        on_still_waiting_for: Any = None,
        on_still_waiting_progress: Any = None,
        on_still_waiting_end: Any = None,
        on_node_start: Any = None,
        on_node_restart: Any = None,
        on_node_shutdown_ok: Any = None,
        on_node_status: Any = None,
        on_node_signal: Any = None,
        on_node_signal_dead: Any = None,
        on_node_down: Any = None,
        on_child_spawn: Any = None,
        on_child_signalled: Any = None,
        on_child_failure: Any = None,
    ) -> None:
        super().__init__(nodes)
        self.cmd = cmd or celery_exe("worker")
        self.env = env
        self.on_stopping_preamble = on_stopping_preamble
        self.on_send_signal = on_send_signal
        self.on_still_waiting_for = on_still_waiting_for
        self.on_still_waiting_progress = on_still_waiting_progress
        self.on_still_waiting_end = on_still_waiting_end
        self.on_node_start = on_node_start
        self.on_node_restart = on_node_restart
        self.on_node_shutdown_ok = on_node_shutdown_ok
        self.on_node_status = on_node_status
        self.on_node_signal = on_node_signal
        self.on_node_signal_dead = on_node_signal_dead
        self.on_node_down = on_node_down
        self.on_child_spawn = on_child_spawn
        self.on_child_signalled = on_child_signalled
        self.on_child_failure = on_child_failure

    @property
    def nodes(self) -> list[Any]:
        """The workers."""
        return self.data

    def start(self) -> list[int]:
        """Start all; their exit codes."""
        return [self.start_node(node) for node in self]

    def start_node(self, node: Any) -> int:
        """Start one."""
        maybe_call(self.on_node_start, node)
        code = self._start_node(node)
        maybe_call(self.on_node_status, node, code)
        return code

    def _start_node(self, node: Any) -> int:
        code: int = node.start(
            self.env,
            on_spawn=self.on_child_spawn,
            on_signalled=self.on_child_signalled,
            on_failure=self.on_child_failure,
        )
        return code

    def send_all(self, sig: int) -> None:
        """Send all that run a signal."""
        for node in self.getpids(on_down=self.on_node_down):
            maybe_call(self.on_node_signal, node, signal_name(sig))
            node.send(sig, self.on_node_signal_dead)

    def kill(self) -> None:
        """End all at once, tasks and all."""
        self.send_all(signal.SIGKILL)

    def restart(self, sig: int = signal.SIGTERM) -> list[int]:
        """Stop all, and start each when it has stopped; their exit codes."""
        codes: list[int] = []

        def start_again(node: Any) -> None:
            maybe_call(self.on_node_restart, node)
            node.pid = None
            code = self._start_node(node)
            maybe_call(self.on_node_status, node, code)
            codes.append(code)

        self._stop_nodes(retry=2, on_down=start_again, sig=sig)
        return codes

    def stop(self, retry: float | None = None, callback: Any = None, sig: int = signal.SIGTERM) -> None:
        """Have all stop; does not wait unless ``retry`` says how many seconds between two words on that."""
        self._stop_nodes(retry=retry, on_down=callback, sig=sig)

    def stopwait(self, retry: float = 2, callback: Any = None, sig: int = signal.SIGTERM) -> None:
        """Have all stop, and wait for it."""
        self._stop_nodes(retry=retry, on_down=callback, sig=sig)

    def _stop_nodes(self, retry: float | None = None, on_down: Any = None, sig: int = signal.SIGTERM) -> None:
        on_down = on_down if on_down is not None else self.on_node_down
        nodes = list(self.getpids(on_down=on_down))
        if nodes:
            for node in self.shutdown_nodes(nodes, sig=sig, retry=retry):
                maybe_call(on_down, node)

    def shutdown_nodes(
        self, nodes: Sequence[Any], sig: int = signal.SIGTERM, retry: float | None = None
    ) -> Iterator[Any]:
        """Have these stop; gives each that has, if it is waited for."""
        maybe_call(self.on_stopping_preamble, nodes)
        left = []
        for node in nodes:
            node.pid = node.pid  # a worker that stops takes its pid file with it
            maybe_call(self.on_send_signal, node, signal_name(sig))
            if node.send(sig, self.on_node_signal_dead):
                left.append(node)
            else:
                yield node
        if not retry or not left:
            return
        maybe_call(self.on_still_waiting_for, left)
        next_word = monotonic() + retry
        while left:
            ended = [node for node in left if not node.alive()]
            for node in ended:
                left.remove(node)
                maybe_call(self.on_node_shutdown_ok, node)
                yield node
                if left:
                    maybe_call(self.on_still_waiting_for, left)
            if left and not ended:
                sleep(_LOOK_SECONDS)
                if monotonic() >= next_word:
                    next_word += retry
                    maybe_call(self.on_still_waiting_progress, left)
        maybe_call(self.on_still_waiting_end)

    def find(self, name: str) -> Any:
        """A worker by its name.

        Raises:
            KeyError: there is none.
        """
        for node in self:
            if node.name == name:
                return node
        raise KeyError(name)

    def getpids(self, on_down: Any = None) -> Iterator[Any]:
        """Those that have a process; ``on_down`` is called with the others."""
        for node in self:
            if node.pid:
                yield node
            else:
                maybe_call(on_down, node)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({len(self)}): {[node.name for node in self]}>"
