"""docs/guarantees.md is true of the tests: each one that it names is there, and each row that they name is in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "guarantees.md"


def functions() -> Iterator[tuple[str, str]]:
    """Name and docstring of each test."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name, ast.get_docstring(node) or ""


def rows_of(docstring: str) -> set[int]:
    """The rows of the matrix that a test's docstring names: "Row 4:", "Rows 29 and 55.", "Rows 16 to 18:"."""
    named = re.match(r"Rows? (\d+)(?: (and|to) (\d+))?", docstring)
    if named is None:
        return set()
    first, last = int(named[1]), int(named[3] or named[1])
    return set(range(first, last + 1)) if named[2] == "to" else {first, last}


def test_each_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert len(named) > 50
    assert named - {name for name, _ in functions()} == set()


def test_each_row_that_a_test_names_is_on_the_page() -> None:
    cells = re.findall(r"^\| ([\d, ]+) \|", PAGE.read_text(), re.MULTILINE)
    rows = {int(number) for cell in cells for number in cell.split(", ")}
    named = set().union(*(rows_of(docstring) for _, docstring in functions()))
    assert len(named) > 20
    assert named - rows == set()
