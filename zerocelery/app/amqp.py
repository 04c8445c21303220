"""Messages, queues and producers for kombu's brokers.

A node is not spoken to through this module: what it says about queues and routes holds there too, but a task goes to a
node by :mod:`zerocelery.app.sending`. Here a call becomes the very message that Celery would send.
"""

from __future__ import annotations

import numbers
from collections import namedtuple
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import Any
from weakref import WeakValueDictionary

from kombu import connection, entity, messaging, pools
from kombu.common import Broadcast
from kombu.exceptions import OperationalError
from kombu.utils import functional

from zerocelery import signals
from zerocelery.app import message as _message
from zerocelery.app.routes import Router as _Router
from zerocelery.app.routes import prepare
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.app.base import Celery

__all__ = ("AMQP", "Queues", "task_message")

# kombu has no types
Connection: Any = connection.Connection
Consumer: Any = messaging.Consumer
Producer: Any = messaging.Producer
Exchange: Any = entity.Exchange
Queue: Any = entity.Queue
ProducerPool: Any = pools.ProducerPool
retry_over_time: Any = functional.retry_over_time

#: How often what follows a task is sent again where nobody has set a limit.
_MOST_RETRIES = 3

#: Whether what is sent now follows a chord that can't be completed again: then a refused connection is no end.
_callback_publish_retry: ContextVar[bool] = ContextVar("callback_publish_retry", default=False)

#: Seconds beyond which a countdown is a mistake.
_MOST_SECONDS = 2**31

_QUEUE_TYPES = ("classic", "quorum")

#: A message before it is sent: headers, properties, body, and the fields of its task-sent event.
task_message = namedtuple("task_message", ("headers", "properties", "body", "sent_event"))


def utf8dict(d: Any, encoding: str = "utf-8") -> dict[str, Any]:
    """A dict whose keys are text."""
    return {key.decode(encoding) if isinstance(key, bytes) else key: value for key, value in d.items()}


