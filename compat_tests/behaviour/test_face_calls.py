"""Calls: what a task is sent with is what it gets."""

from __future__ import annotations

import datetime
import decimal
import time
import uuid
from typing import Any

import pytest

import zerocelery
from zerocelery import Celery
from zerocelery.exceptions import NotRegistered, OperationalError, TaskRevokedError, TimeoutError


def test_the_smallest_call(client: Celery) -> None:
    assert client.send_task("proj.add", (2, 3)).get(timeout=10) == 5


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**63,
        -(2**70),
        1.5,
        1e300,
        "",
        "žluťoučký",
        "\ud800",
        [],
        [[1, [2, {"a": None}]]],
        {"a": {"b": [1.25]}},
        float("inf"),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.timezone.utc),
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        b"bytes",
        "__type__",
    ],
    ids=repr,
)
def test_json_carries_values_both_ways(client: Celery, value: Any) -> None:
    args, kwargs = client.send_task("proj.echo", (value,), {"k": value}).get(timeout=10)

    assert args == [value]
    assert kwargs == {"k": value}


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack", "cloudpickle"])
def test_every_serializer(client: Celery, serializer: str) -> None:
    result = client.send_task("proj.echo", (1, "two", [3.0]), {"four": None}, serializer=serializer)

    assert result.get(timeout=10) == [[1, "two", [3.0]], {"four": None}]


def test_a_compressed_message(client: Celery) -> None:
    text = "word " * 10_000

    assert client.send_task("proj.echo", (text,), compression="zlib").get(timeout=10)[0] == [text]


def test_the_request_says_what_the_call_said(client: Celery) -> None:
    result = client.send_task(
        "proj.about_me",
        task_id="my-own-id",
        headers={"mine": {"a": 1}},
        priority=5,
        shadow="alias",
        time_limit=60,
        soft_time_limit=50,
        expires=600,
    )
    request = result.get(timeout=10)

    assert request["id"] == request["root_id"] == request["correlation_id"] == "my-own-id"
    assert request["task"] == "proj.about_me"
    assert request["parent_id"] is None
    assert request["mine"] == {"a": 1}
    assert request["headers"] == {"mine": {"a": 1}}
    assert request["lang"] == "py"
    assert request["argsrepr"] == "()"
    assert request["delivery_info"]["priority"] == 5
    assert request["delivery_info"]["routing_key"] == "celery"
    assert request["timelimit"] == [60, 50]
    assert request["shadow"] == "alias"
    assert request["origin"].startswith("gen")
    assert not request["called_directly"]
    assert not request["is_eager"]
    assert datetime.datetime.fromisoformat(request["expires"]) > datetime.datetime.now(datetime.timezone.utc)


def test_countdown_holds_a_task_back(client: Celery) -> None:
    start = time.monotonic()
    result = client.send_task("proj.add", (1, 1), countdown=0.4)

    assert result.get(timeout=10) == 2
    assert time.monotonic() - start >= 0.35


def test_a_naive_eta_is_in_the_apps_zone(client: Celery) -> None:
    client.conf.timezone = "Pacific/Kiritimati"
    eta = datetime.datetime.now(client.timezone).replace(tzinfo=None) + datetime.timedelta(seconds=0.3)

    assert client.send_task("proj.add", (1, 1), eta=eta).get(timeout=10) == 2


def test_an_expired_task_is_revoked_and_its_caller_told(client: Celery) -> None:
    result = client.send_task("proj.add", (1, 1), countdown=0.2, expires=0.1)

    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
    assert result.state == "REVOKED"


def test_an_unknown_task_is_a_failure_that_says_so(client: Celery) -> None:
    with pytest.raises(NotRegistered) as caught:
        client.send_task("proj.no_such_task").get(timeout=10)

    assert caught.value.args == ("proj.no_such_task",)


