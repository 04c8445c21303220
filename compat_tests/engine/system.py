"""A whole system in one process and one thread: a node, producers and workers over the memory transport, and a clock
that moves only when told to. The workers here speak the wire's messages and do what a test says, step by step."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Raw

from zerocelery.engine import wire
from zerocelery.engine.address import parse_address
from zerocelery.engine.clock import ManualClock
from zerocelery.engine.collector import Limits
from zerocelery.engine.node import Node
from zerocelery.engine.processes import NOTHING
from zerocelery.engine.producer import Producer, ProducerOptions
from zerocelery.engine.station import Station
from zerocelery.transport.memory import Connection, MemoryClientLink, MemoryNetwork

HERE = "this-host"


_P = TypeVar("_P", bound=Producer)


class Killed(BaseException):
    """The node dies here."""


class Machine:
    """The machine's processes, as a collector asks about them: what a test says is so."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.stopped: set[int] = set()
        self.words: dict[str, list[int]] = {}  # path → [the key, whether the lease is revoked]
        self.causes: dict[str, tuple[int, float]] = {}  # path → why its process was ended
        self.watchable = True

    def local(self, host: str) -> bool:
        return host == HERE

    def alive(self, pid: int, started: int) -> bool:
        return pid in self.network.processes

    def frozen(self, pid: int) -> bool:
        return pid in self.stopped

    def watch(self, pid: int) -> bool:
        return self.watchable and any(port.watch(pid) for port in self.network.ports.values())

    def running(self, word: str) -> int | None:
        return self.words[word][0] if word in self.words else None

    def cause(self, word: str) -> tuple[int, float]:
        return self.causes.get(word, (0, 0.0))

    def revoke(self, word: str) -> None:
        if word in self.words:
            self.words[word][1] = 1

    def discard(self, word: str) -> None:
        """A process that has the word mapped keeps it."""
        self.words.pop(word, None)


@dataclasses.dataclass
class Running:
    """A task that a worker has started."""

    key: int
    losses: int
    task: wire.Task


