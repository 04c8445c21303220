"""The way between a node and the workers of its machine: a Unix socket, and frames with their length before them.

ZeroMQ carries them where a node has a TCP address. Here it is left out: each of its hops wakes three threads one after
the other (the sender's I/O thread, the receiver's, the receiver), and this one the receiver alone. A task goes two hops
to a worker and back, so its round trip takes half of the time (docs/performance.md).

A worker's first frame is its id. Both ends never block in sending: what the socket has no room for is kept.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from zerocelery.engine.address import Address, check_directory
from zerocelery.engine.errors import AddressError
from zerocelery.transport import waiting
from zerocelery.transport.descriptors import Door, check_descriptors
from zerocelery.transport.readiness import Readiness

#: Before each frame: its length.
_LENGTH: Final = struct.Struct("<Q")

#: Read from a socket at once, and at most in a row before others have their turn (bytes).
_CHUNK: Final = 64 << 10
_CHUNKS: Final = 16

#: A broken connection is an error of the call that meets it, whatever the program has done to SIGPIPE.
_FLAGS: Final = getattr(socket, "MSG_NOSIGNAL", 0)

#: Connections that the kernel keeps until the node takes them in.
_BACKLOG: Final = 1_000

_LONGEST_ID: Final = 255

#: With so many frames at hand a node reads no more: they wait in the sockets, and who sends them with them.
_ENOUGH: Final = 4_096

#: How fast a lost node is looked for again (seconds, doubling).
_RECONNECT: Final = 0.02
_RECONNECT_AT_MOST: Final = 0.5

#: What a worker's link takes, and some to spare.
_LINK_NEEDS: Final = 8

_NO_LIMIT: Final = (1 << 64) - 1


class FrameStream:
    """Frames over a stream socket that doesn't block.

    Its errors are OSErrors, and each of them means that the connection is over.

    Arguments:
        most: the longest frame that is taken (bytes); a longer one is never allocated.
    """

    __slots__ = ("_most", "_part", "_unsent", "sock")

    def __init__(self, sock: socket.socket, most: int = _NO_LIMIT) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._most = most
        self._part = bytearray()  # what has come of a frame that is not whole
        self._unsent: deque[memoryview] = deque()

    @property
    def unsent(self) -> bool:
        """Whether something is kept that the socket had no room for."""
        return bool(self._unsent)

    def send(self, frame: bytes) -> None:
        """Send, or keep what there is no room for."""
        data = _LENGTH.pack(len(frame)) + frame
        sent = 0
        if not self._unsent:
            try:
                sent = self.sock.send(data, _FLAGS)
            except BlockingIOError:
                pass
            if sent == len(data):
                return
        self._unsent.append(memoryview(data)[sent:])

    def flush(self) -> bool:
        """Send what is kept; whether nothing is left."""
        unsent = self._unsent
        while unsent:
            try:
                sent = self.sock.send(unsent[0], _FLAGS)
            except BlockingIOError:
                return False
            if sent == len(unsent[0]):
                unsent.popleft()
            else:
                unsent[0] = unsent[0][sent:]
        return True

    def receive(self) -> list[bytes]:
        """The frames that have come, without blocking."""
        frames: list[bytes] = []
        for _ in range(_CHUNKS):
            try:
                data = self.sock.recv(_CHUNK)
            except BlockingIOError:
                break
            if not data:
                if frames:
                    break  # the next call says that it is over
                raise ConnectionResetError("the other side has closed the connection")
            self._split(data, frames)
            if len(data) < _CHUNK:
                break
        return frames

    def _split(self, data: bytes, frames: list[bytes]) -> None:
        part = self._part
        if not part and len(data) >= _LENGTH.size and len(data) == _LENGTH.size + self._length(data, 0):
            frames.append(data[_LENGTH.size :])
            return
        part += data
        start = 0
        while len(part) - start >= _LENGTH.size:
            begin = start + _LENGTH.size
            end = begin + self._length(part, start)
            if end > len(part):
                break
            frames.append(bytes(memoryview(part)[begin:end]))
            start = end
        del part[:start]

    def _length(self, data: bytes | bytearray, at: int) -> int:
        length: int = _LENGTH.unpack_from(data, at)[0]
        if length > self._most:
            raise ConnectionAbortedError(f"a frame of {length} bytes was announced, and the most is {self._most}")
        return length


class _Peer:
    """A worker's connection; '' as its name until it has said it."""

    __slots__ = ("name", "stream")

    def __init__(self, stream: FrameStream) -> None:
        self.stream = stream
        self.name = ""


