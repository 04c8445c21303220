"""What a worker does when it is told to, or asked: its *panel* of commands.

A command is a function of the worker's state and the arguments of the call; what it returns is the answer. Anybody may
add one: ``@control_command(...)`` for one that changes something, ``@inspect_command(...)`` for one that only looks.
They are called in the process that runs the pool, between other things, so they have to be quick.
"""

from __future__ import annotations

import importlib
import io
import signal as _signals
import tempfile
from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar

from zerocelery import states
from zerocelery.utils.log import get_logger
from zerocelery.utils.serialization import jsonify, strtobool
from zerocelery.worker import state as worker_state

__all__ = ("Panel",)

logger = get_logger("celery.worker.control")

#: Attributes that ``registered`` tells of each task, where they are set.
DEFAULT_TASK_INFO_ITEMS: Iterable[str] = ("exchange", "routing_key", "rate_limit")

#: The signal that ends a task, unless another is named.
TERM_SIGNAME = "SIGTERM"


_F = TypeVar("_F", bound=Callable[..., Any])


class controller_info_t(NamedTuple):
    """What is known of a command, for ``--help`` and for who parses its arguments."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str | None
    signature: str | None
    args: list[tuple[str, Callable[[str], Any]]] | None
    variadic: str | None


def ok(value: Any) -> dict[str, Any]:
    """The answer that it was done."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """The answer that it could not be done."""
    return {"error": value}


class Panel(UserDict):  # type: ignore[type-arg]
    """All commands by name (``data``), and what is known of them (``meta``)."""

    data: ClassVar[dict[str, Callable[..., Any]]] = {}  # type: ignore[misc]
    meta: ClassVar[dict[str, controller_info_t]] = {}

    @classmethod
    def register(cls, *args: Any, **kwargs: Any) -> Any:
        """Add a command: ``@Panel.register`` or ``@Panel.register(name=…, alias=…, type=…, …)``."""
        if args:
            return cls._register(**kwargs)(*args)
        return cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: list[tuple[str, Callable[[str], Any]]] | None = None,
        variadic: str | None = None,
    ) -> Callable[[_F], _F]:
        def add(function: _F) -> _F:
            known_as = name or function.__name__
            text = help or (function.__doc__ or "").strip().partition("\n")[0]
            cls.data[known_as] = function
            cls.meta[known_as] = controller_info_t(
                alias, type, visible, default_timeout, text, signature, args, variadic
            )
            if alias:
                cls.data[alias] = function
            return function

        return add


def control_command(**kwargs: Any) -> Callable[[_F], _F]:
    """Add a command that changes something (arguments: those of :meth:`Panel.register`)."""
    return Panel._register(type="control", **kwargs)


def inspect_command(**kwargs: Any) -> Callable[[_F], _F]:
    """Add a command that only looks (arguments: those of :meth:`Panel.register`)."""
    return Panel._register(type="inspect", **kwargs)


def _several(value: Any) -> list[Any]:
    """One or many, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@inspect_command()
def report(state: Any) -> dict[str, Any]:
    """What to put into a bug report."""
    return ok(state.app.bugreport())


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", strtobool)])
def conf(state: Any, with_defaults: bool = False, **kwargs: Any) -> Any:
    """The worker's settings."""
    conf = state.app.conf
    older = sorted(conf.deprecated_settings or ()) or None
    table = {"deprecated_settings": older, **conf.table(with_defaults=with_defaults)}
    return jsonify(table, unknown_type_filter=repr)


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: Any, ids: Any, **kwargs: Any) -> dict[str, Any]:
    """What the worker knows of tasks, by their ids."""
    return state.consumer.tasks.query(_several(ids))  # type: ignore[no-any-return]


@inspect_command()
def clock(state: Any, **kwargs: Any) -> dict[str, Any]:
    """The worker's logical clock."""
    return {"clock": state.app.clock.value}


@inspect_command(visible=False)
def hello(state: Any, from_node: str, revoked: Any = None, **kwargs: Any) -> dict[str, Any] | None:
    """Another worker greets, and says what is revoked."""
    if from_node == state.hostname:
        return None
    logger.info("%s says hello", from_node)
    worker_state.merge_revoked(revoked)
    worker_state.revoked.purge()
    # ids alone: the times at which they were revoked are of this machine's clock
    return {"revoked": list(worker_state.revoked.as_dict()), "clock": state.app.clock.forward()}


@inspect_command(default_timeout=0.2)
def ping(state: Any, **kwargs: Any) -> dict[str, str]:
    """Whether the worker is there."""
    return ok("pong")


@inspect_command()
def stats(state: Any, **kwargs: Any) -> Any:
    """Counts, and what the worker is made of."""
    return state.consumer.controller.stats()