def test_arguments_are_checked_where_the_task_is_known(worker_url: str) -> None:
    with Celery("proj", broker=worker_url, set_as_current=False) as app:

        @app.task(name="proj.add", ship=False)
        def add(x: int, y: int) -> int:
            raise NotImplementedError

        with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
            add.delay(1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
            add.apply_async((1, 2), {"z": 3})
        assert add.delay(1, y=2).get(timeout=10) == 3


def test_arguments_that_no_serializer_takes_are_refused(client: Celery) -> None:
    from kombu.exceptions import EncodeError

    with pytest.raises(EncodeError):
        client.send_task("proj.echo", (object(),))


def test_content_that_is_not_accepted_is_a_failure_not_silence(running_worker: Any) -> None:
    url = running_worker(
        """
        from zerocelery import Celery
        app = Celery("proj")
        @app.task
        def add(x, y):
            return x + y
        """
    )
    from kombu.exceptions import ContentDisallowed

    with Celery("client", broker=url, set_as_current=False) as app, pytest.raises(ContentDisallowed):
        app.send_task("proj.add", (1, 2), serializer="pickle").get(timeout=10)


def test_no_node_is_an_operational_error_that_names_the_fix(sandbox: Any) -> None:
    with Celery("alone", broker=sandbox.url, set_as_current=False) as app:
        app.conf.broker_transport_options = {"connect_timeout": 0.2}
        with pytest.raises(OperationalError, match="zerocelery node -b"):
            app.send_task("proj.add", (1, 2))


def test_a_queue_that_nobody_reads_keeps_the_task(client: Celery) -> None:
    result = client.send_task("proj.add", (1, 2), queue="elsewhere")

    with pytest.raises(TimeoutError):
        result.get(timeout=0.3)
    assert result.state == "PENDING"


def test_routes_send_tasks_to_other_queues(running_worker: Any) -> None:
    url = running_worker(
        """
        from zerocelery import Celery
        app = Celery("proj")
        @app.task(bind=True)
        def where(self):
            return self.request.delivery_info["routing_key"]
        @app.task(bind=True, name="other.where")
        def other(self):
            return self.request.delivery_info["routing_key"]
        """,
        "-Q",
        "celery,a,b",
    )
    with Celery("client", broker=url, set_as_current=False) as app:
        app.conf.task_routes = (
            {"other.*": {"queue": "a"}},
            lambda name, *a, **k: "b" if name == "proj.named" else None,
        )

        assert app.send_task("proj.where").get(timeout=10) == "celery"
        assert app.send_task("other.where").get(timeout=10) == "a"
        assert app.send_task("other.where", queue="b").get(timeout=10) == "b"


def test_a_shared_task_and_a_class_based_one(client: Celery) -> None:
    assert client.send_task("proj.shared", (4,)).get(timeout=10) == 8
    assert [client.send_task("proj.Counter", (2,)).get(timeout=10) for _ in range(3)] == [2, 4, 6]


def test_callbacks_and_errbacks_follow(client: Celery) -> None:
    result = client.send_task("proj.add", (1, 2), link=client.signature("proj.add", (10,)))

    assert result.get(timeout=10) == 3
    (child,) = result.children
    assert child.get(timeout=10) == 13

    errback = client.signature("proj.note", task_id="the-errback")
    failed = client.send_task("proj.fail", ("x",), link_error=errback)
    failed.get(timeout=10, propagate=False)

    assert client.AsyncResult("the-errback").get(timeout=10) == f"noted {failed.id}"


def test_a_task_called_by_a_task_is_its_child(client: Celery) -> None:
    result = client.send_task("proj.parent", (1,))
    child_id = result.get(timeout=10)

    assert [child.id for child in result.children] == [child_id]
    assert result.children[0].get(timeout=10) == 2


def test_ids_are_unique_and_in_order() -> None:
    ids = [zerocelery.uuid() for _ in range(10_000)]

    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids
    assert {uuid.UUID(one).version for one in ids} == {7}


def test_a_forked_child_sends_and_receives_by_itself(sandbox: Any, running_worker: Any) -> None:
    url = running_worker(
        """
        from zerocelery import Celery
        app = Celery("proj")
        @app.task(bind=True)
        def origin(self):
            return self.request.origin
        """
    )
    output = sandbox.run(
        f"""
        import os
        from zerocelery import Celery
        app = Celery("proj", broker={url!r})
        @app.task(name="proj.origin", ship=False)
        def origin(): ...
        mine = origin.delay().get(timeout=10)
        assert f"gen{{os.getpid()}}@" in mine, mine
        child = os.fork()
        theirs = origin.delay().get(timeout=10)
        assert f"gen{{os.getpid()}}@" in theirs, theirs
        if child:
            assert os.waitpid(child, 0)[1] == 0
            print("both")
        """
    )

    assert output.splitlines()[-1] == "both"  # before it Python 3.12 may warn of fork with threads


def test_apps_that_nobody_has_any_more_leave_no_sockets_and_lose_no_tasks(sandbox: Any, running_worker: Any) -> None:
    url = running_worker(
        """
        from zerocelery import Celery
        app = Celery("proj")
        @app.task
        def double(x):
            return 2 * x
        """
    )
    output = sandbox.run(
        f"""
        import gc, os, time
        from zerocelery import Celery
        gc.disable()  # it is to take all apart at once

        def send(number):
            return Celery(str(number), broker={url!r}, set_as_current=False).send_task("proj.double", (number,)).id

        def open_files():
            return len(os.listdir("/proc/self/fd"))

        keeper = Celery("keeper", broker={url!r}, set_as_current=False)
        assert keeper.send_task("proj.double", (0,)).get(timeout=10) == 0
        before = open_files()
        ids = [send(number) for number in range(20)]
        deadline = time.monotonic() + 10
        while gc.collect() >= 0 and open_files() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        print(open_files() - before, [keeper.AsyncResult(one).get(timeout=10) for one in ids] == list(range(0, 40, 2)))
        """,
        timeout=30,
    )

    assert output.splitlines()[-1] == "0 True"


@pytest.mark.parametrize("pool", [("-P", "threads", "-c", "2"), ("-P", "prefork", "--pool-start-method", "spawn")])
def test_runs_in_every_pool_know_themselves(running_worker: Any, pool: tuple[str, ...]) -> None:
    url = running_worker(
        """
        from zerocelery import Celery
        app = Celery("proj")
        @app.task(bind=True, max_retries=1)
        def who(self):
            self.update_state(state="PROGRESS", meta=1)
            if not self.request.retries:
                raise self.retry(countdown=0.01)
            return [self.request.id, app.current_task.name]
        """,
        *pool,
    )
    with Celery("client", broker=url, set_as_current=False) as app:
        results = [app.send_task("proj.who") for _ in range(20)]

        assert [result.get(timeout=15) for result in results] == [[result.id, "proj.who"] for result in results]
