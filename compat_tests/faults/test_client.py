"""The client: killed, interrupted, forked, at its end, without a node (fault matrix, rows 1 to 9 and 12 to 14)."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import pytest

from compat_tests.conftest import wait_for_end, wait_until
from compat_tests.faults.rig import Rig, status_of, task, value_of
from zerocelery import Celery
from zerocelery.engine import callables
from zerocelery.engine.errors import CallableError, EngineError, NodeUnreachable

pytestmark = pytest.mark.faults

#: The start of every client program: a producer for the sandbox's node.
CLIENT = """
import os, sys, threading, time
from compat_tests.faults.rig import task, value_of
from zerocelery.engine.producer import Producer, ProducerOptions

url = sys.argv[1]
"""


def drained(rig: Rig) -> bool:
    """Whether the node has nothing more to do."""
    status = rig.status()
    return not any(q["waiting"] for q in status["queues"].values()) and not any(w["held"] for w in status["workers"])


# ── killed ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_client_killed_before_it_sends_leaves_no_trace(rig: Rig) -> None:
    """Row 1."""
    rig.node()
    client = rig.box.script(
        CLIENT + "Producer(url).submit(task('echo', 1))",
        rig.url,
        env={"ZEROCELERY_FAILPOINT": "producer.before_send"},
    )
    assert client.wait(20) == -signal.SIGKILL
    rig.worker()
    mine = rig.client()
    one = task("echo", "mine", to=mine)
    assert value_of(mine.wait(one.id, token=mine.submit(one), timeout=20)) == "mine"
    assert [run.id for run in rig.runs()] == [one.id]
    assert status_of(mine)["counters"]["accepted"] == 1


def test_what_a_client_sent_before_it_was_killed_runs_once_and_its_result_is_kept(rig: Rig) -> None:
    """Row 2."""
    rig.worker()
    client = rig.box.script(
        CLIENT
        + """
producer = Producer(url)
for number in range(1000):
    one = task("echo", number, to=producer)
    print(one.id, number, flush=True)
    producer.submit(one)
""",
        rig.url,
        env={"ZEROCELERY_FAILPOINT": "producer.after_send:300"},
    )
    assert client.wait(20) == -signal.SIGKILL
    attempted = dict(line.split() for line in rig.box.output(client).splitlines())
    assert len(attempted) == 300
    wait_until(lambda: drained(rig))
    run = [run.id for run in rig.runs()]
    assert run, "nothing at all arrived"
    assert len(run) == len(set(run)), "something was run twice"
    assert set(run) <= set(attempted)
    late = rig.client()
    for task_id in run:
        assert value_of(late.wait(task_id, timeout=20)) == int(attempted[task_id])


def test_the_result_for_a_client_killed_after_the_receipt_is_there_for_another(rig: Rig) -> None:
    """Row 3."""
    rig.worker()
    gate = rig.gate()
    client = rig.box.script(
        CLIENT
        + """
producer = Producer(url)
one = task("gate", sys.argv[2], "kept", to=producer)
producer.submit(one)
assert producer.confirm(20)
print("receipted", one.id, flush=True)
producer.wait(one.id)
""",
        rig.url,
        str(gate.path),
    )
    task_id = re.findall(r"receipted (\w+)", rig.box.wait_for_output(client, "receipted"))[0]
    rig.wait_for_run(task_id)
    client.kill()
    client.wait(20)
    gate.open()
    assert value_of(rig.client().wait(task_id, timeout=20)) == "kept"
    assert len(rig.runs(task_id)) == 1


# ── its end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_program_that_ends_right_after_submitting_loses_nothing(rig: Rig) -> None:
    """Row 4: the exit waits for the receipts."""
    rig.worker()
    rig.box.run(
        CLIENT + "producer = Producer(url)\nfor number in range(2000): producer.submit(task('echo', number))", rig.url
    )
    wait_until(lambda: len(rig.runs()) >= 2000)
    assert len({run.id for run in rig.runs()}) == 2000


def test_the_end_of_a_forked_multiprocessing_child_loses_nothing(rig: Rig) -> None:
    """Row 4: such a child ends by os._exit, which asks no atexit."""
    rig.worker()
    rig.box.run(
        CLIENT
        + """
