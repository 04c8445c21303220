"""Groups: each member counts once, the body follows the last of them once, and a restart changes nothing of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from zerocelery.engine import groups, wire
from zerocelery.engine.groups import Groups
from zerocelery.engine.journal import Journal

NOW = 1_000_000.0


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db")
    yield journal
    journal.close()


@pytest.fixture(params=["same life", "a restart at each step"])
def lives(request: pytest.FixtureRequest, journal: Journal) -> Callable[[], Groups]:
    """The groups of this journal: the same object each time, or one that knows only what is in the journal."""
    first = Groups(journal)
    return lambda: first if request.param == "same life" else Groups(journal)


def gathering(members: list[str], **options: object) -> Raw:
    body = Raw(wire.encode(wire.Task(id="body", name="b")))
    return Raw(wire.encode(wire.Gathering(id="g", members=members, body=body, **options)))  # type: ignore[arg-type]


def end(of: Groups, task_id: str, *, well: bool = True) -> wire.Task | None:
    return of.ended("g", task_id, task_id.encode(), well=well, now=NOW)


def test_the_body_follows_the_last_member_with_results_in_the_members_order(lives: Callable[[], Groups]) -> None:
    lives().open(gathering(["a", "b", "c"]), NOW)

    assert end(lives(), "c") is None
    assert end(lives(), "a") is None
    body = end(lives(), "b")

    assert body is not None
    assert (body.id, body.inputs, body.verdict) == ("body", [b"a", b"b", b"c"], b"")


def test_a_member_counts_once(lives: Callable[[], Groups]) -> None:
    lives().open(gathering(["a", "b"]), NOW)

    assert end(lives(), "a") is None
    assert end(lives(), "a") is None
    assert end(lives(), "b") is not None
    assert end(lives(), "b") is None, "the group is closed"


def test_the_first_failed_member_is_the_verdict_when_all_have_ended(lives: Callable[[], Groups]) -> None:
    lives().open(gathering(["a", "b", "c"]), NOW)

    assert end(lives(), "c", well=False) is None
    assert end(lives(), "b", well=False) is None
    body = end(lives(), "a")

    assert body is not None
    assert (body.inputs, body.verdict) == ([], b"b")
    assert body.flags & wire.SETTLED


def test_a_group_waits_for_members_that_were_added(lives: Callable[[], Groups]) -> None:
    lives().open(gathering(["a"]), NOW)

    assert lives().grow("g", ["x", "y"], close=False, now=NOW) is None
    assert [end(lives(), one) for one in ("a", "y")] == [None, None]
    body = end(lives(), "x")

    assert body is not None
    assert body.inputs == [b"a", b"x", b"y"]


def test_a_group_whose_members_come_one_by_one_is_complete_when_it_is_closed(lives: Callable[[], Groups]) -> None:
    lives().open(gathering([], closed=False), NOW)

    assert [end(lives(), one) for one in ("b", "a")] == [None, None]
    body = lives().grow("g", ["a", "b"], close=True, now=NOW)

    assert body is not None
    assert body.inputs == [b"a", b"b"]


def test_a_body_that_wants_no_results_gets_the_last_one(lives: Callable[[], Groups]) -> None:
    lives().open(gathering(["a", "b"], collect=False), NOW)

    end(lives(), "b")
    body = end(lives(), "a")

    assert body is not None
    assert body.inputs == [b"a"]


def test_delay_and_lifetime_count_from_the_last_end(lives: Callable[[], Groups]) -> None:
    lives().open(gathering(["a"], delay=2.0, lifetime=5.0), NOW)

    body = end(lives(), "a")

    assert body is not None
    assert (body.eta, body.expires) == (NOW + 2.0, NOW + 5.0)


def test_large_results_are_read_from_the_journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_KEPT_BYTES", 10)
    one = Groups(journal)
    one.open(gathering(["a", "b"]), NOW)
    one.ended("g", "a", b"a" * 100, well=True, now=NOW)

    body = one.ended("g", "b", b"b" * 100, well=True, now=NOW)

    assert body is not None
    assert body.inputs == [b"a" * 100, b"b" * 100]


def test_many_open_groups_are_left_to_the_journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_IN_MEMORY", 2)
    one = Groups(journal)
    body = Raw(wire.encode(wire.Task(id="body", name="b")))
    for n in range(5):
        one.open(Raw(wire.encode(wire.Gathering(id=f"g{n}", members=["a", "b"], body=body))), NOW)
        one.ended(f"g{n}", "a", b"1", well=True, now=NOW)

    bodies = [one.ended(f"g{n}", "b", b"2", well=True, now=NOW) for n in range(5)]

    assert [made.inputs for made in bodies if made is not None] == [[b"1", b"2"]] * 5
    journal.write()
    assert journal.count_groups() == 0
    assert journal.parts("g0") == []


def test_what_is_no_group_is_told_and_an_unknown_one_is_nobodys(journal: Journal) -> None:
    one = Groups(journal)

    assert isinstance(one.open(Raw(wire.encode([1, 2])), NOW), wire.Malformed)
    assert end(one, "a") is None
    assert one.grow("g", ["a"], close=True, now=NOW) is None


@given(st.permutations(list("abcde")), st.sets(st.sampled_from("abcde")), st.integers(0, 5))
def test_in_whatever_order_they_end_the_body_is_the_same(order: list[str], failed: set[str], restart: int) -> None:
    journal = Journal(None, durability="none")
    one = Groups(journal)
    one.open(gathering(list("abcde")), NOW)
    bodies = []
    for index, task_id in enumerate(order):
        if index == restart:
            one = Groups(journal)
        bodies.append(end(one, task_id, well=task_id not in failed))
    journal.close()

    *before, body = bodies
    assert before == [None] * 4
    assert body is not None
    assert body.verdict == (min(failed).encode() if failed else b"")
    assert body.inputs == ([] if failed else [b"a", b"b", b"c", b"d", b"e"])
