"""The directory of a worker with a broker: gone with the worker, and where that was killed, with the next one."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_for_end, wait_until
from zerocelery.app.privatenode import remove_stale

TASKS = """
from zerocelery import Celery

app = Celery("proj", broker="memory://", backend="cache+memory://")
"""


def test_what_a_killed_worker_leaves_the_next_one_removes(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    place = sandbox.home / "tmp"
    place.mkdir()
    sandbox.write("proj.py", TASKS)

    def directories() -> list[Path]:
        return sorted(place.glob("zerocelery-*"))

    def started() -> int:
        process = sandbox.python(
            "-m", "zerocelery", "-A", "proj", "worker", "-c", "1", "-P", "threads", env={"TMPDIR": str(place)}
        )
        sandbox.wait_for_output(process, "ready.")
        return process.pid

    killed = started()
    (left,) = directories()
    os.kill(killed, signal.SIGKILL)
    node = int((left / "node.pid").read_text())
    os.kill(node, signal.SIGKILL)  # it would end by itself, some seconds later
    wait_for_end(node)
    sandbox.processes[0].wait(PATIENCE)

    (place / "zerocelery-of-somebody-else").mkdir()
    started()
    assert left not in directories()
    (mine,) = (path for path in directories() if path.name != "zerocelery-of-somebody-else")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert remove_stale() == []  # whose owner lives
    sandbox.processes[1].terminate()
    assert sandbox.processes[1].wait(PATIENCE) == 0
    wait_until(lambda: not mine.exists())
    assert [path.name for path in directories()] == ["zerocelery-of-somebody-else"]
