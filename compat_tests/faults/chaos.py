"""Runs under faults: seeded load, a seeded nemesis, then healing, draining, and the checker's verdict.

``python -m compat_tests.faults.chaos --minutes 10`` repeats all rows of the table in all their variants for that long;
``--row NAME``, ``--seed N``, ``--mode early|late`` and ``--node embedded|alone`` choose. Prints a line for each run,
with the seed that repeats it, and ends with status 1 when one of them was not well.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from compat_tests.conftest import Sandbox, wait_for_end, wait_until
from compat_tests.faults.checker import Fault, History, Verdict, check, outcome_of, read_histories
from compat_tests.faults.worker_strategies import EARLY, LATE_REJECT, POISON, Record, body
from zerocelery.engine import wire
from zerocelery.engine.errors import EngineError
from zerocelery.engine.producer import Producer, ProducerOptions
from zerocelery.transport.zmq import ZmqClientLink

MODES = {"early": EARLY, "late": LATE_REJECT}
NODES = ("embedded", "alone")
_PROGRAM = ("-m", "compat_tests.faults.worker_strategies")

#: A node that is up again has its workers and clients back by then (seconds; they look for it every half second).
_BACK = 1.0


def wait(seconds: float) -> None:
    """Let time pass: the load and the nemesis have a pace; nothing is waited for this way."""
    threading.Event().wait(max(0.0, seconds))


# ── the load ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Load:
    """What one client does.

    Arguments:
        seconds: over which it submits; 0: as fast as it can.
        kind: mixed; poison (some of them kill their process); eta; burst (submit_many of them all); threads (32 of
            them, each waits for each result); fork (a forked child does half of it); chords (of three members and a
            body that adds their values).
        stutter: sends some messages again.
    """

    tasks: int
    seconds: float
    kind: str = "mixed"
    stutter: bool = False


def _make(seeded: random.Random, load: Load, number: int, inbox: str, flags: int) -> tuple[wire.Task, Any]:
    """One task, and what it should give."""
    task_id = f"{seeded.getrandbits(64):016x}"
    dice = seeded.random()
    name: str
    argument: Any
    expected: Any
    name, argument, expected = "square", number, number * number
    if load.kind == "poison" and number % (load.tasks // 8) == 5:
        name, argument, expected = "poison", seeded.choice([k for k in POISON if k != "C recursion"]), "never"
    elif dice > 0.95:
        name, argument, expected = "nap", 0.2, 0.2
    elif dice > 0.6:
        name, argument = "nap", seeded.choice([0.0, 0.002, 0.01, 0.03])
        expected = argument
    if load.kind in ("burst", "threads"):
        name, argument, expected = "square", number, number * number
    eta = time.time() + seeded.uniform(1.0, 3.0) if load.kind == "eta" else None
    task = wire.Task(
        id=task_id, name=name, body=body(argument), flags=flags, topics=(inbox,), eta=eta,
        priority=seeded.choice([0, 0, 5]),
    )  # fmt: skip
    return task, expected


def _make_chord(
    seeded: random.Random, number: int, inbox: str, flags: int
) -> tuple[list[wire.Task], wire.Task, list[float]]:
    """Three members, the body that adds their values, and these values."""
    values = [seeded.choice([0.0, 0.002, 0.03]) for _ in range(3)]
    members = [
        wire.Task(
            id=f"{seeded.getrandbits(64):016x}", name="nap", body=body(value), flags=flags | wire.MEMBER,
            topics=(inbox,), gather=f"chord-{inbox}-{number}",
        )
        for value in values
    ]  # fmt: skip
    total = wire.Task(
        id=f"{seeded.getrandbits(64):016x}", name="total", body=body(), flags=flags, topics=(inbox,)
    )  # fmt: skip
    return members, total, values


class Stutter(ZmqClientLink):
    """Sends every third message that has tasks again."""

    _count = 0

    def send(self, frame: bytes) -> bool:
        sent = super().send(frame)
        if sent and isinstance(wire.decode_from_producer(frame), wire.Submit):
            self._count += 1
            if self._count % 3 == 0:
                super().send(frame)
        return sent


class Client:
    """Submits, and waits for every result; writes down what it does and sees."""

    def __init__(self, producer: Producer, history: History, *, flags: int, deadline: float) -> None:
        self.producer = producer
        self.history = history
        self.flags = flags
        self.deadline = deadline
        self.tokens: dict[str, int] = {}
        self._open: set[str] = set()  # no receipt has been seen
        self._bodies: dict[str, str] = {}  # of a group → its last member, whose receipt is the body's, too

    def submit(self, tasks: Sequence[tuple[wire.Task, Any]], *, together: bool) -> None:
        now, wall = time.monotonic(), time.time()
        self.history.add_all(
            ("invoke", "submit", task.id,
             {"flags": task.flags, "expected": expected, "eta": None if task.eta is None else task.eta - wall + now})
            for task, expected in tasks
        )  # fmt: skip
        if together:
            self._try([task for task, _ in tasks], self.producer.submit_many)
        else:
            for task, _ in tasks:
                self._try([task], lambda some: self.producer.submit(some[0]))
        self._note_receipts()

    def submit_chord(self, members: list[wire.Task], total: wire.Task, expected: Sequence[float]) -> None:
        ids = [task.id for task in members]
        gathering = wire.Gathering(
            id=members[0].gather or "", members=ids, body=msgspec.Raw(wire.encode(total))
        )  # fmt: skip
        known = [(task, {"expected": value}) for task, value in zip(members, expected, strict=True)]
        self.history.add_all(
            ("invoke", "submit", task.id, {"flags": task.flags, "eta": None, **more})
            for task, more in (*known, (total, {"expected": sum(expected), "members": ids}))
        )
        self._bodies[total.id] = ids[-1]
        try:
            self.tokens[total.id] = self.producer.gather(gathering)
        except EngineError:
            self.history.add_all(("info", "submit", task_id, {}) for task_id in (*ids, total.id))
            return
        self._open.add(total.id)
        self._try(members, self.producer.submit_many)
        self._note_receipts()

    def _try(self, tasks: list[wire.Task], submit: Callable[[list[wire.Task]], int]) -> None:
        self._open.update(task.id for task in tasks)
        try:
            token = submit(tasks)
        except EngineError:
            self.history.add_all(("info", "submit", task.id, {}) for task in tasks)
            token = 0
        for task in tasks:
            self.tokens[task.id] = token

    def _note_receipts(self) -> None:
        missing = set(self.producer.unacknowledged())
        acknowledged = {task for task in self._open if self._bodies.get(task, task) not in missing}
        acknowledged = {task for task in acknowledged if self.tokens.get(task)}
        self.history.add_all(("ok", "submit", task, {}) for task in acknowledged)
        self._open -= acknowledged

    def confirm(self) -> None:
        self.producer.confirm(max(0.1, self.deadline - time.monotonic()))
        self._note_receipts()
        self.history.add_all(("info", "submit", task, {}) for task in self._open)

    def get(self, task: str) -> None:
        left = max(0.01, self.deadline - time.monotonic())
        try:
            result = self.producer.wait(task, token=self.tokens[task] or None, timeout=left)
        except (TimeoutError, EngineError):
            self.history.add("info", "result", task)
            return
        self.history.add("ok", "result", task, **_told(result))


def _told(result: wire.Result) -> dict[str, Any]:
    value = pickle.loads(result.value) if result.state == "SUCCESS" else None
    return {"outcome": outcome_of(result), "value": value}


def client_program(options: argparse.Namespace) -> int:
    """A client as a process of its own."""
    faulthandler.register(signal.SIGUSR1)
    load = Load(**json.loads(options.load))
    history = History(Path(options.history))
    producer = Producer(
        options.url, options=ProducerOptions(connect_timeout=30.0), link=Stutter if load.stutter else ZmqClientLink
    )  # fmt: skip
    seeded = random.Random(options.seed)
    deadline = time.monotonic() + load.seconds + options.patience
    client = Client(producer, history, flags=options.flags, deadline=deadline)
    if load.kind == "threads":
        _threads(client, seeded, load)
    elif load.kind == "burst":
        tasks = [_make(seeded, load, n, producer.inbox, options.flags) for n in range(load.tasks)]
        client.submit(tasks, together=True)
        client.confirm()
        for task, _ in tasks:
            client.get(task.id)
    else:
        _steadily(client, seeded, load, options)
    history.add("ok", "finished", "")
    producer.close()
    return 0


def _steadily(client: Client, seeded: random.Random, load: Load, options: argparse.Namespace) -> None:
    """Submit at a pace, then wait for all results; with ``fork``, a child does so for the second half."""
    producer = client.producer
    began = time.monotonic()
    numbers = iter(range(load.tasks))
    mine: list[str] = []
    child = 0
    while chunk := list(itertools.islice(numbers, seeded.randint(1, 9))):
        if load.kind == "chords":
            for n in chunk[::4]:
                members, total, values = _make_chord(seeded, n, producer.inbox, client.flags)
                client.submit_chord(members, total, values)
                mine += [task.id for task in (*members, total) if task.id in client.tokens]
            wait(began + load.seconds * chunk[-1] / load.tasks - time.monotonic())
            continue
        tasks = [_make(seeded, load, n, producer.inbox, client.flags) for n in chunk]
        client.submit(tasks, together=seeded.random() < 0.5)
        mine += [task.id for task, _ in tasks]
        if load.kind == "fork" and not child and chunk[-1] > load.tasks // 2:
            numbers = iter(range(load.tasks // 2, load.tasks * 3 // 4))
            child = os.fork()
            if not child:
                history = History(Path(options.history + "-child"))
                client = Client(producer, history, flags=client.flags, deadline=client.deadline)
                seeded, mine, child = random.Random(options.seed + 500), [], -1
        wait(began + load.seconds * chunk[-1] / load.tasks - time.monotonic())
    client.confirm()
    for task in mine:
        client.get(task)
    if child < 0:
        client.history.add("ok", "finished", "")
        os._exit(0)
    if child:
        os.waitpid(child, 0)


def _threads(client: Client, seeded: random.Random, load: Load) -> None:
    def work(seed: int) -> None:
        own_seeded = random.Random(seed)
        own = Client(client.producer, client.history, flags=client.flags, deadline=client.deadline)
        for number in range(load.tasks // 32):
            task = _make(own_seeded, load, number, client.producer.inbox, client.flags)
            own.submit([task], together=False)
            own.get(task[0].id)
        own.confirm()

    threads = [threading.Thread(target=work, args=(seeded.getrandbits(32),)) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ── the nemesis ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large a run is, and how long its faults last (seconds)."""

    tasks: int
    seconds: float
    freeze: float
    burst: int
    patience: float


