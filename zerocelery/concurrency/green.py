"""Makes a program's blocking calls yield to others, before anything is imported that would keep the real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from zerocelery.concurrency import get_implementation


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
    import gevent.monkey  # type: ignore[import-not-found,import-untyped,unused-ignore]

    gevent.monkey.patch_all()


def _patch_eventlet() -> None:
    import eventlet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    eventlet.monkey_patch()


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
        ImportError: gevent or eventlet is not installed, or there is no such pool here.
    """
    argv = sys.argv if argv is None else argv
    patches = {"eventlet": _patch_eventlet, "gevent": _patch_gevent} if patches is None else patches
    try:
        pool = _find_option_with_arg(argv, short_opts or ["-P"], long_opts or ["--pool"])
    except KeyError:
        return
    patch = patches.get(pool)
    if patch is not None:
        patch()
        get_implementation(pool)
