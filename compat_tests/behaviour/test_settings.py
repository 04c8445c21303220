"""Every setting that programs of Celery's use has its effect, seen in what it changes: in a message, a store, a run.

What can be seen in one process is here, a row each; what takes a worker, a store or a broker of its own is in
the tests that ``ELSEWHERE`` names. What a setting wants that holds here in any case is in ``zerocelery.app.unheeded``.
"""

from __future__ import annotations

import itertools
import pickle
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue
from kombu.exceptions import ConnectionLimitExceeded, ContentDisallowed, OperationalError

from zerocelery import Celery
from zerocelery.app import unheeded
from zerocelery.app.defaults import OPTIONS
from zerocelery.beat import PersistentScheduler, Scheduler, Service
from zerocelery.exceptions import QueueNotFound
from zerocelery.result import EagerResult

#: The settings of CELERY.md that must be there.
MUST = """
    accept_content beat_max_loop_interval beat_schedule beat_schedule_filename beat_scheduler beat_sync_every
    broker_connection_max_retries broker_connection_retry broker_connection_retry_on_startup
    broker_connection_timeout broker_pool_limit broker_read_url broker_transport broker_transport_options
    broker_url broker_write_url database_create_tables_at_setup database_engine_options
    database_short_lived_sessions database_table_names database_table_schemas database_url enable_utc
    event_queue_expires event_queue_prefix event_queue_ttl event_serializer imports include
    redis_backend_use_ssl redis_db redis_host redis_max_connections redis_password redis_port
    redis_socket_timeout redis_username result_accept_content result_backend result_backend_always_retry
    result_backend_max_retries result_backend_transport_options result_cache_max result_chord_join_timeout
    result_chord_retry_interval result_compression result_expires result_extended result_persistent
    result_serializer task_acks_late task_acks_on_failure task_acks_on_failure_or_timeout task_acks_on_timeout
    task_allow_error_cb_on_chord_header task_always_eager task_annotations task_compression
    task_create_missing_queues task_default_delivery_mode task_default_exchange task_default_exchange_type
    task_default_priority task_default_queue task_default_rate_limit task_default_routing_key
    task_eager_propagates task_ignore_result task_inherit_parent_priority task_protocol task_publish_retry
    task_publish_retry_policy task_queue_max_priority task_queues task_reject_on_worker_lost
    task_remote_tracebacks task_repr_maxlevels task_retry_on_worker_lost task_routes task_send_sent_event
    task_serializer task_soft_time_limit task_store_eager_result task_store_errors_even_if_ignored
    task_time_limit task_track_started timezone worker_concurrency worker_deduplicate_successful_tasks
    worker_direct worker_disable_prefetch worker_disable_rate_limits worker_enable_remote_control
    worker_enable_soft_shutdown_on_idle worker_eta_task_limit worker_hijack_root_logger worker_log_color
    worker_log_datefmt worker_log_format worker_lost_wait worker_max_memory_per_child worker_max_tasks_per_child
    worker_pool worker_pool_restarts worker_pool_start_method worker_prefetch_multiplier
    worker_proc_alive_timeout worker_redirect_stdouts worker_redirect_stdouts_level worker_send_task_events
    worker_soft_shutdown_timeout worker_state_db worker_task_log_datefmt worker_task_log_format
    worker_timer_precision
""".split()  # noqa: SIM905  to be compared with the page

