"""The node's durable state: what was committed is there again after any end of the process, and nothing else is."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from zerocelery.engine import journal as module
from zerocelery.engine import wire
from zerocelery.engine.errors import JournalError
from zerocelery.engine.journal import SCHEMA_VERSION, Journal

ALL = (-1, (1 << 63) - 1, 1_000_000)
NOW = 1_000


@pytest.fixture
def path(short_path: Path) -> Path:
    return short_path / "journal.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[..., Journal]]:
    """``opened(**options)``: the journal at ``path``, let go of at the test's end."""
    made: list[Journal] = []

    def make(**options: Any) -> Journal:
        made.append(Journal(path, **options))
        return made[-1]

    yield make
    for one in made:
        one.abandon()


def keys(journal: Journal) -> list[int]:
    return [key for key, _, _ in journal.page(*ALL)]


def fill(journal: Journal) -> None:
    """Something of everything."""
    journal.queue(1, "celery")
    journal.insert(5, 0, b"five")
    journal.insert(3, 0, b"three")
    journal.hold(7, 50.5, b"held")
    journal.lease(1, "worker", b"entries")
    journal.worker("worker", b"joined")
    journal.result("id", "SUCCESS", NOW + 10, b"result", NOW)
    journal.inbox("inbox", 9, NOW)
    journal.lost(5, 2, "a worker was lost")
    journal.bury(8, "dead", "t", 1.0, "[]", b"raw")
    journal.callable("digest", b"blob", NOW)
    journal.meta("node", "me")
    journal.group("g", NOW, b"group")
    journal.part("g", "a", 1, b"part")
    journal.mark_added("g", "a", 4)


def assert_filled(journal: Journal) -> None:
    assert journal.queues() == [(1, "celery")]
    assert journal.page(*ALL) == [(3, 0, b"three"), (5, 2, b"five")]
    assert journal.task(5) == (2, b"five")
    assert journal.task(6) is None
    assert journal.counts(0) == {3: 1, 5: 1}
    assert list(journal.held_raws()) == [b"held"]
    assert journal.next_due() == 50.5
    assert journal.open_leases() == [(1, "worker", b"entries")]
    assert journal.known_workers() == [("worker", b"joined")]
    assert journal.find_result("id", NOW) == b"result"
    assert journal.count_results() == 1
    assert journal.find_inbox("inbox") == 9
    assert journal.find_inbox("other") is None
    assert journal.loss_history(5) == ["a worker was lost"]
    assert journal.count_dead() == 1
    assert journal.find_callable("digest") == b"blob"
    assert journal.has_callable("digest")
    assert not journal.has_callable("other")
    assert journal.find_callable("other") is None
    assert journal.find_meta("node") == "me"
    assert journal.find_meta("other") is None
    assert journal.find_group("g") == b"group"
    assert journal.find_group("other") is None
    assert journal.parts("g") == [("a", 5, b"part")]
    assert journal.count_groups() == 1
    assert journal.highest(255) == 8


# ── restarts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("end", [Journal.close, Journal.abandon])
def test_everything_is_there_again(opened: Callable[..., Journal], durability: str, end: Callable[..., None]) -> None:
    journal = opened(durability=durability)
    fill(journal)
    journal.commit()
    assert_filled(journal)
    end(journal)
    assert_filled(opened(durability=durability))


def test_what_was_not_committed_is_not_there(opened: Callable[..., Journal]) -> None:
    journal = opened()
    fill(journal)
    journal.write()
    journal.abandon()
    again = opened()
    assert keys(again) == []
    assert again.queues() == []


def test_a_turn_that_only_the_log_has_survives(opened: Callable[..., Journal]) -> None:
    journal = opened()
    journal.insert(1, 0, b"one")
    journal.result("a", "SUCCESS", NOW + 9, b"r", NOW)
    journal.commit()
    assert journal.behind
    assert journal._db.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
    journal.abandon()
    again = opened()
    assert keys(again) == [1]
    assert again.find_result("a", NOW) == b"r"


