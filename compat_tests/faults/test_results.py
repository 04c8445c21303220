"""Results on their way to who wants them: cut off, late, slow, many (fault matrix, rows 43 to 46 and 48)."""

from __future__ import annotations

import pickle
import random
import re
import signal
import threading
import time

import msgspec
import pytest

from compat_tests.conftest import wait_for_end, wait_until
from compat_tests.faults.proxy import Proxy
from compat_tests.faults.rig import Rig, resident_bytes, status_of, task, value_of
from zerocelery.engine import wire
from zerocelery.engine.strategy import CallableStrategy
from zerocelery.engine.worker import Watch, Worker

pytestmark = pytest.mark.faults

MEGABYTE = 1 << 20

CLIENT = """
import os, random, sys, time
from compat_tests.faults.rig import resident_bytes, status_of, task, value_of
from zerocelery.engine.producer import Producer, ProducerOptions

url, gate = sys.argv[1:]
producer = Producer(url)

def wait_for_gate():
    open(gate).close()
"""


# ── the publisher is killed ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "asking later"])
@pytest.mark.parametrize("point", ["publisher.before_result", "publisher.after_result"])
def test_a_result_reaches_its_client_though_the_node_is_killed_when_it_publishes_it(
    rig: Rig, point: str, waiting: bool
) -> None:
    """Row 43."""
    node = rig.node(failpoint=point)
    rig.worker()
    gate = rig.gate()
    client = rig.client()
    one = task("gate", str(gate.path), "published", to=client)
    token = client.submit(one)
    rig.wait_for_run(one.id)
    wait_until(lambda: not client.unacknowledged())
    assert node.poll() is None
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(value_of(client.wait(one.id, token=token, timeout=20))))
    if waiting:
        thread.start()
    gate.open()
    wait_for_end(node.pid)
    assert node.wait() == -signal.SIGKILL
    if not waiting:
        thread.start()
    thread.join(25)
    assert got == ["published"]
    assert len(rig.runs(one.id)) == 1


class Notebook:
    """A worker's link that goes nowhere, and keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[wire.FromWorker | wire.Malformed] = []

    def send(self, frame: bytes) -> bool:
        self.sent.append(wire.decode_from_worker(frame))
        return True

    def receive(self, seconds: float | None) -> bytes | None:
        return None

    def reconnected(self) -> bool:
        return False

    def wake(self) -> None: ...

    def close(self, *, linger: float = 0.0) -> None: ...


def test_a_result_that_the_watch_finds_does_not_leave_its_worker_busy_for_ever(rig: Rig) -> None:
    """Row 43: a long task ends in the very moment in which the process's watch looks after it."""
    link = Notebook()
    worker = Worker(rig.url, CallableStrategy({"done": lambda: None}), link=lambda *_: link)
    worker._link = link
    worker._joined = True
    one = wire.Task(id="one", name="done", body=pickle.dumps(((), {})))
    worker._work(wire.LeaseEntry(1, 0, msgspec.Raw(wire.encode(one))), Watch())
    worker.unblock()
    worker._fetch()
    (done,) = link.sent
    assert isinstance(done, wire.Done)
    assert [report.key for report in done.reports] == [1]
    assert not done.busy


# ── slow and late clients ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_that_never_reads_costs_the_node_little_and_gets_everything_when_it_does(rig: Rig) -> None:
    """Row 44."""
    node = rig.node()
    rig.worker(concurrency=2)
    gate = rig.gate()
    slow = rig.box.script(
        CLIENT
        + """
tasks = [task("echo", number, to=producer) for number in range(30_000)]
token = producer.submit_many(tasks)
assert producer.confirm(30)
print("submitted", flush=True)
wait_for_gate()
for number in random.sample(range(len(tasks)), len(tasks)):
    assert value_of(producer.wait(tasks[number].id, token=token, timeout=20)) == number
print("got all", flush=True)
""",
        rig.url,
        str(gate.path),
    )
    rig.box.wait_for_output(slow, "submitted", timeout=30)
    slow.send_signal(signal.SIGSTOP)  # also the threads that fill its own buffers
    client = rig.client()
    before = resident_bytes(node.pid)
    slowest = 0.0
    while status_of(client)["counters"]["finished"] < 30_000:
        began = time.monotonic()
        one = task("echo", "quick", to=client, priority=9)
        assert value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "quick"
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2
    assert resident_bytes(node.pid) - before < 40 * MEGABYTE
    slow.send_signal(signal.SIGCONT)
    gate.open()
    assert slow.wait(30) == 0, rig.box.output(slow)


def test_large_results_for_a_client_that_never_reads_do_not_fill_the_nodes_memory(rig: Rig) -> None:
    """Row 44."""
    node = rig.node()
    rig.worker()
    gate = rig.gate()
    slow = rig.box.script(
        CLIENT
        + """
tasks = [task("blob", 500_000, to=producer) for _ in range(400)]
token = producer.submit_many(tasks)
assert producer.confirm(30)
print("submitted", flush=True)
wait_for_gate()
for one in tasks:
    assert len(value_of(producer.wait(one.id, token=token, timeout=20))) == 500_000
""",
        rig.url,
        str(gate.path),
    )
    rig.box.wait_for_output(slow, "submitted", timeout=30)
    slow.send_signal(signal.SIGSTOP)
    before = resident_bytes(node.pid)
    client = rig.client()
    wait_until(lambda: status_of(client)["counters"]["finished"] == 400)
    grown = resident_bytes(node.pid) - before
    slow.send_signal(signal.SIGCONT)
    gate.open()
    assert slow.wait(30) == 0, rig.box.output(slow)
    assert grown < 100 * MEGABYTE, f"{grown / MEGABYTE:.0f} MB"


