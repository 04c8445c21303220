"""What happens to tasks when workers die, freeze, are stopped, or run tasks that misbehave: real processes and signals.

Numbers in the names of sections are rows of the fault matrix. *early*: acknowledged when started, at most once; *late*:
acknowledged when done; *late, rejecting*: as late, and requeued also where only the child is lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import random
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_for_end, wait_until
from compat_tests.faults.worker_strategies import EARLY, LATE, LATE_REJECT, POISON, Record, body
from zerocelery.engine import processes, wire
from zerocelery.engine.address import parse_address
from zerocelery.engine.errors import NodeUnreachable, QueueFull
from zerocelery.engine.producer import Producer, ProducerOptions
from zerocelery.engine.worker import CAPACITY
from zerocelery.transport.zmq import ZmqClientLink, worker_link

pytestmark = pytest.mark.faults

PROGRAM = ("-m", "compat_tests.faults.worker_strategies")

#: Options of a worker for each kind of pool with one worker.
POOLS = {
    "fork": ["--start-method", "fork"],
    "spawn": ["--start-method", "spawn"],
    "threads": ["--pool", "threads"],
    "solo": ["--pool", "solo"],
}
PREFORKS = {"fork": POOLS["fork"], "spawn": POOLS["spawn"]}
MODES = {"early": EARLY, "late": LATE, "late, rejecting": LATE_REJECT}

#: Every mode in the usual pool, and every pool; the pool and the mode do not know of each other.
CASES = {
    "fork, early": (POOLS["fork"], EARLY),
    "fork, late": (POOLS["fork"], LATE),
    "fork, late, rejecting": (POOLS["fork"], LATE_REJECT),
    "spawn, early": (POOLS["spawn"], EARLY),
    "threads, early": (POOLS["threads"], EARLY),
    "threads, late": (POOLS["threads"], LATE),
    "solo, late, rejecting": (POOLS["solo"], LATE_REJECT),
}

FROZEN = {
    "fork, early": (POOLS["fork"], EARLY, False),
    "fork, late, rejecting": (POOLS["fork"], LATE_REJECT, False),
    "spawn, early": (POOLS["spawn"], EARLY, False),
    "threads, late, rejecting": (POOLS["threads"], LATE_REJECT, False),
    "solo, early": (POOLS["solo"], EARLY, False),
    "solo, early, tcp": (POOLS["solo"], EARLY, True),
    "threads, late, rejecting, tcp": (POOLS["threads"], LATE_REJECT, True),
}


def each(name: str, table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, list(table.values()), ids=list(table))


@dataclasses.dataclass
class Ended:
    """How a task ended, as its client sees it."""

    state: str
    value: Any = None
    loss: wire.Loss | None = None

    @property
    def kind(self) -> str:
        return self.loss.kind if self.loss else self.state


class Rig:
    """A node, workers and one client of a test."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.url = box.url
        self.record = Record(box.home / "record")
        self.tokens: dict[str, int] = {}
        self._client: Producer | None = None

    # ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def node(self, *options: str, url: str = "") -> subprocess.Popen[bytes]:
        process = self.box.python(*PROGRAM, "node", url or self.url, *options)
        printed = self.box.wait_for_output(process, " .")
        self.url = printed.partition("up at ")[2].split()[0]
        return process

    def worker(
        self, *options: str, ready: bool = True, restarting: bool = False, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        again = ["restarting"] if restarting else []
        process = self.box.python(*PROGRAM, *again, "worker", self.url, str(self.record.path), *options, env=env)
        if ready:
            self.box.wait_for_output(process, "ready.")
        return process

    def stop(self, process: subprocess.Popen[bytes], *, timeout: float = PATIENCE) -> None:
        """Politely, and well."""
        process.terminate()
        assert process.wait(timeout) == 0, self.box.output(process)

    def kill_group(self, process: subprocess.Popen[bytes]) -> None:
        """As the out-of-memory killer of a container does: the worker and all its children at once."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)

    # ── the client ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def client(self) -> Producer:
        if self._client is None:
            self._client = Producer(self.url, options=ProducerOptions(connect_timeout=PATIENCE))
        return self._client

    def task(self, name: str, *args: Any, flags: int = EARLY, **fields: Any) -> wire.Task:
        fields.setdefault("id", uuid.uuid4().hex)
        return wire.Task(name=name, body=body(*args), flags=flags, topics=(self.client.inbox,), **fields)

    def send(self, name: str, *args: Any, flags: int = EARLY, **fields: Any) -> str:
        task = self.task(name, *args, flags=flags, **fields)
        self.tokens[task.id] = self.client.submit(task)
        return task.id

    def send_all(self, tasks: Sequence[wire.Task]) -> list[str]:
        token = self.client.submit_many(tasks)
        for task in tasks:
            self.tokens[task.id] = token
        return [task.id for task in tasks]

    def ended(self, task_id: str, *, timeout: float = PATIENCE) -> Ended:
        """How the task has ended: as its client was told; of one that it was told of before, as the node says."""
        result = self.client.wait(task_id, token=self.tokens.pop(task_id, None), timeout=timeout)
        if result.content_type == wire.LOSS_TYPE:
            loss = wire.decode_loss(result.value)
            assert isinstance(loss, wire.Loss)
            return Ended(result.state, loss=loss)
        return Ended(result.state, pickle.loads(result.value))

    def all_ended(self, ids: Sequence[str], *, timeout: float = PATIENCE) -> dict[str, Ended]:
        deadline = time.monotonic() + timeout
        return {task_id: self.ended(task_id, timeout=max(0.1, deadline - time.monotonic())) for task_id in ids}

    def status(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer: dict[str, Any] = msgspec.msgpack.decode(self.client.query("status", timeout=0.5))
            except NodeUnreachable:  # the question went to a node that has just been killed
                if time.monotonic() > deadline:
                    raise
            else:
                return answer

    @property
    def counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.status()["counters"]
        return counters

    def held(self) -> int:
        return sum(worker["held"] for worker in self.status()["workers"])

    # ── tasks in hand ────────────────────────────────────────────────────────────────────────────────────────────────

    def path(self, name: str) -> str:
        return str(self.box.home / name)

    def open(self, name: str) -> None:
        """Let tasks go on that wait at this gate."""
        (self.box.home / name).touch()

    def started(self, *ids: str) -> int:
        """Wait until these tasks run; the pid that the last one runs in."""
        for task_id in ids:
            wait_until(lambda task_id=task_id: self.record.starts(task_id), what=f"start of {task_id}")
        return self.record.starts(ids[-1])[-1].pid

    def runs(self, task_id: str) -> int:
        return len(self.record.starts(task_id))

    def teach(self, name: str, *args: Any) -> None:
        """Let the node learn that tasks of this name are short."""
        for _ in range(30):
            assert self.ended(self.send(name, *args)).state == "SUCCESS"

    def one_lease(self, tasks: Sequence[wire.Task]) -> list[str]:
        """Submit tasks while the only worker is busy, so that they are leased together, and let them begin."""
        gate = self.path(f"gate-{uuid.uuid4().hex}")
        holder = self.send("gate", gate)
        self.started(holder)
        ids = self.send_all(tasks)
        assert self.client.confirm(PATIENCE)
        Path(gate).touch()
        return ids


@pytest.fixture
def rig(sandbox: Sandbox) -> Iterator[Rig]:
    rig = Rig(sandbox)
    yield rig
    if rig._client is not None:
        rig._client.close(timeout=0.0)


def freeze(group: int) -> None:
    os.killpg(group, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(group).status() == psutil.STATUS_STOPPED)


def thaw(group: int) -> None:
    os.killpg(group, signal.SIGCONT)


# ── 10, 11: the same message again, the same id again ────────────────────────────────────────────────────────────────


class Stutter(ZmqClientLink):
    """Sends every message that has tasks three times."""

    def send(self, frame: bytes) -> bool:
        again = isinstance(wire.decode_from_producer(frame), wire.Submit)
        return all(super(Stutter, self).send(frame) for _ in range(3 if again else 1))


def test_a_message_that_is_sent_again_runs_once(rig: Rig) -> None:
    rig.worker("--concurrency", "2")
    rig._client = Producer(rig.url, link=Stutter)
    singles = [rig.send("square", n) for n in range(20)]
    batch = rig.send_all([rig.task("square", n) for n in range(100)])
    ended = rig.all_ended(singles + batch)
    assert {e.state for e in ended.values()} == {"SUCCESS"}
    assert Counter(line.task for line in rig.record.starts()) == Counter(singles + batch)
    counters = rig.counters
    assert counters["accepted"] == 120
    assert counters["duplicates"] >= 200


def test_an_id_that_is_published_again_runs_again(rig: Rig) -> None:
    rig.worker()
    first = rig.send("square", 3, id="mine")
    assert rig.ended(first).value == 9
    # Its next life, once ended, and once while the one before has not begun yet.
    rig.tokens["mine"] = rig.client.submit(rig.task("square", 4, id="mine"))
    assert rig.ended("mine").value == 16
    gate = rig.send("gate", rig.path("gate"))
    rig.started(gate)
    rig.send("square", 5, id="mine")
    rig.send("square", 6, id="mine")
    assert rig.client.confirm(PATIENCE)
    rig.open("gate")
    rig.ended(gate)
    wait_until(lambda: len(rig.record.ends("mine")) == 4, what="four runs")
    assert rig.counters["accepted"] == 5


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@each("pool", POOLS)
def test_short_tasks_are_leased_several_at_a_time(rig: Rig, pool: list[str]) -> None:
    rig.worker(*pool)
    rig.teach("echo")
    before = rig.status()["counters"]["leases"]
    ids = rig.one_lease([rig.task("echo", n) for n in range(2_000)])
    wait_until(lambda: len(rig.record.ends(ids[-1])) == 1, what="end of the backlog")
    assert rig.status()["counters"]["leases"] - before <= 2_000 / 4
    places = {task: place for place, task in enumerate(ids)}
    started = [places[line.task] for line in rig.record.starts() if line.task in places]
    assert sorted(started) == list(range(2_000))
    # In order, but for what a busy machine made wait: it was handed back, and came after a lease that was on its way.
    assert max(abs(place - n) for n, place in enumerate(started)) <= 2 * CAPACITY


@each("pool", {"fork": POOLS["fork"], "spawn": POOLS["spawn"], "threads": POOLS["threads"]})
def test_what_waits_behind_a_long_task_moves_to_an_idle_worker(rig: Rig, pool: list[str]) -> None:
    rig.worker(*pool, "--concurrency", "2")
    rig.teach("sometimes", None)
    # Both workers busy, then one gets [long, short, …] and the other one is free.
    gates = [rig.send("gate", rig.path(f"hold-{n}")) for n in range(2)]
    rig.started(*gates)
    tasks = [rig.task("sometimes", rig.path("long"))] + [rig.task("sometimes", None) for _ in range(10)]
    ids = rig.send_all(tasks)
    assert rig.client.confirm(PATIENCE)
    rig.open("hold-0")
    began = rig.started(ids[0])
    at = rig.record.starts(ids[0])[0].at
    rig.open("hold-1")
    assert {e.state for e in rig.all_ended(ids[1:]).values()} == {"SUCCESS"}
    last = max(line.at for line in rig.record.ends() if line.task in ids[1:])
    assert last - at < 1.0
    assert began in {line.pid for line in rig.record.starts(ids[0])}
    rig.open("long")
    # What the long one returned is not lost with the list that left while it ran.
    assert rig.ended(ids[0]).value == rig.path("long")
    assert all(rig.runs(task_id) == 1 for task_id in ids)


def test_a_single_worker_goes_on_with_what_it_had_handed_back(rig: Rig) -> None:
    rig.worker()
    rig.teach("sometimes", None)
    ids = rig.one_lease([rig.task("sometimes", rig.path("long") if n == 2 else None) for n in range(8)])
    rig.started(ids[2])
    assert {rig.ended(task_id).state for task_id in ids[:2]} == {"SUCCESS"}  # not held up either
    wait_until(lambda: rig.status()["queues"]["celery"]["waiting"] == 5)
    rig.open("long")
    assert {e.state for e in rig.all_ended(ids).values()} == {"SUCCESS"}
    assert [line.task for line in rig.record.starts() if line.task in set(ids)] == ids


def test_what_waits_behind_a_task_that_holds_the_interpreter_moves_too(rig: Rig) -> None:
    rig.worker("--concurrency", "2")
    rig.teach("sometimes_hold", None)
    gates = [rig.send("gate", rig.path(f"hold-{n}")) for n in range(2)]
    rig.started(*gates)
    tasks = [rig.task("sometimes_hold", 1.5)] + [rig.task("sometimes_hold", None) for _ in range(3)]
    ids = rig.send_all(tasks)
    assert rig.client.confirm(PATIENCE)
    rig.open("hold-0")
    rig.started(ids[0])
    rig.open("hold-1")
    assert {e.state for e in rig.all_ended(ids[1:]).values()} == {"SUCCESS"}
    assert not rig.record.ends(ids[0]), "they waited for it"


@each("case", {**{name: (pool, False) for name, pool in POOLS.items()}, "fork, tcp": (POOLS["fork"], True)})
def test_only_what_had_started_dies_with_its_process(rig: Rig, case: tuple[list[str], bool]) -> None:
    pool, tcp = case
    if tcp:
        rig.node(url="zmq://127.0.0.1:0")
    rig.worker(*pool, restarting="--pool" in pool)
    rig.teach("sometimes_poison", None)
    tasks = [rig.task("sometimes_poison", "SIGKILL")] + [rig.task("sometimes_poison", None) for _ in range(10)]
    ids = rig.one_lease(tasks)
    ended = rig.all_ended(ids)
    assert ended[ids[0]].kind == "worker-lost"
    assert [ended[i].kind for i in ids[1:]] == ["SUCCESS"] * 10
    assert [rig.runs(i) for i in ids] == [1] * 11


def test_early_a_batch_before_a_killed_task_runs_once_and_every_task_is_told(rig: Rig) -> None:
    rig.worker()
    rig.teach("sometimes_poison", None)
    kinds = [None] * 20 + ["SIGKILL"] + [None] * 10
    ids = rig.one_lease([rig.task("sometimes_poison", kind) for kind in kinds])
    ended = rig.all_ended(ids)
    assert ended[ids[20]].kind == "worker-lost"
    assert {ended[i].kind for i in ids[:20]} <= {"SUCCESS", "worker-lost"}
    assert {ended[i].kind for i in ids[21:]} == {"SUCCESS"}
    assert [rig.runs(i) for i in ids] == [1] * 31


def test_early_a_result_that_had_not_left_its_process_is_told_as_lost_never_kept_silent(rig: Rig) -> None:
    """Results of short tasks leave together, within a millisecond; what dies with its process before that is told like
    the task that was running: it was started, and nobody knows what it did."""
    rig.worker()
    rig.teach("sometimes_poison", None)
    ids = rig.one_lease([rig.task("sometimes_poison", kind) for kind in [None] * 20 + ["SIGKILL"]])
    ended = rig.all_ended(ids)
    assert ended[ids[20]].kind == "worker-lost"
    assert {ended[i].kind for i in ids[:20]} <= {"SUCCESS", "worker-lost"}
    assert [rig.runs(i) for i in ids] == [1] * 21
    assert {rig.ended(i).kind for i in ids[:20]} <= {"SUCCESS", "worker-lost"}  # the stored outcome is the same one


def test_late_a_poison_task_takes_nobody_along(rig: Rig) -> None:
    rig.worker()
    rig.teach("sometimes_poison", None)
    kinds = [None] * 20 + ["SIGKILL"] + [None] * 20
    ids = rig.one_lease([rig.task("sometimes_poison", kind, flags=LATE_REJECT) for kind in kinds])
    ended = rig.all_ended(ids)
    assert ended[ids[20]].kind == "dead"
    assert Counter(e.kind for e in ended.values()) == {"SUCCESS": 40, "dead": 1}
    # Those before it, whose results went with the process, ran once more, alone; those behind it were not touched.
    assert max(rig.runs(i) for i in ids[:20]) <= 2
    assert [rig.runs(i) for i in ids[21:]] == [1] * 20
    assert rig.runs(ids[20]) == 5


# ── 31, 32: a worker is killed, at every step, in every mode ─────────────────────────────────────────────────────────


@each(
    "pool_and_flags",
    {f"solo, {mode}": (POOLS["solo"], flags) for mode, flags in MODES.items()} | {"fork, late": (POOLS["fork"], LATE)},
)
@pytest.mark.parametrize("where", ["before_run", "after_run", "after_report"])
def test_killed_at_each_step_of_a_task(rig: Rig, pool_and_flags: tuple[list[str], int], where: str) -> None:
    """The whole worker is lost: late means that it runs again, with and without rejecting."""
    pool, flags = pool_and_flags
    rig.node()
    victim = rig.worker(*pool, env={"ZEROCELERY_FAILPOINT": f"worker.{where}"})
    task_id = rig.send("square", 7, flags=flags)
    if "--pool" in pool:
        assert victim.wait(PATIENCE) == -signal.SIGKILL
    else:
        wait_until(lambda: "exited with '" in rig.box.output(victim), what="end of the child")
        rig.kill_group(victim)
    rig.worker(*pool)
    ended = rig.ended(task_id)
    runs = rig.runs(task_id)
    if where == "after_report":
        # What was sent may or may not have left the process: the one outcome fits what happened to it.
        assert ended.kind in ({"SUCCESS", "worker-lost"} if flags == EARLY else {"SUCCESS", "dead"})
        assert runs == 1 or flags != EARLY
    elif flags == EARLY or (flags == LATE and ended.kind == "worker-lost" and "--pool" not in pool):
        # A child that died before its supervisor did is Celery's other case.
        assert ended.kind == "worker-lost"
        assert runs == (0 if where == "before_run" else 1)
    else:
        assert ended.value == 49
        assert runs >= (1 if where == "before_run" else 2)
    assert rig.client.peek(task_id) is not None
    assert rig.counters["finished"] + rig.counters["lost"] + rig.counters["dead"] >= 1


def expected_of_a_lost_child(flags: int) -> tuple[str, int]:
    return ("SUCCESS", 2) if flags == LATE_REJECT else ("worker-lost", 1)


@each("flags", MODES)
@each("pool", PREFORKS)
def test_a_child_is_killed_while_its_worker_lives(rig: Rig, pool: list[str], flags: int) -> None:
    """Celery's rule: acknowledged and failed, unless the task is rejected on loss; told at once."""
    worker = rig.worker(*pool)
    task_id = rig.send("gate", rig.path("gate"), flags=flags)
    pid = rig.started(task_id)
    assert pid != worker.pid
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    kind, runs = expected_of_a_lost_child(flags)
    if kind == "SUCCESS":
        wait_until(lambda: rig.runs(task_id) == 2)
        rig.open("gate")
    ended = rig.ended(task_id)
    took = time.monotonic() - began
    assert ended.kind == kind
    assert took < 5.0
    assert rig.runs(task_id) == runs
    if ended.loss:
        assert f"pid {pid}" in ended.loss.message
    rig.open("gate")
    assert rig.ended(rig.send("echo", "next")).value == "next"


@each("case", CASES)
def test_a_whole_worker_is_killed(rig: Rig, case: tuple[list[str], int]) -> None:
    """Worker and children at once: late means that it runs again, on another worker."""
    pool, flags = case
    victim = rig.worker(*pool)
    task_id = rig.send("gate", rig.path("gate"), flags=flags)
    rig.started(task_id)
    rig.kill_group(victim)
    if flags == EARLY:
        ended = rig.ended(task_id)
        assert ended.kind == "worker-lost"
        assert rig.runs(task_id) == 1
    rig.worker(*pool)
    if flags != EARLY:
        wait_until(lambda: rig.runs(task_id) == 2, what="a second run")
        rig.open("gate")
        assert rig.ended(task_id).value == rig.path("gate")
    assert rig.ended(rig.send("echo", "next")).value == "next"
    wait_until(lambda: len(rig.status()["workers"]) == 1)


@each("case", {name: case for name, case in CASES.items() if name in ("fork, early", "fork, late", "spawn, early")})
def test_the_parent_alone_is_killed(rig: Rig, case: tuple[list[str], int]) -> None:
    """Its children finish what they run and leave; nothing is lost, and what they had not begun is given back."""
    pool, flags = case
    victim = rig.worker(*pool, "--concurrency", "2")
    running = [rig.send("gate", rig.path("gate"), flags=flags) for _ in range(2)]
    rig.started(*running)
    waiting = [rig.send("square", n, flags=flags) for n in range(10)]
    assert rig.client.confirm(PATIENCE)
    children = psutil.Process(victim.pid).children()
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait(PATIENCE)
    rig.open("gate")
    assert {e.state for e in rig.all_ended(running).values()} == {"SUCCESS"}
    for child in children:
        wait_for_end(child.pid)
    wait_until(lambda: not rig.status()["workers"])
    rig.worker(*pool)
    assert [e.value for e in rig.all_ended(waiting).values()] == [n * n for n in range(10)]
    assert all(rig.runs(task_id) == 1 for task_id in running + waiting)


def test_children_that_die_while_they_are_born_are_replaced(rig: Rig) -> None:
    worker = rig.worker("--concurrency", "2")
    supervisor = psutil.Process(worker.pid)
    seeded = random.Random(7)
    seen: set[int] = set()
    ids: list[str] = []
    pause = 0.0

    def kill_the_young() -> bool:
        nonlocal pause
        for child in supervisor.children():
            if child.pid not in seen:
                seen.add(child.pid)
                until = time.monotonic() + seeded.random() * 0.03
                wait_until(lambda until=until: time.monotonic() > until)
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        if len(ids) < 40:
            ids.append(rig.send("echo", len(ids), flags=LATE_REJECT))
        return len(seen) > 60

    wait_until(kill_the_young)
    ended = rig.all_ended(ids)
    assert {e.kind for e in ended.values()} == {"SUCCESS"}
    wait_until(
        lambda: {w["pid"] for w in rig.status()["workers"]} == {c.pid for c in supervisor.children()},
        what="the node to know the living children and no others",
    )
    assert len(supervisor.children()) == 2


def test_the_last_word_of_a_dead_process_is_no_worker(rig: Rig) -> None:
    """A join that is read when its process is gone already gets no tasks, and leaves no trace."""
    rig.worker()
    dead = subprocess.Popen(["/bin/true"])
    dead.wait()
    link = worker_link(parse_address(rig.url), "0123456789abcdef")
    try:
        wait_until(link.reconnected)
        join = wire.Join(
            wire.VERSION, 1, "ghost", processes.host_id(), dead.pid, 1, "", 0, 0, ["celery"], 10, [], [], -1, {}
        )  # fmt: skip
        assert link.send(wire.encode(join))
        ids = [rig.send("echo", n) for n in range(20)]
        assert {e.state for e in rig.all_ended(ids).values()} == {"SUCCESS"}
        assert [w["name"] for w in rig.status()["workers"]] == ["worker"]
    finally:
        link.close()


# ── 33: poison ───────────────────────────────────────────────────────────────────────────────────────────────────────


@each("flags", {"early": EARLY, "late, rejecting": LATE_REJECT})
@pytest.mark.parametrize("kind", POISON)
def test_poison_ends_as_a_dead_letter_and_harms_nobody(rig: Rig, kind: str, flags: int) -> None:
    rig.worker("--concurrency", "2")
    count = 1 if kind == "C recursion" else 2  # it takes its time to fill the stack
    tasks = [rig.task("poison", kind, flags=flags) for _ in range(count)]
    others = [rig.task("square", n, flags=flags) for n in range(40)]
    ids = rig.send_all([*others[:20], *tasks, *others[20:]])
    ended = rig.all_ended(ids, timeout=40)
    poisoned = [task.id for task in tasks]
    runs = [rig.runs(i) for i in poisoned]
    if flags == EARLY:
        assert [ended[i].kind for i in poisoned] == ["worker-lost"] * count
        assert runs == [1] * count
        assert {rig.runs(task.id) for task in others} == {1}
    else:
        assert [ended[i].kind for i in poisoned] == ["dead"] * count
        assert runs == [5] * count
        for i in poisoned:
            loss = ended[i].loss
            assert loss is not None
            assert len(loss.history) == 5
            assert all("was lost while running it" in line for line in loss.history)
        assert rig.status()["dead"] == count
        assert {ended[task.id].kind for task in others} == {"SUCCESS"}


@each("pool", {"threads": POOLS["threads"], "solo": POOLS["solo"], "spawn": POOLS["spawn"]})
def test_poison_in_every_pool(rig: Rig, pool: list[str]) -> None:
    rig.node("--max-losses", "3")
    rig.worker(*pool, restarting="--pool" in pool)
    poisoned = rig.send("poison", "SIGKILL", flags=LATE_REJECT)
    others = [rig.send("square", n, flags=LATE_REJECT) for n in range(20)]
    ended = rig.ended(poisoned)
    assert (ended.kind, rig.runs(poisoned)) == ("dead", 3)
    assert {e.kind for e in rig.all_ended(others).values()} == {"SUCCESS"}


def test_losses_are_counted_over_restarts_of_the_node(rig: Rig) -> None:
    options = ("--max-losses", "4")
    node = rig.node(*options)
    task_id = rig.send("poison", "SIGKILL", flags=LATE_REJECT)
    for loss in range(1, 5):
        worker = rig.worker(*POOLS["solo"])
        assert worker.wait(PATIENCE) == -signal.SIGKILL
        if loss < 4:
            wait_until(lambda: rig.status()["queues"]["celery"]["waiting"] == 1)
            os.kill(node.pid, signal.SIGKILL)
            node.wait(PATIENCE)
            node = rig.node(*options)
    ended = rig.ended(task_id)
    assert ended.kind == "dead"
    assert ended.loss is not None
    assert len(ended.loss.history) == 4
    assert len({line.pid for line in rig.record.starts(task_id)}) == 4


def test_a_dead_letter_is_kept_when_others_follow(rig: Rig) -> None:
    node = rig.node("--max-losses", "1")
    for count in (1, 2):
        worker = rig.worker(*POOLS["solo"])
        assert rig.ended(rig.send("poison", "SIGKILL", flags=LATE_REJECT)).kind == "dead"
        worker.wait(PATIENCE)
        assert rig.status()["dead"] == count
        os.kill(node.pid, signal.SIGKILL)
        node.wait(PATIENCE)
        node = rig.node("--max-losses", "1")
    assert rig.status()["dead"] == 2


# ── the node is killed while workers work ────────────────────────────────────────────────────────────────────────────


@each("case", CASES)
def test_the_node_is_killed_during_long_tasks(rig: Rig, case: tuple[list[str], int]) -> None:
    """They go on, and what they return is taken by the node's next life, which the workers start by themselves."""
    pool, flags = case
    rig.worker(*pool)
    running = rig.send("gate", rig.path("gate"), flags=flags)
    rig.started(running)
    waiting = [rig.send("square", n, flags=flags) for n in range(10)]
    assert rig.client.confirm(PATIENCE)
    for _ in range(2):
        before = rig.box.kill_node()
        wait_until(lambda before=before: rig.box.node_pid() not in (0, before), what="another node")
        wait_until(lambda: rig.status()["workers"] and rig.held(), what="the worker's return")
    rig.open("gate")
    assert rig.ended(running).value == rig.path("gate")
    assert [e.value for e in rig.all_ended(waiting).values()] == [n * n for n in range(10)]
    assert all(rig.runs(task_id) == 1 for task_id in [running, *waiting])


def test_a_worker_that_is_busier_than_the_node_is_patient(rig: Rig) -> None:
    """It can't join again while its task holds the interpreter; its process lives, so it is waited for."""
    node = rig.node("--rejoin", "0.3", "--lease-timeout", "1")
    rig.worker(*POOLS["solo"])
    task_id = rig.send("hold_the_interpreter", 2.0)
    rig.started(task_id)
    os.kill(node.pid, signal.SIGKILL)
    node.wait(PATIENCE)
    rig.node("--rejoin", "0.3", "--lease-timeout", "1")
    assert rig.ended(task_id).kind == "SUCCESS"
    assert rig.runs(task_id) == 1


@each("case", CASES)
def test_node_and_worker_are_killed(rig: Rig, case: tuple[list[str], int]) -> None:
    pool, flags = case
    victim = rig.worker(*pool)
    running = rig.send("gate", rig.path("gate"), flags=flags)
    rig.started(running)
    waiting = [rig.send("square", n, flags=flags) for n in range(10)]
    assert rig.client.confirm(PATIENCE)
    node = rig.box.node_pid()
    os.killpg(victim.pid, signal.SIGSTOP)  # so that nobody starts another node in between
    os.kill(node, signal.SIGKILL)
    rig.kill_group(victim)
    wait_for_end(node)
    rig.worker(*pool)
    if flags != EARLY:
        wait_until(lambda: rig.runs(running) == 2, what="a second run")
    rig.open("gate")
    ended = rig.ended(running)
    assert (ended.kind, rig.runs(running)) == (("worker-lost", 1) if flags == EARLY else ("SUCCESS", 2))
    assert [e.value for e in rig.all_ended(waiting).values()] == [n * n for n in range(10)]
    assert all(rig.runs(task_id) == 1 for task_id in waiting)


@each("pool", {"fork": POOLS["fork"], "threads": POOLS["threads"]})
def test_the_node_is_killed_again_and_again_under_load(rig: Rig, pool: list[str]) -> None:
    rig.worker(*pool, "--concurrency", "2")
    ids: list[str] = []
    for _ in range(4):
        ids += [rig.send("square", n) for n in range(len(ids), len(ids) + 150)]
        before = rig.box.kill_node()
        ids += [rig.send("square", n) for n in range(len(ids), len(ids) + 50)]
        wait_until(lambda before=before: rig.box.node_pid() not in (0, before), what="another node")
    assert [e.value for e in rig.all_ended(ids, timeout=40).values()] == [n * n for n in range(800)]
    assert Counter(line.task for line in rig.record.starts()) == Counter(ids)


# ── 39: frozen ───────────────────────────────────────────────────────────────────────────────────────────────────────


@each("case", FROZEN)
def test_a_worker_is_frozen_past_its_lease(rig: Rig, case: tuple[list[str], int, bool]) -> None:
    """The first outcome stands, the late answer is counted and dropped, and what else it held is not begun again."""
    pool, flags, tcp = case
    rig.node("--lease-timeout", "1", url="zmq://127.0.0.1:0" if tcp else "")
    frozen = rig.worker(*pool, "--name", "frozen")
    rig.teach("sometimes", None)
    ids = rig.one_lease([rig.task("sometimes", rig.path("long") if n == 0 else None, flags=flags) for n in range(8)])
    rig.started(ids[0])
    # Frozen at once, most of the time before it has handed back what it will not come to.
    freeze(frozen.pid)
    rig.worker(*pool, "--name", "other")
    if flags == EARLY:
        assert rig.ended(ids[0]).kind == "worker-lost"
    else:
        wait_until(lambda: rig.runs(ids[0]) == 2, what="a second run")
        rig.open("long")
        assert rig.ended(ids[0]).value == rig.path("long")
    rest = rig.all_ended(ids[1:])
    assert {e.kind for e in rest.values()} == {"SUCCESS"}
    rig.open("long")
    late = rig.counters["late"]
    thaw(frozen.pid)
    wait_until(lambda: len(rig.record.ends(ids[0])) == (1 if flags == EARLY else 2), what="the late end")
    wait_until(lambda: rig.counters["late"] > late, what="the late answer")
    wait_until(lambda: {w["name"] for w in rig.status()["workers"]} == {"frozen", "other"}, what="its return")
    # It works again, begins with a clean slate, and the first outcome is still what is stored.
    more = [rig.send("square", n) for n in range(20)]
    assert {e.kind for e in rig.all_ended(more).values()} == {"SUCCESS"}
    assert [rig.runs(i) for i in ids] == [1 if flags == EARLY else 2] + [1] * 7
    stored = rig.client.peek(ids[0])
    assert stored is not None
    assert stored.state == ("FAILURE" if flags == EARLY else "SUCCESS")


def test_a_worker_that_is_frozen_for_a_moment_keeps_its_task(rig: Rig) -> None:
    """Also where it had had nothing to do, and so nothing to say, for longer than the lease's time."""
    rig.node("--lease-timeout", "1.5")
    worker = rig.worker("--concurrency", "2")
    holder = rig.send("gate", rig.path("hold"))
    rig.started(holder)
    until = time.monotonic() + 2.0
    wait_until(lambda: time.monotonic() > until)
    task_id = rig.send("gate", rig.path("gate"))
    pid = rig.started(task_id)
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > until)
    os.kill(pid, signal.SIGCONT)
    rig.open("gate")
    assert rig.ended(task_id).kind == "SUCCESS"
    rig.open("hold")
    assert rig.ended(holder).kind == "SUCCESS"
    assert worker.poll() is None