def test_a_turn_after_the_tables_were_brought_up_to_date_survives_too(opened: Callable[..., Journal]) -> None:
    journal = opened()
    for key in range(1, 20):
        journal.insert(key, 0, b"x" * key)
        journal.commit()
        if key % 5 == 0:
            journal.apply()
            assert not journal.behind
    journal.remove(1)
    journal.commit()
    journal.abandon()
    assert keys(opened()) == list(range(2, 20))


def test_old_records_are_not_read_again(opened: Callable[..., Journal]) -> None:
    """The log's space is written over; what lies behind its end is of an older generation."""
    journal = opened()
    for key in range(1, 6):
        journal.insert(key, 0, b"long enough to reach beyond what follows")
        journal.commit()
    journal.apply()
    for key in range(1, 6):
        journal.remove(key)
    journal.commit()
    journal.abandon()
    again = opened()
    assert keys(again) == []
    again.insert(9, 0, b"nine")
    again.commit()
    again.abandon()
    assert keys(opened()) == [9]


def test_what_undoes_itself_between_two_turns_leaves_no_trace(opened: Callable[..., Journal]) -> None:
    journal = opened()
    journal.insert(1, 0, b"one")
    journal.lease(1, "w", b"entries")
    journal.commit()
    journal.remove(1)
    journal.end_lease(1)
    journal.commit()
    assert not journal.behind
    journal.apply()
    assert keys(journal) == []
    journal.insert(2, 0, b"two")
    journal.commit()
    journal.abandon()
    again = opened()
    assert keys(again) == [2]
    assert again.open_leases() == []


def test_many_changes_are_brought_into_the_tables_at_once(
    opened: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_APPLY_ROWS", 3)
    monkeypatch.setattr(module, "_APPLY_BYTES", 100)
    journal = opened()
    for key in range(1, 6):
        journal.insert(key, 0, b"x")
        journal.commit()
    assert len(journal._pending.inserts) < 5
    journal.apply()
    journal.insert(9, 0, b"x" * 200)
    journal.commit()
    assert not journal.behind
    journal.abandon()
    assert keys(opened()) == [1, 2, 3, 4, 5, 9]


def test_what_is_read_is_up_to_date_before_the_commit(opened: Callable[..., Journal]) -> None:
    journal = opened()
    journal.inbox("a", 1, NOW)
    journal.inbox("a", 2, NOW)
    journal.inbox("b", 7, NOW)
    assert journal.find_inbox("a") == 2
    journal.commit()
    assert (journal.find_inbox("a"), journal.find_inbox("b")) == (2, 7)
    journal.apply()
    assert (journal.find_inbox("a"), journal.find_inbox("b")) == (2, 7)
    journal.inbox("a", 3, NOW)
    journal.inbox("b", 8, NOW)
    journal.inbox("a", 4, NOW)
    assert journal.find_inbox("a") == 4


def test_an_empty_turn_costs_nothing(opened: Callable[..., Journal], path: Path) -> None:
    journal = opened()
    journal.commit()
    journal.apply()
    assert path.with_suffix(".log").stat().st_size == 0


# ── durability ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_in_memory_nothing_is_written(opened: Callable[..., Journal], path: Path) -> None:
    for journal in (opened(durability="none"), Journal(None)):
        fill(journal)
        journal.commit()
        assert_filled(journal)
        for key in range(100, 2_000):
            journal.insert(key, 0, b"x")
            journal.commit()
        assert len(keys(journal)) == 1_902
        journal.close()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("durability", "synchronous", "flushes"), [("process", 1, 0), ("power", 2, 2)])
