"""A repr that is cut off in time, for logs and events."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Number
from typing import Any

from zerocelery.utils.text import truncate

__all__ = ("saferepr",)


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int | None = 3, seen: set[int] | None = None) -> str:
    """The object's repr, of about ``maxlen`` characters: what is left out is shown as ``...``, brackets stay in pairs.

    Arguments:
        maxlevels: how deep containers in containers are shown.
        seen: ids of containers that are being shown.
    """
    writer = _Writer(maxlen, maxlevels, seen if seen is not None else set())
    writer.write(o, 0)
    return "".join(writer.parts)


@dataclass
class _Writer:
    """Writes values until there is no room."""

    room: int | None
    levels: int | None
    seen: set[int]
    parts: list[str] = field(default_factory=list)
    #: Whether something was left out: nothing but closing brackets follows.
    cut: bool = False

    def put(self, text: str) -> bool:
        """Write a text, if there is room for any; whether there was."""
        if self.cut:
            return False
        if self.room is not None:
            if self.room <= 0:
                self.parts.append(", ...")
                self.cut = True
                return False
            self.room -= len(text)
        self.parts.append(text)
        return True

    def close(self, text: str) -> None:
        """Write a closing bracket, whether or not there is room."""
        self.parts.append(text)
        if self.room is not None:
            self.room -= len(text)

    def write(self, value: Any, level: int) -> None:
        brackets = _brackets(value)
        if brackets is None:
            self.put(self._plain(value))
            return
        begin, end = brackets
        if isinstance(value, (set, frozenset)) and not value:
            self.put(f"{type(value).__name__}()")
        elif self.levels and level >= self.levels:
            self.put(f"{begin}...{end}")
        elif id(value) in self.seen:
            self.put(f"<Recursion on {type(value).__name__} with id={id(value):x}>")
        elif self.put(begin):
            self.seen.add(id(value))
            self._items(value, level + 1)
            self.seen.discard(id(value))
            self.close(end)

    def _items(self, value: Any, level: int) -> None:
        last = len(value) - 1
        for place, item in enumerate(value.items() if isinstance(value, dict) else value):
            if isinstance(value, dict):
                name, item = item
                if not self.put(saferepr(name, self.room, self.levels)) or not self.put(": "):
                    return
            self.write(item, level)
            if place < last and not self.put(", "):
                return

    def _plain(self, value: Any) -> str:
        if isinstance(value, bytes):
            return _bytes(value, self.room)
        if isinstance(value, str):
            return "'{}'".format(truncate(value, self.room).replace("'", "\\'"))
        if isinstance(value, Number) and not isinstance(value, Decimal):
            return str(value)
        return truncate(_repr(value), self.room)


def _brackets(value: Any) -> tuple[str, str] | None:
    """What stands around a container's items."""
    if isinstance(value, (set, frozenset)):
        return ("{", "}") if type(value) is set else (f"{type(value).__name__}({{", "})")
    if isinstance(value, tuple):
        return "(", ",)" if len(value) == 1 else ")"
    if isinstance(value, dict):
        return "{", "}"
    return ("[", "]") if isinstance(value, list) else None


def _bytes(value: bytes, room: int | None) -> str:
    shown, dots = (value[:room], "...") if room and len(value) > room else (value, "")
    try:
        text = shown.decode()
    except UnicodeDecodeError:
        text = shown.hex()
    return f"b'{text}{dots}'"


def _repr(value: Any) -> str:
    # Whatever a stranger's __repr__ raises: a log line must come of it.
    try:
        return repr(value)
    except Exception as error:
        return f"<Unrepresentable {type(value)!r}{id(value):#x}: {error!r}>"
