"""The node's durable state: SQLite, and before it a log to which each loop turn is appended in one write.

A turn's changes are collected in lists. ``commit`` appends them to the log as one checked record, and what the turn has
to say may leave the node. The changes of many turns are applied to SQLite together: when there are some hundred, when
something has to be read that they may concern, or when the node has nothing else to do. A task that was accepted and
has ended in between never reaches the tables at all, so a short task costs two appends instead of two transactions.

Applying is one SQLite transaction, which also counts the log's *generation* up: records of an older generation are
dead, and their space is written over. A node that was killed finds the tables as of the last applying and the log's
records since; opening the journal applies them, up to the last one where that is not whole (it was never
acknowledged). A damaged one that others follow is an error, or a warning where the machine has stopped since and that
was not promised to be survived: a journal is never shorter without a word.

Tasks are clustered by *key*: queue number, then inverted priority, then arrival. So the rows of one queue lie in the
order in which they are handed out, and a backlog is read in pages with no second index.

Durability:
    none     in memory only.
    process  survives the death of any process: what is committed is in the kernel's hands.
    power    survives a power cut: every commit is flushed to the disk (fdatasync; SQLite's synchronous=FULL).
"""

from __future__ import annotations

import logging
import mmap
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import msgspec

from zerocelery.engine.errors import JournalError
from zerocelery.engine.failpoints import failpoint
from zerocelery.engine.processes import boot_id

logger = logging.getLogger("zerocelery.node")

Durability = Literal["none", "process", "power"]

#: Raised when the tables change; a journal of a higher number is refused, one of a lower number is migrated.
SCHEMA_VERSION: Final = 2

#: Above this size the check at start would be felt; SQLite still checks every page's structure when it reads it.
_CHECK_UP_TO_BYTES: Final = 64 << 20

