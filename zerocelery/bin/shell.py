"""``zerocelery shell``: Python with the app and its tasks at hand."""

from __future__ import annotations

import code
import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import click

from zerocelery.bin.base import CeleryCommand, CeleryOption, CLIContext, CommandError, handle_preload_options

_GROUP = "Shell Options"


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.option("-I", "--ipython", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Take IPython.")
@click.option("-B", "--bpython", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Take bpython.")
@click.option("--python", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Take Python's own.")
@click.option("-T", "--without-tasks", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Without the tasks.")
@click.option("--eventlet", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Patch by eventlet first.")
@click.option("--gevent", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="Patch by gevent first.")
@click.pass_context
@handle_preload_options
def shell(
    ctx: click.Context,
    /,
    ipython: bool,
    bpython: bool,
    python: bool,
    without_tasks: bool,
    eventlet: bool,
    gevent: bool,
    **extra: Any,
) -> None:
    """Start Python with the app as ``app`` and ``celery``, the canvas, and all tasks by their short names."""
    cli: CLIContext = ctx.obj
    if eventlet:
        _module("eventlet", "--eventlet").monkey_patch()
    if gevent:
        _module("gevent.monkey", "--gevent").patch_all()
    names = namespace(cli.app, tasks=not without_tasks)
    _interpreter(ipython, bpython, python)(names)
    cli.app.close()


def namespace(app: Any, *, tasks: bool = True) -> dict[str, Any]:
    """What the shell knows from the start."""
    from zerocelery import Task, canvas

    app.loader.import_default_modules()
    names = ("chain", "chord", "chunks", "group", "signature", "subtask", "xmap", "xstarmap")
    found = {"app": app, "celery": app, "Task": Task, **{name: getattr(canvas, name) for name in names}}
    if tasks:
        own = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
        found.update({task.__name__: task for task in own.values()})
    return found


def _module(name: str, option: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise CommandError(f"{option} needs {package}, and it can't be imported ({error}): pip install it") from error


def _interpreter(ipython: bool, bpython: bool, python: bool) -> Callable[[dict[str, Any]], None]:
    """The one asked for, or else the best that is installed."""
    if ipython:
        return _ipython
    if bpython:
        return _bpython
    if python:
        return _python
    if importlib.util.find_spec("IPython"):
        return _ipython
    if importlib.util.find_spec("bpython"):
        return _bpython
    return _python


def _ipython(names: dict[str, Any]) -> None:
    _module("IPython", "--ipython").start_ipython(argv=[], user_ns=names)


def _bpython(names: dict[str, Any]) -> None:
    _module("bpython", "--bpython").embed(names)


def _python(names: dict[str, Any]) -> None:
    if sys.stdin.isatty():
        try:
            import readline
            import rlcompleter
        except ImportError:
            pass  # this Python was built without: then there are no completions
        else:
            readline.set_completer(rlcompleter.Completer(names).complete)
            readline.parse_and_bind("tab: complete")
    code.interact(local=names)
