"""Too few descriptors, high-water marks of one, messages at and beyond the limit (fault matrix, rows 49, 54 and 59)."""

from __future__ import annotations

import os

import pytest

from compat_tests.conftest import wait_until
from compat_tests.faults.rig import Rig, assert_idle, status_of, task, value_of
from zerocelery.engine.errors import NodeUnreachable
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
