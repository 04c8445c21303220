"""Messages that pass through the node and are kept nowhere: calls to stations by name, their answers, and streams.

A *station* is a client that has given itself a name and takes calls: the process that runs a pool is one, so it can be
asked while all its workers are busy. A caller is told how many stations its call has reached, so it knows when all have
answered. A *stream* is a topic that anybody may cast to and listen to. Who casts where nobody listens is told so, once,
and told again when somebody does: until then it need not make what nobody hears.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final, Protocol

from zerocelery.engine import wire

logger = logging.getLogger("zerocelery.node")

#: Streams that have senders to be told of listeners; the oldest is forgotten, and its senders go on casting in vain.
_MAX_STREAMS: Final = 1_000


class Topics(Protocol):
    """What is said to topics."""

    live: dict[str, int]

    def say(self, topic: str, message: wire.ToInbox) -> None: ...


class Alive(Protocol):
    """What is asked about the machine's processes."""

    def local(self, host: str) -> bool: ...
    def alive(self, pid: int, started: int) -> bool: ...


class Switchboard:
    """All stations and streams.

    Arguments:
        to_worker: sends to one worker.
    """

    def __init__(self, topics: Topics, processes: Alive, to_worker: Callable[[str, wire.ToWorker], None]) -> None:
        self.topics = topics
        self.processes = processes
        self.to_worker = to_worker
        self.stations: dict[str, wire.Attend] = {}
        self._silent: dict[str, dict[tuple[bool, str], None]] = {}  # stream → who is to be told: (is a worker, its id)

    def take(self, message: wire.Cast | wire.Attend | wire.Call | wire.Reply) -> None:
        """Pass one message on."""
        if isinstance(message, wire.Cast):
            self.cast(message)
        elif isinstance(message, wire.Attend):
            self._attend(message)
        elif isinstance(message, wire.Call):
            self._call(message)
        elif message.inbox in self.topics.live:
            self.topics.say(message.inbox, wire.Replied(message.token, message.name, message.body))

    def _attend(self, station: wire.Attend) -> None:
        if station.inbox not in self.topics.live:
            return  # it is gone again
        self.stations[station.inbox] = station
        self.topics.say(station.inbox, wire.Reached("", len(self.stations)))

    def _call(self, call: wire.Call) -> None:
        called = wire.Called(call.inbox, call.token, call.body)
        count = 0
        for inbox, station in list(self.stations.items()):
            if call.names is not None and station.name not in call.names:
                continue
            # A station's socket may have been inherited by a process that outlives it.
            if self.processes.local(station.host) and not self.processes.alive(station.pid, station.started):
                del self.stations[inbox]
                continue
            self.topics.say(inbox, called)
            count += 1
        self.topics.say(call.inbox, wire.Reached(call.token, count))

    def notify(self, pools: Collection[tuple[str, int]], body: bytes) -> None:
        """Tell one of the stations of these processes something that needs no answer."""
        for inbox, station in self.stations.items():
            if (station.host, station.pid) in pools:
                self.topics.say(inbox, wire.Called("", "", body))
                return

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def cast(self, message: wire.Cast, worker_id: str = "") -> None:
        """Send to whoever listens; where nobody does, the sender is told."""
        topic = wire.STREAM + message.stream
        if topic in self.topics.live:
            self.topics.say(topic, wire.Heard(message.bodies))
            return
        sender = (bool(worker_id), worker_id or message.inbox)
        if not worker_id and message.inbox not in self.topics.live:
            return
        if message.stream not in self._silent and len(self._silent) >= _MAX_STREAMS:
            self._silent.pop(next(iter(self._silent)))
        self._silent.setdefault(message.stream, {})[sender] = None
        self._tell(sender, wire.Watched(message.stream, False))

    def _tell(self, sender: tuple[bool, str], message: wire.Watched) -> None:
        is_worker, name = sender
        if is_worker:
            self.to_worker(name, message)
        else:
            self.topics.say(name, message)

    def subscribed(self, topic: str) -> None:
        """Somebody listens to a stream: tell it that it is heard, and who casts to it that somebody listens."""
        stream = topic.removeprefix(wire.STREAM)
        self.topics.say(topic, wire.Heard([]))
        for sender in self._silent.pop(stream, ()):
            self._tell(sender, wire.Watched(stream, True))

    def left(self, topic: str) -> None:
        """Nobody listens to this topic any more."""
        self.stations.pop(topic, None)
        self._forget((False, topic))

    def worker_left(self, worker_id: str) -> None:
        """A worker needs to be told of nothing any more."""
        self._forget((True, worker_id))

    def _forget(self, sender: tuple[bool, str]) -> None:
        for silent in self._silent.values():
            silent.pop(sender, None)
