"""Workers that are lost: who runs again, how often, and what becomes of a task that loses too many."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from zerocelery import Celery, chord
from zerocelery.exceptions import WorkerLostError

from ..conftest import PATIENCE, Sandbox, wait_until, worker_process

TASKS = """
import os, signal, time
from zerocelery import Celery, signals

app = Celery("proj")
HERE = os.path.dirname(os.path.abspath(__file__))

def runs(name):
    path = os.path.join(HERE, name)
    with open(path, "a") as file:
        file.write("run\\n")
    with open(path) as file:
        return len(file.readlines())

@app.task(acks_late=True, reject_on_worker_lost=True)
def deadly(name):
    if not os.path.exists(os.path.join(HERE, "cured")):
        runs(name)
        os.kill(os.getpid(), signal.SIGKILL)
    return "cured"

@app.task(acks_late=True, reject_on_worker_lost=True)
def once(name):
    if runs(name) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs(name)

@app.task(acks_late=True, acks_on_failure=False)
def unacknowledged(name):
    runs(name)
    if not os.path.exists(os.path.join(HERE, "cured")):
        raise ValueError("sick")
    return "cured"

@app.task(bind=True, retry_on_worker_lost=True, max_retries=2, default_retry_delay=0.01)
def retried(self, name, cured_by):
    if runs(name) <= cured_by:
        os.kill(os.getpid(), signal.SIGKILL)
    return self.request.retries

@app.task
def total(counts):
    return sum(counts)

@signals.task_retry.connect
def note_retry(request=None, reason=None, **_):
    with open(os.path.join(HERE, "signals"), "a") as file:
        file.write(f"{request.id} {type(reason.exc).__name__}\\n")

@app.task
def early(name):
    runs(name)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def app(sandbox: Sandbox) -> Iterator[Celery]:
    app = Celery("client", broker=sandbox.url)
    yield app
    app.close()


def runs(sandbox: Sandbox, name: str) -> int:
    return len((sandbox.home / name).read_text().splitlines())


def test_who_is_acknowledged_early_fails_at_once(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "1") as worker:
        with pytest.raises(WorkerLostError):
            app.send_task("proj.early", ("e",)).get(timeout=20)
        assert runs(sandbox, "e") == 1
        wait_until(lambda: "exited with 'signal 9 (SIGKILL)'" in sandbox.output(worker))


def test_who_is_rejected_on_loss_runs_again(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "2"):
        assert app.send_task("proj.once", ("o",)).get(timeout=20) == 3


def test_retry_on_worker_lost_retries_as_often_as_the_task_may(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "2", "-l", "INFO") as worker:
        cured = app.send_task("proj.retried", ("cured", 2))
        hopeless = app.send_task("proj.retried", ("hopeless", 99))
        header = [app.signature("proj.retried", arguments) for arguments in (("member", 1), ("well", 0))]
        assert cured.get(timeout=20) == 2
        with pytest.raises(WorkerLostError, match="was lost while running it"):
            hopeless.get(timeout=20)
        assert (runs(sandbox, "cured"), runs(sandbox, "hopeless")) == (3, 3)
        # also where a chord counts it
        assert chord(header)(app.signature("proj.total")).get(timeout=20) == 1
        told = (sandbox.home / "signals").read_text().splitlines()
        assert told.count(f"{cured.id} WorkerLostError") == told.count(f"{hopeless.id} WorkerLostError") == 2
        log = sandbox.output(worker)
        assert log.count(f"proj.retried[{hopeless.id}] retry: Retry in 0.01s: WorkerLostError") == 2


def test_a_deadly_task_becomes_a_dead_letter_that_can_be_sent_again(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "2"):
        result = app.send_task("proj.deadly", ("d",))
        with pytest.raises(WorkerLostError, match="dead letter"):
            result.get(timeout=60)
        assert runs(sandbox, "d") == 5
        (letter,) = app.control.dead_letters()
        assert (letter["id"], letter["name"]) == (result.id, "proj.deadly")
        assert len(json.loads(letter["history"])) == 5
        (sandbox.home / "cured").write_text("")
        assert app.control.send_again(["unknown"]) == []
        assert app.control.send_again([result.id]) == [result.id]
        wait_until(lambda: app.AsyncResult(result.id).state == "SUCCESS", what="the second life")
        assert app.AsyncResult(result.id).result == "cured"
        assert app.control.dead_letters() == []


def test_a_failure_that_is_no_acknowledgement_leaves_a_dead_letter(sandbox: Sandbox, app: Celery) -> None:
    with worker_process(sandbox, TASKS, "-c", "1"):
        result = app.send_task("proj.unacknowledged", ("u",))
        with pytest.raises(ValueError, match="sick"):
            result.get(timeout=20)
        (letter,) = app.control.dead_letters()
        assert (letter["id"], json.loads(letter["history"])) == (result.id, ["it failed: ValueError('sick')"])
        (sandbox.home / "cured").write_text("")
        assert app.control.send_again() == [result.id]
        wait_until(lambda: app.AsyncResult(result.id).state == "SUCCESS", what="the second life")
        assert runs(sandbox, "u") == 2


def test_dead_letters_on_the_command_line(sandbox: Sandbox, app: Celery) -> None:
    def command(*arguments: str) -> tuple[int, str]:
        process = sandbox.python("-m", "zerocelery", "-b", sandbox.url, "dead", *arguments)
        return process.wait(PATIENCE), sandbox.output(process)

    with worker_process(sandbox, TASKS, "-c", "1"):
        result = app.send_task("proj.deadly", ("d",))
        assert isinstance(result.get(timeout=60, propagate=False), WorkerLostError)
        code, text = command()
        assert (code, f"{result.id}  proj.deadly  queue celery" in text) == (0, True)
        assert command("--send-again")[0] == 2
        assert command("--forget", "--all") == (0, f"1 forgotten: {result.id}\n")
        assert command() == (0, "There are no dead letters.\n")
        assert command("--send-again", result.id)[0] == 2
