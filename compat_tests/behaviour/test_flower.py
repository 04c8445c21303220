"""Flower, unmodified: it shows workers and tasks, and what is asked of it reaches them."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_until

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("flower") is None, reason="Flower is not installed: pip install 'flower==2.*'"
    ),
    pytest.mark.timeout(120),
]

PROJECT = """
import time
from zerocelery import Celery

app = Celery("proj")

@app.task
def add(x, y):
    return x + y

@app.task
def sleep(seconds):
    time.sleep(seconds)
"""


class Flower:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What it answers; None where it doesn't (yet)."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=PATIENCE) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        return json.loads(text) if path.startswith("/api/") else text


@pytest.fixture
def flower(sandbox: Sandbox, running_worker: Callable[..., str]) -> Iterator[Flower]:
    """Flower beside a worker that sends events."""
    url = running_worker(PROJECT, "-c", "2", "-E", "-n", "w1@%h")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    program = str(Path(sys.executable).with_name("zerocelery-run"))
    process = sandbox.start(
        program, "flower", "-A", "proj", "-b", url, "--address=127.0.0.1", f"--port={port}",
        env={"FLOWER_UNAUTHENTICATED_API": "true"},
    )  # fmt: skip
    found = Flower(port)
    try:
        wait_until(lambda: found.ask("/api/workers?refresh=1"), timeout=60, what="a worker in Flower")
        yield found
    finally:
        print(sandbox.output(process))
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_it_shows_workers_and_tasks_and_can_apply_and_revoke(flower: Flower) -> None:
    workers = flower.ask("/api/workers?refresh=1")
    name = f"w1@{socket.gethostname()}"
    assert list(workers) == [name]
    assert {"proj.add", "proj.sleep"} <= set(workers[name]["registered"])
    assert workers[name]["stats"]["pool"]["max-concurrency"] == 2
    assert flower.ask("/api/task/apply/proj.add", {"args": [1, 2]})["result"] == 3
    task = flower.ask("/api/task/async-apply/proj.sleep", {"args": [60]})["task-id"]

    def state() -> str:
        return str((flower.ask(f"/api/task/info/{task}") or {}).get("state"))

    wait_until(lambda: state() == "STARTED", what="the start of the task")
    assert "Revoked" in flower.ask(f"/api/task/revoke/{task}?terminate=true", {})["message"]
    wait_until(lambda: state() == "REVOKED", what="its end")
    assert {found["name"] for found in flower.ask("/api/tasks").values()} == {"proj.add", "proj.sleep"}
    assert name in flower.ask("/workers")
