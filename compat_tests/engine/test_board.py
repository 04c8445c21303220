"""What a pool and its processes tell each other without a message."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import pytest

from zerocelery.engine.autoscale import Autoscale
from zerocelery.engine.board import LOOK, MESSAGE, SLOTS, Board


@pytest.fixture
def board() -> Iterator[Board]:
    one = Board()
    yield one
    one.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for end in ends:
        os.close(end)


def woken(read: int) -> bool:
    try:
        return os.read(read, 64) == MESSAGE.pack(LOOK)
    except BlockingIOError:
        return False


def test_a_row_says_whose_it_is_and_until_when_its_task_may_run(board: Board) -> None:
    row = board.row(3)
    row.sign("0123456789abcdef")
    row.begin(12.5, 2.0, b"proj.add[1]")
    seen = board.row(3)
    assert (seen.worker_id, seen.due, seen.limit, seen.label) == ("0123456789abcdef", 12.5, 2.0, "proj.add[1]")
    row.end()
    assert seen.due == 0.0
    assert board.row(2).due == board.row(4).due == 0.0
    row.clear()
    assert (seen.worker_id, seen.label) == ("", "")


def test_a_label_is_cut_to_its_place(board: Board) -> None:
    board.row(0).begin(1.0, 1.0, b"x" * 10_000)
    assert set(board.row(0).label) == {"x"}
    assert board.row(1).worker_id == ""
    board.row(SLOTS - 1).begin(1.0, 1.0, b"last")
    assert board.row(SLOTS - 1).label == "last"


def test_only_who_is_due_before_the_pool_wakes_wakes_it(board: Board, pipe: tuple[int, int]) -> None:
    read, write = pipe
    row = board.row(0, write)
    row.begin(10.0, 1.0, b"")
    assert woken(read)
    board.sleep_until(10.0)
    row.begin(11.0, 1.0, b"")
    assert not woken(read)
    row.begin(9.0, 1.0, b"")
    assert woken(read)
    board.sleep_until(math.inf)
    assert board.wakes_at == math.inf


def test_who_is_busy_says_since_when(board: Board) -> None:
    board.row(1).busy(7.0)
    assert (board.row(0).busy_since, board.row(1).busy_since) == (0.0, 7.0)
    board.row(1).busy(0.0)
    assert board.row(1).busy_since == 0.0


def test_a_pool_grows_while_all_are_busy_and_shrinks_to_what_was_needed() -> None:
    autoscale = Autoscale(10, 2, keep_alive=10.0)
    assert autoscale.wanted(0.0, 2, 1) == 2
    assert autoscale.wanted(1.0, 2, 2) == 3
    assert autoscale.wanted(2.0, 8, 8) == 10
    assert autoscale.wanted(3.0, 10, 10) == 10
    sizes = [autoscale.wanted(float(second), 10, 3) for second in range(4, 13)]
    assert sizes == [10] * 9
    assert autoscale.wanted(13.0, 10, 3) == 4
    assert min(autoscale.wanted(14.0 + second, 4, 0) for second in range(12)) == 2


@pytest.mark.parametrize(("most", "least"), [(0, 0), (1, 2), (5, -1)])
def test_a_range_that_is_none_is_refused(most: int, least: int) -> None:
    with pytest.raises(ValueError, match="write most,least, as in 10,3"):
        Autoscale(most, least)