#: Settings that are seen to have their effect in another test, by which.
_WORKERS = "behaviour/test_settings_workers.py::"
_STORES = "behaviour/test_settings_stores.py::"
_RABBITMQ = "brokers/test_rabbitmq.py::"
_REDIS = "brokers/test_redis_worker.py::"
ELSEWHERE = {
    "broker_connection_max_retries": _WORKERS + "test_broker_connection_max_retries",
    "broker_connection_retry": "behaviour/test_contrib_testing.py::test_a_worker_that_may_not_wait_for_its_broker_ends",
    "broker_connection_retry_on_startup": "behaviour/test_contrib_testing.py::"
    "test_a_worker_that_may_not_wait_for_its_broker_ends",
    "database_create_tables_at_setup": _STORES + "test_database_create_tables_at_setup",
    "database_engine_options": _STORES + "test_database_engine_options_and_short_lived_sessions",
    "database_short_lived_sessions": _STORES + "test_database_engine_options_and_short_lived_sessions",
    "database_table_names": _STORES + "test_database_table_names",
    "database_table_schemas": _STORES + "test_database_table_schemas",
    "database_url": _STORES + "test_database_url_and_tables_that_are_made_at_once",
    "event_queue_expires": _RABBITMQ + "test_queues_are_declared_as_the_settings_say",
    "event_queue_prefix": _RABBITMQ + "test_queues_are_declared_as_the_settings_say",
    "event_queue_ttl": _RABBITMQ + "test_queues_are_declared_as_the_settings_say",
    "redis_backend_use_ssl": _STORES + "test_redis_backend_use_ssl",
    "redis_db": _STORES + "test_redis_db_host_port_and_password",
    "redis_host": _STORES + "test_redis_db_host_port_and_password",
    "redis_max_connections": _STORES + "test_redis_max_connections",
    "redis_password": _STORES + "test_redis_db_host_port_and_password",
    "redis_port": _STORES + "test_redis_db_host_port_and_password",
    "redis_socket_timeout": _STORES + "test_redis_socket_timeout",
    "redis_username": _STORES + "test_redis_username",
    "result_backend_always_retry": _STORES + "test_result_backend_always_retry",
    "result_backend_max_retries": _STORES + "test_result_backend_max_retries",
    "result_backend_transport_options": _STORES + "test_result_expires_and_global_keyprefix",
    "result_cache_max": _STORES + "test_result_cache_max",
    "result_chord_join_timeout": _STORES + "test_result_chord_settings_reach_the_unlocking_task",
    "result_chord_retry_interval": _STORES + "test_result_chord_settings_reach_the_unlocking_task",
    "result_expires": _STORES + "test_result_expires_and_global_keyprefix",
    "task_acks_late": _WORKERS + "test_task_acks_late_and_reject_on_worker_lost",
    "task_acks_on_failure": _WORKERS + "test_task_acks_on_failure_and_acks_on_failure_or_timeout",
    "task_acks_on_failure_or_timeout": _WORKERS + "test_task_acks_on_failure_and_acks_on_failure_or_timeout",
    "task_acks_on_timeout": _WORKERS + "test_task_acks_on_timeout",
    "task_allow_error_cb_on_chord_header": _WORKERS + "test_task_allow_error_cb_on_chord_header",
    "task_default_rate_limit": _WORKERS + "test_task_default_rate_limit_and_worker_disable_rate_limits",
    "task_queue_max_priority": _RABBITMQ + "test_queues_are_declared_as_the_settings_say",
    "task_reject_on_worker_lost": _WORKERS + "test_task_acks_late_and_reject_on_worker_lost",
    "task_remote_tracebacks": _WORKERS + "test_task_remote_tracebacks",
    "task_retry_on_worker_lost": _WORKERS + "test_task_retry_on_worker_lost",
    "task_send_sent_event": "behaviour/test_events_node.py::test_a_task_is_told_of_from_its_sending_to_its_end",
    "task_soft_time_limit": _WORKERS + "test_time_limits",
    "task_store_errors_even_if_ignored": _WORKERS + "test_task_store_errors_even_if_ignored",
    "task_time_limit": _WORKERS + "test_time_limits",
    "task_track_started": _WORKERS + "test_task_track_started",
    "worker_concurrency": _WORKERS + "test_worker_concurrency",
    "worker_direct": _WORKERS + "test_worker_direct",
    "worker_disable_prefetch": _REDIS + "test_without_prefetch_no_message_is_taken_that_cannot_be_run",
    "worker_disable_rate_limits": _WORKERS + "test_task_default_rate_limit_and_worker_disable_rate_limits",
    "worker_enable_remote_control": "behaviour/test_control.py::"
    "test_a_worker_without_remote_control_works_and_answers_nobody",
    "worker_enable_soft_shutdown_on_idle": "behaviour/test_worker_shutdown.py::"
    "test_who_has_nothing_to_do_leaves_at_once",
    "worker_eta_task_limit": _REDIS + "test_so_many_messages_are_held_as_the_settings_say",
    "worker_hijack_root_logger": _WORKERS + "test_log_formats_and_redirected_output",
    "worker_log_color": _WORKERS + "test_worker_log_color",
    "worker_log_datefmt": _WORKERS + "test_log_formats_and_redirected_output",
    "worker_log_format": _WORKERS + "test_log_formats_and_redirected_output",
    "worker_max_memory_per_child": _WORKERS + "test_worker_max_memory_per_child",
    "worker_max_tasks_per_child": _WORKERS + "test_worker_max_tasks_per_child",
    "worker_pool": _WORKERS + "test_worker_pool",
    "worker_pool_restarts": "behaviour/test_control.py::test_a_pool_is_restarted_by_a_command",
    "worker_pool_start_method": _WORKERS + "test_worker_pool_start_method",
    "worker_prefetch_multiplier": _REDIS + "test_so_many_messages_are_held_as_the_settings_say",
    "worker_redirect_stdouts": _WORKERS + "test_log_formats_and_redirected_output",
    "worker_redirect_stdouts_level": _WORKERS + "test_log_formats_and_redirected_output",
    "worker_send_task_events": _WORKERS + "test_worker_send_task_events",
    "worker_soft_shutdown_timeout": "behaviour/test_worker_shutdown.py::"
    "test_a_soft_shutdown_lets_what_runs_finish_in_its_time",
    "worker_state_db": _WORKERS + "test_worker_state_db_and_settings_without_effect",
    "worker_task_log_datefmt": _WORKERS + "test_log_formats_and_redirected_output",
    "worker_task_log_format": _WORKERS + "test_log_formats_and_redirected_output",
}