def test_an_idle_worker_that_is_frozen_gets_no_tasks(rig: Rig) -> None:
    rig.worker("--concurrency", "2")
    rig.ended(rig.send("echo"))
    os.kill(rig.status()["workers"][0]["pid"], signal.SIGSTOP)
    ids = rig.send_all([rig.task("echo", n) for n in range(2)])
    assert {e.state for e in rig.all_ended(ids, timeout=3).values()} == {"SUCCESS"}


def test_a_worker_whose_process_the_node_cannot_see_may_run_for_long(rig: Rig) -> None:
    """Of another machine or container: that it lives, it has to say itself; when it goes silent, it is lost."""
    rig.node("--lease-timeout", "2")
    worker = rig.worker(*POOLS["solo"], "--foreign")
    assert rig.ended(rig.send("nap", 3.0)).kind == "SUCCESS"
    task_id = rig.send("gate", rig.path("never"))
    rig.started(task_id)
    rig.kill_group(worker)
    assert rig.ended(task_id).kind == "worker-lost"


@each(
    "mode", {"early": (EARLY, "worker-lost", 1), "late": (LATE, "worker-lost", 1), "reject": (LATE_REJECT, "dead", 5)}
)
def test_a_pool_tells_of_its_dead_to_a_node_that_cannot_see_them(rig: Rig, mode: tuple[int, str, int]) -> None:
    """At once, not after the lease's timeout; and what the dead one had not started runs elsewhere."""
    flags, kind, runs = mode
    rig.node("--lease-timeout", "600", url="zmq://127.0.0.1:0")
    rig.worker("--foreign")
    rig.teach("sometimes_poison", None)
    ids = rig.one_lease([rig.task("sometimes_poison", k, flags=flags) for k in ("SIGKILL", None, None)])
    ended = rig.all_ended(ids)
    assert [ended[i].kind for i in ids] == [kind, "SUCCESS", "SUCCESS"]
    assert [rig.runs(i) for i in ids] == [runs, 1, 1]
    wait_until(lambda: len(rig.status()["workers"]) == 1)


