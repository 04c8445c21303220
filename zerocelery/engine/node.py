"""One node: collector, publisher and journal in one loop of one process, at one address.

The loop's turn: take what has arrived (workers first, they free processor time), hand out, commit, and only then send.
Nothing leaves the node that is not in the journal.

Owning an address means holding the lock on ``node.lock`` in its directory. The lock goes with the process, however it
ends, so the next one can take over at once and nobody can take over from the living (ZeroMQ itself would let a second
node steal an ipc socket in silence).
"""

from __future__ import annotations

import fcntl
import gc
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from zerocelery.engine import purging
from zerocelery.engine.address import Address, parse_address, prepare_directory
from zerocelery.engine.clock import Clock, SystemClock
from zerocelery.engine.collector import Collector, Limits, Processes
from zerocelery.engine.errors import AddressError, EngineError, NodeRunning, NodeUnreachable
from zerocelery.engine.failpoints import failpoint
from zerocelery.engine.journal import Durability, Journal
from zerocelery.engine.ledger import ARRIVAL_MASK, QUEUE_SHIFT, Ledger
from zerocelery.engine.processes import LocalProcesses
from zerocelery.engine.publisher import Publisher
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
        asleep = self.clock.monotonic()
        self.port.wait(seconds)
        if self.journal.behind and self.clock.monotonic() - asleep >= APPLY_SECONDS:
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
            self.collector.check_workers(paused=paused)

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
                self.collector.check_workers()
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


# ── one node per address ─────────────────────────────────────────────────────────────────────────────────────────────


def take_lock(address: Address) -> int:
    """The lock of this address as an open descriptor.

    Raises:
        NodeRunning: somebody has it.
    """
    fd = os.open(address.directory / "node.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _lock_now(fd)
        _let_the_former_end(address)
    except OSError as error:
        os.close(fd)
        owner = owner_pid(address)
        raise NodeRunning(
            f"a node is running already at {address.url} ({f'pid {owner}' if owner else 'pid not written yet'}, "
            f"directory {address.directory}): use it, stop it, or choose another address"
        ) from error
    # A killed node's: from here on it would be taken for ours, which does not listen yet.
    (address.directory / "node.pid").unlink(missing_ok=True)
    return fd


def _lock_now(fd: int) -> None:
    """Take the lock; who only looks whether it is taken holds it for some microseconds, so one failure says little."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.01)
        else:
            return
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_the_former_end(address: Address) -> None:
    """Make sure that nobody listens at an ipc node's sockets: ZeroMQ would take them from whoever does.

    A node that was killed may let go of its lock just before its sockets; one whose lock file was removed keeps them.

    Raises:
        OSError: somebody does.
    """
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.5)
            try:
                probe.connect(str(address.directory / "leases"))
            except TimeoutError:
                break
            except OSError:
                return
        time.sleep(0.01)
    raise FileExistsError(f"somebody listens at {address.directory / 'leases'}")


def owner_pid(address: Address) -> int:
    """The pid of the node that owns this address, as far as it is known; else 0."""
    try:
        return int((address.directory / "node.pid").read_text())
    except (OSError, ValueError):
        return 0


def is_owned(address: Address) -> bool:
    """Whether a living process is the node at this address of this machine."""
    return _is_locked(address) or (not address.is_ipc and _answers(address))


def _answers(address: Address) -> bool:
    """Whether ZeroMQ listens at a TCP node's last port: its directory may be another one, or on another machine."""
    try:
        with socket.create_connection((address.host, address.port + 2), timeout=0.5) as peer:
            return peer.recv(1) == b"\xff"  # how its greeting begins
    except OSError:
        return False


def _is_locked(address: Address) -> bool:
    try:
        fd = os.open(address.directory / "node.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def start_node(address: Address, *, durability: Durability = "process", options: Sequence[str] = ()) -> None:
    """Start an embedded node at this address, as a process of its own that outlives its starter.

    Does not wait for it. Where another one is faster, the one started here ends by itself.

    Raises:
        AddressError: the directory can't be used.
    """
    prepare_directory(address.directory)
    command = [
        sys.executable, "-m", "zerocelery.engine.node", address.url, "--embedded",
        "--directory", str(address.directory), "--durability", durability, *options,
    ]  # fmt: skip
    log = os.open(
        address.directory / "node.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_TRUNC, 0o600
    )
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH", "")) if p)
    try:
        # Its starter's children must not keep it as theirs: a shell in between exits at once and init adopts the node.
        subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-S", "-c", _DETACH, *command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, env=environment, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)


#: Starts the rest of its arguments as a process and ends without waiting for it.
_DETACH: Final = "import os,sys; os.fork() or os.execv(sys.argv[1], sys.argv[1:])"


def node_log(address: Address) -> str:
    """The last lines that an embedded node wrote, to tell why it did not start."""
    try:
        return "\n".join((address.directory / "node.log").read_text(errors="replace").splitlines()[-3:])
    except OSError:
        return ""


def ensure_node(address: Address, *, timeout: float = 10.0, durability: Durability = "process") -> None:
    """Start a node if none runs at this address of this machine, and wait until it listens.

    Raises:
        NodeUnreachable: none could be started in time; the message holds what it said.
    """
    if not address.is_local:
        return
    start_at = time.monotonic()
    deadline, patience = start_at + timeout, 1.0
    while not _listening(address):
        if time.monotonic() >= start_at and not is_owned(address):
            _start_or_say_why(address, durability)
            start_at, patience = time.monotonic() + patience, patience * 2  # it may have died before it was seen
        if time.monotonic() > deadline:
            raise NodeUnreachable(
                f"no node could be started at {address.url} within {timeout:g} s. "
                f"Try it by hand: {address.start_command}\n{node_log(address)}".rstrip()
            )
        time.sleep(0.005)  # another process's file is the only sign there is


def _start_or_say_why(address: Address, durability: Durability) -> None:
    try:
        start_node(address, durability=durability)
    except (OSError, subprocess.SubprocessError) as error:  # no descriptors, no memory, no processes left
        raise NodeUnreachable(f"no node could be started at {address.url}: {error}") from error


def _listening(address: Address) -> bool:
    """Whether the owner of the address has bound its sockets (it writes its pid after that)."""
    return (bool(owner_pid(address)) and _is_locked(address)) or (not address.is_ipc and _answers(address))


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
    _raise_descriptor_limit()
    node = Node(address, durability=durability, limits=limits, embedded=embedded, insecure=insecure)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stop())
    logger.info("node %s at %s, directory %s, pid %d", node.node_id[:8], node.address.url,
                node.address.directory, os.getpid())  # fmt: skip
    if on_ready is not None:
        on_ready(node)
    node.run()
    return 0


def _raise_descriptor_limit() -> None:
    """Each client takes two descriptors, and the system's default allows some hundred clients only."""
    import resource  # noqa: PLC0415 - Unix only

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