import multiprocessing

producer = Producer(url)

def child(size):
    for number in range(size):
        producer.submit(task("echo", "x" * 1000))

if __name__ == "__main__":
    producer.submit(task("echo", 0))
    children = [multiprocessing.get_context("fork").Process(target=child, args=(500,)) for _ in range(2)]
    for one in children:
        one.start()
    for one in children:
        one.join()
        assert one.exitcode == 0
""",
        rig.url,
    )
    wait_until(lambda: len(rig.runs()) >= 1001, timeout=5, what="1,001 runs")


def test_the_exit_gives_up_at_its_deadline_and_names_what_is_not_acknowledged(rig: Rig) -> None:
    """Row 4: a node that is there, and does not answer."""
    node = rig.node()
    gate = rig.gate()
    client = rig.box.script(
        CLIENT
        + """
producer = Producer(url, options=ProducerOptions(exit_timeout=0.5))
producer.submit(task("echo"))
assert producer.confirm(20)
print("connected", flush=True)
open(sys.argv[2]).close()
tasks = [task("echo", number) for number in range(3)]
for one in tasks:
    producer.submit(one)
print("ids", *(one.id for one in tasks), flush=True)
print("end", time.monotonic(), flush=True)
""",
        rig.url,
        str(gate.path),
    )
    rig.box.wait_for_output(client, "connected")
    os.kill(node.pid, signal.SIGSTOP)
    gate.open()
    client.wait(20)
    ended = time.monotonic()
    output = rig.box.output(client)
    ids = re.findall(r"^ids (.*)$", output, re.MULTILINE)[0].split()
    said = output.partition("were not acknowledged")[2]
    assert said, output
    assert all(task_id in said for task_id in ids), output
    assert ended - float(re.findall(r"end ([\d.]+)", output)[0]) < 2.5
    assert client.returncode == 0


def test_a_program_without_a_node_ends_with_the_reason(rig: Rig) -> None:
    """Row 4: there is no peer at all."""
    client = rig.box.script(
        CLIENT + "Producer(url, options=ProducerOptions(connect_timeout=0.3)).submit(task('echo'))", rig.url
    )
    assert client.wait(20) == 1
    assert "NodeUnreachable: no node answered" in rig.box.output(client)


def test_an_end_without_goodbye_loses_only_what_had_no_receipt(rig: Rig) -> None:
    """Row 5: os._exit while the client's window is full and the node is stuck."""
    node = rig.node()
    gate = rig.gate()
    client = rig.box.script(
        CLIENT
        + """
from zerocelery.engine.errors import NodeUnreachable

producer = Producer(url, options=ProducerOptions(window=300, connect_timeout=1.5))
tasks = [task("echo") for _ in range(1000)]
print("attempted", *(one.id for one in tasks), flush=True)
for one in tasks[:200]:
    producer.submit(one)
assert producer.confirm(20)
print("promised", *(one.id for one in tasks[:200]), flush=True)
open(sys.argv[2]).close()
try:
    for one in tasks[200:]:
        producer.submit(one)
except NodeUnreachable:
    print("full", len(producer.unacknowledged()), flush=True)
os._exit(3)
""",
        rig.url,
        str(gate.path),
    )
    rig.box.wait_for_output(client, "promised")
    os.kill(node.pid, signal.SIGSTOP)
    gate.open()
    assert client.wait(20) == 3
    output = rig.box.output(client)
    assert "full 300" in output
    os.kill(node.pid, signal.SIGCONT)
    rig.worker()
    attempted, promised = (set(re.findall(rf"^{word} (.*)$", output, re.MULTILINE)[0].split()) for word in
                           ("attempted", "promised"))  # fmt: skip
    wait_until(lambda: promised <= {run.id for run in rig.runs()} and drained(rig))
    run = [run.id for run in rig.runs()]
    assert len(run) == len(set(run))
    assert set(run) <= attempted


