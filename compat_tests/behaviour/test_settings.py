"""Every setting that programs of Celery's use has its effect: one row each, or a name of the test that shows it."""

from __future__ import annotations

import datetime
import itertools
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue
from kombu.exceptions import ContentDisallowed

from zerocelery import Celery
from zerocelery.app.defaults import OPTIONS
from zerocelery.exceptions import QueueNotFound
from zerocelery.result import EagerResult
from zerocelery.schedules import crontab

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

#: Settings with no effect here, and why that is right, or what is missing.
NO_EFFECT = {
    "task_retry_on_worker_lost": "missing: a late task whose worker is lost is handed out again, and not by retry()",
    "worker_eta_task_limit": "tasks with an ETA wait in the node, not in a worker's memory",
    "worker_lost_wait": "the end of a process is known at once, with its exit status",
    "worker_proc_alive_timeout": "a process of the pool that doesn't start is started again as the supervisor has it",
    "worker_timer_precision": "the node's timers sleep until something is due",
}

#: Settings that are read, but whose effect no test shows yet.
UNSHOWN = [
    "broker_connection_max_retries",
    "result_chord_join_timeout",
    "result_chord_retry_interval",
    "task_allow_error_cb_on_chord_header",
    "task_publish_retry",
    "task_remote_tracebacks",
    "worker_disable_prefetch",
    "worker_redirect_stdouts",
    "worker_redirect_stdouts_level",
]

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


def worker(**settings: Any) -> Any:
    """A worker of an app with these settings, not started."""
    return make(**settings).WorkController()


def queue_of_its_own(controller: Any) -> bool:
    """Whether the worker reads the queue that is named after it."""
    from zerocelery.utils.nodenames import worker_direct

    return worker_direct(controller.hostname).name in controller.app.amqp.queues.consume_from


def scheduler(**settings: Any) -> Any:
    """A beat scheduler of an app with these settings, its schedule not set up."""
    from zerocelery.beat import Scheduler

    return Scheduler(make(**settings), lazy=True)


def receiver(**settings: Any) -> Any:
    app = make(**settings)
    return app.events.Receiver(app.connection())


def redis_parameters(**settings: Any) -> dict[str, Any]:
    pytest.importorskip("redis")
    from zerocelery.backends.redis import RedisBackend

    parameters: dict[str, Any] = RedisBackend(app=make(result_backend=None, **settings)).connparams
    return parameters


