"""Tasks that the worker can't import, as in a notebook: they live in ``__main__`` and travel to the worker.

    python examples/notebook/notebook.py

The worker is a plain ``zerocelery worker``, started in an empty directory: it has no app and none of this code.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from zerocelery import Celery

app = Celery("notebook")
rate = 1.10


@app.task
def price(net: float) -> float:
    """A task that needs something from the notebook around it."""
    return round(net * rate, 2)


def cells() -> None:
    """What one would type, cell by cell."""
    print("at 10 %:", [price.delay(net).get(timeout=10) for net in (1.0, 20.0, 300.0)])

    global rate
    rate = 1.25
    print("at 25 %:", [price.delay(net).get(timeout=10) for net in (1.0, 20.0, 300.0)])

    bonus = 5.0

    @app.task(name="with_bonus")
    def with_bonus(net: float) -> tuple[float, int]:
        return net + bonus, os.getpid()

    value, pid = with_bonus.delay(1.0).get(timeout=10)
    print(f"a task made in a function returned {value}; it ran in process {pid}, this is {os.getpid()}")


@contextlib.contextmanager
def plain_worker() -> Iterator[None]:
    """A worker, and its node, in an empty directory; usually it runs in another terminal."""
    with tempfile.TemporaryDirectory(prefix="zc-") as directory:
        os.environ["CELERY_BROKER_URL"] = f"zmq://{directory}"
        process = subprocess.Popen([sys.executable, "-m", "zerocelery", "worker", "-c", "2"], cwd=directory)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=10)
            stop_node(Path(directory))


def stop_node(directory: Path) -> None:
    """End the node of a directory that is about to go."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int((directory / "node.pid").read_text())
        os.kill(pid, 15)
        while True:
            os.kill(pid, 0)
            time.sleep(0.02)


if __name__ == "__main__":
    with plain_worker():
        cells()
