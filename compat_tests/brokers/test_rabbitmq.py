"""RabbitMQ as the broker, with results that come back by messages: ``amqp://`` and ``rpc://``."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, require_server, wait_until
from compat_tests.faults.proxy import Proxy
from zerocelery import Celery, chain, group

pytestmark = pytest.mark.rabbitmq

TASKS = """
import os, signal, time
from pathlib import Path
from zerocelery import Celery

app = Celery("proj", broker={broker!r}, backend="rpc://")
app.conf.task_default_queue = {queue!r}
app.conf.task_publish_retry_policy = {{"max_retries": 20, "interval_start": 0, "interval_step": 0.1}}
HERE = Path(__file__).parent

def runs(name):
    with (HERE / name).open("a") as file:
        file.write("run\\n")
    return len((HERE / name).read_text().splitlines())

@app.task
def add(x, y):
    return x + y

@app.task
def fail(message):
    raise KeyError(message)

@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={{"done": 1}})
    while not (HERE / "seen").exists():
        time.sleep(0.01)
    return "done"

@app.task(bind=True, max_retries=2)
def until(self, wanted):
    if self.request.retries < wanted:
        raise self.retry(countdown=0)
    return self.request.retries

@app.task(bind=True, retry_on_worker_lost=True, max_retries=2, default_retry_delay=0)
def vanish_once(self):
    if not self.request.retries:
        os.kill(os.getpid(), signal.SIGKILL)
    return self.request.retries

@app.task
def note(what):
    with (HERE / "noted").open("a") as file:
        file.write(f"{{what}}\\n")

@app.task(acks_late=True)
def late(name):
    count = runs(name)
    while count == 1 and not (HERE / "go").exists():
        time.sleep(0.01)
    return count

@app.task
def early(name):
    count = runs(name)
    while count == 1 and not (HERE / "go").exists():
        time.sleep(0.01)
    return count
