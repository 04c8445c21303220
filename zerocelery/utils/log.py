"""Loggers, by the names that people configure: ``celery.task`` for tasks, ``celery.*`` for the rest."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from logging import Logger
    from typing import Any, ClassVar

__all__ = (
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "current_process",
    "current_process_index",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "iter_open_logger_fds",
    "logger_isa",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
    "task_logger",
)

base_logger = logger = logging.getLogger("celery")
task_logger = logging.getLogger("celery.task")
worker_logger = logging.getLogger("celery.worker")

#: Whether multiprocessing's own log is wanted, too.
MP_LOG = os.environ.get("MP_LOG", "")

RESERVED_LOGGER_NAMES = {"celery", "celery.task"}

#: Levels by name and by number.
LOG_LEVELS: dict[str | int, str | int] = {
    **{name: getattr(logging, name) for name in ("CRITICAL", "DEBUG", "ERROR", "INFO", "NOTSET", "WARN", "WARNING")},
    **{getattr(logging, name): name for name in ("CRITICAL", "DEBUG", "ERROR", "INFO", "NOTSET", "WARNING")},
    "FATAL": logging.FATAL,
}

#: Whether this process is in a signal handler, where a lock may be held by what was interrupted.
_in_sighandler = False


def __getattr__(name: str) -> Any:
    # kombu costs more to import than all of this package.
    if name == "safe_str":
        from kombu.utils.encoding import safe_str

        globals()["safe_str"] = safe_str
        return safe_str
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ── signal handlers ──────────────────────────────────────────────────────────────────────────────────────────────────


def set_in_sighandler(value: bool) -> None:
    """Say that a signal handler runs, or has ended."""
    global _in_sighandler
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """The context of a signal handler: what is written within goes straight to stderr."""
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


# ── loggers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def iter_open_logger_fds() -> Iterator[Any]:
    """The files that loggers write to, each once."""
    seen = set()
    for found in [logging.root, *logging.Logger.manager.loggerDict.values()]:
        for handler in getattr(found, "handlers", ()):
            stream = getattr(handler, "stream", None)
            if stream is not None and id(stream) not in seen:
                seen.add(id(stream))
                yield stream


def logger_isa(l: Logger, p: Logger, max: int = 1000) -> bool:  # noqa: E741  Celery's names
    """Whether a logger is another one, or below it.

    Raises:
        RuntimeError: it is below itself.
    """
    this: Logger | None = l
    seen: set[Logger] = set()
    for _ in range(max):
        if this is None:
            return False
        if this is p:
            return True
        if this in seen:
            raise RuntimeError(f"Logger {l.name!r} parents recursive")
        seen.add(this)
        this = this.parent
    raise RuntimeError(f"Logger hierarchy exceeds {max}")


def _using_logger_parent(parent_logger: Logger, logger_: Logger) -> Logger:
    """Make one logger the other's parent, unless it is below it already."""
    if not logger_isa(logger_, parent_logger):
        logger_.parent = parent_logger
    return logger_


def get_logger(name: str) -> Logger:
    """The logger of this name, below ``celery`` unless its own parent is some other one's."""
    found = logging.getLogger(name)
    if logging.root not in (found, found.parent) or found is base_logger:
        return found
    return _using_logger_parent(base_logger, found)


def get_task_logger(name: str) -> Logger:
    """The logger for the tasks of a module: ``celery.task`` is its parent, so its lines name the task."""
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"Logger name {name!r} is reserved!")
    return _using_logger_parent(task_logger, get_logger(name))


def mlevel(level: str | int | None) -> Any:
    """A level's number, of its name or number; what is nothing stays so."""
    if level and not isinstance(level, int):
        return LOG_LEVELS[level.upper()]
    return level


def get_multiprocessing_logger() -> Logger:
    """multiprocessing's own logger."""
    from multiprocessing.util import get_logger

    return get_logger()


def reset_multiprocessing_logger() -> None:
    """Let multiprocessing make its logger anew, as after a fork."""
    from multiprocessing import util

    if hasattr(util, "_logger"):
        util._logger = None