class Peer:
    """A worker that does what it is told, over a real link: the protocol of ``engine.worker``, one step at a time."""

    _pids = itertools.count(1_000)

    def __init__(
        self, system: System, *, queues: Iterable[str] = ("celery",), host: str = HERE, capacity: int = 128,
        parent: int = 0, policy: int = -1, policies: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.system = system
        self.pid = next(self._pids)
        self.id = f"w{self.pid}"
        self.queues = list(queues)
        self.host, self.capacity, self.parent = host, capacity, parent
        self.policy, self.policies = policy, policies or {}
        self.link: Connection = system.network.worker(system.address, self.id)
        system.network.processes.add(self.pid)
        self.generation = self.number = 0
        self.joined = False
        self.todo: deque[wire.LeaseEntry] = deque()
        self.now: Running | None = None
        self.word: list[int] = [NOTHING, 0]
        self.unanswered: list[tuple[int, list[wire.Report]]] = []
        self.starts: list[str] = []
        self.blobs: dict[str, bytes | None] = {}
        self.leaving = self.farewell = False
        self.stale = False

    @property
    def word_path(self) -> str:
        return f"/words/{self.id}"

    def send(self, message: object) -> None:
        self.link.send(wire.encode(message))

    def join(self) -> None:
        self.generation += 1
        self.number = 0
        self.joined = self.stale = False
        holding = [entry.key for entry in self.todo] + ([self.now.key] if self.now else [])
        reports = [report for _, several in self.unanswered for report in several]
        self.unanswered = [(0, reports)] if reports else []
        if not holding and not reports:
            self.word = self.system.machine.words[self.word_path] = [NOTHING, 0]
        self.send(
            wire.Join(
                wire.VERSION, self.generation, self.id, self.host, self.pid, 1, self.word_path, self.parent, 1,
                self.queues, self.capacity, holding, reports, self.policy, self.policies,
            )
        )  # fmt: skip

    def look(self) -> None:
        """Take in what has come; join where the connection is new, or the node says so."""
        if self.link.reconnected():
            self._join_again()
        while (frame := self.link.receive(0)) is not None:
            message = wire.decode_to_worker(frame)
            assert not isinstance(message, wire.Malformed), message
            if isinstance(message, wire.Lease):
                self._leased(message)
            elif isinstance(message, wire.Rejoin):
                self._join_again()
            elif isinstance(message, wire.Blob):
                self.blobs[message.digest] = message.blob
            else:
                self.farewell = True

    def _join_again(self) -> None:
        self.join()
        if self.leaving:
            self.leave()

    def _leased(self, lease: wire.Lease) -> None:
        if lease.generation != self.generation:
            return
        self.unanswered = [(n, reports) for n, reports in self.unanswered if n > lease.acked]
        if lease.keep is not None:
            keep = set(lease.keep)
            void = [entry for entry in self.todo if entry.key not in keep]
            self.todo = deque(entry for entry in self.todo if entry.key in keep)
            self.stale = bool(void) or (self.now is not None and self.now.key not in keep)
            self.joined = True
        self.todo.extend(lease.entries)

    def start(self) -> Running | None:
        """Begin the next leased task; None where there is none, or the lease is revoked."""
        if self.now is not None or not self.todo or self.leaving:
            return None
        entry = self.todo.popleft()
        self.word[0] = entry.key
        if self.word[1]:
            self.todo.clear()
            self.join()
            return None
        task = wire.decode_task(entry.task)
        assert isinstance(task, wire.Task)
        self.starts.append(task.id)
        self.now = Running(entry.key, entry.losses, task)
        return self.now

    def finish(
        self, value: bytes = b"", *, state: str = wire.SUCCESS, final: bool = True, store: bool = True,
        followups: Iterable[wire.Task] = (), runtime: float = 1.0, send: bool = True,
    ) -> wire.Report:  # fmt: skip
        """End the running task, and report it."""
        assert self.now is not None
        task, key, self.now = self.now.task, self.now.key, None
        raw = wire.encode_result(task.id, state, final, "text", value, b"", self.system.clock.wall())
        report = wire.Report(key, runtime, store, Raw(raw), [Raw(wire.encode(t)) for t in followups])
        if send:
            self.report([report])
        if self.stale:
            self.join()
        return report

    def report(self, reports: list[wire.Report], *, returned: Iterable[int] = (), busy: bool = False) -> None:
        self.number += 1
        self.unanswered.append((self.number, reports))
        self.send(wire.Done(self.generation, self.number, reports, list(returned), busy))

    def hand_back(self) -> None:
        """Return all that is leased and not started, as the watch of a long task does."""
        returned = [entry.key for entry in self.todo]
        self.todo.clear()
        self.report([], returned=returned, busy=True)

    def leave(self) -> None:
        """Say goodbye; :attr:`farewell` tells when the node has answered."""
        self.leaving = True
        everything = [report for _, several in self.unanswered for report in several]
        returned = [entry.key for entry in self.todo]
        self.todo.clear()
        self.unanswered = [(0, everything)]
        self.send(wire.Bye(self.generation, everything, returned))

    def die(self) -> None:
        """kill -9: nothing more is sent, and the system sees the process end."""
        self.link.close()
        self.system.network.processes.discard(self.pid)


class System:
    """One node's address, and everybody there.

    Arguments:
        directory: the node's; short enough for an ipc address.
    """

    def __init__(self, directory: Path, **limits: Any) -> None:
        self.clock = ManualClock()
        self.network = MemoryNetwork(clock=self.clock)
        self.machine = Machine(self.network)
        self.address = parse_address(f"zmq://{directory}")
        self.limits = Limits(**limits)
        self.producers: list[Producer] = []
        self.links: dict[int, MemoryClientLink] = {}
        self._node: Node | None = None
        self.network.actors.append(self.turn)
        self.start()

    @property
    def node(self) -> Node:
        assert self._node is not None, "there is no node now"
        return self._node

    @property
    def up(self) -> bool:
        return self._node is not None

    def start(self) -> None:
        self._node = Node(
            self.address, limits=self.limits, clock=self.clock, processes=self.machine, port=self.network.node
        )

    def crash_in_turn(self, *, committed: bool) -> None:
        """kill -9 the node in the middle of a turn: just before it commits, or just after and before it sends."""
        journal = self.node.journal
        commit = journal.commit

        def die() -> None:
            if committed:
                commit()
            raise Killed

        journal.commit = die  # type: ignore[method-assign]
        try:
            self.node.turn()
        except Killed:
            pass
        self.crash()

    def crash(self) -> None:
        """kill -9 the node: what was not committed is lost, and so is what had come in and was not read."""
        node, self._node = self.node, None
        node.port.close()
        node.journal.abandon()
        os.close(node._lock)

    def stop(self) -> None:
        node, self._node = self.node, None
        node.close()

    def turn(self) -> None:
        """One turn of the node, if there is one."""
        if self._node is not None:
            self._node.turn()

    def turns(self, seconds: float = 0.1) -> None:
        """Let time go by while the node runs: in steps, as a jump would be a pause of the node itself."""
        for _ in range(int(seconds / 0.5)):
            self.clock.advance(0.5)
            self.turn()
        self.clock.advance(seconds % 0.5)
        self.turn()

    def producer(self, **options: Any) -> Producer:
        return self._client(Producer, options)

    def station(self, **options: Any) -> Station:
        return self._client(Station, options)

    def _client(self, kind: type[_P], options: dict[str, Any]) -> _P:
        def link(address: Any) -> MemoryClientLink:
            made = self.network.client(address)
            self.links[id(producer)] = made
            return made

        producer = kind(self.address, options=ProducerOptions(keeper=False, **options), link=link, clock=self.clock)
        self.producers.append(producer)
        return producer

    def link(self, producer: Producer) -> MemoryClientLink:
        return self.links[id(producer)]

    def worker(self, **more: Any) -> Peer:
        """A worker that has joined."""
        peer = Peer(self, **more)
        peer.look()
        self.turn()
        peer.look()
        assert peer.joined
        return peer

    def step(self, peer: Peer) -> Running | None:
        """A turn of the node, then the worker begins what it was given, if anything."""
        self.turn()
        peer.look()
        return peer.start()

    def close(self) -> None:
        for producer in self.producers:
            producer.close(timeout=0.0)
        if self._node is not None:
            self.stop()


def task(name: str = "t", task_id: str = "", *, queue: str = "celery", **more: Any) -> wire.Task:
    """A task with an id of its own."""
    return wire.Task(id=task_id or f"{name}-{next(_numbers)}", name=name, queue=queue, **more)


_numbers = itertools.count(1)
