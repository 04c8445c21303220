"""A task's types, as mypy and pyright see them: what it takes and what its result is, through every way to call it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest

from zerocelery import Signature

TYPED = Path(__file__).with_name("typed_tasks.py")
ROOT = Path(__file__).parents[2]

LINES = TYPED.read_text().splitlines()
SEEN = {number: line.partition("# sees: ")[2] for number, line in enumerate(LINES, 1) if "# sees: " in line}
REFUSED = {number for number, line in enumerate(LINES, 1) if line.endswith("# refused")}


def short(text: str) -> str:
    """A type without the modules of its names."""
    return re.sub(r"\b[\w.]+\.(\w+)", r"\1", text)


@pytest.mark.timeout(300)
def test_mypy_knows_what_tasks_take_and_give() -> None:
    pytest.importorskip("mypy")
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(TYPED)], cwd=ROOT, capture_output=True, text=True
    ).stdout

    seen, refused = {}, set()
    for number, kind, text in re.findall(r"typed_tasks\.py:(\d+): (note|error): (.*)", told):
        revealed = re.match(r'Revealed type is "(.*)"', text)
        if revealed:
            seen[int(number)] = short(revealed.group(1))
        elif kind == "error":
            refused.add(int(number))
    assert seen == SEEN, told
    assert refused == REFUSED, told


@pytest.mark.timeout(300)
def test_pyright_knows_what_tasks_take_and_give() -> None:
    pytest.importorskip("pyright")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(TYPED)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if not done.stdout.startswith("{"):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            f"pyright can't be run here: {done.stderr[-200:]}"
        )

    seen, refused = {}, set()
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        number = one["range"]["start"]["line"] + 1
        revealed = re.match(r'Type of ".*" is "(.*)"', one["message"], re.DOTALL)
        if revealed:
            seen[number] = short(revealed.group(1))
        elif one["severity"] == "error":
            refused.add(number)
    assert seen == SEEN, done.stdout
    assert refused == REFUSED, done.stdout


def test_what_a_signature_gives_can_be_said_where_a_program_runs() -> None:
    assert get_origin(Signature[int]) is Signature
    assert get_args(Signature[int]) == (int,)
    assert Signature[int]("proj.add", (1, 2)) == Signature("proj.add", (1, 2))
