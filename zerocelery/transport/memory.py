"""The transport without sockets: the fake that tests run on. The tests of the contracts hold it and the real one.

A network's ``node``, ``client`` and ``worker`` are what ``Node(port=…)``, ``Producer(link=…)`` and ``Worker(link=…)``
take. Threads block for each other as at sockets. With a ManualClock nobody blocks: who would wait lets the ``actors``
act (a node's ``turn``, say) and the clock go on, so a whole system runs in one thread, each time in the same way.

Faults: what is sent on a held line stays ``under_way``, in a list; to drop, repeat or reorder frames is to change that
list. A connection that is cut loses what is under way, and stays cut until it is mended.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from zerocelery.engine.address import Address
from zerocelery.engine.clock import ManualClock
from zerocelery.engine.errors import NodeRunning
from zerocelery.engine.wire import topic_prefix

#: How far a ManualClock goes between two rounds of the actors, and in all for somebody without a deadline (seconds).
_TICK: Final = 0.005
_FOR_EVER: Final = 60.0


class MemoryNetwork:
    """What lies between the nodes, producers and workers of one process; ``processes`` are pids that can be watched."""

    def __init__(self, *, clock: ManualClock | None = None) -> None:
        self.clock = clock
        self.actors: list[Callable[[], object]] = []
        self.ports: dict[str, MemoryNodePort] = {}
        self.connections: list[Connection] = []
        self.processes: set[int] = set()
        self.changed = threading.Condition()
        self._acting = False

    def node(self, address: Address, max_message: int = 0) -> MemoryNodePort:
        return MemoryNodePort(self, address)

    def client(self, address: Address) -> MemoryClientLink:
        return MemoryClientLink(Connection(self, address.tasks), Connection(self, address.results))

    def worker(self, address: Address, worker_id: str) -> Connection:
        return Connection(self, address.leases, worker_id)

    def notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def block(self, ready: Callable[[], object], seconds: float | None) -> None:
        """Return when something is ready, or the time is over."""
        if self.clock is None:
            with self.changed:
                self.changed.wait_for(ready, seconds)
        elif not self._acting and seconds != 0:
            self._acting = True
            until = self.clock.monotonic() + (_FOR_EVER if seconds is None else seconds)
            try:
                while not ready() and self.clock.monotonic() < until:
                    self.clock.advance(_TICK)
                    for act in self.actors:
                        act()
            finally:
                self._acting = False


class Line:
    """One direction of a connection; takes no more when ``room`` frames have not been received."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network, self.held, self.room = network, False, 4_000
        self.under_way: list[Any] = []
        self.arrived: deque[Any] = deque()

    def has_room(self) -> bool:
        return len(self.under_way) + len(self.arrived) < self.room

    def send(self, frame: object) -> None:
        self.under_way.append(frame)
        if not self.held:
            self.release()

    def release(self, count: int | None = None) -> None:
        """Let the first ``count`` frames arrive; None: all."""
        self.arrived.extend(self.under_way[:count])
        del self.under_way[:count]
        self.network.notify()


class Connection:
    """One socket of a producer, or all of a worker (:class:`~zerocelery.transport.base.WorkerLink`).

    ``up`` leads to the node, ``down`` comes from it; ``port`` is the node, None where it is not connected.
    """

    def __init__(self, network: MemoryNetwork, endpoint: str, worker_id: str = "") -> None:
        self.network, self.endpoint, self.worker_id = network, endpoint, worker_id
        self.up, self.down = Line(network), Line(network)
        self.port: MemoryNodePort | None = None
        self.torn = self.fresh = self.woken = False
        self.topics: list[str] = []
        network.connections.append(self)
        self.mend()

    def mend(self) -> None:
        """Connect (again), where there is a node; topics are subscribed to again."""
        self.torn, port = False, self.network.ports.get(self.endpoint)
        if self.port is None and port is not None:
            self.port, self.fresh = port, True
            port.peers = [*(peer for peer in port.peers if peer is not self), self]
            for topic in self.topics:
                self.up.send((True, topic))
            self.network.notify()

    def cut(self) -> None:
        """Lose what is under way; what has arrived stays, and the node sees that the topics are left."""
        left = [(False, topic) for topic in self.topics if self.heard(topic)]
        self.torn, self.port, self.up.under_way, self.down.under_way = True, None, [], []
        self.up.arrived.extend(left)
        self.network.notify()

    def heard(self, topic: str) -> bool:
        """Whether the node knows of the subscription."""
        return self.port is not None and (True, topic) not in self.up.under_way

    def subscribe(self, topic: str) -> None:
        self.topics.append(topic)
        if self.port is not None:
            self.up.send((True, topic))

    def sendable(self) -> bool:
        return self.port is not None and self.up.has_room()

    def wait_sendable(self, seconds: float) -> bool:
        self.network.block(self.sendable, seconds)
        return self.sendable()

    def send(self, frame: bytes) -> bool:
        if self.sendable():
            self.up.send(frame)
            return True
        return False

    def receive(self, seconds: float | None) -> bytes | None:
        self.network.block(lambda: self.down.arrived or self.woken or (self.worker_id and self.fresh), seconds)
        self.woken = False
        return self.down.arrived.popleft() if self.down.arrived else None

    def reconnected(self) -> bool:
        fresh, self.fresh = self.fresh, False
        return fresh

    def wake(self) -> None:
        self.woken = True
        self.network.notify()

    def close(self, *, linger: float = 0.0) -> None:
        if linger:
            self.up.release()
        self.cut()
        self.network.connections.remove(self)


