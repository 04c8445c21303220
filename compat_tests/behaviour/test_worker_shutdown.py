"""How a worker ends: warm, soft and cold, by each signal; what runs, what waits and what is told."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from zerocelery import Celery
from zerocelery.exceptions import WorkerLostError

from ..conftest import PATIENCE, Sandbox, wait_until, worker_process

TASKS = """
import os, time
from zerocelery import Celery, signals

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))
for name in ("worker_soft_shutdown_timeout", "worker_enable_soft_shutdown_on_idle"):
    if name in os.environ:
        app.conf[name] = float(os.environ[name])

def tell(text):
    with open(os.path.join(HERE, "told"), "a") as file:
        file.write(text + "\\n")

def telling(name, *fields):
    def receiver(sender=None, **given):
        tell(" ".join([name, *(str(given[field]) for field in fields)]))
    getattr(signals, name).connect(receiver, weak=False)

telling("celeryd_init")
telling("worker_init")
telling("celeryd_after_setup")
telling("worker_before_create_process")
telling("worker_process_init")
telling("worker_ready")
telling("worker_shutting_down", "sig", "how", "exitcode")
telling("worker_process_shutdown", "exitcode")
telling("worker_shutdown")

@app.task
def add(x, y):
    return x + y

@app.task
def sleep(name, seconds):
    tell(f"{name} began")
    try:
        time.sleep(seconds)
        tell(f"{name} slept")
    finally:
        tell(f"{name} ended")
    return name

@app.task(acks_late=True)
def late(name, seconds):
    tell(f"{name} began")
    if not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(seconds)
    return name
