"""What tests of other people's apps use: embedded workers, pytest's fixtures, the trap, log proxies."""

from __future__ import annotations

import logging
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat_tests.conftest import Sandbox
from zerocelery import Celery, _state, signals
from zerocelery.app.intake import BrokerUnreachable
from zerocelery.app.trace import LOG_RECEIVED, LOG_SUCCESS
from zerocelery.contrib.testing.app import TestApp, setup_default_app
from zerocelery.contrib.testing.manager import Manager, Sentinel
from zerocelery.contrib.testing.worker import (
    start_worker,
    test_worker_started,
    test_worker_starting,
    test_worker_stopped,
)
from zerocelery.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from zerocelery.utils.limited import LimitedSet
from zerocelery.utils.log import LoggingProxy, get_logger, in_sighandler, logger_isa, mlevel
from zerocelery.worker import state


def app_with_tasks(box: Sandbox) -> Celery:
    app = Celery("embedded", broker=box.url, set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="celery.ping")
    def ping() -> str:
        return "pong"

    return app


# ── start_worker ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_an_embedded_worker_runs_tasks_until_its_context_ends(sandbox: Sandbox, pool: str) -> None:
    heard: list[str] = []

    def hear(signal: object, sender: object, **kwargs: object) -> None:
        heard.append(signal.name)  # type: ignore[attr-defined]

    app = app_with_tasks(sandbox)
    signals = (test_worker_starting, test_worker_started, test_worker_stopped)
    for signal in signals:
        signal.connect(hear, sender=app)
    with setup_default_app(app), start_worker(app, pool=pool, concurrency=2, hostname="embedded@here") as worker:
        assert worker.hostname == "embedded@here"
        assert app.tasks["add"].delay(1, 2).get(timeout=10) == 3
        assert heard == ["test_worker_starting", "test_worker_started"]
    assert heard[2:] == ["test_worker_stopped"]


def test_reload_brings_tasks_that_were_made_after_the_worker_started(sandbox: Sandbox) -> None:
    app = app_with_tasks(sandbox)
    with setup_default_app(app), start_worker(app) as worker:

        @app.task(name="later")
        def later() -> str:
            return "first"

        worker.reload()
        assert app.tasks["later"].delay().get(timeout=10) == "first"


def test_a_worker_without_the_ping_task_says_what_to_import(sandbox: Sandbox) -> None:
    app = Celery("bare", broker=sandbox.url, set_as_current=False)
    app.finalize()
    app.tasks.pop("celery.ping", None)
    with (
        setup_default_app(app),
        pytest.raises(RuntimeError, match=r"import zerocelery\.contrib\.testing\.tasks"),
        start_worker(app),
    ):
        pass


def test_fixtures_give_an_app_and_a_worker_and_leave_nothing(sandbox: Sandbox) -> None:
    sandbox.write(
        "conftest.py",
        f"""
        import pytest
        pytest_plugins = ("zerocelery.contrib.pytest",)

        @pytest.fixture(scope="session")
        def celery_config():
            return {{"broker_url": {sandbox.url!r}, "task_default_queue": "mine"}}
        """,
    )
    sandbox.write(
        "test_theirs.py",
        """
        import pytest
        from zerocelery import current_app, shared_task

        @shared_task
        def double(x):
            return 2 * x

        def test_task(celery_app, celery_worker):
            @celery_app.task
            def mul(x, y):
                return x * y
            celery_worker.reload()
            assert mul.delay(4, 4).get(timeout=10) == 16
            assert double.delay(4).get(timeout=10) == 8

        @pytest.mark.celery(task_default_queue="other")
        def test_marker(celery_app):
            assert celery_app.conf.task_default_queue == "other"
            assert current_app._get_current_object() is not celery_app, "the program's own app is the current one"

        def test_config(celery_app):
            assert celery_app.conf.task_default_queue == "mine"

        def test_session(celery_session_app):
            assert current_app._get_current_object() is celery_session_app
        """,
    )
    process = sandbox.python("-m", "pytest", "-q", "-p", "no:randomly", "--strict-markers", "test_theirs.py")
    assert process.wait(40) == 0, sandbox.output(process)
    assert "4 passed" in sandbox.output(process)


