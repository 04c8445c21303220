"""Messages, signals and events as stock Celery has them: against what was measured, and against one that is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.behaviour import side_by_side
from compat_tests.conftest import Sandbox

#: Messages are looked at on kombu's own transport; the rest runs on a node.
BROKERS = {"messages": ("memory://",), "signals": ("zmq://",), "events": ("zmq://",)}


def test_every_program_has_been_measured() -> None:
    assert set(side_by_side.recorded()) == set(side_by_side.programs()) == set(BROKERS)


@pytest.mark.parametrize(
    ("program", "broker"), [(program, broker) for program, brokers in BROKERS.items() for broker in brokers]
)
def test_a_program_finds_what_it_finds_under_celery(sandbox: Sandbox, program: str, broker: str) -> None:
    ours = side_by_side.run(program, side="zerocelery", broker=broker, home=sandbox.home)

    assert side_by_side.differences(program, side_by_side.recorded()[program], ours) == {}


@pytest.mark.parametrize("program", side_by_side.programs())
def test_what_was_measured_is_still_so(tmp_path: Path, program: str) -> None:
    if side_by_side.stock_python() is None:
        pytest.skip("stock Celery is not installed: python -m compat_tests.upstream brings it")
    theirs = side_by_side.run(program, side="celery", broker="memory://", home=tmp_path)

    assert side_by_side.differences(program, side_by_side.recorded()[program], theirs) == {}
