"""Bugs to be planted into the engine of one process: each breaks one promise, and the checker has to notice.

A checker that has never found anything proves nothing. These are the mistakes that are easily made in an engine like
this one; each is planted in a node or a worker (``--plant NAME``) and then one row of the table is run.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

from zerocelery.engine import collector, processes, wire
from zerocelery.engine.journal import Journal
from zerocelery.engine.ledger import Ledger
from zerocelery.engine.losses import Losses
from zerocelery.engine.processes import NOTHING, LocalProcesses


@dataclasses.dataclass(frozen=True)
class Bug:
    """A planted bug, the row that shows it, and what the checker must say."""

    plant: Callable[[], None]
    row: str
    mode: str
    finds: str


def receipt_before_commit() -> None:
    """Receipts leave at once, and the journal is made durable every half second."""
    commit, written = Journal.commit, [time.monotonic()]

    def lazy(self: Journal) -> None:
        self.write()
        if time.monotonic() - written[0] > 0.5:
            written[0] = time.monotonic()
            commit(self)

    Journal.commit = lazy  # type: ignore[method-assign]


def no_dedup() -> None:
    collector.Collector._expected = lambda *_: 0  # type: ignore[method-assign]


def forgets_what_had_started() -> None:
    LocalProcesses.running = lambda *_: NOTHING  # type: ignore[method-assign]


def forgets_dead_workers() -> None:
    collector.Collector.process_ended = lambda *_: None  # type: ignore[method-assign]
    Losses._check_local = lambda *_: None  # type: ignore[method-assign]


def late_answer_wins() -> None:
    """What a worker says that was given up is stored and told."""
    finish = collector.Collector._finish

    def overwriting(self: collector.Collector, worker: Any, reports: Any) -> None:
        reports = list(reports)
        for report in reports:
            head = wire.decode_result_head(report.result)
            if report.key not in worker.held and isinstance(head, wire.ResultHead):
                now = int(self.clock.wall())
                self.journal.result(head.id, head.state, now + 1_000, bytes(report.result), now)
        finish(self, worker, reports)

    collector.Collector._finish = overwriting  # type: ignore[method-assign]


def no_ban_for_the_frozen() -> None:
    """Who was given up goes on with what it holds when it wakes."""
    processes.Word.start = _start_anyway  # type: ignore[method-assign]


def _start_anyway(self: processes.Word, key: int) -> bool:
    processes._KEY.pack_into(self._map, 0, key)
    return True


def results_are_not_stored() -> None:
    Journal.result = lambda *_: None  # type: ignore[method-assign]


def wrong_values() -> None:
    """Each task gives what the one before it should have given."""
    last = [0]

    def square(number: int) -> int:
        last[0], result = number * number, last[0]
        return result

    sys.modules["__main__"].FUNCTIONS["square"] = square  # type: ignore[attr-defined]


def eta_is_ignored() -> None:
    accept = Ledger.accept

    def at_once(self: Ledger, head: wire.TaskHead, raw: bytes, now: float) -> None:
        accept(self, head, raw, max(now, head.eta or now))

    Ledger.accept = at_once  # type: ignore[method-assign]


def late_is_early() -> None:
    """Tasks that were to be run again are given up."""
    settle = Losses._settle

    def giving_up(self: Losses, entry: Any, worker: Any, why: str, *, again: bool) -> None:
        settle(self, entry, worker, why, again=again and entry.head.name == "poison")

    Losses._settle = giving_up  # type: ignore[method-assign]


def early_is_late() -> None:
    """Tasks that must not run twice are run again."""
    settle = Losses._settle

    def trying_again(self: Losses, entry: Any, worker: Any, why: str, *, again: bool) -> None:
        settle(self, entry, worker, why, again=True)

    Losses._settle = trying_again  # type: ignore[method-assign]


BUGS = {
    "receipt before commit": Bug(receipt_before_commit, "node killed 3 ×", "early", "lost"),
    "no dedup": Bug(no_dedup, "messages sent again, node killed", "early", "duplicated"),
    "forgets what had started": Bug(forgets_what_had_started, "worker killed 3 ×", "early", "duplicated"),
    "forgets dead workers": Bug(forgets_dead_workers, "worker killed 3 ×", "late", "lost"),
    "a late answer wins": Bug(late_answer_wins, "worker frozen", "early", "conflicting"),
    "results are not stored": Bug(results_are_not_stored, "burst", "late", "unseen"),
    "wrong values": Bug(wrong_values, "burst", "early", "wrong"),
    "ETA is ignored": Bug(eta_is_ignored, "ETA tasks, worker killed", "late", "hasty"),
    "late is early": Bug(late_is_early, "worker killed 3 ×", "late", "unexplained"),
    "early is late": Bug(early_is_late, "worker killed 3 ×", "early", "duplicated"),
}
