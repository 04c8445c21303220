"""Tasks from kombu's brokers, for the same worker, pool and leases.

Chosen: a worker whose broker is kombu's owns a private node, at an address of its own, and an *intake* that feeds it.
The intake consumes from the broker and submits each message to that node as the engine's task; the pool leases it from
there as any other. So pools, recycling, late starts, priorities, expiry and what happens when a child is killed are the
engine's, once, and a broker adds only the way in and the acknowledgement.

    broker ── consumer ──► intake ── submit ──► private node ── lease ──► pool (prefork, threads, solo)
       ▲                     ▲                                             │
       └─── ack, reject ─────┴──────────────── a word ─────────────────────┘

The word is a line in a named pipe, written by whoever runs the task: ``ack`` when it begins (the usual), or when it
has ended (``acks_late``), ``reject`` or ``requeue``; and ``done`` at its end where the intake is to take a message only
when a process is free (``worker_disable_prefetch``). A pipe and no result message: it holds for forked, spawned
and threaded workers, costs no message, and is heard by the one thread that may touch kombu's channel.

What is lost when something dies:

- the intake or the whole worker: the broker has not been told of anything that had not begun, so it delivers again. A
  word takes up to ``_LOOK`` seconds to become an acknowledgement: a worker killed within that time leaves a task that
  has begun with the broker, and it is run again, though it was to be acknowledged early;
- a child: the engine decides, by acks_late and reject_on_worker_lost, and ends the task with a verdict or runs it
  again. Every task is sent with AFTERMATH, so a verdict comes to a strategy, which stores it and gives the word;
- the private node: it has a journal, and the worker's supervisor starts it again;
- the connection to the broker: all messages that were not acknowledged are the broker's again, and come a second time.
  So what has not begun is not run, and late tasks that run are cancelled where the settings say so. A message is known
  by its tag *and* its connection: brokers count tags anew with each.

Not chosen: consuming in each child (a broker connection and a prefetch count for every process, and messages that wait
behind a long task though others are idle); acknowledging by results in the intake's inbox (it would have to be told of
beginnings, too, at the price of a message each).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from kombu.exceptions import OperationalError
from kombu.transport.virtual import Channel as VirtualChannel

from zerocelery import states
from zerocelery._state import Frame
from zerocelery.app import codec, delays
from zerocelery.app.message import NO_EMBED, PROTOCOL_HEADERS, Head, body_of, head_bytes, read_head, stamp_labels
from zerocelery.app.privatenode import PrivateNode
from zerocelery.app.stored import BrokerRun
from zerocelery.app.trace import AppStrategy
from zerocelery.backends.zmq import loss_exception
from zerocelery.engine import wire
from zerocelery.engine.errors import EngineError
from zerocelery.engine.producer import Producer
from zerocelery.engine.strategy import Outcome
from zerocelery.engine.worker import Worker
from zerocelery.exceptions import InvalidTaskError, TaskRevokedError, WorkerLostError
from zerocelery.transport.waiting import read_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zerocelery.app.base import Celery

__all__ = ("BrokerStrategy", "BrokerUnreachable", "Intake", "run_broker_worker", "task_from_message")

logger = logging.getLogger("celery.worker")

ACK, REJECT, REQUEUE = "ack", "reject", "requeue"
#: Said last of a task, where the intake counts what runs.
DONE = "done"
_DELIVERY_TAG = "delivery_tag"

#: How long one look at the broker takes while words may come (seconds), and when none is awaited.
_LOOK = 0.05
#: How long it may take to store how tasks have ended that were lost with the pool (seconds).
_SETTLES_WITHIN = 5.0
_LOOK_IDLE = 0.5
#: AMQP's reply code where another connection has a queue for itself.
_RESOURCE_LOCKED = 405
#: And where no task is to be taken.
_LOOK_FULL = 0.001


# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def task_from_message(
    message: Any, *, queue: str, flags: int = 0, keep: float | None = 0, tag: str | None = None
) -> wire.Task:
    """The engine's task for a message of Celery's protocol 1 or 2.

    Arguments:
        tag: by which the message is known here; its delivery tag unless given.
        keep: for how many seconds a node keeps its result.

    Raises:
        InvalidTaskError: it is neither.
    """
    headers = dict(message.headers or {})
    body: bytes = message.body if isinstance(message.body, bytes) else bytes(str(message.body), "utf-8")
    content = message.content_type or codec.JSON, str(message.content_encoding or codec.UTF8)
    # kombu has decompressed it, unless that failed: then whoever runs it is to say why
    compression = headers.get("compression") if message.errors else None
    if "task" not in headers:
        headers, content, body = _from_protocol_1(message)
    try:
        known_by = str(message.delivery_tag) if tag is None else tag
        task = _task(
            headers,
            message,
            content=content,
            body=body,
            compression=compression,
            queue=queue,
            flags=flags,
            tag=known_by,
        )
        return task if keep == 0 else msgspec.structs.replace(task, keep=keep)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidTaskError(f"the message is no task: {error!r}") from error


def _task(
    headers: dict[str, Any], message: Any, *, content: tuple[str, str], body: bytes, compression: str | None,
    queue: str, flags: int, tag: str,
) -> wire.Task:  # fmt: skip
    properties = dict(message.properties or {})
    delivery = message.delivery_info or {}
    limits = headers.get("timelimit") or (None, None)
    priority = properties.get("priority")
    ignore = headers.get("ignore_result")
    head = Head(
        content_type=content[0],
        content_encoding=content[1],
        compression=compression,
        retries=int(headers.get("retries") or 0),
        timelimit=(limits[0], limits[1]) if any(limits) else None,
        root_id=headers.get("root_id"),
        parent_id=headers.get("parent_id"),
        group=headers.get("group"),
        group_index=headers.get("group_index"),
        shadow=headers.get("shadow"),
        origin=headers.get("origin") or "",
        argsrepr=headers.get("argsrepr"),
        kwargsrepr=headers.get("kwargsrepr"),
        reply_to=properties.get("reply_to"),
        replaced_task_nesting=int(headers.get("replaced_task_nesting") or 0),
        stamped_headers=headers.get("stamped_headers"),
        stamps=headers.get("stamps") or None,
        exchange=delivery.get("exchange"),
        routing_key=delivery.get("routing_key"),
        has_priority=priority is not None,
        redelivered=bool(delivery.get("redelivered")),
        ignore_result=None if ignore is None else False,
        headers={key: value for key, value in headers.items() if key not in PROTOCOL_HEADERS} or None,
        properties={_DELIVERY_TAG: tag},
    )
    labels = sorted(stamp_labels(head.stamps)) if head.stamps else []
    if labels:
        flags |= wire.LABELLED
    return wire.Task(
        labels=labels,
        id=str(headers["id"]),
        name=str(headers["task"]),
        queue=queue,
        priority=min(max(int(priority or 0), 0), 255),
        eta=_seconds(headers.get("eta")),
        expires=_seconds(headers.get("expires")),
        flags=flags | (wire.IGNORE_RESULT if ignore else 0),
        keep=0,
        head=head_bytes(head),
        body=body,
    )


def _from_protocol_1(message: Any) -> tuple[dict[str, Any], tuple[str, str], bytes]:
    fields = message.decode() if message.accept is not None else message.payload
    if not isinstance(fields, dict) or "task" not in fields:
        raise InvalidTaskError("the message is of no protocol that Celery has")
    embed = {key: fields.get(key) for key in ("callbacks", "errbacks", "chord")}
    body = [fields.get("args") or (), fields.get("kwargs") or {}, {**embed, "chain": None}]
    content_type, encoding, data = codec.dumps(body, message.content_type or codec.JSON)
    return {**fields, "group": fields.get("group") or fields.get("taskset")}, (content_type, encoding), data


def _seconds(moment: Any) -> float | None:
    if moment is None:
        return None
    found = datetime.fromisoformat(moment.replace("Z", "+00:00")) if isinstance(moment, str) else moment
    return float((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp())


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class BrokerStrategy(AppStrategy):
    """Runs tasks that an intake has submitted, and gives the word about their messages.

    Arguments:
        words: path of the named pipe.
    """

    def __init__(self, app: Celery, words: str, *, hostname: str | None = None) -> None:
        super().__init__(app, hostname=hostname)
        self._fd = os.open(words, os.O_WRONLY | os.O_CLOEXEC)
        self._words = words
        self._counted = bool(app.conf["worker_disable_prefetch"])

    def detach(self) -> None:
        """Called when a worker ends; threads share the strategy, so the pipe stays open with the process."""

    def make_run(self, task: wire.Task, head: Head, args: Any, kwargs: Any, embed: Any) -> BrokerRun:
        backend = self.app.backend
        return BrokerRun(task, head, args, kwargs, embed, self.hostname, codec=None, keeper=backend)

    def run(self, task: wire.Task, /) -> Outcome:
        tag = _tag_of(task)
        try:
            return self._run(task, tag)
        finally:
            if self._counted:
                self._say(DONE, tag)

    def _run(self, task: wire.Task, tag: str) -> Outcome:
        if task.verdict:
            return self._end(task, tag)
        if os.path.exists(gone(self._words, tag)):
            return Outcome(states.IGNORED, final=False, store=False)  # it will come again, to be run then
        late = bool(task.flags & wire.ACK_LATE)
        if not late:
            self._say(ACK, tag)
        outcome = super().run(task)
        if late:
            self._say(self._word_for(task, outcome), tag)
        return outcome

    def _word_for(self, task: wire.Task, outcome: Outcome) -> str:
        if outcome.state == states.REJECTED:
            return REQUEUE
        known = self.app._tasks.get(task.name)
        if outcome.state != states.FAILURE or known is None:
            return ACK
        # the narrower setting wins where it is set
        said = known.acks_on_failure
        acknowledged = known.acks_on_failure_or_timeout if said is None else said
        return REJECT if acknowledged is False else ACK

    def _end(self, task: wire.Task, tag: str) -> Outcome:
        """Store how the engine has ended the task: nobody else will."""
        verdict = wire.decode_result(task.verdict)
        head = _head_of(task)
        try:
            args, kwargs, embed = body_of(task, head, self.accepts)
        except Exception:
            args, kwargs, embed = (), {}, NO_EMBED
        run = self.make_run(task, head, args, kwargs, embed)
        if isinstance(verdict, wire.Malformed):
            error: Exception = InvalidTaskError(verdict.reason)
        else:
            error = loss_exception(verdict)
        if task.flags & wire.RETRY_ON_LOST and isinstance(error, WorkerLostError):
            outcome = self._lost(run, error)
            if task.flags & wire.ACK_LATE:  # else it was acknowledged when it began
                self._say(REQUEUE if outcome.state == states.REJECTED else ACK, tag)
            return outcome
        frame = Frame(None, run)
        if isinstance(error, TaskRevokedError) and os.path.exists(gone(self._words, tag)):
            self._cancelled(run, frame)
            return run.outcome or Outcome(states.RETRY, store=False)
        logger.error("Task %s[%s] was ended: %s", task.name, task.id, error)
        if not isinstance(verdict, wire.Malformed) and verdict.state == states.REVOKED:
            self.app.backend.mark_as_revoked(task.id, str(error), request=frame.request)
            run.outcome = Outcome(states.REVOKED, store=False)
        else:
            self._failed_unrun(run, error, None, store=not run.ignored_by_caller)
        self._say(ACK, tag)
        return run.outcome or Outcome(states.FAILURE, store=False)

    def _cancelled(self, run: BrokerRun, frame: Frame) -> None:
        """It was ended because its message will come again."""
        error = WorkerLostError(
            "cancelled: the connection to the broker was lost while it ran, and it will be run again"
        )
        run.retried(frame, error, "", not run.ignored_by_caller)
        if self.events.wants(self.app._tasks.get(run.task.name)):
            self.events.make("task-cancelled", run.id)

    def _say(self, word: str, tag: str) -> None:
        # a line shorter than PIPE_BUF is written as a whole, whoever else writes
        os.write(self._fd, f"{word} {tag}\n".encode())


class SettlingStrategy(BrokerStrategy):
    """Stores how tasks have ended that were lost with a pool that is no more, and runs nothing: what has not begun is
    the broker's to deliver again."""

    policies: dict[str, int] = {}  # noqa: RUF012 - none differ: nothing is run

    def run(self, task: wire.Task, /) -> Outcome:
        if task.verdict:
            return super().run(task)
        return Outcome(states.IGNORED, final=False, store=False)


