"""``-P package.module:Class``: a pool that others have written is given the worker's tasks, as in Celery."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from zerocelery import Celery
from zerocelery.exceptions import TimeLimitExceeded, WorkerLostError

from ..conftest import PATIENCE, Sandbox, wait_until, worker_process

TASKS = """
import os, threading, time
from zerocelery import Celery
from zerocelery.concurrency.base import BasePool, apply_target
from zerocelery.concurrency.prefork import TaskPool as Prefork
from zerocelery.concurrency.gevent import TaskPool as Green

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))

def tell(what):
    with open(os.path.join(HERE, "told"), "a") as file:
        file.write(what + "\\n")

class MyPool(BasePool):
    def on_start(self):
        tell(f"on_start {self.limit} {self.app.main} {self.options['initargs'][1]}")

    def on_apply(self, target, args=None, kwargs=None, callback=None, accept_callback=None, timeout=None,
                 timeout_callback=None, correlation_id=None, **_):
        tell(f"on_apply {correlation_id} {timeout}")
        call = threading.Thread(
            target=apply_target, args=(target, args, kwargs, callback, accept_callback), name="mine", daemon=True)
        call.start()
        if timeout:
            call.join(timeout)
            if call.is_alive():
                timeout_callback(False, timeout)

    def on_close(self):
        tell("on_close")

    def on_stop(self):
        tell("on_stop")

    def on_terminate(self):
        tell("on_terminate")

class Full(MyPool):
    def on_apply(self, *args, **kwargs):
        raise RuntimeError("the pool is full")

class Processes(Prefork):
    pass

class Greens(Green):
    pass

@app.task(bind=True)
def where(self):
    self.update_state(state="ASKED")
    return threading.current_thread().name, self.request.id

@app.task
def fail():
    raise KeyError("no")

@app.task(bind=True, max_retries=2, default_retry_delay=0)
def again(self):
    if self.request.retries < 2:
        raise self.retry()
    return self.request.retries

@app.task
def sleep(seconds):
    tell("began")
    time.sleep(seconds)
    return "slept"
"""
# its import needs gevent, which is not what is tested here
WITHOUT_GREEN = TASKS.replace("from zerocelery.concurrency.gevent import TaskPool as Green", "Green = object")


def told(box: Sandbox) -> list[str]:
    place = box.home / "told"
    return place.read_text().splitlines() if place.exists() else []


@pytest.fixture
def call(sandbox: Sandbox) -> Callable[..., Any]:
    app = Celery("client", broker=sandbox.url)
    return lambda name, *args, **options: app.send_task(f"proj.{name}", args, **options)


def test_a_class_of_ones_own_calls_the_tasks(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, WITHOUT_GREEN, "-P", "proj:MyPool", "-c", "2", "-n", "w@h") as worker:
        result = call("where")
        assert result.get(timeout=20) == ["mine", result.id]
        with pytest.raises(KeyError):
            call("fail").get(timeout=20)
        assert call("again").get(timeout=20) == 2
        with pytest.raises(TimeLimitExceeded):
            call("sleep", 60, time_limit=0.3).get(timeout=20)
        stats = Celery("c", broker=sandbox.url).control.inspect("w@h").stats()["pool"]
        assert (stats["implementation"], stats["max-concurrency"]) == ("proj:MyPool", 2)
        running = call("sleep", 0.7)
        wait_until(lambda: told(sandbox).count("began") == 2)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
        assert running.get(timeout=20) == "slept"
        lines = told(sandbox)
        assert lines[0] == "on_start 2 proj w@h"
        assert f"on_apply {result.id} None" in lines
        assert lines[-2:] == ["on_close", "on_stop"]


def test_a_cold_shutdown_terminates_it(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    source = WITHOUT_GREEN + "\napp.conf.worker_pool = MyPool\n"
    with worker_process(sandbox, source, "-c", "1") as worker:
        running = call("sleep", 60)
        wait_until(lambda: "began" in told(sandbox))
        worker.send_signal(signal.SIGQUIT)
        assert worker.wait(PATIENCE) == 0
        with pytest.raises(WorkerLostError):
            running.get(timeout=20)
        assert told(sandbox)[-1] == "on_terminate"


def test_what_the_pool_raises_is_how_the_task_ends(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with (
        worker_process(sandbox, WITHOUT_GREEN, "-P", "proj.Full", "-c", "1"),
        pytest.raises(RuntimeError, match="full"),
    ):
        call("where").get(timeout=20)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("proj:Nothing", "there is no pool 'proj:Nothing'"),
        ("proj:Celery", "is no pool: a class of one's own is derived from BasePool"),
        ("proj:Processes", "calls in processes of its own"),
        ("proj:Greens", "is one of green threads, and nothing has been patched"),
    ],
)
def test_a_class_that_can_not_work_is_refused(sandbox: Sandbox, pool: str, said: str) -> None:
    if pool == "proj:Greens":
        pytest.importorskip("gevent.pool")
    sandbox.write("proj.py", TASKS if pool == "proj:Greens" else WITHOUT_GREEN)
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "worker", "-P", pool)
    assert worker.wait(PATIENCE) != 0
    assert said in " ".join(sandbox.output(worker).split())
    assert "Traceback" not in sandbox.output(worker)


def test_the_known_pools_may_be_named_by_their_place(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, WITHOUT_GREEN, "-P", "zerocelery.concurrency.thread:TaskPool", "-c", "1", "-n", "w@h"):
        assert call("again").get(timeout=20) == 2
        stats = Celery("c", broker=sandbox.url).control.inspect("w@h").stats()["pool"]
        assert stats["implementation"] == "zerocelery.concurrency.thread:TaskPool"