# ── 40, 41: children that leave, workers that are told to stop ───────────────────────────────────────────────────────


@each("setup", {"fork": ("fork", 1, 500), "spawn": ("spawn", 3, 24)})
def test_max_tasks_per_child_loses_nothing(rig: Rig, setup: tuple[str, int, int]) -> None:
    method, most, count = setup
    rig.worker("--concurrency", "4", "--max-tasks", str(most), "--start-method", method)
    ids = rig.send_all([rig.task("square", n) for n in range(count)])
    assert [e.value for e in rig.all_ended(ids, timeout=50).values()] == [n * n for n in range(count)]
    assert Counter(line.task for line in rig.record.starts()) == Counter(ids)
    assert max(Counter(line.pid for line in rig.record.starts()).values()) <= most
    assert rig.counters["lost"] == 0


@each("pool", POOLS)
def test_a_warm_shutdown_under_load_loses_nothing(rig: Rig, pool: list[str]) -> None:
    rig.node()
    many = [] if "solo" in pool else ["--concurrency", "2"]
    leaving = rig.worker(*pool, *many)
    ids: list[str] = []
    rig.teach("spin", 0.0005)
    ids += rig.send_all([rig.task("spin", 0.002 if n % 7 else 0.0) for n in range(600)])
    wait_until(lambda: len(rig.record.ends()) > 100)
    rig.stop(leaving)
    done = len(rig.record.ends())
    assert rig.record.running() == set()
    wait_until(lambda: not rig.status()["workers"])
    assert rig.held() == 0
    assert rig.status()["queues"]["celery"]["waiting"] == 630 - done
    rig.worker(*pool, *many)
    assert {e.kind for e in rig.all_ended(ids).values()} == {"SUCCESS"}
    assert {rig.runs(i) for i in ids[::20]} == {1}
    assert Counter(line.task for line in rig.record.starts()).most_common(1)[0][1] == 1


