"""The worker's options: what each does, seen from outside."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from zerocelery import Celery

from ..conftest import PATIENCE, Sandbox, wait_for_end, wait_until, worker_process

TASKS = """
import os, time
from zerocelery import Celery, signals

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))
app.conf.beat_schedule = {"often": {"task": "proj.note", "schedule": 0.2}}

@app.task
def add(x, y):
    return x + y

@app.task
def pid():
    return os.getpid()

@app.task
def note():
    with open(os.path.join(HERE, "notes"), "a") as file:
        file.write("note\\n")

@app.task(bind=True)
def whoami(self):
    return self.request.hostname

@app.task
def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()

@app.task
def grow(size):
    app.hoard = bytearray(os.urandom(1)) * size
    return os.getpid()
"""


@pytest.fixture
def app(sandbox: Sandbox) -> Iterator[Celery]:
    app = Celery("client", broker=sandbox.url)
    yield app
    app.close()


@pytest.fixture
def call(app: Celery) -> Callable[..., Any]:
    def send(name: str, *args: Any, **options: Any) -> Any:
        return app.send_task(f"proj.{name}", args=args, **options)

    return send


def test_a_process_is_replaced_after_so_many_tasks(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "--max-tasks-per-child", "3"):
        pids = [call("pid").get(timeout=20) for _ in range(7)]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4] == pids[5] != pids[6]


def test_twenty_four_processes_with_one_task_each_lose_none(sandbox: Sandbox, app: Celery) -> None:
    """720 tasks here: each process is replaced thirty times; the full 10,000 were run by hand."""
    with worker_process(sandbox, TASKS, "-c", "24", "--max-tasks-per-child", "1"):
        results = [app.send_task("proj.add", (n, 1)) for n in range(720)]
        assert [result.get(timeout=240) for result in results] == list(range(1, 721))


def test_a_process_that_takes_too_much_memory_is_replaced(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "--max-memory-per-child", "150000"):
        first = call("pid").get(timeout=20)
        assert call("pid").get(timeout=20) == first
        assert call("grow", 200 << 20).get(timeout=20) == first  # it is finished, and then the process leaves
        assert call("pid").get(timeout=20) != first


def test_a_pool_grows_with_its_work_and_shrinks_again(
    sandbox: Sandbox, app: Celery, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOSCALE_KEEPALIVE", "1")
    with worker_process(sandbox, TASKS, "--autoscale", "4,1", "-l", "INFO", ready=False) as worker:
        sandbox.wait_for_output(worker, "ready.")
        assert "concurrency: {min=1, max=4}" in sandbox.output(worker)
        assert len(psutil.Process(worker.pid).children()) == 1
        results = [call("sleep", 1) for _ in range(16)]
        (stats,) = app.control.inspect(timeout=5.0).stats().values()
        assert (stats["autoscaler"]["max"], stats["autoscaler"]["min"]) == (4, 1)
        assert len({result.get(timeout=60) for result in results}) >= 3
        assert "Scaling up" in sandbox.output(worker)
        sandbox.wait_for_output(worker, "Scaling down")
        wait_until(lambda: len(psutil.Process(worker.pid).children()) == 1, what="a pool of one")
        assert call("add", 1, 1).get(timeout=20) == 2


def test_the_name_and_what_is_in_it(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    host = socket.gethostname()
    with worker_process(sandbox, TASKS, "-c", "1", "-n", "w1-%n@%h") as worker:
        name = call("whoami").get(timeout=20)
        assert name.startswith("w1-")
        assert name.endswith(f"@{host}")
        assert "%" not in name
        assert f"{name} ready." in sandbox.output(worker)


def test_queues_are_chosen_and_left_out(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "-Q", "a,b,c", "-X", "b", "-n", "ac@%h") as worker:
        assert call("whoami", queue="a").get(timeout=20).startswith("ac@")
        assert call("whoami", queue="c").get(timeout=20).startswith("ac@")
        other = call("whoami", queue="b")
        assert ".> a                exchange=a(direct) key=a" in sandbox.output(worker)
        with worker_process(sandbox, TASKS, "-c", "1", "-Q", "b", "-n", "b@%h"):
            assert other.get(timeout=20).startswith("b@")


def test_the_banner_says_what_celerys_says(sandbox: Sandbox) -> None:
    with worker_process(sandbox, TASKS, "-c", "2", "-n", "w@here", "-l", "INFO") as worker:
        banner = sandbox.output(worker)
    for line in (
        " -------------- w@here v",
        "- ** ---------- [config]",
        "- ** ---------- .> app:         proj:0x",
        f"- ** ---------- .> transport:   {sandbox.url}",
        f"- ** ---------- .> results:     {sandbox.url}",
        "- *** --- * --- .> concurrency: 2 (prefork)",
        "-- ******* ---- .> task events: OFF (enable -E to monitor tasks in this worker)",
        " -------------- [queues]",
        "                .> celery           exchange=celery(direct) key=celery",
        "[tasks]",
        "  . proj.add",
    ):
        assert line in banner
    assert "celery.backend_cleanup" not in banner


def test_pid_and_log_files(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    files = ["--pidfile", f"{sandbox.home}/%n.pid", "--logfile", f"{sandbox.home}/%n%I.log", "-l", "INFO"]
    with worker_process(sandbox, TASKS, "-c", "1", "-n", "w@here", *files, ready=False) as worker:
        log = sandbox.home / "w.log"
        wait_until(lambda: log.exists() and "w@here ready." in log.read_text(), what="a log")
        assert int((sandbox.home / "w.pid").read_text()) == worker.pid
        second = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-n", "w@here", *files)
        assert second.wait(PATIENCE) != 0
        assert call("add", 1, 1).get(timeout=20) == 2
        wait_until(lambda: "proj.add" in (sandbox.home / "w-1.log").read_text(), what="a child's own log")
    assert not (sandbox.home / "w.pid").exists()
    (sandbox.home / "w.pid").write_text("999999\n")  # of one that was killed
    with worker_process(sandbox, TASKS, "-c", "1", "-n", "w@here", *files[:2]) as worker:
        assert int((sandbox.home / "w.pid").read_text()) == worker.pid


def test_in_the_background(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    sandbox.write("proj.py", TASKS)
    pidfile = sandbox.home / "w.pid"
    command = ["-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "worker", "-c", "1", "-D"]
    starter = sandbox.python(*command, "--pidfile", str(pidfile), "-f", str(sandbox.home / "w.log"))
    assert starter.wait(PATIENCE) == 0
    wait_until(sandbox.node_pid, what="a node")  # the background takes its time, and says nothing
    assert call("add", 1, 1).get(timeout=20) == 2
    pid = int(pidfile.read_text())
    again = sandbox.python(*command, "--pidfile", str(pidfile))
    assert again.wait(PATIENCE) != 0
    assert "is there already, of a worker that runs" in sandbox.output(again)
    os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    assert not pidfile.exists()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_beat_in_the_worker(sandbox: Sandbox, pool: str) -> None:
    notes = sandbox.home / "notes"
    options = ["-c", "1", "-P", pool, "-B", "-s", str(sandbox.home / "schedule")]
    with worker_process(sandbox, TASKS, *options) as worker:
        wait_until(lambda: notes.exists() and len(notes.read_text().splitlines()) >= 3, what="periodic tasks")
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
    assert not [process for process in sandbox.ours() if "worker" in process.cmdline()]


def test_waiting_tasks_can_be_removed_first(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "-Q", "other"):
        old = call("add", 1, 1)
        with worker_process(sandbox, TASKS, "-c", "1", "--purge") as worker:
            assert call("add", 2, 2).get(timeout=20) == 4
            assert "purge: Erased 1 message from the queue." in sandbox.output(worker)
        assert not old.ready()


def test_a_worker_of_spawned_processes(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-c", "2", "--pool-start-method", "spawn", "--time-limit", "1"):
        assert call("add", 1, 1).get(timeout=20) == 2
        value = call("sleep", 60).get(timeout=20, propagate=False)
        assert repr(value) == "TimeLimitExceeded(1)"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-P", "what"], "there is no pool 'what'"),
        (["-c", "x"], "is no number of tasks at a time"),
        (["--autoscale", "x"], "write most,least, as in 10,3"),
        (["-X", "celery"], "no queue is left to serve"),
        (["--uid", "nobody-of-this-name"], "user nobody-of-this-name"),
        (["--umask", "9"], "is no octal number"),
    ],
)
def test_what_is_wrong_is_one_sentence(sandbox: Sandbox, options: list[str], said: str) -> None:
    sandbox.write("proj.py", TASKS)
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "worker", *options)
    assert worker.wait(PATIENCE) != 0
    assert said in " ".join(sandbox.output(worker).split())
    assert "Traceback" not in sandbox.output(worker)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("threads", "in a pool of kind threads, and some have one (proj.co, proj.limited)"),
        ("solo", "in a pool of kind solo, and some have one (proj.co, proj.limited)"),
        ("asyncio", "for tasks that are not async, and some have one (proj.limited)"),
    ],
)
def test_what_a_pool_does_not_do_is_said_at_the_start(sandbox: Sandbox, pool: str, said: str) -> None:
    source = (
        TASKS
        + """
