"""Packages that build on Celery use it so; each test is a habit that one or several of them have.

The packages themselves are run by ``python -m compat_tests.ecosystem``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from zerocelery import Celery, Task
from zerocelery.app.context import Context
from zerocelery.worker.request import Request

WATCHED = """
from zerocelery import Celery
from zerocelery.app import trace

app = Celery("proj")
seen = []
build = trace.build_tracer

def build_watched(name, task, *args, **kwargs):
    tracer = build(name, task, *args, **kwargs)

    def watched(uuid, args, kwargs, request=None):
        seen.append({
            "id": request["id"] == uuid, "known": "delivery_info" in request, "none": request.get("none", "none"),
            "trace": (request.get("headers") or {}).get("trace"), "listed": "retries" in list(request),
            "args": list(args), "kwargs": dict(kwargs),
        })
        return tracer(uuid, args, kwargs, request)

    return watched

trace.build_tracer = build_watched

@app.task
def tell(x, y=0):
    return seen[-1]
"""


def test_a_packages_own_setting_is_found_without_the_namespace_that_the_project_gave_its_settings() -> None:
    """celery-once reads ``app.conf.ONCE``; a Django project has it as ``CELERY_ONCE``."""
    app = Celery(set_as_current=False)
    app.config_from_object({"CELERY_ONCE": {"backend": "theirs"}, "DEBUG": True}, namespace="CELERY")
    assert app.conf.ONCE == app.conf["once"] == app.conf.get("CELERY_ONCE") == {"backend": "theirs"}
    assert "ONCE" in app.conf
    assert "NEVER" not in app.conf
    assert app.conf.DEBUG is True, "what has no prefix is still there"


def test_of_two_settings_of_one_name_the_one_with_the_prefix_is_the_apps() -> None:
    app = Celery(set_as_current=False)
    app.config_from_object({"CELERY_ONCE": "Celery's", "ONCE": "Django's", "once": "a stray"}, namespace="CELERY")
    assert [app.conf[name] for name in ("ONCE", "once", "CELERY_ONCE")] == ["Celery's"] * 3


def test_a_request_is_made_of_what_is_no_message_but_has_its_headers() -> None:
    """django-celery-results' tests make them so, and so do those of other result backends."""
    app = Celery(set_as_current=False)
    headers = {"id": "a", "task": "far.away", "argsrepr": "(1,)", "kwargsrepr": "{}"}
    for message in (
        Context(headers=headers, properties=None, body=((1,), {}, {})),
        SimpleNamespace(headers=headers, properties={}, delivery_info=None, body=((1,), {}, {})),
    ):
        request = Request(message, app=app, decoded=True, task="far.away")
        assert (request.id, request.args, request.argsrepr) == ("a", (1,), "(1,)")
        assert request.content_type is None


class Asking(Task[..., Any]):
    """celery-once and celery-singleton: the app's settings are read in the task, through ``_get_app``."""

    abstract = True

    def wanted(self) -> Any:
        return self._get_app().conf.get("once")


def test_a_task_asks_its_own_app_though_another_is_the_current_one() -> None:
    here, there = (Celery(set_as_current=False, changes={"once": name}) for name in ("here", "there"))

    @here.task(base=Asking, name="same")
    def first() -> None: ...

    @there.task(base=Asking, name="same")
    def second() -> None: ...

    assert (first.wanted(), second.wanted()) == ("here", "there")


def test_a_tracer_put_around_ours_reads_the_request_as_a_dict(running_worker: Callable[..., str]) -> None:
    """sentry-sdk replaces ``celery.app.trace.build_tracer``, and reads the headers so."""
    url = running_worker(WATCHED, "--pool=threads")
    app = Celery("proj", broker=url, set_as_current=False)
    tell = app.signature("proj.tell", (1,), {"y": 2}, headers={"trace": "t-1"})
    assert tell.delay().get(timeout=10) == {
        "id": True, "known": True, "none": "none", "trace": "t-1", "args": [1], "kwargs": {"y": 2}, "listed": True
    }  # fmt: skip
