"""Coroutines on both sides: tasks that are ``async def``, and callers that await."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from compat_tests.conftest import Sandbox, worker_process
from zerocelery import Celery, GroupResult, group
from zerocelery.exceptions import TimeoutError

TASKS = """
import asyncio
from zerocelery import Celery, current_task
from zerocelery.exceptions import SoftTimeLimitExceeded

app = Celery("proj")
loops = set()

@app.task
async def double(x):
    await asyncio.sleep(0.01)
    return x * 2

@app.task
async def loop_count():
    loops.add(id(asyncio.get_running_loop()))
    return len(loops)

@app.task(bind=True)
async def who(self):
    await asyncio.sleep(0)
    return [self.request.id, current_task.name]

@app.task(bind=True, autoretry_for=(OSError,), max_retries=3, retry_backoff=False, default_retry_delay=0.01)
async def flaky(self):
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise OSError("not yet")
    return self.request.retries

@app.task
async def fails():
    await asyncio.sleep(0)
    raise KeyError("no")

@app.task(soft_time_limit=0.3)
async def waits_too_long():
    try:
        await asyncio.sleep(30)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
        return "tidied up"

@app.task
def add(x, y):
    return x + y
"""


@pytest.fixture(scope="module")
def shared_worker(module_sandbox: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """One for all tests: none of them changes it."""
    with worker_process(module_sandbox, TASKS, "-c", "1") as process:
        yield process


@pytest.fixture
def client(worker_url: str) -> Iterator[Celery]:
    with Celery("client", broker=worker_url, set_as_current=False) as app:
        yield app


def test_a_coroutine_is_a_task_like_any_other(client: Celery) -> None:
    assert client.send_task("proj.double", (21,)).get(timeout=10) == 42
    result = client.send_task("proj.who")
    assert result.get(timeout=10) == [result.id, "proj.who"]
    assert client.send_task("proj.flaky").get(timeout=10) == 2
    with pytest.raises(KeyError, match="no"):
        client.send_task("proj.fails").get(timeout=10)


def test_a_process_keeps_one_loop_for_all_its_tasks(client: Celery) -> None:
    assert [client.send_task("proj.loop_count").get(timeout=10) for _ in range(3)] == [1, 1, 1]


def test_a_soft_time_limit_is_raised_where_the_coroutine_waits(client: Celery) -> None:
    assert client.send_task("proj.waits_too_long").get(timeout=10) == "tidied up"


def test_many_results_are_awaited_at_once_by_one_thread(client: Celery) -> None:
    async def all_of_them() -> tuple[list[int], int]:
        results = [client.send_task("proj.add", (n, n)) for n in range(100)]
        waiting = asyncio.gather(*results)
        most = 0
        while not waiting.done():
            most = max(most, threading.active_count())
            await asyncio.sleep(0)
        return await waiting, most

    before = threading.active_count()
    sums, most = asyncio.run(all_of_them())

    assert sums == [2 * n for n in range(100)]
    assert most <= before + 2


def test_a_result_that_is_there_already_is_awaited_too(client: Celery) -> None:
    result = client.send_task("proj.add", (1, 2))
    assert result.get(timeout=10) == 3

    async def known_and_asked_for() -> list[int]:
        return [await result, await client.AsyncResult(result.id)]

    assert asyncio.run(known_and_asked_for()) == [3, 3]


def test_awaiting_raises_what_get_would(client: Celery) -> None:
    async def failure() -> None:
        await client.send_task("proj.fails")

    async def silence() -> None:
        await client.AsyncResult("nobody-sent-this").aget(timeout=0.2)

    with pytest.raises(KeyError, match="no"):
        asyncio.run(failure())
    with pytest.raises(TimeoutError):
        asyncio.run(silence())


def test_the_loop_goes_on_while_a_result_is_awaited(client: Celery) -> None:
    async def together() -> int:
        turns = 0
        result = asyncio.ensure_future(client.send_task("proj.waits_too_long").aget(timeout=10))
        while not result.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert result.result() == "tidied up"
        return turns

    assert asyncio.run(together()) > 20


def test_a_task_is_sent_from_a_coroutine(client: Celery) -> None:
    @client.task(name="proj.add", shared=False)
    def add(x: int, y: int) -> int:
        raise AssertionError("this is the worker's")

    async def send() -> tuple[int, int]:
        first = await add.adelay(1, 2)
        second = await add.aapply_async((3,), {"y": 4})
        return await first, await second

    assert asyncio.run(send()) == (3, 7)


def test_canvases_are_sent_and_awaited_in_a_coroutine(client: Celery) -> None:
    @client.task(name="proj.add", shared=False)
    def add(x: int, y: int) -> int:
        raise AssertionError("this is the worker's")

    async def send() -> tuple[list[int], int, list[int]]:
        grouped = await group(add.s(n, n) for n in range(3)).adelay()
        chained = await (add.s(1) | add.s(3)).aapply_async((2,))
        nobody: GroupResult[int] = GroupResult("none", [client.AsyncResult("nobody-sent-this")], app=client)
        with pytest.raises(TimeoutError):
            await nobody.aget(timeout=0.1)
        return await grouped, await chained, await group(add.si(5, 5)).delay()

    assert asyncio.run(send()) == ([0, 2, 4], 6, [10])


def test_an_eager_coroutine_runs_with_and_without_a_loop_around_it() -> None:
    app = Celery("eager", broker="zmq://", set_as_current=False, task_always_eager=True)

    @app.task(shared=False)
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return x * 2

    async def within() -> int:
        return await double.delay(2)

    assert double.delay(1).get() == 2
    assert asyncio.run(within()) == 4
    assert asyncio.run(double(3)) == 6


def test_who_stops_awaiting_leaves_nothing_behind(client: Celery) -> None:
    async def give_up() -> None:
        result = client.AsyncResult("nobody-sent-this")
        waiting = asyncio.ensure_future(result.aget())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())

    deadline = time.monotonic() + 10
    while client.client._watch._wanted and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert client.client._watch._wanted == {}
