"""Loggers, by the names that people configure: ``celery.task`` for tasks, ``celery.*`` for the rest."""

from __future__ import annotations

import logging

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import Logger

__all__ = ("base_logger", "get_logger", "get_task_logger", "task_logger")

base_logger = logger = logging.getLogger("celery")
task_logger = logging.getLogger("celery.task")
worker_logger = logging.getLogger("celery.worker")

RESERVED_LOGGER_NAMES = {"celery", "celery.task"}


def _below(parent: Logger, child: Logger) -> Logger:
    """Make one logger the other's parent, unless it is below it already."""
    above: Logger | None = child
    while above is not None:
        if above is parent:
            return child
        above = above.parent
    child.parent = parent
    return child


def get_logger(name: str) -> Logger:
    """The logger of this name, below ``celery`` unless its own parent is some other one's."""
    found = logging.getLogger(name)
    if logging.root not in (found, found.parent) or found is base_logger:
        return found
    return _below(base_logger, found)


def get_task_logger(name: str) -> Logger:
    """The logger for the tasks of a module: ``celery.task`` is its parent, so its lines name the task."""
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"Logger name {name!r} is reserved!")
    return _below(task_logger, get_logger(name))