def test_a_result_is_there_for_whoever_has_its_id_until_it_expires(rig: Rig) -> None:
    """Row 45: a new process, a restarted node."""
    node = rig.node()
    worker = rig.worker(pool="solo")
    gate = rig.gate()
    client = rig.client()
    kept, short, thrown = (task("echo", name, keep=keep) for name, keep in (("kept", None), ("short", 1.0), ("", 0.0)))
    for one in (kept, short, thrown):
        client.submit(one)
    for one in (kept, short):
        assert value_of(client.wait(one.id, timeout=20)) in ("kept", "short")
    gated = task("gate", str(gate.path), "later")
    client.submit(gated)
    rig.wait_for_run(gated.id)
    node.kill()
    wait_for_end(node.pid)
    wait_until(rig.box.node_pid)
    late = rig.client()
    assert value_of(late.wait(kept.id, timeout=20)) == "kept"
    # Whoever has seen a result keeps it; so each time somebody else looks.
    wait_until(lambda: rig.client().peek(short.id) is None)
    assert late.peek(thrown.id) is None
    assert late.peek("never heard of") is None
    with pytest.raises(TimeoutError):
        late.wait("never heard of", timeout=0.2)
    assert late.peek(gated.id) is None
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(value_of(late.wait(gated.id, timeout=20))))
    thread.start()
    gate.open()
    thread.join(25)
    assert got == ["later"]
    client.forget([kept.id])
    wait_until(lambda: rig.client().peek(kept.id) is None)
    assert worker.poll() is None


# ── cut off ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_100_cuts_in_a_burst_leave_no_gap_and_resolve_nothing_twice(rig: Rig) -> None:
    """Row 46: both the client's and the worker's connections."""
    node = rig.node("zmq://127.0.0.1:0")
    port = int(rig.url_of(node).rpartition(":")[2])
    with Proxy(port) as proxy:
        rig.worker(proxy.url)
        client = rig.client(proxy.url, connect_timeout=20.0)
        chance = random.Random(46)
        waited = 0
        cuts = 0
        while cuts < 100:
            tasks = [task("echo", number, to=client) for number in range(40)]
            token = client.submit_many(tasks)
            for number, one in enumerate(tasks):
                if chance.random() < 0.2:
                    cuts += proxy.cut() > 0
                assert value_of(client.wait(one.id, token=token, timeout=20)) == number
            waited += len(tasks)
        assert client.confirm(20)
        counters = status_of(client)["counters"]
        client.close()
    assert proxy.connections > 200
    runs = [run.id for run in rig.runs()]
    assert len(runs) == len(set(runs)) == waited
    assert counters["accepted"] == counters["finished"] == waited
    assert counters["lost"] == 0


def test_refusals_are_not_lost_with_the_connection(rig: Rig) -> None:
    """Row 46: a task that was refused, for its queue is full, is offered again, also when nobody heard the refusal."""
    node = rig.node("zmq://127.0.0.1:0", queue_limit=5)
    port = int(rig.url_of(node).rpartition(":")[2])
    with Proxy(port) as proxy:
        client = rig.client(proxy.url, connect_timeout=20.0)
        fill = [task("echo", number, to=client) for number in range(5)]
        client.submit_many(fill)
        assert client.confirm(20)
        more = [task("echo", number, to=client) for number in range(5, 10)]
        # They reach the node; what it says of them does not reach the client.
        proxy.swallow(from_node=True)
        client._submit(more)
        direct = rig.client(rig.url_of(node))
        wait_until(lambda: status_of(direct)["counters"]["refused"] == 5)
        proxy.cut()
        rig.worker(rig.url_of(node))
        for number, one in enumerate(fill + more):
            assert value_of(client.wait(one.id, timeout=3)) == number
        client.close()
    assert len(rig.runs()) == 10


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_100_000_outstanding_results_take_one_subscription_and_little_memory(rig: Rig) -> None:
    """Row 48: got in any order."""
    rig.node()
    rig.worker(concurrency=2)
    output = rig.box.run(
        CLIENT
        + """
COUNT = 100_000
producer.submit(task("echo"))
assert producer.confirm(20)
ids = {}
before = resident_bytes(os.getpid())
for start in range(0, COUNT, 1000):
    tasks = [task("echo", number, to=producer) for number in range(start, start + 1000)]
    token = producer.submit_many(tasks)
    ids.update((one.id, number) for number, one in enumerate(tasks, start))
del tasks
owned = sum(sys.getsizeof(one) for one in ids) + sys.getsizeof(ids)
status = status_of(producer)
last = next(reversed(ids))
value_of(producer.wait(last, token=token, timeout=60))
grown = resident_bytes(os.getpid()) - before
print("grown", grown, "own", owned, "inboxes", status["inboxes"], flush=True)
order = list(ids)
random.shuffle(order)
for task_id in order:
    if task_id != last:
        assert value_of(producer.wait(task_id, token=token, timeout=20)) == ids[task_id]
""",
        rig.url,
        "",
        timeout=50,
    )
    grown, own, inboxes = (int(re.findall(rf"{word} (\d+)", output)[0]) for word in ("grown", "own", "inboxes"))
    assert inboxes == 1
    assert grown - own < 2048 * 100_000
