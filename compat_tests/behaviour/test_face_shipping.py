"""Tasks that the worker can't import travel to it."""

from __future__ import annotations

from typing import Any

EMPTY = """
from zerocelery import Celery
app = Celery("proj")
@app.task
def add(x, y):
    return x + y
"""

SCRIPT = """
import os
from zerocelery import Celery

app = Celery("script")
BY = 10

class Special(Exception):
    pass

@app.task
def times(x):
    return x * BY

@app.task(bind=True, max_retries=3)
def flaky(self, wanted):
    if self.request.retries < wanted:
        raise self.retry(countdown=0.01)
    return [self.request.retries, self.name, os.getpid() != {pid}]

@app.task
def calls_another(x):
    return times.delay(x).id

@app.task(bind=True)
def calls_itself(self, n):
    return n if n == 0 else n + calls_itself.run(n - 1)

@app.task
def fails():
    raise Special("mine")

class Base(app.Task):
    greeting = "hello"

@app.task(base=Base, bind=True)
def based(self, name):
    return f"{self.greeting} {name}"

print(times.delay(2).get(timeout=10))
BY = 100
print(times.delay(2).get(timeout=10))
print(flaky.delay(2).get(timeout=10)[:2])
print(app.AsyncResult(calls_another.delay(3).get(timeout=10)).get(timeout=10))
print(calls_itself.delay(3).get(timeout=10))
try:
    fails.delay().get(timeout=10)
except Special as error:
    print("special", error)
print(based.delay("you").get(timeout=10))

@app.task
def times(x):
    return f"redefined {x}"

print(times.delay(2).get(timeout=10))
def made_here():
    secret = 7
    @app.task
    def closure(x):
        return x + secret
    return closure
print(made_here().delay(1).get(timeout=10))
"""


def test_tasks_of_a_script(sandbox: Any, running_worker: Any) -> None:
    url = running_worker(EMPTY)
    output = sandbox.run(
        SCRIPT.replace("{pid}", "os.getppid()").replace('Celery("script")', f'Celery("script", broker={url!r})')
    )

    assert output.splitlines() == [
        "20",
        "200",
        "[2, 'script.flaky']",
        "300",
        "6",
        "special mine",
        "hello you",
        "redefined 2",
        "8",
    ]


def test_a_registered_task_wins_over_one_that_travels(sandbox: Any, running_worker: Any) -> None:
    url = running_worker(EMPTY)
    output = sandbox.run(
        f"""
        from zerocelery import Celery
        app = Celery("proj", broker={url!r})
        @app.task(name="proj.add")
        def add(x, y):
            return "mine"
        print(add.delay(1, 2).get(timeout=10))
        """
    )

    assert output.strip() == "3"


def test_shipping_can_be_switched_off(sandbox: Any, running_worker: Any) -> None:
    url = running_worker(EMPTY)
    output = sandbox.run(
        f"""
        from zerocelery import Celery
        from zerocelery.exceptions import NotRegistered
        app = Celery("script", broker={url!r}, ship_callables=False)
        @app.task
        def mine():
            return 1
        try:
            mine.delay().get(timeout=10)
        except NotRegistered as error:
            print("not registered", error.args[0])
        """
    )

    assert output.strip() == "not registered script.mine"


def test_what_cannot_be_packed_is_refused_with_a_sentence(sandbox: Any, running_worker: Any) -> None:
    url = running_worker(EMPTY)
    output = sandbox.run(
        f"""
        import threading
        from zerocelery import Celery
        app = Celery("script", broker={url!r})
        lock = threading.Lock()
        @app.task
        def mine():
            with lock:
                return 1
        try:
            mine.delay()
        except Exception as error:
            print(type(error).__name__, error)
        """
    )

    assert "EncodeError" in output
    assert "can't be pickled" in output
