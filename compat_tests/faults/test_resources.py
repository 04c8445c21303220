"""Too few descriptors, high-water marks of one, messages at and beyond the limit (fault matrix, rows 49, 54 and 59)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable

import msgspec
import pytest

from compat_tests.conftest import wait_until
from compat_tests.faults.rig import Rig, assert_idle, loss_of, resident_bytes, status_of, task, value_of
from zerocelery.engine import wire
from zerocelery.engine.errors import NodeUnreachable, PayloadTooLarge, QueueFull
from zerocelery.engine.producer import Producer

pytestmark = pytest.mark.faults


def connected(producer: Producer) -> bool:
    """Whether the node has this client's word; it tries once."""
    try:
        producer.query("status", timeout=0.1)
    except NodeUnreachable:
        return False
    return True


# ── descriptors ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("kind", "clients"), [("ipc", 13), ("tcp", 25)])
def test_a_node_out_of_descriptors_turns_new_clients_away_and_serves_the_others(
    rig: Rig, kind: str, clients: int
) -> None:
    """Row 59, the node. Each client takes two descriptors; libzmq bears to have none for TCP, but not for ipc."""
    node = rig.node("zmq://127.0.0.1:0" if kind == "tcp" else rig.url, nofile=64)
    url = rig.url_of(node)
    rig.worker(url)
    first = rig.client(url)
    one = task("echo", 1, to=first)
    assert value_of(first.wait(one.id, token=first.submit(one), timeout=20)) == 1
    session = first._session
    crowd = [rig.client(url) for _ in range(clients)]
    inside = [client for client in crowd if connected(client)]
    outside = [client for client in crowd if client not in inside]
    assert inside
    assert outside
    assert "a client was turned away" in rig.box.output(node)
    # Each of those outside tries again 30 times a second, which costs something; a node that spins uses all.
    assert_idle(node.pid, share=0.5)
    # Who was there before has not noticed anything.
    tasks = [task("echo", number, to=first) for number in range(50)]
    token = first.submit_many(tasks)
    assert [value_of(first.wait(one.id, token=token, timeout=20)) for one in tasks] == list(range(50))
    assert first._session == session, rig.box.output(node)
    assert status_of(first)["counters"]["lost"] == 0
    # There is room again.
    late = outside.pop()
    for client in inside + outside:
        client.close(timeout=0)
    wait_until(lambda: connected(late))
    one = task("echo", "late", to=late)
    assert value_of(late.wait(one.id, token=late.submit(one), timeout=20)) == "late"


def test_a_node_with_too_few_descriptors_refuses_to_start(rig: Rig) -> None:
    """Row 59, the node."""
    node = rig.node(wait=False, nofile=30)
    assert node.wait(20) == 1
    assert "raise its limit (ulimit -n" in rig.box.output(node)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_whose_task_takes_all_descriptors_reports_it_also_to_another_node(rig: Rig, pool: str) -> None:
    """Row 59, the worker: it can't connect to the new node before the task gives them back."""
    node = rig.node()
    worker = rig.worker(pool=pool, nofile=64)
    gate = rig.gate()
    client = rig.client()
    hoarder = task("hoard", str(gate.path), to=client)
    client.submit(hoarder)
    run = rig.wait_for_run(hoarder.id)
    wait_until(lambda: len(os.listdir(f"/proc/{run.pid}/fd")) >= 60)
    node.kill()
    node.wait(20)
    if pool == "prefork":
        wait_until(rig.box.node_pid)
    else:  # this process, which would start another node, is the one without descriptors
        rig.node()
    assert_idle(run.pid)
    if pool == "prefork":
        assert_idle(worker.pid, seconds=0.5)
    gate.open()
    assert value_of(client.wait(hoarder.id, timeout=20)) > 20
    assert len(rig.runs(hoarder.id)) == 1
    one = task("echo", "next", to=client)
    assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "next"
    # It still looks after its node.
    rig.box.kill_node()
    wait_until(rig.box.node_pid, what=f"another node; the worker said:\n{rig.box.output(worker)}")
    one = task("echo", "last", to=client)
    assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "last"


CLIENT = """
import os, resource, select, sys
from compat_tests.faults.rig import task, value_of
from compat_tests.faults.strategies import hoard_descriptors
from zerocelery.engine.errors import NodeUnreachable
from zerocelery.engine.producer import Producer, ProducerOptions

url, gate = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

def use(producer, value):
    one = task("echo", value, to=producer)
    assert value_of(producer.wait(one.id, token=producer.submit(one), timeout=20)) == value
"""