def current_process() -> Any:
    """This process, as multiprocessing has it."""
    from multiprocessing import current_process

    return current_process()


def current_process_index(base: int = 1) -> int | None:
    """This process's number in its pool, counted from ``base``; None outside of pools."""
    index: int | None = getattr(current_process(), "index", None)
    return index + base if index is not None else None


# ── formatting ───────────────────────────────────────────────────────────────────────────────────────────────────────


class ColorFormatter(logging.Formatter):
    """Shows levels in colours, and never fails for what it is to show.

    Arguments:
        use_color: whether to.
    """

    #: Level → what a terminal is told.
    COLORS: ClassVar[dict[str, str]] = {
        "DEBUG": "\x1b[1;34m",
        "WARNING": "\x1b[1;33m",
        "ERROR": "\x1b[1;31m",
        "CRITICAL": "\x1b[1;35m",
    }
    RESET = "\x1b[0m"

    def __init__(self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def formatException(self, ei: Any) -> Any:
        """The traceback, as text that can be written."""
        if ei and not isinstance(ei, tuple):
            ei = sys.exc_info()
        text = super().formatException(ei)
        return _module().safe_str(text) if isinstance(text, (bytes, str)) else text  # type: ignore[redundant-expr]

    def format(self, record: logging.LogRecord) -> Any:
        """The line, in its level's colour."""
        try:
            text = super().format(record)
        except Exception as error:
            return self._unformattable(record, error)
        color = self.COLORS.get(record.levelname) if self.use_color else None
        if not isinstance(text, (bytes, str)):
            return text
        text = _module().safe_str(text)
        return f"{color}{text}{self.RESET}" if color else text

    def _unformattable(self, record: logging.LogRecord, error: Exception) -> Any:
        message, info = record.msg, record.exc_info
        record.exc_info, record.exc_text = sys.exc_info(), None
        record.msg = f"<Unrepresentable {type(message)!r}: {error!r}>"
        record.args = ()
        try:
            return super().format(record)
        finally:
            record.msg, record.exc_info = message, info


class LoggingProxy:
    """A file whose lines go to a logger.

    Arguments:
        loglevel: at which level; WARNING unless given.
    """

    mode = "w"
    name: str | None = None
    closed = False
    loglevel: Any = logging.ERROR

    _thread = threading.local()

    def __init__(self, logger: Logger, loglevel: Any = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or self.logger.level or self.loglevel)
        self._safewrap_handlers()

    def _safewrap_handlers(self) -> None:
        """A handler's error is shown on the real stderr: this one may be it, and would ask the handler again."""

        def handle(record: logging.LogRecord) -> None:
            import traceback

            if logging.raiseExceptions and sys.__stderr__ is not None:
                try:
                    traceback.print_exc(None, sys.__stderr__)
                except OSError:
                    pass  # nobody to tell

        for handler in self.logger.handlers:
            handler.handleError = handle  # type: ignore[method-assign]

    def write(self, data: str | bytes) -> int:
        """Log the text; how much of it was taken. Within a signal handler it goes to stderr, for loggers have locks."""
        text = data.decode() if isinstance(data, bytes) else data
        if _in_sighandler:
            if sys.__stderr__ is not None:
                sys.__stderr__.write(text)
            return len(data)
        if getattr(self._thread, "recurse_protection", False):
            return 0  # the logger's own handler writes to this file
        if data and not self.closed:
            self._thread.recurse_protection = True
            try:
                line = _module().safe_str(text).rstrip("\n")
                if line:
                    self.logger.log(self.loglevel, line)
                return len(data)
            finally:
                self._thread.recurse_protection = False
        return 0

    def writelines(self, sequence: Iterable[str | bytes]) -> None:
        """Log each."""
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """There is nothing to flush: each write is a line."""

    def close(self) -> None:
        """Log nothing from now on."""
        self.closed = True

    def isatty(self) -> bool:
        """Never."""
        return False


def _module() -> Any:
    """This module, whose names tests replace."""
    return sys.modules[__name__]
