"""``billiard.einfo``: exceptions that travel with the text of their traceback."""

from __future__ import annotations

import traceback as _traceback
from types import TracebackType
from typing import Any

from zerocelery.app.einfo import ExceptionInfo

__all__ = ("ExceptionInfo", "ExceptionWithTraceback", "RemoteTraceback", "Traceback")


class RemoteTraceback(Exception):
    """The traceback of another process, as the cause of what was raised there."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


class ExceptionWithTraceback(Exception):
    """Pickles as the exception, with the traceback's text for its cause."""

    def __init__(self, exc: BaseException, tb: TracebackType | None) -> None:
        super().__init__(str(exc))
        self.exc = exc
        text = "".join(_traceback.format_exception(type(exc), exc, tb))
        self.tb = f'\n"""\n{text}"""'

    def __reduce__(self) -> Any:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """The exception, caused by a traceback that can be read."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


class _Code:
    def __init__(self, code: Any) -> None:
        self.co_filename = code.co_filename
        self.co_name = code.co_name
        self.co_argcount = code.co_argcount
        self.co_firstlineno = code.co_firstlineno


class _Frame:
    Code = _Code

    def __init__(self, frame: Any) -> None:
        self.f_builtins: dict[str, Any] = {}
        self.f_globals = {key: frame.f_globals.get(key) for key in ("__file__", "__name__", "__loader__")}
        self.f_locals: dict[str, Any] = {}
        self.f_code = self.Code(frame.f_code)
        self.f_lineno = frame.f_lineno
        self.f_lasti = frame.f_lasti
        self.f_trace = None


class Traceback:
    """A traceback without what it holds on to: places only.

    Arguments:
        max_frames: how much of a deep one is kept.
    """

    Frame = _Frame

    def __init__(self, tb: TracebackType, max_frames: int = 125, depth: int = 0) -> None:
        self.tb_frame = self.Frame(tb.tb_frame)
        self.tb_lineno = tb.tb_lineno
        self.tb_lasti = tb.tb_lasti
        self.tb_next: Traceback | None = None
        if tb.tb_next is not None and depth <= max_frames:
            self.tb_next = Traceback(tb.tb_next, max_frames, depth + 1)
