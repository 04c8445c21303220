"""``-P gevent`` and ``-P eventlet``: tasks in green threads, with the standard library patched before all else."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from zerocelery import Celery
from zerocelery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded, WorkerLostError
from zerocelery.result import AsyncResult

from ..conftest import PATIENCE, Sandbox, require_server, wait_until, worker_process

TASKS = """
import asyncio, os, threading, time
from zerocelery import Celery, signals

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))

def tell(what):
    with open(os.path.join(HERE, "told"), "a") as file:
        file.write(what + "\\n")

@signals.worker_shutting_down.connect(weak=False)
def shutting_down(sender, sig, how, exitcode, **_):
    tell(f"worker_shutting_down {sig} {how}")

@signals.worker_shutdown.connect(weak=False)
def shutdown(**_):
    tell("worker_shutdown")

@app.task
def nap(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - began

@app.task
def add(x, y):
    return x + y

@app.task
def sums():
    return [add.delay(1, n).get(timeout=10) for n in range(3)]

@app.task(bind=True, max_retries=2)
def again(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return self.request.retries

@app.task
def fail():
    raise ValueError("no")

@app.task(soft_time_limit=0.2)
def softly():
    time.sleep(60)

@app.task(time_limit=0.2)
def stubborn():
    while True:
        try:
            time.sleep(60)
        except Exception:
            pass

@app.task(time_limit=0.2)
def deaf():
    try:
        time.sleep(60)
    except BaseException:
        time.sleep(60)

@app.task
async def coroutine(seconds):
    await asyncio.sleep(seconds)
    return threading.get_native_id()

@app.task
def sleep(name, seconds=60):
    tell(f"{name} began")
    try:
        time.sleep(seconds)
    finally:
        tell(f"{name} left")
    return name

@app.task(acks_late=True)
def late(name):
    tell(f"{name} began")
    if not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(60)
    return name
"""


@pytest.fixture(
    params=["gevent", pytest.param("eventlet", marks=pytest.mark.filterwarnings("ignore::DeprecationWarning"))]
)
def pool(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if os.environ.get("CI") != "true" and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def told(box: Sandbox) -> list[str]:
    place = box.home / "told"
    return place.read_text().splitlines() if place.exists() else []


def wait_told(box: Sandbox, *what: str) -> None:
    wait_until(lambda: set(what) <= set(told(box)), what=f"{what} in what the worker told")


def client(url: str) -> Callable[..., AsyncResult]:
    app = Celery("client", broker=url)
    app.conf.accept_content = ["json", "pickle"]
    return lambda name, *args, **options: app.send_task(f"proj.{name}", args, **options)


def error_of(result: AsyncResult) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what the caller compares
        result.get(timeout=20)
    return caught.value


def test_a_hundred_sleep_at_once_and_everything_else_is_as_in_other_pools(sandbox: Sandbox, pool: str) -> None:
    with worker_process(sandbox, TASKS, "-P", pool, "-c", "100") as worker:
        call = client(sandbox.url)
        assert call("add", 1, 2).get(timeout=20) == 3
        began = time.monotonic()
        naps = [call("nap", 0.5) for _ in range(100)]
        slept = [result.get(timeout=20) for result in naps]
        assert time.monotonic() - began < 5  # one after the other they take 50
        assert min(slept) >= 0.5  # nobody was woken by what another waited for
        assert call("sums").get(timeout=20) == [1, 2, 3]
        assert call("again").get(timeout=20) == 2
        assert isinstance(error_of(call("fail")), ValueError)
        due = time.time() + 0.5
        eta = call("add", 1, 1, countdown=0.5)
        assert eta.get(timeout=20) == 2
        assert time.time() >= due
        threads = [call("coroutine", 0.2) for _ in range(3)]
        assert worker.pid not in {result.get(timeout=20) for result in threads}  # a loop blocks, so not in the hub's
        assert isinstance(error_of(call("softly")), SoftTimeLimitExceeded)
        assert isinstance(error_of(call("stubborn")), TimeLimitExceeded)
        assert isinstance(error_of(call("deaf")), TimeLimitExceeded)


def test_a_task_can_be_looked_at_and_ended_while_others_go_on(sandbox: Sandbox, pool: str) -> None:
    with worker_process(sandbox, TASKS, "-P", pool, "-c", "3", "-n", "w@h"):
        app = Celery("client", broker=sandbox.url)
        one, other = (app.send_task("proj.sleep", (name, seconds)) for name, seconds in (("one", 60), ("other", 2)))
        wait_told(sandbox, "one began", "other began")
        active = app.control.inspect().active()["w@h"]
        assert {task["id"] for task in active} == {one.id, other.id}
        stats = app.control.inspect().stats()["w@h"]["pool"]
        assert (stats["implementation"], stats["max-concurrency"]) == (f"zerocelery.concurrency.{pool}:TaskPool", 3)
        answer = app.control.revoke(one.id, terminate=True, reply=True)
        assert answer == [{"w@h": {"ok": f"terminate: {one.id}"}}]
        error = error_of(one)
        assert isinstance(error, TaskRevokedError)
        assert (str(error), one.state) == ("terminated", "REVOKED")
        assert "one left" in told(sandbox)
        assert other.get(timeout=20) == "other"
        assert app.send_task("proj.add", (1, 1)).get(timeout=20) == 2


def test_a_warm_shutdown_finishes_what_runs(sandbox: Sandbox, pool: str) -> None:
    with worker_process(sandbox, TASKS, "-P", pool, "-c", "2") as worker:
        call = client(sandbox.url)
        results = [call("sleep", "a", 0.7), call("sleep", "b", 0.7)]
        wait_told(sandbox, "a began", "b began")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
        assert [result.get(timeout=20) for result in results] == ["a", "b"]
        assert told(sandbox)[-2:] != told(sandbox)[:2]
        assert told(sandbox)[-1] == "worker_shutdown"
        assert "worker_shutting_down SIGTERM Warm" in told(sandbox)


def test_a_cold_shutdown_interrupts_tasks_and_gives_late_ones_back(sandbox: Sandbox, pool: str) -> None:
    with worker_process(sandbox, TASKS, "-P", pool, "-c", "3") as worker:
        call = client(sandbox.url)
        early, kept = call("sleep", "early"), call("late", "late")
        wait_told(sandbox, "early began", "late began")
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(PATIENCE) == 0
        assert isinstance(error_of(early), WorkerLostError)
        assert told(sandbox)[-3:] == ["worker_shutting_down SIGQUIT Cold", "early left", "worker_shutdown"]
        (sandbox.home / "go").write_text("")
    with worker_process(sandbox, TASKS, "-P", "solo"):
        assert kept.get(timeout=20) == "late"


@pytest.mark.redis
def test_a_broker_of_kombu_feeds_green_threads(sandbox: Sandbox, pool: str) -> None:
    require_server("Redis", 6379)
    url, queue = "redis://127.0.0.1:6379/13", f"green-{os.getpid()}-{time.time_ns()}"
    source = TASKS + f"\napp.conf.update(broker_url={url!r}, result_backend={url!r}, result_expires=60)\n"
    sandbox.write("proj.py", source)
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-P", pool, "-c", "20", "-Q", queue)
    app, naps = Celery("client", broker=url, backend=url), list[Any]()
    try:
        sandbox.wait_for_output(worker, "ready.")
        began = time.monotonic()
        naps += [app.send_task("proj.nap", (0.5,), queue=queue) for _ in range(20)]
        assert min(result.get(timeout=20) for result in naps) >= 0.5
        assert time.monotonic() - began < 5
        naps.append(app.send_task("proj.fail", queue=queue))
        assert isinstance(error_of(naps[-1]), ValueError)
    finally:
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
        for result in naps:
            result.forget()
        app.close()
        import redis

        with redis.Redis.from_url(url) as server:
            server.flushdb()  # this database is the test's alone; kombu leaves more than its queues there


def test_what_is_not_installed_is_named_with_its_extra(sandbox: Sandbox, pool: str) -> None:
    sandbox.write("proj.py", TASKS)
    (sandbox.home / pool).mkdir()
    sandbox.write(f"{pool}/__init__.py", "raise ImportError('it is not there')")
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-P", pool)
    assert worker.wait(PATIENCE) == 2
    assert f"pip install 'zerocelery[{pool}]'" in sandbox.output(worker)


def test_a_setting_comes_too_late_and_says_so(sandbox: Sandbox, pool: str) -> None:
    sandbox.write("proj.py", TASKS + f"\napp.conf.worker_pool = {pool!r}\n")
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "worker")
    assert worker.wait(PATIENCE) == 2
    assert f"choose this pool on the command line, as in worker -P {pool}" in " ".join(sandbox.output(worker).split())
