"""Log lines as JSON: one object a line, for those who collect logs."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

from zerocelery._state import get_current_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ("JSON", "JsonFormatter")

#: What ``worker_log_format`` is set to for it.
JSON: Final = "json"

#: What every record has; whatever else is in one was given with ``extra=``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "task_id", "task_name", "data"}


class JsonFormatter(logging.Formatter):
    """Gives time (UTC), level, logger, process, pid and message; of a task its id and name; and what ``extra=`` has.

    A traceback is text, under ``exception``. What JSON has no word for is written as its ``repr``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        task = get_current_task()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.processName,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if task is not None:
            line.update(task_id=task.request.id, task_name=task.name)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        line.update((key, value) for key, value in vars(record).items() if key not in _USUAL and key not in line)
        return json.dumps(line, default=repr, ensure_ascii=False)
