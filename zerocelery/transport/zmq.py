"""The engine's sockets. Every option is set here, before the socket connects or binds, with its reason."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import threading
import time
from typing import Final

import zmq

from zerocelery.engine.address import Address, check_directory
from zerocelery.engine.errors import AddressError, NodeRunning
from zerocelery.transport import curve, waiting
from zerocelery.transport.base import Desk, WorkerLink
from zerocelery.transport.descriptors import Door, check_descriptors
from zerocelery.transport.desk import SocketDesk, SocketWorkerLink
from zerocelery.transport.readiness import Readiness

#: Frames one subscriber may lag behind before the publisher drops for it; it then sees a gap and asks (numbering).
_SUBSCRIBER_HWM: Final = 2_000

#: Frames under way from one producer. Small: what has no receipt is kept by the producer anyway.
_TASKS_HWM: Final = 2_000

#: Clients that may be connected at once; each takes one descriptor per socket. libzmq's own default is 1,023.
_MAX_SOCKETS: Final = 65_000

#: What must be free before the sockets are made: with less, libzmq does not fail, but aborts the process.
_NODE_NEEDS: Final = 40
_CLIENT_NEEDS: Final = 12
_WORKER_NEEDS: Final = 16

#: How fast a lost peer is looked for again (milliseconds, doubling).
_RECONNECT_MS: Final = 20
_RECONNECT_MAX_MS: Final = 500

#: A half-open TCP connection is noticed after this long without a pong (milliseconds).
_HEARTBEAT_MS: Final = 2_000
_HEARTBEAT_TIMEOUT_MS: Final = 6_000


#: Without these events, all that a client with a wrong key would see is silence: its sends succeed.
_PROBLEMS: Final[dict[int, str]] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it does not know this client's key: copy client.key into its keys' allowed/",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "only one of the two uses keys (?keys=DIR or ZEROCELERY_KEYS)",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed. Its key is another one than this client's node.key "
    "says, or the program that listens there is no node",
}
_REFUSALS: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
)

#: As numbers: what enumerations cost in Python's code is as much as sending.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN: Final = int(zmq.POLLIN)

#: A monitor's first frame: the event, and a value that depends on it.
_MONITOR_EVENT: Final = struct.Struct("=hi")


def _prepare(sock: zmq.Socket[bytes], address: Address, *, max_message: int = -1, server: bool = False) -> None:
    # Never wait for a peer when closing: what matters has a receipt or is kept (default: wait for ever).
    sock.linger = 0
    sock.reconnect_ivl = _RECONNECT_MS
    sock.reconnect_ivl_max = _RECONNECT_MAX_MS
    # A frame over the limit is refused before it is allocated; its sender has checked, so only strangers meet this.
    sock.maxmsgsize = max_message
    # A peer that opens a connection and says nothing is cut off.
    sock.handshake_ivl = 5_000
    if not address.is_ipc:
        sock.heartbeat_ivl = _HEARTBEAT_MS
        sock.heartbeat_timeout = _HEARTBEAT_TIMEOUT_MS
        sock.tcp_keepalive = 1
        sock.ipv6 = ":" in address.host
    if address.keys is not None:
        (curve.secure_node if server else curve.secure_client)(sock, address.keys)


def _fd(sock: zmq.Socket[bytes]) -> int:
    fd = sock.get(zmq.FD)
    if not isinstance(fd, int):  # pyzmq types every option alike
        raise TypeError(f"a socket's descriptor is a number, not {fd!r}")
    return fd


def _readable(sock: zmq.Socket[bytes]) -> bool:
    events = sock.get(zmq.EVENTS)
    return isinstance(events, int) and bool(events & _POLLIN)


def _event(monitor: zmq.Socket[bytes]) -> tuple[int, int]:
    """The next event of a socket's monitor, and its value; raises Again where there is none.

    By hand: pyzmq's own parser imports asyncio, which costs every client 25 ms.
    """
    number, value = _MONITOR_EVENT.unpack(monitor.recv_multipart(_NOBLOCK)[0])
    return int(number), int(value)


def _context(needs: int) -> zmq.Context[zmq.Socket[bytes]]:
    """A context, if the process has this many descriptors to spare.

    Raises:
        NodeUnreachable: it has not.
    """
    check_descriptors(needs)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    return context


class _Inlet:
    """A socket of a node's by which something comes in.

    A ZeroMQ descriptor signals a change of state, not a state: a socket counts as readable until a receive has found it
    empty, and sending may swallow the signal of something that came in.
    """

    __slots__ = ("look", "sent", "sock")

    def __init__(self, sock: zmq.Socket[bytes], readiness: Readiness) -> None:
        self.sock = sock
        self.look = True
        self.sent = False
        readiness.add(_fd(sock), self._mark)

    def _mark(self) -> None:
        self.look = True

    def waits(self) -> bool:
        """Whether something may be received without waiting for it."""
        if self.sent:
            self.sent = False
            self.look = self.look or _readable(self.sock)
        return self.look


class _RouterDesk:
    """Where workers of other machines come, or of this one by TCP (:class:`~zerocelery.transport.base.Desk`)."""

    def __init__(self, sock: zmq.Socket[bytes], readiness: Readiness) -> None:
        self._sock = sock
        self._inlet = _Inlet(sock, readiness)

    def waits(self) -> bool:
        return self._inlet.waits()

    def take(self, limit: int) -> list[tuple[str, bytes]]:
        frames: list[tuple[str, bytes]] = []
        if not self._inlet.look:
            return frames
        try:
            while len(frames) < limit:
                parts = self._sock.recv_multipart(_NOBLOCK)
                if len(parts) == 2:
                    frames.append((parts[0].decode("ascii", "backslashreplace"), parts[1]))
                else:
                    frames.append(("", b""))  # no message of ours: counted as malformed
                if not _readable(self._sock):
                    self._inlet.look = False
                    break
        except zmq.Again:
            self._inlet.look = False
        return frames

    def send(self, worker_id: str, frame: bytes) -> bool:
        try:
            self._inlet.sent = True
            self._sock.send(worker_id.encode(), _MORE)
            self._sock.send(frame, _NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def close(self) -> None:
        """The socket ends with its context."""


class ZmqNodePort:
    """A node's sockets at its address.

    Arguments:
        address: where to bind; a TCP port of 0 takes three free ones in a row (:attr:`address` says which).

    Raises:
        NodeRunning: the TCP port is in use.
        AddressError: the address can't be bound.
        NodeUnreachable: there are too few descriptors.
    """

    def __init__(self, address: Address, *, max_message: int) -> None:
        self._context = _context(_NODE_NEEDS)
        self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._authenticator = None
        self._readiness = Readiness()
        self._door = Door()
        try:
            if address.keys is not None:
                self._authenticator = curve.authenticator(self._context, address.keys)
            self.address = self._bind(address, max_message)
            self._tasks, self._results = (_Inlet(sock, self._readiness) for sock in self._sockets[:2])
            self._desk = self._open_desk(max_message)
        except BaseException:
            if self._authenticator is not None:
                self._authenticator.stop()
            self._context.destroy(linger=0)
            raise
        for sock in self._sockets:
            monitor = sock.get_monitor_socket(zmq.EVENT_ACCEPTED)
            self._readiness.add(_fd(monitor), functools.partial(self._look_at_door, monitor))
            self._look_at_door(monitor)
        self._pids: dict[int, int] = {}  # pid → pidfd
        self._ended: list[int] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._readiness.add(self._wake_read, self._woken)

    def _bind(self, address: Address, max_message: int) -> Address:
        if address.is_ipc:
            for name in ("tasks", "results", "leases"):
                # The lock is ours, so a socket that is still there is a dead node's.
                try:
                    (address.directory / name).unlink(missing_ok=True)
                except OSError as error:
                    raise AddressError(f"{address.directory / name} is in the way of the node: {error}") from error
        elif address.port == 0:
            return self._bind_free(address, max_message)
        self._make(address, max_message)
        self._bind_all(address)
        return address

    def _bind_free(self, address: Address, max_message: int) -> Address:
        for _ in range(50):
            with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
                probe.bind((address.host, 0))
                candidate = address.with_port(min(probe.getsockname()[1], 65533))
            self._make(candidate, max_message)
            try:
                self._bind_all(candidate)
            except NodeRunning:
                for sock in self._sockets:
                    sock.close(linger=0)
                continue
            return candidate
        raise AddressError(f"no three free ports in a row were found on {address.host}")

    def _make(self, address: Address, max_message: int) -> None:
        tasks, results = self._context.socket(zmq.PULL), self._context.socket(zmq.XPUB)
        self._sockets = [tasks, results]
        if not address.is_ipc:
            self._sockets.append(self._context.socket(zmq.ROUTER))
        for sock in self._sockets:
            _prepare(sock, address, max_message=max_message, server=True)
        tasks.rcvhwm = _TASKS_HWM
        results.sndhwm = _SUBSCRIBER_HWM
        # Tell of every subscription, also of a topic that is known: a client that came back gets its welcome.
        results.setsockopt(zmq.XPUB_VERBOSER, 1)
        for leases in self._sockets[2:]:
            # A lease to a worker that is gone is an error to act on, not a message to drop in silence.
            leases.router_mandatory = True
            # A worker that reconnects keeps its id and takes over from its dead connection.
            leases.router_handover = True
            # At most one batch is under way to a worker; unlimited so that a lease never blocks the node.
            leases.sndhwm = 0
            leases.rcvhwm = 0

    def _bind_all(self, address: Address) -> None:
        before = os.umask(0o177) if address.is_ipc else None
        try:
            for sock, endpoint in zip(
                self._sockets, (address.tasks, address.results, address.leases), strict=False
            ):  # fmt: skip
                sock.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise NodeRunning(
                    f"{endpoint} is in use: another node, or another program, has this port. "
                    f"Stop it, or choose another address"
                ) from error
            raise AddressError(f"the node can't listen at {endpoint}: {error.strerror}") from error
        finally:
            if before is not None:
                os.umask(before)

    def _open_desk(self, max_message: int) -> Desk:
        if self.address.is_ipc:
            path = self.address.directory / "leases"
            return SocketDesk(path, self._readiness, self._door, max_message=max_message)
        return _RouterDesk(self._sockets[2], self._readiness)

    def _look_at_door(self, monitor: zmq.Socket[bytes]) -> None:
        """See to the peers that have come to a socket."""
        try:
            while True:
                self._door.shut(_event(monitor)[1])
        except zmq.Again:
            pass

    def wait(self, seconds: float | None, awake: float = 0.0) -> None:
        # Each is asked, for asking has an effect.
        ready = (self._tasks.waits(), self._results.waits(), self._desk.waits())
        if any(ready):
            self._readiness.wait(0)
        else:
            self._readiness.wait(seconds, awake)

    def wake(self) -> None:
        """Make a blocked :meth:`wait` return; safe in a signal handler."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def from_producers(self, limit: int) -> list[bytes]:
        frames: list[bytes] = []
        inlet = self._tasks
        if not inlet.look:
            return frames
        receive, append = inlet.sock.recv, frames.append
        try:
            append(receive(_NOBLOCK))
            # One alone is the common case of a quiet node, and an exception costs more than a question.
            if not _readable(inlet.sock):
                inlet.look = False
                return frames
            for _ in range(limit - 1):
                append(receive(_NOBLOCK))
        except zmq.Again:
            inlet.look = False
        return frames

    def from_workers(self, limit: int) -> list[tuple[str, bytes]]:
        return self._desk.take(limit)

    def subscriptions(self) -> list[tuple[bool, str]]:
        changes: list[tuple[bool, str]] = []
        if not self._results.look:
            return changes
        try:
            while True:
                frame = self._results.sock.recv(_NOBLOCK)
                if len(frame) > 2 and frame[0] in (0, 1) and frame[-1] == 0:
                    changes.append((frame[0] == 1, frame[1:-1].decode("utf-8", "backslashreplace")))
        except zmq.Again:
            self._results.look = False
        return changes

    def ended(self) -> list[int]:
        ended, self._ended = self._ended, []
        return ended

    def publish(self, frame: bytes) -> None:
        self._results.sock.send(frame)
        self._results.sent = True

    def to_worker(self, worker_id: str, frame: bytes) -> bool:
        return self._desk.send(worker_id, frame)

    def watch(self, pid: int) -> bool:
        if pid in self._pids:
            return True
        try:
            fd = os.pidfd_open(pid)
        except (AttributeError, OSError, OverflowError):  # not Linux, the process is gone already, or never was
            return False
        self._pids[pid] = fd
        self._readiness.add(fd, functools.partial(self._process_ended, pid))
        return True

    def _process_ended(self, pid: int) -> None:
        self._unwatch(pid)
        self._ended.append(pid)

    def _unwatch(self, pid: int) -> None:
        fd = self._pids.pop(pid)
        self._readiness.remove(fd)
        os.close(fd)

    def close(self) -> None:
        for pid in list(self._pids):
            self._unwatch(pid)
        if self._authenticator is not None:
            self._authenticator.stop()
        for sock in self._sockets:
            sock.disable_monitor()
        self._desk.close()
        # What was published last (farewells, results of the final turn) still leaves.
        self._context.destroy(linger=500)
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self.address.is_ipc:
            for name in ("tasks", "results", "leases"):
                with contextlib.suppress(FileNotFoundError):
                    (self.address.directory / name).unlink()


