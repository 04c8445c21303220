"""Tables as plain text and as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A title, a sentence under it, and rows of text."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        """Columns aligned for a terminal."""
        widths = [max(len(row[i]) for row in (self.headers, *self.rows)) for i in range(len(self.headers))]
        rule = ["-" * width for width in widths]
        lines = ["  ".join(_padded(row, widths)).rstrip() for row in (self.headers, rule, *self.rows)]
        return "\n".join([self.title, *([self.note] if self.note else []), "", *lines])

    def markdown(self) -> str:
        """A section with a pipe table."""
        lines = [f"| {' | '.join(row)} |" for row in (self.headers, ["---"] * len(self.headers), *self.rows)]
        return "\n".join([f"### {self.title}", "", *([self.note, ""] if self.note else []), *lines])


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
