"""One node: collector, publisher and journal in one loop of one process, at one address.

The loop's turn: take what has arrived (workers first, they free processor time), hand out, commit, and only then send.
Nothing leaves the node that is not in the journal.

Who is the node at an address: :mod:`zerocelery.engine.tenure`.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from zerocelery.engine import purging
from zerocelery.engine.address import Address, parse_address, prepare_directory
from zerocelery.engine.clock import Clock, SystemClock
from zerocelery.engine.collector import Collector, Limits
from zerocelery.engine.errors import AddressError, EngineError, NodeRunning
from zerocelery.engine.failpoints import failpoint
from zerocelery.engine.journal import Durability, Journal
from zerocelery.engine.ledger import ARRIVAL_MASK, QUEUE_SHIFT, Ledger
from zerocelery.engine.moving import Moving
from zerocelery.engine.processes import LocalProcesses, Processes, raise_descriptor_limit
from zerocelery.engine.publisher import Publisher
from zerocelery.engine.tenure import take_lock
from zerocelery.engine.vigil import Vigil
from zerocelery.transport.base import NodePort
from zerocelery.transport.zmq import ZmqNodePort

logger = logging.getLogger("zerocelery.node")

#: Frames taken in one turn; bounds a turn to some milliseconds.
_FRAMES_PER_TURN: Final = 512

#: After this long without anything to do the journal's tables are brought up to date.
APPLY_SECONDS: Final = 0.05

#: A receipt waits this long for a delivery that it can go with.
RECEIPT_SECONDS: Final = 0.005

_UPKEEP_SECONDS: Final = 60.0
_EXPIRED_PER_TURN: Final = 500

#: A producer that was silent for this long is forgotten by the journal; it is taken up again when it returns.
_FORGET_INBOXES: Final = 7 * 86_400
_FORGET_CALLABLES: Final = 30 * 86_400

#: A group that was opened this long ago and has not got all its members' ends is given up.
_FORGET_GROUPS: Final = 365 * 86_400

#: An embedded node ends when nobody was connected for this long; at its start it waits longer.
LINGER_SECONDS: Final = 10.0
_FIRST_WAIT_SECONDS: Final = 60.0

#: A turn that comes this much later than it was due: the process was stopped, or the machine slept.
_PAUSE_SECONDS: Final = 1.0


class Node:
    """Opens the journal, binds the sockets and runs the loop.

    Arguments:
        embedded: end when nobody has used it for ``LINGER_SECONDS``.
        port: makes the transport; for tests, as are ``clock`` and ``processes``.

    Raises:
        NodeRunning: another process is the node at this address; the message says which.
        AddressError, JournalError: with the fix in the message.
    """

    def __init__(
        self,
        address: str | Address,
        *,
        durability: Durability = "process",
        limits: Limits | None = None,
        embedded: bool = False,
        insecure: bool = False,
        clock: Clock | None = None,
        processes: Processes | None = None,
        port: Callable[[Address, int], NodePort] | None = None,
    ) -> None:
        self.address = parse_address(address)
        if not self.address.is_local and self.address.keys is None and not insecure:
            raise AddressError(
                f"{self.address.url} can be reached from other machines, and whoever reaches a node can run code. "
                f"Make keys (zerocelery keygen DIR) and listen at {self.address.url}?keys=DIR, bind to a loopback "
                "address (127.0.0.1), or, in a network that you trust as a whole, say --insecure"
            )
        self.limits = limits or Limits()
        self.durability: Durability = durability
        self.embedded = embedded
        self.clock: Clock = clock or SystemClock()
        self._processes = processes
        self._make_port = port or _zmq_port
        prepare_directory(self.address.directory)
        self._lock = take_lock(self.address)
        (self.address.directory / "node.pid").unlink(missing_ok=True)  # of one that was killed: this one is not up yet
        self._stopping = False
        self._vigil = Vigil()
        self._owed_since: float | None = None
        self._began = self.clock.monotonic()
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> None:
        directory = self.address.directory
        self.journal = Journal(directory / "journal.db", durability=self.durability)
        self.session = uuid.uuid4().hex
        self.node_id = str(self.journal.find_meta("node") or "")
        if not self.node_id:
            self.node_id = uuid.uuid4().hex
            self.journal.meta("node", self.node_id)
        try:
            port = self._make_port(self.address, self.limits.max_message + (1 << 20))
        except BaseException:
            self.journal.close()
            raise
        self.port = port
        self.address = port.address
        arrival = max(self.journal.highest(ARRIVAL_MASK), int(self.journal.find_meta("arrival") or 0))
        self.ledger = Ledger(self.journal, queue_limit=self.limits.queue_limit, arrival=arrival)
        self.publisher = Publisher(
            self.journal, session=self.session, node=self.node_id, max_message=self.limits.max_message
        )
        leases = self.journal.open_leases()
        self.collector = Collector(
            journal=self.journal,
            ledger=self.ledger,
            publisher=self.publisher,
            clock=self.clock,
            processes=self._processes or LocalProcesses(port.watch, self.address.words),
            limits=self.limits,
            lease_number=leases[-1][0] if leases else 0,
        )
        self.collector.queries["status"] = lambda _: msgspec.msgpack.encode(self.status())
        self.collector.queries.update(Moving(self.collector).queries)
        self.collector.queries[purging.QUERY] = lambda queue: purging.answer(
            self.ledger, self.journal, queue, self.collector.dropped
        )
        self._restore()
        self._commit_and_send()
        _write_whole(directory / "node.pid", f"{os.getpid()}\n")
        _write_whole(directory / "node.url", f"{self.address.url}\n")
        self._next_upkeep = self.clock.monotonic() + _UPKEEP_SECONDS
        self._next_check = 0.0
        self._seen = self.clock.monotonic()  # when it was last known to run
        self._expire_after = ""
        self._unused_since: float | None = self.clock.monotonic() + _FIRST_WAIT_SECONDS - LINGER_SECONDS

    def _restore(self) -> None:
        counts = self.journal.counts(QUEUE_SHIFT)
        for number, name in self.journal.queues():
            self.ledger.restore_lane(number, name, stored=counts.get(number, 0))
        for raw in self.journal.held_raws():
            self.ledger.count_scheduled(raw)
        self.ledger.next_due = self.journal.next_due()
        self.ledger.accepted = [tuple(one) for one in json.loads(str(self.journal.find_meta("accepted") or "[]"))]
        self.collector.restore()

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Serve until :meth:`stop`, or, embedded, until nobody uses it."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        try:
            while not self._stopping:
                self.turn()
        finally:
            self.close()

    def stop(self) -> None:
        """End the loop after this turn; safe in a signal handler and from another thread."""
        self._stopping = True
        self.port.wake()

    def turn(self) -> None:
        """Take what has arrived, commit, send; blocks while there is nothing to do."""
        seconds = self._patience()
        since = self.clock.monotonic()
        self.port.wait(seconds, self._vigil.moment(len(self.ledger.leased)))
        waited = self.clock.monotonic() - since
        self._vigil.waited(waited)
        if self.journal.behind and waited >= APPLY_SECONDS:
            self.journal.apply()  # nothing has come for a while
        self._notice_pause(seconds or 0.0)
        collector, port = self.collector, self.port
        for listens, topic in port.subscriptions():
            (collector.subscribed if listens else collector.unsubscribed)(topic)
        for worker_id, frame in port.from_workers(_FRAMES_PER_TURN):
            collector.from_worker(worker_id, frame)
        for frame in port.from_producers(_FRAMES_PER_TURN):
            collector.from_producer(frame)
        # After what they sent: a worker that reported and then died has not lost what it reported.
        for pid in port.ended():
            collector.process_ended(pid)
        collector.tick()
        collector.hand_out()
        self._commit_and_send()
        self._timers()

    def _notice_pause(self, expected: float) -> None:
        """Where more time has gone by than expected, in the wait or in a turn's work, workers are not to blame."""
        now = self.clock.monotonic()
        paused, self._seen = now - self._seen - expected, now
        if paused > _PAUSE_SECONDS:
            self.collector.losses.check_workers(paused=paused)

    def _commit_and_send(self) -> None:
        self.journal.commit()
        outbox = self.collector.outbox
        if outbox:
            failpoint("collector.before_lease")
            for worker_id, message in outbox:
                if not self.port.to_worker(worker_id, wire_encode(message)):
                    self.collector.undelivered(worker_id, message)
            outbox.clear()
            failpoint("collector.after_lease")
        if self.publisher.owes:
            failpoint("collector.after_commit")
            self._pay(self.clock.monotonic())
        self.publisher.flush(self.port.publish)

    def _pay(self, now: float) -> None:
        """A receipt goes with the next result for its producer; without one, it waits no longer than this."""
        if self._owed_since is None:
            self._owed_since = now
        elif now - self._owed_since >= RECEIPT_SECONDS:
            self._owed_since = None
            self.publisher.send_owed()

    def _patience(self) -> float | None:
        """How long the loop may sleep, in seconds."""
        if self.collector.outbox or self.collector.must_hand_out:
            return 0.0
        now = self.clock.monotonic()
        waits = [self._next_upkeep - now]
        if not self.publisher.owes:
            self._owed_since = None
        elif self._owed_since is not None:
            waits.append(self._owed_since + RECEIPT_SECONDS - now)
        deadline = self.collector.next_deadline()
        if deadline is not None:
            waits.append(deadline)
        if self.journal.behind:
            waits.append(APPLY_SECONDS)
        if self.collector.watching:
            waits.append(self._next_check - now)
        if self.embedded and self._unused_since is not None:
            waits.append(self._unused_since + LINGER_SECONDS - now)
        return max(0.0, min(waits))

    def _timers(self) -> None:
        self._notice_pause(0.0)
        now = self.clock.monotonic()
        if now >= self._next_check:
            self._next_check = now + min(self.limits.lease_timeout / 3, 5.0)
            if self.collector.watching:
                self.collector.losses.check_workers()
        if now >= self._next_upkeep:
            self._upkeep(now)
        if self.embedded:
            self._end_if_unused(now)

    def _upkeep(self, now: float) -> None:
        wall = int(self.clock.wall())
        removed, _ = self.journal.expire(wall, after="", limit=_EXPIRED_PER_TURN)
        others, self._expire_after = self.journal.expire(wall, after=self._expire_after, limit=_EXPIRED_PER_TURN)
        if removed + others >= _EXPIRED_PER_TURN // 2:
            self._next_upkeep = now  # more to do, after what is waiting now
        else:
            self._next_upkeep = now + _UPKEEP_SECONDS
            self.journal.expire_quiet(
                inboxes_before=wall - _FORGET_INBOXES,
                callables_before=wall - _FORGET_CALLABLES,
                groups_before=wall - _FORGET_GROUPS,
            )
        self.collector.revocations.expire(wall)
        self.collector.uniques.expire(wall)
        self._remember_arrivals()
        self.journal.commit()

    def _remember_arrivals(self) -> None:
        """So that the age of what waits is known after a restart, to a minute."""
        self.journal.meta("accepted", json.dumps(self.ledger.accepted))

    def _end_if_unused(self, now: float) -> None:
        if self.publisher.live or self.collector.workers:
            self._unused_since = None
        elif self._unused_since is None:
            self._unused_since = now
        elif now - self._unused_since >= LINGER_SECONDS:
            logger.info("nobody has used this node for %g s: it ends; its journal stays", LINGER_SECONDS)
            self._stopping = True

    def close(self) -> None:
        """Let go of the sockets, the journal and the lock."""
        if self._lock < 0:
            return
        self.port.close()
        self._remember_arrivals()
        self.journal.close()
        for name in ("node.pid", "node.url"):
            (self.address.directory / name).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1

    def status(self) -> dict[str, Any]:
        """What there is to say about this node, in plain types."""
        collector = self.collector
        return {
            "node": self.node_id,
            "session": self.session,
            "pid": os.getpid(),
            "address": self.address.url,
            "directory": str(self.address.directory),
            "durability": self.durability,
            "uptime": self.clock.monotonic() - self._began,
            "queues": collector.inspection.queues(),
            "stations": collector.inspection.stations(),
            "workers": [
                {
                    "id": worker.id,
                    "name": worker.joined.name,
                    "pid": worker.joined.pid,
                    "parent_pid": worker.joined.parent_pid,
                    "queues": worker.joined.queues,
                    "held": len(worker.held),
                    "running": [entry.head.id for entry in list(worker.held.values())[:1]],
                    "tasks": [(e.head.id, e.head.name, e.since) for e in list(worker.held.values())[:1]],
                }
                for worker in collector.workers.values()
            ],
            "inboxes": len(self.publisher.live),
            "results": self.journal.count_results(),
            "dead": self.journal.count_dead(),
            "groups": self.journal.count_groups(),
            "counters": {name: getattr(collector.counters, name) for name in collector.counters.__slots__},
        }