def test_a_client_without_descriptors_says_so_and_works_when_it_has_some(rig: Rig) -> None:
    """Row 59, the client: with few left, libzmq would abort the process."""
    rig.worker()
    rig.box.run(
        CLIENT
        + """
def child(free):
    producer = Producer(url)
    taken = hoard_descriptors()
    for fd in taken[:free]:
        os.close(fd)
    try:
        use(producer, "refused")
    except NodeUnreachable as error:
        assert "no 12 file descriptors left" in str(error), error
    else:
        assert free >= 12
    for fd in taken[free:]:
        os.close(fd)
    use(producer, "works")

for free in (*range(13), 20):
    pid = os.fork()
    if pid == 0:
        try:
            child(free)
        except BaseException as error:
            print(free, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, free
""",
        rig.url,
        "",
    )


def test_a_client_without_descriptors_whose_node_restarts_waits_without_spinning(rig: Rig) -> None:
    """Row 59, the client."""
    rig.worker()
    gate = rig.gate()
    client = rig.box.script(
        CLIENT
        + """
producer = Producer(url)
use(producer, "before")
poller = select.poll()
poller.register(os.open(gate, os.O_RDONLY | os.O_NONBLOCK), select.POLLIN)
taken = hoard_descriptors()
print("hoarded", flush=True)
poller.poll()
taken += hoard_descriptors()  # also those of the dead connections
one = task("echo", "after", to=producer)
try:
    producer.submit(one)
    producer.wait(one.id, timeout=3)
except (NodeUnreachable, TimeoutError):
    print("waited", flush=True)
for fd in taken:
    os.close(fd)
use(producer, "after")
print("done", flush=True)
""",
        rig.url,
        str(gate.path),
    )
    rig.box.wait_for_output(client, "hoarded")
    pid = rig.box.kill_node()
    wait_until(lambda: rig.box.node_pid() not in (0, pid))
    gate.open()
    assert_idle(client.pid)
    assert client.wait(20) == 0, rig.box.output(client)
    assert "waited" in rig.box.output(client)


# ── high-water marks ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_with_high_water_marks_of_one_nothing_is_dropped(rig: Rig) -> None:
    """Row 54: what the publisher drops for a slow subscriber, it asks for."""
    rig.node(hwm=1)
    rig.worker(concurrency=2)
    rig.box.run(
        CLIENT
        + """
from zerocelery.transport import zmq as transport

transport._SUBSCRIBER_HWM = transport._TASKS_HWM = 1
producer = Producer(url, options=ProducerOptions(connect_timeout=20))
tasks = [task("echo", number, to=producer) for number in range(300)]
tokens = [producer.submit(one) for one in tasks]
assert producer.confirm(20)
for number, (one, token) in enumerate(zip(tasks, tokens)):
    assert value_of(producer.wait(one.id, token=token, timeout=20)) == number
""",
        rig.url,
        "",
        timeout=40,
    )
    runs = [run.id for run in rig.runs()]
    assert len(runs) == len(set(runs)) == 300


def test_a_full_queue_pushes_back_on_its_callers_and_takes_all_in_the_end(rig: Rig) -> None:
    """Row 54: only those of the full queue wait."""
    rig.node(queue_limit=100)
    client = rig.client(connect_timeout=0.5)
    tasks = [task("echo", number, to=client) for number in range(150)]
    client.submit_many(tasks[:100])
    assert client.confirm(20)
    taken = 100
    with pytest.raises(QueueFull, match=r"queue .celery. at .* is full"):  # noqa: PT012 - it is full some calls later
        for one in tasks[100:]:
            client.submit(one)
            taken += 1
            client.confirm(0.01)
    elsewhere = task("echo", "elsewhere", to=client, queue="other")
    client.submit(elsewhere)
    assert client.confirm(0.3) is False
    assert status_of(client)["queues"]["other"]["waiting"] == 1
    rig.worker(queues=["celery", "other"])
    for number, one in enumerate(tasks[:taken]):
        assert value_of(client.wait(one.id, timeout=20)) == number
    assert value_of(client.wait(elsewhere.id, timeout=20)) == "elsewhere"
    assert client.confirm(20)
    assert len(rig.runs()) == taken + 1


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def padded(client: Producer, size: int) -> wire.Task:
    """A task whose message is of exactly this size."""
    one, padding = task("echo", to=client), 0
    for _ in range(3):
        one = msgspec.structs.replace(one, body=json.dumps(["echo", "fits", "x" * padding]).encode())
        padding += size - len(wire.encode_submit(client.inbox, client._next(), (one,)))
    return one


def test_a_task_of_the_largest_size_is_taken_and_one_byte_more_is_the_callers_error(rig: Rig) -> None:
    """Row 49."""
    rig.node(max_message=100_000)
    rig.worker()
    client = rig.client()
    status_of(client)
    fits = padded(client, 100_000)
    assert value_of(client.wait(fits.id, token=client.submit(fits), timeout=20)) == "fits"
    with pytest.raises(PayloadTooLarge, match=r"takes 100,001 bytes, and the node at .* takes 100,000 .*--max-message"):
        client.submit(padded(client, 100_001))
    assert client.unacknowledged() == []
    # The next ones, and those beside a large one, are not affected.
    one = task("echo", "next", to=client)
    assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "next"
    assert len(rig.runs()) == 2


