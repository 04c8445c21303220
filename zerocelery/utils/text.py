"""Texts made shorter, longer, or filled in."""

from __future__ import annotations

import io
import re
import textwrap
from functools import partial
from pprint import pformat
from typing import Any

__all__ = (
    "WhateverIO",
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "match_case",
    "pluralize",
    "pretty",
    "remove_repeating",
    "remove_repeating_from_task",
    "simple_format",
    "str_to_list",
    "truncate",
)

RE_FORMAT = re.compile(r"%([%\w])")


def str_to_list(s: Any) -> Any:
    """``'a,b'`` as a list; anything else as it is."""
    return s.split(",") if isinstance(s, str) else s


def dedent_initial(s: str, n: int = 4) -> str:
    """The text without n blanks before it."""
    return s.removeprefix(" " * n)


def dedent(s: str, sep: str = "\n") -> str:
    """Each line without four blanks before it."""
    return sep.join(map(dedent_initial, s.splitlines()))


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Each paragraph broken into lines."""
    return sep.join(textwrap.fill(paragraph, width) for paragraph in s.split(sep))


def join(l: Any, sep: str = "\n") -> str:  # noqa: E741 - the parameter's published name
    """Those of the texts that aren't empty, as one."""
    return sep.join(filter(None, l))


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """The text with as many separators added as it has less than n."""
    return s + sep * (n - s.count(sep))


ensure_newlines = partial(ensure_sep, "\n")


def abbr(S: str | None, max: int, ellipsis: str | bool | None = "...") -> str:
    """A word of no more than so many characters."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    return S[: max - len(ellipsis)] + ellipsis if isinstance(ellipsis, str) and ellipsis else S[:max]


def abbrtask(S: str | None, max: int) -> str:
    """A task's name of so many characters: its own name, and of its module's what there is room for."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, name = S.rpartition(".")
    return f"{abbr(module, max - len(name) - 3, False)}[.]{name}"


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """Each line with so many blanks before it."""
    return sep.join(" " * indent + line for line in t.split(sep))


def truncate(s: str, maxlen: int | None = 128, suffix: str = "...") -> str:
    """The text cut off before the word that makes it so long."""
    if not maxlen or len(s) < maxlen:
        return s
    return s[:maxlen].rsplit(" ", 1)[0] + suffix


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """The word for so many."""
    return text if n == 1 else text + suffix


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """A value for people to read."""
    if isinstance(value, dict):
        return f"{sep} {pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}    {pformat(value, width=nl_width, **kw)}"
    return pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """The text in capitals if the other is."""
    return s.upper() if other.isupper() else s.lower()


def simple_format(s: str, keys: dict[str, Any], pattern: re.Pattern[str] = RE_FORMAT, expand: str = r"\1") -> str:
    """The text with ``%n`` replaced by what ``keys`` has for n: a text, or a function that gives one."""

    def resolve(match: re.Match[str]) -> str:
        key = match.expand(expand)
        if key == "%" and key not in keys:
            return "%"
        if key not in keys:
            raise ValueError(f"Unknown format %{key} in string {s!r}: a percent sign itself is written %%")
        found = keys[key]
        return str(found() if callable(found) else found)

    return pattern.sub(resolve, s) if s else s


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """The text with the task's module named only once, as in ``tasks.add(2, 2), mul(3)``."""
    module = str(task_name).rpartition(".")[0]
    return remove_repeating(f"{module}.", s) if module else s


def remove_repeating(substr: str, s: str) -> str:
    """The text without a prefix of names in it, but for the first time that it comes."""
    begin = s.find(substr) + len(substr)
    if substr not in s:
        return s
    # where a name goes on before it, it is part of another prefix
    return s[:begin] + re.sub(rf"(?<![\w.-]){re.escape(substr)}", "", s[begin:])


class WhateverIO(io.StringIO):
    """A text in memory that takes bytes as well."""

    def __init__(self, v: Any = None, *a: Any, **kw: Any) -> None:
        super().__init__(_text(v), *a, **kw)

    def write(self, data: Any) -> int:
        return super().write(_text(data) or "")


def _text(data: Any) -> str | None:
    return data.decode() if isinstance(data, bytes) else data