_numbers = itertools.count()


def make(**settings: Any) -> Celery:
    """An app on kombu's memory broker, with a queue of its own."""
    settings.setdefault("broker_url", "memory://")
    settings.setdefault("result_backend", "cache+memory://")
    settings.setdefault("task_default_queue", f"settings-{next(_numbers)}")
    return Celery("settings", set_as_current=False, **settings)


def add_to(app: Celery, **options: Any) -> Any:
    """The app's task."""

    @app.task(name="settings.add", shared=False, **options)
    def add(x: int, y: int) -> int:
        return x + y

    return add


def published(app: Celery, queue: str | None = None, **options: Any) -> Any:
    """The message that a call of the app's task has become."""
    add_to(app).apply_async((1, 2), **options)
    name = queue or app.amqp.default_queue.name
    with app.connection() as connection:
        message = app.amqp.queues[name](connection.channel()).get(no_ack=True)
    assert message is not None
    return message


def sent_signal(app: Celery) -> dict[str, Any]:
    """What before_task_publish tells of a call."""
    from zerocelery.signals import before_task_publish

    seen: list[dict[str, Any]] = []

    def see(**told: Any) -> None:
        seen.append(told)

    before_task_publish.connect(see)
    try:
        add_to(app).delay(1, 2)
    finally:
        before_task_publish.disconnect(see)
    return seen[0]


def stored(app: Celery, value: Any, **request: Any) -> Any:
    """What the backend has put into its store for a result."""
    from zerocelery.app.context import Context

    task_id = f"settings-{next(_numbers)}"
    app.backend.store_result(task_id, value, "SUCCESS", request=Context(request) if request else None)
    return app.backend.get(app.backend.get_key_for_task(task_id))


def tick(app: Celery, kind: type[Scheduler] = Scheduler, **options: Any) -> tuple[Any, float]:
    """A scheduler after its first tick, and for how long that wants to sleep."""
    scheduler = kind(app, **options)
    try:
        return scheduler, scheduler.tick()
    finally:
        scheduler.close()


class Counting(Scheduler):
    """How often it has stored its entries."""

    syncs = 0

    def sync(self) -> None:
        type(self).syncs += 1


_DUE = {"due": {"task": "settings.add", "args": (1, 2), "schedule": timedelta(0)}}


def scheduled(**settings: Any) -> Any:
    """The message that beat has sent of a schedule in the settings."""
    app = make(beat_schedule=_DUE, **settings)
    tick(app)
    with app.connection() as connection:
        return app.amqp.default_queue(connection.channel()).get(no_ack=True)