@inspect_command(alias="dump_schedule")
def scheduled(state: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """Tasks of the worker's queues that wait for their time."""
    return state.consumer.tasks.scheduled()  # type: ignore[no-any-return]


@inspect_command(alias="dump_reserved")
def reserved(state: Any, **kwargs: Any) -> list[dict[str, Any]]:
    """Tasks that the worker has and has not begun."""
    return state.consumer.tasks.reserved()  # type: ignore[no-any-return]


@inspect_command(alias="dump_active")
def active(state: Any, safe: bool = False, **kwargs: Any) -> list[dict[str, Any]]:
    """Tasks that run."""
    return state.consumer.tasks.active(safe=bool(safe))  # type: ignore[no-any-return]


@inspect_command(alias="dump_revoked")
def revoked(state: Any, **kwargs: Any) -> list[str]:
    """Ids of revoked tasks."""
    return state.consumer.tasks.revoked()  # type: ignore[no-any-return]


@inspect_command(
    alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]"
)  # fmt: skip
def registered(state: Any, taskinfoitems: Any = None, builtins: bool = False, **kwargs: Any) -> list[str]:
    """Names of the tasks that the worker knows, with attributes of theirs."""
    shown = [name for name in _several(taskinfoitems) or DEFAULT_TASK_INFO_ITEMS if not str(name).startswith("_")]

    def described(task: Any) -> str:
        fields = [f"{name}={value}" for name in shown if (value := getattr(task, name, None)) is not None]
        return f"{task.name} [{' '.join(fields)}]" if fields else str(task.name)

    names = sorted(name for name in state.app.tasks if builtins or not name.startswith("celery."))
    return [described(state.app.tasks[name]) for name in names]


@inspect_command()
def active_queues(state: Any) -> list[dict[str, Any]]:
    """The queues that the worker serves."""
    return state.consumer.queues_as_dicts()  # type: ignore[no-any-return]


@inspect_command()
def queues(state: Any, **kwargs: Any) -> dict[str, Any]:
    """How long the worker's queues are, how old their oldest task is, and how many of theirs are dead."""
    return state.consumer.tasks.queues()  # type: ignore[no-any-return]


@inspect_command(
    signature="[object_type=Request] [num=200 [max_depth=10]]",
    args=[("type", str), ("num", int), ("max_depth", int)],
    default_timeout=60.0,
)
def objgraph(state: Any, num: int = 200, max_depth: int = 10, type: str = "Request") -> dict[str, Any]:
    """Draw what holds objects of a type (to find a leak)."""
    try:
        graph: Any = importlib.import_module("objgraph")
    except ImportError:
        return nok("objgraph is not installed: pip install objgraph")
    with tempfile.NamedTemporaryFile(prefix="cobjg", suffix=".png", delete=False) as file:
        objects = graph.by_type(type)[:num]
        graph.show_backrefs(objects, max_depth=max_depth, highlight=lambda one: one in objects, filename=file.name)
        return {"filename": file.name}


@inspect_command()
def memsample(state: Any, **kwargs: Any) -> Any:
    """Take a sample of the memory in use."""
    from zerocelery.utils.debug import sample_mem

    return sample_mem()


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: Any, samples: int = 10, **kwargs: Any) -> str:
    """The samples that were taken."""
    from zerocelery.utils import debug

    out = io.StringIO()
    debug.memdump(file=out)
    return out.getvalue()


# ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Don't run a task, or several; with terminate, end those that run."""
    ids = {str(one) for one in _several(task_id)}
    worker_state.revoked.update(ids)
    state.consumer.tasks.revoke(ids, terminate=terminate)
    if terminate:
        return _ended(state, state.consumer.tasks.running(lambda task: task.id in ids), signal)
    _tell_revoked(state, ids)
    logger.info("Tasks flagged as revoked: %s", ", ".join(sorted(ids)))
    return ok(f"tasks {ids} flagged as revoked")


def _tell_revoked(state: Any, ids: set[str]) -> None:
    """Let the results of tasks that nobody has begun say so: they may never reach a worker that would."""
    backend = state.app.backend
    begun = {task.id for task in state.consumer.tasks.running(lambda task: task.id in ids)}
    for task_id in ids - begun:
        if backend.get_state(task_id) == states.PENDING:
            backend.mark_as_revoked(task_id, "revoked", store_result=True)


def _ended(state: Any, running: list[Any], signal: Any) -> dict[str, Any]:
    try:
        number = signal_number(signal or TERM_SIGNAME)
    except ValueError as error:
        return nok(str(error))
    if running and not state.consumer.can_terminate:
        return nok("a task that runs can be ended in prefork, gevent and eventlet pools only; it is flagged as revoked")
    ended = [task.id for task in running if state.consumer.terminate(task, number)]
    for task_id in ended:
        logger.info("Terminating %s (%s)", task_id, _signals.Signals(number).name)
    return ok(f"terminate: {', '.join(ended)}" if ended else "terminate: tasks unknown")


