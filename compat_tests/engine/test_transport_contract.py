"""What a transport promises (``transport/base.py``): the same tests hold ZeroMQ's sockets and the fake to it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.conftest import PATIENCE, wait_until
from zerocelery.engine import wire
from zerocelery.engine.address import Address, parse_address, prepare_directory
from zerocelery.engine.errors import NodeRunning
from zerocelery.transport.base import ClientLink, NodePort, WorkerLink
from zerocelery.transport.memory import MemoryNetwork
from zerocelery.transport.zmq import ZmqClientLink, ZmqNodePort, worker_link


class Bench:
    """One transport under test: makes its three kinds of ends, and closes them with the test."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.stack = contextlib.ExitStack()
        self.memory = MemoryNetwork()
        if kind == "tcp":
            self.address = parse_address("zmq://127.0.0.1:0", directory=directory)
        else:
            self.address = parse_address(f"zmq://{directory}/node")
            prepare_directory(self.address.directory)
        self._open: list[NodePort | ClientLink | WorkerLink] = []

    def node(self, address: Address | None = None) -> NodePort:
        address = address or self.address
        port: NodePort = (
            self.memory.node(address) if self.kind == "memory" else ZmqNodePort(address, max_message=1 << 20)
        )
        self.address = port.address
        self._closes(port)
        return port

    def _closes(self, end: NodePort | ClientLink | WorkerLink) -> None:
        self._open.append(end)
        self.stack.callback(self.close, end)

    def close(self, end: NodePort | ClientLink | WorkerLink, **how: float) -> None:
        """Close it now, and not again with the test."""
        if end in self._open:
            self._open.remove(end)
            end.close(**how)

    def client(self) -> ClientLink:
        link: ClientLink = self.memory.client(self.address) if self.kind == "memory" else ZmqClientLink(self.address)
        self._closes(link)
        return link

    def worker(self, worker_id: str = "w") -> WorkerLink:
        link: WorkerLink = (
            self.memory.worker(self.address, worker_id)
            if self.kind == "memory"
            else worker_link(self.address, worker_id)
        )
        self._closes(link)
        return link

    def process(self) -> tuple[int, Callable[[], None]]:
        """A living process's pid, and what ends it."""
        if self.kind == "memory":
            pid = 4_711

            def end() -> None:
                self.memory.processes.discard(pid)
                self.memory.notify()

            self.memory.processes.add(pid)
            return pid, end
        process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

        def kill() -> None:
            process.kill()
            process.communicate()

        self.stack.callback(kill)
        return process.pid, kill


@pytest.fixture(params=["ipc", "tcp", "memory"])
def bench(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Bench]:
    one = Bench(request.param, short_path)
    with one.stack:
        yield one


def from_producers(port: NodePort, count: int, *, limit: int = 100) -> list[bytes]:
    frames: list[bytes] = []
    deadline = time.monotonic() + PATIENCE
    while len(frames) < count and time.monotonic() < deadline:
        port.wait(1.0)
        frames += port.from_producers(limit)
    return frames


def from_workers(port: NodePort, count: int) -> list[tuple[str, bytes]]:
    frames: list[tuple[str, bytes]] = []
    deadline = time.monotonic() + PATIENCE
    while len(frames) < count and time.monotonic() < deadline:
        port.wait(1.0)
        frames += port.from_workers(100)
    return frames


def subscriptions(port: NodePort, count: int) -> list[tuple[bool, str]]:
    changes: list[tuple[bool, str]] = []
    deadline = time.monotonic() + PATIENCE
    while len(changes) < count and time.monotonic() < deadline:
        port.wait(1.0)
        changes += port.subscriptions()
    return changes


def send(link: ClientLink | WorkerLink, *frames: bytes) -> None:
    for frame in frames:
        wait_until(lambda f=frame: link.send(f), what="a connected node")


def frame(topic: str, body: bytes) -> bytes:
    return wire.topic_prefix(topic) + body


# ── producers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_producer_sends_arrives_once_and_in_order(bench: Bench) -> None:
    port, link = bench.node(), bench.client()
    sent = [b"%d" % n for n in range(50)]
    send(link, *sent)
    assert from_producers(port, 50) == sent
    assert port.from_producers(100) == []


def test_a_node_takes_no_more_frames_than_it_asks_for(bench: Bench) -> None:
    port, link = bench.node(), bench.client()
    send(link, *(b"%d" % n for n in range(10)))
    got: list[bytes] = []
    while len(got) < 10:
        port.wait(1.0)
        some = port.from_producers(3)
        assert len(some) <= 3
        got += some
    assert got == [b"%d" % n for n in range(10)]


def test_without_a_node_nothing_is_taken_for_sending(bench: Bench) -> None:
    port = bench.node()
    bench.close(port)
    client, worker = bench.client(), bench.worker()
    assert not client.send(b"x")
    assert not client.wait_sendable(0.02)
    assert not worker.send(b"x")


