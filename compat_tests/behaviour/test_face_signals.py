"""Signals: who hears what, in which order, and what they may change."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from zerocelery import Celery, signals
from zerocelery.utils.dispatch import Signal


def test_there_are_34() -> None:
    assert len(signals.__all__) == 34
    assert all(isinstance(getattr(signals, name), Signal) for name in signals.__all__)


def test_publish_signals_see_the_message_and_may_change_its_headers(client: Celery) -> None:
    seen: list[Any] = []

    @signals.before_task_publish.connect
    def before(sender: Any = None, headers: Any = None, body: Any = None, **kwargs: Any) -> None:
        seen.append(("before", sender, headers["id"], body[0]))
        assert list(headers)[:4] == ["lang", "task", "id", "shadow"]
        assert headers["argsrepr"] == "(1, 2)"
        assert kwargs["routing_key"] == "celery"
        headers["mine"] = "added"

    @signals.after_task_publish.connect
    def after(sender: Any = None, headers: Any = None, **kwargs: Any) -> None:
        seen.append(("after", sender, headers["id"]))

    try:
        result = client.send_task("proj.echo", (1, 2))
        request = client.send_task("proj.about_me", (), {}, argsrepr="(1, 2)").get(timeout=10)
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)

    assert seen[:2] == [("before", "proj.echo", result.id, (1, 2)), ("after", "proj.echo", result.id)]
    assert request["mine"] == "added"


def test_signals_of_a_run_in_their_order(running_worker: Any) -> None:
    url = running_worker(
        """
        from zerocelery import Celery, signals
        app = Celery("proj")
        heard = []
        def note(name, *fields):
            def receive(sender=None, **kwargs):
                if sender.name != "proj.tell":
                    heard.append([name, sender.name, *[repr(kwargs[field]) for field in fields]])
            getattr(signals, name).connect(receive, weak=False)
        note("task_prerun", "task_id", "args", "kwargs")
        note("task_success", "result")
        note("task_failure", "task_id", "exception", "args", "kwargs")
        note("task_retry", "reason")
        note("task_postrun", "task_id", "retval", "state")
        @app.task(bind=True)
        def work(self, what):
            if what == "fail":
                raise ValueError(what)
            if what == "retry" and not self.request.retries:
                raise self.retry(countdown=0)
            return what
        @app.task
        def tell():
            return heard
        """,
        "-P",
        "solo",
        "-c",
        "1",
    )
    with Celery("client", broker=url, set_as_current=False) as app:
        for what in ("fine", "fail", "retry"):
            app.send_task("proj.work", (what,), task_id=what).get(timeout=10, propagate=False)
        heard = app.send_task("proj.tell").get(timeout=10)

    assert [entry[0] for entry in heard] == [
        "task_prerun", "task_success", "task_postrun",
        "task_prerun", "task_failure", "task_postrun",
        "task_prerun", "task_retry", "task_postrun", "task_prerun", "task_success", "task_postrun",
    ]  # fmt: skip
    assert heard[0][1:] == ["proj.work", "'fine'", "['fine']", "{}"]
    assert heard[2][1:] == ["proj.work", "'fine'", "'fine'", "'SUCCESS'"]
    assert heard[4][3] == "ValueError('fail')"
    assert heard[5][3:] == ["ValueError('fail')", "'FAILURE'"]
    assert heard[8][-1] == "'RETRY'"


def test_receivers_are_held_weakly_and_once_each() -> None:
    signal = Signal(name="mine")
    calls = []

    def receiver(**kwargs: Any) -> str:
        calls.append(kwargs)
        return "heard"

    signal.connect(receiver)
    signal.connect(receiver)
    signal.connect(receiver, dispatch_uid="a")
    signal.connect(receiver, dispatch_uid="a")

    assert [answer for _, answer in signal.send(sender=None, x=1)] == ["heard", "heard"]
    assert calls[0] == {"signal": signal, "sender": None, "x": 1}
    assert signal.disconnect(receiver)
    assert signal.disconnect(dispatch_uid="a")
    assert not signal.has_listeners()

    signal.connect(receiver)
    del receiver
    gc.collect()
    assert signal.receivers == []


def test_a_receiver_may_listen_to_one_sender_only() -> None:
    signal, me, other = Signal(), object(), object()
    heard = []

    @signal.connect(sender=me)
    def receiver(sender: Any = None, **kwargs: Any) -> None:
        heard.append(sender)

    signal.send(sender=other)
    signal.send(sender=me)

    assert heard == [me]


def test_a_receivers_error_is_logged_and_reaches_nobody(caplog: pytest.LogCaptureFixture) -> None:
    signal = Signal()
    error = RuntimeError("broken")

    @signal.connect
    def broken(**kwargs: Any) -> None:
        raise error

    @signal.connect
    def fine(**kwargs: Any) -> str:
        return "fine"

    with caplog.at_level(logging.ERROR):
        answers = signal.send(sender=None)

    assert [answer for _, answer in answers] == [error, "fine"]
    assert "raised: RuntimeError('broken')" in caplog.text


def test_a_receiver_must_take_what_is_to_come() -> None:
    with pytest.raises(ValueError, match="keyword arguments"):
        Signal().connect(lambda sender: None)
