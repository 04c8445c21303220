"""Takes tasks in, writes them to the journal, and hands them to workers that asked.

Everything here happens within one loop turn of the node, in memory and in the journal's open transaction; the node
commits, and only then sends what the turn produced (:attr:`Collector.outbox`, the publisher's deliveries).

Acceptance: a producer numbers what it sends. The collector takes numbers in order, each once, and receipts the highest;
so a resend is recognised at no cost, whatever the task's id. The highest number is written in the same transaction as
the task. A task that is refused has a number, too: the refusal is remembered, and said with each welcome, until the
producer shows that it knows.

Leases: a task is a worker's until it reports it, hands it back, or is lost (:mod:`zerocelery.engine.losses`). There is
no limit on how long a task may run.

Ends: a task's result, what follows it, the end of others that it takes with it, and, where it is a group's member
(:mod:`zerocelery.engine.groups`), its count and the body after the last one are one transaction. A task that the engine
itself ends (lost, expired, refused) and that others wait for is accepted once more, as its own aftermath: with a
verdict, so that its strategy can see to what follows.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import Raw

from zerocelery.engine import wire
from zerocelery.engine.claims import Leases, Uniques
from zerocelery.engine.clock import Clock
from zerocelery.engine.failpoints import failpoint
from zerocelery.engine.groups import Groups
from zerocelery.engine.inspection import Inspection
from zerocelery.engine.journal import Journal
from zerocelery.engine.ledger import Entry, Lane, Ledger
from zerocelery.engine.losses import Losses
from zerocelery.engine.processes import Processes
from zerocelery.engine.publisher import Publisher
from zerocelery.engine.rates import EVERYBODY, Rates
from zerocelery.engine.revocations import Revocations
from zerocelery.engine.switchboard import Switchboard
from zerocelery.engine.withdrawals import Withdrawals
from zerocelery.engine.workerstate import WorkerState

logger = logging.getLogger("zerocelery.node")

#: Short tasks are leased together as long as they are expected to take no longer than this in all, in seconds.
BATCH_SECONDS: Final = 0.003

#: The run time of a name that was never seen, and the least that one task counts for.
_UNKNOWN_SECONDS: Final = 1.0
_LEAST_SECONDS: Final = 20e-6

_MAX_NAMES: Final = 10_000

#: Messages of one producer whose refusals it may not know.
_MAX_REFUSALS: Final = 50_000

#: How many waiting tasks of limited names are passed over in search of one that may start now.
_PASSED_OVER: Final = 100

#: The largest number from outside that goes on to the journal, whose integers have 64 bits.
_MOST: Final = 1 << 62


@dataclasses.dataclass(slots=True)
class Limits:
    """What a node holds and how patient it is; sizes in bytes, times in seconds."""

    queue_limit: int = 10_000_000
    max_message: int = 64 << 20
    max_losses: int = 5
    lease_timeout: float = 30.0
    result_expires: float = 86_400.0


@dataclasses.dataclass(slots=True)
class Counters:
    """What the node has seen since it started."""

    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    malformed: int = 0
    leases: int = 0
    finished: int = 0
    late: int = 0
    lost: int = 0
    dead: int = 0


class Collector:
    """The known endpoint. One method per kind of message, and :meth:`hand_out`, once a turn."""

    def __init__(
        self,
        *,
        journal: Journal,
        ledger: Ledger,
        publisher: Publisher,
        clock: Clock,
        processes: Processes,
        limits: Limits,
        lease_number: int = 0,
    ) -> None:
        self.journal = journal
        self.ledger = ledger
        self.publisher = publisher
        self.clock = clock
        self.processes = processes
        self.limits = limits
        self.groups = Groups(journal)
        self.rates = Rates()
        self._rates_due: float | None = None  # when a task may start that its limit has kept back (monotonic)
        self.switchboard = Switchboard(publisher, processes, self._send)
        self.counters = Counters()
        self.workers: dict[str, WorkerState] = {}
        self.outbox: list[tuple[str, wire.ToWorker]] = []
        self.revocations = Revocations(journal)
        self.withdrawals = Withdrawals(self)
        self.losses = Losses(self)
        self.uniques = Uniques(journal)
        self.leases = Leases(journal, publisher.live, clock)
        self.inspection = Inspection(self)
        self.queries: dict[str, Callable[[bytes], bytes]] = dict(self.inspection.queries)
        self._ready: OrderedDict[str, WorkerState] = OrderedDict()
        self._inboxes: dict[str, int] = {}
        self._refusals: dict[str, dict[int, list[wire.Refusal]]] = {}  # inbox → message → what may not be known there
        self._by_pid: dict[int, set[str]] = {}
        self._estimates: dict[str, float] = {}
        self._lease_number = lease_number
        self._left_of_lease: dict[int, int] = {}
        self._came_back = False

    # ── from producers ───────────────────────────────────────────────────────────────────────────────────────────────

    def from_producer(self, frame: bytes) -> None:
        """Take one frame from the PULL socket, whatever is in it."""
        message = wire.decode_from_producer(frame)
        if isinstance(message, wire.Submit):
            self._submit(message)
        elif isinstance(message, wire.Malformed):
            self._malformed(message)
        elif isinstance(message, wire.Hello):
            self._hello(message)
        elif isinstance(message, wire.Ask):
            self._ask(message)
        elif isinstance(message, wire.Ship):
            self._ship(message)
        elif isinstance(message, wire.Forget):
            self.journal.forget(message.ids)
        elif isinstance(message, wire.Query):
            self._query(message)
        elif isinstance(message, wire.Tell):
            self._tell(message)
        elif isinstance(message, (wire.Cast, wire.Attend, wire.Call, wire.Reply)):
            self.switchboard.take(message)
        else:
            self._numbered(message)

    def _ask(self, ask: wire.Ask) -> None:
        if ask.heard >= 0:
            self.publisher.heard(ask.inbox, ask.heard)
        if ask.ids:
            self.journal.write()
            self.publisher.ask(ask.inbox, ask.ids, wait=ask.wait, now=self.clock.wall())

    def _numbered(self, message: wire.Gather | wire.Grow | wire.Put | wire.Revoke) -> None:
        """What takes one sequence number and is no task."""
        if self._expected(message.inbox, message.seq, 1) != 0:
            return
        if isinstance(message, wire.Gather):
            self._open(message.group)
        elif isinstance(message, wire.Grow):
            now = self.clock.wall()
            self._accept_body(self.groups.grow(message.id, message.members, close=message.close, now=now), now)
        elif isinstance(message, wire.Revoke):
            self.withdrawals.revoke(message)
        else:
            self._conclude(message.result, message.keep, (), True)
        self._taken(message.inbox, message.seq)

    def _tell(self, message: wire.Tell) -> None:
        """Pass on what a pool's process says to its workers; which queues they serve is for this node, too."""
        station = self.switchboard.stations.get(message.inbox)
        if station is None:
            return
        for worker in list(self.workers.values()):
            join = worker.joined
            if join.host != station.host or station.pid not in (join.pid, join.parent_pid):
                continue
            if message.queues is not None:
                worker.joined = msgspec.structs.replace(join, queues=list(message.queues))
                self.journal.worker(worker.id, wire.encode(msgspec.structs.replace(worker.joined, holding=[], done=[])))
                self._offer(worker)
            self._send(worker.id, wire.Told(message.body, message.queues))

    def _open(self, raw: Raw) -> None:
        problem = self.groups.open(raw, self.clock.wall())
        if problem is not None:
            self._malformed(problem)

    def _malformed(self, message: wire.Malformed) -> None:
        self.counters.malformed += 1
        if self.counters.malformed & (self.counters.malformed - 1) == 0:  # 1, 2, 4, 8 …: a flood fills no log
            logger.warning(
                "dropped a frame that is no message (%d so far): %s", self.counters.malformed, message.reason
            )

    def last_of(self, inbox: str) -> int | None:
        """The highest number accepted from this producer; None where it is unknown."""
        last = self._inboxes.get(inbox)
        if last is None:
            last = self.journal.find_inbox(inbox)
            if last is not None:
                self._inboxes[inbox] = last
                refusals = self.journal.find_refusals(inbox)
                if refusals:
                    decoded = {seq: wire.decode_refusals(raw) for seq, raw in refusals}
                    self._refusals[inbox] = {seq: r for seq, r in decoded.items() if not isinstance(r, wire.Malformed)}
        return last

    def _hello(self, hello: wire.Hello) -> None:
        if hello.version == wire.VERSION:
            last = self.last_of(hello.inbox)
            if last is None:
                # Unknown here: a new producer, or one that another journal knew. Its lowest unacknowledged number is
                # the next that is taken.
                last = -1
            if last < hello.lowest - 1 < _MOST:
                # Of a known one, the journal has lost what was receipted (a power cut, an old copy of the file).
                self._inboxes[hello.inbox] = last = hello.lowest - 1
            if hello.inbox in self._refusals:
                self._forget_refusals(hello.inbox, hello.lowest)
            self._welcome(hello.inbox, last)
        else:
            self.publisher.welcome(hello.inbox, -1)  # carries our version: the other side says what is wrong

    def _forget_refusals(self, inbox: str, before: int) -> None:
        """The producer knows what was refused among lower numbers."""
        self._refusals[inbox] = {
            seq: refusals for seq, refusals in self._refusals[inbox].items() if refusals[-1].seq >= before
        }  # fmt: skip
        if not self._refusals[inbox]:
            del self._refusals[inbox]
        self.journal.forget_refusals(inbox, min(self._refusals.get(inbox, (before,))))

    def _welcome(self, inbox: str, last: int) -> None:
        self.publisher.welcome(inbox, last, itertools.chain.from_iterable(self._refusals.get(inbox, {}).values()))

    def _expected(self, inbox: str, seq: int, count: int) -> int:
        """How many of ``count`` messages from ``seq`` on were taken before; -1: a hole lies before them."""
        last = self.last_of(inbox)
        if last is None:
            self.publisher.welcome(inbox, -1)
            return -1
        if seq == last + 1:
            return 0
        if seq > last:
            self.publisher.gap(inbox, last)
            return -1
        self.counters.duplicates += min(count, last - seq + 1)
        self.publisher.receipt(inbox, last)
        return min(count, last - seq + 1)

    def _taken(self, inbox: str, last: int) -> None:
        self._inboxes[inbox] = last
        self.journal.inbox(inbox, last, int(self.clock.wall()))
        self.publisher.receipt(inbox, last)
        failpoint("collector.before_commit")

    def _submit(self, submit: wire.Submit) -> None:
        inbox, tasks = submit.inbox, submit.tasks
        known = self._expected(inbox, submit.seq, len(tasks))
        if known < 0 or known == len(tasks):
            return
        now = self.clock.wall()
        refusals: list[wire.Refusal] = []
        for index in range(known, len(tasks)):
            raw = tasks[index]
            head = wire.decode_task_head(raw)
            if isinstance(head, wire.Malformed):
                self._malformed(head)
                refusals.append(wire.Refusal(submit.seq + index, "malformed", head.reason))
                continue
            reason = self.ledger.may_accept(head)
            if reason:
                refusals.append(wire.Refusal(submit.seq + index, reason, head.queue))
            elif head.digest is not None and not self.journal.has_callable(head.digest):
                refusals.append(wire.Refusal(submit.seq + index, "callable-unknown", head.digest))
            elif not head.flags & wire.UNIQUE or self._claims(head, bytes(raw), now, again=False):
                self.ledger.accept(head, bytes(raw), now)
                self.counters.accepted += 1
        if refusals:
            self._refuse(inbox, submit.seq, refusals, now)
        self._taken(inbox, submit.seq + len(tasks) - 1)

    def _claims(self, head: wire.TaskHead, raw: bytes, now: float, *, again: bool) -> bool:
        """Take the task's unique key; where another task has it, this one has ended."""
        holder = self.uniques.claim(raw, now, again=again)
        if not holder:
            return True
        entry = Entry(0, msgspec.structs.replace(head, flags=head.flags & ~wire.UNIQUE), raw)
        self.fail(entry, "duplicate", f"task {holder} has the same unique key", state=wire.REVOKED)
        return False

    def _refuse(self, inbox: str, seq: int, refusals: list[wire.Refusal], now: float) -> None:
        self.counters.refused += len(refusals)
        for refusal in refusals:
            self.publisher.refuse(inbox, refusal)
        unknown = self._refusals.setdefault(inbox, {})
        unknown[seq] = refusals
        if len(unknown) > _MAX_REFUSALS:  # more than any producer keeps
            del unknown[next(iter(unknown))]
        self.journal.refusals(inbox, seq, int(now), wire.encode(refusals))

    def _ship(self, ship: wire.Ship) -> None:
        if self._expected(ship.inbox, ship.seq, 1) != 0:
            return
        self.journal.callable(ship.digest, ship.blob, int(self.clock.wall()))
        self.journal.write()  # a task of the same turn may need it
        self._taken(ship.inbox, ship.seq)

    def _query(self, query: wire.Query) -> None:
        answer = self.queries.get(query.what)
        value = answer(query.argument) if answer else b""
        self.publisher.answer(query.inbox, query.token, value)

    def subscribed(self, topic: str) -> None:
        """An inbox is (again) connected: tell it what is known of it."""
        self.publisher.subscribed(topic)
        if topic.startswith(wire.STREAM):
            self.switchboard.subscribed(topic)
            return
        last = self.last_of(topic)
        self._welcome(topic, -1 if last is None else last)

    def unsubscribed(self, topic: str) -> None:
        """A producer is gone, or cut off; what it had accepted is in the journal."""
        self.publisher.unsubscribed(topic)
        if topic not in self.publisher.live:
            self._inboxes.pop(topic, None)
            self._refusals.pop(topic, None)
            self.switchboard.left(topic)

    def undelivered(self, worker_id: str, message: wire.ToWorker) -> None:
        """A lease could not be sent: its tasks never arrived, so they are for somebody else."""
        worker = self.workers.get(worker_id)
        if worker is None or not isinstance(message, wire.Lease):
            return
        for item in reversed(message.entries):
            entry = worker.held.get(item.key)
            if entry is not None:
                self.release(worker, entry)
                self.ledger.put_back(entry)
        self.hand_out_again()
        self.recount(worker)
        self._ready.pop(worker_id, None)  # it joins again when it is connected again
        if not worker.held:
            self.drop(worker)  # it may never be: nobody would tell of the end of another machine's idle worker

    # ── from workers ─────────────────────────────────────────────────────────────────────────────────────────────────

    def from_worker(self, worker_id: str, frame: bytes) -> None:
        """Take one frame from a worker, whatever is in it."""
        message = wire.decode_from_worker(frame)
        if type(message) is wire.Done:
            worker = self._current(worker_id, message.generation)
            if worker is not None:
                self._done(worker, message)
        elif isinstance(message, wire.Malformed):
            self._malformed(message)
        elif isinstance(message, wire.Join):
            self._join(worker_id, message)
        elif isinstance(message, wire.Bye):
            worker = self._current(worker_id, message.generation)
            if worker is not None:
                self._bye(worker, message)
        else:
            self._from_any_worker(worker_id, message)

    def _from_any_worker(self, worker_id: str, message: wire.FromWorker) -> None:
        """What needs no valid join."""
        if isinstance(message, wire.Update):
            self._update(worker_id, message)
        elif isinstance(message, wire.Fetch):
            self._send(worker_id, wire.Blob(message.digest, self.journal.find_callable(message.digest)))
        elif isinstance(message, wire.Beat):
            now = self.clock.monotonic()
            for name in message.workers:
                if name in self.workers:
                    self.workers[name].beat = now
        elif isinstance(message, wire.Cast):
            if worker_id in self.workers:
                self.switchboard.cast(message, worker_id)
        elif isinstance(message, wire.Lost):
            self._lost_elsewhere(message, worker_id)
        elif isinstance(message, wire.Limit) and worker_id in self.workers:
            self._limit(self.workers[worker_id], message.rates)

    def _send(self, worker_id: str, message: wire.ToWorker) -> None:
        self.outbox.append((worker_id, message))

    def _current(self, worker_id: str, generation: int) -> WorkerState | None:
        """The worker, if it is joined with this generation; else it is told to join again and bring all it has."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.generation != generation:
            self._send(worker_id, wire.Rejoin(wire.VERSION))
            return None
        return worker

    def process_ended(self, pid: int) -> None:
        """A worker's process on this machine is no more."""
        for worker_id in self._by_pid.pop(pid, ()):
            worker = self.workers.get(worker_id)
            if worker is not None:
                self.losses.process_ended(worker)

    def _lost_elsewhere(self, lost: wire.Lost, sender: str) -> None:
        worker = self.workers.get(lost.worker)
        if worker is not None:
            self.losses.told(worker, lost, by_itself=sender == lost.worker)

    def _join(self, worker_id: str, join: wire.Join) -> None:
        if join.version != wire.VERSION:
            self._send(worker_id, wire.Rejoin(wire.VERSION))
            return
        worker = self.workers.get(worker_id)
        if worker is None:
            worker = self.workers[worker_id] = WorkerState(worker_id, join)
        worker.joined = join
        worker.totals = self.inspection.totals_of(join)
        worker.generation = join.generation
        worker.capacity = join.capacity
        worker.acked = 0
        worker.busy = False
        worker.frozen = False
        worker.begun.clear()
        worker.silent_until = None
        worker.beat = self.clock.monotonic()
        here = self.processes.local(join.host)
        worker.local = here and self.watch(worker)
        self._finish(worker, join.done)
        if here and not worker.local and not self.processes.alive(join.pid, join.started):
            self.losses.lose(worker, f"its process {join.pid} died")  # it had sent this before
            return
        holding = set(join.holding)
        for entry in [e for key, e in worker.held.items() if key not in holding]:
            self.release(worker, entry)  # leased, but the lease never arrived there
            self.ledger.put_back(entry)
        # What it holds and we don't count as its own was settled while it was away: it must not start it.
        void = [key for key in join.holding if key not in worker.held]
        if void:
            self.counters.late += len(void)
        self.recount(worker)
        self._limit(worker, join.rates)
        record = msgspec.structs.replace(join, holding=[], done=[])
        self.journal.worker(worker_id, wire.encode(record))
        self._send(worker_id, wire.Lease(join.generation, 0, [], list(worker.held), self.limits.max_message))
        self._offer(worker)

    def watch(self, worker: WorkerState) -> bool:
        """Hear of the end of its process, which is one of this machine; False where that can't be."""
        pid = worker.joined.pid
        if not self.processes.watch(pid):
            return False
        self._by_pid.setdefault(pid, set()).add(worker.id)
        return True

    def _done(self, worker: WorkerState, done: wire.Done) -> None:
        if done.number != worker.acked + 1:
            # One before it was lost with a connection: the worker is to bring all that has no answer.
            self._send(worker.id, wire.Rejoin(wire.VERSION))
            return
        worker.acked = done.number
        worker.beat = self.clock.monotonic()
        worker.busy = done.busy
        self._finish(worker, done.reports)
        self._return(worker, done.returned)
        self._offer(worker)

    def _finish(self, worker: WorkerState, reports: Iterable[wire.Report]) -> None:
        now = self.clock.wall()
        for report in reports:
            entry = worker.held.pop(report.key, None)
            if entry is None:
                self.counters.late += 1  # settled before: the first outcome stands
                continue
            name = entry.head.name
            self._learn(worker, name, report.runtime)
            totals = worker.totals
            totals[name] = totals.get(name, 0) + 1
            self._end(entry)
            self.counters.finished += 1
            for raw in report.gathers:
                self._open(raw)
            for raw in report.followups:
                self._follow_up(raw, now)
            self._record(entry, report, now, worker)
            if report.bury:
                self.keep_dead(entry, [report.bury])
            for ending in report.endings:
                self._conclude(ending.result, ending.keep, ending.topics, ending.store, gather=ending.gather)
        if not worker.held:
            worker.seconds = 0.0

    def _learn(self, worker: WorkerState, name: str, runtime: float) -> None:
        """Keep a moving average of each name's run time: it decides how many are leased together."""
        known = self._estimates.get(name)
        worker.seconds -= _UNKNOWN_SECONDS if known is None else known
        if runtime < _LEAST_SECONDS:
            runtime = _LEAST_SECONDS
        if known is not None:
            self._estimates[name] = known + (runtime - known) * 0.2
        elif len(self._estimates) < _MAX_NAMES:
            self._estimates[name] = runtime

    def _record(self, entry: Entry, report: wire.Report, now: float, worker: WorkerState) -> None:
        """Store a result and send it on; count it where the task is a group's member."""
        result = wire.decode_result_head(report.result)
        if isinstance(result, wire.Malformed):
            self._malformed(result)
            self.fail(entry, "refused", f"the worker's result can't be read: {result.reason}")
            return
        head = entry.head
        if result.state == wire.REVOKED:  # by the worker itself: its threads are green, and it ends none of them
            self._tell_terminated(entry, report, worker)
        if report.store:
            self._store(result, report.result, head.keep, now)
            quiet = head.flags & wire.QUIET and result.state == wire.SUCCESS
            topics = () if quiet else head.topics
            self.publisher.result(result.id, report.result, topics, final=result.final)
        if head.flags & wire.MEMBER and result.final:
            self._count(_gather_of(entry), result, bytes(report.result), now)

    def _store(self, result: wire.ResultHead, raw: Raw | bytes, keep: float | None, now: float) -> None:
        """Keep a result in the journal for as long as its task, or else the node, says."""
        keep = self.limits.result_expires if keep is None else keep
        if keep > 0:
            self.journal.result(result.id, result.state, int(min(now + keep, _MOST)), bytes(raw), int(now))

    def _conclude(
        self, raw: Raw, keep: float | None, topics: tuple[str, ...], store: bool, *, gather: str | None = None
    ) -> None:
        """Take a result that doesn't come from the task's own run."""
        result = wire.decode_result_head(raw)
        if isinstance(result, wire.Malformed):
            self._malformed(result)
            return
        now = self.clock.wall()
        if store:
            self._store(result, raw, keep, now)
            self.publisher.result(result.id, raw, topics, final=result.final)
        if gather is not None:
            self._count(gather, result, bytes(raw), now)

    def _count(self, gather: str | None, result: wire.ResultHead, raw: bytes, now: float) -> None:
        """Count a member's end, and accept the body with the last one."""
        if gather is None:
            return
        self._accept_body(self.groups.ended(gather, result.id, raw, well=result.state == wire.SUCCESS, now=now), now)

    def _accept_body(self, body: wire.Task | None, now: float) -> None:
        """Queue the body of a group all of whose members have ended."""
        if body is None:
            return
        encoded = wire.encode(body)
        if len(encoded) <= self.limits.max_message:
            self._follow_up(Raw(encoded), now)
            return
        what = f"the results of its group take {len(encoded):,} bytes, more than the node's --max-message"
        bare = wire.encode(msgspec.structs.replace(body, inputs=[], verdict=b""))
        head = wire.decode_task_head(bare)
        if isinstance(head, wire.TaskHead):
            self.fail(Entry(0, head, bare), "too-large", what)

    def _follow_up(self, raw: Raw, now: float) -> None:
        head = wire.decode_task_head(raw)
        if isinstance(head, wire.Malformed):
            self._malformed(head)
        elif not head.flags & wire.UNIQUE or self._claims(head, bytes(raw), now, again=True):
            self.ledger.accept(head, bytes(raw), now)
            self.counters.accepted += 1

    def _end(self, entry: Entry) -> None:
        """The task is over: remove it from the journal, and its lease with the lease's last task."""
        self.ledger.leased.pop(entry.key, None)
        self.journal.remove(entry.key)
        if entry.losses:
            self.journal.forget_losses(entry.key)
        if entry.head.flags & wire.UNIQUE:
            self.uniques.release(entry.raw, self.clock.wall())
        self.unlease(entry)

    def unlease(self, entry: Entry) -> None:
        """One task less of its lease; with the last one the lease is over."""
        number = entry.lease
        left = self._left_of_lease.get(number, 0) - 1
        if left > 0:
            self._left_of_lease[number] = left
        else:
            self._left_of_lease.pop(number, None)
            self.journal.end_lease(number)

    def release(self, worker: WorkerState, entry: Entry) -> None:
        """The worker has this task no more."""
        worker.held.pop(entry.key, None)
        self.unlease(entry)

    def _return(self, worker: WorkerState, keys: Iterable[int]) -> None:
        """Tasks that the worker hands back unstarted go to whoever is free, in their old order."""
        for key in keys:
            entry = worker.held.get(key)
            if entry is not None:
                self.release(worker, entry)
                self.ledger.put_back(entry)
        if keys:
            self.recount(worker)

    def recount(self, worker: WorkerState) -> None:
        """Estimate anew how long what the worker holds will take."""
        worker.seconds = sum(self._estimates.get(e.head.name, _UNKNOWN_SECONDS) for e in worker.held.values())

    def _update(self, worker_id: str, update: wire.Update) -> None:
        worker = self.workers.get(worker_id)
        entry = worker.held.get(update.key) if worker else None
        result = wire.decode_result_head(update.result)
        if entry is None or isinstance(result, wire.Malformed):
            self.counters.late += 1
            return
        self._store(result, update.result, entry.head.keep, self.clock.wall())
        self.journal.write()
        self.publisher.result(result.id, update.result, entry.head.topics, final=False)

    def _bye(self, worker: WorkerState, bye: wire.Bye) -> None:
        self._finish(worker, bye.reports)
        self._return(worker, bye.returned)
        for entry in list(worker.held.values()):  # leased to it after it had decided to leave
            self.release(worker, entry)
            self.ledger.put_back(entry)
        self.drop(worker)
        self._send(worker.id, wire.Farewell())

    def drop(self, worker: WorkerState) -> None:
        """Forget a worker that holds nothing."""
        self.workers.pop(worker.id, None)
        self._ready.pop(worker.id, None)
        self.switchboard.worker_left(worker.id)
        self.journal.worker(worker.id, None)
        self.processes.discard(worker.joined.word)
        owners = self._by_pid.get(worker.joined.pid)
        if owners is not None:
            owners.discard(worker.id)
            if not owners:
                del self._by_pid[worker.joined.pid]

    # ── handing out ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _offer(self, worker: WorkerState) -> None:
        """The worker could take (more) tasks."""
        if worker.busy or worker.ending:
            return
        if len(worker.held) < worker.capacity and worker.seconds < BATCH_SECONDS:
            self._ready[worker.id] = worker

    def hand_out(self) -> None:
        """Give waiting tasks to the workers that are ready: first to those with nothing to do."""
        self._rates_due = None
        if not self._ready:
            return
        # Who was ready last comes first: its process is still awake, and its memory still in the processor's caches.
        idle = [w for w in reversed(self._ready.values()) if not w.held]
        busy = [w for w in self._ready.values() if w.held]
        for position, worker in enumerate((*idle, *busy)):
            queues = worker.joined.queues
            lane = self.ledger.best(queues)
            if lane is None:
                if not worker.held:
                    continue  # stays ready
                del self._ready[worker.id]  # asks again with its next report
                continue
            left = max(1, len(idle) - position)
            share = -(-self.ledger.waiting(queues) // left)
            self._lease(worker, lane, min(share, worker.capacity - len(worker.held)))
            if worker.held:
                self._ready.pop(worker.id, None)

    def _lease(self, worker: WorkerState, lane: Lane | None, most: int) -> None:
        ledger, estimates, revoking = self.ledger, self._estimates, bool(self.revocations)
        queues = worker.joined.queues
        several = len(queues) > 1
        taken: list[Entry] = []
        seconds = worker.seconds
        wall = self.clock.wall()
        policy, policies = worker.joined.policy, worker.joined.policies
        passed_over: list[Entry] = []
        while lane is not None and len(taken) < most:
            first = lane.first()
            if first is None:
                lane = ledger.best(queues)
                continue
            head = first.head
            why = self.withdrawals.why_not(first, wall) if revoking or head.expires is not None else ""
            if why:
                lane.take()
                self.journal.remove(first.key)
                self.fail(first, why, why, state=wire.REVOKED)
            else:
                # Alone where a worker was lost with it: those that share a lease with it would share its fate.
                cost = _UNKNOWN_SECONDS if first.losses else estimates.get(head.name, _UNKNOWN_SECONDS)
                if (taken or worker.held) and seconds + cost > BATCH_SECONDS:
                    break
                if self.rates and not self._may_start(worker, head):
                    passed_over.append(lane.take())
                    lane = ledger.best(queues) if len(passed_over) < _PASSED_OVER else None
                    continue
                seconds += cost
                taken.append(lane.take())
                first.flags = policies.get(head.name, policy if policy >= 0 else head.flags)
                if head.flags & wire.SETTLED:
                    first.flags = wire.ACK_LATE | wire.REJECT_ON_LOST
            if several or not lane.order:
                lane = ledger.best(queues)
        for entry in reversed(passed_over):
            ledger.lane(entry.head.queue).push(entry)
        if taken:
            worker.seconds = seconds
            self._give(worker, taken, wall)

    def _limit(self, worker: WorkerState, rates: list[wire.Rate]) -> None:
        for rate in rates:
            self.rates.change(EVERYBODY if rate.shared else worker.pool, {rate.name: rate.limit})
        if len(self.rates) > _MAX_NAMES:
            self.rates.keep({other.pool for other in self.workers.values()})

    def _may_start(self, worker: WorkerState, head: wire.TaskHead) -> bool:
        if head.flags & wire.SETTLED:
            return True
        now = self.clock.monotonic()
        wait = self.rates.start(worker.pool, head.name, now)
        if wait > 0.0:
            self._rates_due = min(now + wait, self._rates_due or now + wait)
        return wait == 0.0

    def _give(self, worker: WorkerState, taken: list[Entry], wall: float) -> None:
        ledger = self.ledger
        if not worker.held:
            worker.beat = self.clock.monotonic()  # that it was silent while it had nothing to do says nothing
        self._lease_number += 1
        self.counters.leases += 1
        number = self._lease_number
        self._left_of_lease[number] = len(taken)
        for entry in taken:
            entry.lease = number
            entry.since = wall
            ledger.leased[entry.key] = entry
            worker.held[entry.key] = entry
        self.journal.lease(number, worker.id, wire.encode([(e.key, e.flags) for e in taken]))
        entries = [wire.LeaseEntry(e.key, e.losses, Raw(e.raw)) for e in taken]
        self._send(worker.id, wire.Lease(worker.generation, worker.acked, entries))
        self.losses.leased(worker)

    def oldest(self, lane: Lane) -> float | None:
        """For how many seconds the oldest task of a queue has been waiting."""
        since = self.ledger.oldest(lane)
        return None if since is None else max(0.0, self.clock.wall() - since)

    def dropped(self, entry: Entry) -> None:
        """A task was removed with no word about its end."""
        if entry.head.flags & wire.UNIQUE:
            self.uniques.release(entry.raw, self.clock.wall())

    # ── ends that no worker reports ──────────────────────────────────────────────────────────────────────────────────

    def keep_dead(self, entry: Entry, history: list[str]) -> None:
        """Keep a task as a dead letter."""
        head = entry.head
        self.counters.dead += 1
        self.journal.bury(entry.key, head.id, head.name, self.clock.wall(), json.dumps(history), entry.raw)

    def fail(
        self, entry: Entry, kind: str, message: str, *, state: str = wire.FAILURE, history: list[str] | None = None,
        worker: WorkerState | None = None,
    ) -> None:  # fmt: skip
        """End a task with the engine's own outcome."""
        head = entry.head
        now = self.clock.wall()
        if head.flags & wire.UNIQUE:
            self.uniques.release(entry.raw, now)
        if state == wire.REVOKED and kind != "duplicate" and self.switchboard.stations:
            self._tell_station(kind, message, entry, worker)
        loss = wire.encode(wire.Loss(kind, message, history or []))
        result = wire.Result(id=head.id, state=state, final=True, content_type=wire.LOSS_TYPE, value=loss, finished=now)
        raw = wire.encode(result)
        flags = head.flags | entry.flags  # its own, and what its worker said of tasks of this name
        if not flags & wire.IGNORE_RESULT:
            self._store(wire.ResultHead(head.id, state, True), raw, head.keep, now)
        self.publisher.result(head.id, Raw(raw), head.topics, final=True)
        if flags & (wire.MEMBER | wire.AFTERMATH):
            self._follow_loss(entry, raw, now)

    def _tell_terminated(self, entry: Entry, report: wire.Report, worker: WorkerState) -> None:
        result = wire.decode_result(report.result)
        loss = None
        if not isinstance(result, wire.Malformed) and result.content_type == wire.LOSS_TYPE:
            loss = wire.decode_loss(result.value)
        if isinstance(loss, wire.Loss):
            self._tell_station(loss.kind, loss.message, entry, worker)

    def _tell_station(self, kind: str, message: str, entry: Entry, worker: WorkerState | None) -> None:
        """Let the pool that had the task, or else one that would have, know that it was revoked."""
        queue = entry.head.queue
        pools = {
            (w.joined.host, w.joined.parent_pid or w.joined.pid)
            for w in ((worker,) if worker is not None else self.workers.values())
            if worker is not None or queue in w.joined.queues
        }
        self.switchboard.notify(pools, wire.encode((kind, message, entry.raw)))

    def _follow_loss(self, entry: Entry, raw: bytes, now: float) -> None:
        """What follows from an end that no worker has reported: others may have waited for this task."""
        task = wire.decode_task(entry.raw)
        if isinstance(task, wire.Malformed):
            return
        if (task.flags | entry.flags) & wire.AFTERMATH:
            self._follow_up(Raw(wire.encode(wire.aftermath(task, raw))), now)
        if task.flags & wire.MEMBER:
            self._count(task.gather, wire.ResultHead(task.id, wire.FAILURE, True), raw, now)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def tick(self) -> None:
        """Do what is due: ETA tasks, undecided losses, workers that are frozen, silent or never came back."""
        self._release_due()
        self.losses.tick()

    def _release_due(self) -> None:
        ledger = self.ledger
        if ledger.next_due is None:
            return
        now = self.clock.wall()
        if ledger.next_due > now:
            return
        self.journal.write()
        ledger.release(self.journal.take_due(now, 1_000), now)
        ledger.next_due = self.journal.next_due()

    def next_deadline(self) -> float | None:
        """Seconds until :meth:`tick` has something to do."""
        waits = list(self.losses.waits())
        if self.ledger.next_due is not None:
            waits.append(self.ledger.next_due - self.clock.wall())
        if self._rates_due is not None:
            waits.append(self._rates_due - self.clock.monotonic())
        return max(0.0, min(waits)) if waits else None

    def hand_out_again(self) -> None:
        """Tasks have come back, maybe after this turn's handing out."""
        self._came_back = True

    def unready(self, worker: WorkerState) -> None:
        """It is given nothing more until it asks."""
        self._ready.pop(worker.id, None)

    @property
    def must_hand_out(self) -> bool:
        """Whether tasks came back after this turn's handing out (a lease could not be sent)."""
        must, self._came_back = self._came_back, False
        return must

    @property
    def watching(self) -> bool:
        """Whether some worker holds something, so that :meth:`Losses.check_workers` is needed."""
        return any(w.held or w.silent_until is not None for w in self.workers.values())

    # ── the node's former life ───────────────────────────────────────────────────────────────────────────────────────

    def restore(self) -> None:
        """Take up the leases that the journal holds: each worker keeps its own if it comes back, else it is lost."""
        joins = dict(self.journal.known_workers())
        decoder = msgspec.msgpack.Decoder(list[tuple[int, int]])
        leased: dict[int, tuple[int, str, int]] = {}
        numbers: set[int] = set()
        for number, worker_id, blob in self.journal.open_leases():
            numbers.add(number)
            for key, flags in decoder.decode(blob):
                leased.pop(key, None)  # handed back since, and leased again
                leased[key] = (number, worker_id, flags)
        for key, (number, worker_id, flags) in leased.items():
            row = self.journal.task(key)
            head = wire.decode_task_head(row[1]) if row else None
            if row is None or not isinstance(head, wire.TaskHead):
                continue
            worker = self.workers.get(worker_id)
            if worker is None:
                worker = self._restore_worker(worker_id, joins.get(worker_id))
            entry = Entry(key, head, row[1], losses=row[0])
            entry.flags, entry.lease = flags, number
            self.ledger.leased[key] = worker.held[key] = entry
            self.ledger.lane(head.queue).stored -= 1
            self._left_of_lease[number] = self._left_of_lease.get(number, 0) + 1
        for number in numbers - self._left_of_lease.keys():
            self.journal.end_lease(number)
        for worker_id in joins:
            if worker_id not in self.workers:
                self.journal.worker(worker_id, None)
        for worker in list(self.workers.values()):
            self.losses.await_return(worker)

    def _restore_worker(self, worker_id: str, blob: bytes | None) -> WorkerState:
        join = wire.decode_from_worker(blob) if blob is not None else None
        if not isinstance(join, wire.Join):
            join = wire.Join(
                wire.VERSION, 0, worker_id, "", 0, 0, "", 0, 0, [], 0, [], [], 0, {}
            )  # its record is gone: nothing is known of what it started
        worker = self.workers[worker_id] = WorkerState(worker_id, join)
        worker.generation = -1  # whatever it sends, it has to join first
        return worker


def _gather_of(entry: Entry) -> str | None:
    """The group that a task is a member of."""
    task = wire.decode_task(entry.raw)
    return None if isinstance(task, wire.Malformed) else task.gather