def test_a_client_that_was_there_first_reaches_the_node_that_comes(bench: Bench) -> None:
    bench.close(bench.node())
    link = bench.client()
    link.subscribe("inbox")
    port = bench.node(bench.address)
    assert link.wait_sendable(PATIENCE)
    assert link.send(b"hello")
    assert from_producers(port, 1) == [b"hello"]
    assert subscriptions(port, 1) == [(True, "inbox")]


def test_a_full_pipe_says_so_and_takes_more_later(bench: Bench) -> None:
    port, link = bench.node(), bench.client()
    send(link, b"first")
    body = b"x" * 10_000
    count = 1
    while link.wait_sendable(0.1):  # the system's own buffers take their time to fill
        while link.send(body):
            count += 1
            assert count < 100_000
    assert not link.send(body)
    assert len(from_producers(port, count)) == count
    assert link.wait_sendable(PATIENCE)
    assert link.send(b"last")
    assert from_producers(port, 1) == [b"last"]


# ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_topics_frames_reach_its_subscribers_and_nobody_else(bench: Bench) -> None:
    port, one, other = bench.node(), bench.client(), bench.client()
    one.subscribe("ab")
    other.subscribe("abc")
    assert sorted(subscriptions(port, 2)) == [(True, "ab"), (True, "abc")]
    for topic in ("ab", "abc", "a", "nobody"):
        port.publish(frame(topic, topic.encode()))
    assert one.receive(PATIENCE) == frame("ab", b"ab")
    assert other.receive(PATIENCE) == frame("abc", b"abc")
    assert one.receive(0) is None
    assert other.receive(0.02) is None


def test_one_client_may_listen_to_several_topics_and_several_to_one(bench: Bench) -> None:
    port, one, other = bench.node(), bench.client(), bench.client()
    for link, topic in ((one, "x"), (one, "y"), (other, "y")):
        link.subscribe(topic)
    assert len(subscriptions(port, 3)) == 3
    port.publish(frame("x", b"1"))
    port.publish(frame("y", b"2"))
    assert [one.receive(PATIENCE), one.receive(PATIENCE)] == [frame("x", b"1"), frame("y", b"2")]
    assert other.receive(PATIENCE) == frame("y", b"2")


def test_what_was_published_before_the_subscription_is_gone(bench: Bench) -> None:
    port, link = bench.node(), bench.client()
    port.publish(frame("t", b"early"))
    link.subscribe("t")
    subscriptions(port, 1)
    port.publish(frame("t", b"late"))
    assert link.receive(PATIENCE) == frame("t", b"late")


def test_a_client_that_leaves_is_reported_for_each_of_its_topics(bench: Bench) -> None:
    port, link = bench.node(), bench.client()
    link.subscribe("x")
    link.subscribe("y")
    subscriptions(port, 2)
    bench.close(link)
    assert sorted(subscriptions(port, 2)) == [(False, "x"), (False, "y")]
    port.publish(frame("x", b"to nobody"))


def test_a_slow_subscriber_loses_frames_and_holds_nobody_up(bench: Bench) -> None:
    port, slow, quick = bench.node(), bench.client(), bench.client()
    slow.subscribe("slow")
    quick.subscribe("quick")
    subscriptions(port, 2)
    body = b"x" * 100_000
    for _ in range(5_000):
        port.publish(frame("slow", body))
    port.publish(frame("quick", b"still here"))
    assert quick.receive(PATIENCE) == frame("quick", b"still here")
    received = 0
    while slow.receive(0.2) is not None:
        received += 1
    assert 0 < received < 5_000


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_workers_are_told_apart_and_answered_one_by_one(bench: Bench) -> None:
    port, one, other = bench.node(), bench.worker("one"), bench.worker("other")
    send(one, b"1")
    send(other, b"2")
    assert sorted(from_workers(port, 2)) == [("one", b"1"), ("other", b"2")]
    assert port.to_worker("other", b"for other")
    assert port.to_worker("one", b"for one")
    assert _received(one) == b"for one"
    assert _received(other) == b"for other"


def _received(link: WorkerLink) -> bytes | None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        frame = link.receive(1.0)
        if frame is not None:
            return frame
        link.reconnected()
    return None


def test_a_worker_that_is_not_there_can_not_be_sent_to(bench: Bench) -> None:
    port, link = bench.node(), bench.worker("w")
    assert not port.to_worker("nobody", b"x")
    send(link, b"hello")
    from_workers(port, 1)
    assert port.to_worker("w", b"x")
    bench.close(link)
    wait_until(lambda: not port.to_worker("w", b"y"), what="the worker gone")


