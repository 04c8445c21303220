"""Workers on RabbitMQ: what waits for its time keeps nothing else from running."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, require_server
from zerocelery import Celery

pytestmark = pytest.mark.rabbitmq

BROKER = "amqp://guest:guest@127.0.0.1//"
RESULTS = "redis://127.0.0.1:6379/12"

SETTINGS = {
    # the usual
    "classic": {"task_default_queue": "zc-classic"},
    # each waits in the broker, in its tree of queues for delays
    "quorum": {
        "task_default_queue": "zc-quorum",
        "task_default_queue_type": "quorum",
        "task_default_exchange": "zc-quorum",
        "task_default_exchange_type": "topic",
    },
}

TASKS = """
from zerocelery import Celery

app = Celery("proj", broker={broker!r}, backend={results!r})
app.conf.update(worker_prefetch_multiplier=1, **{settings!r})

@app.task
def echo(x):
    return x

@app.task(bind=True)
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=1)
    return self.request.delivery_info["routing_key"]
"""


@pytest.fixture(params=["classic", "quorum"])
def client(request: pytest.FixtureRequest) -> Iterator[Celery]:
    require_server("RabbitMQ", 5672)
    require_server("Redis", 6379)
    import redis

    app = Celery("client", broker=BROKER, backend=RESULTS, set_as_current=False)
    app.conf.update(SETTINGS[request.param])
    yield app
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_delete(app.conf.task_default_queue)
        channel.exchange_delete(app.amqp.default_exchange.name or app.conf.task_default_queue)
        for level in range(28) if request.param == "quorum" else ():
            channel.queue_delete(f"celery_delayed_{level}")
            channel.exchange_delete(f"celery_delayed_{level}")
        channel.exchange_delete("celery_delayed_delivery")
    app.close()
    with redis.Redis.from_url(RESULTS) as server:
        server.flushdb()


def test_what_waits_keeps_nobody_from_running(client: Celery, sandbox: Sandbox) -> None:
    conf = {key: client.conf[key] for settings in SETTINGS.values() for key in settings}
    sandbox.write("proj.py", TASKS.format(broker=BROKER, results=RESULTS, settings=conf))
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-c", "1")
    sandbox.wait_for_output(worker, "ready.")
    began = time.monotonic()
    # more than a worker of one process holds
    later = [client.send_task("proj.echo", (n,), countdown=3) for n in range(3)]
    assert client.send_task("proj.echo", ("now",)).get(timeout=PATIENCE) == "now"
    assert time.monotonic() - began < 2.5
    assert [result.get(timeout=PATIENCE) for result in later] == [0, 1, 2]
    assert time.monotonic() - began >= 2.9
    # a task that is to be run again waits in the same place
    key = client.send_task("proj.again").get(timeout=PATIENCE)
    assert key.count(".") == (28 if conf["task_default_queue"] == "zc-quorum" else 0)
    worker.terminate()
    assert worker.wait(PATIENCE) == 0, sandbox.output(worker)
