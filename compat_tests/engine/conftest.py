"""The engine's pure parts run in memory, in one thread, on a clock of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.engine.system import System


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_system(short_path: Path) -> Iterator[Callable[..., System]]:
    """``make_system(**limits)``: a node in memory, with producers and workers to come."""
    made: list[System] = []

    def make(**limits: Any) -> System:
        made.append(System(short_path / f"node-{len(made)}", **limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def system(make_system: Callable[..., System]) -> System:
    return make_system()