@pytest.mark.parametrize(
    "when",
    {
        "from atexit": """
import atexit
producer = Producer(url)
producer.submit(one)
atexit.register(lambda: producer.submit(two))
""",
        "from atexit, after the engine's own": """
import atexit
for name in [name for name in sys.modules if name.startswith("zerocelery")]: del sys.modules[name]
atexit.register(lambda: producer.submit(two))
from zerocelery.engine.producer import Producer
from compat_tests.faults.rig import wire
producer = Producer(url)
producer.submit(one)
""",
        "from atexit, for the first time": """
import atexit
Producer(url).submit(one)
atexit.register(lambda: Producer(url).submit(two))
""",
        "from __del__": """
class Late:
    def __del__(self, producer=Producer(url), one=one, two=two):
        try:
            producer.submit(one)
            producer.submit(two)
        except RuntimeError as error:
            print("refused:", error)
late = Late()
""",
    }.items(),
    ids=lambda item: item[0],
)
def test_submitting_while_the_interpreter_shuts_down_works(rig: Rig, when: tuple[str, str]) -> None:
    """Row 6."""
    rig.worker()
    client = rig.box.script(
        CLIENT + "one, two = task('echo', 1), task('echo', 2)\nprint('ids', one.id, two.id, flush=True)\n" + when[1],
        rig.url,
    )
    assert client.wait(5) == 0, rig.box.output(client)
    output = rig.box.output(client)
    assert "Traceback" not in output, output
    if "refused" not in output:
        ids = re.findall(r"^ids (.*)$", output, re.MULTILINE)[0].split()
        wait_until(lambda: sorted(run.id for run in rig.runs()) == sorted(ids))


def test_daemon_threads_that_use_the_client_do_not_hold_up_or_crash_the_exit(rig: Rig) -> None:
    """Row 6."""
    rig.worker()
    client = rig.box.script(
        CLIENT
        + """
producer = Producer(url)
busy = threading.Barrier(9)

def work():
    busy.wait()
    while True:
        one = task("echo", to=producer)
        producer.wait(one.id, token=producer.submit(one))

for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
busy.wait()
one = task("echo", "main", to=producer)
print(value_of(producer.wait(one.id, token=producer.submit(one), timeout=20)))
""",
        rig.url,
    )
    assert client.wait(8) == 0, rig.box.output(client)
    assert rig.box.output(client).split() == ["main"]


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FORKING = (
    CLIENT
    + """
import multiprocessing

variant, gate = sys.argv[2:]
producer = Producer(url)

def use(name):
    one = task("echo", name, to=producer)
    token = producer.submit(one)
    assert value_of(producer.wait(one.id, token=token, timeout=15)) == name
    os.write(1, f"inbox {producer.inbox}\\n".encode())  # in one piece: others write, too

def child(name):
    if variant != "preload":
        assert producer.inbox != parents_inbox
        # By its id it is there for everybody, and it has not ended.
        assert producer.peek(before.id, token=token, timeout=10) is None
    use(name)
    if variant == "daemon" and name == "child 0":
        run([lambda: use("grandchild")])

def run(functions):
    pids = []
    for function in functions:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                function()
                status = 0
            finally:
                if status:
                    import traceback
                    traceback.print_exc()
                os._exit(status)
        pids.append(pid)
    return pids

def reap(pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0

if __name__ == "__main__":
    parents_inbox = producer.inbox
    if variant != "preload":
        before = task("gate", gate, "before", to=producer)
        token = producer.submit(before)
        use("parent")
    names = [f"child {number}" for number in range(2)]
    if variant == "multiprocessing":
        children = [multiprocessing.get_context("fork").Process(target=child, args=(name,)) for name in names]
        for one in children:
            one.start()
        use("parent, meanwhile")
        for one in children:
            one.join()
            assert one.exitcode == 0
    else:
        pids = run([lambda name=name: child(name) for name in names])
        use("parent, meanwhile")
        reap(pids)
    if variant != "preload":
        assert producer.inbox == parents_inbox
        print("ready", flush=True)
        assert value_of(producer.wait(before.id, token=token, timeout=15)) == "before"
    print("done", flush=True)
"""
)