"""


@pytest.fixture
def call(sandbox: Sandbox) -> Callable[..., Any]:
    app = Celery("client", broker=sandbox.url)

    def send(name: str, *args: Any, **options: Any) -> Any:
        return app.send_task(f"proj.{name}", args=args, **options)

    return send


def told(sandbox: Sandbox) -> list[str]:
    path = sandbox.home / "told"
    return path.read_text().splitlines() if path.exists() else []


def wait_told(sandbox: Sandbox, *texts: str) -> None:
    wait_until(lambda: set(texts) <= set(told(sandbox)), what=f"{texts} in {told(sandbox)}")


def start(sandbox: Sandbox, *options: str, **environment: str) -> subprocess.Popen[bytes]:
    sandbox.write("proj.py", TASKS)
    process = sandbox.python("-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "worker", *options, env=environment)
    sandbox.wait_for_output(process, "ready.")
    return process


def test_sigterm_is_warm_however_often_it_comes(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    worker = start(sandbox, "-c", "2")
    results = [call("sleep", name, 1.0) for name in "ab"]
    wait_told(sandbox, "a began", "b began")
    waiting = call("add", 1, 1)
    worker.send_signal(signal.SIGTERM)
    sandbox.wait_for_output(worker, "worker: Warm shutdown (MainProcess)")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert [result.get(timeout=20) for result in results] == ["a", "b"]
    assert not waiting.ready()
    with worker_process(sandbox, TASKS, "-c", "1"):
        assert waiting.get(timeout=20) == 2


def test_who_waits_for_the_last_task_of_a_warm_shutdown_uses_no_processor(
    sandbox: Sandbox, call: Callable[..., Any]
) -> None:
    worker = start(sandbox, "-c", "2")
    result = call("sleep", "a", 3.0)
    wait_told(sandbox, "a began")
    parent = psutil.Process(worker.pid)
    worker.send_signal(signal.SIGTERM)
    # the other process has nothing to do, and leaves at once
    wait_until(lambda: "worker_process_shutdown 0" in told(sandbox), what="a process that has left")
    before = parent.cpu_times()
    wait_told(sandbox, "a ended")
    after = parent.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.5
    assert worker.wait(PATIENCE) == 0
    assert result.get(timeout=20) == "a"


def test_everything_is_announced_in_order(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    worker = start(sandbox, "-c", "1")
    assert call("add", 1, 1).get(timeout=20) == 2
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert told(sandbox) == [
        "celeryd_init",
        "worker_init",
        "celeryd_after_setup",
        "worker_before_create_process",
        "worker_process_init",
        "worker_ready",
        "worker_shutting_down SIGTERM Warm 0",
        "worker_process_shutdown 0",
        "worker_shutdown",
    ]


def test_sigint_is_warm_and_ends_with_one(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    worker = start(sandbox, "-c", "1")
    result = call("sleep", "a", 0.7)
    wait_told(sandbox, "a began")
    os.killpg(worker.pid, signal.SIGINT)  # as a terminal does: children get it, too
    assert worker.wait(PATIENCE) == 1
    assert result.get(timeout=20) == "a"
    assert "Hitting Ctrl+C again will initiate cold shutdown" in sandbox.output(worker)
    assert "worker_shutting_down SIGINT Warm 1" in told(sandbox)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_sigint_twice_ends_what_runs(sandbox: Sandbox, call: Callable[..., Any], pool: str) -> None:
    worker = start(sandbox, "-c", "1", "-P", pool)
    early = call("sleep", "a", 60)
    wait_told(sandbox, "a began")
    waiting = call("add", 1, 1)
    worker.send_signal(signal.SIGINT)
    sandbox.wait_for_output(worker, "Warm shutdown")
    worker.send_signal(signal.SIGINT)
    assert worker.wait(PATIENCE) == 1
    with pytest.raises(WorkerLostError):
        early.get(timeout=20)
    if pool == "prefork":
        assert {"a ended", "worker_shutting_down SIGINT Cold 1"} <= set(told(sandbox))
        assert "a slept" not in told(sandbox)
    with worker_process(sandbox, TASKS, "-c", "1"):
        assert waiting.get(timeout=20) == 2


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_sigquit_gives_late_tasks_back(sandbox: Sandbox, call: Callable[..., Any], pool: str) -> None:
    worker = start(sandbox, "-c", "2", "-P", pool)
    late, early, waiting = call("late", "late", 60), call("sleep", "early", 60), call("add", 1, 1)
    wait_told(sandbox, "late began", "early began")
    os.killpg(worker.pid, signal.SIGQUIT)  # as a terminal does: children get it, too
    assert worker.wait(PATIENCE) == 0
    assert "worker: Cold shutdown (MainProcess)" in sandbox.output(worker)
    with pytest.raises(WorkerLostError):
        early.get(timeout=20)
    (sandbox.home / "go").write_text("")
    with worker_process(sandbox, TASKS, "-c", "1"):
        assert late.get(timeout=20) == "late"
        assert waiting.get(timeout=20) == 2
    assert told(sandbox).count("late began") == 2


def test_a_soft_shutdown_lets_what_runs_finish_in_its_time(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    worker = start(sandbox, "-c", "2", worker_soft_shutdown_timeout="3")
    short, long = call("sleep", "short", 0.5), call("sleep", "long", 60)
    wait_told(sandbox, "short began", "long began")
    worker.send_signal(signal.SIGQUIT)
    sandbox.wait_for_output(worker, "Initiating Soft Shutdown, terminating in 3.0 seconds")
    assert worker.wait(PATIENCE) == 0
    assert short.get(timeout=20) == "short"
    with pytest.raises(WorkerLostError):
        long.get(timeout=20)


def test_a_soft_shutdown_can_be_cut_short(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    worker = start(sandbox, "-c", "1", worker_soft_shutdown_timeout="300")
    long = call("sleep", "long", 600)
    wait_told(sandbox, "long began")
    worker.send_signal(signal.SIGQUIT)
    sandbox.wait_for_output(worker, "Initiating Soft Shutdown")
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(PATIENCE) == 0
    with pytest.raises(WorkerLostError):
        long.get(timeout=20)


@pytest.mark.parametrize(("on_idle", "said"), [("0", False), ("1", True)])
def test_who_has_nothing_to_do_leaves_at_once(sandbox: Sandbox, on_idle: str, said: bool) -> None:
    worker = start(sandbox, "-c", "1", worker_soft_shutdown_timeout="300", worker_enable_soft_shutdown_on_idle=on_idle)
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(PATIENCE) == 0
    assert ("Initiating Soft Shutdown" in sandbox.output(worker)) is said


def test_sigterm_can_mean_sigquit(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    worker = start(sandbox, "-c", "1", REMAP_SIGTERM="SIGQUIT")
    early = call("sleep", "a", 60)
    wait_told(sandbox, "a began")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert "worker_shutting_down SIGTERM Cold 1" in told(sandbox)
    with pytest.raises(WorkerLostError):
        early.get(timeout=20)


def test_sighup_begins_anew(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    worker = start(sandbox, "-c", "1")
    result = call("sleep", "a", 0.5)
    wait_told(sandbox, "a began")
    worker.send_signal(signal.SIGHUP)
    assert result.get(timeout=20) == "a"
    wait_until(lambda: told(sandbox).count("worker_ready") == 2)
    assert worker.poll() is None
    assert call("add", 1, 1).get(timeout=20) == 2
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0


#: How each kind of pool ends while a task runs: what is told from the signal on. Celery sends worker_shutdown after a
#: warm shutdown only, and threads and solo pools fail in a cold one.
WARM, COLD, DONE = "worker_shutting_down SIGTERM Warm 0", "worker_shutting_down SIGQUIT Cold 1", "worker_shutdown"
ENDS = {
    ("warm", "prefork"): [WARM, "a slept", "a ended", "worker_process_shutdown 0", DONE],
    ("warm", "threads"): [WARM, "a slept", "a ended", DONE],
    ("warm", "solo"): [WARM, "a slept", "a ended", DONE],
    ("cold", "prefork"): [COLD, "a ended", f"worker_process_shutdown -{signal.SIGRTMIN}", DONE],
    ("cold", "threads"): [COLD, DONE],
    ("cold", "solo"): [COLD, "a ended", DONE],
}
ENDS.update({("soft", pool): told for (how, pool), told in ENDS.items() if how == "cold"})


@pytest.mark.parametrize(("how", "pool"), ENDS)
def test_each_pool_tells_its_end_in_order(sandbox: Sandbox, call: Callable[..., Any], how: str, pool: str) -> None:
    environment = {"worker_soft_shutdown_timeout": "0.5"} if how == "soft" else {}
    worker = start(sandbox, "-c", "1", "-P", pool, **environment)
    result = call("sleep", "a", 0.7 if how == "warm" else 60)
    wait_told(sandbox, "a began")
    worker.send_signal(signal.SIGTERM if how == "warm" else signal.SIGQUIT)
    assert worker.wait(PATIENCE) == 0
    lines = told(sandbox)
    assert lines[lines.index("a began") + 1 :] == ENDS[how, pool]
    if how == "warm":
        assert result.get(timeout=20) == "a"
    else:
        with pytest.raises(WorkerLostError):
            result.get(timeout=20)


def test_a_soft_shutdown_ends_as_soon_as_nothing_runs(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    """Celery waits until the time is over, for tasks with an ETA that are in its memory; here a node has these."""
    worker = start(sandbox, "-c", "1", "-P", "threads", worker_soft_shutdown_timeout="300", REMAP_SIGTERM="SIGQUIT")
    short, eta = call("sleep", "short", 0.5), call("add", 1, 1, countdown=3)
    wait_told(sandbox, "short began")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert "worker_shutting_down SIGTERM Cold 1" in told(sandbox)
    assert short.get(timeout=20) == "short"
    with worker_process(sandbox, TASKS, "-c", "1"):
        assert eta.get(timeout=20) == 2
