"""The queues: what is handed out next, from a window in memory over a backlog in the journal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from compat_tests.engine.system import task
from zerocelery.engine import ledger as module
from zerocelery.engine import wire
from zerocelery.engine.journal import Journal
from zerocelery.engine.ledger import (
    ARRIVAL_BITS,
    ARRIVAL_MASK,
    MAX_PRIORITY,
    MAX_QUEUES,
    QUEUE_SHIFT,
    Entry,
    Lane,
    Ledger,
)

NOW = 1_000.0


@pytest.fixture
def journal() -> Iterator[Journal]:
    one = Journal(None, durability="none")
    yield one
    one.close()


@pytest.fixture
def ledger(journal: Journal) -> Ledger:
    return Ledger(journal, queue_limit=1_000)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "WINDOW", 4)
    return 4


def accept(ledger: Ledger, name: str = "t", **more: Any) -> None:
    raw = wire.encode(task(name, **more))
    head = wire.decode_task_head(raw)
    assert isinstance(head, wire.TaskHead)
    ledger.accept(head, raw, NOW)


def take(ledger: Ledger, *queues: str) -> Entry | None:
    """Lease the next task, as the collector does."""
    lane = ledger.best(queues or ("celery",))
    if lane is None:
        return None
    first = lane.first()
    entry = lane.take()
    assert entry is first
    ledger.leased[entry.key] = entry
    return entry


def end(ledger: Ledger, entry: Entry) -> None:
    del ledger.leased[entry.key]
    assert isinstance(ledger.journal, Journal)
    ledger.journal.remove(entry.key)


def names(ledger: Ledger, *queues: str) -> list[str]:
    """All that is waiting, in the order in which it is handed out."""
    got = []
    while (entry := take(ledger, *queues)) is not None:
        end(ledger, entry)
        got.append(entry.head.name)
    return got


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_first_in_is_first_out(ledger: Ledger) -> None:
    for name in "abc":
        accept(ledger, name)
    assert names(ledger) == ["a", "b", "c"]


def test_higher_priority_comes_first_and_equals_keep_their_order(ledger: Ledger) -> None:
    for name, priority in (("low", 0), ("high", 9), ("low too", 0), ("high too", 9), ("top", 255)):
        accept(ledger, name, priority=priority)
    assert names(ledger) == ["top", "high", "high too", "low", "low too"]


@pytest.mark.parametrize(("priority", "as_if"), [(-5, 0), (300, MAX_PRIORITY), (1 << 40, MAX_PRIORITY)])
def test_a_priority_out_of_range_is_the_nearest_one(ledger: Ledger, priority: int, as_if: int) -> None:
    accept(ledger, "odd", priority=priority)
    accept(ledger, "plain", priority=as_if)
    assert names(ledger) == ["odd", "plain"]


def test_of_several_queues_the_best_task_comes_first(ledger: Ledger) -> None:
    accept(ledger, "a1", queue="a")
    accept(ledger, "b1", queue="b")
    accept(ledger, "a2", queue="a")
    accept(ledger, "b2", queue="b", priority=5)
    accept(ledger, "c1", queue="c", priority=9)
    assert names(ledger, "a", "b") == ["b2", "a1", "b1", "a2"]
    assert names(ledger, "a", "b", "unknown") == []
    assert ledger.waiting(["a", "b"]) == 0
    assert ledger.waiting(["c", "unknown"]) == 1


def test_a_task_that_comes_back_takes_its_old_place(ledger: Ledger) -> None:
    for name in "abcd":
        accept(ledger, name)
    one, two, three = (take(ledger) for _ in range(3))
    assert one is not None
    assert two is not None
    assert three is not None
    two.lease = 7
    ledger.put_back(two)
    assert two.lease == 0
    ledger.put_back(three)
    ledger.put_back(one)
    assert names(ledger) == ["a", "b", "c", "d"]


def test_one_that_comes_back_between_others_is_put_between_them(ledger: Ledger) -> None:
    for name in "abcde":
        accept(ledger, name)
    taken = [take(ledger) for _ in range(4)]
    for index in (3, 0, 2, 1):
        entry = taken[index]
        assert entry is not None
        ledger.put_back(entry)
    assert names(ledger) == ["a", "b", "c", "d", "e"]


# ── the window ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("small")
def test_a_backlog_beyond_the_window_stays_in_the_journal(ledger: Ledger) -> None:
    for n in range(50):
        accept(ledger, f"{n:02}")
    lane = ledger.lanes["celery"]
    assert lane.loaded <= 8
    assert lane.waiting == 50
    assert names(ledger) == [f"{n:02}" for n in range(50)]
    assert lane.waiting == 0


@pytest.mark.usefixtures("small")
def test_urgent_tasks_push_others_out_of_the_window_and_none_gets_lost(ledger: Ledger) -> None:
    for n in range(6):
        accept(ledger, f"low{n}")
    for n in range(6):
        accept(ledger, f"high{n}", priority=9)
    lane = ledger.lanes["celery"]
    assert lane.loaded < 8
    for n in range(6):
        accept(ledger, f"top{n}", priority=10)
    assert lane.waiting == 18
    assert names(ledger) == [f"{kind}{n}" for kind in ("top", "high", "low") for n in range(6)]


@pytest.mark.usefixtures("small")
def test_a_leased_task_behind_the_frontier_comes_back_to_the_journal(ledger: Ledger) -> None:
    accept(ledger, "late")
    entry = take(ledger)
    assert entry is not None
    for n in range(9):
        accept(ledger, f"{n}", priority=9)
    ledger.put_back(entry)
    assert ledger.lanes["celery"].waiting == 10
    assert names(ledger) == [*"012345678", "late"]


@pytest.mark.usefixtures("small")
def test_a_page_of_leased_tasks_does_not_hide_what_comes_after_it(journal: Journal) -> None:
    """After a restart the leased tasks of a former life lie before the waiting ones."""
    ledger = Ledger(journal, queue_limit=1_000)
    for n in range(15):
        accept(ledger, f"{n:02}")
    leased = [take(ledger) for _ in range(12)]
    journal.write()
    again = Ledger(journal, queue_limit=1_000, arrival=15)
    again.restore_lane(1, "celery", stored=journal.counts(QUEUE_SHIFT)[1])
    for entry in leased:
        assert entry is not None
        again.leased[entry.key] = entry
        again.lanes["celery"].stored -= 1
    entry = take(again)
    assert entry is not None
    assert entry.head.name == "12"


@pytest.mark.usefixtures("small")
def test_a_page_with_an_unreadable_row_goes_on_behind_it(ledger: Ledger, journal: Journal) -> None:
    for n in range(12):
        accept(ledger, f"{n:02}")
    journal.write()
    journal._db.execute("UPDATE tasks SET raw=x'c0' WHERE key=(SELECT max(key) FROM tasks)")
    assert names(ledger) == [f"{n:02}" for n in range(11)]
    assert ledger.lanes["celery"].waiting == 0


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def head(**more: Any) -> wire.TaskHead:
    found = wire.decode_task_head(wire.encode(task(**more)))
    assert isinstance(found, wire.TaskHead)
    return found


def test_a_full_queue_takes_no_more_and_says_so(journal: Journal) -> None:
    ledger = Ledger(journal, queue_limit=2)
    assert ledger.may_accept(head()) == ""
    accept(ledger)
    assert ledger.may_accept(head()) == ""
    accept(ledger, eta=NOW + 60)
    assert ledger.may_accept(head()) == "queue-full"
    assert ledger.may_accept(head(queue="other")) == ""
    assert take(ledger) is not None
    assert ledger.may_accept(head()) == ""


def test_there_are_only_so_many_queues(ledger: Ledger) -> None:
    ledger.lanes = {str(n): Lane(n, str(n)) for n in range(1, MAX_QUEUES + 1)}
    assert ledger.may_accept(head(queue="1")) == ""
    assert ledger.may_accept(head(queue="one more")) == "too-many-queues"


def test_the_last_queue_has_a_backlog_like_any_other(journal: Journal) -> None:
    """The keys of all queues fit into SQLite's 64 bits, and so do the limits of their pages."""
    last = Lane(MAX_QUEUES, "last")
    assert journal.page(last.base, last.end, 10) == []
    key = last.base | MAX_PRIORITY << ARRIVAL_BITS | ARRIVAL_MASK
    journal.insert(key, 0, b"x")
    journal.write()
    assert journal.page(last.base, last.end, 10) == [(key, 0, b"x")]


