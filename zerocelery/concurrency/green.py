"""Makes a program's blocking calls yield to others, before anything is imported that would keep the real ones."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from zerocelery.transport.waiting import is_green, keep_native

#: The pools of green threads; each is the name of the package, and of the extra that brings it.
GREEN = ("gevent", "eventlet")


_PATCHES = {"gevent": "gevent.monkey.patch_all()", "eventlet": "eventlet.monkey_patch()"}


def require_patched(kind: str) -> None:
    """See to it that gevent or eventlet is there, and has patched what blocks.

    Raises:
        ImportError: it is not; the message says what to do.
    """
    module = "gevent.monkey" if kind == "gevent" else "eventlet.patcher"
    try:
        patcher = importlib.import_module(module)
    except ImportError as error:
        raise _missing(kind, error) from error
    patched = patcher.is_module_patched("socket") if kind == "gevent" else patcher.is_monkey_patched("socket")
    if not patched:
        raise ImportError(
            f"{kind} has not patched what blocks, and now it is too late: choose this pool on the command line, as in "
            f"worker -P {kind}, and not by worker_pool; a program calls {_PATCHES[kind]} first of all"
        )


def _missing(kind: str, error: ImportError) -> ImportError:
    return ImportError(f"a {kind} pool needs {kind}: pip install 'zerocelery[{kind}]' ({error})")


def _find_option_with_arg(
    argv: Sequence[str], short_opts: Sequence[str] | None = None, long_opts: Sequence[str] | None = None
) -> str:
    """What a command line says for an option: ``--pool=x``, ``--pool x``, ``-P x`` or ``-Px``.

    Raises:
        KeyError: it isn't there, or nothing follows it.
    """
    names = (*(short_opts or ()), *(long_opts or ()))
    for place, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if equals and name in (long_opts or ()):
            return value
        if word in names and len(argv) > place + 1:
            return argv[place + 1]
        short = word[:2]
        if len(word) > 2 and short in (short_opts or ()):
            return word[2:]
    raise KeyError("|".join(names))


def _patch_gevent() -> None:
    try:
        import gevent.monkey
    except ImportError as error:
        raise _missing("gevent", error) from error

    gevent.monkey.patch_all()


def _patch_eventlet() -> None:
    try:
        import eventlet
        import eventlet.debug
    except ImportError as error:
        raise _missing("eventlet", error) from error

    eventlet.monkey_patch()
    # Sockets of ZeroMQ tell by one descriptor both that there is something to read and that there is room to write.
    eventlet.debug.hub_prevent_multiple_readers(False)
    blocking = float(os.environ.get("EVENTLET_NOBLOCK") or 0)
    if blocking:
        eventlet.debug.hub_blocking_detection(True, blocking)


def maybe_patch_concurrency(
    argv: Sequence[str] | None = None,
    short_opts: Sequence[str] | None = None,
    long_opts: Sequence[str] | None = None,
    patches: Mapping[str, Callable[[], object]] | None = None,
) -> None:
    """Patch blocking calls where a command line asks for a pool of green threads.

    Call it first of all: what was imported before keeps the calls that block.

    Arguments:
        argv: the command line, this program's unless given.
        short_opts, long_opts: the options that name a pool (``-P``, ``--pool``).
        patches: what to call, by pool.

    Raises:
        ImportError: gevent or eventlet is not installed.
    """
    argv = sys.argv if argv is None else argv
    patches = {"eventlet": _patch_eventlet, "gevent": _patch_gevent} if patches is None else patches
    try:
        pool = _find_option_with_arg(argv, short_opts or ["-P"], long_opts or ["--pool"])
    except KeyError:
        return
    patch = patches.get(pool)
    if patch is not None:
        keep_native()
        patch()
        from zerocelery.concurrency import get_implementation

        get_implementation(pool)


def patch_for_command() -> None:
    """As :func:`maybe_patch_concurrency`, for this process's command line; what is missing ends it with a sentence."""
    if "worker" not in sys.argv or "multi" in sys.argv or is_green():
        return
    try:
        maybe_patch_concurrency()
    except ImportError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from error
