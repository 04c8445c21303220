"""What a test may change for the whole process, put back after it.

Tests run in any order in one process, and much of Celery's face is global: the current app, signals, logging, the
environment. A program that a test runs in-process (``-l FATAL``, ``install_as_celery``, a worker of
``contrib.testing``) changes these on purpose; the next test begins as if it were the first.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

from zerocelery import _state, signals
from zerocelery.app.log import Logging
from zerocelery.utils.dispatch import Signal

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Everything global is afterwards what it was before."""
    put_back = [_environment(), _logging(), _signal_handlers(), _apps(), _receivers()]
    try:
        yield
    finally:
        for undo in put_back:
            undo()


def _environment() -> Callable[[], None]:
    environ, path, directory = dict(os.environ), list(sys.path), os.getcwd()
    streams = sys.stdout, sys.stderr

    def undo() -> None:
        pytest_owns = os.environ.get("PYTEST_CURRENT_TEST")
        os.environ.clear()
        os.environ.update(environ)
        if pytest_owns is not None:
            os.environ["PYTEST_CURRENT_TEST"] = pytest_owns
        sys.path[:] = path
        os.chdir(directory)
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            if type(getattr(sys, name)).__module__.startswith("zerocelery"):
                setattr(sys, name, stream)  # printing that was made into log lines

    return undo


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _ours(logger: logging.Logger) -> list[logging.Handler]:
    """The handlers but pytest's, which come and go with each phase of a test."""
    return [handler for handler in logger.handlers if not type(handler).__module__.startswith("_pytest.")]


def _logging() -> Callable[[], None]:
    before = {logger: (logger.level, logger.propagate, logger.disabled, _ours(logger)) for logger in _loggers()}
    disabled = logging.root.manager.disable

    def undo() -> None:
        logging.disable(disabled)
        for logger in _loggers():
            level, propagate, off, handlers = before.get(logger, (logging.NOTSET, True, False, []))
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, off
            present = _ours(logger)
            for handler in present:
                if handler not in handlers:
                    logger.removeHandler(handler)
            for handler in handlers:
                if handler not in present:
                    logger.addHandler(handler)

    return undo


def _signal_handlers() -> Callable[[], None]:
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def undo() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return undo


def _apps() -> Callable[[], None]:
    default, current, waiting = _state.default_app, _state._tls.current_app, dict(_state._finalizers)
    logging_set_up = Logging._setup

    def undo() -> None:
        _state.default_app, _state._tls.current_app = default, current
        _state._finalizers.clear()
        _state._finalizers.update(waiting)
        Logging._setup = logging_set_up

    return undo


def _receivers() -> Callable[[], None]:
    before = [(each, list(each.receivers)) for each in vars(signals).values() if isinstance(each, Signal)]

    def undo() -> None:
        for each, known in before:
            each.receivers[:] = known

    return undo
