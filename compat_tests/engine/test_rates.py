"""Limits of how often tasks start: spaced evenly, for each worker and over all of the node."""

from __future__ import annotations

import pytest

from zerocelery.engine.rates import EVERYBODY, Rates


def starts(rates: Rates, worker: str, name: str, seconds: float, *, step: float = 0.01) -> int:
    """How often a task of this name could start, asked every ``step``."""
    count, now = 0, 0.0
    while now < seconds:
        while rates.start(worker, name, now) == 0.0:
            count += 1
            assert count < 1_000_000
        now += step
    return count


@pytest.mark.parametrize("rate", [0.5, 1.0, 10.0, 1_000.0])
def test_so_many_start_as_the_limit_says(rate: float) -> None:
    rates = Rates()
    rates.change("w", {"f": rate})
    count = starts(rates, "w", "f", 20.0)
    assert rate * 20 <= count <= rate * 20 + max(1, rate * 0.03) + 1


def test_slow_ones_do_not_start_together() -> None:
    rates = Rates()
    rates.change("w", {"f": 2.0})
    assert rates.start("w", "f", 100.0) == 0.0
    assert rates.start("w", "f", 100.0) == pytest.approx(0.5)
    assert rates.start("w", "f", 100.3) == pytest.approx(0.2)
    assert rates.start("w", "f", 100.5) == 0.0


def test_a_pause_saves_nothing_up() -> None:
    rates = Rates()
    rates.change("w", {"f": 1.0})
    assert rates.start("w", "f", 0.0) == 0.0
    assert rates.start("w", "f", 1_000.0) == 0.0
    assert rates.start("w", "f", 1_000.0) > 0.9


def test_each_worker_has_its_own_and_all_have_one_together() -> None:
    rates = Rates()
    rates.change("a", {"f": 1.0})
    assert rates.start("a", "f", 0.0) == 0.0
    assert rates.start("a", "f", 0.0) > 0.0
    assert rates.start("b", "f", 0.0) == 0.0
    assert rates.start("a", "g", 0.0) == 0.0
    rates.change(EVERYBODY, {"g": 1.0})
    assert rates.start("a", "g", 0.0) == 0.0
    assert rates.start("b", "g", 0.0) > 0.0


def test_a_limit_can_be_changed_and_lifted() -> None:
    rates = Rates()
    rates.change("a", {"f": 1.0})
    assert rates.start("a", "f", 0.0) == 0.0
    rates.change("a", {"f": 0.0})
    assert [rates.start("a", "f", 0.0) for _ in range(3)] == [0.0] * 3
    assert not rates


def test_workers_that_are_gone_are_forgotten_when_there_are_many() -> None:
    rates = Rates()
    for number in range(10):
        rates.change(f"w{number}", {"f": 1.0})
    rates.change(EVERYBODY, {"f": 1.0})
    rates.keep({"w3"})
    assert len(rates) == 2