def settle_the_lost(app: Celery, private: PrivateNode, name: str) -> None:
    """Store the ends of the tasks that were lost with the pool."""
    queue = str(app.conf["task_default_queue"])
    worker = Worker(private.address, SettlingStrategy(app, private.words, hostname=name), queues=(queue,), name=name)
    thread = threading.Thread(target=worker.run, name="zerocelery-settling", daemon=True)
    thread.start()
    client = Producer(private.address)
    pause = threading.Event()  # never set: its wait is the pause
    deadline = time.monotonic() + _SETTLES_WITHIN
    try:
        while time.monotonic() < deadline:
            pause.wait(_LOOK)
            queues = msgspec.msgpack.decode(client.query("queues"))
            if not any(found["waiting"] or found["leased"] for found in queues.values()):
                break
        else:
            logger.error("how some tasks have ended could not be stored within %g s", _SETTLES_WITHIN)
    except EngineError as error:
        logger.error("how some tasks have ended could not be stored: %s", error)
    finally:
        client.close(timeout=0.0)
        worker.stop()
        thread.join(timeout=1.0)


def _head_of(task: wire.Task) -> Head:
    return read_head(task.head)


def _tag_of(task: wire.Task) -> str:
    return str((_head_of(task).properties or {}).get(_DELIVERY_TAG, ""))


