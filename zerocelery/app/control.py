"""Remote control of workers: commands that are broadcast, and what they answer."""

from __future__ import annotations

import warnings
from typing import Any

from kombu.matcher import match
from kombu.pidbox import Mailbox
from kombu.utils.functional import lazy

from zerocelery.exceptions import DuplicateNodenameWarning, ImproperlyConfigured
from zerocelery.utils.text import pluralize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.app.base import Celery

__all__ = ("Control", "Inspect", "flatten_reply")

#: The signal that ends a task, unless another is named.
TERM_SIGNAME = "SIGTERM"

_DUPLICATES = "Received multiple replies from node {0}: {1}. Please make sure you give each node a unique nodename."


def flatten_reply(reply: Any) -> dict[str, Any]:
    """Answers by the workers' names; two of one name are warned of."""
    nodes: dict[str, Any] = {}
    twice: set[str] = set()
    for item in reply:
        twice.update(name for name in item if name in nodes)
        nodes.update(item)
    if twice:
        names = ", ".join(sorted(twice))
        warnings.warn(DuplicateNodenameWarning(_DUPLICATES.format(pluralize(len(twice), "name"), names)), stacklevel=2)
    return nodes


class Inspect:
    """Questions to workers; each gives ``{name: answer}``, or None when nobody has answered.

    Arguments:
        destination: names of the workers to ask; all unless given.
        timeout: seconds to wait for answers.
        limit: how many answers are enough.
        pattern, matcher: or those whose names match.
    """

    app: Any = None

    def __init__(
        self,
        destination: Any = None,
        timeout: float = 1.0,
        callback: Any = None,
        connection: Any = None,
        app: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = app or self.app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _prepare(self, reply: Any) -> Any:
        if not reply:
            return None
        by_node = flatten_reply(reply)
        if self.destination and not isinstance(self.destination, (list, tuple)):
            return by_node.get(self.destination)
        matches: Any = match
        if self.pattern:
            return {name: answer for name, answer in by_node.items() if matches(name, self.pattern, self.matcher)}
        return by_node

    def _request(self, command: str, **kwargs: Any) -> Any:
        return self._prepare(
            self.app.control.broadcast(
                command,
                arguments=kwargs,
                destination=self.destination,
                callback=self.callback,
                connection=self.connection,
                limit=self.limit,
                timeout=self.timeout,
                reply=True,
                pattern=self.pattern,
                matcher=self.matcher,
            )
        )

    def report(self) -> Any:
        """What to put into a bug report."""
        return self._request("report")

    def clock(self) -> Any:
        """The logical clock."""
        return self._request("clock")

    def active(self, safe: Any = None) -> Any:
        """Tasks that run, by worker: a list of dicts with id, name, args, kwargs, time_start, worker_pid, ….

        Arguments:
            safe: arguments as text, not as they are.
        """
        return self._request("active", safe=safe)

    def scheduled(self, safe: Any = None) -> Any:
        """Tasks that wait for their time."""
        return self._request("scheduled")

    def reserved(self, safe: Any = None) -> Any:
        """Tasks that wait for a process."""
        return self._request("reserved")

    def stats(self) -> Any:
        """Counts, and what the worker is made of."""
        return self._request("stats")

    def revoked(self) -> Any:
        """Ids of revoked tasks."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Names of tasks, with these attributes of each."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def ping(self, destination: Any = None) -> Any:
        """Who is there."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active_queues(self) -> Any:
        """Queues that are consumed from."""
        return self._request("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """What is known of tasks, by their ids."""
        if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
            ids = ids[0]  # type: ignore[assignment]
        return self._request("query_task", ids=ids)

    def queues(self) -> Any:
        """How long the workers' queues are, how old their oldest task is, and how many of theirs are dead."""
        return self._request("queues")

    def conf(self, with_defaults: bool = False) -> Any:
        """The settings of each worker; those that look like secrets are masked.

        Arguments:
            with_defaults: also those that nobody has set.
        """
        return self._request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """Greet workers, and tell them what is revoked."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Any:
        """Take a sample of the memory in use."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """The samples taken."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """Draw what holds objects of a type."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)

    dump_active = active
    dump_reserved = reserved
    dump_revoked = revoked
    dump_schedule = scheduled
    dump_tasks = registered
    dump_conf = conf


class Control:
    """Commands to workers.

    Options of every command: ``destination`` (names of workers), ``pattern`` and ``matcher``, ``reply`` (wait for
    answers), ``timeout``, ``limit``, ``callback``, ``connection``.
    """

    Mailbox = Mailbox

    def __init__(self, app: Celery | None = None) -> None:
        conf: Any = app.conf if app is not None else {}
        exclusive, durable = conf["control_queue_exclusive"], conf["control_queue_durable"]
        if exclusive and durable:
            raise ImproperlyConfigured(
                "control_queue_exclusive and control_queue_durable cannot both be True "
                "(exclusive queues are automatically deleted and cannot be durable)."
            )
        self.app: Any = app
        make: Any = self.Mailbox
        later: Any = lazy
        self.mailbox: Any = make(
            conf["control_exchange"],
            type="fanout",
            accept=conf["accept_content"],
            serializer=conf["task_serializer"],
            producer_pool=later(lambda: app.amqp.producer_pool if app is not None else None),
            queue_ttl=conf["control_queue_ttl"],
            reply_queue_ttl=conf["control_queue_ttl"],
            queue_expires=conf["control_queue_expires"],
            queue_exclusive=exclusive,
            queue_durable=durable,
            reply_queue_expires=conf["control_queue_expires"],
        )

    def _after_fork(self) -> None:
        del self.mailbox.producer_pool

    @property
    def inspect(self) -> Any:
        """The class of questions: ``app.control.inspect().active()``."""
        found = self.__dict__.get("inspect")
        if found is None:
            found = self.__dict__["inspect"] = self.app.subclass_with_self(Inspect)
        return found

    def purge(self, connection: Any = None) -> Any:
        """Remove all waiting messages of the app's queues; how many there were. It can't be undone."""
        if connection is None and self.app.has_node:
            return sum(self.app.client.purge(name) for name in self.app.amqp.queues.consume_from)
        with self.app.connection_for_write() if connection is None else _Borrowed(connection) as conn:
            return self.app.amqp.TaskConsumer(conn).purge()

    discard_all = purge

    def election(self, id: str, topic: Any, action: Any = None, connection: Any = None) -> None:
        """Have the workers elect one of them."""
        self.broadcast(
            "election", connection=connection, destination=None, arguments={"id": id, "topic": topic, "action": action}
        )

    def revoke(
        self, task_id: Any, destination: Any = None, terminate: bool = False, signal: str = TERM_SIGNAME, **kwargs: Any
    ) -> Any:
        """Let no worker run a task, or several. At a node a waiting task is taken out of its queue, now and for good.

        Arguments:
            task_id: its id, or a list of ids.
            terminate: also end it where it runs: its process is killed and replaced.
            signal: what a process is ended with.
            destination: names of the workers that are meant; all unless given.
            kwargs: as for :meth:`broadcast`; ``reply=True`` waits for the answers.
        """
        arguments = {"task_id": task_id, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", destination=destination, arguments=arguments, **kwargs)

    def revoke_by_stamped_headers(
        self, headers: Any, destination: Any = None, terminate: bool = False, signal: str = TERM_SIGNAME, **kwargs: Any
    ) -> Any:
        """Let no worker run tasks that have any of these stamps.

        Arguments:
            headers: stamps by name; a value or several of each.
            terminate, signal, destination: as for :meth:`revoke`.
        """
        arguments = {"headers": headers, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", destination=destination, arguments=arguments, **kwargs)

    def terminate(self, task_id: Any, destination: Any = None, signal: str = TERM_SIGNAME, **kwargs: Any) -> Any:
        """As :meth:`revoke` with ``terminate``: the task is ended where it runs.

        Arguments:
            signal: what its process is ended with.
            destination: names of the workers that are meant; all unless given.
        """
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def ping(self, destination: Any = None, timeout: float = 1.0, **kwargs: Any) -> Any:
        """Who is there: a list of ``{worker: {"ok": "pong"}}``.

        Arguments:
            destination: names of the workers that are meant; all unless given.
            timeout: seconds to wait; a node does not wait for anybody it doesn't know.
        """
        return self.broadcast("ping", reply=True, arguments={}, destination=destination, timeout=timeout, **kwargs)

    def rate_limit(self, task_name: str, rate_limit: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Change how often each worker may start a task.

        Arguments:
            task_name: the task.
            rate_limit: as in ``"10/m"`` (``s``, ``m`` or ``h``), a number for a second; 0 or None for no limit.
            destination: names of the workers that are meant; all unless given.
        """
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", destination=destination, arguments=arguments, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Any = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers serve one more queue.

        Arguments:
            queue: its name; a queue that the settings don't have is made.
            exchange, exchange_type, routing_key, options: of such a queue; a direct exchange of its name unless given.
            destination: names of the workers that are meant; all unless given.
        """
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", destination=destination, arguments=arguments, **kwargs)

    def cancel_consumer(self, queue: str, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers serve a queue no longer; what waits in it stays.

        Arguments:
            destination: names of the workers that are meant; all unless given.
        """
        return self.broadcast("cancel_consumer", destination=destination, arguments={"queue": queue}, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Change how long a task may run, from its next run on.

        Arguments:
            soft: seconds until SoftTimeLimitExceeded is raised in it; None for no limit.
            hard: seconds until its process is killed; None for no limit.
            destination: names of the workers that are meant; all unless given.
        """
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", destination=destination, arguments=arguments, **kwargs)

    def enable_events(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send events."""
        return self.broadcast("enable_events", arguments={}, destination=destination, **kwargs)

    def disable_events(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send no events."""
        return self.broadcast("disable_events", arguments={}, destination=destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Any = None, **kwargs: Any) -> Any:
        """More processes or threads."""
        return self.broadcast("pool_grow", arguments={"n": n}, destination=destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Any = None, **kwargs: Any) -> Any:
        """Fewer processes or threads."""
        return self.broadcast("pool_shrink", arguments={"n": n}, destination=destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Any = None, **kwargs: Any) -> Any:
        """Change the bounds between which the number of processes follows the work.

        Arguments:
            max, min: the bounds. The worker has to be one with ``--autoscale``.
            destination: names of the workers that are meant; all unless given.
        """
        return self.broadcast("autoscale", arguments={"max": max, "min": min}, destination=destination, **kwargs)

    def shutdown(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers finish what runs, and leave."""
        return self.broadcast("shutdown", arguments={}, destination=destination, **kwargs)

    def pool_restart(
        self, modules: Any = None, reload: bool = False, reloader: Any = None, destination: Any = None, **kwargs: Any
    ) -> Any:
        """Replace all processes of the pool, when they have finished what they run.

        Arguments:
            modules: modules to import first; those with the app's tasks unless given.
            reload: import anew those that were imported.
            reloader: instead of ``importlib.reload``.
            destination: names of the workers that are meant; all unless given.
        """
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments=arguments, destination=destination, **kwargs)

    def heartbeat(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send a heartbeat now."""
        return self.broadcast("heartbeat", arguments={}, destination=destination, **kwargs)

    def broadcast(
        self,
        command: str,
        arguments: Any = None,
        destination: Any = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Any:
        """Send a command to workers.

        Arguments:
            command: its name; any that is registered with ``worker.control.Panel``.
            arguments: what it is called with, by name; further keyword arguments are added.
            destination: names of the workers that are meant; all unless given.
            reply: wait for the answers, and give a list of ``{worker: answer}``.
            timeout: seconds to wait; a node knows who is there, and does not wait for anybody else.
            limit: how many answers are enough.
            callback: called with each answer as it comes.
            pattern, matcher: a pattern of names instead of names, and its kind: ``glob`` or ``pcre``.
            connection, channel: to a broker that isn't a node.
        """
        arguments = {**(arguments or {}), **extra_kwargs}
        if self.app.has_node and (connection is None or connection.transport.driver_type == "zmq"):
            return self._call(
                command, arguments, destination, reply, timeout, limit, callback, (pattern, matcher)
            )  # fmt: skip
        given: tuple[Any, ...] = (command, arguments, destination, reply, timeout, limit, callback)
        options: dict[str, Any] = {"channel": channel}
        if pattern and matcher:
            options.update(pattern=pattern, matcher=matcher)
        with self.app.connection_or_acquire(connection) as conn:
            return self.mailbox(conn)._broadcast(*given, **options)

    def _call(
        self,
        command: str,
        arguments: dict[str, Any],
        destination: Any,
        reply: bool,
        timeout: float,
        limit: int | None,
        callback: Callable[[Any], Any] | None,
        pattern: tuple[str | None, str | None],
    ) -> Any:
        """Broadcast through the node, which knows who is there: it is over when all of them have answered."""
        from zerocelery.app import carried

        if isinstance(destination, str):
            destination = [destination]
        conf = self.app.conf
        if command in ("revoke", "revoke_by_stamped_headers"):
            self._revoke(arguments)
        call = {"method": command, "arguments": arguments, "clock": self.app.clock.forward()}
        if all(pattern):
            call.update(pattern=pattern[0], matcher=pattern[1])
        body = carried.pack(call, conf["task_serializer"])
        answers = self.app.client.call(body, destination, timeout=timeout, limit=limit, replies=reply)
        if not reply:
            return None
        accept = carried.acceptable(self.app)
        found = []
        for _, answer in answers:
            if answer:
                value = carried.unpack(answer, accept)
                if callback is not None:
                    callback(value)
                found.append(value)
        return found

    def _revoke(self, arguments: dict[str, Any]) -> None:
        """Tell the node, too: no worker needs to be there for a task to be taken out of its queue."""
        from zerocelery.app.message import stamp_labels
        from zerocelery.worker.state import REVOKE_EXPIRES

        ids, headers = arguments.get("task_id") or (), arguments.get("headers") or {}
        ids = [str(one) for one in (ids if isinstance(ids, (list, tuple, set)) else [ids])]
        terminate = bool(arguments.get("terminate"))
        self.app.client.revoke(ids, sorted(stamp_labels(headers)), terminate=terminate, keep=REVOKE_EXPIRES)

    def dead_letters(self) -> list[dict[str, Any]]:
        """The tasks that were given up because too many workers were lost with them: id, name, queue, when, history.

        Raises:
            ImproperlyConfigured: the broker is no node.
        """
        self._require_node()
        return list(self.app.client.ask("dead"))

    def send_again(self, ids: Any = None) -> list[str]:
        """Send dead letters again, as if no worker had been lost with them; the ids of those that were.

        Arguments:
            ids: of tasks; None: all.

        Raises:
            ImproperlyConfigured: the broker is no node.
        """
        self._require_node()
        return list(self.app.client.ask("unbury", {"ids": None if ids is None else list(ids)}))

    def forget_dead(self, ids: Any = None) -> list[str]:
        """Keep dead letters no longer; the ids of those that are gone. As :meth:`send_again`."""
        self._require_node()
        return list(self.app.client.ask("unbury", {"ids": None if ids is None else list(ids), "again": False}))

    def _require_node(self) -> None:
        if not self.app.has_node:
            raise ImproperlyConfigured("only a node (zmq://) keeps dead letters: ask your broker's own tools")

    def queues(self) -> dict[str, Any]:
        """Of each queue of the node: ``waiting``, ``scheduled``, ``leased`` and ``dead`` tasks, and ``oldest``, the age
        of the oldest that waits, in seconds.

        Raises:
            ImproperlyConfigured: the broker is no node.
        """
        if not self.app.has_node:
            raise ImproperlyConfigured("only a node (zmq://) knows how old its tasks are: ask your broker's own tools")
        return self.app.client.ask("queues")  # type: ignore[no-any-return]


class _Borrowed:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def __enter__(self) -> Any:
        return self.connection

    def __exit__(self, *exc_info: object) -> None:
        """It is somebody else's."""