SHORT = Scale(tasks=160, seconds=1.2, freeze=1.2, burst=4_000, patience=20.0)
NORMAL = Scale(tasks=600, seconds=4.0, freeze=2.0, burst=8_000, patience=25.0)
LONG = Scale(tasks=600, seconds=12.0, freeze=10.0, burst=20_000, patience=60.0)


class Run:
    """One run: a node, a worker with two processes, clients, and what is done to them."""

    def __init__(
        self, row: Row, *, mode: str, node: str, seed: int, scale: Scale, pool: Sequence[str] = (), plant: str = ""
    ) -> None:
        self.row, self.mode, self.node_kind, self.seed, self.scale = row, mode, node, seed, scale
        self.plant = ["--plant", plant] if plant else []
        self.pool = list(pool)
        self.seeded = random.Random(seed)
        self.box = Sandbox(Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp")))
        self.record = Record(self.box.home / "record")
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.orphaned: set[str] = set()
        self.clients: list[subprocess.Popen[bytes]] = []
        self.worker: subprocess.Popen[bytes] | None = None
        self.node: subprocess.Popen[bytes] | None = None
        self._began = time.monotonic()

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def execute(self, *, keep: bool = False) -> Verdict:
        """The whole of it; where all is well nothing is left behind."""
        verdict = Verdict(lost=["the run did not end"])
        try:
            self.start_node()
            self.start_worker()
            self.start_clients()
            self.row.nemesis(self)
            self.heal()
            self.drain()
            verdict = self.judge()
        finally:
            if not verdict.well:
                self.note(self.explain(verdict))
            self.box.end()
            if not keep:
                shutil.rmtree(self.box.home, ignore_errors=True)
        return verdict

    def attempt(self, *, keep: bool = False) -> Verdict:
        """:meth:`execute`; a run that does not get to its end is not well either."""
        try:
            return self.execute(keep=keep)
        except AssertionError as error:
            self.note(str(error))
            return Verdict(lost=["the run did not end"])

    def note(self, text: str) -> None:
        self.notes.append(f"{time.monotonic() - self._began:7.3f} {text}")

    def start_node(self) -> None:
        if self.node_kind == "alone":
            self.node = self.box.python(*_PROGRAM, "node", self.box.url, "--lease-timeout", "1", *self.plant)
            self.box.wait_for_output(self.node, "up at")

    def start_worker(self) -> None:
        """Does not wait for it: what is submitted meanwhile waits."""
        alone = ["--no-node"] if self.node_kind == "alone" else []
        self.worker = self.box.python(
            *_PROGRAM, "worker", self.box.url, str(self.record.path), "--concurrency", "2", *alone, *self.pool,
            *self.plant,
        )  # fmt: skip
        if self.node_kind == "embedded":
            wait_until(self.box.node_pid, what="a node")

    def start_clients(self) -> None:
        for number, load in enumerate(self.row.loads(self.scale)):
            self.clients.append(
                self.box.python(
                    "-m", "compat_tests.faults.chaos", "client", self.box.url, str(self.box.home / f"history-{number}"),
                    "--seed", str(self.seed * 1000 + number), "--flags", str(MODES[self.mode]),
                    "--load", json.dumps(dataclasses.asdict(load)), "--patience", str(self.scale.patience),
                )
            )  # fmt: skip
        wait_until(lambda: all((self.box.home / f"history-{n}").exists() for n in range(len(self.clients))))

    @property
    def loading(self) -> bool:
        """Whether some client is still at work."""
        return any(client.poll() is None for client in self.clients)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def pause(self, low: float, high: float) -> None:
        wait(self.seeded.uniform(low, high))

    def _children(self) -> list[psutil.Process]:
        assert self.worker is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return [c for c in psutil.Process(self.worker.pid).children() if c.status() != psutil.STATUS_ZOMBIE]
        return []

    def _group(self) -> list[int]:
        assert self.worker is not None
        return [self.worker.pid, *(child.pid for child in self._children())]

    def _hit(self, what: str, pids: Iterable[int], until: float = 0.0) -> None:
        now = time.monotonic()
        self.faults += [Fault(what, pid, now, until) for pid in pids]
        self.note(f"{what} {sorted(pids)}")

    def kill_child(self) -> None:
        children = self._children()
        if children:
            victim = self.seeded.choice(children)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
            self._hit("killed", [victim.pid])

    def kill_workers(self) -> None:
        """The parent and all its children at once; another worker is started at once."""
        assert self.worker is not None
        # Stopped first, so that none is born while they are counted.
        os.killpg(self.worker.pid, signal.SIGSTOP)
        group = self._group()
        os.killpg(self.worker.pid, signal.SIGKILL)
        self.worker.wait()
        self._hit("killed", group)
        self.start_worker()

    def restart_workers(self) -> None:
        """Politely."""
        assert self.worker is not None
        self.note("warm shutdown")
        self.worker.terminate()
        # A worker that was so young that it had no handler yet just ends.
        assert self.worker.wait(self.scale.patience) in (0, -signal.SIGTERM), self.box.output(self.worker)
        self.start_worker()

    def freeze_workers(self, seconds: float) -> None:
        assert self.worker is not None
        os.killpg(self.worker.pid, signal.SIGSTOP)
        group, began = self._group(), time.monotonic()
        wait(seconds)
        os.killpg(self.worker.pid, signal.SIGCONT)
        self.faults += [Fault("frozen", pid, began, time.monotonic()) for pid in group]
        self.note(f"frozen for {seconds:.1f} s: {group}")

    def kill_node(self) -> None:
        wait_until(self.box.node_pid, what="a node")
        pid, began = self.box.node_pid(), time.monotonic()
        os.kill(pid, signal.SIGKILL)
        if self.node is not None:
            self.node.wait()
            self.start_node()
        else:
            wait_for_end(pid)
            wait_until(lambda: self.box.node_pid() not in (0, pid), what="another node")
        self.faults.append(Fault("node", 0, began, time.monotonic() + _BACK))
        self.note(f"node {pid} killed, {self.box.node_pid()} is up after {time.monotonic() - began:.3f} s")

    def freeze_node(self, seconds: float) -> None:
        pid, began = self.box.node_pid(), time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        wait(seconds)
        os.kill(pid, signal.SIGCONT)
        self.faults.append(Fault("node", 0, began, time.monotonic() + _BACK))
        self.note(f"node frozen for {seconds:.1f} s")

    def kill_client(self) -> None:
        """The first of them; what it submitted has no owner any more."""
        self.clients[0].kill()
        self.clients[0].wait()
        self.orphaned |= {op.task for op in History.read(self.box.home / "history-0")}
        self.note(f"client killed; {len(self.orphaned)} tasks have no owner")

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def heal(self) -> None:
        assert self.worker is not None
        if self.worker.poll() is not None:
            self.start_worker()
        if self.node is not None and self.node.poll() is not None:
            self.start_node()
        self.note("healed")

    def drain(self) -> None:
        for client in self.clients:
            try:
                client.wait(self.scale.seconds + 2 * self.scale.patience)
            except subprocess.TimeoutExpired:
                client.send_signal(signal.SIGUSR1)  # it says where it hangs
                wait_until(lambda client=client: "most recent call first" in self.box.output(client))
                self.note(self.explain(Verdict()))
                raise AssertionError(f"a client hangs:\n{self.box.output(client)}") from None
            if client.returncode not in (0, -signal.SIGKILL):
                raise AssertionError(f"a client ended with {client.returncode}:\n{self.box.output(client)}")
        self.note("drained")

    def judge(self) -> Verdict:
        operations = read_histories(self.box.home.glob("history-*"))
        operations = [operation for operation in operations if operation.what != "finished"]
        ids = list(dict.fromkeys(operation.task for operation in operations if operation.what == "submit"))
        asked = self.seeded.sample(ids, min(len(ids), 1_500))
        stored = History(self.box.home / "stored")
        producer = Producer(self.box.url, options=ProducerOptions(connect_timeout=10.0))
        try:
            for task in asked:
                result = producer.peek(task, timeout=10.0)
                if result is None and task in self.orphaned:  # its owner does not wait for it, so we do
                    with contextlib.suppress(TimeoutError):
                        result = producer.wait(task, timeout=0.0 if task not in self._accepted(operations) else 10.0)
                if result is not None and result.final:
                    stored.add("ok", "stored", task, **_told(result))
        finally:
            producer.close(timeout=0.0)
            stored.close()
        if stored.path.exists():
            operations += History.read(stored.path)
        return check(
            operations, self.record.lines(), self.faults,
            orphaned=frozenset(self.orphaned), not_asked=frozenset(set(ids).difference(asked)),
        )  # fmt: skip

    @staticmethod
    def _accepted(operations: Sequence[Any]) -> set[str]:
        return {op.task for op in operations if (op.kind, op.what) == ("ok", "submit")}

    def explain(self, verdict: Verdict) -> str:
        """What is known of some of the tasks that it went wrong with, and what was done."""
        lines = [f"faults: {verdict.problems and {k: len(v) for k, v in verdict.problems.items()}}"]
        histories = sorted([*self.box.home.glob("history-*"), *self.box.home.glob("stored")])
        for name, tasks in verdict.problems.items():
            for task in tasks[:3]:
                lines.append(f"  {name} {task}")
                for path in histories:
                    lines += [f"    {path.name}: {row}" for row in path.read_text().splitlines() if task in row]
                lines += [f"    {line}" for line in self.record.lines() if line.task == task]
        began = self._began
        lines += [f"  {fault} (+{fault.at - began:.3f})" for fault in self.faults]
        for process in self.box.processes:
            lines += [f"  process {process.pid}: {row}" for row in self.box.output(process).splitlines()[-5:]]
        return "\n".join(lines)


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: what the clients do, and what is done to them."""

    name: str
    loads: Callable[[Scale], list[Load]]
    nemesis: Callable[[Run], None]


def _two(kind: str = "mixed") -> Callable[[Scale], list[Load]]:
    return lambda scale: [Load(scale.tasks // 2, scale.seconds, kind) for _ in range(2)]


def _stuttering(scale: Scale) -> list[Load]:
    return [Load(scale.tasks, scale.seconds, stutter=True)]


def _times(count: int, *faults: Callable[[Run], None]) -> Callable[[Run], None]:
    """Each time one of these faults, spread over the time of the load."""

    def nemesis(run: Run) -> None:
        for number in range(count):
            step = run.scale.seconds / count
            run.pause(step * 0.3, step)
            run.seeded.choice(faults)(run) if len(faults) > 1 else faults[number % len(faults)](run)

    return nemesis


def _children_every_second(run: Run) -> None:
    until = time.monotonic() + run.scale.seconds
    while time.monotonic() < until:
        run.pause(0.3, 1.0)
        run.kill_child()


def _everything(run: Run) -> None:
    """All of them, in an order of the seed, with children killed in between."""
    freezes = [lambda r: r.freeze_node(r.scale.freeze / 3), lambda r: r.freeze_workers(r.scale.freeze)]
    faults: list[Callable[[Run], None]] = [Run.kill_workers, Run.kill_node, Run.restart_workers] * 2 + freezes
    run.seeded.shuffle(faults)
    for fault in faults:
        run.pause(0.1, run.scale.seconds / len(faults))
        run.kill_child()
        run.pause(0.0, 0.3)
        fault(run)


def _kill_a_client(run: Run) -> None:
    run.pause(run.scale.seconds * 0.4, run.scale.seconds * 0.8)
    run.kill_client()


def _nothing(run: Run) -> None:
    """The load itself is the fault."""


ROWS = {
    row.name: row
    for row in (
        Row("child killed every second", _two(), _children_every_second),
        Row("worker killed 3 ×", _two(), _times(3, Run.kill_workers)),
        Row("node killed 3 ×", _two(), _times(3, Run.kill_node)),
        Row("node frozen", _two(), _times(1, lambda run: run.freeze_node(run.scale.freeze))),
        Row("worker frozen", _two(), _times(1, lambda run: run.freeze_workers(run.scale.freeze * 2))),
        Row("ETA tasks, worker killed", _two("eta"), _times(2, Run.kill_workers)),
        Row("poison tasks", _two("poison"), _nothing),
        Row("chords, child killed", _two("chords"), _children_every_second),
        Row("chords, worker killed 3 ×", _two("chords"), _times(3, Run.kill_workers)),
        Row("chords, node killed 3 ×", _two("chords"), _times(3, Run.kill_node)),
        Row("fork after use", _two("fork"), _nothing),
        Row("fork after use, node killed", _two("fork"), _times(2, Run.kill_node)),
        Row("client killed", _two(), _kill_a_client),
        Row("warm shutdown", _two(), _times(3, Run.restart_workers)),
        Row("burst", lambda scale: [Load(scale.burst, 0.0, "burst")], _nothing),
        Row("32 threads", lambda scale: [Load(scale.tasks * 2, 0.0, "threads")], _nothing),
        Row("messages sent again, node killed", _stuttering, _times(2, Run.kill_node)),
        Row("everything", _two(), _everything),
    )
}  # fmt: skip


def new_seed() -> int:
    """The seed of ZC_SEED, else a new one."""
    given = os.environ.get("ZC_SEED")
    return int(given) if given else random.SystemRandom().randrange(1_000_000)


# ── the long version ─────────────────────────────────────────────────────────────────────────────────────────────────


def _variants(options: argparse.Namespace) -> Iterator[tuple[Row, str, str]]:
    rows = [row for name, row in ROWS.items() if options.row in (None, name)]
    while True:
        for row, mode, node in itertools.product(rows, MODES, NODES):
            if options.mode in (None, mode) and options.node in (None, node):
                yield row, mode, node


def soak(options: argparse.Namespace) -> int:
    until = time.monotonic() + options.minutes * 60
    scale = {"short": SHORT, "normal": NORMAL, "long": LONG}[options.scale]
    seed = new_seed() if options.seed is None else options.seed
    failed = runs = 0
    for row, mode, node in _variants(options):
        if time.monotonic() > until and runs:
            break
        run = Run(row, mode=mode, node=node, seed=seed, scale=scale)
        os.environ["ZEROCELERY_HOME"] = str(run.box.home)
        began = time.monotonic()
        verdict = run.attempt(keep=options.keep)
        took = time.monotonic() - began
        print(f"{row.name:32} {mode:5} {node:8} seed {seed:6} {took:5.1f} s  {verdict}", flush=True)
        if not verdict.well:
            print("\n".join(run.notes), flush=True)
            failed += 1
        runs += 1
        seed += 1
    print(f"{runs} runs, {failed} not well")
    return 1 if failed else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    programs = parser.add_subparsers()
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--row", choices=ROWS)
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--node", choices=NODES)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--scale", choices=["short", "normal", "long"], default="long")
    parser.add_argument("--keep", action="store_true", help="keep each run's directory")
    parser.set_defaults(run=soak)
    client = programs.add_parser("client")
    client.add_argument("url")
    client.add_argument("history")
    client.add_argument("--seed", type=int, required=True)
    client.add_argument("--flags", type=int, required=True)
    client.add_argument("--load", required=True)
    client.add_argument("--patience", type=float, required=True)
    client.set_defaults(run=client_program)
    options = parser.parse_args(list(arguments))
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
