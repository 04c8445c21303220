"""A node seen through kombu: connections, producers and channels of an app whose broker is one."""

from __future__ import annotations

from collections.abc import Iterator

import kombu
import pytest

from compat_tests.conftest import Sandbox, wait_until
from zerocelery import Celery
from zerocelery.contrib.testing.app import setup_default_app
from zerocelery.contrib.testing.worker import start_worker


@pytest.fixture
def app(sandbox: Sandbox) -> Iterator[Celery]:
    app = Celery("seen by kombu", broker=sandbox.url, set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    with setup_default_app(app):
        app.set_current()
        yield app


def test_a_message_that_is_published_by_hand_is_run(app: Celery) -> None:
    message = app.amqp.create_task_message("by-hand", "add", (1, 2), {})
    with start_worker(app, perform_ping_check=False), app.producer_pool.acquire(block=True) as producer:
        producer.publish(
            message.body, routing_key="celery", headers=message.headers, serializer="json", **message.properties
        )
        assert app.AsyncResult("by-hand").get(timeout=10) == 3


def test_a_producer_of_another_app_reaches_the_node_too(app: Celery) -> None:
    other = Celery("elsewhere", broker="memory://", set_as_current=False)
    message = app.amqp.create_task_message("elsewhere", "add", (1, 4), {})
    with start_worker(app, perform_ping_check=False), app.connection() as connection:
        other.set_current()
        other.amqp.send_task_message(other.amqp.Producer(connection), "add", message)
        app.set_current()
        assert app.AsyncResult("elsewhere").get(timeout=10) == 5


def test_a_channel_tells_how_many_wait(app: Celery, sandbox: Sandbox) -> None:
    with start_worker(app, perform_ping_check=False, queues="celery"), app.connection() as connection:
        channel = connection.default_channel
        assert channel.queue_declare("later", passive=True).message_count == 0
        for number in range(3):
            app.send_task("add", (number, 0), queue="later")
        wait_until(lambda: channel.queue_declare("later", passive=True).message_count == 3, what="three to wait")


def test_a_connection_is_one_when_a_node_has_answered(app: Celery) -> None:
    app.conf.broker_connection_timeout = 0.3
    with app.connection() as connection:
        assert connection.as_uri() == app.conf.broker_url
        assert connection.transport.driver_type == "zmq"
        with pytest.raises(kombu.exceptions.OperationalError, match=r"no node answered at zmq://.* Start a worker"):
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        with start_worker(app, perform_ping_check=False):
            connection.ensure_connection(max_retries=1)
            assert connection.connected


def test_what_a_node_has_no_use_for_is_refused_with_the_reason(app: Celery) -> None:
    with start_worker(app, perform_ping_check=False), app.connection() as connection:
        with pytest.raises(ValueError, match="has to be a task"):
            app.amqp.Producer(connection).publish({"no": "task"}, routing_key="celery")
        with pytest.raises(NotImplementedError, match="start one with -Q celery"):
            app.amqp.TaskConsumer(connection.default_channel).consume()


def test_the_event_of_a_task_that_was_sent_goes_by_the_producer_that_was_given(app: Celery) -> None:
    app.conf.update(task_send_sent_event=True, task_publish_retry_policy={"max_retries": 0})
    with start_worker(app, perform_ping_check=False), app.connection() as connection:
        producer = app.amqp.Producer(connection)
        keys: list[str] = []
        publish = producer.channel.basic_publish

        def refuse_events(*args: object, **kwargs: object) -> object:
            keys.append(str(kwargs["routing_key"]))
            if kwargs["routing_key"] == "task.sent":
                raise OSError("the broker is gone")
            return publish(*args, **kwargs)

        producer.channel.basic_publish = refuse_events
        result = app.send_task("add", (1, 2), producer=producer)

        assert result.get(timeout=10) == 3
        assert keys == ["task.sent"]
        ((event, _),) = app.amqp._event_dispatcher._outbound_buffer
        assert event["uuid"] == result.id


def test_the_result_of_a_task_that_is_revoked_before_anybody_has_it_says_so(app: Celery) -> None:
    with start_worker(app, perform_ping_check=False):
        app.backend.store_result("withdrawn", {"hostname": "other@host"}, "STARTED")
        assert app.control.revoke(["withdrawn", "unsent"], reply=True, timeout=10)
        assert app.backend.get_state("withdrawn") == "STARTED"
        assert app.backend.get_state("unsent") == "REVOKED"
