"""Pools by Celery's names, used by themselves."""

from __future__ import annotations

import operator
import os
import threading
from typing import Any

import pytest

from zerocelery import signals
from zerocelery.concurrency import get_implementation, prefork


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


def test_there_are_no_green_pools_and_the_error_says_what_to_take() -> None:
    with pytest.raises(ImportError, match="take threads, as in -P threads"):
        get_implementation("gevent")


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