@pytest.mark.parametrize("variant", ["fork", "multiprocessing", "preload", "daemon"])
def test_a_forked_child_is_a_client_of_its_own(rig: Rig, variant: str) -> None:
    """Row 7."""
    rig.worker(concurrency=2)
    gate = rig.gate()
    client = rig.box.script(FORKING, rig.url, variant, str(gate.path))
    if variant != "preload":
        rig.box.wait_for_output(client, "ready")
        gate.open()
    assert client.wait(20) == 0, rig.box.output(client)
    inboxes = re.findall(r"inbox (\w+)", rig.box.output(client))
    used = {"fork": 3, "multiprocessing": 3, "preload": 3, "daemon": 4}[variant]
    wait_until(lambda: len(set(re.findall(r"inbox (\w+)", rig.box.output(client)))) == used, what=f"{inboxes}")
    runs = [run.id for run in rig.runs()]
    assert len(runs) == len(set(runs))


def test_200_forks_while_threads_use_the_client(rig: Rig) -> None:
    """Row 8: whatever lock is held at that moment, the child does not wait for it."""
    rig.worker(concurrency=2)
    rig.box.run(
        CLIENT
        + """
producer = Producer(url)
stop = threading.Event()

def work():
    while not stop.is_set():
        one = task("echo", 1, to=producer)
        producer.wait(one.id, token=producer.submit(one), timeout=15)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for batch in range(50):
    pids = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                one = task("echo", number, to=producer)
                value = value_of(producer.wait(one.id, token=producer.submit(one), timeout=15))
                status = 0 if value == number else 2
            finally:
                os._exit(status)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0, batch
stop.set()
for thread in threads:
    thread.join()
assert producer.confirm(10)
""",
        rig.url,
        timeout=45,
    )


# ── threads and signals ──────────────────────────────────────────────────────────────────────────────────────────────


def test_64_threads_share_one_client(rig: Rig) -> None:
    """Row 9."""
    rig.worker(concurrency=2)
    output = rig.box.run(
        CLIENT
        + """
producer = Producer(url)
together = threading.Barrier(64)
right = []

def work(thread):
    together.wait()
    for number in range(10):
        tasks = [task("echo", [thread, number, index], to=producer) for index in range(3)]
        tokens = [producer.submit(one) for one in tasks]
        values = [value_of(producer.wait(one.id, token=token, timeout=20))
                  for one, token in reversed(list(zip(tasks, tokens)))]
        assert values == [[thread, number, index] for index in (2, 1, 0)]
    right.append(thread)

threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
for one in threads:
    one.start()
for one in threads:
    one.join()
assert sorted(right) == list(range(64))
assert producer.confirm(5) and not producer.unacknowledged()
print("all right")
""",
        rig.url,
        timeout=40,
    )
    assert output.split("\n")[0] == "all right"
    assert len(rig.runs()) == 64 * 30


def test_100_interrupts_in_submit_and_wait_leave_the_client_whole(rig: Rig) -> None:
    """Row 14."""
    rig.worker()
    output = rig.box.run(
        CLIENT
        + """
import random, signal
from zerocelery.engine.errors import EngineError

chance = random.Random(14)
producer = Producer(url)
armed, taken = threading.Semaphore(0), threading.Semaphore(0)
submitted, waited = {}, set()

def interrupt():
    for _ in range(100):
        armed.acquire()
        until = time.monotonic() + chance.random() * 0.004
        while time.monotonic() < until:
            pass
        os.kill(os.getpid(), signal.SIGINT)
        taken.acquire()

def work():
    armed.release()
    while True:
        one = task("echo", 1, to=producer)
        token = producer.submit(one)
        submitted[one.id] = token
        if chance.random() < 0.7:
            value_of(producer.wait(one.id, token=token, timeout=10))
            waited.add(one.id)

producer.submit(task("echo"))
thread = threading.Thread(target=interrupt)
thread.start()
interrupts = 0
while interrupts < 100:
    try:
        work()
    except KeyboardInterrupt:
        interrupts += 1
    taken.release()
thread.join()
assert producer.confirm(10)
for task_id, token in submitted.items():
    if task_id not in waited:
        value_of(producer.wait(task_id, token=token if chance.random() < 0.5 else None, timeout=10))
print("submitted", len(submitted))
""",
        rig.url,
        timeout=40,
    )
    submitted = int(re.findall(r"submitted (\d+)", output)[0])
    runs = [run.id for run in rig.runs()]
    assert len(runs) == len(set(runs))
    assert len(runs) >= submitted