def test_an_entry_ranks_by_priority_and_arrival_whatever_its_queue() -> None:
    one = Entry(1 << QUEUE_SHIFT | 5, head(), b"")
    other = Entry(2 << QUEUE_SHIFT | 4, head(), b"")
    assert other.rank < one.rank


# ── ETA ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def release(ledger: Ledger, journal: Journal, now: float) -> None:
    journal.write()
    ledger.release(journal.take_due(now, 100), now)


def test_a_task_with_an_eta_waits_in_the_journal_until_then(ledger: Ledger, journal: Journal) -> None:
    accept(ledger, "late", eta=NOW + 20)
    accept(ledger, "soon", eta=NOW + 10)
    accept(ledger, "now", eta=NOW - 10)
    assert ledger.next_due == NOW + 10
    assert ledger.lanes["celery"].scheduled == 2
    assert names(ledger) == ["now"]
    release(ledger, journal, NOW + 15)
    assert ledger.lanes["celery"].scheduled == 1
    assert names(ledger) == ["soon"]
    release(ledger, journal, NOW + 25)
    assert names(ledger) == ["late"]
    assert ledger.lanes["celery"].scheduled == 0


def test_a_restart_counts_what_waits_for_its_time(ledger: Ledger) -> None:
    ledger.count_scheduled(wire.encode(task(queue="q", eta=5.0)))
    ledger.count_scheduled(b"\xc0")
    assert ledger.lanes["q"].scheduled == 1


