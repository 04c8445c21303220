"""When a node with nothing to do stays awake."""

from __future__ import annotations

from zerocelery.engine.vigil import AWAKE_SECONDS, Vigil


def test_it_stays_awake_while_the_next_thing_comes_at_once() -> None:
    vigil = Vigil(processors=2)
    assert vigil.moment(0) == 0.0
    vigil.waited(AWAKE_SECONDS / 3)
    assert vigil.moment(0) == AWAKE_SECONDS
    assert vigil.moment(1) == AWAKE_SECONDS


def test_a_moment_that_brought_nothing_ends_it() -> None:
    vigil = Vigil(processors=2)
    vigil.waited(AWAKE_SECONDS / 3)
    vigil.waited(AWAKE_SECONDS * 20)
    assert vigil.moment(0) == 0.0


def test_it_takes_no_processor_that_a_task_or_its_sender_needs() -> None:
    lonely, pair, many = (Vigil(processors=n) for n in (1, 2, 8))
    for vigil in (lonely, pair, many):
        vigil.waited(0.0)
    assert [lonely.moment(0), lonely.moment(1)] == [0.0, 0.0]
    assert [pair.moment(1), pair.moment(2)] == [AWAKE_SECONDS, 0.0]
    assert [many.moment(7), many.moment(8)] == [AWAKE_SECONDS, 0.0]