def test_only_power_safety_flushes_each_commit(
    opened: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch, durability: str, synchronous: int, flushes: int
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    journal = opened(durability=durability)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    for key in (1, 2):
        journal.insert(key, 0, b"x")
        journal.commit()
    assert len(flushed) == flushes


def test_all_files_are_for_their_owner_only(opened: Callable[..., Journal], path: Path) -> None:
    before = os.umask(0)
    try:
        journal = opened()
        fill(journal)
        journal.commit()
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    assert {"journal.db", "journal.db-wal", "journal.log"} <= modes.keys()
    assert set(modes.values()) == {"0o600"}


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_newer_format_is_refused_with_what_to_do(opened: Callable[..., Journal], path: Path) -> None:
    opened().close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(JournalError, match=rf"{path} was written by a newer zerocelery .*upgrade zerocelery"):
        opened()


def test_an_older_format_is_brought_up_to_date(opened: Callable[..., Journal], path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(f"BEGIN;{module._SCHEMA}PRAGMA user_version=1;COMMIT;")
        db.execute("INSERT INTO tasks VALUES(5,0,x'aa')")
    db.close()
    journal = opened()
    assert keys(journal) == [5]
    journal.group("g", NOW, b"group")
    journal.commit()
    journal.close()
    again = opened()
    assert again.find_group("g") == b"group"
    assert again._db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def assert_refused(opened: Callable[..., Journal], path: Path) -> None:
    with pytest.raises(JournalError) as caught:
        opened()
    assert str(path) in str(caught.value)
    assert f"sqlite3 {path} .recover" in str(caught.value)


def a_full_file(opened: Callable[..., Journal], path: Path) -> bytes:
    journal = opened()
    for key in range(1, 400):
        journal.insert(key, 0, b"x" * 100)
    journal.close()
    return path.read_bytes()


def test_a_file_that_is_no_database_is_refused(opened: Callable[..., Journal], path: Path) -> None:
    path.write_bytes(b"this is no database, and it is long enough to tell " * 100)
    assert_refused(opened, path)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_file_that_was_cut_off_is_refused(opened: Callable[..., Journal], path: Path, part: float) -> None:
    content = a_full_file(opened, path)
    path.write_bytes(content[: int(len(content) * part) // 4096 * 4096])
    assert_refused(opened, path)


def test_a_damaged_page_is_refused(opened: Callable[..., Journal], path: Path) -> None:
    content = bytearray(a_full_file(opened, path))
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 16] = b"\xff" * 16
    path.write_bytes(content)
    assert_refused(opened, path)


def test_what_can_not_be_opened_is_refused(opened: Callable[..., Journal], path: Path) -> None:
    path.mkdir()
    with pytest.raises(JournalError, match="can't be opened"):
        opened()


def test_a_log_that_can_not_be_opened_is_refused(opened: Callable[..., Journal], path: Path) -> None:
    path.with_suffix(".log").mkdir()
    with pytest.raises(JournalError, match="can't be opened"):
        opened()


def test_a_large_file_is_not_checked_as_a_whole(
    opened: Callable[..., Journal], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(a_full_file(opened, path))
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)
    monkeypatch.setattr(module, "_CHECK_UP_TO_BYTES", 4096)
    journal = opened()
    with pytest.raises(sqlite3.DatabaseError):
        keys(journal)


# ── a damaged log ────────────────────────────────────────────────────────────────────────────────────────────────────


def a_log(opened: Callable[..., Journal], path: Path, turns: int) -> tuple[bytes, list[int]]:
    """A log of so many turns that the tables don't have, and where each of its records ends."""
    journal = opened()
    ends = []
    for key in range(1, turns + 1):
        journal.insert(key, 0, b"task %d" % key)
        journal.commit()
        ends.append(journal._logged)
    journal.abandon()
    return path.with_suffix(".log").read_bytes(), ends


def reopened(path: Path, log: bytes) -> list[int]:
    """The tasks of a copy of the journal with this log."""
    directory = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        for file in path.parent.glob("journal.db*"):
            shutil.copy(file, directory)
        (directory / "journal.log").write_bytes(log)
        journal = Journal(directory / "journal.db")
        try:
            return keys(journal)
        finally:
            journal.abandon()
    finally:
        shutil.rmtree(directory)


def test_a_log_that_is_cut_off_anywhere_has_all_before_the_cut(opened: Callable[..., Journal], path: Path) -> None:
    log, ends = a_log(opened, path, 6)
    for cut in range(len(log) + 1):
        assert reopened(path, log[:cut]) == list(range(1, 1 + sum(end <= cut for end in ends)))


def test_no_damage_makes_up_a_turn(opened: Callable[..., Journal], path: Path) -> None:
    """One bit anywhere: before the last record it is refused; in it, what comes before is there, and nothing else."""
    log, ends = a_log(opened, path, 3)
    for place in range(len(log)):
        damaged = bytearray(log)
        damaged[place] ^= 1 << place % 8
        if place < ends[-2]:
            with pytest.raises(JournalError, match="is damaged at byte"):
                reopened(path, bytes(damaged))
        else:
            assert reopened(path, bytes(damaged)) == list(range(1, len(ends)))


def test_damage_before_the_end_of_the_log_is_refused(opened: Callable[..., Journal], path: Path) -> None:
    """The last record may be half written, and was never acknowledged; one with others after it was."""
    log, ends = a_log(opened, path, 3)
    damaged = bytearray(log)
    damaged[ends[0] + 20] ^= 1
    path.with_suffix(".log").write_bytes(damaged)
    with pytest.raises(JournalError, match=f"truncate -s {ends[0]} {path.with_suffix('.log')}"):
        opened()
    os.truncate(path.with_suffix(".log"), ends[0])  # the way out that it names
    assert reopened(path, path.with_suffix(".log").read_bytes()) == [1]


def test_a_log_that_a_power_cut_left_with_a_hole_is_read_up_to_there(
    opened: Callable[..., Journal], path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``durability="process"`` doesn't promise more, and a node that doesn't come up again would help nobody."""
    log, ends = a_log(opened, path, 3)
    damaged = bytearray(log)
    damaged[ends[0] + 20] ^= 1
    path.with_suffix(".log").write_bytes(damaged)
    monkeypatch.setattr(module, "boot_id", lambda: "the next boot")
    assert reopened(path, bytes(damaged)) == [1]
    assert f"from byte {ends[0]} on is lost" in caplog.text


@pytest.mark.parametrize("tail", [b"\x00", b"\xff" * 7, b"\xff" * 8, b"\x00" * 100, b"\xf0\xff\xff\x7f" + b"\x00" * 64])
def test_what_lies_behind_the_last_record_is_nothing(opened: Callable[..., Journal], path: Path, tail: bytes) -> None:
    log, _ = a_log(opened, path, 2)
    assert reopened(path, log + tail) == [1, 2]


def test_a_whole_record_that_is_no_turn_ends_the_log(opened: Callable[..., Journal], path: Path) -> None:
    import zlib

    log, _ = a_log(opened, path, 2)
    payload = wire.encode(["no", "turn"])
    record = module._RECORD.pack(len(payload), zlib.crc32(payload)) + payload
    assert reopened(path, log + record) == [1, 2]


# ── failing writes ───────────────────────────────────────────────────────────────────────────────────────────────────


class Disk:
    """Lets the n-th write, or flush, fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, failing: int, number: int, short: bool = False) -> None:
        self.calls = 0
        self.failing, self.number, self.short = failing, number, short
        self.pwrite, fdatasync = os.pwrite, os.fdatasync
        monkeypatch.setattr(os, "pwrite", self.write)
        monkeypatch.setattr(os, "fdatasync", lambda fd: self._fail() or fdatasync(fd))

    def _fail(self) -> None:
        self.calls += 1
        if self.calls == self.failing:
            raise OSError(self.number, os.strerror(self.number))

    def write(self, fd: int, content: bytes, offset: int) -> int:
        if self.short and len(content) > 10:
            self.pwrite(fd, content[:10], offset)
            return 10
        self._fail()
        return self.pwrite(fd, content, offset)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("short", [False, True])
def test_a_commit_that_fails_raises_and_leaves_what_was_before(
    opened: Callable[..., Journal], path: Path, monkeypatch: pytest.MonkeyPatch, number: int, short: bool
) -> None:
    """Whichever write or flush it is that fails; and none that did not raise is lost."""
    for failing in range(1, 30):
        for file in path.parent.glob("journal.*"):
            file.unlink()
        journal = opened(durability="power")
        committed = []
        with monkeypatch.context() as patch:
            Disk(patch, failing=failing, number=number, short=short)
            with contextlib.suppress(OSError):
                for key in range(1, 8):
                    journal.insert(key, 0, b"a task that is not short")
                    journal.commit()
                    committed.append(key)
        journal.abandon()
        again = keys(opened())
        assert again[: len(committed)] == committed
        assert len(again) <= len(committed) + 1  # flushed or not, it may have come that far
        if len(committed) == 7:
            return
    raise AssertionError("the disk never worked")


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def memory() -> Iterator[Journal]:
    journal = Journal(None, durability="none")
    yield journal
    journal.close()


def test_a_success_is_never_overwritten(memory: Journal) -> None:
    told = ("STARTED", "FAILURE", "SUCCESS", "FAILURE", "STARTED", "SUCCESS")
    stands = ("STARTED", "FAILURE", "SUCCESS", "SUCCESS", "SUCCESS", "SUCCESS")
    for state, expected in zip(told, stands, strict=True):
        memory.result("a", state, NOW + 10, state.encode(), NOW)
        assert memory.find_result("a", NOW) == expected.encode()


def test_a_success_whose_time_is_over_makes_way(memory: Journal) -> None:
    memory.result("a", "SUCCESS", NOW + 10, b"old", NOW)
    memory.commit()
    assert memory.find_result("a", NOW + 10) is None
    memory.result("a", "FAILURE", NOW + 30, b"new", NOW + 10)
    assert memory.find_result("a", NOW + 11) == b"new"


def test_an_expired_result_is_not_given_out_even_before_it_is_removed(memory: Journal) -> None:
    memory.result("a", "SUCCESS", NOW, b"r", 0)
    assert memory.find_result("a", NOW - 1) == b"r"
    assert memory.find_result("a", NOW) is None
    assert memory.count_results() == 1


def test_what_was_stored_before_is_forgotten_and_what_comes_after_is_not(memory: Journal) -> None:
    memory.result("a", "SUCCESS", NOW + 9, b"old", NOW)
    memory.result("b", "SUCCESS", NOW + 9, b"b", NOW)
    memory.forget(["a", "b", "unknown"])
    memory.result("a", "FAILURE", NOW + 9, b"new", NOW)
    memory.commit()
    assert memory.find_result("a", NOW) == b"new"
    assert memory.find_result("b", NOW) is None


def test_the_walk_removes_what_has_expired_piece_by_piece(memory: Journal) -> None:
    for n in range(10):
        memory.result(f"id{n}", "SUCCESS", NOW if n % 3 == 0 else NOW + 100, b"r", 0)
    removed, after = memory.expire(NOW, after="", limit=4)
    assert (removed, after) == (2, "id3")
    removed, after = memory.expire(NOW, after=after, limit=4)
    assert (removed, after) == (1, "id7")
    removed, after = memory.expire(NOW, after=after, limit=4)
    assert (removed, after) == (1, "")
    assert memory.expire(NOW, after="", limit=100) == (0, "")
    memory.commit()
    assert memory.count_results() == 6
    assert memory.expire(NOW + 100, after="", limit=100) == (6, "")


def test_producers_callables_and_groups_are_forgotten_when_nobody_used_them_for_long(memory: Journal) -> None:
    memory.inbox("old", 1, 10)
    memory.inbox("new", 2, 20)
    memory.lease(1, "w", b"")
    memory.callable("old", b"", 10)
    memory.callable("new", b"", 20)
    memory.group("old", 10, b"g")
    memory.part("old", "a", 1, b"r")
    memory.group("new", 20, b"g")
    memory.commit()
    memory.apply()
    memory.expire_quiet(inboxes_before=15, callables_before=15, groups_before=15)
    memory.commit()
    assert (memory.find_inbox("old"), memory.find_inbox("new")) == (None, 2)
    assert (memory.has_callable("old"), memory.has_callable("new")) == (False, True)
    assert (memory.find_group("old"), memory.find_group("new"), memory.parts("old")) == (None, b"g", [])
    assert len(memory.open_leases()) == 1


def test_refusals_are_kept_until_their_producer_knows_them(memory: Journal) -> None:
    for inbox, seq in (("a", 9), ("a", 10), ("a", 200), ("ab", 1), ("b", 3)):
        memory.refusals(inbox, seq, 10, b"%d" % seq)
    memory.commit()
    assert memory.find_refusals("a") == [(9, b"9"), (10, b"10"), (200, b"200")]
    memory.forget_refusals("a", 10)
    memory.refusals("a", 201, 20, b"201")
    memory.commit()
    assert [seq for seq, _ in memory.find_refusals("a")] == [10, 200, 201]
    memory.expire_quiet(inboxes_before=15, callables_before=15, groups_before=15)
    assert [seq for inbox in ("a", "ab", "b") for seq, _ in memory.find_refusals(inbox)] == [201]


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_due_tasks_come_in_order_and_once(memory: Journal) -> None:
    for n, due in ((1, 30.0), (2, 10.0), (3, 10.0), (4, 99.0)):
        memory.hold(n, due, b"%d" % n)
    assert memory.take_due(5.0, 10) == []
    assert memory.take_due(30.0, 2) == [(2, b"2"), (3, b"3")]
    assert memory.next_due() == 30.0
    assert memory.take_due(30.0, 2) == [(1, b"1")]
    memory.commit()
    assert list(memory.held_raws()) == [b"4"]
    memory.take_due(100.0, 9)
    assert memory.next_due() is None


def test_losses_are_counted_and_forgotten(memory: Journal) -> None:
    memory.insert(1, 0, b"t")
    memory.lost(1, 1, "first")
    memory.lost(1, 2, "second")
    assert memory.task(1) == (2, b"t")
    memory.commit()
    assert memory.loss_history(1) == ["first", "second"]
    memory.forget_losses(1)
    memory.commit()
    assert memory.loss_history(1) == []


def test_a_worker_that_left_is_not_known(memory: Journal) -> None:
    memory.worker("w", b"joined")
    memory.worker("v", b"joined")
    memory.worker("w", None)
    memory.commit()
    assert memory.known_workers() == [("v", b"joined")]


def test_a_group_that_is_closed_is_gone_with_its_parts(memory: Journal) -> None:
    memory.group("g", NOW, b"1")
    memory.part("g", "a", 1, b"r")
    memory.close_group("g")
    memory.commit()
    assert (memory.find_group("g"), memory.parts("g"), memory.count_groups()) == (None, [], 0)


def test_an_empty_journal_has_used_no_number(memory: Journal) -> None:
    assert memory.highest(255) == 0


# ── against plain dicts, with crashes ────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class Tables:
    tasks: dict[int, tuple[int, bytes]] = dataclasses.field(default_factory=dict)
    held: dict[int, bytes] = dataclasses.field(default_factory=dict)
    leases: dict[int, bytes] = dataclasses.field(default_factory=dict)
    results: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    inboxes: dict[str, int] = dataclasses.field(default_factory=dict)


class Diary(RuleBasedStateMachine):
    """A journal and its files against dicts: a crash takes both back to the last commit."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
        self.rows = module._APPLY_ROWS
        module._APPLY_ROWS = 12  # type: ignore[misc]
        self.journal = Journal(self.directory / "journal.db")
        self.now, self.saved = Tables(), Tables()
        self.number = 0

    def teardown(self) -> None:
        try:
            self.crash()
        finally:
            module._APPLY_ROWS = self.rows  # type: ignore[misc]
            self.journal.abandon()
            shutil.rmtree(self.directory)

    @rule(count=st.integers(1, 5))
    def insert(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.journal.insert(self.number, 0, b"%d" % self.number)
            self.now.tasks[self.number] = (0, b"%d" % self.number)

    @rule(which=st.integers(0, 5))
    def remove(self, which: int) -> None:
        for key in sorted(self.now.tasks)[which : which + 2]:
            self.journal.remove(key)
            del self.now.tasks[key]

    @rule(which=st.integers(0, 5))
    def lose(self, which: int) -> None:
        for key in sorted(self.now.tasks)[which : which + 1]:
            losses, raw = self.now.tasks[key]
            self.journal.lost(key, losses + 1, "lost")
            self.now.tasks[key] = (losses + 1, raw)

    @rule(later=st.booleans())
    def hold_or_take(self, later: bool) -> None:
        if later:
            self.number += 1
            self.journal.hold(self.number, float(self.number), b"h")
            self.now.held[self.number] = b"h"
        else:
            taken = self.journal.take_due(1e9, 2)
            assert taken == [(n, self.now.held.pop(n)) for n in sorted(self.now.held)[:2]]

    @rule(ends=st.booleans())
    def lease(self, ends: bool) -> None:
        if ends:
            for number in list(self.now.leases)[:1]:
                self.journal.end_lease(number)
                del self.now.leases[number]
        else:
            self.number += 1
            self.journal.lease(self.number, "w", b"%d" % self.number)
            self.now.leases[self.number] = b"%d" % self.number

    @rule(task_id=st.sampled_from("abc"), state=st.sampled_from(["SUCCESS", "FAILURE"]))
    def result(self, task_id: str, state: str) -> None:
        self.number += 1
        self.journal.result(task_id, state, 1 << 40, b"%d" % self.number, 0)
        if self.now.results.get(task_id, ("", b""))[0] != "SUCCESS":
            self.now.results[task_id] = (state, b"%d" % self.number)

    @rule(task_id=st.sampled_from("abc"))
    def forget(self, task_id: str) -> None:
        self.journal.forget([task_id])
        self.now.results.pop(task_id, None)

    @rule(inbox=st.sampled_from("xy"))
    def inbox(self, inbox: str) -> None:
        self.number += 1
        self.journal.inbox(inbox, self.number, 0)
        self.now.inboxes[inbox] = self.number
        assert self.journal.find_inbox(inbox) == self.number

    @rule(how=st.sampled_from(["commit", "commit", "commit", "apply", "write"]))
    def commit(self, how: str) -> None:
        getattr(self.journal, how)()
        if how != "write":
            self.saved = copy.deepcopy(self.now)

    as_commit = commit

    @rule()
    def crash(self) -> None:
        self.journal.abandon()
        self.journal = Journal(self.directory / "journal.db")
        self.now = copy.deepcopy(self.saved)
        self.look()

    @rule()
    def look(self) -> None:
        journal, now = self.journal, self.now
        assert journal.page(*ALL) == [(key, *row) for key, row in sorted(now.tasks.items())]
        assert sorted(journal.held_raws()) == sorted(now.held.values())
        assert journal.open_leases() == [(n, "w", entries) for n, entries in sorted(now.leases.items())]
        for task_id in "abc":
            assert journal.find_result(task_id, 0) == now.results.get(task_id, ("", None))[1]
        for inbox in "xy":
            assert journal.find_inbox(inbox) == now.inboxes.get(inbox)


TestDiary = Diary.TestCase
TestDiary.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