class MemoryClientLink:
    """A producer's side (:class:`~zerocelery.transport.base.ClientLink`)."""

    def __init__(self, tasks: Connection, results: Connection) -> None:
        self.tasks, self.results = tasks, results
        self.send, self.wait_sendable = tasks.send, tasks.wait_sendable
        self.receive, self.subscribe = results.receive, results.subscribe

    def problem(self) -> str:
        return ""

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.tasks.close()
        self.results.close()

    def abandon(self) -> None:
        """They are the parent's."""


class MemoryNodePort:
    """A node's side (:class:`~zerocelery.transport.base.NodePort`); with a ManualClock it never waits."""

    def __init__(self, network: MemoryNetwork, address: Address) -> None:
        self.network, self.woken = network, False
        self.address = address if address.is_ipc or address.port else address.with_port(50_000 + len(network.ports))
        self.endpoints = (self.address.tasks, self.address.results, self.address.leases)
        self.peers: list[Connection] = []
        self.watched: set[int] = set()
        if self.endpoints[0] in network.ports:
            raise NodeRunning(f"{self.endpoints[0]} is in use")
        network.ports.update(dict.fromkeys(self.endpoints, self))
        for connection in network.connections:
            if not connection.torn:
                connection.mend()

    def wait(self, seconds: float | None, awake: float = 0.0) -> None:
        if self.network.clock is None:
            self.network.block(self._ready, seconds)
        self.woken = False

    def _ready(self) -> bool:
        return self.woken or not self.watched <= self.network.processes or any(p.up.arrived for p in list(self.peers))

    def wake(self) -> None:
        self.woken = True
        self.network.notify()

    def _take(self, index: int, limit: int) -> list[tuple[str, Any]]:
        taken: list[tuple[str, Any]] = []
        for peer in list(self.peers):
            while peer.endpoint == self.endpoints[index] and peer.up.arrived and len(taken) < limit:
                taken.append((peer.worker_id, peer.up.arrived.popleft()))
            if peer.port is not self and not peer.up.arrived:
                self.peers.remove(peer)
        return taken

    def from_producers(self, limit: int) -> list[bytes]:
        return [frame for _, frame in self._take(0, limit)]

    def subscriptions(self) -> list[tuple[bool, str]]:
        return [change for _, change in self._take(1, 1 << 30)]

    def from_workers(self, limit: int) -> list[tuple[str, bytes]]:
        return self._take(2, limit)

    def publish(self, frame: bytes) -> None:
        for peer in self.peers:
            if peer.down.has_room() and any(frame.startswith(topic_prefix(t)) for t in peer.topics if peer.heard(t)):
                peer.down.send(frame)

    def to_worker(self, worker_id: str, frame: bytes) -> bool:
        for peer in reversed(self.peers):
            if peer.worker_id == worker_id and peer.port is self:
                peer.down.send(frame)
                return True
        return False

    def watch(self, pid: int) -> bool:
        if pid in self.network.processes:
            self.watched.add(pid)
        return pid in self.watched

    def ended(self) -> list[int]:
        gone = self.watched - self.network.processes
        self.watched -= gone
        return sorted(gone)

    def close(self) -> None:
        for endpoint in self.endpoints:
            self.network.ports.pop(endpoint, None)
        for peer in self.peers:
            peer.down.release()
            peer.up.under_way, peer.up.arrived, peer.port = [], deque(), None
        self.peers = []
        self.network.notify()
