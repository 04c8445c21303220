"""Hypothesis plays with a whole system: a real node and real producers in memory, workers that obey, and every fault
that the promises speak of. What must hold is checked after each step and, after healing and draining, at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import random
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from compat_tests.engine.system import Machine, Peer, System, task
from zerocelery.engine import wire
from zerocelery.engine.collector import Collector
from zerocelery.engine.errors import NodeUnreachable
from zerocelery.engine.journal import Journal
from zerocelery.engine.losses import Losses
from zerocelery.engine.node import Node
from zerocelery.engine.processes import NOTHING
from zerocelery.engine.producer import Producer
from zerocelery.transport.memory import Connection, Line

KINDS = {"early": 0, "late": wire.ACK_LATE, "reject": wire.ACK_LATE | wire.REJECT_ON_LOST}
NUMBERS = list(range(8))
WORK = [
    ["look"], ["look", "start"], ["start"], ["ok"], ["ok", "start"], ["quick", "start", "quick", "start"], ["fails"],
    ["retries"], ["hand back"], ["look", "start", "ok"], ["look", "hand back"],
]  # fmt: skip

#: What may happen: a method of the play, and what each of its arguments may be; the usual comes more often.
USUAL: list[tuple[str, dict[str, list[Any]]]] = [
    ("everybody_acts", {"rounds": [1, 2], "finish": [True, False, False]}),
    ("everybody_acts", {"rounds": [1], "finish": [False]}),
    (
        "submit",
        {
            "who": NUMBERS, "kind": sorted(KINDS), "count": [1, 1, 2, 5], "eta": [None, None, None, 0.2, 5.0],
            "expires": [None, None, None, None, 1.0], "priority": [0, 0, 9], "keep": [None, None, None, 3.0],
        },
    ),
    ("worker_does", {"which": NUMBERS, "what": WORK}),
    ("worker_does", {"which": NUMBERS, "what": WORK}),
    ("time_passes", {"seconds": [0.004, 0.03, 0.06, 0.3, 1.0, 6.0, 31.0]}),
    ("turn", {}),
    ("producer_looks", {"who": NUMBERS}),
    ("publish_again", {"who": NUMBERS, "which": NUMBERS}),
]  # fmt: skip
FAULTS: list[tuple[str, dict[str, list[Any]]]] = [
    ("delay", {"what": ["hold", "hold", "release", "let go"], "which": list(range(16)), "count": [1, 2, 3]}),
    ("disturb", {"what": ["drop", "duplicate", "reorder"], "which": NUMBERS, "frame": NUMBERS}),
    ("cut", {"which": list(range(16)), "arrives": [0, 0, 1, 2]}),
    ("node_crashes", {"when": ["idle", "before", "after"], "leaves": [True, False], "back": [True, True, False]}),
    (
        "worker_fault",
        {"what": ["dies", "dies", "comes", "freezes", "thaws", "leaves"], "which": NUMBERS, "more": NUMBERS},
    ),
    ("forget", {"which": NUMBERS}),
]  # fmt: skip


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


class Call(NamedTuple):
    """One step of a play."""

    name: str
    arguments: dict[str, Any]


def one_of(steps: list[tuple[str, dict[str, list[Any]]]]) -> st.SearchStrategy[Call]:
    def call(step: tuple[str, dict[str, list[Any]]]) -> st.SearchStrategy[Call]:
        arguments = {name: st.sampled_from(values) for name, values in step[1].items()}
        return st.builds(Call, st.just(step[0]), st.fixed_dictionaries(arguments))

    return st.one_of([call(step) for step in steps])


class Play(RuleBasedStateMachine):
    """One system. Whoever takes part is named by number, so that a failing program reads and shrinks well.

    Two rules with many choices: with a rule for each, Hypothesis would leave half of the usual out of most plays.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
        self.system = System(self.directory / "n", max_losses=3, lease_timeout=30.0)
        self.sound = True
        self.tasks: dict[str, Life] = {}
        self.numbers = itertools.count(1)
        self.values = itertools.count(1)
        self.early_starts: Counter[int] = Counter()
        self.receipted: Counter[str] = Counter()
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

    @rule(call=one_of(USUAL))
    def usual(self, call: Call) -> None:
        self.play(call)

    @rule(call=one_of(USUAL))
    def as_usual(self, call: Call) -> None:
        self.play(call)

    @rule(call=one_of(FAULTS))
    def fault(self, call: Call) -> None:
        self.play(call)

    def play(self, call: Call) -> None:
        self.sound = False
        getattr(self, call.name)(**call.arguments)
        self.promises_hold()
        self.sound = True

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
        """In steps: else the node takes it for its own pause, which is nobody's silence."""
        while seconds > 0.9:
            self.system.clock.advance(0.9)
            self.turn()
            seconds -= 0.9
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
        """A connection breaks and is made anew; of what nobody has read, the first frames still arrive."""
        connection = pick(self.connections(), which)
        self._lose(connection.down, arrives)
        if not connection.topics:
            self._lose(connection.up, arrives)
        connection.cut()
        connection.mend()

    @staticmethod
    def _lose(line: Line, arrives: int) -> None:
        line.arrived = deque([*line.arrived, *line.under_way][:arrives])
        line.under_way.clear()

    def node_crashes(self, when: str, leaves: bool, back: bool) -> None:
        """kill -9, between turns or around a commit; of what it had sent, all or nothing still arrives."""
        if not self.system.up:
            self.node_starts()
            return
        if not leaves:
            for connection in self.connections():
                self._lose(connection.down, 0)
        if when == "idle":
            self.system.crash()
        else:
            self.system.crash_in_turn(committed=when == "after")
        if back:
            self.node_starts()

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
            with contextlib.suppress(NodeUnreachable):
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

    def promises_hold(self) -> None:
        """Looks at no journal: reading it would bring its tables up to date, which a play has to leave to the node."""
        for producer in self.producers:  # what a producer took for a receipt
            self.receipted[producer.inbox] = max(producer._let_go, self.receipted[producer.inbox])
        assert not [key for key, starts in self.early_starts.items() if starts > 1], "started twice"
        for task_id, life in self.tasks.items():
            assert len(life.outcomes) <= life.published, f"{task_id} has more outcomes than messages: {life}"

    def node_starts(self) -> None:
        self.system.start()
        for inbox, last in self.receipted.items():
            assert (self.system.node.journal.find_inbox(inbox) or 0) >= last, "a receipt for what is not in the journal"

    def teardown(self) -> None:
        try:
            if self.sound:
                self._heal()
                self._drain()
                self._check()
        finally:
            self.observer.close()
            self.system.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _heal(self) -> None:
        if not self.system.up:
            self.node_starts()
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