_SCHEMA = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE queues(number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE tasks(key INTEGER PRIMARY KEY, losses INTEGER NOT NULL, raw BLOB NOT NULL);
CREATE TABLE held(n INTEGER PRIMARY KEY, due REAL NOT NULL, raw BLOB NOT NULL);
CREATE INDEX held_due ON held(due);
CREATE TABLE marks(kind TEXT NOT NULL, id, number INTEGER NOT NULL, seen INTEGER NOT NULL, value BLOB,
                   PRIMARY KEY(kind, id)) WITHOUT ROWID;
CREATE TABLE losses(key INTEGER NOT NULL, n INTEGER NOT NULL, what TEXT NOT NULL, PRIMARY KEY(key, n)) WITHOUT ROWID;
CREATE TABLE dead(key INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL, at REAL NOT NULL,
                  history TEXT NOT NULL, raw BLOB NOT NULL);
CREATE TABLE results(id TEXT PRIMARY KEY, state TEXT NOT NULL, expires INTEGER NOT NULL,
                     raw BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE callables(digest TEXT PRIMARY KEY, used INTEGER NOT NULL, blob BLOB NOT NULL);
"""

#: What each format has that the one before it had not.
_ADDED = {
    2: """
CREATE TABLE groups(id TEXT PRIMARY KEY, seen INTEGER NOT NULL, raw BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE parts(gather TEXT NOT NULL, id TEXT NOT NULL, verdict INTEGER NOT NULL, raw BLOB NOT NULL,
                   PRIMARY KEY(gather, id)) WITHOUT ROWID;
""",
}

#: Changes are applied to SQLite when there are so many, or so many bytes of them: some milliseconds of work.
_APPLY_ROWS: Final = 512
_APPLY_BYTES: Final = 4 << 20

#: Tasks are read until they come to this many bytes.
_PAGE_BYTES: Final = 8 << 20

#: Before each record of the log: its length and its checksum.
_RECORD: Final = struct.Struct("<II")

_INSERT_TASK = "INSERT INTO tasks VALUES(?,?,?)"
_DELETE_TASK = "DELETE FROM tasks WHERE key=?"
_HOLD = "INSERT INTO held VALUES(?,?,?)"
# Leases, inboxes and workers are few and change all the time: one table, so that a turn touches one page for all.
_MARK = "INSERT OR REPLACE INTO marks VALUES(?,?,?,?,?)"
_PART = "INSERT OR REPLACE INTO parts VALUES(?,?,?,?)"
_END_LEASE = "DELETE FROM marks WHERE kind='lease' AND id=?"
# A stored SUCCESS is never overwritten, whatever comes later (as in Celery 5.7), unless its time is over.
_RESULT = (
    "INSERT INTO results(id,state,expires,raw) VALUES(?,?,?,?) ON CONFLICT(id) DO UPDATE SET "
    "state=excluded.state, expires=excluded.expires, raw=excluded.raw WHERE results.state<>'SUCCESS' "
    "OR results.expires<=?"
)


_TaskRow = tuple[int, int, bytes]
_HeldRow = tuple[int, float, bytes]
_MarkRow = tuple[str, int | str, int, int, bytes | None]
_ResultRow = tuple[str, str, int, bytes, int]
_PartRow = tuple[str, str, int, bytes]


class _Turn(msgspec.Struct, array_like=True):
    """A record of the log: the changes of one turn, of this generation."""

    generation: int
    inserts: list[_TaskRow]
    removals: list[int]
    holds: list[_HeldRow]
    marks: list[_MarkRow]
    ended: list[int]
    results: list[_ResultRow]
    parts: list[_PartRow]


def _changes(turn: _Turn) -> bool:
    return bool(
        turn.inserts or turn.removals or turn.marks or turn.results or turn.ended or turn.holds or turn.parts
    )  # fmt: skip


class _Pending:
    """Changes that are in the log and not in SQLite yet; what undoes itself leaves no trace."""

    __slots__ = ("bytes", "ended", "holds", "inserts", "marks", "parts", "removals", "results")

    def __init__(self) -> None:
        self.inserts: dict[int, _TaskRow] = {}
        self.removals: list[tuple[int]] = []
        self.holds: list[_HeldRow] = []
        self.marks: dict[int | str, _MarkRow] = {}
        self.ended: list[tuple[int]] = []
        self.results: list[_ResultRow] = []
        self.parts: list[_PartRow] = []
        self.bytes = 0

    def rows(self) -> int:
        return (
            len(self.inserts) + len(self.removals) + len(self.holds) + len(self.marks) + len(self.ended)
            + len(self.results) + len(self.parts)
        )  # fmt: skip

    def take(self, turn: _Turn) -> None:
        """Add a turn's changes, and empty its lists."""
        inserts, marks = self.inserts, self.marks
        for row in turn.inserts:
            inserts[row[0]] = row
        for key in turn.removals:
            if inserts.pop(key, None) is None:
                self.removals.append((key,))
        for mark in turn.marks:
            marks[mark[1]] = mark
        for number in turn.ended:
            if marks.pop(number, None) is None:
                self.ended.append((number,))
        self.holds += turn.holds
        self.results += turn.results
        self.parts += turn.parts
        for rows in (turn.inserts, turn.removals, turn.holds, turn.marks, turn.ended, turn.results, turn.parts):
            rows.clear()

    def clear(self) -> None:
        for rows in (self.inserts, self.removals, self.holds, self.marks, self.ended, self.results, self.parts):
            rows.clear()
        self.bytes = 0


class Journal:
    """The log, the tables, and the changes of the current turn.

    Arguments:
        path: the database file; None keeps everything in memory.
        durability: see the module.

    Raises:
        JournalError: the file can't be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: Path | None, *, durability: Durability = "process") -> None:
        self.path = None if durability == "none" else path
        self.durability = durability
        self._turn = _Turn(0, [], [], [], [], [], [], [])
        self._pending = _Pending()
        self._others: list[tuple[str, tuple[object, ...]]] = []
        self._open = False  # a transaction is open
        self._log = -1
        self._logged = 0  # bytes of this generation's records
        self._db = self._connect()
        if self.path is not None:
            try:
                self._open_log(self.path)
            except JournalError:
                self.abandon()
                raise
            except (sqlite3.Error, OSError) as error:
                self.abandon()
                raise self._unusable(str(self.path), error) from error

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _connect(self) -> sqlite3.Connection:
        name = str(self.path) if self.path else ":memory:"
        try:
            if self.path:
                # Made here, so that it never exists with other modes than this; SQLite's -wal and -shm copy them.
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(name, isolation_level=None, cached_statements=64)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(name, error) from error
        try:
            # The node's lock makes it the only user anyway; so SQLite needs no shared index, and no locks each turn.
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={'FULL' if self.durability == 'power' else 'NORMAL'}")
            db.execute("PRAGMA cache_size=-16000")
            db.execute("PRAGMA wal_autocheckpoint=4000")
            db.execute("PRAGMA journal_size_limit=67108864")
            self._check(db)
            self._prepare(db)
        except (sqlite3.Error, OSError) as error:
            db.close()
            raise self._unusable(name, error) from error
        except JournalError:
            db.close()
            raise
        return db

    @staticmethod
    def _unusable(name: str, error: Exception) -> JournalError:
        return JournalError(
            f"the journal {name} can't be opened: {error}. Where the file is damaged, what can be read of it is "
            f"saved by: sqlite3 {name} .recover | sqlite3 saved.db"
        )

    def _check(self, db: sqlite3.Connection) -> None:
        if self.path is None or self.path.stat().st_size > _CHECK_UP_TO_BYTES:
            return
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self.path} was written by a newer zerocelery (format {version}, this one reads up to "
                f"{SCHEMA_VERSION}): upgrade zerocelery, or give the node another directory"
            )
        if version < SCHEMA_VERSION:
            missing = "".join(script for number, script in _ADDED.items() if number > version)
            script = missing if version else _SCHEMA + missing
            db.executescript(f"BEGIN;{script}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")

    def _open_log(self, path: Path) -> None:
        """Open the log, and apply what a node that was killed has left in it."""
        self._log = os.open(path.with_suffix(".log"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._turn.generation = int(self.find_meta("log") or 0)
        if self.durability == "power":
            self._flush_directory(path.parent)
        size = os.fstat(self._log).st_size
        with os.fdopen(os.dup(self._log), "rb") as file:
            while (turn := _read_record(file, size)) is not None and turn.generation == self._turn.generation:
                self._pending.take(turn)
                self._logged = file.tell()
        if size:
            self._look_behind(path.with_suffix(".log"))
        if self._logged:
            self.apply()
        boot = boot_id()
        if boot != self.find_meta("boot"):
            self._db.execute("INSERT OR REPLACE INTO meta VALUES('boot',?)", (boot,))

    def _look_behind(self, path: Path) -> None:
        """Make sure that the log ends where it could not be read on: its last record may be half written, for the node
        was killed just then, and was never acknowledged; one that has others after it was, and is damaged. Where the
        machine has stopped since, and ``durability`` didn't promise to survive that, it is no more than a warning.

        Raises:
            JournalError: there are others.
        """
        before = self.find_meta("boot")
        machine_stopped = before is not None and before != boot_id() and self.durability == "process"
        # What each record of this generation begins with, after its head: a short array, and its first item.
        mark = bytes((0x90 | len(_Turn.__struct_fields__),)) + msgpack_encode(self._turn.generation)
        with mmap.mmap(self._log, 0, access=mmap.ACCESS_READ) as log:
            at = log.find(mark, self._logged + 1)
            while at >= 0:
                start = at - _RECORD.size
                if start > self._logged and _is_whole(log, start):
                    if machine_stopped:
                        logger.warning(
                            "the machine stopped while this node wrote: what the log %s has from byte %d on is lost; "
                            "a node with --durability power keeps all", path, self._logged,
                        )  # fmt: skip
                        return
                    raise JournalError(
                        f"the log {path} is damaged at byte {self._logged:,}: there are whole records after it. To "
                        f"start without what was written there and later: truncate -s {self._logged} {path}"
                    )
                at = log.find(mark, at + 1)

    @staticmethod
    def _flush_directory(directory: Path) -> None:
        """A file that was just made may be gone after a power cut, with all that was flushed to it."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Commit what is open and let go of the files."""
        self.commit()
        self.apply()
        self.abandon()

    def abandon(self) -> None:
        """Let go of the files as they are, as the end of the process would."""
        self._db.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    # ── this turn's changes ──────────────────────────────────────────────────────────────────────────────────────────

    def insert(self, key: int, losses: int, raw: bytes) -> None:
        self._turn.inserts.append((key, losses, raw))
        self._pending.bytes += len(raw)

    def remove(self, key: int) -> None:
        self._turn.removals.append(key)

    def hold(self, n: int, due: float, raw: bytes) -> None:
        self._turn.holds.append((n, due, raw))
        self._pending.bytes += len(raw)

    def lease(self, n: int, worker: str, entries: bytes) -> None:
        self._turn.marks.append(("lease", n, 0, 0, msgpack_encode((worker, entries))))

    def end_lease(self, n: int) -> None:
        self._turn.ended.append(n)

    def result(self, task_id: str, state: str, expires: int, raw: bytes, now: int) -> None:
        self._turn.results.append((task_id, state, expires, raw, now))
        self._pending.bytes += len(raw)

    def group(self, gather: str, seen: int, raw: bytes) -> None:
        """Remember an open group."""
        self._others.append(("INSERT OR REPLACE INTO groups VALUES(?,?,?)", (gather, seen, raw)))

    def part(self, gather: str, task_id: str, verdict: int, raw: bytes) -> None:
        """Remember a member that was added to a group, or has ended (the verdicts: :mod:`zerocelery.engine.groups`)."""
        self._turn.parts.append((gather, task_id, verdict, raw))
        self._pending.bytes += len(raw)

    def mark_added(self, gather: str, task_id: str, verdict: int) -> None:
        """Add to the verdict of a member that has ended already."""
        self._others.append(("UPDATE parts SET verdict=verdict|? WHERE gather=? AND id=?", (verdict, gather, task_id)))

    def close_group(self, gather: str) -> None:
        self._others.append(("DELETE FROM groups WHERE id=?", (gather,)))
        self._others.append(("DELETE FROM parts WHERE gather=?", (gather,)))

    def inbox(self, inbox: str, last: int, seen: int) -> None:
        marks = self._turn.marks
        if marks and marks[-1][1] == inbox:
            marks.pop()  # said again in the same turn
        marks.append(("inbox", inbox, last, seen, None))

    def refusals(self, inbox: str, seq: int, seen: int, raw: bytes) -> None:
        """Remember what was refused of the message with this number."""
        self._turn.marks.append(("refusals", f"{inbox}/{seq:020}", seq, seen, raw))

    def forget_refusals(self, inbox: str, before: int) -> None:
        """The producer knows of those in messages of lower numbers."""
        self._others.append(
            ("DELETE FROM marks WHERE kind='refusals' AND id>=? AND id<?", (f"{inbox}/", f"{inbox}/{before:020}"))
        )

    def lost(self, key: int, losses: int, what: str) -> None:
        """One more worker was lost with this task."""
        self._others.append(("UPDATE tasks SET losses=? WHERE key=?", (losses, key)))
        self._others.append(("INSERT OR REPLACE INTO losses VALUES(?,?,?)", (key, losses, what)))

    def forget_losses(self, key: int) -> None:
        self._others.append(("DELETE FROM losses WHERE key=?", (key,)))

    def bury(self, key: int, task_id: str, name: str, at: float, history: str, raw: bytes) -> None:
        """Keep a task that killed too many workers, for people to look at."""
        self._others.append(("INSERT OR REPLACE INTO dead VALUES(?,?,?,?,?,?)", (key, task_id, name, at, history, raw)))

    def unbury(self, key: int) -> None:
        """Keep a dead letter no longer."""
        self._others.append(("DELETE FROM dead WHERE key=?", (key,)))

    def worker(self, worker: str, joined: bytes | None) -> None:
        """Remember who holds leases; None: it left."""
        if joined is None:
            self._others.append(("DELETE FROM marks WHERE kind='worker' AND id=?", (worker,)))
        else:
            self._others.append((_MARK, ("worker", worker, 0, 0, joined)))

    def mark(self, kind: str, name: str, number: int, value: bytes | None) -> None:
        """Remember something small by its kind and name."""
        self._others.append((_MARK, (kind, name, number, 0, value)))

    def unmark(self, kind: str, name: str) -> None:
        self._others.append(("DELETE FROM marks WHERE kind=? AND id=?", (kind, name)))

    def marked(self, kind: str) -> list[tuple[str, int, bytes | None]]:
        """Name, number and value of all of this kind."""
        self.write()
        return self._db.execute("SELECT id, number, value FROM marks WHERE kind=?", (kind,)).fetchall()

    def take_held(self, numbers: Iterable[int]) -> None:
        """Remove tasks that wait for their ETA."""
        self._begin()
        self._db.executemany("DELETE FROM held WHERE n=?", [(n,) for n in numbers])

    def queue(self, number: int, name: str) -> None:
        self._others.append(("INSERT INTO queues VALUES(?,?)", (number, name)))

    def forget(self, ids: Iterable[str]) -> None:
        self.write()  # what was stored before is forgotten, what is stored after is not
        self._begin()
        self._db.executemany("DELETE FROM results WHERE id=?", [(i,) for i in ids])

    def callable(self, digest: str, blob: bytes, now: int) -> None:
        self._others.append(("INSERT OR REPLACE INTO callables VALUES(?,?,?)", (digest, now, blob)))

    def meta(self, name: str, value: str | int | float) -> None:
        self._others.append(("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value)))

    # ── transaction ──────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self) -> None:
        """Give all changes to SQLite, so that what is read next sees them; this turn's are durable after ``commit``."""
        pending = self._pending
        if _changes(self._turn):
            pending.take(self._turn)
        if pending.rows():
            self._begin()
            many = self._db.executemany
            many(_MARK, pending.marks.values())
            many(_INSERT_TASK, pending.inserts.values())
            many(_HOLD, pending.holds)
            many(_DELETE_TASK, pending.removals)
            many(_END_LEASE, pending.ended)
            many(_RESULT, pending.results)
            many(_PART, pending.parts)
            pending.clear()
        if self._others:
            self._begin()
            for sql, values in self._others:
                self._db.execute(sql, values)
            self._others.clear()

    def commit(self) -> None:
        """Make the turn durable; returns when it is."""
        turn = self._turn
        pending = self._pending
        if self._open or self._others or pending.bytes > _APPLY_BYTES or pending.rows() > _APPLY_ROWS:
            self.apply()
        elif _changes(turn):
            failpoint("journal.before_commit")
            self._append(turn)
            pending.take(turn)

    def _append(self, turn: _Turn) -> None:
        if self._log < 0:
            return
        payload = msgpack_encode(turn)
        record = _RECORD.pack(len(payload), zlib.crc32(payload)) + payload
        written = os.pwrite(self._log, record, self._logged)
        while written < len(record):  # a full disk takes a part first, and says so the next time
            written += os.pwrite(self._log, record[written:], self._logged + written)
        if self.durability == "power":
            os.fdatasync(self._log)
        self._logged += len(record)

    def apply(self) -> None:
        """Bring the tables up to date, this turn included, in one transaction that ends the log's generation."""
        self.write()
        if not self._open:
            return
        generation = self._turn.generation
        if self._logged:
            generation += 1
            self._db.execute("INSERT OR REPLACE INTO meta VALUES('log',?)", (generation,))
        failpoint("journal.before_commit")
        self._db.execute("COMMIT")
        self._open = False
        self._turn.generation = generation
        self._logged = 0

    @property
    def behind(self) -> bool:
        """Whether the tables lack something that is in the log."""
        return bool(self._pending.rows())

    def _begin(self) -> None:
        if not self._open:
            self._db.execute("BEGIN IMMEDIATE")
            self._open = True

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def page(self, after: int, before: int, limit: int, most_bytes: int = _PAGE_BYTES) -> list[tuple[int, int, bytes]]:
        """Waiting and leased tasks with ``after < key < before``, in hand-out order: at most ``limit`` of them, and
        none after the one with which they come to ``most_bytes``."""
        self.write()
        return _up_to(
            most_bytes,
            self._db.execute(
                "SELECT key, losses, raw FROM tasks WHERE key>? AND key<? ORDER BY key LIMIT ?", (after, before, limit)
            ),
        )

    def task(self, key: int) -> tuple[int, bytes] | None:
        self.write()
        row: tuple[int, bytes] | None = self._db.execute("SELECT losses, raw FROM tasks WHERE key=?", (key,)).fetchone()
        return row

    def counts(self, shift: int) -> dict[int, int]:
        """How many tasks each queue number has (``key >> shift``)."""
        self.write()
        return dict(self._db.execute("SELECT key>>?, count(*) FROM tasks GROUP BY 1", (shift,)))

    def held_raws(self) -> Iterator[bytes]:
        """Every task that waits for its ETA."""
        self.write()
        for (raw,) in self._db.execute("SELECT raw FROM held"):
            yield raw

    def take_due(self, now: float, limit: int) -> list[tuple[int, bytes]]:
        """Remove and give the tasks whose time has come, the earliest first: not all, where they are many or large."""
        self.write()
        rows: list[tuple[int, bytes]] = _up_to(
            _PAGE_BYTES,
            self._db.execute("SELECT n, raw FROM held WHERE due<=? ORDER BY due, n LIMIT ?", (now, limit)),
        )
        if rows:
            self._begin()
            self._db.executemany("DELETE FROM held WHERE n=?", [(n,) for n, _ in rows])
        return rows

    def next_due(self) -> float | None:
        self.write()
        due: float | None = self._db.execute("SELECT min(due) FROM held").fetchone()[0]
        return due

    def highest(self, mask: int) -> int:
        """The highest arrival number in use."""
        self.write()
        tasks = self._db.execute("SELECT max(key & ?) FROM tasks", (mask,)).fetchone()[0]
        held = self._db.execute("SELECT max(n) FROM held").fetchone()[0]
        # A key of the buried is not given again: who is buried later must not take their place.
        dead = self._db.execute("SELECT max(key & ?) FROM dead", (mask,)).fetchone()[0]
        return max(tasks or 0, held or 0, dead or 0)

    def queues(self) -> list[tuple[int, str]]:
        self.write()
        return self._db.execute("SELECT number, name FROM queues").fetchall()

    def open_leases(self) -> list[tuple[int, str, bytes]]:
        self.write()
        rows = self._db.execute("SELECT id, value FROM marks WHERE kind='lease' ORDER BY id").fetchall()
        return [(n, *_decode_lease(value)) for n, value in rows]

    def known_workers(self) -> list[tuple[str, bytes]]:
        self.write()
        return self._db.execute("SELECT id, value FROM marks WHERE kind='worker'").fetchall()

    def loss_history(self, key: int) -> list[str]:
        self.write()
        return [what for (what,) in self._db.execute("SELECT what FROM losses WHERE key=? ORDER BY n", (key,))]

    def find_result(self, task_id: str, now: float) -> bytes | None:
        """The stored result, unless its time is over."""
        self.write()
        row = self._db.execute("SELECT raw FROM results WHERE id=? AND expires>?", (task_id, now)).fetchone()
        return row[0] if row else None

    def find_group(self, gather: str) -> bytes | None:
        self.write()
        row = self._db.execute("SELECT raw FROM groups WHERE id=?", (gather,)).fetchone()
        return row[0] if row else None

    def parts(self, gather: str) -> list[tuple[str, int, bytes]]:
        """Id, verdict and result of the members that were added or have ended."""
        self.write()
        return self._db.execute("SELECT id, verdict, raw FROM parts WHERE gather=?", (gather,)).fetchall()

    def held_page(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Tasks that wait for their ETA, with their numbers, in the order of these."""
        self.write()
        return self._db.execute("SELECT n, raw FROM held WHERE n>? ORDER BY n LIMIT ?", (after, limit)).fetchall()

    def schedule(self, limit: int) -> list[tuple[float, bytes]]:
        """The tasks that wait for their ETA, the earliest first."""
        self.write()
        return self._db.execute("SELECT due, raw FROM held ORDER BY due, n LIMIT ?", (limit,)).fetchall()

    def dead_raws(self, limit: int) -> list[tuple[int, str, float, str, bytes]]:
        """Key, id, time of death, history and message of the dead letters, the latest first."""
        self.write()
        return self._db.execute(
            "SELECT key, id, at, history, raw FROM dead ORDER BY at DESC LIMIT ?", (limit,)
        ).fetchall()

    def count_groups(self) -> int:
        self.write()
        return int(self._db.execute("SELECT count(*) FROM groups").fetchone()[0])

    def find_inbox(self, inbox: str) -> int | None:
        for mark in (*reversed(self._turn.marks), self._pending.marks.get(inbox)):
            if mark is not None and mark[1] == inbox:
                return mark[2]
        row = self._db.execute("SELECT number FROM marks WHERE kind='inbox' AND id=?", (inbox,)).fetchone()
        return row[0] if row else None

    def find_refusals(self, inbox: str) -> list[tuple[int, bytes]]:
        """Number and refusals of the messages in which something was refused."""
        self.write()
        return self._db.execute(
            "SELECT number, value FROM marks WHERE kind='refusals' AND id>=? AND id<? ORDER BY id",
            (f"{inbox}/", f"{inbox}0"),  # the character after the slash
        ).fetchall()

    def find_callable(self, digest: str) -> bytes | None:
        self.write()
        row = self._db.execute("SELECT blob FROM callables WHERE digest=?", (digest,)).fetchone()
        return row[0] if row else None

    def has_callable(self, digest: str) -> bool:
        self.write()
        return self._db.execute("SELECT 1 FROM callables WHERE digest=?", (digest,)).fetchone() is not None

    def find_meta(self, name: str) -> str | int | float | None:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def count_dead(self) -> int:
        self.write()
        return int(self._db.execute("SELECT count(*) FROM dead").fetchone()[0])

    def count_results(self) -> int:
        self.write()
        return int(self._db.execute("SELECT count(*) FROM results").fetchone()[0])

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def expire(self, now: int, *, after: str, limit: int) -> tuple[int, str]:
        """Remove expired results among the ``limit`` ids from ``after`` on.

        There is no index by time: our ids are in the order of their making, so the front of the table expires first,
        and a walk round the whole of it finds the others. What is expired is not given out in any case.

        Returns:
            how many were removed, and the id to go on from ('': the end was reached).
        """
        self.write()
        rows = self._db.execute(
            "SELECT id, expires FROM results WHERE id>? ORDER BY id LIMIT ?", (after, limit)
        ).fetchall()
        expired = [(task_id,) for task_id, expires in rows if expires <= now]
        if expired:
            self._begin()
            self._db.executemany("DELETE FROM results WHERE id=?", expired)
        return len(expired), rows[-1][0] if len(rows) == limit else ""

    def expire_quiet(self, *, inboxes_before: int, callables_before: int, groups_before: int) -> None:
        """Forget producers and callables that nobody has used since then, and groups that were opened before."""
        self._begin()
        self._db.execute("DELETE FROM marks WHERE kind IN ('inbox', 'refusals') AND seen<?", (inboxes_before,))
        self._db.execute("DELETE FROM callables WHERE used<?", (callables_before,))
        quiet = [gather for (gather,) in self._db.execute("SELECT id FROM groups WHERE seen<?", (groups_before,))]
        self._db.executemany("DELETE FROM parts WHERE gather=?", [(gather,) for gather in quiet])
        self._db.executemany("DELETE FROM groups WHERE id=?", [(gather,) for gather in quiet])


def _up_to(most_bytes: int, rows: sqlite3.Cursor) -> list[Any]:
    """The rows up to the one with which their last columns come to this many bytes."""
    taken = []
    for row in rows:
        taken.append(row)
        most_bytes -= len(row[-1])
        if most_bytes <= 0:
            break
    rows.close()
    return taken


def _read_record(file: BinaryIO, size: int) -> _Turn | None:
    """The next record of a log of this size; None where there is none that is whole."""
    head = file.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    length, checksum = _RECORD.unpack(head)
    if length > size - file.tell():
        return None
    payload = file.read(length)
    if len(payload) < length or zlib.crc32(payload) != checksum:
        return None
    try:
        return _decode_turn(payload)
    except msgspec.MsgspecError:
        return None


def _is_whole(log: mmap.mmap, start: int) -> bool:
    """Whether a record begins here."""
    length, checksum = _RECORD.unpack_from(log, start)
    begin = start + _RECORD.size
    return bool(length <= len(log) - begin and zlib.crc32(log[begin : begin + length]) == checksum)


msgpack_encode = msgspec.msgpack.Encoder().encode
_decode_turn = msgspec.msgpack.Decoder(_Turn).decode
_decode_lease = msgspec.msgpack.Decoder(tuple[str, bytes]).decode
