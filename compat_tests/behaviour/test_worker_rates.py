"""Rate limits of tasks: for each worker as Celery has them, and over all workers of a node."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from zerocelery import Celery

from ..conftest import Sandbox, worker_process

TASKS = """
import time
from zerocelery import Celery

app = Celery("proj")

@app.task(rate_limit="5/s")
def limited(n):
    return time.time()

@app.task(global_rate_limit="5/s")
def together(n):
    return time.time()

@app.task
def free(n):
    return time.time()
"""


@pytest.fixture
def app(sandbox: Sandbox) -> Iterator[Celery]:
    app = Celery("client", broker=sandbox.url)
    yield app
    app.close()


def send(app: Celery, name: str, count: int) -> list[Any]:
    return [app.send_task(f"proj.{name}", (n,)) for n in range(count)]


def times(results: list[Any]) -> list[float]:
    return sorted(result.get(timeout=60) for result in results)


def test_a_limit_spaces_starts_over_the_processes_of_a_worker(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "3"):
        limited, free = send(app, "limited", 8), send(app, "free", 50)
        began = time.time()
        assert max(times(free)) - began < 1.0  # what is not limited doesn't wait behind what is
        at = times(limited)
        assert at[-1] - at[0] >= 7 * 0.2 * 0.5


@pytest.mark.parametrize(("name", "least", "most"), [("limited", 0.9, 2.0), ("together", 2.0, 6.0)])
def test_two_workers_have_a_limit_each_or_one_together(
    sandbox: Sandbox, app: Celery, name: str, least: float, most: float
) -> None:
    with contextlib.ExitStack() as stack:
        for number in (1, 2):
            stack.enter_context(worker_process(sandbox, TASKS, "-c", "1", "-n", f"w{number}@%h"))
        at = times(send(app, name, 12))
        assert least < at[-1] - at[0] < most


def test_limits_can_be_left_aside(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS + "\napp.conf.worker_disable_rate_limits = True\n", "-c", "1"):
        at = times(send(app, "limited", 20))
        assert at[-1] - at[0] < 1.0


def test_a_limit_outlives_the_processes_that_it_is_for(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "--max-tasks-per-child", "1"):
        at = times(send(app, "limited", 6))
        assert at[-1] - at[0] >= 5 * 0.2 * 0.5


def test_a_limit_can_be_changed_while_the_worker_runs(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "1"):
        results = send(app, "limited", 100)
        assert results[0].get(timeout=20)
        answers = app.control.rate_limit("proj.limited", 0, reply=True, timeout=5.0)
        assert "ok" in next(iter(answers[0].values()))
        at = times(results)
        assert at[-1] - at[0] < 10.0


def test_the_default_limit_holds_for_all_tasks_without_their_own(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS + "\napp.conf.task_default_rate_limit = '5/s'\n", "-c", "2"):
        at = times(send(app, "free", 6))
        assert at[-1] - at[0] >= 5 * 0.2 * 0.5
