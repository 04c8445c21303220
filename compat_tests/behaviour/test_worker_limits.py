"""Time limits: the soft one raises in the task, the hard one ends its process, and nothing else is hurt."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from zerocelery import Celery
from zerocelery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from ..conftest import Sandbox, wait_until, worker_process

TASKS = """
import os, re, signal, time
from zerocelery import Celery, signals
from zerocelery.exceptions import SoftTimeLimitExceeded

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))

def tell(text):
    with open(os.path.join(HERE, "told"), "a") as file:
        file.write(text + "\\n")

@signals.task_failure.connect
def failed(sender, task_id, exception, **kwargs):
    tell(f"failure {sender.name} {exception!r}")

class Telling(app.Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        tell(f"on_failure {exc!r}")

@app.task
def add(x, y):
    return x + y

@app.task
def pid():
    return os.getpid()

@app.task(base=Telling)
def sleep(seconds):
    time.sleep(seconds)
    return "slept"

@app.task(soft_time_limit=0.3)
def softly(seconds):
    time.sleep(seconds)
    return "slept"

@app.task(soft_time_limit=0.3, time_limit=20)
def cleans_up():
    try:
        time.sleep(20)
    except SoftTimeLimitExceeded:
        return "cleaned up"

@app.task(time_limit=0.5, soft_time_limit=0.2)
def stubborn():
    while True:
        try:
            time.sleep(20)
        except SoftTimeLimitExceeded:
            pass

@app.task(time_limit=0.5)
def stuck_in_c():
    re.match("(a+)+$", "a" * 60 + "b")  # holds the interpreter for years

@app.task(time_limit=0.5, acks_late=True)
def late():
    time.sleep(20)

@app.task
def errback(request, exc, traceback):
    tell(f"errback {exc!r}")
"""


@pytest.fixture
def start(sandbox: Sandbox) -> Any:
    def with_options(*options: str) -> Any:
        return worker_process(sandbox, TASKS, *options)

    return with_options


@pytest.fixture
def call(sandbox: Sandbox) -> Callable[..., Any]:
    app = Celery("client", broker=sandbox.url)

    def send(name: str, *args: Any, **options: Any) -> Any:
        return app.send_task(f"proj.{name}", args=args, **options)

    return send


def told(sandbox: Sandbox) -> list[str]:
    path = sandbox.home / "told"
    return path.read_text().splitlines() if path.exists() else []


def test_the_soft_limit_raises_in_the_task(start: Any, call: Callable[..., Any], sandbox: Sandbox) -> None:
    with start("-c", "1", "-l", "WARNING") as worker:
        before = call("pid").get(timeout=20)
        began = time.monotonic()
        one = call("softly", 20)
        with pytest.raises(SoftTimeLimitExceeded):
            one.get(timeout=20)
        assert time.monotonic() - began < 5
        assert call("cleans_up").get(timeout=20) == "cleaned up"
        assert call("softly", 0.01).get(timeout=20) == "slept"
        assert call("sleep", 0.5, soft_time_limit=10).get(timeout=20) == "slept"
        assert call("pid").get(timeout=20) == before
        assert f"Soft time limit (0.3s) exceeded for proj.softly[{one.id}]" in sandbox.output(worker)


@pytest.mark.parametrize("name", ["stubborn", "stuck_in_c", "late"])
def test_the_hard_limit_ends_the_process(start: Any, call: Callable[..., Any], sandbox: Sandbox, name: str) -> None:
    with start("-c", "1") as worker:
        before = call("pid").get(timeout=20)
        one = call(name)
        with pytest.raises(TimeLimitExceeded) as raised:
            one.get(timeout=20)
        assert raised.value.args == (0.5,)
        assert call("pid").get(timeout=20) != before
        wait_until(lambda: f"Hard time limit (0.5s) exceeded for proj.{name}[{one.id}]" in sandbox.output(worker))


def test_a_limit_of_the_call_and_what_follows_from_it(start: Any, call: Callable[..., Any], sandbox: Sandbox) -> None:
    """on_failure, task_failure and errbacks are called, and only the late task's neighbours go on."""
    app = Celery("client", broker=sandbox.url)
    with start("-c", "2"):
        neighbour = call("sleep", 1.5)
        errback = app.signature("proj.errback")
        one = call("sleep", 20, time_limit=1, link_error=errback)
        with pytest.raises(TimeLimitExceeded):
            one.get(timeout=20)
        assert neighbour.get(timeout=20) == "slept"
        wanted = {
            "on_failure TimeLimitExceeded(1)",
            "failure proj.sleep TimeLimitExceeded(1)",
            "errback TimeLimitExceeded(1)",
        }
        wait_until(lambda: wanted <= set(told(sandbox)), what="what follows from a failure")
        assert len(told(sandbox)) == 3


def test_limits_of_the_command_hold_for_tasks_without_their_own(start: Any, call: Callable[..., Any]) -> None:
    with start("-c", "1", "--time-limit", "1.5", "--soft-time-limit", "0.3"):
        with pytest.raises(SoftTimeLimitExceeded):
            call("sleep", 20).get(timeout=20)
        with pytest.raises(TimeLimitExceeded):
            call("stubborn").get(timeout=20)
        assert call("add", 1, 1).get(timeout=20) == 2


def test_tasks_that_end_in_time_lose_nothing(start: Any, call: Callable[..., Any]) -> None:
    """Many short tasks with a limit near their run time: each succeeds or exceeds its own, no other is hurt."""
    with start("-c", "2"):
        limited = [call("sleep", 0.05, time_limit=0.06) for _ in range(60)]
        others = [call("add", n, 1) for n in range(300)]
        assert [one.get(timeout=60) for one in others] == [n + 1 for n in range(300)]
        for one in limited:
            value = one.get(timeout=60, propagate=False)
            assert value == "slept" or isinstance(value, TimeLimitExceeded), value


def test_a_process_stuck_in_c_is_ended_in_time(start: Any, call: Callable[..., Any]) -> None:
    with start("-c", "2"):
        call("add", 1, 1).get(timeout=20)
        began = time.monotonic()
        with pytest.raises(TimeLimitExceeded):
            call("stuck_in_c").get(timeout=20)
        assert time.monotonic() - began < 2.5  # 0.5 s, and what a busy machine takes
