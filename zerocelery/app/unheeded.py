"""Settings that are accepted and change nothing here, and names that are no setting but nearly one.

Nothing that somebody has set is ignored in silence: a worker says at its start which of its settings have no effect,
and why that is.
"""

from __future__ import annotations

from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from zerocelery.app.utils import Settings

__all__ = ("ALWAYS", "FULFILLED", "FULFILLED_ON_NODE", "ON_NODE", "remarks")

_INTERNALS = "it names a part of Celery's worker that is not here"
_KOMBU = "only a broker of kombu's has it"
_STARTED = "a worker starts a node where there is none, and waits for one that was lost"
_SEEN = "the end of a node on this machine is seen at once, and one elsewhere is asked"

#: Settings whose wish is fulfilled in any case where the broker is a node: nothing is said of them.
FULFILLED_ON_NODE = {
    "task_queue_max_priority": "every queue of a node has the priorities 0 to 255",
    "worker_cancel_long_running_tasks_on_connection_loss": "a worker keeps its leases when it connects again",
    "worker_disable_prefetch": "nothing is held in advance",
    "worker_eta_task_limit": "tasks with an ETA wait in the node, and not in a worker's memory",
    "worker_prefetch_multiplier": "nothing is held in advance",
}

#: Settings whose wish is fulfilled in any case.
FULFILLED = {
    "worker_enable_prefetch_count_reduction": "what waited when a connection was lost is not run twice",
    "worker_lost_wait": "the end of a process is known at once, with its exit status",
    "worker_pool_putlocks": "a process asks for its next task when it is free",
    "worker_proc_alive_timeout": "a process that ends before it is up is replaced, however long it has taken",
    "worker_timer_precision": "timers sleep until something is due, and are precise to some milliseconds",
}

#: Settings with no effect whatever the broker is, and why.
ALWAYS = {
    "worker_agent": _INTERNALS,
    "worker_autoscaler": _INTERNALS,
    "worker_consumer": _INTERNALS,
    "worker_timer": _INTERNALS,
}

#: Settings with no effect where the broker is a node.
ON_NODE = {
    "broker_channel_error_retry": _KOMBU,
    "broker_connection_max_retries": _STARTED,
    "broker_connection_retry": _STARTED,
    "broker_connection_retry_on_startup": _STARTED,
    "broker_failover_strategy": _KOMBU,
    "broker_heartbeat": _SEEN,
    "broker_heartbeat_checkrate": _SEEN,
    "broker_login_method": "keys say who may come in (zerocelery keygen)",
    "broker_native_delayed_delivery_queue_type": _KOMBU,
    "broker_use_ssl": "a node's connections are encrypted with CURVE keys (zerocelery keygen)",
    "control_queue_durable": _KOMBU,
    "control_queue_exclusive": _KOMBU,
    "control_queue_expires": _KOMBU,
    "control_queue_ttl": _KOMBU,
    "event_queue_durable": _KOMBU,
    "event_queue_exclusive": _KOMBU,
    "event_queue_expires": _KOMBU,
    "event_queue_prefix": _KOMBU,
    "event_queue_ttl": _KOMBU,
    "task_create_missing_queue_type": _KOMBU,
    "task_default_delivery_mode": "whether tasks are on disk is the node's --durability",
    "task_default_queue_type": _KOMBU,
    "worker_detect_quorum_queues": _KOMBU,
}

#: The broker's transport options that a node's clients read.
_NODE_OPTIONS = frozenset(["connect_timeout"])

#: Settings that what is called so makes a setting of ours.
_PREFIXES = (
    "beat_", "broker_", "control_", "database_", "event_", "redis_", "result_", "security_", "task_", "worker_",
)  # fmt: skip

#: How near a name is to be taken for another one that was meant.
_NEAR = 0.84


def remarks(conf: Settings, *, on_node: bool) -> list[str]:
    """What to say at a worker's start about its settings: a sentence each."""
    said = [f"the setting {name} has no effect: {why}" for name, why in _without_effect(conf, on_node)]
    options = set(conf["broker_transport_options"] or ()) - _NODE_OPTIONS if on_node else set()
    if options:
        said.append(
            f"these broker_transport_options have no effect on a node: {', '.join(sorted(map(str, options)))}"
            " (connect_timeout has)"
        )
    return [*said, *_misspelt(conf)]


def _without_effect(conf: Settings, on_node: bool) -> Iterator[tuple[str, str]]:
    from zerocelery.app.defaults import OPTIONS

    table = {**ALWAYS, **ON_NODE} if on_node else ALWAYS
    for name, why in table.items():
        if conf.chosen(name) is not None and not _same(conf[name], OPTIONS[name].default):
            yield name, why if name in ALWAYS else f"with a node as the broker, {why}"


def _same(value: Any, default: Any) -> bool:
    return bool(value == default) or (not value and not default)


def _misspelt(conf: Settings) -> Iterator[str]:
    """Names that were set, are none of ours, and look like one of ours."""
    from zerocelery.app.defaults import OPTIONS

    strangers = [name for name in conf.without_defaults() if name not in OPTIONS and name.startswith(_PREFIXES)]
    if not strangers:
        return
    from difflib import get_close_matches

    for name in strangers:
        near = get_close_matches(name, OPTIONS, n=1, cutoff=_NEAR)
        if near:
            yield f"there is no setting {name}: is {near[0]} meant?"
