"""Pools by Celery's names, used by themselves."""

from __future__ import annotations

import importlib.util
import operator
import os
import threading
from typing import Any

import pytest

from zerocelery import signals
from zerocelery.concurrency import get_implementation, prefork

from ..conftest import Sandbox


@pytest.mark.parametrize("name", ["prefork", "threads", "solo"])
def test_a_pool_calls_functions_and_tells_what_they_return(name: str) -> None:
    pool = get_implementation(name)(2)
    returned: list[Any] = []
    done = threading.Event()

    def note(value: Any) -> None:
        returned.append(value)
        done.set()

    pool.start()
    try:
        assert pool.active
        pool.apply_async(operator.add, (2, 3), callback=note, accept_callback=lambda pid, moment: None)
        assert done.wait(20)
    finally:
        pool.stop()
    assert returned == [5]
    assert pool.info["implementation"].startswith("celery.concurrency.")


def test_a_prefork_pool_tells_of_a_process_that_was_ended() -> None:
    pool = prefork.TaskPool(1)
    lost: list[Any] = []
    done = threading.Event()

    def note(einfo: Any) -> None:
        lost.append(einfo)
        done.set()

    pool.start()
    try:
        pool.apply_async(os._exit, (3,), error_callback=note)
        assert done.wait(20)
    finally:
        pool.stop()
    assert type(lost[0].exception).__name__ == "WorkerLostError"


GREEN = """
import sys, time
from zerocelery.concurrency.green import maybe_patch_concurrency

maybe_patch_concurrency(["-P", sys.argv[1]])
from zerocelery.concurrency import get_implementation

pool = get_implementation(sys.argv[1])(2)
pool.start()
pids, told = [], []
pool.apply_async(time.sleep, (60,), accept_callback=lambda pid, moment: pids.append(pid))
began = time.monotonic()
for _ in range(4):
    pool.grow()
    pool.apply_async(time.sleep, (0.2,), callback=told.append)
time.sleep(0.1)
pool.terminate_job(pids[0])
pool.shrink(5)
pool.stop()
print(told, pool.num_processes, pool.is_green, pool.task_join_will_block, 0.2 <= time.monotonic() - began < 5)
"""


@pytest.mark.parametrize("name", ["gevent", "eventlet"])
def test_a_green_pool_grows_shrinks_and_ends_a_call(sandbox: Sandbox, name: str) -> None:
    if os.environ.get("CI") != "true" and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    out = sandbox.run(GREEN, name)
    assert out.splitlines()[-1] == "[None, None, None, None] 1 True False True"


def test_a_process_ends_with_its_signal() -> None:
    heard: list[Any] = []

    def ended(sender: Any, pid: int, exitcode: int, **_: Any) -> None:
        heard.append(("shutdown", sender, pid, exitcode))

    signals.worker_process_shutdown.connect(ended)
    try:
        prefork._process_hostname = "w@h"
        prefork.process_destructor(1, 0)
    finally:
        signals.worker_process_shutdown.disconnect(ended)
        prefork._process_hostname = None
    assert heard == [("shutdown", "w@h", 1, 0)]