def syncs(every: int) -> int:
    """How often one tick that sends a task stores the entries."""
    kind = type("Counted", (Counting,), {})
    app = make(beat_schedule=_DUE, beat_sync_every=every)
    scheduler = kind(app)
    scheduler.tick()  # the first one is followed by a sync in any case
    before = int(kind.syncs)
    while scheduler.tick() or int(scheduler._tasks_since_sync) == 0 == every:
        pass
    return int(kind.syncs) - before


def schedule_file() -> bool:
    """Whether beat keeps its entries in the file that the settings name."""
    with tempfile.TemporaryDirectory() as home:
        app = make(beat_schedule=_DUE, beat_schedule_filename=f"{home}/mine")
        service = Service(app, scheduler_cls=PersistentScheduler)
        service.scheduler.tick()
        service.sync()
        return any(path.name.startswith("mine") for path in Path(home).iterdir())


def embedded_scheduler(**settings: Any) -> str:
    """The class of the scheduler that a worker's beat would have."""
    with tempfile.TemporaryDirectory() as home:
        worker = make(beat_schedule_filename=f"{home}/schedule", **settings).WorkController()
        worker.beat = True
        return type(Service(worker.app, scheduler_cls=worker.scheduler).get_scheduler(lazy=True)).__name__


def folder(**settings: Any) -> int:
    """How many messages lie in a folder that the transport options name."""
    with tempfile.TemporaryDirectory() as home:
        options = {"data_folder_in": home, "data_folder_out": home, "control_folder": f"{home}/control"}
        app = make(broker_url="filesystem://", broker_transport_options=options, **settings)
        add_to(app).delay(1, 2)
        return sum(path.suffix == ".msg" for path in Path(home).rglob("*"))


def seconds_until_connected(timeout: float) -> float:
    """How long a broker is waited for that takes a connection and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"amqp://guest:guest@127.0.0.1:{silent.getsockname()[1]}//"
        with make(broker_url=url, broker_connection_timeout=timeout).connection() as connection:
            begun = time.monotonic()
            assert raises(OSError, connection.transport.establish_connection)
            return time.monotonic() - begun


def second_connection(limit: int) -> Any:
    """A second connection from the app's pool, while the first is used."""
    app = make(broker_pool_limit=limit)
    with app.pool.acquire(block=False):
        return app.pool.acquire(block=False)


def seconds_to_fail(**settings: Any) -> float:
    """How long publishing tries where there is no broker."""
    app = make(broker_url="redis://127.0.0.1:1", **settings)
    begun = time.monotonic()
    assert raises(OperationalError, lambda: add_to(app).delay(1, 2))
    return time.monotonic() - begun


def seconds_to_find_no_node(**settings: Any) -> float:
    """The same of a node."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        app = make(broker_url=f"zmq://{home}/node", broker_connection_timeout=0.2, result_backend=None, **settings)
        begun = time.monotonic()
        assert raises(OperationalError, lambda: add_to(app).delay(1, 2))
        app.close()
        return time.monotonic() - begun


_PATIENT = {"max_retries": 2, "interval_start": 0.25, "interval_step": 0, "interval_max": 0.25}


def publishing(**settings: Any) -> dict[str, Any]:
    """How kombu is told to publish."""
    told: dict[str, Any] = {}
    app = make(**settings)
    with app.producer_pool.acquire() as producer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(producer, "publish", lambda body, **options: told.update(options))
        add_to(app).apply_async((1, 2), producer=producer)
    return told


def where_it_went(**settings: Any) -> str:
    """On which of two brokers in memory the message lies."""
    app = make(**settings)
    add_to(app).delay(1, 2)
    return str(app.connection_for_write().hostname)


def noon(**settings: Any) -> int:
    """The hour in UTC that is meant by noon, said without a time zone on a machine that is in Tokyo."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            said = published(make(**settings), eta=datetime(2031, 1, 1, 12)).headers["eta"]
            return datetime.fromisoformat(said).astimezone(timezone.utc).hour
        finally:
            patch.undo()
            time.tzset()


def event_of(**settings: Any) -> Any:
    """The message of an event."""
    app = make(**settings)
    with app.connection() as connection:
        receiver = app.events.Receiver(connection)
        queue = receiver.queue(connection.channel())
        queue.declare()
        with app.events.Dispatcher(connection) as dispatcher:
            dispatcher.send("worker-own")
        return queue.get(no_ack=True)


