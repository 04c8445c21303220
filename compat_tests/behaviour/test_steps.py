"""Steps that others add to a worker: ``app.steps``, in Celery's order."""

from __future__ import annotations

import signal

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_until, worker_process
from zerocelery import Celery, bootsteps
from zerocelery.worker.consumer import Consumer

STEPS = """
import os
from zerocelery import Celery, bootsteps, signals

app = Celery("proj")

def say(*words):
    with open("said", "a") as file:
        file.write(" ".join(map(str, words)) + chr(10))

def step(place, *required):
    class Step(bootsteps.StartStopStep):
        name = f"proj.{place}"
        requires = required
        def __init__(self, parent, **options):
            say(place, "init", type(parent).__name__, options["concurrency"])
            super().__init__(parent, **options)
        def create(self, parent):
            say(place, "create")
        def start(self, parent):
            say(place, "start", parent)
            self.called = parent.timer.call_repeatedly(0.01, say, ("tick",))
        def close(self, parent):
            self.called.cancel()
            say(place, "close")
        def stop(self, parent):
            say(place, "stop", parent)
        def terminate(self, parent):
            say(place, "terminate", parent)
        def shutdown(self, parent):
            say(place, "shutdown", parent)
    return Step

app.steps["worker"].add(step("worker", "celery.worker.components:Pool"))
app.steps["consumer"].add(step("consumer", "celery.worker.consumer.tasks:Tasks"))

@app.task
def add(x, y):
    say("task")
    return x + y

for name in ("worker_init", "worker_ready", "worker_shutting_down", "worker_shutdown"):
    getattr(signals, name).connect(lambda name=name, **_: say(name), weak=False)
"""


def said(sandbox: Sandbox) -> list[str]:
    return [line for line in (sandbox.home / "said").read_text().splitlines() if line != "tick"]


def test_steps_are_made_started_and_stopped_in_order(sandbox: Sandbox) -> None:
    with worker_process(sandbox, STEPS, "-c", "1", "-n", "w1@h") as process:
        with Celery("client", broker=sandbox.url) as app:
            assert app.send_task("proj.add", (1, 2)).get(timeout=PATIENCE) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, sandbox.output(process)

    # What stock Celery 5.7 does, measured.
    assert said(sandbox) == [
        "worker_init",
        "worker init Worker 1",
        "worker create",
        "consumer init Consumer 1",
        "consumer create",
        "worker start <Worker: w1@h (running)>",
        "consumer start <Consumer: w1@h (running)>",
        "worker_ready",
        "task",
        "worker_shutting_down",
        "worker close",
        "consumer close",
        "consumer stop <Consumer: w1@h (closing)>",
        "worker stop <Worker: w1@h (closing)>",
        "consumer shutdown <Consumer: w1@h (terminating)>",
        "worker_shutdown",
    ]
    assert "tick" in (sandbox.home / "said").read_text(), "a step's timer calls"


@pytest.mark.parametrize("place", ["worker", "consumer"])
def test_a_worker_ends_where_a_step_cannot_start(sandbox: Sandbox, place: str) -> None:
    source = f"""
    from zerocelery import Celery, bootsteps
    app = Celery("proj")
    class Broken(bootsteps.StartStopStep):
        def start(self, parent):
            raise LookupError("no such thing")
    app.steps[{place!r}].add(Broken)
    """
    with worker_process(sandbox, source, "-c", "1", ready=False) as process:
        assert process.wait(PATIENCE) == 1
        assert "Unrecoverable error: LookupError('no such thing')" in sandbox.output(process)


CONSUMER = """
from kombu import Consumer, Exchange, Queue
from zerocelery import Celery, bootsteps

app = Celery("proj", broker="filesystem://", backend="file:///{home}/results")
app.conf.broker_transport_options = {{"data_folder_in": "{home}/q", "data_folder_out": "{home}/q",
                                      "control_folder": "{home}/c"}}
letters = Queue("letters", Exchange("letters"), "letters")

class Letters(bootsteps.ConsumerStep):
    def get_consumers(self, channel):
        return [Consumer(channel, queues=[letters], callbacks=[self.take], accept=["json"])]
    def take(self, body, message):
        with open("{home}/letters", "a") as file:
            file.write(body["text"])
        message.ack()

app.steps["consumer"].add(Letters)

@app.task
def write(text):
    with app.producer_or_acquire() as producer:
        producer.publish({{"text": text}}, serializer="json", exchange=letters.exchange, routing_key="letters",
                         declare=[letters], retry=True)
"""


def test_a_consumer_step_takes_messages_of_its_own(sandbox: Sandbox) -> None:
    home = sandbox.home
    for folder in ("q", "c", "results"):
        (home / folder).mkdir()
    sandbox.write("proj.py", CONSUMER.format(home=home))
    process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-c", "1", "-P", "solo")
    sandbox.wait_for_output(process, "ready.")

    sandbox.run("from proj import write\nprint(write.delay('a letter').get(timeout=20))")

    wait_until((home / "letters").exists)
    assert (home / "letters").read_text() == "a letter"
    process.terminate()
    assert process.wait(PATIENCE) == 0, sandbox.output(process)


def test_celerys_own_steps_can_be_required_by_name_where_there_is_no_celery() -> None:
    class Step(bootsteps.Step):
        requires = ("celery.worker.components:Timer", "celery.worker.consumer:Connection")

    blueprint = bootsteps.Blueprint([Step])
    blueprint.apply(type("Parent", (), {"steps": []})())

    assert [step.alias for step in blueprint.order] == ["Timer", "Connection", "Step"]


SERVES_MORE = """
from zerocelery import Celery, bootsteps

app = Celery("proj")

@app.task(rate_limit="600/m")
def where(**kwargs):
    return where.request.delivery_info["routing_key"]

class More(bootsteps.StartStopStep):
    def start(self, parent):
        parent.add_task_queue("more")
        bucket = parent.bucket_for_task(app.tasks["proj.where"])
        assert bucket.fill_rate == 10 and bucket.can_consume(1), bucket
        parent.call_soon(lambda text: open("soon", "w").write(text), "soon")

app.steps["consumer"].add(More)

@app.on_after_configure.connect
def ready(sender, **kwargs):
    from zerocelery import signals
    @signals.worker_ready.connect(weak=False)
    def less(sender, **kwargs):
        sender.cancel_task_queue("celery")
"""


def test_a_step_changes_the_queues_of_its_worker(sandbox: Sandbox) -> None:
    with worker_process(sandbox, SERVES_MORE, "-c", "1", "-n", "w1@h"), Celery("client", broker=sandbox.url) as app:
        assert app.send_task("proj.where", queue="more").get(timeout=PATIENCE) == "more"
        wait_until((sandbox.home / "soon").exists)
        wait_until(lambda: [q["name"] for q in app.control.inspect().active_queues()["w1@h"]] == ["more"])


def test_where_no_pool_runs_a_consumer_says_how_queues_are_changed() -> None:
    with (
        Celery("none", broker="memory://", set_as_current=False) as app,
        pytest.raises(RuntimeError, match=r"app\.steps"),
    ):
        Consumer(app, "w@h").add_task_queue("more")


def test_a_consumer_connects_to_the_broker_and_drops_what_cannot_be_read() -> None:
    class Message:
        acked = False

        def ack(self) -> None:
            self.acked = True

    message = Message()
    with Celery("none", broker="memory://", set_as_current=False) as app:
        consumer = Consumer(app, "w@h")
        with consumer.connect() as connection:
            assert connection.connected
        consumer.on_decode_error(message, ValueError("no"))
    assert message.acked
