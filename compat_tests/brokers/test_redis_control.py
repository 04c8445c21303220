"""Remote control and events of a worker whose broker is Redis: by kombu's mailbox, as between Celery's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from compat_tests.conftest import Sandbox, require_server, wait_until
from zerocelery import Celery
from zerocelery.exceptions import TaskRevokedError

BROKER = "redis://127.0.0.1:6379/10"

TASKS = f"""
import time
from zerocelery import Celery

app = Celery("proj", broker={BROKER!r}, backend={BROKER!r})

@app.task
def add(x, y):
    return x + y

@app.task
def sleep(seconds):
    time.sleep(seconds)
    return "slept"
"""


@pytest.fixture
def app() -> Iterator[Celery]:
    require_server("Redis", 6379)
    made = Celery("client", broker=BROKER, backend=BROKER, set_as_current=False)
    made.conf.broker_transport_options = {"polling_interval": 0.1}
    with made.connection() as connection:
        connection.default_channel.client.flushdb()
    yield made
    with made.connection() as connection:
        connection.default_channel.client.flushdb()
    made.close()
    made.pool.force_close_all()


@pytest.fixture
def worker(sandbox: Sandbox, app: Celery) -> Iterator[str]:
    sandbox.write("proj.py", TASKS)
    process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-c", "2", "-n", "w1@h", "-E")
    sandbox.wait_for_output(process, "ready.")
    yield "w1@h"
    process.terminate()
    process.wait(20)


def test_commands_come_by_the_broker(app: Celery, worker: str) -> None:
    inspect = app.control.inspect(timeout=5.0, limit=1)
    assert inspect.ping() == {worker: {"ok": "pong"}}
    running = app.send_task("proj.sleep", (60,))
    wait_until(lambda: inspect.active()[worker], what="a running task")
    assert inspect.active()[worker][0]["id"] == running.id
    later = app.send_task("proj.add", (1, 1), countdown=600)
    wait_until(lambda: inspect.scheduled()[worker], what="a scheduled task")
    assert [queue["name"] for queue in inspect.active_queues()[worker]] == ["celery"]
    patient: Any = {"reply": True, "timeout": 5.0, "limit": 1}
    assert "flagged as revoked" in app.control.revoke(later.id, **patient)[0][worker]["ok"]
    with pytest.raises(TaskRevokedError):
        later.get(timeout=10)
    assert app.control.terminate(running.id, **patient) == [{worker: {"ok": f"terminate: {running.id}"}}]
    with pytest.raises(TaskRevokedError, match="terminated"):
        running.get(timeout=10)
    assert app.control.broadcast("nope", **patient) == [{worker: {"error": "KeyError('nope')"}}]
    broker = inspect.stats()[worker]["broker"]
    assert (broker["transport"], broker["hostname"], broker["virtual_host"]) == ("redis", "127.0.0.1", "10")
    assert app.control.add_consumer("other", **patient) == [{worker: {"ok": "add consumer other"}}]
    assert app.send_task("proj.add", (2, 2), queue="other").get(timeout=10) == 4
    assert app.control.pool_grow(1, **patient) == [{worker: {"ok": "pool will grow"}}]
    wait_until(lambda: len(inspect.stats()[worker]["pool"]["processes"]) == 3, what="three processes")


def test_events_go_by_the_broker(app: Celery, worker: str) -> None:
    heard: list[dict[str, Any]] = []
    receivers: list[Any] = []

    def listen() -> None:
        with app.connection() as connection:
            receivers.append(app.events.Receiver(connection, handlers={"*": heard.append}))
            receivers[0].capture(limit=None, timeout=None, wakeup=True)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        wait_until(lambda: any(e["type"] == "worker-heartbeat" for e in heard), what="a heartbeat")
        result = app.send_task("proj.add", (1, 2))
        assert result.get(timeout=10) == 3

        def types() -> list[str]:
            return [e["type"] for e in list(heard) if e.get("uuid") == result.id]

        wait_until(lambda: "task-succeeded" in types(), what="task-succeeded")
        assert types() == ["task-received", "task-started", "task-succeeded"]
    finally:
        receivers[0].should_stop = True
        thread.join(10)


def test_a_worker_is_shut_down_by_the_broker(sandbox: Sandbox, app: Celery) -> None:
    sandbox.write("proj.py", TASKS)
    process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-c", "1", "-n", "w2@h")
    sandbox.wait_for_output(process, "ready.")
    app.control.shutdown()
    assert process.wait(20) == 0


@pytest.mark.parametrize("keeps", [True, False], ids=["with-the-file", "without-it"])
def test_a_state_db_brings_revocations_to_the_next_worker(sandbox: Sandbox, app: Celery, keeps: bool) -> None:
    sandbox.write("proj.py", TASKS)
    command = ["-m", "zerocelery", "-A", "proj", "worker", "-c", "1", "-n", "w1@h", "-l", "info"]
    if keeps:
        command += ["--statedb", str(sandbox.home / "state")]
    first = sandbox.python(*command)
    sandbox.wait_for_output(first, "ready.")
    (answer,) = app.control.revoke("revoked-before", reply=True, timeout=5.0, limit=1)
    assert "flagged as revoked" in answer["w1@h"]["ok"]
    first.terminate()
    assert first.wait(20) == 0

    second = sandbox.python(*command)
    sandbox.wait_for_output(second, "ready.")
    app.send_task("proj.add", (1, 2), task_id="revoked-before")
    assert app.send_task("proj.add", (2, 2)).get(timeout=10) == 4  # whose turn is after it
    log = sandbox.output(second)
    assert ("Task proj.add[revoked-before] succeeded" in log) is not keeps
    assert ("revoked task: proj.add[revoked-before]" in log) is keeps
    second.terminate()
    second.wait(20)