@app.task(time_limit=5)
def limited():
    pass

@app.task(time_limit=5)
async def co():
    pass
"""
    )
    options = ("-P", pool, "--max-tasks-per-child", "9", "--max-memory-per-child", "9", "--autoscale", "3,2")
    with worker_process(sandbox, source, *options) as worker:
        lines = " ".join(sandbox.output(worker).split())
        assert f"time limits are not enforced {said}" in lines
        kind = f"has no effect in a pool of kind {pool}, which"
        assert f"worker_max_tasks_per_child {kind} has no process to replace" in lines
        assert f"worker_max_memory_per_child {kind} has no process to replace" in lines
        assert f"--autoscale {kind} stays at 3" in lines
        app = Celery("client", broker=sandbox.url)
        for _ in range(2):
            assert app.send_task("proj.add", (1, 1), time_limit=5).get(timeout=20) == 2
        said = "the time limit of proj.add is not enforced in this pool"
        assert sandbox.output(worker).count(said) == (0 if pool == "asyncio" else 1)


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_pool_without_processes_grows_and_shrinks(sandbox: Sandbox, call: Callable[..., Any], pool: str) -> None:
    if pool == "gevent" and os.environ.get("CI") != "true":
        pytest.importorskip("gevent.pool")
    app = Celery("client", broker=sandbox.url)
    with worker_process(sandbox, TASKS, "-P", pool, "-c", "1", "-n", "w@h"):
        first, second = call("sleep", 1.0), call("add", 1, 1)
        wait_until(lambda: app.control.inspect("w@h").active())
        assert app.control.pool_grow(1, reply=True) == [{"w@h": {"ok": "pool will grow"}}]
        assert second.get(timeout=20) == 2
        assert not first.ready()  # it had no need to wait
        app.control.pool_shrink(1, reply=True)
        assert first.get(timeout=20) is not None
        wait_until(lambda: app.control.inspect("w@h").stats()["pool"]["max-concurrency"] == 1)
        assert call("add", 2, 2).get(timeout=20) == 4
