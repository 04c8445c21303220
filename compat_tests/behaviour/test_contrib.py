"""Tasks that can be asked to stop, a debugger by telnet, tasks in Sphinx and in Django's transactions."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.conftest import wait_until
from zerocelery import Celery
from zerocelery.contrib.abortable import AbortableAsyncResult, AbortableTask
from zerocelery.contrib.rdb import Rdb

ABORTABLE = """
import pathlib
import time
from compat_tests.conftest import wait_until
from zerocelery import Celery
from zerocelery.contrib.abortable import AbortableTask

app = Celery("proj")

@app.task(bind=True, base=AbortableTask)
def count(self, flag):
    for step in range(2000):
        if self.is_aborted():
            return "asked to stop"
        pathlib.Path(flag).touch()
        time.sleep(0.01)
    return "nobody asked"
"""


def test_a_task_stops_when_it_sees_that_it_was_asked_to(running_worker: Callable[..., str], tmp_path: Path) -> None:
    flag = tmp_path / "running"
    with Celery("client", broker=running_worker(ABORTABLE, "-c", "1")) as app:

        @app.task(name="proj.count", base=AbortableTask)
        def count(flag: str) -> str: ...

        result = count.delay(str(flag))
        wait_until(flag.exists)
        assert isinstance(result, AbortableAsyncResult)
        assert not result.is_aborted()

        result.abort()

        assert result.is_aborted()
        assert result.get(timeout=10) == "asked to stop"
        assert result.state == "SUCCESS"


def test_an_abortable_task_uses_other_backends_states() -> None:
    with Celery("client", broker="memory://", backend="cache+memory://") as app:

        @app.task(base=AbortableTask)
        def count() -> None: ...

        result = count.AsyncResult("an id")
        result.abort()

        assert app.AsyncResult("an id").state == "ABORTED"
        assert count.is_aborted(task_id="an id")


# ── rdb ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Said:
    """What the debugger says of itself, line by line."""

    def __init__(self) -> None:
        self.text = ""
        self.ready = threading.Event()

    def write(self, text: str) -> None:
        self.text += text
        if "Waiting for client" in self.text:
            self.ready.set()

    def flush(self) -> None: ...


def test_a_task_is_debugged_by_telnet() -> None:
    said, seen = _Said(), []

    def task() -> int:
        before = sys.stdin, sys.stdout
        debugger = Rdb(port=16899, out=said)
        answer = 41
        debugger.set_trace(sys._getframe())
        answer += 1
        seen.append((sys.stdin, sys.stdout) == before)
        return answer

    thread = threading.Thread(target=lambda: seen.append(task()))
    thread.start()
    assert said.ready.wait(10)
    port = int(said.text.partition("Remote Debugger:")[2].partition(":")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client, client.makefile("rw") as talk:
        talk.write("p answer * 2\nexit\n")
        talk.flush()
        shown = talk.read()
    thread.join(10)

    assert "82" in shown
    assert seen == [True, 42], "the task goes on when the session ends"
    assert "Session with 127.0.0.1" in said.text


# ── documentation, transactions ──────────────────────────────────────────────────────────────────────────────────────


def test_sphinx_shows_tasks_and_refers_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    application = pytest.importorskip("sphinx.application", reason="Sphinx is not installed")
    (tmp_path / "shop.py").write_text(
        "from zerocelery import Celery, shared_task\n"
        "app = Celery('shop')\n"
        "@app.task(bind=True)\n"
        "def charge(self, amount, *, card):\n    '''Take money.'''\n"
        "@shared_task\n"
        "def refund(order):\n    '''Give it back.'''\n"
    )
    (tmp_path / "conf.py").write_text("extensions = ['zerocelery.contrib.sphinx']\n")
    (tmp_path / "index.rst").write_text("Shop\n====\n\n.. automodule:: shop\n   :members:\n\n:task:`shop.charge`\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    app = application.Sphinx(
        str(tmp_path), str(tmp_path), str(tmp_path / "out"), str(tmp_path / "tree"), "text", status=None,
    )  # fmt: skip
    app.build()

    text = (tmp_path / "out" / "index.txt").read_text()
    assert "(task) shop.charge(amount, *, card)" in text
    assert "Take money." in text
    assert "(task) shop.refund(order)" in text


def test_a_django_task_waits_for_the_end_of_the_transaction() -> None:
    pytest.importorskip("django", reason="Django is not installed")
    import django
    from django.conf import settings
    from django.db import connections, transaction

    from zerocelery.contrib.django.task import DjangoTask

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
        django.setup()
    ran: list[int] = []
    with Celery("shop", broker="memory://") as app:
        app.conf.task_always_eager = True

        @app.task(base=DjangoTask)
        def charge(amount: int) -> None:
            ran.append(amount)

        with transaction.atomic():
            charge.delay_on_commit(1)
            assert ran == []
        assert ran == [1]
        with transaction.atomic():
            charge.apply_async_on_commit((2,))
            transaction.set_rollback(True)
        assert ran == [1], "what is rolled back is never sent"
    connections.close_all()
