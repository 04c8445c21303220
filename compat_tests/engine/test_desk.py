"""What the way between a node and its machine's workers adds to the contract of a transport: nothing blocks in sending,
and a frame may be of any size up to the limit."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.conftest import PATIENCE, wait_until
from zerocelery.engine.address import parse_address, prepare_directory
from zerocelery.engine.errors import AddressError
from zerocelery.transport.descriptors import Door
from zerocelery.transport.desk import FrameStream, SocketDesk, SocketWorkerLink
from zerocelery.transport.readiness import Readiness

LIMIT = 10 << 20


class Office:
    """A desk, and what waits at it."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.address = parse_address(f"zmq://{directory}/node")
        prepare_directory(self.address.directory)
        self.path = self.address.directory / "leases"
        self.readiness = Readiness()
        self.stack = stack
        self.desk = SocketDesk(self.path, self.readiness, Door(), max_message=LIMIT)
        stack.callback(self.desk.close)

    def worker(self, name: str = "w") -> SocketWorkerLink:
        link = SocketWorkerLink(self.address, name)
        self.stack.callback(link.close)
        return link

    def stranger(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        self.stack.callback(peer.close)
        peer.settimeout(PATIENCE)
        peer.connect(str(self.path))
        return peer

    def take(self, count: int, link: SocketWorkerLink | None = None) -> list[tuple[str, bytes]]:
        """So many frames; meanwhile the worker looks after what it could not send at once."""
        taken: list[tuple[str, bytes]] = []

        def enough() -> bool:
            self.readiness.wait(0.01)
            if link is not None:
                link.receive(0)
            taken.extend(self.desk.take(1_000))
            return len(taken) >= count

        wait_until(enough)
        return taken

    def is_cut_off(self, peer: socket.socket) -> bool:
        peer.setblocking(False)
        self.readiness.wait(0.01)
        try:
            return peer.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


@pytest.fixture
def office(short_path: Path) -> Iterator[Office]:
    with contextlib.ExitStack() as stack:
        yield Office(short_path, stack)


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 8, 64 << 10, (64 << 10) + 1, 1 << 20, LIMIT])
def test_frames_of_any_size_arrive_whole_in_both_directions(office: Office, size: int) -> None:
    link = office.worker()
    frames = [os.urandom(size), b"small", os.urandom(size), b""]
    for frame in frames:
        assert link.send(frame)
    assert office.take(4, link) == [("w", frame) for frame in frames]

    for frame in frames:
        assert office.desk.send("w", frame)
    received: list[bytes] = []

    def all_have_come() -> bool:
        office.readiness.wait(0.0)
        frame = link.receive(0.01)
        if frame is not None:
            received.append(frame)
        return len(received) == len(frames)

    wait_until(all_have_come)
    assert received == frames


def test_a_worker_whose_node_reads_nothing_is_not_held_up(office: Office) -> None:
    link = office.worker()
    for number in range(100):
        assert link.send(b"%d" % number + bytes(100_000))
    assert [frame.rstrip(b"\0") for _, frame in office.take(100, link)] == [b"%d" % n for n in range(100)]


def test_a_node_whose_worker_reads_nothing_is_not_held_up(office: Office) -> None:
    slow, quick = office.worker("slow"), office.worker("quick")
    for link in (slow, quick):
        link.send(b"hello")
    office.take(2)
    for _ in range(100):
        assert office.desk.send("slow", bytes(100_000))
    assert office.desk.send("quick", b"still here")
    wait_until(lambda: quick.receive(0.1) == b"still here")


def test_a_worker_that_sends_faster_than_the_node_takes_is_slowed_down(office: Office) -> None:
    """Else its frames would fill the node's memory."""
    link = office.worker()
    for _ in range(30_000):
        link.send(b"a frame")
    for _ in range(50):
        office.readiness.wait(0)
        link.receive(0)
    stream = link._stream
    assert stream is not None
    assert stream.unsent
    assert len(office.take(30_000, link)) == 30_000


def test_last_words_that_had_no_room_get_their_time(office: Office) -> None:
    link = SocketWorkerLink(office.address, "w")
    link.send(bytes(1 << 20))
    stream = link._stream
    assert stream is not None
    assert stream.unsent
    link.close(linger=0.05)  # nobody reads: it doesn't wait longer than that


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(8),  # an id of no length
        (256).to_bytes(8, "little") + bytes(256),
        (1).to_bytes(8, "little") + b"w" + (LIMIT + 1).to_bytes(8, "little"),
        b"\xff" * 9,
    ],
)
def test_who_speaks_something_else_is_cut_off_and_nobody_else(office: Office, words: bytes) -> None:
    link, stranger = office.worker("honest"), office.stranger()
    stranger.sendall(words)
    wait_until(lambda: office.is_cut_off(stranger))
    link.send(b"hello")
    assert office.take(1) == [("honest", b"hello")]


def test_what_was_sent_before_the_end_is_read(office: Office) -> None:
    """A worker that reported and then died has not lost what it reported."""
    stranger = office.stranger()
    stream = FrameStream(stranger)
    for frame in (b"w", b"report", b"and another"):
        stream.send(frame)
    stranger.close()
    assert office.take(2) == [("w", b"report"), ("w", b"and another")]
    wait_until(lambda: not office.desk.send("w", b"x"))


def test_the_socket_is_its_users_alone(office: Office) -> None:
    assert stat.S_IMODE(office.path.stat().st_mode) == 0o600


def test_a_path_that_can_not_be_had_is_refused(office: Office) -> None:
    with pytest.raises(AddressError, match="can't listen at"):
        SocketDesk(office.path, office.readiness, Door(), max_message=LIMIT)
