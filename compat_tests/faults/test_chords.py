"""Chords whatever dies: the body is called once, or its errback is.

What was called is noted outside of the system under test: each call appends a line to a file.
"""

from __future__ import annotations

import collections
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from compat_tests.conftest import Sandbox, wait_until, worker_process
from compat_tests.faults.rig import Rig
from zerocelery import Celery, chain, chord, signature
from zerocelery.canvas import Signature
from zerocelery.exceptions import ChordError, WorkerLostError

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

TASKS = """
import os, time
from zerocelery import Celery

app = Celery("proj")
app.conf.worker_hijack_root_logger = False

def note(*words):
    fd = os.open(os.path.join(os.environ["ZEROCELERY_HOME"], "notes"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.close(fd)

@app.task
def member(x):
    return x

@app.task(acks_late=True, reject_on_worker_lost=True)
def late(x):
    time.sleep(0.01)
    return x

@app.task
def slow(x):
    time.sleep(0.01)
    return x

@app.task
def fail(x):
    raise ValueError(x)

@app.task(bind=True, max_retries=5)
def retried(self, x):
    if self.request.retries < 2:
        raise self.retry(countdown=0.01)
    return x

@app.task
def die(x):
    os.kill(os.getpid(), 9)

@app.task
def wait(path):
    with open(path, "rb"):
        return 0

@app.task
def body(results, n):
    note("body", n, sum(results))
    return sum(results)

@app.task
def failed(task_id, n):
    note("errback", n)
"""


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Celery]:
    with Celery("client", broker=sandbox.url, set_as_current=False) as app:
        yield app


def call(app: Celery, name: str, *args: Any) -> Signature:
    made: Signature = signature(f"proj.{name}", args=args, app=app)
    return made


def a_chord(app: Celery, n: int, *header: Signature) -> Any:
    body = call(app, "body", n)
    body.link_error(call(app, "failed", n))
    return chord(list(header), body, app=app)


def notes(box: Sandbox, word: str) -> collections.Counter[int]:
    """How often something was called, by the number of its chord."""
    path = Path(box.home, "notes")
    lines = path.read_text().splitlines() if path.exists() else []
    return collections.Counter(int(line.split()[1]) for line in lines if line.startswith(word))


@pytest.mark.parametrize(
    "failpoint",
    [
        "collector.before_commit:3",
        "journal.before_commit:5",
        "journal.before_commit:15",
        "journal.before_commit:30",
        "collector.after_commit:10",
        "collector.before_lease:8",
        "collector.after_lease:10",
        "publisher.before_flush:10",
        "publisher.after_flush:15",
    ],
)
def test_a_hundred_chords_survive_a_killed_node(rig: Rig, client: Celery, failpoint: str) -> None:
    node = rig.node(failpoint=failpoint)
    with worker_process(rig.box, TASKS, "-c", "2"):
        results = [a_chord(client, n, *(call(client, "slow", n + i) for i in range(3)))() for n in range(100)]

        values = [result.get(timeout=60) for result in results]

    assert node.poll() == -signal.SIGKILL, "the node was to die on the way"
    assert values == [3 * n + 3 for n in range(100)]
    assert notes(rig.box, "body") == dict.fromkeys(range(100), 1)
    assert not notes(rig.box, "errback")


def test_failing_headers_call_each_errback_once_over_a_killed_node(rig: Rig, client: Celery) -> None:
    rig.node(failpoint="journal.before_commit:20")
    with worker_process(rig.box, TASKS, "-c", "2"):
        results = [a_chord(client, n, call(client, "member", 1), call(client, "fail", n))() for n in range(50)]

        for n, result in enumerate(results):
            with pytest.raises(ValueError, match=str(n)):
                result.get(timeout=60)
        wait_until(lambda: len(notes(rig.box, "errback")) == 50, what="all errbacks")

    assert notes(rig.box, "errback") == dict.fromkeys(range(50), 1)
    assert not notes(rig.box, "body")