class SocketDesk:
    """A node's side.

    Arguments:
        path: of the socket; whatever is there must be gone.
        readiness: what the node waits with.
        door: who may come in.
        max_message: the longest frame that is taken (bytes).

    Raises:
        AddressError: it can't listen there.
    """

    def __init__(self, path: Path, readiness: Readiness, door: Door, *, max_message: int) -> None:
        self._readiness = readiness
        self._door = door
        self._max_message = max_message
        self._peers: set[_Peer] = set()
        self._by_name: dict[str, _Peer] = {}
        self._arrived: deque[tuple[str, bytes]] = deque()
        self._listener = _listen(path)
        readiness.add(self._listener.fileno(), self._accept)

    def waits(self) -> bool:
        """Whether something can be taken without waiting for it."""
        return bool(self._arrived)

    def take(self, limit: int) -> list[tuple[str, bytes]]:
        """What workers sent, with their ids."""
        arrived = self._arrived
        return [arrived.popleft() for _ in range(min(limit, len(arrived)))]

    def send(self, worker_id: str, frame: bytes) -> bool:
        """Send to one worker; False where it is not connected any more."""
        peer = self._by_name.get(worker_id)
        if peer is None:
            return False
        try:
            peer.stream.send(frame)
        except OSError:
            self._drop(peer)
            return False
        if peer.stream.unsent:
            self._readiness.writing(peer.stream.sock.fileno(), True)
        return True

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # gone already
            return
        if not self._door.admits(sock.fileno()):
            sock.close()
            return
        peer = _Peer(FrameStream(sock, self._max_message))
        self._peers.add(peer)
        self._readiness.add(sock.fileno(), functools.partial(self._look, peer))

    def _look(self, peer: _Peer) -> None:
        """Something can be read from this one, or written to it."""
        stream = peer.stream
        try:
            if stream.unsent and stream.flush():
                self._readiness.writing(stream.sock.fileno(), False)
            frames = stream.receive() if len(self._arrived) < _ENOUGH else []
        except OSError:
            self._drop(peer)
            return
        if not peer.name and frames and not self._introduce(peer, frames.pop(0)):
            return
        name, append = peer.name, self._arrived.append
        for frame in frames:
            append((name, frame))

    def _introduce(self, peer: _Peer, frame: bytes) -> bool:
        """Take a worker's id; False where it is none."""
        if not 0 < len(frame) <= _LONGEST_ID:
            self._drop(peer)
            return False
        peer.name = frame.decode("ascii", "backslashreplace")
        former = self._by_name.get(peer.name)
        if former is not None:  # a dead connection of the same worker, whose end has not been noticed
            self._drop(former)
        self._by_name[peer.name] = peer
        return True

    def _drop(self, peer: _Peer) -> None:
        self._readiness.remove(peer.stream.sock.fileno())
        peer.stream.sock.close()
        self._peers.discard(peer)
        if self._by_name.get(peer.name) is peer:
            del self._by_name[peer.name]

    def close(self) -> None:
        """Let go of all connections; what was sent can still be read."""
        self._readiness.remove(self._listener.fileno())
        self._listener.close()
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.stream.flush()
            self._drop(peer)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise AddressError(f"the node can't listen at {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    return listener


class SocketWorkerLink:
    """A worker's side (:class:`~zerocelery.transport.base.WorkerLink`).

    :meth:`receive` belongs to the worker's own thread; the other methods may be called by another thread under the
    worker's lock. The connection is made again by whichever of them finds it lost.

    Raises:
        AddressError: the node's directory is not safe to connect to.
        NodeUnreachable: there are too few descriptors.
    """

    def __init__(self, address: Address, worker_id: str) -> None:
        check_directory(address.directory)
        check_descriptors(_LINK_NEEDS)
        self._path = address.leases.removeprefix("ipc://")
        self._id = worker_id.encode()
        self._lock = threading.Lock()  # making and losing the connection
        self._stream: FrameStream | None = None
        self._frames: deque[bytes] = deque()
        self._fresh = False  # a connection was made that reconnected() has not told
        self._news = False  # likewise, and receive() has not returned for it
        self._pause = _RECONNECT
        self._retry_at = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = waiting.poll()
        self._poller.register(self._wake_read, waiting.READ)
        self._closed = threading.Event()
        self._connect()

    def _connect(self) -> None:
        """Try to connect, if it is time to."""
        with self._lock:
            if self._stream is not None or self._closed.is_set() or time.monotonic() < self._retry_at:
                return
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream = FrameStream(sock)
            try:
                sock.connect(self._path)
                stream.send(self._id)
            except OSError:
                sock.close()
                self._retry_at = time.monotonic() + self._pause
                self._pause = min(self._pause * 2, _RECONNECT_AT_MOST)
                return
            self._pause = _RECONNECT
            self._poller.register(sock.fileno(), waiting.READ)
            self._fresh = self._news = True
            self._stream = stream

    def _lose(self, stream: FrameStream) -> None:
        with self._lock:
            if self._stream is stream:
                self._stream = None
                self._retry_at = time.monotonic() + self._pause
                self._poller.unregister(stream.sock.fileno())
                stream.sock.close()

    def send(self, frame: bytes) -> bool:
        if self._stream is None:
            self._connect()
        stream = self._stream
        if stream is None:
            return False
        try:
            stream.send(frame)
        except OSError:
            self._lose(stream)
            return False
        except BaseException:  # a task's limit is over: what follows a half of a frame would be read as its other half
            self._lose(stream)
            raise
        if stream.unsent:
            self.wake()  # who waits in receive has to wait for room, too
        return True

    def receive(self, seconds: float | None) -> bytes | None:
        if self._frames:
            return self._frames.popleft()
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            woken = self._wait(until)
            self._look()
            if self._frames:
                return self._frames.popleft()
            if self._news:
                self._news = False
                return None
            if woken or (until is not None and time.monotonic() >= until):
                return None

    def _wait(self, until: float | None) -> bool:
        """Block until there is something to do; whether that is a wake."""
        stream = self._stream
        if stream is None:
            retry = self._retry_at
            until = retry if until is None else min(until, retry)
        elif stream.unsent:
            self._await_room(stream, True)
        if self._news:
            until = 0.0
        timeout = None if until is None else max(0, int((until - time.monotonic()) * 1000) + 1)
        woken = False
        for fd, _ in self._poller.poll(timeout):
            if fd == self._wake_read:
                waiting.read_now(fd)
                woken = True
        return woken

    def _await_room(self, stream: FrameStream, wanted: bool) -> None:
        fd = stream.sock.fileno()
        self._poller.unregister(fd)
        self._poller.register(fd, waiting.READ | waiting.WRITE if wanted else waiting.READ)

    def _look(self) -> None:
        """Take what has come, send what was kept; make the connection again where it is lost."""
        stream = self._stream
        if stream is None:
            self._connect()
            return
        try:
            if stream.unsent and stream.flush():
                self._await_room(stream, False)
            self._frames.extend(stream.receive())
        except OSError:
            self._lose(stream)

    def reconnected(self) -> bool:
        if not self._fresh:
            self._look()
        fresh, self._fresh = self._fresh, False
        return fresh

    def wake(self) -> None:
        if not self._closed.is_set():
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b".")

    def close(self, *, linger: float = 0.0) -> None:
        stream = self._stream
        if stream is not None:
            self._linger(stream, time.monotonic() + linger)
            self._lose(stream)
        self._closed.set()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _linger(self, stream: FrameStream, until: float) -> None:
        """Wait for what was sent to leave."""
        try:
            while not stream.flush() and (left := until - time.monotonic()) > 0:
                self._await_room(stream, True)
                self._poller.poll(int(left * 1000) + 1)
        except OSError:
            pass  # nobody is there to read it