class ZmqClientLink:
    """A producer's PUSH and SUB sockets.

    Not thread-safe, with one exception that ZeroMQ allows: the PUSH side (``send``) and the SUB side (``receive``,
    ``subscribe``) may be used by two threads, each under its own lock.
    """

    def __init__(self, address: Address) -> None:
        if address.is_ipc:
            check_directory(address.directory)
        context = _context(_CLIENT_NEEDS)
        self._context: zmq.Context[zmq.Socket[bytes]] | None = context
        try:
            self._open(context, address)
        except BaseException:
            context.destroy(linger=0)
            raise

    def _open(self, context: zmq.Context[zmq.Socket[bytes]], address: Address) -> None:
        self._push = context.socket(zmq.PUSH)
        self._sub = context.socket(zmq.SUB)
        for sock in (self._push, self._sub):
            _prepare(sock, address)
        # Only a connected node gets frames: without it, a PUSH takes a thousand into memory and calls that success.
        self._push.immediate = True
        self._push.sndhwm = _TASKS_HWM
        self._sub.rcvhwm = _SUBSCRIBER_HWM
        # Subscriptions beyond the SUB's own send limit vanish, and those topics never match.
        self._sub.sndhwm = 0
        self._sub.rcvtimeo = self._timeout = -1
        self._green = waiting.is_green()
        self._monitor = self._push.get_monitor_socket(_REFUSALS) if not address.is_ipc else None
        self._problem = ""
        self._sub.connect(address.results)
        self._push.connect(address.tasks)

    def send(self, frame: bytes) -> bool:
        try:
            self._push.send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def wait_sendable(self, seconds: float) -> bool:
        if not self._green:
            return bool(self._push.poll(max(0, int(seconds * 1000)), zmq.POLLOUT))
        until = time.monotonic() + seconds
        while not self._push.poll(0, zmq.POLLOUT):
            if not waiting.wait_readable(_fd(self._push), until):
                return False
        return True

    def receive(self, seconds: float) -> bytes | None:
        try:
            if self._green and seconds > 0:
                until = time.monotonic() + seconds
                while not _readable(self._sub) and waiting.wait_readable(_fd(self._sub), until):
                    pass
                seconds = 0
            if seconds <= 0:
                return self._sub.recv(_NOBLOCK) if _readable(self._sub) else None
            timeout = int(seconds * 1000) + 1
            if timeout != self._timeout:
                self._sub.rcvtimeo = self._timeout = timeout
            return self._sub.recv()
        except zmq.Again:
            return None

    def problem(self) -> str:
        try:
            while self._monitor is not None:
                self._problem = _PROBLEMS.get(_event(self._monitor)[0], "")
        except zmq.Again:
            pass
        return self._problem

    def subscribe(self, topic: str) -> None:
        self._sub.subscribe(topic.encode() + b"\0")

    def fileno(self) -> int:
        return _fd(self._sub)

    def close(self) -> None:
        if self._monitor is not None:
            self._push.disable_monitor()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def abandon(self) -> None:
        # pyzmq's own finalisers check the process id and leave inherited sockets alone.
        _abandoned.append((self._context, self._push, self._sub))
        self._context = None


