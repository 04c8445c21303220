"""Results kept elsewhere than on a node: the stored formats, and workers of a node that store in them."""

from __future__ import annotations

import contextlib
import json
import pickle
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.conftest import require_server
from zerocelery import Celery, states
from zerocelery.app import backends
from zerocelery.app.context import Context
from zerocelery.backends.base import COMPRESSED_PAYLOAD_MAGIC, DisabledBackend, KeyValueStoreBackend
from zerocelery.backends.cache import CacheBackend
from zerocelery.backends.filesystem import FilesystemBackend
from zerocelery.backends.redis import RedisBackend
from zerocelery.backends.zmq import NodeBackend
from zerocelery.exceptions import ImproperlyConfigured, SecurityError, TimeoutError

REDIS = "redis://127.0.0.1:6379/11"

TASKS = """
import os
from zerocelery import Celery

app = Celery("proj", backend={backend!r})

@app.task
def add(x, y):
    return x + y

@app.task(bind=True, max_retries=2)
def until(self, wanted):
    if self.request.retries < wanted:
        raise self.retry(countdown=0)
    return self.request.retries

@app.task
def fail(message):
    raise ValueError(message)

@app.task(ignore_result=True)
def quiet():
    return 1

@app.task
def vanish():
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A database of Redis that is this test's own."""
    require_server("Redis", 6379)
    import redis

    with redis.Redis.from_url(REDIS) as client:
        client.flushdb()
        yield REDIS
        client.flushdb()


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    """``make_app(**settings)``: an app that is closed at the end."""
    made: list[Celery] = []

    def make(**settings: Any) -> Celery:
        app = Celery("client", set_as_current=False, changes=settings)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