def imported(setting: str) -> bool:
    """Whether a module that the setting names is imported, with its task."""
    name = f"settings_{setting}_{next(_numbers)}"
    with tempfile.TemporaryDirectory() as home:
        source = "from zerocelery import shared_task\n@shared_task\ndef task(): pass\n"
        (Path(home) / f"{name}.py").write_text(source)
        sys.path.insert(0, home)
        app = make(**{setting: (name,)})
        app.loader.import_default_modules()
        return f"{name}.task" in app.tasks and name in sys.modules


def reply(**settings: Any) -> Any:
    """The message that a result is, over a broker."""
    from zerocelery.app.context import Context

    app = make(result_backend="rpc://", **settings)
    with app.connection() as connection:
        queue = app.backend.binding(connection.channel())
        queue.declare()
        request = Context(id="r", correlation_id="r", reply_to=app.thread_oid)
        app.backend.store_result("r", 1, "SUCCESS", request=request)
        return queue.get(no_ack=True)


def read_back(**settings: Any) -> Any:
    """A pickled result, as an app with these settings reads it."""
    writer = make(result_serializer="pickle", result_accept_content=["pickle"])
    task_id = f"pickled-{next(_numbers)}"
    writer.backend.store_result(task_id, {1, 2}, "SUCCESS")
    return make(**settings).AsyncResult(task_id).get(timeout=1)


def traced(**settings: Any) -> tuple[str, str]:
    """The states of a task that returned and of one that raised, run by a worker's own means."""
    from zerocelery.app.trace import build_tracer

    app = make(**settings)
    task = app.task(lambda fail: 1 / 0 if fail else 1, name="settings.traced", shared=False)
    states = []
    for fail in (False, True):
        task_id = f"traced-{next(_numbers)}"
        build_tracer(task.name, task, app=app)(task_id, (fail,), {}, {"id": task_id})
        states.append(app.AsyncResult(task_id).state)
    return states[0], states[1]


def accepted(**settings: Any) -> bool:
    """Whether a pickled message is read by a consumer of tasks."""
    app = make(**settings)
    sender = make(task_serializer="pickle", task_default_queue=app.conf.task_default_queue)
    add_to(sender).delay(1, 2)
    heard: list[Any] = []
    with app.connection() as connection, app.amqp.TaskConsumer(connection.channel()) as consumer:
        consumer.register_callback(lambda body, message: heard.append(body))
        consumer.on_decode_error = lambda message, error: message.ack()
        connection.drain_events(timeout=2)
    return bool(heard)


def eager(**settings: Any) -> Any:
    app = make(task_always_eager=True, **settings)
    return add_to(app).delay(1, 2)


def failing(**settings: Any) -> Any:
    app = make(task_always_eager=True, **settings)

    @app.task(shared=False)
    def fails() -> None:
        raise KeyError("no")

    return fails.delay()


def raises(kind: type[BaseException], call: Callable[[], Any]) -> bool:
    with pytest.raises(kind):
        call()
    return True


def priority_of_a_child(**settings: Any) -> Any:
    """The priority of a call that a running task of priority 6 makes."""
    from zerocelery import _state
    from zerocelery.app.context import Context

    app = make(**settings)
    context = Context(id="parent", called_directly=False, delivery_info={"priority": 6})
    parent = app.task(lambda: None, name="settings.parent", shared=False)
    _state.push(_state.Frame(parent, request=context))
    try:
        return published(app).properties.get("priority")
    finally:
        _state.pop()


def runs_of_a_message_that_came_twice(**settings: Any) -> int:
    """How often its task ran."""
    from zerocelery.app.trace import build_tracer

    app = make(**settings)
    runs = []
    task = app.task(lambda: runs.append(1), name="settings.twice", acks_late=True, shared=False)
    for _ in range(2):
        request = {"id": "came-twice", "delivery_info": {"redelivered": True}}
        build_tracer(task.name, task, app=app)("came-twice", (), {}, request)
    return len(runs)


