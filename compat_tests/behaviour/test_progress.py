"""How far a task or a group is, seen by anybody who has the id."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zerocelery import Celery, group
from zerocelery.app.progress import Progress

from ..conftest import Sandbox, wait_until

TASKS = """
import time
from pathlib import Path
from zerocelery import Celery
app = Celery("proj")
HOME = Path(__file__).parent

@app.task(bind=True)
def counts(self, total):
    for done in range(total):
        self.progress(done, total)
    self.progress(total, total)
    while not (HOME / "go").exists():
        time.sleep(0.01)
    return total

@app.task(bind=True)
def half(self):
    self.progress(5, 10)
    while not (HOME / "go").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def app(sandbox: Sandbox) -> Celery:
    return Celery("client", broker=sandbox.url, set_as_current=False)


def test_a_task_tells_how_far_it_is(app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1")
    result = app.send_task("proj.counts", (1_000,))
    assert result.progress is None or result.state == "PROGRESS"
    wait_until(lambda: result.progress == Progress(1_000, 1_000), what="all of it")
    assert result.state == "PROGRESS"
    assert result.info == {"done": 1_000, "total": 1_000}
    other = Celery("other", broker=sandbox.url, set_as_current=False)
    assert other.AsyncResult(result.id).progress == (1_000, 1_000)
    (sandbox.home / "go").touch()
    assert result.get(timeout=10) == 1_000
    assert result.progress == Progress(1, 1)


def test_a_group_adds_up_what_its_members_tell(
    app: Celery, sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "2")
    half = app.signature("proj.half", app=app)
    result = group([half.clone() for _ in range(4)], app=app).apply_async()
    wait_until(lambda: result.progress() == Progress(1.0, 4), what="two halves of four")
    assert str(result.progress()) == "[########······················]  25% 1/4"
    (sandbox.home / "go").touch()
    result.get(timeout=10)
    assert result.progress() == Progress(4, 4)
    assert result.progress().fraction == 1.0


def test_an_unknown_task_has_no_progress_and_a_failed_one_neither(
    app: Celery, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "1")
    assert app.AsyncResult("unknown").progress is None
    failed = app.send_task("proj.counts")
    with pytest.raises(TypeError):
        failed.get(timeout=10)
    assert failed.progress is None


def test_a_bar_is_never_longer_than_it_is() -> None:
    assert Progress(7, 5).bar(10) == "[##########] 100% 7/5"
    assert Progress(0, 0).fraction == 1.0
    assert Progress(0, 4).bar(4) == "[····]   0% 0/4"
