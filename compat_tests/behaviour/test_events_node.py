"""Events through a node: made when somebody listens, heard as Celery's receivers hear them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from zerocelery import Celery

from ..conftest import Sandbox, wait_until, worker_process

TASKS = """
import time
from zerocelery import Celery
app = Celery("proj")

@app.task
def add(x, y):
    return x + y

@app.task(bind=True, max_retries=1)
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=0, exc=KeyError("once more"))

@app.task(bind=True)
def tells(self):
    self.send_event("task-mine", answer=42)

@app.task(send_events=False)
def silent():
    return 1

@app.task
def sleep(seconds):
    time.sleep(seconds)
"""


class Heard:
    """What a receiver has heard, by type."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.receiver: Any = None

    def of(self, type: str, uuid: str | None = None) -> list[dict[str, Any]]:
        return [e for e in list(self.events) if e["type"] == type and uuid in (None, e.get("uuid"))]

    def types(self, uuid: str) -> list[str]:
        return [e["type"] for e in list(self.events) if e.get("uuid") == uuid]

    def wait(self, type: str, uuid: str | None = None) -> dict[str, Any]:
        wait_until(lambda: self.of(type, uuid), what=f"{type} among {[e['type'] for e in self.events]}")
        return self.of(type, uuid)[0]


@contextmanager
def hearing(app: Celery, routing_key: str = "#") -> Iterator[Heard]:
    """A receiver in a thread, as a monitor has it."""
    heard = Heard()

    def listen() -> None:
        with app.connection() as connection:
            heard.receiver = app.events.Receiver(
                connection, handlers={"*": heard.events.append}, routing_key=routing_key
            )  # fmt: skip
            heard.receiver.capture(limit=None, timeout=None, wakeup=True)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield heard
    finally:
        wait_until(lambda: heard.receiver is not None)
        heard.receiver.should_stop = True
        thread.join(10)


@pytest.fixture
def app(sandbox: Sandbox) -> Celery:
    return Celery("client", broker=sandbox.url, set_as_current=False)


def test_a_task_is_told_of_from_its_sending_to_its_end(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "2", "-n", "w1@h", "-E")
    app.conf.task_send_sent_event = True
    with hearing(app) as heard:
        heartbeat = heard.wait("worker-heartbeat")
        assert heartbeat["hostname"] == "w1@h"
        assert {"freq", "active", "processed", "loadavg", "sw_ident", "sw_ver", "sw_sys", "clock", "pid"} < set(
            heartbeat
        )
        result = app.send_task("proj.add", (1, 2))
        assert result.get(timeout=10) == 3
        succeeded = heard.wait("task-succeeded", result.id)
        heard.wait("task-sent", result.id)  # the client says so when it has sent it: the worker may be faster
        types = [type for type in heard.types(result.id) if type != "task-sent"]
        assert types == ["task-received", "task-started", "task-succeeded"]
        sent, received = heard.of("task-sent", result.id)[0], heard.of("task-received", result.id)[0]
        assert (sent["name"], sent["args"], sent["kwargs"]) == ("proj.add", "(1, 2)", "{}")
        assert (sent["queue"], sent["exchange"], sent["routing_key"]) == ("celery", "", "celery")
        assert (received["name"], received["args"], received["kwargs"]) == ("proj.add", "(1, 2)", "{}")
        assert {"root_id", "parent_id", "retries", "eta", "expires", "utcoffset", "timestamp"} < set(received)
        assert succeeded["result"] == "3"
        assert succeeded["runtime"] >= 0.0
        assert succeeded["hostname"] == "w1@h"
        clocks = [e["clock"] for e in heard.events if e["pid"] == succeeded["pid"]]
        assert clocks == sorted(clocks)
        state = app.events.State()
        for event in heard.events:
            state.event(event)
        assert state.tasks[result.id].state == "SUCCESS"
        assert state.workers["w1@h"].alive