def test_an_unreadable_task_whose_time_has_come_is_left_out(ledger: Ledger) -> None:
    ledger.release([(1, b"\xc0")], NOW)
    assert ledger.lanes == {}


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_arrival_number_is_given_twice_even_after_restarts(journal: Journal) -> None:
    """A worker may still report a key of the node's former life: it must not be another task's by now."""
    keys: list[int] = []
    for _ in range(3):
        arrival = max(journal.highest(ARRIVAL_MASK), int(journal.find_meta("arrival") or 0))
        ledger = Ledger(journal, queue_limit=10, arrival=arrival)
        ledger.restore_lane(1, "celery", stored=0)
        accept(ledger)
        entry = take(ledger)
        assert entry is not None
        keys.append(entry.key)
        end(ledger, entry)
        journal.write()
    assert len(set(keys)) == 3


def test_numbers_are_set_aside_again_when_they_run_out(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SET_ASIDE", 3)
    ledger = Ledger(journal, queue_limit=100)
    for n in range(1, 20):
        accept(ledger)
        journal.write()
        assert int(journal.find_meta("arrival") or 0) >= n


# ── against a sorted list ────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Known:
    queue: str
    rank: tuple[int, int]
    eta: float | None = None


class Queues(RuleBasedStateMachine):
    """Ledger and journal against a plain sorted list, with a window of three, or of 600 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._window = module.WINDOW
        self._window_bytes = module.WINDOW_BYTES
        module.WINDOW = 3  # type: ignore[misc]
        module.WINDOW_BYTES = 600  # type: ignore[misc]
        self.journal = Journal(None, durability="none")
        self.ledger = Ledger(self.journal, queue_limit=100_000)
        self.now = NOW
        self.arrivals = 0
        self.waiting: dict[str, Known] = {}
        self.scheduled: dict[str, Known] = {}
        self.leased: dict[str, tuple[Known, Entry]] = {}

    def teardown(self) -> None:
        try:
            while self.waiting:
                assert self._take(["a", "b", "c"]) is not None
            assert not self.waiting
            assert self._take(["a", "b", "c"]) is None
        finally:
            self.journal.close()
            module.WINDOW = self._window  # type: ignore[misc]
            module.WINDOW_BYTES = self._window_bytes  # type: ignore[misc]

    @rule(
        queue=st.sampled_from("abc"),
        priority=st.sampled_from([0, 0, 0, 1, 7]),
        count=st.integers(1, 7),
        size=st.sampled_from([0, 0, 250, 2_000]),
    )
    def accept(self, queue: str, priority: int, count: int, size: int) -> None:
        for _ in range(count):
            self._accept(queue, priority, None, size)

    @rule(queue=st.sampled_from("abc"), delay=st.sampled_from([1.0, 5.0]))
    def accept_for_later(self, queue: str, delay: float) -> None:
        self._accept(queue, 0, self.now + delay)

    def _accept(self, queue: str, priority: int, eta: float | None, size: int = 0) -> None:
        self.arrivals += 1
        one = task(task_id=f"{self.arrivals}", queue=queue, priority=priority, eta=eta, body=b"x" * size)
        raw = wire.encode(one)
        found = wire.decode_task_head(raw)
        assert isinstance(found, wire.TaskHead)
        self.ledger.accept(found, raw, self.now)
        known = Known(queue, (-priority, self.arrivals), eta)
        (self.waiting if eta is None else self.scheduled)[one.id] = known

    @rule(seconds=st.sampled_from([1.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.journal.write()
        due = sorted((known.eta or 0.0, known.rank, task_id) for task_id, known in self.scheduled.items())
        release(self.ledger, self.journal, self.now)
        for eta, _, task_id in due:
            if eta <= self.now:
                self.arrivals += 1
                known = self.scheduled.pop(task_id)
                self.waiting[task_id] = Known(known.queue, (0, self.arrivals))

    @rule(queues=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True), count=st.integers(1, 6))
    def lease(self, queues: list[str], count: int) -> None:
        for _ in range(count):
            self._take(queues)

    def _take(self, queues: list[str]) -> str | None:
        entry = take(self.ledger, *queues)
        expected = min(
            ((known.rank, task_id) for task_id, known in self.waiting.items() if known.queue in queues), default=None
        )
        assert (entry.head.id if entry else None) == (expected[1] if expected else None)
        if entry is None:
            return None
        self.leased[entry.head.id] = (self.waiting.pop(entry.head.id), entry)
        return entry.head.id

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: self.leased)
    def finish(self, which: int) -> None:
        _, entry = self.leased.pop(sorted(self.leased)[which % len(self.leased)])
        end(self.ledger, entry)

    @rule(which=st.integers(0, 9), count=st.integers(1, 4))
    def hand_back(self, which: int, count: int) -> None:
        for _ in range(min(count, len(self.leased))):
            task_id = sorted(self.leased)[which % len(self.leased)]
            known, entry = self.leased.pop(task_id)
            self.ledger.put_back(entry)
            self.waiting[task_id] = known

    @rule()
    def commit(self) -> None:
        self.journal.commit()

    @rule()
    def restart(self) -> None:
        """The same journal, a new ledger: leased tasks are still leased."""
        self.journal.commit()
        journal, self.ledger = self.journal, Ledger(self.journal, queue_limit=100_000, arrival=self.arrivals)
        counts = journal.counts(QUEUE_SHIFT)
        for number, name in journal.queues():
            self.ledger.restore_lane(number, name, stored=counts.get(number, 0))
        for raw in journal.held_raws():
            self.ledger.count_scheduled(raw)
        self.ledger.next_due = journal.next_due()
        for task_id, (known, entry) in list(self.leased.items()):
            row = journal.task(entry.key)
            assert row is not None
            again = Entry(entry.key, entry.head, row[1], losses=row[0])
            self.ledger.leased[entry.key] = again
            self.ledger.lane(entry.head.queue).stored -= 1
            self.leased[task_id] = (known, again)

    @invariant()
    def everything_is_somewhere_once(self) -> None:
        for name, lane in self.ledger.lanes.items():
            mine = {task_id for task_id, known in self.waiting.items() if known.queue == name}
            assert lane.waiting == len(mine)
            assert lane.scheduled == sum(known.queue == name for known in self.scheduled.values())
            loaded = [entry for inverted in lane.order for entry in lane.buckets[inverted]]
            assert lane.loaded == len(loaded) < 2 * module.WINDOW
            assert lane.bytes == sum(len(entry.raw) for entry in loaded)
            assert lane.loaded <= 1 or lane.bytes < 2 * module.WINDOW_BYTES + 2_200
            assert {entry.head.id for entry in loaded} <= mine
            assert len({entry.key for entry in loaded}) == len(loaded)
            assert lane.order == sorted(lane.order)
            assert [e.key for e in loaded] == sorted(e.key for e in loaded)
            assert all(entry.key <= lane.frontier for entry in loaded)
        self.journal.write()
        rows = {key: raw for key, _, raw in self.journal.page(-1, (1 << 63) - 1, 1_000_000)}
        assert len(rows) == len(self.waiting) + len(self.leased)

    @invariant()
    def up_to_the_frontier_all_is_in_the_window(self) -> None:
        self.journal.write()
        for lane in self.ledger.lanes.values():
            loaded = {entry.key for bucket in lane.buckets.values() for entry in bucket}
            for key, _, _ in self.journal.page(lane.base, min(lane.frontier + 1, lane.end), 1_000_000, 1 << 40):
                assert key in loaded or key in self.ledger.leased


TestQueues = Queues.TestCase
TestQueues.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