@each("pool", POOLS)
def test_a_warm_shutdown_finishes_what_runs(rig: Rig, pool: list[str]) -> None:
    leaving = rig.worker(*pool)
    running = rig.send("gate", rig.path("gate"))
    rig.started(running)
    waiting = rig.send("square", 3)
    assert rig.client.confirm(PATIENCE)
    leaving.terminate()
    assert rig.runs(waiting) == 0
    rig.open("gate")
    assert rig.ended(running).value == rig.path("gate")
    assert leaving.wait(PATIENCE) == 0
    assert rig.runs(waiting) == 0
    rig.worker(*pool)
    assert rig.ended(waiting).value == 9


@each("pool", POOLS)
def test_a_second_signal_ends_it_at_once(rig: Rig, pool: list[str]) -> None:
    leaving = rig.worker(*pool)
    running = rig.send("gate", rig.path("never"))
    pid = rig.started(running)
    leaving.terminate()
    # The first one has arrived when its worker says so to the node, or can't: it is in a task.
    until = time.monotonic() + 0.2
    wait_until(lambda: time.monotonic() > until)
    leaving.terminate()
    leaving.wait(5)
    wait_for_end(pid)
    assert rig.ended(running).kind == "worker-lost"


@each("pool", POOLS)
def test_a_worker_that_leaves_while_its_node_dies_still_reports(rig: Rig, pool: list[str]) -> None:
    leaving = rig.worker(*pool)
    running = rig.send("gate", rig.path("gate"))
    rig.started(running)
    leaving.terminate()
    rig.box.kill_node()
    rig.open("gate")
    began = time.monotonic()
    assert leaving.wait(PATIENCE) == 0
    assert time.monotonic() - began < 10
    rig.worker(*pool)
    assert rig.ended(running).value == rig.path("gate")
    assert rig.runs(running) == 1