def test_a_new_connection_is_told_once(bench: Bench) -> None:
    port, link = bench.node(), bench.worker()
    wait_until(link.reconnected)
    assert not link.reconnected()
    bench.close(port)
    bench.node(bench.address)
    wait_until(link.reconnected, what="the connection to the second node")
    assert not link.reconnected()


def test_a_worker_keeps_its_name_over_a_reconnect(bench: Bench) -> None:
    bench.close(bench.node())
    link = bench.worker("same")
    port = bench.node(bench.address)
    send(link, b"hello")
    assert from_workers(port, 1) == [("same", b"hello")]
    assert port.to_worker("same", b"back")
    assert _received(link) == b"back"


def test_a_second_link_with_a_workers_name_takes_over(bench: Bench) -> None:
    port, dead, alive = bench.node(), bench.worker("w"), bench.worker("w2")
    del alive
    send(dead, b"1")
    from_workers(port, 1)
    heir = bench.worker("w")
    send(heir, b"2")
    assert from_workers(port, 1) == [("w", b"2")]
    assert port.to_worker("w", b"for the heir")
    assert _received(heir) == b"for the heir"


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_blocks_where_nothing_is_there_and_no_time_is_given(bench: Bench) -> None:
    port, client, worker = bench.node(), bench.client(), bench.worker()
    wait_until(worker.reconnected)
    began = time.monotonic()
    port.wait(0)
    assert (port.from_producers(10), port.from_workers(10), port.subscriptions(), port.ended()) == ([], [], [], [])
    assert client.receive(0) is None
    assert worker.receive(0) is None
    port.wait(0.01)
    assert client.receive(0.01) is None
    assert worker.receive(0.01) is None
    assert time.monotonic() - began < PATIENCE


def test_a_waiting_node_is_woken_from_another_thread(bench: Bench) -> None:
    port = bench.node()
    waker = threading.Timer(0.02, port.wake)
    waker.start()
    port.wait(PATIENCE)
    waker.join()
    port.wake()
    port.wait(PATIENCE)


def test_a_waiting_node_returns_for_whatever_comes(bench: Bench) -> None:
    port, client, worker = bench.node(), bench.client(), bench.worker()
    client.subscribe("t")
    assert subscriptions(port, 1) == [(True, "t")]
    send(client, b"task")
    assert from_producers(port, 1) == [b"task"]
    send(worker, b"report")
    assert from_workers(port, 1) == [("w", b"report")]


def test_a_waiting_worker_is_woken_by_a_wake_a_connection_and_a_frame(bench: Bench) -> None:
    port = bench.node()
    bench.close(port)
    link = bench.worker()
    waker = threading.Timer(0.02, link.wake)
    waker.start()
    assert link.receive(PATIENCE) is None
    waker.join()
    later: list[NodePort] = []
    binder = threading.Timer(0.02, lambda: later.append(bench.node(bench.address)))
    binder.start()
    while not link.reconnected():
        assert link.receive(PATIENCE) is None
    binder.join()
    send(link, b"hello")
    from_workers(later[0], 1)
    assert later[0].to_worker("w", b"lease")
    assert link.receive(PATIENCE) == b"lease"


def test_a_frame_wakes_who_waits_for_it(bench: Bench) -> None:
    port, client = bench.node(), bench.client()
    client.subscribe("t")
    subscriptions(port, 1)
    publisher = threading.Timer(0.02, port.publish, [frame("t", b"x")])
    publisher.start()
    assert client.receive(PATIENCE) == frame("t", b"x")
    publisher.join()


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_watched_process_is_reported_once_when_it_ends(bench: Bench) -> None:
    port = bench.node()
    pid, end = bench.process()
    assert port.watch(pid)
    assert port.watch(pid)
    assert port.ended() == []
    end()
    port.wait(PATIENCE)
    assert port.ended() == [pid]
    assert port.ended() == []
    assert not port.watch(pid)


@pytest.mark.parametrize("pid", [-1, 0, 1 << 31, 1 << 40, (1 << 63) - 1])
def test_what_can_not_be_a_pid_is_not_watched(bench: Bench, pid: int) -> None:
    assert not bench.node().watch(pid)


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_node_the_next_one_gets_everybody_back(bench: Bench) -> None:
    port, client, worker = bench.node(), bench.client(), bench.worker()
    client.subscribe("t")
    subscriptions(port, 1)
    send(client, b"1")
    send(worker, b"1")
    bench.close(port)
    wait_until(lambda: not client.send(b"into the void"), what="the connection lost")
    port = bench.node(bench.address)
    # ZeroMQ subscribes anew when the client reads next, not before.
    assert client.receive(1.0) is None
    assert subscriptions(port, 1) == [(True, "t")]
    send(client, b"2")
    send(worker, b"2")
    assert from_producers(port, 1)[-1] == b"2"
    assert from_workers(port, 1)[-1] == ("w", b"2")
    port.publish(frame("t", b"news"))
    assert client.receive(PATIENCE) == frame("t", b"news")


