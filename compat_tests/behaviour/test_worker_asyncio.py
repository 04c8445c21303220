"""``-P asyncio``: async def tasks run concurrently on one loop, with limits, and plain tasks beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zerocelery import Celery
from zerocelery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from ..conftest import PATIENCE, Sandbox, wait_until, worker_process

TASKS = """
import asyncio, os, threading, time
from zerocelery import Celery
from zerocelery.exceptions import SoftTimeLimitExceeded

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))
together = 0
most = 0

@app.task
async def meet(count):
    global together, most
    together += 1
    most = max(most, together)
    while most < count:
        await asyncio.sleep(0.01)
    together -= 1
    return id(asyncio.get_running_loop()), threading.current_thread().name

@app.task(bind=True)
async def whoami(self):
    await asyncio.sleep(0)
    return self.request.id

@app.task
async def fail():
    await asyncio.sleep(0)
    raise ValueError("no")

@app.task
async def sleep(seconds):
    with open(os.path.join(HERE, "began"), "a"):
        pass
    await asyncio.sleep(seconds)
    return "slept"

@app.task(soft_time_limit=0.2)
async def softly():
    await asyncio.sleep(20)

@app.task(soft_time_limit=0.2)
async def cleans_up():
    try:
        await asyncio.sleep(20)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.01)
        return "cleaned up"

@app.task(time_limit=0.3)
async def stubborn():
    while True:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            pass

@app.task
def blocks(seconds):
    time.sleep(seconds)
    return threading.current_thread().name
"""


@pytest.fixture
def call(sandbox: Sandbox) -> Iterator[Callable[..., Any]]:
    app = Celery("client", broker=sandbox.url)

    def send(name: str, *args: Any, **options: Any) -> Any:
        return app.send_task(f"proj.{name}", args=args, **options)

    yield send
    app.close()


def test_many_run_at_a_time_on_one_loop(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-P", "asyncio", "-c", "40") as worker:
        assert ".> concurrency: 40 (asyncio)" in sandbox.output(worker)
        results = [call("meet", 40) for _ in range(40)]
        assert {tuple(result.get(timeout=30)) for result in results} == {tuple(results[0].result)}
        ids = [call("whoami") for _ in range(20)]
        assert [result.get(timeout=20) for result in ids] == [result.id for result in ids]
        with pytest.raises(ValueError, match="no"):
            call("fail").get(timeout=20)


def test_a_plain_task_holds_nobody_up(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-P", "asyncio", "-c", "4"):
        blocking = call("blocks", 3)
        began = time.monotonic()
        assert call("sleep", 0.1).get(timeout=20) == "slept"
        assert time.monotonic() - began < 2.5
        assert blocking.get(timeout=20) != "zerocelery-loop"


def test_time_limits_hold(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-P", "asyncio", "-c", "2") as worker:
        soft = call("softly")
        with pytest.raises(SoftTimeLimitExceeded):
            soft.get(timeout=20)
        assert call("cleans_up").get(timeout=20) == "cleaned up"
        hard = call("stubborn")
        with pytest.raises(TimeLimitExceeded):
            hard.get(timeout=20)
        assert call("sleep", 0.01).get(timeout=20) == "slept"
        assert f"Soft time limit (0.2s) exceeded for proj.softly[{soft.id}]" in sandbox.output(worker)
        assert f"Hard time limit (0.3s) exceeded for proj.stubborn[{hard.id}]" in sandbox.output(worker)


def test_a_warm_shutdown_lets_coroutines_finish(sandbox: Sandbox, call: Callable[..., Any]) -> None:
    with worker_process(sandbox, TASKS, "-P", "asyncio", "-c", "3") as worker:
        results = [call("sleep", 1) for _ in range(3)]
        wait_until(lambda: (sandbox.home / "began").exists())
        worker.terminate()
        assert worker.wait(PATIENCE) == 0
        assert "slept" in [result.result if result.ready() else None for result in results]
