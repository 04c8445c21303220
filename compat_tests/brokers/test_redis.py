"""Redis as the broker, through kombu: the messages on the wire, and a worker that takes them in."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, require_server, wait_until
from zerocelery import Celery, chain
from zerocelery.exceptions import TaskRevokedError, WorkerLostError

BROKER = "redis://127.0.0.1:6379/12"
RESULTS = "redis://127.0.0.1:6379/11"

TASKS = f"""
import os, threading
from pathlib import Path
from zerocelery import Celery

app = Celery("proj", broker={BROKER!r}, backend={RESULTS!r})

@app.task
def add(x, y):
    return x + y

@app.task(bind=True, max_retries=2)
def until(self, wanted):
    if self.request.retries < wanted:
        raise self.retry(countdown=0)
    return self.request.retries

@app.task
def fail(message):
    raise KeyError(message)

@app.task
def vanish():
    os.kill(os.getpid(), 9)

def _hold(path):
    Path(path).write_text(str(os.getpid()))
    while not Path(path + ".go").exists():
        threading.Event().wait(0.01)
    return "held"

@app.task
def early(path):
    return _hold(path)

@app.task(acks_late=True)
def late(path):
    return _hold(path)

@app.task(bind=True)
def about_me(self):
    r = self.request
    return [r.id, r.root_id, r.reply_to, r.delivery_info["routing_key"], r.get("mine"), r.argsrepr]
"""


@pytest.fixture
def databases() -> Iterator[Any]:
    """The broker's database, empty, as a client of Redis."""
    require_server("Redis", 6379)
    import redis

    with redis.Redis.from_url(BROKER) as broker, redis.Redis.from_url(RESULTS) as results:
        broker.flushdb()
        results.flushdb()
        yield broker
        broker.flushdb()
        results.flushdb()


@pytest.fixture
def client(databases: Any) -> Iterator[Celery]:
    """An app that sends to Redis."""
    app = Celery("client", broker=BROKER, backend=RESULTS, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def worker(sandbox: Sandbox, databases: Any) -> Iterator[Callable[..., Any]]:
    """``worker(*options)``: a worker that consumes from Redis, until the test ends."""
    processes: list[Any] = []

    def start(*options: str) -> Any:
        sandbox.write("proj.py", TASKS)
        process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", *options)
        processes.append(process)
        sandbox.wait_for_output(process, "ready.")
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)


# ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_is_celerys(client: Celery, databases: Any) -> None:
    result = client.send_task("proj.add", (1, 2), {"z": 3}, headers={"mine": 1}, countdown=10)
    message = json.loads(databases.lpop("celery"))
    headers, properties = message["headers"], message["properties"]
    assert list(headers) == [
        "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
        "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
        "stamps", "mine",
    ]  # fmt: skip
    assert (headers["lang"], headers["task"], headers["id"]) == ("py", "proj.add", result.id)
    assert (headers["root_id"], headers["parent_id"], headers["timelimit"]) == (result.id, None, [None, None])
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("(1, 2)", "{'z': 3}")
    assert headers["eta"].endswith("+00:00")
    assert (properties["correlation_id"], properties["delivery_mode"]) == (result.id, 2)
    assert properties["reply_to"] == client.thread_oid
    assert properties["delivery_info"] == {"exchange": "", "routing_key": "celery"}
    args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([1, 2], {"z": 3})
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def test_a_priority_leads_to_its_list(client: Celery, databases: Any) -> None:
    client.send_task("proj.add", (1, 2), priority=6)
    assert databases.llen("celery\x06\x166") == 1


def test_a_route_leads_to_its_queue(databases: Any) -> None:
    routes = {"proj.*": {"queue": "elsewhere"}}
    app = Celery("routed", broker=BROKER, backend="disabled://", set_as_current=False, task_routes=routes)
    app.send_task("proj.add", (1, 2))
    app.close()
    assert databases.llen("elsewhere") == 1


# ── working ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_every_pool_runs_what_comes_from_redis(client: Celery, worker: Callable[..., Any], pool: str) -> None:
    worker("-P", pool, "-c", "2")
    assert client.send_task("proj.add", (1, 2)).get(timeout=10) == 3
    assert client.send_task("proj.add", (3, 4), compression="zlib").get(timeout=10) == 7
    assert client.send_task("proj.until", (2,)).get(timeout=10) == 2
    with pytest.raises(KeyError, match="no"):
        client.send_task("proj.fail", ("no",)).get(timeout=10)
    add = client.signature("proj.add")
    assert chain(add.clone((1, 2)), add.clone((10,)), app=client).apply_async().get(timeout=10) == 13