# ── apps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_trap_catches_who_uses_the_current_app() -> None:
    before = _state.default_app
    app = TestApp()
    with setup_default_app(app, use_trap=True):
        with pytest.raises(RuntimeError, match="Test depends on current_app"):
            _state.get_current_app().conf  # noqa: B018
        app.set_current()
        assert _state.get_current_app() is app
    assert _state.default_app is before


def test_an_app_for_tests_has_settings_of_its_own() -> None:
    with TestApp() as usual, TestApp(config={"task_default_queue": "mine"}) as own:
        assert usual.conf.accept_content == {"json"}
        assert own.conf.task_default_queue == "mine"


def test_the_manager_asks_until_it_holds_and_no_longer() -> None:
    manager = Manager(None, stderr=sys.stderr)
    answers = iter([False, False, True])
    quick = {"interval_start": 0, "interval_step": 0, "interval_max": 0}
    assert manager.wait_for(manager.true_or_raise, (Sentinel,), args=(lambda: next(answers),), **quick) is True
    with pytest.raises(Sentinel):
        manager.wait_for(manager.true_or_raise, (Sentinel,), args=(lambda: False,), max_retries=2, **quick)


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_written_to_a_proxy_is_logged_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    proxy = LoggingProxy(logging.getLogger("proxied"), "ERROR")
    with caplog.at_level(logging.ERROR, "proxied"):
        assert proxy.write("one\n") == 4
        assert proxy.write(b"two") == 3
        assert proxy.write("\n") == 1
        proxy.close()
        assert proxy.write("three") == 0
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]