def test_many_tasks_that_fit_one_by_one_fit_together(rig: Rig) -> None:
    """Row 49: a batch is as large as the node takes."""
    rig.node(max_message=100_000)
    rig.worker()
    client = rig.client()
    tasks = [task("echo", number, "x" * 5_000, to=client) for number in range(100)]
    token = client.submit_many(tasks)
    assert [value_of(client.wait(one.id, token=token, timeout=20)) for one in tasks] == list(range(100))


def test_refused_tasks_are_offered_again_in_messages_that_the_node_takes(rig: Rig) -> None:
    """Row 49: else it would cut the client off, and again, for ever."""
    rig.node(max_message=100_000, queue_limit=10)
    client = rig.client(connect_timeout=20)
    tasks = [task("echo", number, "x" * 50_000, to=client) for number in range(100)]
    client.submit_many(tasks)
    wait_until(lambda: len(client._refused) > 50 or client.confirm(0.1))
    rig.worker()
    for number, one in enumerate(tasks):
        assert value_of(client.wait(one.id, timeout=20)) == number


def test_results_up_to_the_limit_arrive_and_larger_ones_are_the_tasks_failure(rig: Rig) -> None:
    """Row 49."""
    rig.node(max_message=100_000)
    rig.worker()
    client = rig.client()
    tasks = [task("blob", 90_000, to=client) for _ in range(200)]
    token = client.submit_many(tasks)
    for one in tasks:
        assert len(value_of(client.wait(one.id, token=token, timeout=20))) == 90_000
    for size in (101_000, 1_200_000, 30_000_000):
        one = task("blob", size, to=client)
        loss = loss_of(client.wait(one.id, token=client.submit(one), timeout=20))
        assert loss is not None
        assert loss.kind == "too-large"
    one = task("echo", "next", to=client)
    assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "next"
    assert status_of(client)["counters"]["lost"] == 0


def shaken(path: str, kind: bytes) -> socket.socket:
    """A connection to a node's socket on which the handshake of ZMTP 3.0 is done."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    peer.connect(path)
    peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    peer.sendall(b"\x04" + bytes((len(ready),)) + ready)
    heard = b""
    while b"READY" not in heard:
        heard += peer.recv(4096)
    return peer


def announced_to_the_collector(rig: Rig, size: int) -> socket.socket:
    """A connection by which a task of this size is about to come."""
    peer = shaken(str(rig.box.node_dir / "tasks"), b"PUSH")
    peer.sendall(b"\x02" + size.to_bytes(8, "big"))
    return peer


def announced_to_the_desk(rig: Rig, size: int) -> socket.socket:
    """A connection by which a worker's report of this size is about to come."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    peer.connect(str(rig.box.node_dir / "leases"))
    peer.sendall((6).to_bytes(8, "little") + b"worker" + size.to_bytes(8, "little"))
    return peer


@pytest.mark.parametrize("announced", [announced_to_the_collector, announced_to_the_desk])
def test_a_message_of_a_gigabyte_is_refused_before_anything_is_allocated(
    rig: Rig, announced: Callable[[Rig, int], socket.socket]
) -> None:
    """Row 49: the node may have 200 MB more than it has."""
    node = rig.node(memory=200 << 20)
    rig.worker()
    client = rig.client()
    one = task("echo", "before", to=client)
    assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "before"
    for size in (1 << 30, 1 << 40, (1 << 63) - 1):
        with announced(rig, size) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(bytes(100_000))
            while peer.recv(4096):  # until it cuts us off
                pass
    one = task("echo", "after", to=client)
    assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "after"
    assert node.poll() is None
    assert resident_bytes(node.pid) < 200 << 20


def test_a_message_of_a_million_frames_does_no_harm(rig: Rig) -> None:
    """Row 49."""
    node = rig.node(memory=400 << 20)
    client = rig.client()
    status_of(client)
    with shaken(str(rig.box.node_dir / "tasks"), b"PUSH") as peer:
        more, last = b"\x01\x01x", b"\x00\x01x"
        peer.settimeout(30)
        peer.sendall(more * 999_999 + last)
        wait_until(lambda: status_of(client)["counters"]["malformed"] >= 1)
    status = status_of(client)
    assert node.poll() is None
    rig.worker()
    one = task("echo", "after", to=client)
    assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "after"
    assert status["pid"] == node.pid


def test_a_backlog_of_large_tasks_is_on_disk_not_in_memory(rig: Rig) -> None:
    """Row 49: 400 MB wait, and the node may have 200 MB more than it has."""
    node = rig.node(memory=200 << 20)
    client = rig.client(window_bytes=16 << 20, connect_timeout=1.5)
    large = "x" * 1_000_000
    for number in range(400):
        client.submit(task("echo", number, large))
    assert client.confirm(20)
    assert node.poll() is None
    assert resident_bytes(node.pid) < 150 << 20
    rig.worker()
    wait_until(lambda: len(rig.runs()) == 400)