def test_a_request_tells_where_its_message_came_from(client: Celery, worker: Callable[..., Any]) -> None:
    worker("-P", "solo")
    result = client.send_task("proj.about_me", headers={"mine": "own"})
    assert result.get(timeout=10) == [result.id, result.id, client.thread_oid, "celery", "own", "()"]


def test_nothing_is_held_by_the_broker_when_all_is_done(
    client: Celery, databases: Any, worker: Callable[..., Any]
) -> None:
    worker("-c", "2")
    results = [client.send_task("proj.add", (n, n)) for n in range(50)]
    assert [result.get(timeout=10) for result in results] == [2 * n for n in range(50)]
    wait_until(lambda: not databases.hlen("unacked"), what="all messages acknowledged")
    assert databases.llen("celery") == 0


def test_a_message_is_acknowledged_when_its_task_begins(
    client: Celery, databases: Any, worker: Callable[..., Any], sandbox: Sandbox
) -> None:
    worker("-c", "1")
    path = sandbox.home / "early"
    result = client.send_task("proj.early", (str(path),))
    wait_until(path.exists)
    wait_until(lambda: not databases.hlen("unacked"), what="acknowledged while it runs")
    (sandbox.home / "early.go").touch()
    assert result.get(timeout=10) == "held"


def test_with_acks_late_it_is_acknowledged_when_the_task_has_ended(
    client: Celery, databases: Any, worker: Callable[..., Any], sandbox: Sandbox
) -> None:
    worker("-c", "2")
    path = sandbox.home / "late"
    result = client.send_task("proj.late", (str(path),))
    wait_until(path.exists)
    # when a task that began later is acknowledged, the word of the first one would have been heard, too
    assert client.send_task("proj.add", (1, 1)).get(timeout=10) == 2
    wait_until(lambda: databases.hlen("unacked") == 1)
    (sandbox.home / "late.go").touch()
    assert result.get(timeout=10) == "held"
    wait_until(lambda: not databases.hlen("unacked"))


def test_a_killed_process_costs_its_task_alone(client: Celery, databases: Any, worker: Callable[..., Any]) -> None:
    worker("-c", "1")
    with pytest.raises(WorkerLostError):
        client.send_task("proj.vanish").get(timeout=20)
    assert client.send_task("proj.add", (1, 1)).get(timeout=10) == 2
    wait_until(lambda: not databases.hlen("unacked"))


def test_an_expired_task_is_revoked(client: Celery, worker: Callable[..., Any]) -> None:
    result = client.send_task("proj.add", (1, 1), expires=-1)
    worker("-c", "1")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)


def test_a_stopped_worker_gives_back_what_has_not_begun(
    client: Celery, databases: Any, worker: Callable[..., Any], sandbox: Sandbox
) -> None:
    process = worker("-c", "1")
    path = sandbox.home / "first"
    first = client.send_task("proj.early", (str(path),))
    wait_until(path.exists)
    second = client.send_task("proj.late", (str(sandbox.home / "second"),))
    wait_until(lambda: databases.hlen("unacked") == 1)
    process.terminate()
    (sandbox.home / "first.go").touch()
    assert process.wait(PATIENCE) == 0
    assert first.get(timeout=10) == "held"
    assert not databases.hlen("unacked")
    (message,) = databases.lrange("celery", 0, -1)
    assert json.loads(message)["headers"]["id"] == second.id


def test_what_is_no_task_is_thrown_away(client: Celery, databases: Any, worker: Callable[..., Any]) -> None:
    with client.producer_or_acquire() as producer:
        producer.publish({"neither": "nor"}, routing_key="celery", exchange="", declare=[client.amqp.queues["celery"]])
    worker("-c", "1")
    assert client.send_task("proj.add", (1, 1)).get(timeout=10) == 2
    wait_until(lambda: not databases.hlen("unacked"))


def test_the_private_node_ends_with_its_worker(worker: Callable[..., Any], sandbox: Sandbox) -> None:
    process = worker("-c", "1")
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
