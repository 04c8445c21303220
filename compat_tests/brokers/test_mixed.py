"""One broker, one store, and workers of both: Celery's and zerocelery's count each other's chords."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.brokers import mixed
from compat_tests.conftest import PATIENCE, Sandbox, require_server, wait_until


@pytest.fixture
def redis_server() -> Iterator[Any]:
    require_server("Redis", 6379)
    import redis

    with redis.Redis.from_url(mixed.URL) as server:
        server.flushdb()
        yield server
        server.flushdb()


def expected(body: str, other: str) -> dict[str, Any]:
    """What becomes of the canvases, whoever sends them."""
    header = [["ours", 1], ["stock", 2], [body, "again"], [other, "instead"]]
    return {
        f"chord {body}": [body, header],
        f"failing {body}": ["ValueError", "no"],
        f"chain {body}": [other, [[other, 1], [body, 2]]],
        f"nested {body}": [other, [[body, [[other, "a"], [body, "b"]]], [other, "c"]]],
        f"group {body}": [[body, 1], [other, 2]],
    }


def test_a_canvas_runs_on_workers_of_both(sandbox: Sandbox, stock: str, redis_server: Any) -> None:
    shutil.copy(Path(mixed.__file__), sandbox.home / "mixed.py")
    pools = "-P", "threads", "-c", "2", "-l", "info"
    ours = sandbox.python("-m", "zerocelery", "-A", "mixed", "worker", "-Q", "ours", *pools)
    theirs = sandbox.start(
        stock, "-m", "celery", "-A", "mixed", "worker", "-Q", "stock", "-n", "stock@%h", *pools,
        env={"ZC_SIDE": "stock"},
    )  # fmt: skip
    for worker in (ours, theirs):
        sandbox.wait_for_output(worker, "ready.")
    # each sends to both, at the same time
    from_ours = sandbox.python("mixed.py")
    from_theirs = sandbox.start(stock, "mixed.py", env={"ZC_SIDE": "stock"})
    for sender in (from_ours, from_theirs):
        assert sender.wait(PATIENCE * 4) == 0, sandbox.output(sender)
        # Celery's results complain when they are collected at the very end
        found = json.loads(next(line for line in sandbox.output(sender).splitlines() if line.startswith("{")))
        assert found == {**expected("ours", "stock"), **expected("stock", "ours")}
    # four chords have failed, and each has called its errback once
    wait_until(lambda: len(redis_server.keys("noted-*")) == 4, what="four errbacks")
    assert {redis_server.get(key) for key in redis_server.keys("noted-*")} == {b"1"}
    for worker in (ours, theirs):
        worker.terminate()
        assert worker.wait(PATIENCE) == 0, sandbox.output(worker)
