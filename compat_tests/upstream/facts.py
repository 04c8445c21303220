"""What is known of each file of the suite: its class, which tests look inside, and how stock Celery fares.

``facts.json`` has a line for each file: ``class`` A (must pass), B (should), C (Celery's own engine) or O (a result
backend of somebody else's); ``private``: its tests that touch private names or patch Celery's modules, by class;
``items`` and ``stock_fails``: how many tests stock Celery passed where this was measured, and which it did not.
``known.toml`` lists the differences that are meant, each with its reason.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from pathlib import Path
from typing import Any

import tomllib

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Facts:
    """A file's."""

    kind: str
    private: frozenset[str] = frozenset()
    items: int | None = None
    stock_fails: frozenset[str] = frozenset()

    def is_black_box(self, test: str) -> bool:
        """Whether a test uses published names only."""
        return test.partition("::")[2].partition("[")[0] not in self.private


def load() -> dict[str, Facts]:
    """Facts by file."""
    raw: dict[str, dict[str, Any]] = json.loads((HERE / "facts.json").read_text())
    return {
        file: Facts(
            kind=fact["class"],
            private=frozenset(
                f"{group}::{name}" if group else name for group, names in fact["private"].items() for name in names
            ),
            items=fact.get("items"),
            stock_fails=frozenset(fact.get("stock_fails", ())),
        )
        for file, fact in raw.items()
    }


def save_stock(measured: dict[str, tuple[int, list[str]]]) -> None:
    """Write down how stock Celery fared: by file, how many tests passed, and which did not."""
    raw: dict[str, dict[str, Any]] = json.loads((HERE / "facts.json").read_text())
    for file, (items, fails) in measured.items():
        raw[file].update(items=items, stock_fails=sorted(fails))
    write(raw)


def write(raw: dict[str, dict[str, Any]]) -> None:
    """A line for each file."""
    lines = [f"{json.dumps(file)}: {json.dumps(fact, separators=(',', ':'))}" for file, fact in sorted(raw.items())]
    (HERE / "facts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


@dataclasses.dataclass(frozen=True)
class Known:
    """A difference that is meant: of a file, or of tests by name (with ``*``)."""

    reason: str
    file: str = ""
    test: str = ""

    def covers(self, test: str) -> bool:
        if self.file:
            return test.partition("::")[0] == self.file
        return test == self.test or test.partition("[")[0] == self.test or fnmatch.fnmatchcase(test, self.test)


def known() -> list[Known]:
    """All of them."""
    entries = tomllib.loads((HERE / "known.toml").read_text()).get("known", [])
    return [Known(**entry) for entry in entries]