def signal_number(signal: Any) -> int:
    """A signal's number by its name (``SIGTERM``, ``term``) or number.

    Raises:
        ValueError: there is none of that name.
    """
    text = str(signal)
    if text.isdigit() and int(text) in _signals.valid_signals():
        return int(text)
    name = text.upper()
    found = getattr(_signals, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, _signals.Signals):
        raise ValueError(f"there is no signal {text!r}: name one as in SIGTERM")
    return int(found)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Don't run tasks with these stamps; with terminate, end those that run."""
    from zerocelery.app.message import stamp_labels

    if isinstance(headers, list):
        headers = dict(one.split("=", 1) for one in headers)
    for header, values in headers.items():
        known = worker_state.revoked_stamps.setdefault(header, [])
        known.extend(value for value in _several(values) if value not in known)
    labels = stamp_labels(headers)
    state.consumer.tasks.revoke((), labels, terminate=terminate)
    if not terminate:
        logger.info("Headers flagged as revoked: %s", headers)
        return ok(f"headers {headers} flagged as revoked, but not terminated")
    running = state.consumer.tasks.running(lambda task: not labels.isdisjoint(task.labels))
    if not running:
        return ok(f"headers {headers} were not terminated")
    return _ended(state, running, signal)


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> dict[str, Any]:
    """End tasks that run, by a signal."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>"
)
def rate_limit(state: Any, task_name: str, rate_limit: Any, **kwargs: Any) -> dict[str, Any]:
    """Change how often a task may be run."""
    from zerocelery.utils.time import rate

    try:
        rate(rate_limit)
    except ValueError as error:
        return nok(f"Invalid rate limit string: {error!r}")
    if task_name not in state.app.tasks:
        logger.error("there is no task %s whose rate limit could be changed", task_name)
        return nok("unknown task")
    state.consumer.change_task(task_name, rate_limit=rate_limit)
    state.consumer.reset_rate_limits()
    return ok("new rate limit set successfully" if rate_limit else "rate limit disabled successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)], signature="<task_name> <soft_secs> [hard_secs]"
)
def time_limit(state: Any, task_name: Any = None, hard: Any = None, soft: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Change how long a task may run."""
    if task_name not in state.app.tasks:
        logger.error("there is no task %s whose time limits could be changed", task_name)
        return nok("unknown task")
    state.consumer.change_task(task_name, soft_time_limit=soft, time_limit=hard)
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


@control_command()
def enable_events(state: Any) -> dict[str, Any]:
    """Send events of tasks."""
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        return nok("event dispatcher unavailable")
    if dispatcher.groups and "task" not in dispatcher.groups:
        dispatcher.groups.add("task")
        state.consumer.events_changed()
        logger.info("Events of group {task} enabled by remote.")
        return ok("task events enabled")
    return ok("task events already enabled")


@control_command()
def disable_events(state: Any) -> dict[str, Any]:
    """Send no events of tasks."""
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        return nok("event dispatcher unavailable")
    if "task" in dispatcher.groups:
        dispatcher.groups.discard("task")
        state.consumer.events_changed()
        logger.info("Events of group {task} disabled by remote.")
        return ok("task events disabled")
    return ok("task events already disabled")


@control_command()
def heartbeat(state: Any) -> None:
    """Send a heartbeat now."""
    state.consumer.send_heartbeat()


@control_command()
def election(state: Any, id: str, topic: Any, action: Any = None, **kwargs: Any) -> None:
    """Have the workers elect one of them."""
    logger.warning("no election of %r is held: workers of a node don't gossip", topic)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **kwargs: Any) -> dict[str, Any]:
    """More processes."""
    consumer = state.consumer
    if consumer.controller.autoscaler:
        return nok("pool_grow is not supported with autoscale. Adjust autoscale range instead.")
    consumer.pool.grow(n)
    return ok("pool will grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **kwargs: Any) -> dict[str, Any]:
    """Fewer processes."""
    consumer = state.consumer
    if consumer.controller.autoscaler:
        return nok("pool_shrink is not supported with autoscale. Adjust autoscale range instead.")
    consumer.pool.shrink(n)
    return ok("pool will shrink")


@control_command()
def pool_restart(
    state: Any, modules: Any = None, reload: bool = False, reloader: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Replace all processes, after importing (or reloading) modules."""
    if not state.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled")
    state.consumer.controller.reload(modules, reload, reloader)
    return ok("reload started")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: Any, max: int | None = None, min: int | None = None) -> dict[str, Any]:
    """Change between which sizes the pool scales itself."""
    scaler = state.consumer.controller.autoscaler
    if not scaler:
        raise ValueError("Autoscale not enabled")
    most = scaler.most if max is None else max
    least = scaler.least if min is None else min
    if least > most:  # the one that was said counts
        most, least = (max, max) if min is None else (min, min)
    scaler.update(most, least)
    return ok(f"autoscale now max={scaler.most} min={scaler.least}")


@control_command()
def shutdown(state: Any, msg: str = "Got shutdown from remote", **kwargs: Any) -> None:
    """Finish what runs, and leave."""
    logger.warning(msg)
    state.consumer.controller.shutdown()


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: Any,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Serve one more queue."""
    state.consumer.add_task_queue(queue, exchange, exchange_type, routing_key, **options)
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **_: Any) -> dict[str, Any]:
    """Serve a queue no longer."""
    state.consumer.cancel_task_queue(queue)
    return ok(f"no longer consuming from {queue}")
