"""Tasks: models as arguments, attributes from settings, secrets that stay out of reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zerocelery import Celery, Task
from zerocelery.app.utils import sanitize_url

from ..conftest import Sandbox

PYDANTIC = """
from pydantic import BaseModel
from zerocelery import Celery

app = Celery("proj")

class Order(BaseModel):
    title: str
    count: int = 1

class Bill(BaseModel):
    text: str
    total: float

@app.task(pydantic=True)
def bill(order: Order, price: float = 2.5) -> Bill:
    return Bill(text=f"{order.count} x {order.title}", total=order.count * price)

@app.task(pydantic=True)
async def bill_later(order: Order) -> Bill:
    return Bill(text=order.title, total=0)

@app.task(pydantic=True, bind=True)
def bill_bound(self, order: Order) -> Bill:
    return Bill(text=f"bound {order.title}", total=0)

@app.task(pydantic=True)
def gathered(bills: list, order: Order) -> str:
    return f"{len(bills)} before {order.title}"
"""


def test_models_travel_as_what_they_say_of_themselves(running_worker: Callable[..., str]) -> None:
    pytest.importorskip("pydantic")
    client = Celery("client", broker=running_worker(PYDANTIC, "-c", "1"), set_as_current=False)

    assert client.send_task("proj.bill", ({"title": "book", "count": "3"},)).get(timeout=10) == {
        "text": "3 x book",
        "total": 7.5,
    }
    assert client.send_task("proj.bill_later", ({"title": "map"},)).get(timeout=10) == {"text": "map", "total": 0.0}
    refused = client.send_task("proj.bill", ({"title": "book", "count": "many"},))
    assert type(refused.get(timeout=10, propagate=False)).__name__ == "ValidationError"
    assert "count\n  Input should be a valid integer" in str(refused.traceback)


GROUPS_OF_MODELS = """
from zerocelery import chord, group
from proj import Order, app, bill, gathered, bill_bound

app.conf.broker_url = app.conf.result_backend = {url!r}
book, pen = Order(title="book", count=3), Order(title="pen")
print(group(bill.s(book), bill.s(order=pen, price=1.0)).apply_async().get(timeout=10))
print(group(bill.s(), bill_bound.s()).apply_async((book,)).get(timeout=10))
print(chord([bill.s(pen), bill_bound.s(book)])(gathered.s(book)).get(timeout=10))
print(group(bill.s(n) for n in [pen, pen])().get(timeout=10))
"""


def test_models_given_to_members_of_a_group_or_chord_travel_as_in_a_plain_call(
    sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    pytest.importorskip("pydantic")
    url = running_worker(PYDANTIC, "-c", "1")

    printed = sandbox.run(GROUPS_OF_MODELS.format(url=url)).splitlines()

    assert printed == [
        "[{'text': '3 x book', 'total': 7.5}, {'text': '1 x pen', 'total': 1.0}]",
        "[{'text': '3 x book', 'total': 7.5}, {'text': 'bound book', 'total': 0.0}]",
        "2 before book",
        "[{'text': '1 x pen', 'total': 2.5}, {'text': '1 x pen', 'total': 2.5}]",
    ]


def test_settings_annotate_tasks_and_wrap_their_methods() -> None:
    calls: list[tuple[Any, ...]] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(self: Any, *args: Any) -> Any:
            calls.append(args)
            return function(self, *args)

        return inner

    app = Celery("annotated", set_as_current=False)
    app.conf.task_annotations = {"*": {"rate_limit": "9/s"}, "watched": {"@__call__": watched}}

    @app.task(name="watched", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    app.finalize()

    assert add.rate_limit == "9/s"
    assert add(1, 2) == 3
    assert calls == [(1, 2)]
    add.annotate()
    assert add(3, 4) == 7
    assert calls == [(1, 2), (3, 4)]


#: Passwords of Q and of all that has a meaning in a URL; no other part of the URL has a Q. With both a separator and an
#: @ a password can look like another server, whose name is shown.
passwords = st.one_of(st.text(alphabet="Q;,:/?#[]", min_size=1), st.text(alphabet="Q@:/?#[]", min_size=1)).filter(
    lambda text: "Q" in text
)
hosts = st.lists(st.sampled_from(["h1", "h2:26379", "10.0.0.1:80", "[::1]:5"]), min_size=1, max_size=3)


@given(
    password=passwords, user=st.sampled_from(["", "me"]), hosts=hosts, end=st.sampled_from(["", "/", "/0", "/db?a=1"])
)
@example(password="Q;x://Q", user="me", hosts=["h1"], end="/0")
@example(password="Q/Q", user="", hosts=["h1"], end="/0")
def test_no_part_of_a_password_is_shown(password: str, user: str, hosts: list[str], end: str) -> None:
    shown = sanitize_url(f"sentinel://{user}:{password}@{';'.join(hosts)}{end}")

    assert "Q" not in shown
    assert shown.startswith("sentinel://")


def test_a_bug_report_names_versions_and_no_secrets() -> None:
    app = Celery("reported", set_as_current=False, broker_url="amqp://me:hidden@host//", redis_password="hidden")

    report = app.bugreport()

    assert "zerocelery" in report
    assert "kombu" in report
    assert "hidden" not in report


def test_a_class_that_wraps_calls_and_a_task_that_calls_itself_keep_the_request() -> None:
    app = Celery("wrapped", broker="memory://", backend="cache+memory://", set_as_current=False)
    wrapped: list[Any] = []

    class Wrapping(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            wrapped.append(self.request.id)
            return super().__call__(*args, **kwargs)

    @app.task(base=Wrapping, bind=True)
    def down(self: Any, n: int) -> Any:
        seen = [(self.request.id, self.request.args, self.request.called_directly)]
        return seen + (self(n - 1) if n else [])

    result = down.apply((1,), task_id="mine")
    assert [(one[0], list(one[1]), one[2]) for one in result.get()] == [("mine", [1], False), ("mine", [0], False)]
    assert wrapped == ["mine", "mine"]

    @app.task(base=Wrapping, bind=True, max_retries=2)
    def stubborn(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    assert stubborn.apply().get() == 2
    assert down(0) == [(None, (0,), True)]
    app.close()