# ── 35, 36: what can't be packed, what can't be unpacked ─────────────────────────────────────────────────────────────


@each("pool", {"fork": POOLS["fork"], "threads": POOLS["threads"], "solo": POOLS["solo"]})
def test_what_cannot_be_sent_back_is_a_failure_that_can_be_read(rig: Rig, pool: list[str]) -> None:
    worker = rig.worker(*pool)
    expected = {
        ("returns", "lock"): (TypeError, "lock, can't be pickled"),
        ("returns", "generator"): (TypeError, "generator, can't be pickled"),
        ("returns", "deep"): (TypeError, "can't be pickled"),
        ("returns", "exits when pickled"): (SystemExit, "pickled"),
        ("raises", "plain"): (ValueError, "plain"),
        ("raises", "unpicklable"): (RuntimeError, "holds a lock"),
        ("raises", "needs two"): (RuntimeError, "NeedsTwo: one"),
        ("raises", "local class"): (Exception, "nobody can import"),
        ("raises", "interrupt"): (KeyboardInterrupt, "from within"),
        ("raises", "exit"): (SystemExit, "exit"),
        ("odd_outcome",): (TypeError, "unsupported"),
        ("not accepted",): (OSError, "accept"),
        ("nobody knows this",): (LookupError, "no use for tasks named"),
    }
    ids = {rig.send(*call): call for call in expected}
    for task_id, ended in rig.all_ended(list(ids)).items():
        kind, text = expected[ids[task_id]]
        assert ended.state == "FAILURE", ids[task_id]
        assert isinstance(ended.value, kind), (ids[task_id], ended)
        assert text in str(ended.value)
    no_text = rig.ended(rig.send("raises", "no text"))
    assert type(no_text.value).__name__ == "NoText"
    result = rig.client.wait(rig.send("raises", "plain"), timeout=PATIENCE)
    assert b"ValueError: plain" in result.info
    assert worker.poll() is None
    assert rig.counters["lost"] == 0