def test_whatever_happens_the_promises_hold(caplog: pytest.LogCaptureFixture) -> None:
    """A failure is printed as the shortest play that Hypothesis has found for it."""
    caplog.set_level(logging.CRITICAL)
    run_state_machine_as_test(
        Play,
        settings=settings(
            max_examples=200, stateful_step_count=40, deadline=None, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def random_play(seed: int, steps: int) -> None:
    """A play with all that may happen in equal shares; Hypothesis likes short and simple ones."""
    chance = random.Random(seed)
    play = Play()
    try:
        for _ in range(steps):
            name, arguments = chance.choice(chance.choice([USUAL, USUAL, FAULTS]))
            play.play(Call(name, {argument: chance.choice(values) for argument, values in arguments.items()}))
    finally:
        play.teardown()


@pytest.mark.parametrize("block", range(4))
def test_whatever_happens_at_random_the_promises_hold(block: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    for seed in range(block * 150, block * 150 + 150):
        try:
            random_play(seed, 60)
        except Exception as error:
            raise AssertionError(f"random_play({seed}, 60)") from error


# ── the checker, checked ─────────────────────────────────────────────────────────────────────────────────────────────


def _receipt_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    whole = Node._commit_and_send

    def send_first(self: Node) -> None:
        self.publisher.send_owed()
        self.publisher.flush(self.port.publish)
        whole(self)

    patch.setattr(Node, "_commit_and_send", send_first)


def _no_resend_is_recognised(patch: pytest.MonkeyPatch) -> None:
    whole = Collector._expected

    def expected(self: Collector, inbox: str, seq: int, count: int) -> int:
        last = self.last_of(inbox)
        return 0 if last is not None and seq <= last else whole(self, inbox, seq, count)

    patch.setattr(Collector, "_expected", expected)


def _a_hole_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    whole = Collector._expected

    def expected(self: Collector, inbox: str, seq: int, count: int) -> int:
        last = self.last_of(inbox)
        return 0 if last is not None and seq > last else whole(self, inbox, seq, count)

    patch.setattr(Collector, "_expected", expected)


def _leases_are_not_journalled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "lease", lambda self, n, worker, entries: None)


def _keys_are_given_twice(patch: pytest.MonkeyPatch) -> None:
    whole = Journal.find_meta
    patch.setattr(Journal, "find_meta", lambda self, name: 0 if name == "arrival" else whole(self, name))


def _what_was_started_is_not_known(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Machine, "running", lambda self, word: NOTHING)


def _every_lost_task_is_run_again(patch: pytest.MonkeyPatch) -> None:
    whole = Losses._settle
    patch.setattr(Losses, "_settle", lambda self, *held, again: whole(self, *held, again=True))


@pytest.mark.parametrize(
    "bug",
    [
        _receipt_before_the_commit, _no_resend_is_recognised, _a_hole_is_not_noticed, _leases_are_not_journalled,
        _keys_are_given_twice, _what_was_started_is_not_known, _every_lost_task_is_run_again,
    ],
)  # fmt: skip
def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    bug(monkeypatch)
    for seed in range(150):
        try:
            random_play(seed, 60)
        except AssertionError:
            return
    pytest.fail("it was not found")