def gone(words: str, tag: str) -> str:
    """The file that is there when the connection has gone that a message came by."""
    return f"{words}.{tag.partition(':')[0]}"


class BrokerStrategyFactory:
    """Makes the strategy in whatever process a pool calls it."""

    def __init__(self, factory: Callable[[], Any], words: str, hostname: str | None) -> None:
        self.factory = factory
        self.words = words
        self.hostname = hostname

    def __call__(self) -> Any:
        made = self.factory()
        strategy = BrokerStrategy(made.app, self.words, hostname=self.hostname)
        around = getattr(made, "around", None)  # a pool of somebody else's class
        return strategy if around is None else around(strategy)


# ── the intake ───────────────────────────────────────────────────────────────────────────────────────────────────────


class BrokerUnreachable(EngineError):
    """There is no broker, and the settings say not to wait any longer."""


class _Stopped(Exception):
    """It was told to stop while it waited."""


class Intake:
    """Consumes from the broker, submits to the private node, and acknowledges by the word.

    Arguments:
        address: of the private node.
        words: path of the named pipe.
        prefetch: how many messages to hold; 0 for as many as there are.
        on_ready: called when it consumes for the first time.
        desk: who answers for the worker (:class:`zerocelery.worker.desk.Desk`).
        most: how many tasks may run at a time, where none is to be taken while as many do.
    """

    def __init__(
        self, app: Celery, *, address: str, words: str, prefetch: int, on_ready: Callable[[], None] | None = None,
        desk: Any = None, most: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self.app = app
        self.desk = desk
        self._most = most
        self._path = words
        self._connections = 0
        self._running: set[str] = set()  # acknowledged and not done, where that is counted
        self._mailbox: Any = None
        self.address = address
        self.prefetch = prefetch
        self.on_ready = on_ready
        self._words = os.open(words, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        self._held: dict[str, Any] = {}
        self._later: set[str] = set()  # held for their time: they count for nothing in the prefetch
        self._quorum = False
        self._stopping = threading.Event()
        self._was_connected = False
        #: What ended it, and who is told.
        self.failure: Exception | None = None
        self.on_failure: Callable[[], object] = lambda: None
        self._policies: dict[str, int] = {}
        self._policy = 0

    def stop(self) -> None:
        """Consume nothing more; what has not begun is the broker's again."""
        self._stopping.set()

    def run(self) -> None:
        """Consume until :meth:`stop`; a broker that goes away is waited for."""
        strategy = AppStrategy(self.app)
        self._policy, self._policies = strategy.policy, strategy.policies
        producer = Producer(self.address)
        try:
            while not self._stopping.is_set():
                try:
                    self._consume(producer)
                except _Stopped:
                    break
                except Exception as error:
                    if not (isinstance(error, self._connection_errors()) or self._is_still_held(error)):
                        raise
                    logger.warning("the broker is gone (%s): trying again", error)
                    self._let_go()
                    self._stopping.wait(1.0)
        except Exception as error:
            # raised where the pool is waited for, in another thread
            self.failure = error
            self.on_failure()
        finally:
            producer.close()
            os.close(self._words)

    def _is_still_held(self, error: Exception) -> bool:
        """Whether RabbitMQ keeps this worker's own queue for a connection of which it doesn't know yet that it is lost.

        At the start it is another worker of this name that has the queue.
        """
        return self._connections > 1 and getattr(error, "code", None) == _RESOURCE_LOCKED

    def _let_go(self) -> None:
        """The connection is gone: what was not acknowledged on it will come again."""
        Path(gone(self._path, f"{self._connections}:")).touch()
        late = any(self._late(message) for message in self._held.values())
        if late and self.app.conf["worker_cancel_long_running_tasks_on_connection_loss"]:
            self._cancel()
        elif late:
            logger.warning(
                "tasks with late acknowledgement that run now will be run a second time: their messages can't be "
                "acknowledged any more. Set worker_cancel_long_running_tasks_on_connection_loss to have them cancelled"
            )
        self._held.clear()
        self._later.clear()

    def _cancel(self) -> None:
        """End the late tasks that run."""
        desk = self.desk
        if desk is None or not desk.state.consumer.can_terminate:
            logger.warning("late tasks can't be cancelled in a pool without processes of its own")
            return
        running = desk.tasks.running(lambda task: bool(self._flags_of(task.message.name) & wire.ACK_LATE))
        # for no time at all: their messages come again, to be run
        desk.tasks.station.revoke([task.id for task in running], terminate=True, keep=0.0)
        for task in running:
            if desk.state.consumer.terminate(task, signal.SIGTERM):
                logger.warning("Task %s[%s] is cancelled: it will come again", task.message.name, task.id)

    def _late(self, message: Any) -> bool:
        return bool(self._flags_of(str((message.headers or {}).get("task"))) & wire.ACK_LATE)

    def _flags_of(self, name: str) -> int:
        return self._policies.get(name, self._policy)

    def _connection_errors(self) -> tuple[type[BaseException], ...]:
        connection = self.app.connection_for_read()
        return (*connection.connection_errors, OperationalError)

    def _consume(self, producer: Producer) -> None:
        with self.app.connection_for_read() as connection:
            self._connect(connection)
            self._connections += 1
            channel = connection.default_channel
            self._take_only_what_can_run(channel)
            consumer: Any = self.app.amqp.TaskConsumer(channel)
            self._prepare_for_delays(connection)
            self._limit(consumer)
            consumer.on_message = lambda message: self._take(message, producer, consumer)
            with consumer, self._mail(connection, consumer):
                if self.on_ready is not None:
                    self.on_ready()
                    self.on_ready = None
                while not self._stopping.is_set():
                    self._look(connection, consumer)
                consumer.cancel()
                self._hear_the_last(consumer)

    def _prepare_for_delays(self, connection: Any) -> None:
        """With quorum queues, delays are RabbitMQ's affair, and limits those of each queue."""
        self._quorum = self.app.conf["worker_detect_quorum_queues"] and delays.natively(self.app, connection)
        if self._quorum:
            delays.prepare(self.app, connection)

    def _limit(self, consumer: Any) -> None:
        """Say how many messages are held. Those that wait for their time come on top, which RabbitMQ grants a consumer
        only where the limit is the channel's; and quorum queues don't have that."""
        wanted = self.prefetch + len(self._later) if self.prefetch else 0
        most: int | None = self.app.conf["worker_eta_task_limit"]
        count = wanted if most is None else min(wanted or most, most)
        if count:
            consumer.qos(prefetch_count=count, apply_global=not self._quorum)

    @contextlib.contextmanager
    def _mail(self, connection: Any, consumer: Any) -> Iterator[None]:
        """Take commands in, and publish events, while this connection is there."""
        if self.desk is None:
            yield
            return
        from zerocelery.worker.mailbox import Mailbox

        self._mailbox = Mailbox(self.app, self.desk, connection, self.address, consumer)
        try:
            yield
        finally:
            mailbox, self._mailbox = self._mailbox, None
            mailbox.close()

    def _connect(self, connection: Any) -> None:
        """Connect, as often and as patiently as the settings say.

        Raises:
            BrokerUnreachable: they say that this was enough.
        """
        conf, setting = self.app.conf, "broker_connection_retry"
        if not self._was_connected and conf["broker_connection_retry_on_startup"] is not None:
            setting = "broker_connection_retry_on_startup"
        url = connection.as_uri()
        refused: tuple[type[BaseException], ...] = (*self._connection_errors(), OSError)
        try:
            if conf[setting]:
                most = conf["broker_connection_max_retries"] or None
                connection.ensure_connection(self._not_yet(url), max_retries=most, callback=self._go_on)
            else:
                connection.connect()
        except refused as error:
            if conf[setting]:
                raise BrokerUnreachable(f"the broker at {url} was not there after {most} attempts: {error}") from error
            logger.critical(
                "Retrying to establish a connection to the message broker after a connection loss has been disabled "
                "(app.conf.%s=False). Shutting down...",
                setting,
            )
            raise BrokerUnreachable(f"the broker at {url} can't be reached: {error}") from error
        self._was_connected = True

    def _go_on(self) -> None:
        """Called while the broker is waited for."""
        if self._stopping.is_set():
            raise _Stopped

    @staticmethod
    def _not_yet(url: str) -> Callable[[Any, float], None]:
        def say(error: Any, pause: float) -> None:
            logger.error("the broker at %s can't be reached (%s): trying again in %g s", url, error, pause)

        return say

    def _take_only_what_can_run(self, channel: Any) -> None:
        """Hold back a channel that asks for messages by itself while all processes are busy."""
        if self._most is None:
            return
        if not isinstance(channel, VirtualChannel):
            logger.warning(
                "worker_disable_prefetch has no effect with this broker, which sends messages by itself: "
                "set worker_prefetch_multiplier = 1"
            )
            self._most = None
            return
        may: Any = channel.qos.can_consume
        channel.qos.can_consume = lambda: not self._full() and may()

    def _full(self) -> bool:
        """Whether as many tasks were taken as can run."""
        return self._most is not None and len(self._held) - len(self._later) + len(self._running) >= self._most()

    def _look(self, connection: Any, consumer: Any) -> None:
        if self._full():
            select.select([self._words], [], [], _LOOK)
            self._hear(consumer)
        with contextlib.suppress(socket.timeout):
            connection.drain_events(timeout=self._patience())
        self._hear(consumer)
        if self._mailbox is not None:
            self._mailbox.change_queues()
            self._mailbox.publish_events()

    def _patience(self) -> float:
        if self._full():
            return _LOOK_FULL
        return _LOOK if self._held or self._running else _LOOK_IDLE

    def _hear_the_last(self, consumer: Any) -> None:
        """What was said before the pool ended is in the pipe."""
        self._hear(consumer)

    def _take(self, message: Any, producer: Producer, consumer: Any) -> None:
        queue = self._queue_of(message)
        tag = f"{self._connections}:{message.delivery_tag}"
        try:
            task = task_from_message(message, queue=queue, flags=wire.AFTERMATH, tag=tag)
        except Exception as error:
            logger.error("a message that is no task is thrown away: %r", error)
            message.reject()
            return
        flags = self._flags_of(task.name)
        self._held[tag] = message
        if task.eta is not None and task.eta > time.time() and self.prefetch:
            self._later.add(tag)
            self._limit(consumer)
        producer.submit(task if not flags else _with_flags(task, flags))

    def _queue_of(self, message: Any) -> str:
        """The pool serves one queue of the private node for all of the broker's."""
        return str(self.app.conf["task_default_queue"])

    def _hear(self, consumer: Any) -> None:
        self._rest += read_now(self._words, 65536)
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            word, _, tag = line.decode().partition(" ")
            self._settle(word, tag, consumer)

    def _settle(self, word: str, tag: str, consumer: Any) -> None:
        if word == DONE:
            self._running.discard(tag)
            return
        message = self._held.pop(tag, None)
        if self._most is not None:
            self._running.add(tag)
        if tag in self._later:
            self._later.discard(tag)
            self._limit(consumer)
        if message is None or message.acknowledged:
            return  # of a connection that is gone: the broker delivers it again
        if word == REQUEUE:
            message.requeue()
        elif word == REJECT:
            message.reject()
        else:
            message.ack()


def _with_flags(task: wire.Task, flags: int) -> wire.Task:
    return msgspec.structs.replace(task, flags=task.flags | flags)


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────────


def run_broker_worker(
    app: Celery,
    *,
    strategy_factory: Callable[[], Any],
    pool: Any,
    concurrency: int,
    queues: Sequence[str],
    name: str,
    on_start: Callable[[Any], None],
    on_ready: Callable[[], None] | None = None,
    **options: Any,
) -> int:
    """Run a worker whose broker is kombu's; the exit status.

    Arguments:
        options: as those of :func:`zerocelery.engine.pool.run_worker`.

    Raises:
        BrokerUnreachable: there is no broker, and the settings say not to wait for it.
    """
    from zerocelery.engine.pool import run_worker

    app.select_queues(queues)
    private = PrivateNode()
    multiplier = int(app.conf["worker_prefetch_multiplier"] or 0)
    started: list[Any] = []
    most = (lambda: started[0].concurrency) if app.conf["worker_disable_prefetch"] else None
    intake = Intake(
        app, address=private.address, words=private.words, prefetch=concurrency * multiplier, on_ready=on_ready,
        desk=options.get("attendant"), most=most,
    )  # fmt: skip
    thread = threading.Thread(target=intake.run, name="zerocelery-intake", daemon=True)

    def joined() -> None:
        # the pool's processes have been forked by now: no thread of ours was alive in between
        if not thread.is_alive():
            thread.start()

    def began(supervisor: Any) -> None:
        started.append(supervisor)
        intake.on_failure = supervisor.stop
        on_start(supervisor)

    try:
        code = run_worker(
            address=private.address,
            strategy_factory=BrokerStrategyFactory(strategy_factory, private.words, name),
            pool=pool,
            concurrency=concurrency,
            queues=(str(app.conf["task_default_queue"]),),
            name=name,
            on_ready=joined,
            on_start=began,
            **options,
        )
        if intake.failure is not None:
            raise intake.failure
        if any(supervisor.stopping > 1 for supervisor in started):
            settle_the_lost(app, private, name)
        return code
    finally:
        intake.stop()
        if thread.is_alive():
            thread.join(timeout=5.0)
        private.close()