class Dictionary(KeyValueStoreBackend):
    """A store as somebody else would write one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.kept: dict[bytes, Any] = {}
        super().__init__(*args, **kwargs)

    def get(self, key: Any) -> Any:
        return self.kept.get(key)

    def mget(self, keys: Any) -> Any:
        return [self.kept.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        self.kept[key] = value

    def delete(self, key: Any) -> None:
        self.kept.pop(key, None)


# ── which backend ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("cache+memory://", CacheBackend),
        ("redis://localhost/1", RedisBackend),
        ("disabled://", DisabledBackend),
    ],
)
def test_a_url_leads_to_its_backend(make_app: Callable[..., Celery], url: str, kind: type) -> None:
    app = make_app(result_backend=url)
    assert type(app.backend) is kind


def test_celerys_own_paths_lead_to_ours(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    assert backends.by_name("celery.backends.cache:CacheBackend", app.loader) is CacheBackend


def test_without_a_word_results_are_on_the_node(make_app: Callable[..., Celery], sandbox: Any) -> None:
    assert type(make_app(broker_url=sandbox.url).backend) is NodeBackend


def test_a_backend_that_is_a_module_is_refused(make_app: Callable[..., Celery]) -> None:
    with pytest.raises(ImproperlyConfigured):
        backends.by_name("zerocelery.backends.cache", make_app().loader)


# ── the stored document ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_document_has_celerys_fields_and_key(make_app: Callable[..., Celery]) -> None:
    backend = Dictionary(make_app())
    backend.mark_as_done("an-id", {"a": 1})
    (key,) = backend.kept
    assert key == b"celery-task-meta-an-id"
    document = json.loads(backend.kept[key])
    assert list(document) == ["status", "result", "traceback", "children", "date_done", "task_id"]
    assert document["date_done"].endswith("+00:00")
    assert (document["status"], document["result"], document["children"]) == ("SUCCESS", {"a": 1}, None)


def test_an_exception_is_stored_in_words_and_comes_back(make_app: Callable[..., Celery]) -> None:
    backend = Dictionary(make_app())
    backend.mark_as_failure("an-id", ValueError("no", 3), traceback="where")
    stored = json.loads(backend.kept[b"celery-task-meta-an-id"])["result"]
    assert stored == {"exc_type": "ValueError", "exc_message": ["no", 3], "exc_module": "builtins"}
    found = backend.get_result("an-id")
    assert isinstance(found, ValueError)
    assert found.args == ("no", 3)
    assert backend.get_traceback("an-id") == "where"


def test_our_own_exceptions_are_stored_under_celerys_name(make_app: Callable[..., Celery]) -> None:
    backend = Dictionary(make_app())
    backend.mark_as_failure("an-id", TimeoutError("late"))
    assert json.loads(backend.kept[b"celery-task-meta-an-id"])["result"]["exc_module"] == "celery.exceptions"
    assert type(backend.get_result("an-id")) is TimeoutError


def test_a_document_that_names_a_function_as_its_exception_is_refused(make_app: Callable[..., Celery]) -> None:
    backend = Dictionary(make_app())
    with pytest.raises(SecurityError):
        backend.exception_to_python({"exc_type": "system", "exc_module": "os", "exc_message": ["true"]})


def test_what_has_succeeded_stays_so(make_app: Callable[..., Celery]) -> None:
    backend = Dictionary(make_app())
    backend.mark_as_done("an-id", 1)
    backend.mark_as_failure("an-id", ValueError("a second run"))
    assert backend.get_state("an-id") == states.SUCCESS


def test_a_prefix_separates_who_share_a_store(make_app: Callable[..., Celery]) -> None:
    backend = Dictionary(make_app(result_backend_transport_options={"global_keyprefix": "mine"}))
    backend.mark_as_done("an-id", 1)
    assert list(backend.kept) == [b"mine_celery-task-meta-an-id"]


def test_a_write_is_tried_again_where_the_settings_say_so(make_app: Callable[..., Celery]) -> None:
    class Flaky(Dictionary):
        errors = 2

        def set(self, key: Any, value: Any) -> None:
            if self.errors:
                self.errors -= 1
                raise OSError("away")
            super().set(key, value)

        def exception_safe_to_retry(self, exc: Exception) -> bool:
            return isinstance(exc, OSError)

    app = make_app(result_backend_always_retry=True, result_backend_base_sleep_between_retries_ms=1)
    backend = Flaky(app)
    backend.mark_as_done("an-id", 1)
    assert backend.get_result("an-id") == 1


def test_waiting_ends_in_time(make_app: Callable[..., Celery]) -> None:
    app = make_app()
    backend = Dictionary(app)
    with pytest.raises(TimeoutError):
        app.AsyncResult(uuid.uuid4().hex, backend=backend).get(timeout=0)


def test_files_hold_the_same_document_compressed_or_not(make_app: Callable[..., Celery], tmp_path: Path) -> None:
    plain = FilesystemBackend(app=make_app(), url=f"file://{tmp_path}")
    plain.mark_as_done("plain", [1, 2])
    packed = FilesystemBackend(app=make_app(result_compression="gzip"), url=f"file://{tmp_path}")
    packed.mark_as_done("packed", [3])
    assert json.loads((tmp_path / "celery-task-meta-plain").read_bytes())["result"] == [1, 2]
    assert (tmp_path / "celery-task-meta-packed").read_bytes().startswith(COMPRESSED_PAYLOAD_MAGIC)
    assert plain.get_result("packed") == [3]
    assert packed.get_result("plain") == [1, 2]


def test_a_backend_can_be_pickled(make_app: Callable[..., Celery], tmp_path: Path) -> None:
    backend = FilesystemBackend(app=make_app(), url=f"file://{tmp_path}")
    backend.mark_as_done("an-id", 5)
    assert pickle.loads(pickle.dumps(backend)).get_result("an-id") == 5


def test_a_database_keeps_celerys_columns_and_a_success(make_app: Callable[..., Celery], tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    import sqlite3

    app = make_app(result_backend=f"db+sqlite:///{tmp_path}/results.db")
    backend = app.backend
    backend.mark_as_done("an-id", {"a": 1})
    backend.mark_as_failure("an-id", ValueError("late"))
    backend.mark_as_failure("other", ValueError("no"), traceback="where")
    assert app.AsyncResult("an-id").get(timeout=5) == {"a": 1}
    with pytest.raises(ValueError, match="no"):
        app.AsyncResult("other").get(timeout=5)
    with contextlib.closing(sqlite3.connect(tmp_path / "results.db")) as database:
        rows = database.execute(
            "select status, result, children from celery_taskmeta where task_id = 'an-id'"
        ).fetchall()
    assert rows == [("SUCCESS", b'{"a": 1}', None)]


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_redis_keeps_a_result_for_a_day_and_tells_who_waits(make_app: Callable[..., Celery], redis_url: str) -> None:
    app = make_app(result_backend=redis_url)
    backend = app.backend
    channel = backend.client.pubsub()
    channel.subscribe("celery-task-meta-an-id")
    assert channel.get_message(timeout=5)["type"] == "subscribe"
    backend.mark_as_done("an-id", 3)
    told = channel.get_message(timeout=5)
    channel.close()
    assert told["data"] == backend.client.get("celery-task-meta-an-id")
    assert 86_000 < backend.client.ttl("celery-task-meta-an-id") <= 86_400
    assert app.AsyncResult("an-id").get(timeout=5) == 3


def test_nobody_listens_any_more_when_a_wait_has_ended(make_app: Callable[..., Celery], redis_url: str) -> None:
    app = make_app(result_backend=redis_url)
    with pytest.raises(TimeoutError):
        app.AsyncResult("never").get(timeout=0.05)
    assert app.backend.client.pubsub_channels("celery-task-meta-never") == []


@pytest.mark.parametrize("copies", [1, 2])
def test_a_chord_in_redis_sends_its_body_once(make_app: Callable[..., Celery], redis_url: str, copies: int) -> None:
    app = make_app(result_backend=redis_url, broker_url="memory://")
    callback = app.signature("body")
    backend = app.backend
    backend.set_chord_size("gid", 3)
    for index, value in ((2, "c"), (0, "a"), (1, "b")):
        request = Context(id=f"t{index}", group="gid", group_index=index, chord=callback)
        for _ in range(copies):
            backend.on_chord_part_return(request, states.SUCCESS, value)
    with app.connection_for_read() as connection:
        queue = app.amqp.queues["celery"](connection.default_channel)
        message, second = queue.get(no_ack=True), queue.get(no_ack=True)
    assert second is None
    assert message.headers["task"] == "body"
    assert message.payload[0] == [["a", "b", "c"]]
    assert backend.client.get("celery-taskset-meta-gid.c") == b"done"
    assert not backend.client.exists("celery-taskset-meta-gid.j", "celery-taskset-meta-gid.s")


# ── workers of a node ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["file", "redis"])
def backend_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A backend that a worker's processes and their client share."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    return f"file://{tmp_path}"


def test_a_worker_of_a_node_stores_in_the_apps_backend(
    running_worker: Callable[..., str], make_app: Callable[..., Celery], backend_url: str
) -> None:
    url = running_worker(TASKS.format(backend=backend_url), "-c", "2")
    app = make_app(broker_url=url, result_backend=backend_url)
    waits = {"timeout": 10, "interval": 0.01}
    added, retried, failed = (
        app.send_task("proj.add", (1, 2)), app.send_task("proj.until", (2,)), app.send_task("proj.fail", ("no",))
    )  # fmt: skip
    assert added.get(**waits) == 3
    assert retried.get(**waits) == 2
    with pytest.raises(ValueError, match="no"):
        failed.get(**waits)
    assert "proj.py" in failed.traceback
    assert app.backend.get_state(added.id) == states.SUCCESS


def test_the_loss_of_a_task_is_stored_there_too(
    running_worker: Callable[..., str], make_app: Callable[..., Celery], redis_url: str
) -> None:
    from zerocelery.exceptions import WorkerLostError

    url = running_worker(TASKS.format(backend=redis_url), "-c", "1")
    app = make_app(broker_url=url, result_backend=redis_url)
    with pytest.raises(WorkerLostError):
        app.send_task("proj.vanish").get(timeout=20)
