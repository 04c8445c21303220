"""Logging of workers, beat and tasks: where lines go, in which format, and in which colours."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import WatchedFileHandler

from zerocelery import signals
from zerocelery._state import get_current_task
from zerocelery.local import class_property
from zerocelery.utils.imports import symbol_by_name
from zerocelery.utils.jsonlog import JSON, JsonFormatter
from zerocelery.utils.log import (
    ColorFormatter,
    LoggingProxy,
    get_logger,
    get_multiprocessing_logger,
    mlevel,
    reset_multiprocessing_logger,
)
from zerocelery.utils.nodenames import node_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.app.base import Celery

__all__ = ("Logging", "TaskFormatter")


class TaskFormatter(ColorFormatter):
    """Knows ``%(task_name)s`` and ``%(task_id)s``: those of the task that runs where the line was written."""

    def format(self, record: logging.LogRecord) -> Any:
        """The line."""
        task = get_current_task()
        if task is not None:
            record.__dict__.update(task_id=task.request.id, task_name=task.name)
        else:
            record.__dict__.setdefault("task_name", "???")
            record.__dict__.setdefault("task_id", "???")
        return super().format(record)


class Logging:
    """An app's logging: ``app.log``.

    Whoever connects to the signal ``setup_logging`` sets up all of it, and nothing is done here. Otherwise the root
    logger and ``celery.task`` get a handler each, once per process, and ``after_setup_logger`` and
    ``after_setup_task_logger`` tell of them. Handlers that the root logger had are taken off; with
    ``worker_hijack_root_logger`` off they stay, and no other joins them.
    """

    _setup = False

    def __init__(self, app: Celery) -> None:
        self.app = app
        conf = app.conf
        self.loglevel = mlevel(logging.WARNING)
        self.format = conf["worker_log_format"]
        self.datefmt = conf["worker_log_datefmt"]
        self.task_format = conf["worker_task_log_format"]
        self.task_datefmt = conf["worker_task_log_datefmt"]
        self.colorize = conf["worker_log_color"]

    def _was_setup(cls) -> bool:
        return cls._setup

    def _set_was_setup(cls, value: bool) -> None:
        cls._setup = value

    #: Whether this process's logging has been set up.
    already_setup: Any = class_property(_was_setup, _set_was_setup)

    def setup(
        self,
        loglevel: Any = None,
        logfile: Any = None,
        redirect_stdouts: bool = False,
        redirect_level: Any = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> bool:
        """Set up everything; whether a receiver of ``setup_logging`` has done it.

        Arguments:
            loglevel: name or number.
            logfile: path or open file; stderr unless given. A path may have the abbreviations of node names in it.
            redirect_stdouts: whether what is printed becomes log lines, at ``redirect_level``.
            colorize: None: where a terminal is at the other end.
        """
        level = mlevel(loglevel)
        handled = self.setup_logging_subsystem(level, logfile, colorize=colorize, hostname=hostname)
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        # processes that are started from here do as this one
        os.environ.update(CELERY_LOG_LEVEL=str(level) if level else "", CELERY_LOG_FILE=str(logfile) if logfile else "")
        return handled

    def redirect_stdouts(self, loglevel: Any = None, name: str = "celery.redirected") -> None:
        """Let what is printed become lines of this logger."""
        self.redirect_stdouts_to_logger(get_logger(name), loglevel=loglevel)
        os.environ.update(CELERY_LOG_REDIRECT="1", CELERY_LOG_REDIRECT_LEVEL=str(loglevel or ""))

    def setup_logging_subsystem(
        self,
        loglevel: Any = None,
        logfile: Any = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> bool:
        """Set up the loggers, unless that has happened; whether a receiver of ``setup_logging`` has done it."""
        if type(self)._setup:
            return False
        if logfile and hostname:
            logfile = node_format(logfile, hostname)
        level = mlevel(loglevel or self.loglevel)
        form = format or self.format
        colorize = self.supports_color(colorize, logfile)
        reset_multiprocessing_logger()
        told = {"loglevel": level, "logfile": logfile, "format": form, "colorize": colorize}
        receivers = signals.setup_logging.send(sender=None, **told)
        for _, answer in receivers:
            if isinstance(answer, Exception):
                # nobody has set logging up then, and that is to be known
                raise answer
        type(self)._setup = True
        if receivers:
            return True
        self._setup_loggers(level, logfile, form, colorize, self.datefmt if datefmt is None else datefmt, kwargs)
        return False

    def _setup_loggers(
        self, level: Any, logfile: Any, form: str, colorize: bool, datefmt: Any, more: dict[str, Any]
    ) -> None:
        root = logging.getLogger()
        if self.app.conf["worker_hijack_root_logger"]:
            root.handlers = []
            get_logger("celery").handlers = []
            get_logger("celery.task").handlers = []
            get_logger("celery.redirected").handlers = []
        self._configure_logger(root, logfile, level, form, colorize, datefmt=datefmt, **more)
        # multiprocessing's own log is worth a line only when somebody debugs it
        mp = get_multiprocessing_logger()
        self._configure_logger(mp, logfile, level if os.environ.get("MP_LOG") else logging.ERROR, form, colorize,
                               datefmt=datefmt, **more)  # fmt: skip
        signals.after_setup_logger.send(
            sender=None, logger=root, loglevel=level, logfile=logfile, format=form, colorize=colorize
        )
        self.setup_task_loggers(level, logfile, colorize=colorize)

    def _configure_logger(
        self, logger: logging.Logger | None, logfile: Any, loglevel: Any, format: str, colorize: bool, **kwargs: Any
    ) -> None:
        if logger is None:
            return
        self.setup_handlers(logger, logfile, format, colorize, **kwargs)
        if loglevel:
            logger.setLevel(loglevel)

    def setup_task_loggers(
        self,
        loglevel: Any = None,
        logfile: Any = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Set up ``celery.task``, which task loggers are below."""
        level = mlevel(loglevel or self.loglevel)
        form = format or self.task_format
        colorize = self.supports_color(colorize, logfile)
        logger = get_logger("celery.task")
        self.setup_handlers(
            logger,
            logfile,
            form,
            colorize,
            formatter=TaskFormatter,
            datefmt=self.task_datefmt if datefmt is None else datefmt,
            **kwargs,
        )
        logger.setLevel(level)
        logger.propagate = bool(propagate)
        signals.after_setup_task_logger.send(
            sender=None, logger=logger, loglevel=level, logfile=logfile, format=form, colorize=colorize
        )
        return logger

    def redirect_stdouts_to_logger(
        self, logger: logging.Logger, loglevel: Any = None, stdout: bool = True, stderr: bool = True
    ) -> LoggingProxy:
        """Let what is printed become lines of this logger, at WARNING unless a level is given."""
        proxy: Any = LoggingProxy(logger, loglevel)
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy  # type: ignore[no-any-return]

    def supports_color(self, colorize: bool | None = None, logfile: Any = None) -> bool:
        """Whether lines are coloured: not on Windows, nor in files, and only on a terminal unless somebody insists."""
        if colorize is None:
            colorize = self.colorize
        if self.app.IS_WINDOWS:
            return False
        if colorize or colorize is None:
            # a file has no colours, whoever asked
            return not logfile and sys.stderr is not None and (bool(colorize) or sys.stderr.isatty())
        return bool(colorize)

    def colored(self, logfile: Any = None, enabled: bool | None = None) -> Any:
        """What colours text for where the log goes."""
        return symbol_by_name("zerocelery.utils.term:colored")(enabled=self.supports_color(enabled, logfile))

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: Any,
        format: str,
        colorize: bool,
        formatter: Any = ColorFormatter,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give a logger the handler that writes to this file, unless it has a handler of somebody's."""
        if self._is_configured(logger):
            return logger
        handler = self._detect_handler(logfile)
        if format == JSON:
            handler.setFormatter(JsonFormatter())
        else:
            handler.setFormatter(formatter(format, use_color=colorize, datefmt=datefmt))
        logger.addHandler(handler)
        return logger

    def _detect_handler(self, logfile: Any = None) -> logging.Handler:
        """The handler that writes to a path, to an open file, or to stderr."""
        target: Any = sys.__stderr__ if logfile is None else logfile
        if hasattr(target, "write"):
            return logging.StreamHandler(target)
        return WatchedFileHandler(target, encoding="utf-8")

    def _has_handler(self, logger: logging.Logger) -> bool:
        return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers)

    def _is_configured(self, logger: logging.Logger) -> bool:
        return self._has_handler(logger) and not getattr(logger, "_rudimentary_setup", False)

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        """The logger of this name."""
        return get_logger(name)
