"""Hypothesis plays with a whole system: a real node and real producers in memory, workers that obey, and every fault
that the promises speak of. What must hold is checked after each step and, after healing and draining, at the end."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from compat_tests.engine.system import Peer, System, task
from zerocelery.engine import wire
from zerocelery.engine.collector import Collector
from zerocelery.engine.journal import Journal
from zerocelery.engine.producer import Producer
from zerocelery.transport.memory import Connection, Line

KINDS = {"early": 0, "late": wire.ACK_LATE, "reject": wire.ACK_LATE | wire.REJECT_ON_LOST}
WORK = ["look", "start", "ok", "ok", "fails", "retries", "quick", "quick", "hand back"]
index = st.integers(0, 7)


@dataclasses.dataclass
class Life:
    """What the model knows of one task id."""

    owner: int
    kind: str
    published: int = 1
    kept: bool = True  # its result is to be found until the end
    starts: int = 0
    outcomes: set[bytes] = dataclasses.field(default_factory=set)


def pick(items: list[Any], number: int) -> Any:
    return items[number % len(items)]


def calls(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.fixed_dictionaries(arguments).map(lambda values: (name, values))


USUAL = [
    calls(
        "submit", who=index, kind=st.sampled_from(sorted(KINDS)), count=st.sampled_from([1, 1, 2, 5]),
        eta=st.sampled_from([None, None, None, 0.2, 5.0]), expires=st.sampled_from([None, None, None, None, 1.0]),
        priority=st.sampled_from([0, 0, 9]), keep=st.sampled_from([None, None, None, 3.0]),
    ),
    calls("publish_again", who=index, which=index),
    calls("everybody_acts", rounds=st.integers(1, 3), finish=st.booleans()),
    calls("everybody_acts", rounds=st.integers(1, 2), finish=st.booleans()),
    calls("turn"),
    calls("producer_looks", who=index),
    calls("worker_does", which=index, what=st.lists(st.sampled_from(WORK), min_size=1, max_size=4)),
    calls("worker_does", which=index, what=st.lists(st.sampled_from(WORK), min_size=1, max_size=4)),
    calls("time_passes", seconds=st.sampled_from([0.004, 0.03, 0.3, 1.0, 6.0, 31.0])),
]  # fmt: skip
FAULTS = [
    calls(
        "delay", what=st.sampled_from(["hold", "hold", "release", "let go"]), which=st.integers(0, 15),
        count=st.integers(1, 3),
    ),
    calls("disturb", what=st.sampled_from(["drop", "duplicate", "reorder"]), which=index, frame=index),
    calls("cut", which=st.integers(0, 15), arrives=st.integers(0, 2)),
    calls("node_crashes", leaves=st.booleans(), back=st.booleans()),
    calls(
        "worker_fault", what=st.sampled_from(["dies", "dies", "freezes", "thaws", "leaves", "comes"]), which=index,
        more=index,
    ),
    calls("forget", which=index),
]  # fmt: skip


class Play(RuleBasedStateMachine):
    """One system. Whoever takes part is named by number, so that a failing program reads and shrinks well.

    Two rules with many choices: with a rule for each, Hypothesis would leave half of the usual course out of most plays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
        self.system = System(self.directory / "n", max_losses=3, lease_timeout=30.0)
        self.tasks: dict[str, Life] = {}
        self.numbers = itertools.count(1)
        self.values = itertools.count(1)
        self.early_starts: Counter[int] = Counter()
        self.observer = self.system.network.client(self.system.address)
        self.observer.subscribe("observer")
        self.producers: list[Producer] = [self.system.producer() for _ in range(2)]
        for producer in self.producers:
            producer.query("")  # connects
        self.workers: list[Peer] = [self.system.worker(capacity=4) for _ in range(2)]

    # ── who is there ─────────────────────────────────────────────────────────────────────────────────────────────────

    def living(self) -> list[Peer]:
        return [w for w in self.workers if w.pid in self.system.network.processes and not w.farewell]

    def active(self) -> list[Peer]:
        return [w for w in self.living() if w.pid not in self.system.machine.stopped]

    def connections(self) -> list[Connection]:
        links = [self.system.link(producer) for producer in self.producers]
        return [c for link in links for c in (link.tasks, link.results)] + [w.link for w in self.living()]

    def lines(self) -> list[Line]:
        return [line for connection in self.connections() for line in (connection.up, connection.down)]

    def disturbable(self) -> list[Line]:
        """Lines with frames under way whose loss and order the protocol bears without a new connection."""
        links = [self.system.link(producer) for producer in self.producers]
        return [line for link in links for line in (link.tasks.up, link.results.down) if line.under_way]

    @rule(call=st.one_of(USUAL))
    def usual(self, call: tuple[str, dict[str, Any]]) -> None:
        getattr(self, call[0])(**call[1])

    @rule(call=st.one_of(USUAL))
    def as_usual(self, call: tuple[str, dict[str, Any]]) -> None:
        getattr(self, call[0])(**call[1])

    @rule(call=st.one_of(FAULTS))
    def fault(self, call: tuple[str, dict[str, Any]]) -> None:
        getattr(self, call[0])(**call[1])

    # ── the usual course ─────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self, who: int, kind: str, count: int, eta: float | None, expires: float | None, priority: int,
        keep: float | None,
    ) -> None:  # fmt: skip
        producer = pick(self.producers, who)
        if not producer._connected:
            return
        now = self.system.clock.wall()
        tasks = [
            task(
                kind, f"{kind}-{next(self.numbers)}", flags=KINDS[kind], priority=priority, keep=keep,
                topics=(producer.inbox, "observer"),
                eta=None if eta is None else now + eta, expires=None if expires is None else now + expires,
            )
            for _ in range(count)
        ]  # fmt: skip
        for one in tasks:
            self.tasks[one.id] = Life(who % len(self.producers), kind, kept=keep is None)
        producer.submit_many(tasks)

    def publish_again(self, who: int, which: int) -> None:
        """The same id on purpose: another message, another outcome."""
        if not self.tasks:
            return
        producer = pick(self.producers, who)
        task_id = pick(sorted(self.tasks), which)
        if producer._connected:
            life = self.tasks[task_id]
            life.published += 1
            flags = KINDS[life.kind]
            producer.submit(task(life.kind, task_id, flags=flags, topics=(producer.inbox, "observer")))

    def everybody_acts(self, rounds: int, finish: bool) -> None:
        for _ in range(rounds):
            self.turn()
            for producer in self.producers:
                producer.look()
            for peer in self.active():
                peer.look()
                self._start(peer)
                if finish and peer.now:
                    self._finish(peer, "quick")

    def producer_looks(self, who: int) -> None:
        pick(self.producers, who).look()

    def worker_does(self, which: int, what: list[str]) -> None:
        if not self.active():
            return
        peer = pick(self.active(), which)
        for one in what:
            if one == "look":
                peer.look()
            elif one == "start":
                self._start(peer)
            elif one == "hand back":
                if peer.todo:
                    peer.hand_back()
            elif peer.now:
                self._finish(peer, one)

    def time_passes(self, seconds: float) -> None:
        self.system.clock.advance(seconds)

    def _start(self, peer: Peer) -> None:
        running = peer.start()
        if running is None:
            return
        self.tasks[running.task.id].starts += 1
        if not (running.task.flags & wire.ACK_LATE or running.task.name in peer.policies):
            self.early_starts[running.key] += 1

    def _finish(self, peer: Peer, how: str) -> None:
        assert peer.now is not None
        one = peer.now.task
        value = f"{one.id}#{next(self.values)}".encode()
        if how == "retries":
            again = task(one.name, one.id, flags=one.flags, topics=one.topics, eta=self.system.clock.wall() + 0.5)
            peer.finish(value, state="RETRY", final=False, followups=[again])
        else:
            state = wire.FAILURE if how == "fails" else wire.SUCCESS
            peer.finish(value, state=state, runtime=0.0001 if how == "quick" else 1.0)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def delay(self, what: str, which: int, count: int) -> None:
        line = pick(self.lines(), which)
        if what == "hold":
            line.held = True
        elif what == "release":
            line.release(count)
        else:
            line.held = False
            line.release()

    def disturb(self, what: str, which: int, frame: int) -> None:
        if not self.disturbable():
            return
        frames = pick(self.disturbable(), which).under_way
        if what == "drop":
            del frames[frame % len(frames)]
        elif what == "duplicate":
            frames.append(frames[frame % len(frames)])
        else:
            random.Random(frame).shuffle(frames)

    def cut(self, which: int, arrives: int) -> None:
        """A connection breaks and is made anew; of what was under way the first frames still arrive."""
        connection = pick(self.connections(), which)
        connection.up.release(arrives)
        connection.down.release(arrives)
        connection.cut()
        connection.mend()

    def node_crashes(self, leaves: bool, back: bool) -> None:
        """kill -9; of what it had sent, all or nothing still arrives. One that is down comes back."""
        if not self.system.up:
            self.system.start()
            return
        if not leaves:
            for connection in self.connections():
                connection.down.under_way.clear()
        self.system.crash()
        if back:
            self.system.start()

    def worker_fault(self, what: str, which: int, more: int) -> None:
        if what == "comes" and len(self.living()) < 4:
            self._worker_comes(parent=bool(more & 1), late=bool(more & 2))
        elif what == "thaws":
            self.system.machine.stopped.clear()
        elif not self.active():
            return
        elif what == "freezes":
            self.system.machine.stopped.add(pick(self.active(), which).pid)
        elif what == "dies":
            peer = pick(self.living(), which)
            peer.link.up.release(more & 3)  # its last words
            if more & 4:
                self.system.network.processes.discard(peer.parent)
            peer.die()
        elif what == "leaves":
            peer = pick(self.active(), which)
            if peer.joined and not peer.now and not peer.leaving:
                peer.leave()

    def _worker_comes(self, *, parent: bool, late: bool) -> None:
        pid = 90_000 + len(self.workers) if parent else 0
        if parent:
            self.system.network.processes.add(pid)
        policies = {"early": wire.ACK_LATE} if late else {}
        self.workers.append(Peer(self.system, parent=pid, policies=policies, capacity=4))

    def forget(self, which: int) -> None:
        if not self.tasks:
            return
        task_id = pick(sorted(self.tasks), which)
        producer = self.producers[self.tasks[task_id].owner]
        if producer._connected:
            self.tasks[task_id].kept = False
            producer.forget([task_id])

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> None:
        if not self.system.up:
            return
        self.system.turn()
        while (frame := self.observer.receive(0)) is not None:
            message = wire.decode_to_inbox(frame[frame.find(b"\0") + 1 :])
            for raw in message.results if isinstance(message, wire.Delivery) else ():
                self._saw(wire.decode_result(raw))

    def _saw(self, result: wire.Result | wire.Malformed) -> None:
        assert isinstance(result, wire.Result), result
        if result.final:
            # The engine's own outcomes of two messages may read alike: told apart by their time.
            mark = result.value if result.content_type == "text" else result.value + repr(result.finished).encode()
            self.tasks[result.id].outcomes.add(mark)

    @invariant()
    def promises_hold(self) -> None:
        if self.system.up:  # a receipt is for what is in the journal
            for producer in self.producers:
                assert producer._let_go <= (self.system.node.journal.find_inbox(producer.inbox) or 0)
        assert not [key for key, starts in self.early_starts.items() if starts > 1], "started twice"
        for task_id, life in self.tasks.items():
            assert len(life.outcomes) <= life.published, f"{task_id} has more outcomes than messages: {life}"

    def teardown(self) -> None:
        try:
            self._heal()
            self._drain()
            self._check()
        finally:
            self.observer.close()
            self.system.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _heal(self) -> None:
        if not self.system.up:
            self.system.start()
        self.system.machine.stopped.clear()
        for line in self.lines():
            line.held = False
            line.release()
        self.workers.append(Peer(self.system))

    def _drain(self) -> None:
        system = self.system
        for _ in range(300):
            self.turn()
            for producer in self.producers:
                producer.look()
            for peer in self.active():
                peer.look()
                self._work_off(peer)
            left = sum(lane.waiting + lane.scheduled for lane in system.node.ledger.lanes.values())
            if not (left or system.node.ledger.leased or any(p.unacknowledged() for p in self.producers)):
                break
            system.clock.advance(0.3)
        else:
            raise AssertionError(f"not drained: {system.node.status()}, {[p.unacknowledged() for p in self.producers]}")
        assert system.node.journal.counts(0) == {}
        assert list(system.node.journal.held_raws()) == []
        assert system.node.journal.open_leases() == []

    def _work_off(self, peer: Peer) -> None:
        while not peer.farewell:
            if peer.now is None:
                self._start(peer)
            if peer.now is None:
                return
            self._finish(peer, "ok")

    def _check(self) -> None:
        self.turn()
        self.promises_hold()
        for task_id, life in self.tasks.items():
            raw = self.system.node.journal.find_result(task_id, self.system.clock.wall())
            if raw is not None:
                self._saw(wire.decode_result(raw))
            if life.kept:
                assert life.outcomes, f"{task_id} was lost: {life}"
                result = self.producers[life.owner].wait(task_id, timeout=5.0)
                assert result.id == task_id
                assert result.content_type != "text" or result.value.split(b"#")[0] == task_id.encode()


FEW = settings(
    max_examples=200, stateful_step_count=50, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
TestPlay = Play.TestCase
TestPlay.settings = FEW
