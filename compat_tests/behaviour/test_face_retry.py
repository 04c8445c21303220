"""Retries: by hand, by themselves, and until there have been enough."""

from __future__ import annotations

from typing import Any

import pytest

from zerocelery import Celery


def test_a_task_retries_until_it_succeeds(client: Celery) -> None:
    assert client.send_task("proj.until", (3,)).get(timeout=10) == 3


def test_after_enough_retries_the_cause_is_raised(client: Celery) -> None:
    result = client.send_task("proj.until", (9,))

    with pytest.raises(KeyError, match="not yet"):
        result.get(timeout=10)
    assert result.state == "FAILURE"


def test_autoretry(client: Celery) -> None:
    assert client.send_task("proj.auto", (2,)).get(timeout=10) == 2
    with pytest.raises(OSError, match="flaky"):
        client.send_task("proj.auto", (9,)).get(timeout=10)


def test_retry_raised_by_hand_is_a_retry_too(client: Celery) -> None:
    assert client.send_task("proj.retry_by_hand").get(timeout=10) == 1


def test_the_state_between_two_runs_is_retry(running_worker: object) -> None:
    url = running_worker(  # type: ignore[operator]
        """
        from zerocelery import Celery
        app = Celery("proj")
        @app.task(bind=True)
        def later(self):
            if not self.request.retries:
                raise self.retry(countdown=0.5, exc=ValueError("later"))
            return "now"
        """
    )
    with Celery("client", broker=url, set_as_current=False) as app:
        seen = {}
        result = app.send_task("proj.later")
        value = result.get(timeout=10, interval=0.02, on_interval=lambda: seen.setdefault(result.state, result.info))

        assert value == "now"
        assert isinstance(seen["RETRY"], ValueError)


def test_hooks_in_their_order(client: Celery) -> None:
    client.send_task("proj.hooked", ("fine",)).get(timeout=10)
    assert client.send_task("proj.hooks_seen").get(timeout=10) == [
        "before_start",
        "on_success fine",
        "after_return SUCCESS",
    ]

    client.send_task("proj.hooked", ("fail",)).get(timeout=10, propagate=False)
    assert client.send_task("proj.hooks_seen").get(timeout=10) == [
        "before_start",
        "on_failure no ValueError",
        "after_return FAILURE",
    ]

    client.send_task("proj.hooked", ("retry",)).get(timeout=10)
    assert client.send_task("proj.hooks_seen").get(timeout=10) == [
        "before_start",
        "on_retry later",
        "before_start",
        "on_success retry",
        "after_return SUCCESS",
    ]


@pytest.mark.parametrize(
    ("called", "again", "expected"),
    [
        (((), {"foo": 1, "bar": 2, "label": "kept"}), {"args": (5, 6)}, [5, 6, "kept"]),
        (((1, 2), {}), {"kwargs": {"foo": 5}}, [5, 2, None]),
        (((1, 2), {"label": "gone"}), {"kwargs": {"bar": 5}}, [1, 5, None]),
        (((1, 2), {}), {"args": (3,), "kwargs": {"bar": 4}}, [3, 4, None]),
    ],
)
def test_other_arguments_for_the_next_run_take_the_place_of_the_old(called: Any, again: Any, expected: Any) -> None:
    app = Celery("eager", set_as_current=False)

    @app.task(bind=True)
    def swap(self: Any, foo: int, bar: int, label: str | None = None) -> list[Any]:
        if not self.request.retries:
            raise self.retry(countdown=0, **again)
        return [foo, bar, label]

    assert swap.apply(*called).get() == expected


def test_what_was_rejected_and_comes_back_says_so(client: Celery) -> None:
    assert client.send_task("proj.back_once").get(timeout=10) is True