def test_a_result_that_explodes_when_it_is_unpacked_harms_no_other(rig: Rig) -> None:
    rig.worker()
    before = rig.send("echo", "before")
    bomb = rig.send("returns", "explodes")
    after = rig.send("echo", "after")
    assert rig.ended(after).value == "after"
    with pytest.raises(ArithmeticError, match="unpickled"):
        rig.ended(bomb)
    assert rig.ended(before).value == "before"
    assert rig.counters["lost"] == 0


def test_a_result_that_the_node_would_not_take_says_so(rig: Rig) -> None:
    rig.node("--max-message", "1000000")
    rig.worker()
    small = [rig.send("square", n) for n in range(5)]
    ended = rig.ended(rig.send("returns", "megabytes"))
    assert ended.kind == "too-large"
    assert ended.loss is not None
    assert "--max-message" in ended.loss.message
    assert {e.kind for e in rig.all_ended(small).values()} == {"SUCCESS"}
    assert rig.ended(rig.send("echo", "next")).value == "next"


# ── 37: tasks that do what they shouldn't to their process ───────────────────────────────────────────────────────────


@each("pool", POOLS)
def test_a_task_forks(rig: Rig, pool: list[str]) -> None:
    rig.worker(*pool)
    assert rig.ended(rig.send("fork_and_exit")).value == 3
    for _ in range(5):
        task_id = rig.send("fork_and_return")
        assert rig.ended(task_id).value == "parent"
        wait_until(lambda task_id=task_id: len(rig.record.ends(task_id)) == 2)
        child = next(line.pid for line in rig.record.ends(task_id) if line.pid != rig.record.starts(task_id)[0].pid)
        # Two processes came back from the task; only one of them is the worker.
        wait_until(lambda child=child: not processes.alive(child, 0), what="end of the forked process")
        ids = [rig.send("square", n) for n in range(40)]
        assert {e.kind for e in rig.all_ended(ids).values()} == {"SUCCESS"}
        assert {rig.runs(i) for i in ids} == {1}
    assert rig.counters["late"] == 0