"""

Start = Callable[..., Any]


@pytest.fixture
def queue() -> Iterator[str]:
    require_server("RabbitMQ", 5672)
    name = f"zc-{secrets.token_hex(4)}"
    yield name
    from kombu import Connection

    with Connection("amqp://guest:guest@127.0.0.1:5672//") as connection:
        connection.default_channel.queue_delete(name)
        connection.default_channel.exchange_delete(name)


@pytest.fixture
def start(sandbox: Sandbox, queue: str) -> Iterator[Start]:
    processes: list[Any] = []

    def begin(*options: str, settings: str = "", port: int = 5672) -> Any:
        broker = f"amqp://guest:guest@127.0.0.1:{port}//"
        sandbox.write("proj.py", TASKS.format(broker=broker, queue=queue) + settings)
        process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-l", "INFO", "-n", f"{queue}@h", *options)
        processes.append(process)
        sandbox.wait_for_output(process, "ready.")
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)


@pytest.fixture
def client(queue: str) -> Iterator[Celery]:
    with Celery("client", broker="amqp://guest:guest@127.0.0.1:5672//", backend="rpc://", set_as_current=False) as app:
        app.conf.task_default_queue = queue
        yield app


def test_results_come_back_by_messages(client: Celery, start: Start, sandbox: Sandbox) -> None:
    start("-c", "2")
    assert client.send_task("proj.add", (1, 2)).get(timeout=20) == 3
    with pytest.raises(KeyError, match="no"):
        client.send_task("proj.fail", ("no",)).get(timeout=20)
    assert client.send_task("proj.until", (2,)).get(timeout=20) == 2
    assert client.send_task("proj.vanish_once").get(timeout=20) == 1
    add = client.signature("proj.add")
    assert group(add.clone((n, n)) for n in range(20)).apply_async().get(timeout=20) == [2 * n for n in range(20)]
    assert chain(add.clone((1, 1)), add.clone((1,)), add.clone((1,))).apply_async().get(timeout=20) == 4

    told: list[Any] = []

    def seen(message: dict[str, Any]) -> None:
        told.append((message["status"], message["result"]))
        (sandbox.home / "seen").touch()

    result = client.send_task("proj.progress")
    assert result.get(timeout=20, on_message=seen) == "done"
    assert ("PROGRESS", {"done": 1}) in told

    # an early result is kept for who asks late
    first, second = client.send_task("proj.add", (1, 1)), client.send_task("proj.add", (2, 2))
    assert (second.get(timeout=20), first.get(timeout=20)) == (4, 2)
    assert first.state == "SUCCESS"


@pytest.mark.parametrize("cancels", [False, True])
def test_a_lost_connection_brings_each_message_again(
    client: Celery, start: Start, sandbox: Sandbox, cancels: bool
) -> None:
    """worker_cancel_long_running_tasks_on_connection_loss: late tasks that run are ended, or run a second time."""
    with Proxy(5672) as proxy:
        worker = start(
            "-c", "2",
            settings=f"app.conf.worker_cancel_long_running_tasks_on_connection_loss = {cancels}\n",
            port=proxy.port,
        )  # fmt: skip
        late = client.send_task("proj.late", ("late",))
        begun = client.send_task("proj.early", ("begun",))
        wait_until(lambda: (sandbox.home / "late").exists() and (sandbox.home / "begun").exists(), what="two that run")
        waiting = [client.send_task("proj.early", (f"waits-{n}",)) for n in range(3)]
        time.sleep(0.3)  # they are held by the worker, or on their way: either has to end well
        proxy.cut()
        sandbox.wait_for_output(worker, "trying again")
        if cancels:
            assert late.get(timeout=20) == 2  # the first run was ended: only the second could answer
        (sandbox.home / "go").touch()
        assert begun.get(timeout=20) == 1
        assert [result.get(timeout=20) for result in waiting] == [1, 1, 1]
        if cancels:
            assert f"proj.late[{late.id}] is cancelled" in sandbox.output(worker)
        else:
            assert late.get(timeout=20) in (1, 2)
            wait_until(lambda: len((sandbox.home / "late").read_text().splitlines()) == 2, what="the second run")
        # nothing that had begun or waited was run twice
        for name in ("begun", "waits-0", "waits-1", "waits-2"):
            assert (sandbox.home / name).read_text() == "run\n", name
        assert client.send_task("proj.add", (1, 2)).get(timeout=20) == 3


def test_a_queue_that_is_still_held_for_the_lost_connection_is_waited_for(
    client: Celery, start: Start, sandbox: Sandbox, queue: str
) -> None:
    from kombu import Connection, Queue

    with Proxy(5672) as proxy:
        worker = start("-c", "1", port=proxy.port)
        assert client.send_task("proj.add", (1, 2)).get(timeout=20) == 3
        proxy.cut(stay=True)
        with Connection("amqp://guest:guest@127.0.0.1:5672//") as other:
            own = Queue(f"{queue}@h.celery.pidbox", exclusive=True)

            def taken() -> bool:
                try:
                    own.bind(other.channel()).declare()
                except other.channel_errors:  # RabbitMQ has not seen the cut yet
                    return False
                return True

            wait_until(taken, what="the worker's queue in other hands")
            proxy.heal()
            sandbox.wait_for_output(worker, "RESOURCE_LOCKED")
        assert client.send_task("proj.add", (2, 2)).get(timeout=20) == 4
        assert worker.poll() is None


def test_queues_are_declared_as_the_settings_say(client: Celery, start: Start, sandbox: Sandbox, queue: str) -> None:
    """task_queue_max_priority, event_queue_ttl, event_queue_expires, event_queue_prefix."""
    client.conf.update(
        task_queue_max_priority=9, event_queue_prefix=f"{queue}-events", event_queue_ttl=0.2, event_queue_expires=0.5
    )
    # those of high priority are run first, which takes a queue that has priorities
    for priority in (1, 5, 9):
        client.send_task("proj.note", (priority,), priority=priority)
    start("-c", "1", settings="app.conf.task_queue_max_priority = 9\napp.conf.worker_prefetch_multiplier = 1\n")
    noted = sandbox.home / "noted"
    wait_until(lambda: noted.exists() and len(noted.read_text().split()) == 3, what="three runs")
    assert noted.read_text().split() == ["9", "5", "1"]

    with client.connection() as connection:
        receiver = client.events.Receiver(connection)
        events = receiver.queue(connection.default_channel)
        assert events.name.startswith(f"{queue}-events.")
        events.declare()
        with client.events.Dispatcher(connection) as dispatcher:
            dispatcher.send("worker-own")
        wait_until(lambda: events.queue_declare(passive=True).message_count > 0, timeout=1, what="the event")
        wait_until(lambda: events.queue_declare(passive=True).message_count == 0, timeout=5, what="its expiry")

        def is_gone() -> bool:
            with connection.channel() as channel:
                try:
                    events.bind(channel).queue_declare(passive=True)
                except connection.channel_errors:
                    return True
                return False

        pause = threading.Event()
        pause.wait(0.7)  # looking at it would keep it
        assert is_gone()
