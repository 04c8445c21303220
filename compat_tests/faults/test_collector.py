"""The node, killed at every step of a task's way in, or frozen (fault matrix, rows 16 to 20 and 30)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from compat_tests.conftest import ROOT, wait_for_end, wait_until
from compat_tests.faults.rig import LATE, Rig, loss_of, status_of, task, value_of
from zerocelery.engine import wire

pytestmark = pytest.mark.faults

POINTS = (
    "collector.before_commit",
    "journal.before_commit",
    "collector.after_commit",
    "publisher.before_flush",
    "publisher.after_flush",
)


def node_with(rig: Rig, point: str) -> subprocess.Popen[bytes]:
    """A node that is up, and kills itself when it passes this point the next time."""
    for passages in range(1, 20):
        node = rig.node(failpoint=f"{point}:{passages}", wait=False)
        wait_until(lambda node=node: node.poll() is not None or "node at" in rig.box.output(node))
        if node.poll() is None:
            return node
        assert node.returncode == -signal.SIGKILL, rig.box.output(node)
        shutil.rmtree(rig.box.node_dir)
    raise AssertionError(f"no node gets up past {point}")


# ── on the way in ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batch", [1, 1200], ids=["one task", "many tasks"])
@pytest.mark.parametrize("point", POINTS)
def test_a_task_is_run_once_wherever_the_node_is_killed_on_its_way_in(rig: Rig, point: str, batch: int) -> None:
    """Rows 16 to 18: before the journal is written, before and after it is durable, before and after the receipt."""
    node = node_with(rig, point)
    client = rig.client()
    tasks = [task("echo", number, to=client) for number in range(batch)]
    token = client.submit_many(tasks)
    wait_for_end(node.pid)
    assert node.wait() == -signal.SIGKILL
    rig.node()
    rig.worker(concurrency=2)
    assert client.confirm(20)
    for number in reversed(range(batch)):
        assert value_of(client.wait(tasks[number].id, token=token, timeout=20)) == number
    assert sorted(run.id for run in rig.runs()) == sorted(one.id for one in tasks)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_a_node_killed_within_sqlites_commit_loses_and_doubles_nothing(rig: Rig, call: str) -> None:
    """Row 17: killed by the system call itself, at each of the first ones of the commit."""
    for when in (1, 2):
        node = rig.node(durability="power")
        client = rig.client()
        status_of(client)
        tracer = rig.box.start(
            "strace", "-f", "-q", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}",
            "-p", str(node.pid), "-o", str(rig.box.home / f"trace-{when}"),
        )  # fmt: skip
        wait_until(lambda node=node, tracer=tracer: _traced(node.pid) or tracer.poll() is not None)
        if tracer.poll() is not None and node.poll() is None:
            pytest.skip(f"strace can't attach: {rig.box.output(tracer)}")
        tasks = [task("echo", number, to=client) for number in range(3)]
        tokens = [client.submit(one) for one in tasks]
        one_more = task("echo", "more", to=client)
        wait_until(lambda node=node, to=client, more=one_more: node.poll() is not None or to.submit(more) < 0)
        assert node.returncode == -signal.SIGKILL
        tracer.wait(20)
        successor = rig.node(durability="power")
        worker = rig.worker()
        assert client.confirm(20)
        for number, (one, token) in enumerate(zip(tasks, tokens, strict=True)):
            assert value_of(client.wait(one.id, token=token, timeout=20)) == number
            assert len(rig.runs(one.id)) == 1
        worker.terminate()
        assert worker.wait(20) == 0
        successor.terminate()
        assert successor.wait(20) == 0


def _traced(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return re.search(r"^TracerPid:\t0$", text, re.MULTILINE) is None


# ── on the way out ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_receipted_tasks_run_after_the_node_was_killed_before_it_handed_them_out(rig: Rig) -> None:
    """Row 19."""
    node = rig.node()
    client = rig.client()
    tasks = [task("echo", number, to=client) for number in range(100)]
    token = client.submit_many(tasks)
    assert client.confirm(20)
    node.kill()
    wait_for_end(node.pid)
    rig.node()
    rig.worker()
    assert [value_of(client.wait(one.id, token=token, timeout=20)) for one in tasks] == list(range(100))
    assert [run.id for run in rig.runs()] == [one.id for one in tasks]


@pytest.mark.parametrize("flags", [0, LATE], ids=["early", "late"])
@pytest.mark.parametrize("point", ["collector.before_lease", "collector.after_lease"])
def test_a_lease_that_was_written_and_perhaps_not_sent_is_run_once(rig: Rig, point: str, flags: int) -> None:
    """Row 19: the journal says that the worker has it; the worker knows better."""
    node = rig.node(failpoint=f"{point}:2")  # 1: the answer to the worker's join
    rig.worker()
    client = rig.client()
    one = task("echo", 1, to=client, flags=flags)
    token = client.submit(one)
    wait_for_end(node.pid)
    assert node.wait() == -signal.SIGKILL
    # The worker's pool starts the next node.
    assert value_of(client.wait(one.id, token=token, timeout=20)) == 1
    assert len(rig.runs(one.id)) == 1
    assert rig.status()["counters"]["lost"] == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize("flags", [0, LATE], ids=["early", "late"])
def test_a_worker_whose_node_is_killed_reports_to_the_next_one(rig: Rig, pool: str, flags: int) -> None:
    """Row 20: it goes on with what it was running, and its pool starts the next node."""
    rig.worker(pool=pool, concurrency=1 if pool == "solo" else 2)
    gate = rig.gate()
    client = rig.client()
    running = task("gate", str(gate.path), "done", to=client, flags=flags)
    token = client.submit(running)
    assert client.confirm(20)
    run = rig.wait_for_run(running.id)
    first = rig.box.kill_node()
    wait_until(lambda: rig.box.node_pid() not in (0, first))
    gate.open()
    assert value_of(client.wait(running.id, token=token, timeout=20)) == "done"
    assert rig.runs(running.id) == [run]
    status = rig.status()
    assert status["pid"] != first
    assert status["counters"]["finished"] == 1
    assert status["counters"]["lost"] == 0
    assert rig.box.node_pid() == status["pid"]


def test_results_that_were_on_their_way_when_the_node_was_killed_are_reported_again(rig: Rig) -> None:
    """Row 20: many short tasks, each run once, whichever of them were leased, finished or reported at that moment."""
    rig.worker(concurrency=2)
    client = rig.client()
    tasks = [task("echo", number, to=client) for number in range(3000)]
    token = client.submit_many(tasks)
    for share in (0.2, 0.5, 0.8):
        wait_until(lambda share=share: len(rig.runs()) > share * len(tasks), what=f"{share:.0%} of the tasks")
        first = rig.box.kill_node()
        wait_until(lambda first=first: rig.box.node_pid() not in (0, first))
    for number, one in enumerate(tasks):
        assert value_of(client.wait(one.id, token=token, timeout=20)) == number
    assert sorted(run.id for run in rig.runs()) == sorted(one.id for one in tasks)


@pytest.mark.parametrize("flags", [0, LATE], ids=["early", "late"])
def test_a_lease_whose_worker_died_while_the_node_was_down_ends_by_its_rule(rig: Rig, flags: int) -> None:
    """Row 20: early: it is told that the worker was lost; late: it is run again."""
    node = rig.node()
    worker = rig.worker(pool="solo")
    gate = rig.gate()
    client = rig.client()
    running, behind = (task("gate", str(gate.path), name, to=client, flags=flags) for name in ("running", "behind"))
    token = client.submit_many([running, behind])
    rig.wait_for_run(running.id)
    worker.send_signal(signal.SIGSTOP)  # it is not to start another node
    node.kill()
    wait_for_end(node.pid)
    worker.kill()
    wait_for_end(worker.pid)
    rig.node()
    rig.worker()
    gate.open()
    result = client.wait(running.id, token=token, timeout=20)
    if flags:
        assert value_of(result) == "running"
        assert len(rig.runs(running.id)) == 2
    else:
        loss = loss_of(result)
        assert result.state == wire.FAILURE
        assert loss is not None
        assert loss.kind == "worker-lost"
        assert len(rig.runs(running.id)) == 1
    # What had not been started is run in any case.
    assert value_of(client.wait(behind.id, token=token, timeout=20)) == "behind"
    assert len(rig.runs(behind.id)) == 1


# ── frozen ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["on this machine", "on another"])
def test_a_frozen_node_makes_nobody_run_anything_twice(rig: Rig, where: str) -> None:
    """Row 30: frozen for longer than leases last; its clock went on, and no worker could say that it is alive."""
    node = rig.node(lease_timeout=1.0)
    rig.worker(concurrency=2, elsewhere=where == "on another", beat=0.2)
    gate = rig.gate()
    client = rig.client(connect_timeout=30.0)
    held = [task("gate", str(gate.path), number, to=client) for number in range(2)]
    token = client.submit_many(held)
    for one in held:
        rig.wait_for_run(one.id)
    behind = [task("echo", number, to=client) for number in range(200)]
    token = client.submit_many(behind)
    assert client.confirm(20)
    os.kill(node.pid, signal.SIGSTOP)
    frozen = time.monotonic()
    more = [task("echo", number, to=client) for number in range(200)]
    more_token = client.submit_many(more)
    wait_until(lambda: time.monotonic() > frozen + 3.0)
    # Who waits for the node does not shout at it: its hellos are ever further apart.
    assert client._hello_wait >= 1.0
    os.kill(node.pid, signal.SIGCONT)
    gate.open()
    for tasks, its in ((held, token), (behind, token), (more, more_token)):
        assert [value_of(client.wait(one.id, token=its, timeout=20)) for one in tasks] == list(range(len(tasks)))
    assert sorted(run.id for run in rig.runs()) == sorted(one.id for one in (*held, *behind, *more))
    counters = status_of(client)["counters"]
    assert counters["lost"] == counters["late"] == 0
    assert counters["accepted"] == 402
    assert counters["duplicates"] <= 402  # at most one needless resend of each


def test_a_submit_to_a_frozen_node_fails_at_its_deadline_and_its_tasks_arrive_later(rig: Rig) -> None:
    """Row 30: back-pressure, then an error, and nothing is lost or doubled when it wakes."""
    node = rig.node()
    rig.worker()
    client = rig.client(connect_timeout=0.5, window=50)
    first = task("echo", to=client)
    assert value_of(client.wait(first.id, token=client.submit(first), timeout=20)) is None
    os.kill(node.pid, signal.SIGSTOP)
    taken = []
    with pytest.raises(Exception, match="50 tasks of this process wait for its acknowledgement"):  # noqa: PT012
        for _ in range(100):
            one = task("echo", to=client)
            client.submit(one)
            taken.append(one.id)
    assert len(taken) == 50
    os.kill(node.pid, signal.SIGCONT)
    assert client.confirm(20)
    for task_id in taken:
        assert value_of(client.wait(task_id, timeout=20)) is None
    assert sorted(run.id for run in rig.runs()) == sorted([first.id, *taken])


# ── the points themselves ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_point_at_which_a_process_can_be_killed_is_used_by_a_test() -> None:
    """So that none goes untested."""
    points = set()
    for path in (ROOT / "zerocelery").rglob("*.py"):
        points.update(re.findall(r'\bfailpoint\("([\w.]+)"\)', path.read_text()))
    assert points >= set(POINTS)
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    prefixes = re.findall(r'"ZEROCELERY_FAILPOINT": f"(\w+)\.\{', tests)
    used = {point for point in points if point in tests}
    for prefix in prefixes:
        used |= {p for p in points if p.startswith(f"{prefix}.") and f'"{p.partition(".")[2]}"' in tests}
    assert used == points