def test_how_a_task_failed_was_retried_or_revoked_is_told(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h", "-E")
    with hearing(app) as heard:
        heard.wait("worker-heartbeat")
        failed = app.send_task("proj.add", (1, "x"))
        event = heard.wait("task-failed", failed.id)
        assert event["exception"].startswith("TypeError(")
        assert "Traceback" in event["traceback"]
        again = app.send_task("proj.again")
        event = heard.wait("task-retried", again.id)
        assert "once more" in event["exception"]
        heard.wait("task-succeeded", again.id)
        revoked = app.send_task("proj.add", (1, 1), countdown=600)
        revoked.revoke()
        event = heard.wait("task-revoked", revoked.id)
        assert (event["terminated"], event["signum"], event["expired"]) == (False, None, False)
        running = app.send_task("proj.sleep", (30,))
        heard.wait("task-started", running.id)  # while it runs
        running.revoke(terminate=True)
        event = heard.wait("task-revoked", running.id)
        assert (event["terminated"], event["signum"]) == (True, 15)
        mine = app.send_task("proj.tells")
        assert heard.wait("task-mine", mine.id)["answer"] == 42
        silent = app.send_task("proj.silent")
        assert silent.get(timeout=10) == 1
        heard.wait("task-succeeded", app.send_task("proj.add", (1, 1)).id)
        assert heard.types(silent.id) == []


def test_events_are_turned_on_and_off_while_a_worker_runs(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    patient = {"reply": True, "timeout": 5.0}
    with hearing(app) as heard:
        heard.wait("worker-heartbeat")
        quiet = app.send_task("proj.add", (1, 1))
        quiet.get(timeout=10)
        assert app.control.enable_events(**patient) == [{"w1@h": {"ok": "task events enabled"}}]
        assert app.control.enable_events(**patient) == [{"w1@h": {"ok": "task events already enabled"}}]
        loud = app.send_task("proj.add", (1, 1))
        heard.wait("task-succeeded", loud.id)
        assert heard.types(quiet.id) == []
        assert app.control.disable_events(**patient) == [{"w1@h": {"ok": "task events disabled"}}]
        assert app.control.disable_events(**patient) == [{"w1@h": {"ok": "task events already disabled"}}]
        app.send_task("proj.add", (1, 1)).get(timeout=10)
        app.control.heartbeat()
        count = len(heard.of("worker-heartbeat"))
        wait_until(lambda: len(heard.of("worker-heartbeat")) > count, what="a heartbeat")
        assert len(heard.of("task-succeeded")) == 1


def test_a_worker_says_that_it_comes_and_goes(app: Celery, sandbox: Sandbox) -> None:
    with worker_process(sandbox, TASKS, "-c", "1", "-n", "first@h"), hearing(app) as heard:
        heard.wait("worker-heartbeat")
        with worker_process(sandbox, TASKS, "-c", "1", "-n", "second@h", module="proj"):
            wait_until(lambda: [e for e in heard.of("worker-online") if e["hostname"] == "second@h"])
        wait_until(lambda: [e for e in heard.of("worker-offline") if e["hostname"] == "second@h"])


def test_events_of_several_processes_are_in_order_by_their_clocks(
    app: Celery, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "2", "-n", "w1@h", "-E")
    with hearing(app) as heard:
        heard.wait("worker-heartbeat")
        results = [app.send_task("proj.add", (i, i)) for i in range(40)]
        for result in results:
            heard.wait("task-succeeded", result.id)
        app.control.ping(timeout=10)  # with the clock of who has heard all that
        last = app.send_task("proj.add", (1, 1), countdown=600)
        last.revoke()
        heard.wait("task-revoked", last.id)
        told = [e for e in heard.events if e["type"].startswith("task-")]
        by_clock = sorted(told, key=lambda e: e["clock"])
        assert by_clock[-1]["type"] == "task-revoked"
        assert [e["timestamp"] for e in by_clock] == pytest.approx([e["timestamp"] for e in sorted(
            told, key=lambda e: e["timestamp"])], abs=0.05)  # fmt: skip
        assert len({e["pid"] for e in told}) >= 2


def test_only_what_a_receiver_asks_for_is_heard(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h", "-E")
    with hearing(app, "worker.*") as heard:
        heard.wait("worker-heartbeat")
        app.send_task("proj.add", (1, 1)).get(timeout=10)
        app.control.heartbeat()
        count = len(heard.events)
        wait_until(lambda: len(heard.events) > count)
        assert {e["type"] for e in heard.events} == {"worker-heartbeat"}


def test_two_receivers_hear_everything_and_nothing_is_sent_when_both_have_gone(
    app: Celery, running_worker: Callable[..., str]
) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h", "-E")
    with hearing(app) as one, hearing(app) as two:
        one.wait("worker-heartbeat")
        two.wait("worker-heartbeat")
        result = app.send_task("proj.add", (1, 1))
        one.wait("task-succeeded", result.id)
        two.wait("task-succeeded", result.id)

    def unwatched() -> bool:
        app.send_task("proj.add", (1, 1)).get(timeout=10)
        return not app.client.producer.cast("celeryev", [b"x"])

    wait_until(unwatched, what="that nobody listens")


def test_events_of_ones_own_go_through_a_dispatcher(app: Celery, running_worker: Callable[..., str]) -> None:
    running_worker(TASKS, "-c", "1", "-n", "w1@h")
    with hearing(app) as heard:
        heard.wait("worker-heartbeat")
        with app.events.default_dispatcher(hostname="me@here") as dispatcher:
            dispatcher.send("custom-thing", colour="green")
        event = heard.wait("custom-thing")
        assert (event["hostname"], event["colour"]) == ("me@here", "green")
        with app.connection() as connection, app.events.Dispatcher(connection, hostname="other@here") as dispatcher:
            dispatcher.send("custom-other", colour="red")
        assert heard.wait("custom-other")["hostname"] == "other@here"
