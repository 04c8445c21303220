"""Which events are sent for a task, in which order, with which fields; and what a State makes of them."""

from __future__ import annotations

import threading
from typing import Any

from celery.events.state import State

from compat_tests.behaviour.programs.common import make_app, tell, working

app = make_app(worker_send_task_events=True, task_send_sent_event=True)
heard: list[dict[str, Any]] = []
something = threading.Condition()
state = State()


@app.task
def succeed(x: int, key: str = "v") -> str:
    return "*" * x


@app.task
def fail() -> None:
    raise ValueError("no")


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def retry(self: Any) -> None:
    if not self.request.retries:
        raise self.retry(exc=KeyError("again"))
    self.send_event("task-mine", detail=1)


def receive() -> None:
    def take(event: dict[str, Any]) -> None:
        state.event(dict(event))
        with something:
            heard.append(event)
            something.notify_all()

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": take})
        receiver.capture(limit=None, timeout=None, wakeup=False)


def until(task_id: str, kind: str) -> list[dict[str, Any]]:
    """A task's events by type and try, when the one that ends it is there; client's and worker's come on two ways."""

    def there() -> bool:
        return any(event.get("uuid") == task_id and event["type"] == kind for event in heard)

    with something:
        assert something.wait_for(there, timeout=20), (kind, heard)
        return [
            {"type": event["type"], "fields": {key: described(key, value) for key, value in event.items()}}
            for event in sorted(heard, key=lambda event: (str(event["type"]), event.get("retries") or 0))
            if event.get("uuid") == task_id
        ]


def described(key: str, value: Any) -> Any:
    if key in ("clock", "hostname", "local_received", "pid", "runtime", "timestamp", "utcoffset"):
        return type(value).__name__
    return "present" if key == "traceback" else value


def hear() -> None:
    """Call tasks until the receiver hears of one: then it hears all that follow."""
    threading.Thread(target=receive, daemon=True).start()
    for _ in range(100):
        first = succeed.delay(0)
        with something:
            if something.wait_for(lambda: heard, timeout=0.2):
                break
    until(first.id, "task-succeeded")
    with something:
        heard.clear()
        state.clear(ready=False)


with working(app, task_events=True):
    hear()
    facts: dict[str, Any] = {
        "success": until(succeed.delay(2, key="k").id, "task-succeeded"),
        "failure": until(fail.delay().id, "task-failed"),
        "retry": until(retry.delay().id, "task-succeeded"),
    }
facts["state"] = sorted([task.name, task.state, task.args, task.kwargs, task.result] for task in state.tasks.values())
tell(facts)