@pytest.mark.parametrize(("member", "node"), [("late", "alone"), ("slow", "embedded")])
def test_a_hundred_chords_survive_killed_children(rig: Rig, client: Celery, member: str, node: str) -> None:
    if node == "alone":
        rig.node()
    with worker_process(rig.box, TASKS, "-c", "2") as worker, killing_children(worker.pid):
        results = [a_chord(client, n, *(call(client, member, i) for i in range(4)))() for n in range(100)]
        for result in results:
            result.get(timeout=90, propagate=False)
        # the errback of a body that was lost is called after its result is known
        wait_until(
            lambda: {*notes(rig.box, "body"), *notes(rig.box, "errback")} == set(range(100)),
            what="every chord's body or errback",
        )

    bodies, errbacks = notes(rig.box, "body"), notes(rig.box, "errback")
    assert set(bodies.values()) <= {1}
    assert set(errbacks.values()) <= {1}


def test_a_lost_member_fails_the_chord_once(rig: Rig, client: Celery) -> None:
    rig.node()
    with worker_process(rig.box, TASKS, "-c", "2"):
        result = a_chord(client, 0, call(client, "member", 1), call(client, "die", 1))()

        with pytest.raises(WorkerLostError):
            result.get(timeout=30)
        assert isinstance(result.result, ChordError)
        wait_until(lambda: notes(rig.box, "errback") == {0: 1}, what="the errback")

    assert not notes(rig.box, "body")


def test_a_lost_first_step_of_a_members_chain_fails_the_chord(rig: Rig, client: Celery) -> None:
    rig.node()
    steps = chain([call(client, "die", 1), call(client, "member")], app=client)
    with worker_process(rig.box, TASKS, "-c", "2"):
        result = a_chord(client, 0, call(client, "member", 1), steps)()

        with pytest.raises(WorkerLostError):
            result.get(timeout=30)
        wait_until(lambda: notes(rig.box, "errback") == {0: 1}, what="the errback")


def test_an_expired_member_fails_the_chord(rig: Rig, client: Celery) -> None:
    rig.node()
    late = call(client, "member", 1).set(expires=0.01, countdown=0.2)
    with worker_process(rig.box, TASKS, "-c", "1"):
        result = a_chord(client, 0, call(client, "member", 1), late)()

        assert isinstance(result.get(timeout=30, propagate=False), ChordError)
        wait_until(lambda: notes(rig.box, "errback") == {0: 1}, what="the errback")


def test_a_member_that_is_retried_counts_once(rig: Rig, client: Celery) -> None:
    rig.node(failpoint="journal.before_commit:12")
    with worker_process(rig.box, TASKS, "-c", "2"):
        results = [a_chord(client, n, *(call(client, "retried", i) for i in range(3)))() for n in range(10)]

        assert [result.get(timeout=60) for result in results] == [3] * 10

    assert notes(rig.box, "body") == dict.fromkeys(range(10), 1)


def test_the_count_goes_on_after_a_restart_in_the_middle(rig: Rig, client: Celery) -> None:
    """The first half of a header has ended when the node is killed; its results are in the journal."""
    rig.node()
    gate = rig.gate()
    with worker_process(rig.box, TASKS, "-c", "2"):
        result = a_chord(client, 0, call(client, "member", 20), call(client, "wait", str(gate.path)))()
        first = result.parent.results[0]
        assert first.get(timeout=30) == 20
        rig.box.kill_node()
        gate.open()

        assert result.get(timeout=60) == 20

    assert notes(rig.box, "body") == {0: 1}


class killing_children:
    """Kill a worker's children again and again, as long as the context lasts."""

    def __init__(self, pid: int, *, every: float = 0.4) -> None:
        self._worker = psutil.Process(pid)
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            children = self._worker.children(recursive=True)
            pools = [child for child in children if "node" not in " ".join(child.cmdline()[:6])]
            if pools:
                os.kill(pools[0].pid, signal.SIGKILL)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()