#: Setting → what shows it, true if it has its effect.
EFFECTS: dict[str, Callable[[], Any]] = {
    "accept_content": lambda: accepted(accept_content=["json", "pickle"]) and not accepted(),
    "beat_max_loop_interval": lambda: (
        tick(make(beat_max_loop_interval=7))[1] == 7 and tick(make(beat_max_loop_interval=0))[1] > 7
    ),
    "beat_schedule": lambda: scheduled().headers["task"] == "settings.add",
    "beat_schedule_filename": schedule_file,
    "beat_scheduler": lambda: (
        embedded_scheduler(beat_scheduler=f"{__name__}:Counting") == "Counting"
        and embedded_scheduler() == "PersistentScheduler"
    ),
    "beat_sync_every": lambda: syncs(1) == syncs(0) + 1,
    "broker_connection_timeout": lambda: seconds_until_connected(0.3) < 2.0,
    "broker_pool_limit": lambda: (
        raises(ConnectionLimitExceeded, lambda: second_connection(1)) and second_connection(2) is not None
    ),
    "broker_read_url": lambda: make(broker_read_url="memory://reads").connection_for_read().hostname == "reads",
    "broker_write_url": lambda: where_it_went(broker_write_url="memory://writes") == "writes",
    "broker_transport": lambda: published(make(broker_url="localhost", broker_transport="memory")).headers["id"],
    "broker_transport_options": lambda: folder() == 1,
    "broker_url": lambda: folder() == 1 and where_it_went(broker_url="memory://here") == "here",
    "enable_utc": lambda: noon(enable_utc=False) == 3 and noon(enable_utc=True) == 12,
    "event_serializer": lambda: event_of(event_serializer="pickle").content_type == "application/x-python-serialize",
    "imports": lambda: imported("imports"),
    "include": lambda: imported("include"),
    "result_accept_content": lambda: (
        read_back(result_serializer="pickle", result_accept_content=["pickle"]) == {1, 2}
        and raises(ContentDisallowed, lambda: read_back(result_serializer="pickle", result_accept_content=["json"]))
    ),
    "result_backend": lambda: type(make(result_backend="file:///tmp").backend).__name__ == "FilesystemBackend",
    "result_compression": lambda: (
        len(stored(make(result_compression="zlib", result_backend=f"file://{tempfile.mkdtemp()}"), "x" * 9000)) < 500
    ),
    "result_extended": lambda: (
        "settings.add"
        in str(stored(make(result_extended=True), 1, task="settings.add", args=[1], kwargs={}, delivery_info={}))
    ),
    "result_persistent": lambda: (
        reply(result_persistent=True).properties["delivery_mode"] == 2 and reply().properties["delivery_mode"] == 1
    ),
    "result_serializer": lambda: (
        pickle.loads(stored(make(result_serializer="pickle", result_accept_content=["pickle"]), 5))["result"] == 5
    ),
    "task_always_eager": lambda: isinstance(eager(), EagerResult),
    "task_annotations": lambda: (
        published(make(task_annotations={"settings.add": {"time_limit": 7}})).headers["timelimit"] == [7, None]
    ),
    "task_compression": lambda: "compression" in published(make(task_compression="zlib")).headers,
    "task_create_missing_queues": lambda: raises(
        QueueNotFound,
        lambda: add_to(
            make(task_create_missing_queues=False, task_queues=[Queue("a")], task_default_queue="a")
        ).apply_async((1, 2), queue="b"),
    ),
    "task_default_delivery_mode": lambda: (
        published(make(task_default_delivery_mode=1)).properties["delivery_mode"] == 1
    ),
    "task_default_exchange": lambda: (
        published(make(task_default_exchange="ex", task_default_exchange_type="topic")).delivery_info["exchange"]
        == "ex"
    ),
    "task_default_exchange_type": lambda: (
        published(make(task_default_exchange="ex2", task_default_exchange_type="fanout")).delivery_info["exchange"]
        == "ex2"
        and published(make(task_default_exchange="ex3")).delivery_info["exchange"] == ""
    ),
    "task_default_priority": lambda: published(make(task_default_priority=4)).properties["priority"] == 4,
    "task_default_queue": lambda: published(make(task_default_queue="my-default-queue"), "my-default-queue"),
    "task_default_routing_key": lambda: (
        published(
            make(task_default_routing_key="rk", task_default_exchange="ex4", task_default_exchange_type="topic")
        ).delivery_info["routing_key"]
        == "rk"
    ),
    "task_eager_propagates": lambda: raises(KeyError, lambda: failing(task_eager_propagates=True)),
    "task_ignore_result": lambda: (
        traced(task_ignore_result=True) == ("PENDING", "PENDING") and traced() == ("SUCCESS", "FAILURE")
    ),
    "task_inherit_parent_priority": lambda: (
        priority_of_a_child(task_inherit_parent_priority=True) == 6 and priority_of_a_child() != 6
    ),
    "task_protocol": lambda: published(make(task_protocol=1)).payload["task"] == "settings.add",
    "task_publish_retry": lambda: (
        publishing(task_publish_retry=False)["retry"] is False
        and publishing()["retry"] is True
        and seconds_to_find_no_node(task_publish_retry=False, task_publish_retry_policy=_PATIENT) < 0.2
    ),
    "task_publish_retry_policy": lambda: (
        seconds_to_fail(task_publish_retry_policy=_PATIENT) >= 0.25
        and seconds_to_find_no_node(task_publish_retry_policy=_PATIENT) >= 0.65
    ),
    "task_queues": lambda: list(make(task_queues=[Queue("q1"), Queue("q2")]).amqp.queues) == ["q1", "q2"],
    "task_repr_maxlevels": lambda: (
        make(task_repr_maxlevels=1).amqp.create_task_message("i", "t", ([[[[1]]]],), {}).headers["argsrepr"]
        != make(task_repr_maxlevels=9).amqp.create_task_message("i", "t", ([[[[1]]]],), {}).headers["argsrepr"]
    ),
    "task_routes": lambda: published(make(task_routes={"settings.*": {"queue": "routed"}}), "routed"),
    "task_serializer": lambda: published(make(task_serializer="pickle")).content_type.endswith("python-serialize"),
    "task_store_eager_result": lambda: (result := eager(task_store_eager_result=True)).id and eager_store(result) == 3,
    "timezone": lambda: noon(timezone="Europe/Prague") == 11,
    "worker_deduplicate_successful_tasks": lambda: (
        runs_of_a_message_that_came_twice(worker_deduplicate_successful_tasks=True) == 1
        and runs_of_a_message_that_came_twice() == 2
    ),
}