def test_a_client_that_nobody_has_any_more_lets_go_of_its_node(rig: Rig) -> None:
    """It was never closed, and went with other garbage: ZeroMQ's context, finalised before its sockets, hung there."""
    rig.node()
    rig.box.run(
        CLIENT
        + """
import gc

def use_and_drop():
    producer = Producer(url)
    producer.submit(task("echo"))
    assert producer.confirm(10)
    producer.cycle = producer  # as an app has many

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

before = descriptors()
for _ in range(10):
    use_and_drop()
    gc.collect()
deadline = time.monotonic() + 10  # its keeper looks once more whether something is without a receipt
while (left := descriptors()) > before:
    assert time.monotonic() < deadline, f"{left - before} descriptors of clients that are gone"
""",
        rig.url,
    )


def test_threads_that_wait_are_told_when_their_client_is_closed(rig: Rig) -> None:
    """Row 9: it used to spin for ever."""
    rig.node()
    client = rig.client()
    status_of(client)
    told: list[BaseException] = []

    def wait(name: str) -> None:
        try:
            client.wait(name)
        except EngineError as error:
            told.append(error)

    threads = [threading.Thread(target=wait, args=(name,), daemon=True) for name in "abc"]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(client._waiters) == 3)
    client.close()
    for thread in threads:
        thread.join(5)
    assert [str(error) for error in told] == ["this producer was closed while a thread waited for its node"] * 3


# ── no node, nothing to send ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("address", ["never started", "killed", "tcp"])
def test_without_a_node_a_submit_fails_at_its_deadline_and_says_what_to_do(rig: Rig, address: str) -> None:
    """Row 12. The same client works as soon as there is one."""
    url = rig.url
    if address == "tcp":
        node = rig.node("zmq://127.0.0.1:0")
        url = rig.url_of(node)
        node.terminate()
        node.wait(20)
    elif address == "killed":
        node = rig.node()
        node.kill()
        wait_for_end(node.pid)
        assert (rig.box.node_dir / "tasks").exists()
    client = rig.client(url, connect_timeout=0.4)
    one = task("echo", "at last", to=client)
    began = time.monotonic()
    with pytest.raises(NodeUnreachable, match=re.escape(f"zerocelery node -b {url}")):
        client.submit(one)
    assert 0.4 <= time.monotonic() - began < 2
    rig.node(url)
    rig.worker(url)

    def submitted() -> bool:
        try:
            client.submit(one)
        except NodeUnreachable:
            return False
        return True

    wait_until(submitted)
    assert value_of(client.wait(one.id, timeout=20)) == "at last"
    assert len(rig.runs(one.id)) == 1


def test_what_cannot_be_encoded_is_the_callers_error_and_nothing_is_sent(rig: Rig) -> None:
    """Row 13, the engine."""
    rig.worker()
    client = rig.client()
    good, bad = task("echo", "good", to=client), task("echo")
    import msgspec

    unsendable = msgspec.structs.replace(bad, body=object())
    with pytest.raises(TypeError):
        client.submit(unsendable)
    with pytest.raises(TypeError):
        client.submit_many([good, unsendable])
    with pytest.raises(CallableError):
        callables.pack(lambda: client)
    assert client.unacknowledged() == []
    assert value_of(client.wait(good.id, token=client.submit(good), timeout=20)) == "good"
    assert status_of(client)["counters"]["accepted"] == 1


def test_arguments_that_no_serializer_takes_are_the_callers_error(rig: Rig) -> None:
    """Row 13, Celery's face."""
    rig.node()
    app = Celery("unsendable", broker=rig.url)
    add = app.task(lambda x: x, name="add")
    from kombu.exceptions import EncodeError

    with pytest.raises(EncodeError):
        add.delay(object())
    assert rig.status()["counters"]["accepted"] == 0