def test_within_a_signal_handler_a_proxy_writes_to_stderr(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    class Stderr:
        write = staticmethod(written.append)

    monkeypatch.setattr(sys, "__stderr__", Stderr())
    with in_sighandler():
        LoggingProxy(logging.getLogger("proxied"), "ERROR").write("now")
    assert (written, caplog.records) == (["now"], [])


def test_loggers_and_levels_are_found_by_name() -> None:
    assert mlevel("warn") == logging.WARNING
    assert mlevel(None) is None
    assert logger_isa(get_logger("my.module"), logging.getLogger("celery"))


# ── a worker's state ─────────────────────────────────────────────────────────────────────────────────────────────────


class Request:
    def __init__(self, id: str) -> None:
        self.id = id
        self.name = "task"


@given(st.lists(st.tuples(st.sampled_from(["scheduled", "reserved", "accepted", "ready"]), st.integers(0, 3))))
def test_a_request_is_in_the_sets_that_its_last_steps_say(steps: list[tuple[str, int]]) -> None:
    requests = [Request(str(number)) for number in range(4)]
    known: dict[int, set[str]] = {number: set() for number in range(4)}
    state.reset_state()
    for step, number in steps:
        getattr(state, f"task_{step}")(requests[number])
        said = known[number]
        if step == "ready":
            said.clear()
        elif step == "reserved":
            said.discard("scheduled")
            said.add("reserved")
        elif step == "accepted":
            said.add("active")
        elif not said & {"reserved", "active"}:
            said.add("scheduled")
    for number, request in enumerate(requests):
        for name in ("scheduled", "reserved", "active"):
            assert (request in getattr(state, f"{name}_requests")) == (name in known[number])
    state.reset_state()


@pytest.mark.parametrize(("flag", "exits"), [(None, False), (False, False), (0, True), (True, True), (3, True)])
def test_shutdown_is_raised_where_it_was_asked_for(
    flag: bool | int | None, exits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, error in (("should_stop", WorkerShutdown), ("should_terminate", WorkerTerminate)):
        with monkeypatch.context() as patch:
            patch.setattr(state, name, flag)
            if exits:
                with pytest.raises(error):
                    state.maybe_shutdown()
            else:
                state.maybe_shutdown()


def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_WORKER_REVOKES_MAX", "many")
    with pytest.raises(ImproperlyConfigured, match=r"CELERY_WORKER_REVOKES_MAX can't be 'many': expected int"):
        state._from_environment("CELERY_WORKER_REVOKES_MAX", 5)


def test_revoked_ids_outlive_the_worker(sandbox: Sandbox) -> None:
    path = str(sandbox.home / "state")
    state.reset_state()
    state.revoked.add("one")
    state.Persistent(state, path).save()
    state.reset_state()
    again = state.Persistent(state, path)
    again.close()
    assert "one" in state.revoked
    state.reset_state()


@given(st.lists(st.integers(0, 20)), st.integers(0, 5))
def test_a_limited_set_keeps_the_newest(items: list[int], most: int) -> None:
    kept = LimitedSet(maxlen=most)
    for number, item in enumerate(items):
        kept.add(item, now=number + 1.0)
    kept.purge()
    newest = list(dict.fromkeys(reversed(items)))[::-1]
    assert list(kept) == (newest[-most:] if most else newest)
    assert pickle.loads(pickle.dumps(kept)) == kept


def test_a_limited_set_lets_go_of_what_is_old_but_for_the_last_few() -> None:
    kept = LimitedSet(expires=10, minlen=1, maxlen=5)
    for number in (1.0, 2.0, 3.0):
        kept.add(number, now=number)
    kept.purge(now=12.5)
    assert list(kept) == [3.0]
    kept.purge(now=100.0)
    assert list(kept) == [3.0]


# ── what a test sees of its worker ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_test_sees_what_its_worker_receives_logs_and_finishes(
    sandbox: Sandbox, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with_tasks(sandbox)
    app.conf.worker_hijack_root_logger = False  # caplog has a handler there
    seen: list[Any] = []

    def receive(request: Any, **_: object) -> None:
        seen.append(request)

    signals.task_received.connect(receive)
    try:
        with setup_default_app(app), start_worker(app, pool=pool, loglevel="INFO") as worker:
            result = app.tasks["add"].apply_async((1, 2), argsrepr="(one, two)")
            assert result.get(timeout=10) == 3
            mine = next(request for request in seen if request.id == result.id)
            assert (mine.name, mine.args, mine.kwargs, mine.hostname) == ("add", [1, 2], {}, worker.hostname)
            assert mine.argsrepr == "(one, two)"
            assert mine.replaced_task_nesting == 0
        assert result.id in state.successful_requests
        told = [(r.name, r.msg) for r in caplog.records if getattr(r, "data", {}).get("id") == result.id]
        assert told == [("celery.worker.strategy", LOG_RECEIVED), ("celery.app.trace", LOG_SUCCESS)]
    finally:
        signals.task_received.disconnect(receive)
        state.reset_state()


def test_an_embedded_worker_serves_the_memory_of_its_process() -> None:
    app = Celery("memory", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    with setup_default_app(app), start_worker(app, hostname="w1@h", perform_ping_check=False):
        assert [double.delay(n).get(timeout=10) for n in range(3)] == [0, 2, 4]
        assert app.control.ping(timeout=10, limit=1) == [{"w1@h": {"ok": "pong"}}]


@pytest.mark.parametrize("setting", ["broker_connection_retry_on_startup", "broker_connection_retry"])
def test_a_worker_that_may_not_wait_for_its_broker_ends(setting: str, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("nowhere", broker="amqp://127.0.0.1:1", set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    app.conf[setting] = False
    app.conf.broker_connection_timeout = 1

    with (
        setup_default_app(app),
        pytest.raises(BrokerUnreachable, match="can't be reached"),
        start_worker(app, perform_ping_check=False),
    ):
        pass
    assert f"has been disabled (app.conf.{setting}=False). Shutting down..." in caplog.text
