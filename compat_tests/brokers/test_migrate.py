"""``zerocelery migrate`` between a node and Redis, both ways: what arrives there runs, and nothing gets lost."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, require_server, wait_until, worker_process
from zerocelery import Celery, chain, chord
from zerocelery.app.client import NodeClient
from zerocelery.engine.moving import read_waiting, take_away

REDIS = "redis://127.0.0.1:6379/12"

TASKS = """
import time
from zerocelery import Celery

app = Celery("proj")

@app.task
def add(x, y):
    return x + y

@app.task
def total(numbers):
    return sum(numbers)

@app.task(bind=True)
def about_me(self):
    r = self.request
    return [r.expires is not None, r.get("mine"), r.delivery_info["routing_key"], r.argsrepr]

@app.task
def sleep(seconds):
    time.sleep(seconds)
"""


@pytest.fixture
def redis() -> Iterator[Any]:
    require_server("Redis", 6379)
    import redis

    with redis.Redis.from_url(REDIS) as server:
        server.flushdb()
        yield server
        server.flushdb()


@pytest.fixture
def node(sandbox: Sandbox) -> Iterator[str]:
    sandbox.write("proj.py", TASKS)
    process = sandbox.python("-m", "zerocelery", "node", "-b", sandbox.url)
    sandbox.wait_for_output(process, "node")
    yield sandbox.url
    process.terminate()
    assert process.wait(PATIENCE) == 0, sandbox.output(process)


def migrate(sandbox: Sandbox, *arguments: str) -> list[str]:
    """The command's lines; it has to end well."""
    done = subprocess.run(
        [sys.executable, "-m", "zerocelery", "-A", "proj", "migrate", *arguments],
        cwd=sandbox.home, env=sandbox.environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def app_at(url: str) -> Celery:
    results = {} if url.startswith("zmq") else {"backend": url}
    return Celery("proj", broker=url, set_as_current=False, **results)


def send_all_kinds(app: Celery) -> dict[str, Any]:
    """A result, and what it is to be, for each kind of message."""
    add = app.signature("proj.add")
    return {
        "plain": (app.send_task("proj.add", (1, 2)), 3),
        "compressed": (app.send_task("proj.add", (3, 4), compression="zlib"), 7),
        "with an eta": (app.send_task("proj.add", (5, 6), countdown=4), 11),
        "chain": (chain(add.clone((1, 1)), add.clone((2,))).apply_async(), 4),
        "other queue": (app.send_task("proj.add", (7, 8), queue="other"), 15),
        "options": (
            app.send_task("proj.about_me", expires=600, priority=5, headers={"mine": 1}),
            [True, 1, "celery", "()"],
        ),
    }


def check(sandbox: Sandbox, url: str, sent: dict[str, Any]) -> None:
    """A worker there runs them all."""
    results = () if url.startswith("zmq") else ("--result-backend", url)
    worker = sandbox.python(
        "-m", "zerocelery", "-A", "proj", "-b", url, *results, "worker", "-c", "1", "-Q", "celery,other"
    )
    sandbox.wait_for_output(worker, "ready.")
    with app_at(url) as there:
        for kind, (result, expected) in sent.items():
            assert there.AsyncResult(result.id).get(timeout=PATIENCE) == expected, kind
    worker.terminate()
    worker.wait(PATIENCE)


def test_from_redis_to_a_node(sandbox: Sandbox, node: str, redis: Any) -> None:
    with app_at(REDIS) as app:
        sent = send_all_kinds(app)
    assert len(migrate(sandbox, REDIS, node, "-n", "1")) == 1  # a copy
    assert redis.llen("celery") == 4  # and one with a priority, in a list of its own
    with app_at(node) as there:
        assert there.control.purge() == 1
    lines = migrate(sandbox, "-a", "-Q", "celery,other", REDIS, node)
    assert len(lines) == 6
    assert re.fullmatch(r"Migrating task 1/6: proj\.\w+\[[0-9a-f-]{36}\]", lines[0])
    assert not [key for key in redis.scan_iter() if not key.startswith((b"_kombu", b"celery-task-meta"))]
    check(sandbox, node, sent)


def test_from_a_node_to_redis(sandbox: Sandbox, node: str, redis: Any) -> None:
    with app_at(node) as app:
        sent = send_all_kinds(app)
        bound = chord([app.signature("proj.add", (1, 1))], app.signature("proj.total")).apply_async()

        @app.task
        def unknown_there() -> None: ...

        unknown_there.delay()
        assert app.client.producer.confirm(PATIENCE)
        lines = migrate(sandbox, "-T", "proj.about_me", node, REDIS)  # a copy
        assert len(lines) == 1
        redis.flushdb()
        lines = migrate(sandbox, "-a", node, REDIS)
        assert len(lines) == 6
        # Two are left: a chord is counted by its node, and the function is known to it alone.
        read = [batch for queue in ("celery", "other") for batch in read_waiting(app.client.producer, queue)]
        left = {task.name for batch in read for _, task in batch.tasks}
        assert left == {"proj.add", unknown_there.name}
        assert migrate(sandbox, "-a", node, REDIS) == []
        check(sandbox, REDIS, sent)
        with worker_process(sandbox, TASKS, "-c", "1"):
            assert bound.get(timeout=PATIENCE) == 2


def test_from_node_to_node_as_it_is(sandbox: Sandbox, node: str) -> None:
    other = f"zmq://{sandbox.home}/other"
    second = sandbox.python("-m", "zerocelery", "node", "-b", other)
    sandbox.wait_for_output(second, "node")
    with app_at(node) as app, app_at(other) as there:
        sent = app.send_task("proj.add", (1, 2), unique_key="one")
        assert len(migrate(sandbox, "-a", "-Q", "celery:renamed", node, other)) == 1
        again = app.send_task("proj.add", (1, 2), unique_key="one")  # the key went with it
        assert again.state == "PENDING"
        queues = there.client.ask("queues")
        assert queues["renamed"]["waiting"] == 1
        assert app.client.ask("queues")["celery"]["waiting"] == 1
        assert sent.id
    second.terminate()
    second.wait(PATIENCE)


def test_what_was_begun_before_it_could_be_taken_away_stays(sandbox: Sandbox, node: str) -> None:
    with app_at(node) as app:
        running, waiting = (app.send_task("proj.sleep", (seconds,)) for seconds in (600, 0))
        (batch,) = read_waiting(app.client.producer, "celery")
        assert [task.id for _, task in batch.tasks] == [running.id, waiting.id]
        with worker_process(sandbox, TASKS, "-c", "1"):
            wait_until(
                lambda: (
                    app.control.inspect(timeout=5).active() and any(app.control.inspect(timeout=5).active().values())
                )
            )
            keys = [key for key, _ in batch.tasks]
            assert take_away(app.client.producer, batch, keys) == {keys[1]}
            assert take_away(app.client.producer, batch, keys) == set()
            running.revoke(terminate=True, signal="SIGKILL")
            wait_until(lambda: running.state == "REVOKED")
        assert waiting.state == "PENDING"


def test_scheduled_tasks_are_read_in_pages_that_are_bounded(node: str) -> None:
    client = NodeClient(node)
    with app_at(node) as app:
        small = [app.send_task("proj.add", (n, 1), countdown=900) for n in range(120)]
        large = [app.send_task("proj.add", ("x" * 3_000_000, 1), countdown=900, queue="large") for _ in range(5)]
        assert app.client.producer.confirm(PATIENCE)
        assert [task.id for batch in read_waiting(client.producer, "celery") for _, task in batch.tasks] == [
            task.id for task in small
        ]
        read = list(read_waiting(client.producer, "large"))
        assert [len(batch.tasks) for batch in read] == [2, 2, 1]
        assert [task.id for batch in read for _, task in batch.tasks] == [task.id for task in large]
        for batch in read:
            take_away(client.producer, batch, [number for number, _ in batch.tasks])
        assert app.client.ask("queues")["large"]["scheduled"] == 0
    client.close()


def test_a_backlog_that_lies_on_disk_is_read_and_taken_away(node: str) -> None:
    client = NodeClient(node)
    with app_at(node) as app:
        tasks = [app.send_task("proj.add", (n, 1)) for n in range(9_000)]  # two windows, and more
        assert app.client.producer.confirm(PATIENCE)
        read = list(read_waiting(client.producer, "celery"))
        assert [task.id for batch in read for _, task in batch.tasks] == [task.id for task in tasks]
        for batch in read[1:]:  # the first stays
            assert len(take_away(client.producer, batch, [key for key, _ in batch.tasks])) == len(batch.tasks)
        assert app.client.ask("queues")["celery"]["waiting"] == len(read[0].tasks)
        assert [b.tasks for b in read_waiting(client.producer, "celery")] == [read[0].tasks]
        assert app.control.purge() == len(read[0].tasks)
    client.close()
