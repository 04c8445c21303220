"""Results that Celery stored are read here, and the other way round; what lies in the store is the same.

An interpreter that has Celery is taken from ``ZEROCELERY_STOCK_PYTHON``, or from the environment in which
``compat_tests.upstream`` runs Celery's own tests. Where there is none, these tests are skipped.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.brokers import stored
from compat_tests.conftest import require_server
from zerocelery import Celery

REDIS = "redis://127.0.0.1:6379/10"
_PROGRAM = Path(stored.__file__)


@pytest.fixture(params=["redis", "file", "db"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """``store(name)``: the URL of a fresh store."""
    kind: str = request.param
    if kind == "redis":
        require_server("Redis", 6379)
        with _redis() as client:
            client.flushdb()
            yield lambda name: f"{REDIS}?client_name={name}"
            client.flushdb()
        return

    def fresh(name: str) -> str:
        if kind == "db":
            return f"db+sqlite:///{tmp_path}/{name}.db"
        (tmp_path / name).mkdir()
        return f"file://{tmp_path}/{name}"

    yield fresh


def _redis() -> Any:
    import redis

    return redis.Redis.from_url(REDIS)


@pytest.fixture
def ours() -> Iterator[Callable[[str, str], Celery]]:
    made: list[Celery] = []

    def make(url: str, serializer: str) -> Celery:
        app = Celery("ours", set_as_current=False, changes=stored.settings(url, serializer))
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


def _celery(python: str, url: str, serializer: str, action: str) -> Any:
    done = subprocess.run(
        [python, str(_PROGRAM), url, serializer, action], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout) if done.stdout else None


def _lying_in(url: str) -> dict[str, Any]:
    """What is in a store, by key; times left out, for they differ."""
    if url.startswith("redis"):
        with _redis() as client:
            found = {key.decode(): json.loads(client.get(key)) for key in client.keys("celery-*")}
            kept = {key: round(client.ttl(key), -2) for key in found}
        return {key: (_timeless(document), kept[key]) for key, document in found.items()}
    if url.startswith("file"):
        home = Path(url.removeprefix("file://"))
        return {path.name: _timeless(json.loads(path.read_bytes())) for path in home.iterdir()}
    with contextlib.closing(sqlite3.connect(url.removeprefix("db+sqlite:///"))) as database:
        database.row_factory = sqlite3.Row
        rows = [
            dict(row)
            for table in ("celery_taskmeta", "celery_tasksetmeta")
            for row in database.execute(f"select * from {table} order by id")
        ]
    return {row.get("task_id") or row["taskset_id"]: _timeless(row) for row in rows}


def _timeless(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value is not None if key == "date_done" else value for key, value in document.items()}


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_each_reads_what_the_other_stored(
    stock: str, store: Callable[[str], str], ours: Callable[[str, str], Celery], serializer: str
) -> None:
    by_celery = store("by_celery")
    _celery(stock, by_celery, serializer, "write")
    expected = _celery(stock, by_celery, serializer, "read")
    assert stored.read(ours(by_celery, serializer)) == expected
    if by_celery.startswith("redis"):
        with _redis() as client:
            client.flushdb()
    by_us = store("by_us")
    app = ours(by_us, serializer)
    stored.write(app)
    assert _celery(stock, by_us, serializer, "read") == expected
    assert stored.read(ours(by_us, serializer)) == expected


def test_what_lies_in_the_store_is_the_same(
    stock: str, store: Callable[[str], str], ours: Callable[[str, str], Celery]
) -> None:
    by_celery = store("by_celery")
    _celery(stock, by_celery, "json", "write")
    expected = _lying_in(by_celery)
    if by_celery.startswith("redis"):
        with _redis() as client:
            client.flushdb()
    by_us = store("by_us")
    stored.write(ours(by_us, "json"))
    assert _lying_in(by_us) == expected