wire_encode = msgspec.msgpack.Encoder().encode


def _zmq_port(address: Address, max_message: int) -> NodePort:
    return ZmqNodePort(address, max_message=max_message)


def _write_whole(path: Path, text: str) -> None:
    """Write a small file so that nobody ever reads half of it."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.write_text(text)
    temporary.replace(path)


# ── as a process ─────────────────────────────────────────────────────────────────────────────────────────────────────


def run_node(
    address: str | Address,
    *,
    durability: Durability = "process",
    limits: Limits | None = None,
    embedded: bool = False,
    insecure: bool = False,
    on_ready: Callable[[Node], None] | None = None,
) -> int:
    """Be the node at this address until SIGTERM or SIGINT; the exit status.

    Raises:
        EngineError: it can't be; the message says why and what to do.
    """
    raise_descriptor_limit()
    node = Node(address, durability=durability, limits=limits, embedded=embedded, insecure=insecure)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stop())
    logger.info("node %s at %s, directory %s, pid %d", node.node_id[:8], node.address.url,
                node.address.directory, os.getpid())  # fmt: skip
    if on_ready is not None:
        on_ready(node)
    node.run()
    return 0


def main(arguments: Sequence[str]) -> int:
    """``python -m zerocelery.engine.node URL [--embedded] [--durability D] [--directory DIR]``."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/node] %(message)s")
    options = dict(itertools.pairwise(arguments[1:]))
    durability: Any = options.get("--durability", "process")
    try:
        address = parse_address(arguments[0], directory=options.get("--directory"))
        if address.is_ipc and "--directory" in options:
            address = Address(url=address.url, directory=Path(options["--directory"]))
        return run_node(address, durability=durability, embedded="--embedded" in arguments)
    except NodeRunning as error:
        logger.info("%s", error)
        return 0 if "--embedded" in arguments else 1
    except EngineError as error:
        logger.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