def eager_store(result: Any) -> Any:
    """What is stored of an eager result: memory is shared by all apps of a process."""
    return make().AsyncResult(result.id).get(timeout=1, disable_sync_subtasks=False)


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    from kombu.transport.memory import Channel

    yield
    Channel.queues.clear()


@pytest.mark.parametrize("setting", sorted(EFFECTS))
def test_a_setting_has_its_effect(setting: str) -> None:
    assert EFFECTS[setting]()


def test_every_setting_is_seen_to_have_its_effect_or_holds_in_any_case() -> None:
    tests = Path(__file__).parents[1]
    for setting, place in ELSEWHERE.items():
        name, _, test = place.partition("::")
        source = (tests / name).read_text()
        assert f"def {test}(" in source, f"{place} shows {setting}, and isn't there"
        assert setting in source, f"{place} says nothing of {setting}"
    in_any_case = set(unheeded.FULFILLED)

    assert set(MUST) <= set(OPTIONS)
    assert set(EFFECTS) | set(ELSEWHERE) | in_any_case >= set(MUST)
    assert not set(EFFECTS) & set(ELSEWHERE)
    assert not (set(EFFECTS) | set(ELSEWHERE)) & in_any_case


def test_what_is_without_effect_is_said_and_why() -> None:
    without = {**unheeded.ALWAYS, **unheeded.ON_NODE}
    assert set(without) <= set(OPTIONS)
    assert not set(unheeded.ALWAYS) & set(MUST)
    for name in without:
        conf = make(broker_url="zmq://", **{name: "something else"}).conf
        (said,) = (line for line in unheeded.remarks(conf, on_node=True) if name in line)
        assert without[name] in said
        assert bool(unheeded.remarks(conf, on_node=False)) is (name in unheeded.ALWAYS)
    for name in {**unheeded.FULFILLED, **unheeded.FULFILLED_ON_NODE}:
        assert not unheeded.remarks(make(broker_url="zmq://", **{name: 7}).conf, on_node=True)
