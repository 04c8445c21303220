"""Packages that build on Celery use it so; each test is a habit that one or several of them have.

The packages themselves are run by ``python -m compat_tests.ecosystem``.
"""

from __future__ import annotations

from types import SimpleNamespace

from zerocelery import Celery
from zerocelery.app.context import Context
from zerocelery.worker.request import Request


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