#: Sockets that belong to the parent of this forked process; kept, so that nothing ever closes them here.
_abandoned: list[object] = []


class SharedContext:
    """One context for all workers of a process: each of its own has two threads, and six descriptors.

    Safe in any number of threads; the context ends with the last of its users.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    def link(self, address: Address, worker_id: str) -> WorkerLink:
        """A worker's link that has its socket from here, where it needs one of ZeroMQ's."""
        return worker_link(address, worker_id, shared=self)

    def take(self) -> zmq.Context[zmq.Socket[bytes]]:
        check_descriptors(_WORKER_NEEDS)
        with self._lock:
            if self._context is None:
                self._context = zmq.Context()
                self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
            self._users += 1
            return self._context

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            context = self._context
            if self._users or context is None:
                return
            self._context = None
        context.term()


def worker_link(address: Address, worker_id: str, *, shared: SharedContext | None = None) -> WorkerLink:
    """A worker's way to its node: ZeroMQ's where the node has a TCP address.

    Raises:
        AddressError: the node's directory is not safe to connect to.
        NodeUnreachable: there are too few descriptors.
    """
    if address.is_ipc:
        return SocketWorkerLink(address, worker_id)
    return ZmqWorkerLink(address, worker_id, shared=shared)


class ZmqWorkerLink:
    """A worker's DEALER to a TCP address, with its socket monitor and a pipe to be woken by.

    :meth:`receive` belongs to the worker's own thread; ``send`` and :meth:`drain` may be called by another thread
    under the worker's lock, while the worker's thread is not in ``receive``.
    """

    def __init__(self, address: Address, worker_id: str, *, shared: SharedContext | None = None) -> None:
        self._shared = shared
        context = _context(_WORKER_NEEDS) if shared is None else shared.take()
        self._context = context
        try:
            self._dealer = context.socket(zmq.DEALER)
            _prepare(self._dealer, address)
        except BaseException:
            self._let_go(linger=0)
            raise
        # The id stays the same over reconnects: the node finds the worker's leases again.
        self._dealer.routing_id = worker_id.encode()
        self._dealer.immediate = True
        self._dealer.sndhwm = 0
        self._dealer.rcvhwm = 0
        self._monitor = self._dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        # Only a socket that was found empty signals what comes in: else a connection made before the first poll is
        # not noticed.
        _readable(self._monitor)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = waiting.poll()
        self._poller.register(_fd(self._dealer), waiting.READ)
        self._poller.register(_fd(self._monitor), waiting.READ)
        self._poller.register(self._wake_read, waiting.READ)
        self._closed = threading.Event()
        self._dealer.connect(address.leases)

    def send(self, frame: bytes) -> bool:
        try:
            self._dealer.send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, seconds: float | None) -> bytes | None:
        # First: sending, or an earlier receive, may have swallowed the descriptor's signal.
        frame = self.drain()
        if frame is not None or (seconds is not None and seconds <= 0):
            return frame
        for fd, _ in self._poller.poll(None if seconds is None else int(seconds * 1000) + 1):
            if fd == self._wake_read:
                waiting.read_now(fd)
        return self.drain()

    def drain(self) -> bytes | None:
        """One frame that is there, without blocking."""
        try:
            return self._dealer.recv(_NOBLOCK) if _readable(self._dealer) else None
        except zmq.Again:
            return None

    def reconnected(self) -> bool:
        fresh = False
        try:
            while _readable(self._monitor):
                fresh = _event(self._monitor)[0] == zmq.EVENT_HANDSHAKE_SUCCEEDED or fresh
        except zmq.Again:
            pass
        return fresh

    def wake(self) -> None:
        if not self._closed.is_set():
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b".")

    def close(self, *, linger: float = 0.0) -> None:
        self._closed.set()
        self._dealer.disable_monitor()
        self._monitor.close(linger=0)
        self._let_go(linger=int(linger * 1000))
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _let_go(self, *, linger: int) -> None:
        if self._shared is None:
            self._context.destroy(linger=linger)
            return
        dealer = getattr(self, "_dealer", None)
        if dealer is not None:
            dealer.close(linger=linger)
        self._shared.give_back()
