"""A worker on Redis: its time limits, and that no shutdown loses a message."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, require_server, wait_until
from zerocelery import Celery
from zerocelery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

BROKER = "redis://127.0.0.1:6379/14"

TASKS = f"""
import os, time
from zerocelery import Celery

app = Celery("proj", broker={BROKER!r}, backend={BROKER!r})
HERE = os.path.dirname(os.path.abspath(__file__))

def begin(name, seconds):
    open(os.path.join(HERE, name), "w").close()
    if not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(seconds)
    return name

@app.task
def early(name, seconds):
    return begin(name, seconds)

@app.task(acks_late=True)
def late(name, seconds):
    return begin(name, seconds)

@app.task(rate_limit="5/s")
def limited(n):
    return time.time()
"""


@pytest.fixture
def client() -> Iterator[Celery]:
    require_server("Redis", 6379)
    import redis

    with redis.Redis.from_url(BROKER) as server:
        server.flushdb()
        app = Celery("client", broker=BROKER, backend=BROKER, set_as_current=False)
        yield app
        app.close()
        server.flushdb()


@pytest.fixture
def worker(sandbox: Sandbox, client: Celery) -> Iterator[Callable[..., Any]]:
    processes: list[Any] = []

    def start(*options: str, settings: str = "") -> Any:
        sandbox.write("proj.py", TASKS + settings)
        process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", *options)
        processes.append(process)
        sandbox.wait_for_output(process, "ready.")
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)


def test_time_limits_end_tasks_and_are_stored(client: Celery, worker: Callable[..., Any]) -> None:
    worker("-c", "2")
    hard = client.send_task("proj.early", ("hard", 60), time_limit=0.5)
    soft = client.send_task("proj.late", ("soft", 60), soft_time_limit=0.5)
    with pytest.raises(TimeLimitExceeded):
        hard.get(timeout=20)
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=20)
    assert client.send_task("proj.early", ("x", 0)).get(timeout=20) == "x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_no_shutdown_loses_a_message(
    client: Celery, worker: Callable[..., Any], sandbox: Sandbox, number: signal.Signals
) -> None:
    warm = number == signal.SIGTERM
    seconds = 1.5 if warm else 60
    process = worker("-c", "2")
    early = client.send_task("proj.early", ("early", seconds))
    late = client.send_task("proj.late", ("late", seconds))
    wait_until(lambda: (sandbox.home / "early").exists() and (sandbox.home / "late").exists(), what="two that run")
    waiting = [client.send_task("proj.early", (f"w{n}", 0)) for n in range(4)]
    process.send_signal(number)
    assert process.wait(PATIENCE) == 0
    (sandbox.home / "go").write_text("")
    worker("-c", "1")
    assert [result.get(timeout=20) for result in waiting] == ["w0", "w1", "w2", "w3"]
    assert late.get(timeout=20) == "late"
    if warm:
        assert early.get(timeout=20) == "early"
    else:
        with pytest.raises(WorkerLostError):
            early.get(timeout=20)


def test_a_rate_limit_holds(client: Celery, worker: Callable[..., Any]) -> None:
    worker("-c", "2")
    at = sorted(result.get(timeout=30) for result in [client.send_task("proj.limited", (n,)) for n in range(6)])
    assert at[-1] - at[0] >= 5 * 0.2 * 0.5


def test_so_many_messages_are_held_as_the_settings_say(
    client: Celery, worker: Callable[..., Any], sandbox: Sandbox
) -> None:
    import redis

    worker("-c", "1", settings="app.conf.worker_prefetch_multiplier = 3\napp.conf.worker_eta_task_limit = 5\n")
    with redis.Redis.from_url(BROKER) as server:
        running = client.send_task("proj.late", ("late", 3))
        wait_until(lambda: (sandbox.home / "late").exists(), what="the first task")
        for n in range(4):
            client.send_task("proj.early", (f"e{n}", 0))
        wait_until(lambda: server.zcard("unacked_index") == 3, what="three that are held")
        assert server.llen("celery") == 2
        assert running.get(timeout=20) == "late"
        wait_until(lambda: not server.zcard("unacked_index"), what="the end of all")
        # those that wait for their time are extra, up to their limit
        for n in range(8):
            client.send_task("proj.early", (f"later{n}", 0), countdown=60)
        wait_until(lambda: server.zcard("unacked_index") == 5, what="five that are held")
        assert server.llen("celery") == 3


def test_without_prefetch_no_message_is_taken_that_cannot_be_run(
    client: Celery, worker: Callable[..., Any], sandbox: Sandbox
) -> None:
    import redis

    process = worker("-c", "1", settings="app.conf.worker_disable_prefetch = True\n")
    results = [client.send_task("proj.early", (f"e{n}", 60)) for n in range(3)]
    wait_until(lambda: (sandbox.home / "e0").exists(), what="the first task")
    late = client.send_task("proj.late", ("late", 60))
    with redis.Redis.from_url(BROKER) as server:
        # the first is acknowledged, as it has begun; the others are left to workers with a free process
        wait_until(lambda: not server.zcard("unacked_index"), what="its acknowledgement")
        assert server.llen("celery") == 3
        assert client.control.ping(timeout=0.5) != []
        assert server.llen("celery") == 3
        (sandbox.home / "go").touch()
        results[0].revoke(terminate=True)  # also a process that dies is free again
        assert [result.get(timeout=20) for result in results[1:]] == ["e1", "e2"]
        assert late.get(timeout=20) == "late"
        wait_until(lambda: not server.zcard("unacked_index"), what="all acknowledgements")
    many = [client.send_task("proj.early", (f"m{n}", 0)) for n in range(30)]
    assert [result.get(timeout=20) for result in many] == [f"m{n}" for n in range(30)]
    assert process.poll() is None