class Queues(dict[str, Any]):
    """The app's queues by name, and which of them a worker consumes from.

    Arguments:
        queues: kombu's queues, a list of them or a dict of options by name.
        default_exchange: of queues that name none.
        create_missing: whether looking at an unknown queue makes it.
        autoexchange: makes the exchange of such a queue, from its name.
        max_priority: ``x-max-priority`` of queues that say nothing else.
    """

    def __init__(
        self,
        queues: Any = None,
        default_exchange: Any = None,
        create_missing: bool = True,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Callable[[str], Any] | None = None,
        max_priority: int | None = None,
        default_routing_key: str | None = None,
    ) -> None:
        super().__init__()
        self.aliases: Any = WeakValueDictionary()
        self.default_exchange = default_exchange
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self.create_missing_queue_type = create_missing_queue_type
        self.create_missing_queue_exchange_type = create_missing_queue_exchange_type
        self.autoexchange = Exchange if autoexchange is None else autoexchange
        self.max_priority = max_priority
        self._consume_from: dict[str, Any] | None = None
        self._excluded: set[str] = set()
        self._selected_too: set[str] = set()
        if isinstance(queues, Mapping):
            for name, options in queues.items():
                self._add(options if isinstance(options, Queue) else _from_options(name, options))
        else:
            for queue in queues or ():
                self._add(queue if isinstance(queue, Queue) else Queue(queue))
        self._configured = set(self)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.aliases[name]
        except KeyError:
            return super().__getitem__(name)

    def __setitem__(self, name: str, queue: Any) -> None:
        exchange = queue.exchange
        if self.default_exchange is not None and (not exchange or not exchange.name):
            queue.exchange = self.default_exchange
        super().__setitem__(name, self._completed(queue))
        if queue.alias:
            self.aliases[queue.alias] = queue

    def __missing__(self, name: str) -> Any:
        if self.create_missing:
            return self.add(self.new_missing(name))
        raise KeyError(name)

    def _completed(self, queue: Any) -> Any:
        if not queue.routing_key:
            queue.routing_key = self.default_routing_key
        if self.max_priority is not None:
            arguments = dict(queue.queue_arguments or {})
            arguments.setdefault("x-max-priority", self.max_priority)
            queue.queue_arguments = arguments
        return queue

    def add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a queue, or one of a name and options; gives the queue."""
        return self._add(queue if isinstance(queue, Queue) else _from_options(queue, kwargs))

    def _add(self, queue: Any) -> Any:
        self[queue.name] = queue
        return queue

    def new_missing(self, name: str) -> Any:
        """The queue of a name that nobody has declared.

        Raises:
            ValueError: the settings name a type of queues that there isn't.
        """
        kind = self.create_missing_queue_type or "classic"
        if kind not in _QUEUE_TYPES:
            raise ValueError(f"Invalid queue type {kind!r}. Valid types are 'classic' and 'quorum'.")
        exchange = self.autoexchange(name)
        if self.create_missing_queue_exchange_type:
            exchange = Exchange(name, type=self.create_missing_queue_exchange_type)
        arguments = {"x-queue-type": "quorum"} if kind == "quorum" else None
        return Queue(name, exchange, name, queue_arguments=arguments)

    # which to consume from

    @property
    def consume_from(self) -> dict[str, Any]:
        """The queues that a worker consumes from."""
        if self._consume_from is not None:
            return self._consume_from
        if not self._excluded and not self._selected_too:
            return self
        wanted = (self._configured | self._selected_too) - self._excluded
        return {name: queue for name, queue in self.items() if name in wanted}

    def select(self, include: Any) -> None:
        """Consume from these queues only."""
        if include:
            found = [self[name] for name in _several(include)]
            self._consume_from = {queue.name: queue for queue in found}

    def deselect(self, exclude: Any) -> None:
        """Don't consume from these queues."""
        if not exclude:
            return
        for name in _several(exclude):
            queue = self.aliases.get(name)
            real = queue.name if queue is not None else name
            if self._consume_from is None:
                self._excluded.add(real)
            else:
                self._consume_from.pop(real, None)

    def select_add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a queue, and consume from it, too."""
        made = self.add(queue, **kwargs)
        if self._consume_from is None:
            self._selected_too.add(made.name)
            self._excluded.discard(made.name)
        else:
            self._consume_from[made.name] = made
        return made

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """The queues as people read them."""
        lines = [
            f".> {name:<16} exchange={queue.exchange.name}({queue.exchange.type}) key={queue.routing_key}"
            for name, queue in sorted(self.consume_from.items())
        ]
        pad = " " * indent
        first = pad if indent_first else ""
        return f"\n{pad}".join([f"{first}{lines[0]}", *lines[1:]]) if lines else ""


def _from_options(name: str, options: Mapping[str, Any]) -> Any:
    given = dict(options)
    given.setdefault("routing_key", given.get("binding_key"))
    if given["routing_key"] is None:
        given["routing_key"] = name
    return Queue.from_dict(name, **given)


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


class AMQP:
    """What an app has for kombu's brokers: queues, routes, messages, producers."""

    Connection = Connection
    Consumer = Consumer
    Producer = Producer
    BrokerConnection = Connection
    queues_cls = Queues
    argsrepr_maxsize = _message.REPR_LENGTH
    kwargsrepr_maxsize = _message.REPR_LENGTH
    autoexchange: Any = None
    max_priority: int | None = None

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.task_protocols: dict[int, Callable[..., task_message]] = {1: self.as_task_v1, 2: self.as_task_v2}
        self._producer_pool: Any = None
        self._made: dict[str, Any] = {}
        app.conf.watch("task_routes", lambda: self.flush_routes())

    # ── queues and routes ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def queues(self) -> Queues:
        """The app's queues."""
        found = self.__dict__.get("queues")
        if found is None:
            found = self.__dict__["queues"] = self.Queues(self.app.conf["task_queues"])
        return found

    @queues.setter
    def queues(self, queues: Any) -> None:
        self.__dict__["queues"] = queues if isinstance(queues, Queues) else self.Queues(queues)
        self._rtable_gone()

    def Queues(
        self,
        queues: Any,
        create_missing: bool | None = None,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Any = None,
        max_priority: int | None = None,
    ) -> Queues:
        """Queues with what the settings say of those that say nothing."""
        conf = self.app.conf
        if not queues and conf["task_default_queue"]:
            quorum = conf["task_default_queue_type"] == "quorum"
            queues = (
                Queue(
                    conf["task_default_queue"],
                    exchange=self.default_exchange,
                    routing_key=conf["task_default_routing_key"] or conf["task_default_queue"],
                    queue_arguments={"x-queue-type": "quorum"} if quorum else None,
                ),
            )
        return self.queues_cls(
            queues,
            self.default_exchange,
            conf["task_create_missing_queues"] if create_missing is None else create_missing,
            create_missing_queue_type or conf["task_create_missing_queue_type"],
            create_missing_queue_exchange_type or conf["task_create_missing_queue_exchange_type"],
            self.autoexchange if autoexchange is None else autoexchange,
            conf["task_queue_max_priority"] if max_priority is None else max_priority,
            conf["task_default_routing_key"] or conf["task_default_queue"],
        )

    @property
    def default_queue(self) -> Any:
        """The queue of tasks that are routed nowhere."""
        return self.queues[self.app.conf["task_default_queue"]]

    @property
    def default_exchange(self) -> Any:
        """The exchange of queues that name none."""
        conf = self.app.conf
        return Exchange(conf["task_default_exchange"] or conf["task_default_queue"], conf["task_default_exchange_type"])

    @property
    def routes(self) -> Any:
        """The routes of the settings."""
        found = self._made.get("routes")
        if found is None:
            found = self._made["routes"] = prepare(self.app.conf["task_routes"])
        return found

    @property
    def router(self) -> Any:
        """What finds a task's queue."""
        found = self.__dict__.get("router")
        if found is None:
            found = self.__dict__["router"] = self.Router()
        return found

    @router.setter
    def router(self, router: Any) -> None:
        self.__dict__["router"] = router

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> Any:
        """A router over the app's routes."""
        missing = self.app.conf["task_create_missing_queues"] if create_missing is None else create_missing
        return _Router(self.routes, queues or self.queues, missing, app=self.app)

    def flush_routes(self) -> None:
        """The routes' setting has changed."""
        self._made.pop("routes", None)
        self._rtable_gone()

    def _rtable_gone(self) -> None:
        self.__dict__.pop("router", None)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def utc(self) -> bool:
        """Whether times are sent in UTC."""
        return bool(self.__dict__.get("utc", self.app.conf["enable_utc"]))

    @utc.setter
    def utc(self, value: bool) -> None:
        self.__dict__["utc"] = value

    @property
    def create_task_message(self) -> Callable[..., task_message]:
        """What makes messages of the protocol that the settings choose."""
        return self.task_protocols[self.app.conf["task_protocol"]]

    def as_task_v2(
        self,
        task_id: str,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: Any = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Any = None,
        errbacks: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        root_id: str | None = None,
        parent_id: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        now: datetime | None = None,
        timezone: Any = None,
        origin: str | None = None,
        ignore_result: bool = False,
        argsrepr: str | None = None,
        kwargsrepr: str | None = None,
        stamped_headers: Any = None,
        replaced_task_nesting: int = 0,
        **options: Any,
    ) -> task_message:
        """The message of protocol 2.

        Raises:
            TypeError: the arguments are none.
            ValueError: the countdown is no time that anybody means.
        """
        args, kwargs = _arguments(args, kwargs)
        eta, expires = self._moment(eta, countdown, now, timezone), self._moment(expires, None, now, timezone)
        argsrepr = self._repr(args, self.argsrepr_maxsize) if argsrepr is None else argsrepr
        kwargsrepr = self._repr(kwargs, self.kwargsrepr_maxsize) if kwargsrepr is None else kwargsrepr
        root_id = root_id or task_id
        stamps = {header: options[header] for header in stamped_headers or ()}
        headers = {
            "lang": "py",
            "task": name,
            "id": task_id,
            "shadow": shadow,
            "eta": eta,
            "expires": expires,
            "group": group_id,
            "group_index": group_index,
            "retries": retries,
            "timelimit": [time_limit, soft_time_limit],
            "root_id": root_id,
            "parent_id": parent_id,
            "argsrepr": argsrepr,
            "kwargsrepr": kwargsrepr,
            "origin": origin or _message.origin(),
            "ignore_result": ignore_result,
            "replaced_task_nesting": replaced_task_nesting,
            "stamped_headers": stamped_headers,
            "stamps": stamps,
        }
        embed = {
            "callbacks": _signatures(callbacks),
            "errbacks": _signatures(errbacks),
            "chain": _signatures(chain),
            "chord": chord,
        }
        event = None
        if create_sent_event:
            event = {
                "uuid": task_id,
                "root_id": root_id,
                "parent_id": parent_id,
                "name": name,
                "args": argsrepr,
                "kwargs": kwargsrepr,
                "retries": retries,
                "eta": eta,
                "expires": expires,
            }
        properties = {"correlation_id": task_id, "reply_to": reply_to or ""}
        return task_message(headers, properties, (args, kwargs, embed), event)

    def as_task_v1(
        self,
        task_id: str,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: Any = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Any = None,
        errbacks: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        now: datetime | None = None,
        timezone: Any = None,
        **compat: Any,
    ) -> task_message:
        """The message of protocol 1, which has everything in its body."""
        args, kwargs = _arguments(args, kwargs)
        eta, expires = self._moment(eta, countdown, now, timezone), self._moment(expires, None, now, timezone)
        body = {
            "task": name,
            "id": task_id,
            "args": args,
            "kwargs": kwargs,
            "group": group_id,
            "group_index": group_index,
            "retries": retries,
            "eta": eta,
            "expires": expires,
            "utc": self.utc,
            "callbacks": _signatures(callbacks),
            "errbacks": _signatures(errbacks),
            "timelimit": (time_limit, soft_time_limit),
            "taskset": group_id,
            "chord": utf8dict(chord) if type(chord) is dict else chord,
        }
        event = None
        if create_sent_event:
            event = {
                "uuid": task_id,
                "name": name,
                "args": self._repr(args, self.argsrepr_maxsize),
                "kwargs": self._repr(kwargs, self.kwargsrepr_maxsize),
                "retries": retries,
                "eta": eta,
                "expires": expires,
            }
        return task_message({}, {"correlation_id": task_id, "reply_to": reply_to or ""}, body, event)

    def _repr(self, value: Any, size: int) -> str:
        from zerocelery.utils.saferepr import saferepr

        levels = self.app.conf["task_repr_maxlevels"]
        return str(saferepr(value, size, levels or _MOST_SECONDS))

    def _moment(self, value: Any, countdown: float | None, now: datetime | None, zone: Any) -> str | None:
        """A time of any kind as ISO 8601 text."""
        if value is None and countdown is not None:
            value = countdown
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, numbers.Real):
            if float(value) <= -_MOST_SECONDS:
                raise ValueError(f"a countdown of {value} seconds is out of range")
            base = now or self.app.now()
            zone = zone or base.tzinfo or self.app.timezone
            # hours are added in UTC: local clocks jump
            moment = (base.astimezone(timezone.utc) + timedelta(seconds=float(value))).astimezone(zone)
            return str(moment.isoformat())
        if isinstance(value, datetime):
            if value.tzinfo is None:
                value = value.replace(tzinfo=zone or self.app.timezone)
            return str(value.isoformat())
        return str(value) if value else None

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def producer_pool(self) -> Any:
        """Producers to be had for a while."""
        if self._producer_pool is None:
            connections = self.app.pool
            self._producer_pool = ProducerPool(connections, limit=connections.limit)
        return self._producer_pool

    publisher_pool = producer_pool

    def TaskConsumer(self, channel: Any, queues: Any = None, accept: Any = None, **kw: Any) -> Any:
        """A consumer of the queues that were selected."""
        accept = self.app.conf["accept_content"] if accept is None else accept
        make: Any = self.Consumer
        return make(channel, accept=accept, queues=queues or list(self.queues.consume_from.values()), **kw)

    @property
    def _event_dispatcher(self) -> Any:
        """What tells of tasks that were sent."""
        found = self._made.get("dispatcher")
        if found is None:
            found = self._made["dispatcher"] = self.app.events.Dispatcher(enabled=False)
        return found

    def send_task_message(self, producer: Any, name: str, message: task_message, **options: Any) -> Any:
        """Send a message."""
        return self._send_task_message(producer, name, message, **options)

    def _create_task_sender(self) -> Callable[..., Any]:
        return self._send_task_message

    def _send_task_message(
        self,
        producer: Any,
        name: str,
        message: task_message,
        exchange: Any = None,
        routing_key: str | None = None,
        queue: Any = None,
        event_dispatcher: Any = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        delivery_mode: Any = None,
        compression: str | None = None,
        declare: Any = None,
        headers: Mapping[str, Any] | None = None,
        exchange_type: str | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        conf = self.app.conf
        own, properties, body, sent_event = message
        own.update(headers or {})
        kwargs = {**properties, **kwargs}
        if queue is None and exchange is None:
            queue = self.default_queue
        if isinstance(queue, str):
            queue = self.queues[queue]
        name_of_queue = getattr(queue, "name", None)
        exchange, routing_key = _destination(queue, exchange, routing_key, exchange_type, conf)
        if declare is None and queue is not None and not isinstance(queue, Broadcast):
            declare = [queue]
        policy = {**(conf["task_publish_retry_policy"] or {}), **(retry_policy or {})}
        if delivery_mode is None:
            on_exchange = getattr(getattr(queue, "exchange", None), "delivery_mode", None)
            delivery_mode = on_exchange or conf["task_default_delivery_mode"]
        if signals.before_task_publish.receivers:
            signals.before_task_publish.send(
                sender=name, body=body, exchange=exchange, routing_key=routing_key, declare=declare, headers=own,
                properties=kwargs, retry_policy=policy,
            )  # fmt: skip
        retries = conf["task_publish_retry"] if retry is None else retry
        publish = producer.publish
        if retries and _callback_publish_retry.get():
            # tried again here, and not by the connection too
            publish, retries = self._patiently(producer, policy), False
        sent = publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            serializer=serializer or conf["task_serializer"],
            compression=compression or conf["task_compression"],
            retry=retries,
            retry_policy=policy,
            delivery_mode=delivery_mode,
            declare=declare,
            headers=own,
            timeout=timeout,
            confirm_timeout=confirm_timeout,
            **kwargs,
        )
        self._tell(name, own, body, exchange, routing_key)
        if sent_event:
            told = exchange, routing_key, name_of_queue
            self._tell_event(event_dispatcher, sent_event, producer, *told, retry, policy)
        return sent

    def _retry_publish(self, publish: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what publishes what follows a task; each message in it is tried again by the retry policy.

        The task has run: that a broker refuses a message for a moment must not make it run again.
        """
        if self.app.conf["task_always_eager"]:
            return publish(*args, **kwargs)
        token = _callback_publish_retry.set(True)
        try:
            return publish(*args, **kwargs)
        finally:
            _callback_publish_retry.reset(token)

    def _patiently(self, producer: Any, policy: Mapping[str, Any]) -> Callable[..., Any]:
        """The producer's publish, tried again as the policy says, but not for ever."""
        steps = dict(policy)
        connection = producer.connection
        recoverable = tuple(connection.recoverable_connection_errors or ())
        errors = (OperationalError, *(steps.pop("retry_errors", None) or ()), *recoverable)
        unbounded = steps.get("max_retries") is None
        if unbounded:
            usual = (self.app.conf["task_publish_retry_policy"] or {}).get("max_retries")
            steps["max_retries"] = _MOST_RETRIES if usual is None else usual
        refusals: list[Any] = []

        def refused(error: Any, intervals: Any, retries: int) -> float:
            if unbounded and not refusals:
                get_logger("celery.app.amqp").warning(
                    "Unbounded max_retries for worker callback messages would stop the worker: %s tries are made",
                    steps["max_retries"],
                )
            refusals.append(error)
            if recoverable and isinstance(error, recoverable):
                producer.revive(connection)
            return next(intervals)  # type: ignore[no-any-return]

        def again(*args: Any, **kwargs: Any) -> Any:
            return retry_over_time(producer.publish, errors, args, kwargs, errback=refused, **steps)

        return again

    def _tell(self, name: str, headers: Any, body: Any, exchange: Any, routing_key: Any) -> None:
        if signals.after_task_publish.receivers:
            signals.after_task_publish.send(
                sender=name, body=body, headers=headers, exchange=exchange, routing_key=routing_key
            )
        if signals.task_sent.receivers:
            fields = body if isinstance(body, dict) else {**headers, "args": body[0], "kwargs": body[1]}
            signals.task_sent.send(
                sender=name,
                task_id=fields["id"],
                task=name,
                args=fields["args"],
                kwargs=fields["kwargs"],
                eta=fields["eta"],
                taskset=fields["group"],
            )

    def _tell_event(
        self, dispatcher: Any, event: dict[str, Any], producer: Any, exchange: Any, routing_key: Any, queue: Any,
        retry: bool | None, policy: dict[str, Any],
    ) -> None:  # fmt: skip
        dispatcher = dispatcher or self._event_dispatcher
        exname = exchange.name if isinstance(exchange, Exchange) else exchange
        event.update(queue=queue, exchange=exname or queue, routing_key=routing_key)
        dispatcher.publish(
            "task-sent", event, producer, retry=self.app.conf["task_publish_retry"] if retry is None else retry,
            retry_policy=policy,
        )  # fmt: skip


def _destination(queue: Any, exchange: Any, routing_key: Any, exchange_type: Any, conf: Any) -> tuple[Any, Any]:
    """Exchange and routing key of a message.

    A queue behind a direct exchange is reached by its name, without looking the exchange's bindings up, unless both
    exchange and routing key are given.
    """
    if queue is None:
        return exchange, routing_key or conf["task_default_routing_key"]
    declared: Any = getattr(queue, "exchange", None)
    if isinstance(queue, Broadcast):
        return exchange or declared.name, routing_key or queue.routing_key
    kind = exchange_type or getattr(declared, "type", None) or "direct"
    if kind == "direct" and not (exchange and routing_key):
        return "", queue.name
    return exchange or declared.name or "", routing_key or queue.routing_key or conf["task_default_routing_key"]


def _arguments(args: Any, kwargs: Any) -> tuple[Any, Any]:
    args, kwargs = args or (), kwargs or {}
    if not isinstance(args, (list, tuple)):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    return args, kwargs


def _signatures(values: Iterable[Any] | None) -> Any:
    return [utf8dict(value) if isinstance(value, Mapping) else value for value in values] if values else None