def test_a_free_port_is_found_and_told(short_path: Path) -> None:
    for kind in ("tcp", "memory"):
        bench = Bench(kind, short_path)
        with bench.stack:
            address = parse_address("zmq://127.0.0.1:0", directory=short_path)
            port, other = bench.node(address), bench.node(address)
            assert port.address.port != other.address.port
            assert port.address.port > 0
            assert port.address.url == f"zmq://127.0.0.1:{port.address.port}"


def test_a_port_that_is_taken_is_refused(short_path: Path) -> None:
    """An ipc path is kept by the node's lock instead: ZeroMQ itself would hand it over in silence."""
    for kind in ("tcp", "memory"):
        bench = Bench(kind, short_path)
        with bench.stack:
            port = bench.node(parse_address("zmq://127.0.0.1:0", directory=short_path))
            with pytest.raises(NodeRunning):
                bench.node(port.address)


def test_a_forked_child_leaves_its_parents_link_alone(bench: Bench) -> None:
    port, link = bench.node(), bench.client()
    send(link, b"before")
    child = os.fork()
    if child == 0:
        link.abandon()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    send(link, b"after")
    assert from_producers(port, 2) == [b"before", b"after"]


def test_a_leaving_worker_may_give_its_last_words_time(bench: Bench) -> None:
    port, link = bench.node(), bench.worker()
    send(link, b"hello")
    from_workers(port, 1)
    link.send(b"bye")
    bench.close(link, linger=PATIENCE)
    assert from_workers(port, 1) == [("w", b"bye")]


# ── what only the fake can do ────────────────────────────────────────────────────────────────────────────────────────


class TestFaults:
    @pytest.fixture
    def network(self) -> MemoryNetwork:
        return MemoryNetwork()

    @pytest.fixture
    def address(self) -> Address:
        return parse_address("zmq:///nowhere")

    def test_a_held_line_is_a_list_to_play_with(self, network: MemoryNetwork, address: Address) -> None:
        port, link = network.node(address), network.client(address)
        up = link.tasks.up
        up.held = True
        for one in (b"1", b"2", b"3", b"4"):
            assert link.send(one)
        assert port.from_producers(9) == []
        up.release(1)
        assert port.from_producers(9) == [b"1"]
        del up.under_way[0]  # drop 2
        up.under_way.reverse()
        up.under_way.append(up.under_way[0])  # repeat 4
        up.release()
        assert port.from_producers(9) == [b"4", b"3", b"4"]

    def test_a_cut_loses_what_is_under_way_and_lasts_until_it_is_mended(
        self, network: MemoryNetwork, address: Address
    ) -> None:
        port, client, worker = network.node(address), network.client(address), network.worker(address, "w")
        client.subscribe("t")
        assert port.subscriptions() == [(True, "t")]
        assert worker.reconnected()
        for connection in (client.tasks, client.results, worker):
            connection.up.held = connection.down.held = True
        client.send(b"task")
        worker.send(b"report")
        port.publish(frame("t", b"x"))
        port.to_worker("w", b"lease")
        for connection in (client.tasks, client.results, worker):
            connection.cut()
            connection.up.held = connection.down.held = False
        assert port.subscriptions() == [(False, "t")]
        assert not client.send(b"x")
        assert not port.to_worker("w", b"x")
        port.publish(frame("t", b"x"))
        assert (client.receive(0), worker.receive(0), port.from_producers(9), port.from_workers(9)) == (
            None, None, [], [],
        )  # fmt: skip
        for connection in (client.tasks, client.results, worker):
            connection.mend()
        assert port.subscriptions() == [(True, "t")]
        assert worker.reconnected()
        assert client.send(b"again")
        assert port.from_producers(9) == [b"again"]
        assert port.to_worker("w", b"again")
        port.publish(frame("t", b"again"))
        assert [client.receive(0), client.receive(0)] == [frame("t", b"again"), None]

    def test_a_late_subscription_misses_what_was_published_meanwhile(
        self, network: MemoryNetwork, address: Address
    ) -> None:
        port, link = network.node(address), network.client(address)
        link.results.up.held = True
        link.subscribe("t")
        port.publish(frame("t", b"missed"))
        link.results.up.release()
        port.publish(frame("t", b"heard"))
        assert [link.receive(0), link.receive(0)] == [frame("t", b"heard"), None]

    def test_a_new_node_does_not_mend_what_a_test_has_cut(self, network: MemoryNetwork, address: Address) -> None:
        port, link = network.node(address), network.client(address)
        link.tasks.cut()
        port.close()
        port = network.node(address)
        assert not link.send(b"x")
        link.tasks.mend()
        assert link.send(b"x")
        assert port.from_producers(9) == [b"x"]
