"""Unique keys: on calls, as a task's option, and for beat's slots; and the lease that lets one beat send at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from zerocelery import Celery
from zerocelery.beat import ScheduleEntry, Scheduler
from zerocelery.exceptions import ImproperlyConfigured, TaskRevokedError
from zerocelery.schedules import crontab, schedule

from ..conftest import Sandbox, wait_for_end, wait_until, worker_process

TASKS = """
import time
from pathlib import Path
from zerocelery import Celery

app = Celery("proj")
HOME = Path(__file__).parent

@app.task(bind=True)
def note(self, text):
    with (HOME / "notes").open("a") as file:
        file.write(f"{text} {time.time()}\\n")

@app.task
def add(x, y):
    return x + y

@app.task
def sleep(seconds):
    time.sleep(seconds)
    return "slept"

@app.task(bind=True, max_retries=2)
def retried(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0.3)
    return self.request.retries

app.conf.beat_schedule = {"often": {"task": "proj.note", "schedule": 0.4, "args": ("often",)}}
app.conf.beat_max_loop_interval = 0.2
"""


def notes(sandbox: Sandbox) -> list[float]:
    path = sandbox.home / "notes"
    return [float(line.split()[1]) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def app(sandbox: Sandbox) -> Celery:
    return Celery("client", broker=sandbox.url, set_as_current=False)


def test_a_call_with_a_key_that_is_taken_ends_as_revoked(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "2")
    first = app.send_task("proj.sleep", (1,), unique_key="nightly")
    second = app.send_task("proj.sleep", (1,), unique_key="nightly")
    other = app.send_task("proj.add", (1, 1), unique_key="another")
    with pytest.raises(TaskRevokedError, match=f"task {first.id} has the same unique key"):
        second.get(timeout=10)
    assert second.state == "REVOKED"
    assert other.get(timeout=10) == 2
    assert first.get(timeout=10) == "slept"
    assert app.send_task("proj.add", (2, 2), unique_key="nightly").get(timeout=10) == 4


def test_a_key_can_be_taken_for_longer_than_its_task(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1")
    assert app.send_task("proj.add", (1, 1), unique_key="k", unique_for=60).get(timeout=10) == 2
    with pytest.raises(TaskRevokedError):
        app.send_task("proj.add", (1, 1), unique_key="k").get(timeout=10)


def test_a_retried_task_keeps_its_key(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1")
    first = app.send_task("proj.retried", unique_key="k")
    wait_until(lambda: first.state == "RETRY", what="the retry")
    with pytest.raises(TaskRevokedError):
        app.send_task("proj.add", (1, 1), unique_key="k").get(timeout=10)
    assert first.get(timeout=10) == 1
    assert app.send_task("proj.add", (1, 1), unique_key="k").get(timeout=10) == 2


def test_a_task_may_be_unique_by_its_arguments(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1")

    @app.task(name="proj.sleep", unique_key=True)
    def sleep(seconds: float) -> None: ...

    @app.task(name="proj.add", unique_key=lambda x, y: f"account {x}")
    def add(x: int, y: int) -> None: ...

    first = sleep.delay(1)
    with pytest.raises(TaskRevokedError):
        sleep.delay(1).get(timeout=10)
    one, two, three = add.delay(7, 1), add.delay(7, 2), add.delay(8, 1)
    assert first.get(timeout=10) == "slept"
    assert (one.get(timeout=10), three.get(timeout=10)) == (8, 9)
    with pytest.raises(TaskRevokedError):
        two.get(timeout=10)


def test_a_broker_that_is_no_node_can_not_keep_a_key() -> None:
    app = Celery("client", broker="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="needs a node"):
        app.send_task("proj.add", (1, 1), unique_key="k")


# ── beat ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("when", [schedule(timedelta(seconds=10)), crontab(minute="*")])
def test_a_slot_is_sent_once_by_two_beats_that_remember_the_same(
    app: Celery, running_worker: Callable[..., str], when: Any
) -> None:
    running_worker(TASKS, "-c", "1")
    last = datetime.now(timezone.utc) - timedelta(minutes=3)
    results = []

    class Noting(Scheduler):
        def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
            results.append(super().apply_async(entry, producer=producer, advance=advance, **kwargs))
            return results[-1]

    for _ in range(2):  # the second one is the first after it was killed between sending and storing
        scheduler = Noting(app, lazy=True)
        scheduler.slot_scope = "beat:client"
        entry = ScheduleEntry(
            name="once", task="proj.add", schedule=when, args=(1, 1), last_run_at=last, app=app
        )  # fmt: skip
        scheduler.schedule["once"] = entry
        assert scheduler.tick() == 0
    first, second = results
    assert first.get(timeout=10) == 2
    with pytest.raises(TaskRevokedError, match="unique key"):
        second.get(timeout=10)


def beat(sandbox: Sandbox, number: int) -> subprocess.Popen[bytes]:
    """A beat with a schedule file of its own."""
    store = str(sandbox.home / f"s{number}")
    return sandbox.python("-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "beat", "-l", "INFO", "-s", store)


def test_of_two_beats_one_sends_and_the_other_takes_over(sandbox: Sandbox) -> None:
    with worker_process(sandbox, TASKS, "-c", "1"):
        beats = [beat(sandbox, 1), beat(sandbox, 2)]
        wait_until(lambda: any("stands by" in sandbox.output(one) for one in beats), what="one that stands by")
        leader = next(one for one in beats if "sends from now on" in sandbox.output(one))
        other = next(one for one in beats if one is not leader)
        wait_until(lambda: len(notes(sandbox)) >= 5, what="notes")
        assert "Sending due task" not in sandbox.output(other)
        os.kill(leader.pid, signal.SIGKILL)
        wait_for_end(leader.pid)
        killed = time.time()
        sandbox.wait_for_output(other, "sends from now on")
        count = len(notes(sandbox))
        wait_until(lambda: len(notes(sandbox)) >= count + 4, what="more notes")
        told = notes(sandbox)
        assert len(told) <= (told[-1] - told[0]) / 0.4 + 3  # each slot was sent once
        assert min(moment for moment in told if moment > killed) - killed < 10.0
        other.terminate()
        other.wait(10)


def test_a_beat_that_stops_lets_another_one_send_at_once(sandbox: Sandbox) -> None:
    with worker_process(sandbox, TASKS, "-c", "1"):
        first = beat(sandbox, 1)
        sandbox.wait_for_output(first, "sends from now on")
        second = beat(sandbox, 2)
        sandbox.wait_for_output(second, "stands by")
        first.terminate()
        first.wait(10)
        sandbox.wait_for_output(second, "sends from now on", timeout=10.0)
        second.terminate()
        second.wait(10)
        assert Path(sandbox.home / "s2").exists() or any(sandbox.home.glob("s2*"))


def test_a_beat_that_was_told_to_answers_a_ping(app: Celery, sandbox: Sandbox) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "-n", "w1@h"):
        process = sandbox.python(
            "-m", "zerocelery", "-A", "proj", "-b", sandbox.url, "beat", "-s", str(sandbox.home / "s1"), "-n", "beat@h",
            "--enable-remote-control",
        )  # fmt: skip
        inspect = app.control.inspect(timeout=5.0)
        wait_until(lambda: len(inspect.ping() or ()) == 2, what="two answers")
        assert inspect.ping() == {"w1@h": {"ok": "pong"}, "beat@h": {"ok": "pong"}}
        assert list(inspect.clock()) == ["w1@h"]
        process.terminate()
        assert process.wait(10) == 0