def database(**settings: Any) -> Any:
    pytest.importorskip("sqlalchemy")
    from zerocelery.backends.database import DatabaseBackend

    return DatabaseBackend(app=make(database_url="sqlite://", result_backend=None, **settings))


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
    "beat_schedule": lambda: make(beat_schedule={"a": {"task": "t", "schedule": crontab()}}).conf.beat_schedule["a"],
    "beat_schedule_filename": lambda: worker(beat_schedule_filename="/tmp/s").schedule_filename == "/tmp/s",
    "beat_sync_every": lambda: scheduler(beat_sync_every=3).sync_every_tasks == 3,
    "beat_scheduler": lambda: worker(beat_scheduler="a:B").scheduler == "a:B",
    "broker_connection_timeout": lambda: make(broker_connection_timeout=9).connection().connect_timeout == 9,
    "broker_pool_limit": lambda: make(broker_pool_limit=3).pool.limit == 3,
    "broker_read_url": lambda: make(broker_read_url="memory://reads").connection_for_read().hostname == "reads",
    "broker_write_url": lambda: make(broker_write_url="memory://writes").connection_for_write().hostname == "writes",
    "broker_transport": lambda: make(broker_url="localhost", broker_transport="memory").connection().transport_cls,
    "broker_transport_options": lambda: (
        make(broker_transport_options={"x": 1}).connection().transport_options == {"x": 1}
    ),
    "broker_url": lambda: make(broker_url="memory://here").connection().hostname == "here",
    "database_create_tables_at_setup": lambda: database(database_create_tables_at_setup=False),
    "database_engine_options": lambda: database(database_engine_options={"echo": True}).engine_options["echo"],
    "database_short_lived_sessions": lambda: database(database_short_lived_sessions=True).short_lived_sessions,
    "database_table_names": lambda: (
        database(database_table_names={"task": "my_tasks"}).task_cls.__table__.name == "my_tasks"
    ),
    "database_table_schemas": lambda: (
        database(
            database_table_schemas={"task": "mine"}, database_create_tables_at_setup=False
        ).task_cls.__table__.schema
        == "mine"
    ),
    "database_url": lambda: database().url == "sqlite://",
    "enable_utc": lambda: make(enable_utc=False).timezone is not make(enable_utc=True).timezone,
    "event_queue_expires": lambda: receiver(event_queue_expires=7.0).queue.expires == 7.0,
    "event_queue_prefix": lambda: receiver(event_queue_prefix="mine").queue.name.startswith("mine."),
    "event_queue_ttl": lambda: receiver(event_queue_ttl=3.0).queue.message_ttl == 3.0,
    "event_serializer": lambda: (
        (app := make(event_serializer="pickle")).events.Dispatcher(app.connection(), enabled=False).serializer
        == "pickle"
    ),
    "imports": lambda: "os" in make(imports=("os",)).loader.default_modules,
    "include": lambda: "json" in make(include=("json",)).loader.default_modules,
    "redis_db": lambda: redis_parameters(redis_db=7)["db"] == 7,
    "redis_host": lambda: redis_parameters(redis_host="h")["host"] == "h",
    "redis_max_connections": lambda: redis_parameters(redis_max_connections=3)["max_connections"] == 3,
    "redis_password": lambda: redis_parameters(redis_password="p")["password"] == "p",
    "redis_port": lambda: redis_parameters(redis_port=1234)["port"] == 1234,
    "redis_socket_timeout": lambda: redis_parameters(redis_socket_timeout=2.0)["socket_timeout"] == 2.0,
    "redis_username": lambda: redis_parameters(redis_username="u", redis_password="p")["username"] == "u",
    "redis_backend_use_ssl": lambda: (
        redis_parameters(redis_backend_use_ssl={"ssl_cert_reqs": "required"})["connection_class"].__name__
        == "SSLConnection"
    ),
    "result_backend": lambda: type(make(result_backend="file:///tmp").backend).__name__ == "FilesystemBackend",
    "result_accept_content": lambda: (
        make(result_accept_content=["pickle"]).backend.accept == {"application/x-python-serialize"}
    ),
    "result_backend_always_retry": lambda: make(result_backend_always_retry=True).backend.always_retry,
    "result_backend_max_retries": lambda: make(result_backend_max_retries=4).backend.max_retries == 4,
    "result_cache_max": lambda: make(result_cache_max=5).backend._cache.limit == 5,
    "result_compression": lambda: (
        len(stored(make(result_compression="zlib", result_backend=f"file://{tempfile.mkdtemp()}"), "x" * 9000)) < 500
    ),
    "result_expires": lambda: make(result_expires=60).backend.expires == 60,
    "result_extended": lambda: (
        "settings.add"
        in str(stored(make(result_extended=True), 1, task="settings.add", args=[1], kwargs={}, delivery_info={}))
    ),
    "result_persistent": lambda: make(result_persistent=True, result_backend="rpc://").backend.persistent,
    "result_serializer": lambda: (
        pickle.loads(stored(make(result_serializer="pickle", result_accept_content=["pickle"]), 5))["result"] == 5
    ),
    "task_acks_late": lambda: add_to(make(task_acks_late=True)).acks_late is True,
    "task_acks_on_failure": lambda: add_to(make(task_acks_on_failure=False)).acks_on_failure is False,
    "task_acks_on_failure_or_timeout": lambda: (
        add_to(make(task_acks_on_failure_or_timeout=False)).acks_on_failure_or_timeout is False
    ),
    "task_acks_on_timeout": lambda: add_to(make(task_acks_on_timeout=False)).acks_on_timeout is False,
    "task_always_eager": lambda: isinstance(eager(), EagerResult),
    "task_annotations": lambda: (
        (app := make(task_annotations={"settings.add": {"rate_limit": "7/m"}})).tasks is not None
        and add_to(app).rate_limit == "7/m"
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
    "task_inherit_parent_priority": lambda: (
        priority_of_a_child(task_inherit_parent_priority=True) == 6 and priority_of_a_child() != 6
    ),
    "task_default_exchange": lambda: make(task_default_exchange="ex").amqp.default_queue.exchange.name == "ex",
    "task_default_exchange_type": lambda: (
        make(task_default_exchange_type="topic").amqp.default_queue.exchange.type == "topic"
    ),
    "task_default_priority": lambda: published(make(task_default_priority=4)).properties["priority"] == 4,
    "task_default_queue": lambda: published(make(task_default_queue="my-default-queue"), "my-default-queue"),
    "task_default_rate_limit": lambda: add_to(make(task_default_rate_limit="1/s")).rate_limit == "1/s",
    "task_default_routing_key": lambda: make(task_default_routing_key="rk").amqp.default_queue.routing_key == "rk",
    "task_eager_propagates": lambda: raises(KeyError, lambda: failing(task_eager_propagates=True)),
    "task_ignore_result": lambda: published(make(task_ignore_result=True)).headers["ignore_result"] is True,
    "task_protocol": lambda: published(make(task_protocol=1)).payload["task"] == "settings.add",
    "task_publish_retry_policy": lambda: (
        sent_signal(make(task_publish_retry_policy={"max_retries": 77}))["retry_policy"]["max_retries"] == 77
    ),
    "task_queue_max_priority": lambda: (
        make(task_queue_max_priority=9).amqp.default_queue.queue_arguments == {"x-max-priority": 9}
    ),
    "task_queues": lambda: list(make(task_queues=[Queue("q1"), Queue("q2")]).amqp.queues) == ["q1", "q2"],
    "task_reject_on_worker_lost": lambda: add_to(make(task_reject_on_worker_lost=True)).reject_on_worker_lost is True,
    "task_repr_maxlevels": lambda: (
        make(task_repr_maxlevels=1).amqp.create_task_message("i", "t", ([[[[1]]]],), {}).headers["argsrepr"]
        != make(task_repr_maxlevels=9).amqp.create_task_message("i", "t", ([[[[1]]]],), {}).headers["argsrepr"]
    ),
    "task_routes": lambda: published(make(task_routes={"settings.*": {"queue": "routed"}}), "routed"),
    "task_serializer": lambda: published(make(task_serializer="pickle")).content_type.endswith("python-serialize"),
    "task_soft_time_limit": lambda: add_to(make(task_soft_time_limit=3)).soft_time_limit == 3,
    "task_store_eager_result": lambda: (result := eager(task_store_eager_result=True)).id and eager_store(result) == 3,
    "task_store_errors_even_if_ignored": lambda: (
        add_to(make(task_store_errors_even_if_ignored=True)).store_errors_even_if_ignored
    ),
    "task_time_limit": lambda: published(make(task_time_limit=8)).headers["timelimit"] == [8, None],
    "task_track_started": lambda: add_to(make(task_track_started=True)).track_started is True,
    "timezone": lambda: str(make(timezone="Europe/Prague").now().tzinfo) == "Europe/Prague",
    "worker_concurrency": lambda: worker(worker_concurrency=3).concurrency == 3,
    "worker_deduplicate_successful_tasks": lambda: (
        runs_of_a_message_that_came_twice(worker_deduplicate_successful_tasks=True) == 1
    ),
    "worker_direct": lambda: queue_of_its_own(worker(worker_direct=True)) and not queue_of_its_own(worker()),
    "worker_disable_rate_limits": lambda: worker(worker_disable_rate_limits=True).disable_rate_limits is True,
    "worker_log_color": lambda: make(worker_log_color=False).log.supports_color() is False,
    "worker_log_datefmt": lambda: make(worker_log_datefmt="%Y").log.datefmt == "%Y",
    "worker_log_format": lambda: make(worker_log_format="x%(message)s").log.format == "x%(message)s",
    "worker_max_memory_per_child": lambda: worker(worker_max_memory_per_child=9).max_memory_per_child == 9,
    "worker_max_tasks_per_child": lambda: worker(worker_max_tasks_per_child=9).max_tasks_per_child == 9,
    "worker_pool": lambda: worker(worker_pool="threads").pool_name == "threads",
    "worker_pool_start_method": lambda: worker(worker_pool_start_method="spawn").pool_start_method == "spawn",
    "worker_prefetch_multiplier": lambda: worker(worker_prefetch_multiplier=7).prefetch_multiplier == 7,
    "worker_send_task_events": lambda: worker(worker_send_task_events=True).task_events is True,
    "worker_state_db": lambda: worker(worker_state_db="/tmp/state").statedb == "/tmp/state",
    "worker_task_log_datefmt": lambda: make(worker_task_log_datefmt="%Y").log.task_datefmt == "%Y",
    "worker_task_log_format": lambda: make(worker_task_log_format="y%(message)s").log.task_format == "y%(message)s",
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


def test_what_is_read_is_what_is_accepted() -> None:
    app = make(accept_content=["json"])
    message = published(make(task_serializer="pickle"))
    message.accept = app.conf.accept_content

    with pytest.raises(ContentDisallowed):
        message.decode()
    assert app.conf.result_expires == datetime.timedelta(days=1)


def test_every_setting_is_shown_here_or_elsewhere_or_is_known_to_do_nothing() -> None:
    others = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("*.py") if path != Path(__file__))
    silent = [name for name in MUST if name not in EFFECTS and name not in NO_EFFECT and name not in others]

    assert set(MUST) <= set(OPTIONS)
    assert not set(EFFECTS) & set(NO_EFFECT)
    assert set(silent) <= set(UNSHOWN)
