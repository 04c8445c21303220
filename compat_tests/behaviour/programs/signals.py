"""Which signals are sent, in which order and with which arguments, for each end that a task can come to."""

from __future__ import annotations

import threading
from typing import Any

from celery import signals, states
from celery.exceptions import Ignore, Reject

from compat_tests.behaviour.programs.common import make_app, tell, working

NAMES = (
    "before_task_publish", "after_task_publish", "task_received", "task_prerun", "task_success", "task_failure",
    "task_retry", "task_postrun", "task_revoked", "task_rejected", "task_unknown", "task_internal_error",
)  # fmt: skip

app = make_app(task_track_started=True)
heard: list[dict[str, Any]] = []
ended = threading.Semaphore(0)


class Odd(Exception):
    pass


@app.task
def succeed(x: int) -> int:
    return x


@app.task
def fail() -> None:
    raise Odd("no", 1)


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def retry(self: Any, wanted: int) -> int:
    if self.request.retries < wanted:
        raise self.retry(exc=Odd("not yet"))
    return int(self.request.retries)


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def give_up(self: Any) -> None:
    raise self.retry()


@app.task(autoretry_for=(Odd,), max_retries=1, default_retry_delay=0, retry_backoff=False)
def auto() -> None:
    raise Odd("always")


@app.task
def ignore() -> None:
    raise Ignore


@app.task
def reject() -> None:
    raise Reject("why", requeue=False)


@app.task(bind=True)
def update(self: Any) -> str:
    self.update_state(state="HALFWAY", meta={"done": 1})
    return str(self.AsyncResult(self.request.id).state)


@app.task(throws=(Odd,))
def expected() -> None:
    raise Odd("expected")


def listen(name: str) -> None:
    def receiver(sender: Any = None, **given: Any) -> None:
        given.pop("signal")
        one = {
            "signal": name,
            "sender": getattr(sender, "name", None) or (sender if isinstance(sender, str) else type(sender).__name__),
            "arguments": {key: described(key, value) for key, value in given.items()},
        }
        if name == "after_task_publish" and threading.current_thread() is threading.main_thread():
            # The thread that sends tells of it when it is its turn, which may be while the task runs: it comes first.
            heard.insert(1, one)
        else:
            heard.append(one)
        if name in ("task_postrun", "task_unknown", "task_revoked"):
            ended.release()

    getattr(signals, name).connect(receiver, weak=False)


def described(key: str, value: Any) -> Any:
    """An argument, as far as it does not differ between runs or makers."""
    if key == "headers" and isinstance(value, dict):
        return sorted(value)
    if isinstance(value, BaseException):
        return [type(value).__name__, str(value)]
    if key in ("body", "properties", "declare", "retry_policy", "traceback", "runtime", "einfo", "request"):
        return "present" if value is not None else None
    if key == "task":
        return value.name
    return value


def case(name: str, call: Any, *, ends: int = 1) -> dict[str, Any]:
    """What is heard until a call has ended so many times, and how it ended."""
    heard.clear()
    result = call()
    for _ in range(ends):
        assert ended.acquire(timeout=20), (name, heard)
    outcome: list[Any] = []
    if result is not None:
        try:
            outcome = ["returned", result.get(timeout=20, interval=0.01)]
        except Exception as error:
            outcome = ["raised", type(error).__name__, [str(arg) for arg in error.args]]
        outcome += [result.state, result.traceback is not None, result.state in states.READY_STATES]
    return {"heard": list(heard), "outcome": outcome}


for known in NAMES:
    listen(known)
with working(app):
    facts = {
        "success": case("success", lambda: succeed.delay(1)),
        "failure": case("failure", lambda: fail.delay()),
        "retry": case("retry", lambda: retry.delay(2), ends=3),
        "give up": case("give up", lambda: give_up.delay(), ends=2),
        "autoretry": case("autoretry", lambda: auto.delay(), ends=2),
        "reject": case("reject", lambda: reject.delay()),
        "own state": case("own state", lambda: update.delay()),
        "expected": case("expected", lambda: expected.delay()),
        "expired": case("expired", lambda: succeed.apply_async((1,), expires=-1)),
        "ignored": case("ignored", lambda: ignore.delay() and None),
        "eager": case("eager", lambda: succeed.apply((1,))),
        "eager failure": case("eager failure", lambda: fail.apply()),
        "eager retry": case("eager retry", lambda: retry.apply((1,)), ends=2),
    }
tell(facts)