@each("pool", POOLS)
def test_a_task_closes_what_it_did_not_open(rig: Rig, pool: list[str]) -> None:
    rig.worker(*pool, restarting="--pool" in pool)
    task_id = rig.send("close_descriptors")
    # It ran; whether its process could still say so is not known.
    assert rig.ended(task_id).kind in ("SUCCESS", "worker-lost")
    assert rig.runs(task_id) == 1
    ids = [rig.send("square", n) for n in range(20)]
    assert {e.kind for e in rig.all_ended(ids).values()} == {"SUCCESS"}


@each("pool", POOLS)
def test_a_task_changes_directory(rig: Rig, pool: list[str]) -> None:
    worker = rig.worker(*pool)
    assert rig.ended(rig.send("change_directory")).value == "/"
    before = rig.box.kill_node()
    wait_until(lambda: rig.box.node_pid() not in (0, before), what="another node")
    assert rig.ended(rig.send("echo", "next")).value == "next"
    rig.stop(worker)


@each("pool", PREFORKS)
def test_a_task_ignores_signals_from_now_on(rig: Rig, pool: list[str]) -> None:
    """The order to stop reaches the child all the same."""
    worker = rig.worker(*pool, "--concurrency", "2")
    assert rig.ended(rig.send("change_signals")).value == "changed"
    running = rig.send("gate", rig.path("gate"))
    rig.started(running)
    worker.terminate()
    rig.open("gate")
    assert rig.ended(running).kind == "SUCCESS"
    assert worker.wait(PATIENCE) == 0


