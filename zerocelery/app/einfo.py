"""An exception with all that hooks, signals and logs want to know of it."""

from __future__ import annotations

import sys
import traceback as _traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    Info = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class ExceptionInfo:
    """What was raised, and where.

    Arguments:
        internal: whether the worker itself failed, and not the task.
    """

    def __init__(self, exc_info: Info | None = None, internal: bool = False) -> None:
        self.type, self.exception, self.tb = exc_info or sys.exc_info()
        self.internal = internal
        self._text: str | None = None

    @property
    def traceback(self) -> str:
        """The traceback as text, made at the first look."""
        if self._text is None:
            self._text = "".join(_traceback.format_exception(self.type, self.exception, self.tb))
        return self._text

    @property
    def exc_info(self) -> Any:
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"

    def __reduce__(self) -> Any:
        return _rebuild, (self.type, self.exception, self.traceback, self.internal)


def _rebuild(
    kind: type[BaseException] | None, exception: BaseException | None, text: str, internal: bool
) -> ExceptionInfo:
    info = ExceptionInfo((kind, exception, None), internal)
    info._text = text
    return info
