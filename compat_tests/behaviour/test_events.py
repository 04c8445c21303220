"""Events reach who listens, in the order of logical time, and add up to the state of tasks and workers."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from zerocelery import Celery, states
from zerocelery.events import Event, group_from
from zerocelery.events.state import State


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("events", broker="memory://", set_as_current=False) as app:
        yield app


def task_event(subject: str, clock: int, uuid: str = "t", **fields: Any) -> dict[str, Any]:
    now = time.time()
    return Event(
        f"task-{subject}", uuid=uuid, hostname="w@host", clock=clock, timestamp=now, local_received=now, **fields
    )


def test_what_a_dispatcher_sends_a_receiver_gets_and_the_state_knows(app: Celery) -> None:
    state = app.events.State()
    with app.connection_for_write() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": state.event}, node_id="test")
        receiver.queue(connection.default_channel).declare()
        with app.events.Dispatcher(connection, hostname="w@host", buffer_group={"task"}) as dispatcher:
            dispatcher.send("worker-online", freq=2.0, sw_ident="zerocelery")
            dispatcher.send("task-received", uuid="t", name="add", args="(1, 2)")
            dispatcher.send("task-succeeded", uuid="t", result="3", runtime=0.1)
            assert not state.tasks
            dispatcher.flush()
        receiver.capture(limit=2, timeout=5, wakeup=False)  # the tasks' events come as one message
    assert [worker.hostname for worker in state.alive_workers()] == ["w@host"]
    task = state.tasks["t"]
    assert (task.name, task.state, task.result, task.worker.hostname) == ("add", states.SUCCESS, "3", "w@host")


def test_every_event_says_who_when_and_after_what(app: Celery) -> None:
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname="w@host") as dispatcher:
        sent: list[Any] = []
        dispatcher._publish = lambda event, *_: sent.append(event)
        dispatcher.send("task-started", uuid="t")
        dispatcher.send("task-started", uuid="t")
    first, second = sent
    assert {"type", "hostname", "timestamp", "utcoffset", "pid", "clock", "uuid"} == set(first)
    assert first["clock"] < second["clock"]


EVENTS = [
    task_event("received", 1, name="add", args="(1, 2)"),
    task_event("started", 2, pid=5),
    task_event("succeeded", 3, result="3"),
]


@pytest.mark.parametrize("order", list(permutations(EVENTS)))
def test_a_task_has_succeeded_in_whatever_order_that_is_told(order: tuple[dict[str, Any], ...]) -> None:
    state = State()
    for event in order:
        state.event(dict(event))
    task = state.tasks["t"]
    assert (task.state, task.name, task.result) == (states.SUCCESS, "add", "3")


def test_the_state_keeps_only_so_much() -> None:
    state = State(max_tasks_in_memory=10)
    for number in range(100):
        state.event(task_event("received", number, uuid=f"t{number}", name="add", parent_id=f"p{number}"))
    assert len(state.tasks) == 10
    assert len(state._taskheap) == 40
    assert len(state._tasks_to_resolve) == 10
    assert state.task_count == 100
    assert [uuid for uuid, _ in state.tasks_by_time(limit=1)] == ["t99"]


def test_children_find_their_parent_whichever_comes_first() -> None:
    state = State()
    state.event(task_event("received", 1, uuid="child", parent_id="parent", root_id="parent"))
    state.event(task_event("received", 2, uuid="parent"))
    state.event(task_event("received", 3, uuid="other", parent_id="parent"))
    assert {task.uuid for task in state.tasks["parent"].children} == {"child", "other"}
    assert state.tasks["child"].root is state.tasks["parent"]


def test_a_state_survives_pickling() -> None:
    state = State()
    for event in EVENTS:
        state.event(dict(event))
    again = pickle.loads(pickle.dumps(state))
    assert [uuid for uuid, _ in again.tasks_by_type("add")] == ["t"]
    assert again.tasks["t"].state == states.SUCCESS


def test_the_group_of_an_event_is_what_it_is_about() -> None:
    assert group_from("task-started") == "task"