# ── order, time, limits ──────────────────────────────────────────────────────────────────────────────────────────────


def test_higher_priorities_run_first(rig: Rig) -> None:
    rig.worker()
    seeded = random.Random(3)
    priorities = [seeded.choice([0, 3, 6, 9, 255]) for _ in range(200)]
    ids = rig.one_lease([rig.task("square", n, priority=p) for n, p in enumerate(priorities)])
    rig.all_ended(ids)
    place = {task_id: n for n, task_id in enumerate(ids)}
    ran = [place[line.task] for line in rig.record.starts() if line.task in place]
    assert ran == sorted(range(200), key=lambda n: (-priorities[n], n))


def test_an_eta_outlives_the_node(rig: Rig) -> None:
    node = rig.node()
    worker = rig.worker()
    now = time.time()
    due = {rig.send("square", n, eta=now + 2.0 + n / 50): now + 2.0 + n / 50 for n in range(50)}
    assert rig.client.confirm(PATIENCE)
    rig.kill_group(worker)
    os.kill(node.pid, signal.SIGKILL)
    node.wait(PATIENCE)
    rig.node()
    wait_until(lambda: rig.status()["queues"]["celery"]["scheduled"] == 50)
    rig.worker()
    offset = time.time() - time.monotonic()
    assert {e.kind for e in rig.all_ended(list(due)).values()} == {"SUCCESS"}
    for task_id, eta in due.items():
        (start,) = rig.record.starts(task_id)
        assert -0.01 < start.at + offset - eta < 2.0


def test_what_has_expired_is_not_run(rig: Rig) -> None:
    rig.worker()
    gate = rig.send("gate", rig.path("gate"))
    rig.started(gate)
    now = time.time()
    ids = [rig.send("square", n, expires=now + (0.2 if n % 2 else 60.0)) for n in range(20)]
    wait_until(lambda: time.time() > now + 0.3)
    rig.open("gate")
    ended = rig.all_ended(ids)
    assert [ended[i].kind for i in ids] == ["SUCCESS", "expired"] * 10
    assert {ended[i].state for i in ids[1::2]} == {"REVOKED"}
    assert [rig.runs(i) for i in ids] == [1, 0] * 10


def test_a_full_queue_pushes_back_and_takes_on_when_there_is_room(rig: Rig) -> None:
    rig.node("--queue-limit", "50")
    rig._client = Producer(rig.url, options=ProducerOptions(connect_timeout=1.0))
    ids: list[str] = []

    def submit_all() -> None:
        for n in range(1_000):
            ids.append(rig.send("square", n))
            if n % 10 == 9:
                rig.client.confirm(0.05)

    with pytest.raises(QueueFull, match=r"queue 'celery' .* is full"):
        submit_all()
    # No more than the limit is in the node; what was submitted above it is with the client, and is not lost.
    assert rig.status()["queues"]["celery"]["waiting"] == 50
    assert 50 < len(ids) < 200
    # Other queues are not affected.
    other = rig.send("square", 12, queue="other")
    rig.worker("--queues", "celery,other")
    assert rig.ended(other).value == 144
    assert [e.value for e in rig.all_ended(ids).values()] == [n * n for n in range(len(ids))]
    assert rig.ended(rig.send("square", 3)).value == 9
    assert Counter(line.task for line in rig.record.starts()).most_common(1)[0][1] == 1


class Forgetful(ZmqClientLink):
    """Loses the first delivery that has refusals, as a slow subscriber may lose any."""

    lost = 0

    def receive(self, seconds: float) -> bytes | None:
        frame = super().receive(seconds)
        delivery = wire.decode_to_inbox(frame[frame.find(b"\0") + 1 :]) if frame is not None else None
        if isinstance(delivery, wire.Delivery) and delivery.refusals and not Forgetful.lost:
            Forgetful.lost = len(delivery.refusals)
            return super().receive(0)
        return frame


def test_a_refusal_that_got_lost_loses_no_task(rig: Rig) -> None:
    rig.node("--queue-limit", "20")
    rig._client = Producer(rig.url, link=Forgetful, options=ProducerOptions(connect_timeout=PATIENCE))
    ids = rig.send_all([rig.task("square", n) for n in range(40)])
    wait_until(lambda: rig.counters["refused"] >= 20 and Forgetful.lost)
    rig.worker()
    rig.client.confirm(PATIENCE)
    assert [e.value for e in rig.all_ended(ids, timeout=3).values()] == [n * n for n in range(40)]


def test_a_fast_client_is_slowed_down_to_what_workers_manage(rig: Rig) -> None:
    """The queue's limit reaches the caller of submit, again and again, and every task runs once."""
    rig.node("--queue-limit", "100")
    rig.worker("--concurrency", "2")
    tasks = [rig.task("square", n) for n in range(3_000)]
    for start in range(0, 3_000, 20):
        rig.send_all(tasks[start : start + 20])
    ids = [task.id for task in tasks]
    assert [e.value for e in rig.all_ended(ids, timeout=40).values()] == [n * n for n in range(3_000)]
    assert Counter(line.task for line in rig.record.starts()) == Counter(ids)


def test_progress_of_a_lost_task_does_not_outlive_its_loss(rig: Rig) -> None:
    rig.worker()
    task_id = rig.send("progress", "half", rig.path("gate"))
    pid = rig.started(task_id)

    def told() -> bool:
        state = rig.client.peek(task_id)
        return state is not None and (state.state, state.value) == ("PROGRESS", b"half")

    wait_until(told)
    os.kill(pid, signal.SIGKILL)
    assert rig.ended(task_id).kind == "worker-lost"
    stored = rig.client.peek(task_id)
    assert stored is not None
    assert (stored.state, stored.final) == ("FAILURE", True)


def test_workers_leave_no_files_behind(rig: Rig) -> None:
    """A word is a file; when its worker is gone, however it went, so is the file."""
    rig.node()
    directory = rig.box.node_dir / "workers"
    worker = rig.worker("--concurrency", "2")
    assert len(list(directory.iterdir())) == 2
    os.kill(psutil.Process(worker.pid).children()[0].pid, signal.SIGKILL)
    wait_until(lambda: "exited with '" in rig.box.output(worker))
    rig.kill_group(worker)
    wait_until(lambda: not list(directory.iterdir()), what="an empty directory")
    rig.stop(rig.worker(*POOLS["threads"], "--concurrency", "3"))
    wait_until(lambda: not list(directory.iterdir()), what="an empty directory")
