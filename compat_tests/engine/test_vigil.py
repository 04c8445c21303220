"""When a node with nothing to do stays awake."""

from __future__ import annotations

from zerocelery.engine.vigil import AWAKE_SECONDS, SHORT_WAITS, Vigil, spendable_processors


def lively(processors: int) -> Vigil:
    """The vigil of a node to which the next thing has come at once for a while."""
    vigil = Vigil(processors)
    for _ in range(SHORT_WAITS):
        assert vigil.moment(0) == 0.0
        vigil.waited(AWAKE_SECONDS / 3)
    return vigil


def test_it_stays_awake_while_the_next_thing_comes_at_once() -> None:
    vigil = lively(2)
    for _ in range(100):
        assert vigil.moment(0) == vigil.moment(1) == AWAKE_SECONDS
        vigil.waited(AWAKE_SECONDS / 3)


def test_a_moment_that_brought_nothing_ends_it() -> None:
    vigil = lively(2)
    assert vigil.moment(0) == AWAKE_SECONDS
    vigil.waited(AWAKE_SECONDS * 1.1)
    assert vigil.moment(0) == 0.0


def test_work_that_comes_now_and_then_does_not_begin_it() -> None:
    """A task that takes no time, every few milliseconds: it would be awake for longer than it works."""
    vigil = Vigil(2)
    for _ in range(100):
        vigil.waited(AWAKE_SECONDS / 3)  # the result
        vigil.waited(AWAKE_SECONDS * 2)  # the next task
        assert vigil.moment(0) == 0.0


def test_it_takes_no_processor_that_a_task_or_its_sender_needs() -> None:
    lonely, pair, many = lively(1), lively(2), lively(8)
    assert [lonely.moment(0), lonely.moment(1)] == [0.0, 0.0]
    assert [pair.moment(1), pair.moment(2)] == [AWAKE_SECONDS, 0.0]
    assert [many.moment(7), many.moment(8)] == [AWAKE_SECONDS, 0.0]


def test_a_process_has_at_least_one_processor() -> None:
    assert spendable_processors() >= 1
