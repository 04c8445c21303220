"""The process that runs a pool, as others see it: the worker by name that is asked, told, and sends heartbeats.

The pool calls it between other things (:class:`~zerocelery.engine.attendant.Attendant`), whether its children are busy
or not; so a worker answers at once. Commands are looked up in :class:`zerocelery.worker.control.Panel`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import msgspec
from kombu.matcher import match

from zerocelery import signals
from zerocelery.app import carried
from zerocelery.app.context import Context
from zerocelery.engine import wire
from zerocelery.engine.errors import EngineError
from zerocelery.engine.pool import Supervisor
from zerocelery.engine.producer import ProducerOptions
from zerocelery.engine.station import Station
from zerocelery.events.stream import NodeDispatcher
from zerocelery.utils.log import get_logger
from zerocelery.utils.sysinfo import load_average
from zerocelery.worker import state as worker_state
from zerocelery.worker.held import HeldTask, HeldTasks
from zerocelery.worker.stats import stats_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

__all__ = ("Desk",)

logger = get_logger("celery.worker.control")

#: How long a command from the broker waits for the pool's process (seconds).
_CARRIED_OUT_WITHIN = 10.0

#: How soon to look again while something is not acknowledged (seconds).
_LOOK = 0.3

#: How long a pool's start waits until its name is known at the node (seconds).
_KNOWN_WITHIN = 5.0

# kombu has no types
_match: Any = match

_FOR_EVER = float("inf")


class ControlState:
    """What a command gets: the app, the worker's name, and the worker itself as ``consumer``."""

    def __init__(self, app: Celery, hostname: str, consumer: Consumer) -> None:
        self.app = app
        self.hostname = hostname
        self.consumer = consumer
        self.tset = set


class Pool:
    """The pool, as commands see it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @property
    def num_processes(self) -> int:
        return self._supervisor.concurrency

    def grow(self, n: int = 1) -> None:
        """Have n workers more."""
        self._supervisor.resize(self._supervisor.concurrency + n)

    def shrink(self, n: int = 1) -> None:
        """Have n workers less; those that are too many finish what they run."""
        self._supervisor.resize(self._supervisor.concurrency - n)


class Controller:
    """The worker as a whole, as commands see it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.hostname = desk.hostname
        self.app = desk.app

    def __getattr__(self, name: str) -> Any:
        if self._desk.controller is None:
            raise AttributeError(f"this worker has no {name!r}")
        return getattr(self._desk.controller, name)

    @property
    def autoscaler(self) -> Any:
        """What changes the pool's size by itself, if anything does."""
        return self._desk.supervisor.autoscale

    def shutdown(self) -> None:
        """Finish what runs, and leave."""
        controller = self._desk.controller
        (controller if controller is not None else self._desk.supervisor).stop()

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Import modules (anew), and replace all processes."""
        import importlib
        import sys

        for name in self.app.loader.task_modules if modules is None else modules:
            if name not in sys.modules:
                self.app.loader.import_from_cwd(name)
            elif reload:
                (reloader or importlib.reload)(sys.modules[name])
        if self._desk.supervisor.children is not None:
            self._desk.supervisor.children.restart()

    def stats(self) -> dict[str, Any]:
        """Counts, and what the worker is made of."""
        return stats_of(self._desk)


class Consumer:
    """What commands know as ``state.consumer``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.app = desk.app
        self.hostname = desk.hostname
        self.tasks = desk.tasks
        self.pool = Pool(desk.supervisor)
        self.controller = Controller(desk)

    @property
    def event_dispatcher(self) -> Any:
        return self._desk.dispatcher

    @property
    def can_terminate(self) -> bool:
        """Whether a task that runs can be ended."""
        return self._desk.supervisor.can_terminate

    def terminate(self, task: HeldTask, number: int) -> bool:
        """Send a signal to the process that runs a task, or end its green thread; False where it no longer does."""
        return self._desk.supervisor.terminate(task.worker_id, task.key, number)

    def events_changed(self) -> None:
        """Events of tasks were turned on or off."""
        self._desk.tell(events=self._desk.sends_task_events)

    def send_heartbeat(self) -> None:
        """Send a heartbeat now, whenever the next one is due."""
        self._desk.heartbeat()

    def change_task(self, name: str, **attributes: Any) -> None:
        """Set attributes of a task, here and in all processes of the pool."""
        task = self.app.tasks[name]
        for attribute, value in attributes.items():
            setattr(task, attribute, value)
        self._desk.tell(tasks={name: attributes})

    def reset_rate_limits(self) -> None:
        """Tasks' rate limits have changed; the processes were told with the attributes."""

    def queues_as_dicts(self) -> list[dict[str, Any]]:
        """The queues that the pool serves, as kombu describes them."""
        if self._desk.task_consumer is not None:
            return [queue.as_dict(recurse=True) for queue in self._desk.task_consumer.queues]
        return [self.app.amqp.queues[name].as_dict(recurse=True) for name in self._desk.supervisor.queues]

    def add_task_queue(
        self, queue: str, exchange: Any = None, exchange_type: Any = None, routing_key: Any = None, **options: Any
    ) -> None:
        """Serve one more queue."""
        known = self.app.amqp.queues
        if queue not in known:
            exchange = queue if exchange is None else exchange
            known.select_add(
                queue, exchange=exchange, exchange_type=exchange_type or "direct",
                routing_key=routing_key or queue, **options,
            )  # fmt: skip
        if self._desk.task_consumer is not None:
            self._desk.consume_later.append((queue, True))
        else:
            self._desk.serve_queues([*self._desk.supervisor.queues, queue])
        logger.info("Started consuming from %s", queue)

    def cancel_task_queue(self, queue: str) -> None:
        """Serve a queue no longer."""
        if self._desk.task_consumer is not None:
            self._desk.consume_later.append((queue, False))
        else:
            self._desk.serve_queues([name for name in self._desk.supervisor.queues if name != queue])
        logger.info("No longer consuming from %s", queue)


class Desk:
    """Answers for the pool of this process.

    Arguments:
        hostname: the worker's name.
        controller: the worker as an object (:class:`zerocelery.worker.worker.WorkController`), where there is one.
        events: whether to send events of tasks from the start.
        heartbeat: seconds between two heartbeats, where events are sent; None: no heartbeats.
    """

    def __init__(
        self, app: Celery, hostname: str, controller: Any = None, *, events: bool = False, heartbeat: float | None = 2.0
    ) -> None:  # fmt: skip
        self.app = app
        self.hostname = hostname
        self.controller = controller
        self.began = time.monotonic()
        self.dispatcher: Any = None
        self._sends_events = events
        self._heartbeat = heartbeat
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        #: queues that the broker's consumer is to take up, or to leave: it belongs to another thread
        self.consume_later: deque[tuple[str, bool]] = deque()
        #: kombu's consumer of tasks, where the broker is no node; used in its own thread
        self.task_consumer: Any = None
        self._accepts = carried.acceptable(app)
        self._consumer: Consumer | None = None
        self._counts = (0, 0)  # tasks that run, and that were begun, when it was last asked

    # ── as the pool's attendant ──────────────────────────────────────────────────────────────────────────────────────

    def begin(self, supervisor: Supervisor) -> None:
        """Have the node know this worker by its name."""
        self.supervisor = supervisor
        # Its keeper would be a thread of the process that forks the pool's; attend() does what it does.
        self.station = Station(supervisor.address, options=ProducerOptions(keeper=False))
        self.station.on_notice = self.noticed
        self.tasks = HeldTasks(self.app, self.station, self.hostname, lambda: self.supervisor.queues)
        self._consumer = Consumer(self)
        self.state = ControlState(self.app, self.hostname, self._consumer)
        self.dispatcher = NodeDispatcher(
            self.station.cast, self.station.is_watched, app=self.app, hostname=self.hostname,
            groups={"worker", "task"} if self._sends_events else {"worker"},
        )  # fmt: skip
        try:
            self.station.attend(self.hostname, self.called, timeout=_KNOWN_WITHIN)
        except EngineError as error:
            logger.warning("nobody can ask %s anything before the node knows of it: %s", self.hostname, error)
        if worker_state.revoked:  # of this worker's former life (--statedb)
            self.tasks.revoke(list(worker_state.revoked))
        worker_state.take_back = self.tasks.take_back
        self.say("worker-online")
        self._beats_at = time.monotonic() + self._heartbeat if self._heartbeat else _FOR_EVER

    def fileno(self) -> int:
        return self.station.fileno()

    def patience(self) -> float:
        """When the next heartbeat is due, where anybody would hear it; soon, while something is not acknowledged."""
        due = self._beats_at if self.is_watched else _FOR_EVER
        return min(due, time.monotonic() + _LOOK) if self.station.is_restless else due

    def attend(self) -> None:
        self.station.serve()
        self._work_off()
        if self.is_watched and time.monotonic() >= self._beats_at:
            self._beats_at = time.monotonic() + (self._heartbeat or _FOR_EVER)
            self.heartbeat()

    def end(self) -> None:
        if worker_state.take_back == self.tasks.take_back:
            worker_state.take_back = None
        self.say("worker-offline")
        self.station.close(timeout=0.5)

    # ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_watched(self) -> bool:
        """Whether anybody listens to events, as far as it is known."""
        return bool(self.station.is_watched(self.dispatcher.exchange.name))

    def say(self, type: str) -> None:
        """Send an event of the worker itself."""
        if not self.is_watched:
            return
        try:
            if type != "worker-offline":  # its processes are gone
                self._counts = self.tasks.counts()
            active, processed = self._counts
            self.dispatcher.send(
                type, freq=self._heartbeat or 2.0, active=active, processed=processed,
                loadavg=load_average(), **worker_state.SOFTWARE_INFO,
            )  # fmt: skip
        except EngineError as error:
            logger.debug("no event %s was sent: %s", type, error)

    def heartbeat(self) -> None:
        """Send a heartbeat."""
        self.say("worker-heartbeat")
        signals.heartbeat_sent.send(sender=self)

    @property
    def answers(self) -> bool:
        """Whether commands are answered at all."""
        return bool(self.app.conf["worker_enable_remote_control"])

    # ── being called ─────────────────────────────────────────────────────────────────────────────────────────────────

    def called(self, body: bytes) -> bytes:
        """A command; gives the answer as it travels, b"" where it was meant for others."""
        try:
            call = carried.unpack(body, self._accepts)
            method, arguments = call["method"], call.get("arguments") or {}
            pattern, matcher = call.get("pattern"), call.get("matcher")
        except Exception as error:  # a stranger's message must not end the worker
            logger.error("a command that can't be read is not answered: %r", error)
            return b""
        self.app.clock.adjust(call.get("clock") or 0)
        if not self.answers:
            return b""
        if pattern and not _match(self.hostname, pattern, matcher or "glob"):
            return b""
        answer = {self.hostname: self.handle(method, arguments)}
        serializer = self.app.conf["task_serializer"]
        try:
            return carried.pack(answer, serializer)
        except Exception as error:
            return carried.pack({self.hostname: {"error": repr(error)}}, serializer)

    def handle(self, method: str, arguments: dict[str, Any]) -> Any:
        """Do what a command says; an error is the answer, too."""
        from zerocelery.worker.control import Panel

        try:
            return Panel.data[method](self.state, **arguments)
        except SystemExit:
            self.supervisor.stop()
            return None
        except Exception as error:
            logger.error("control command error: %r", error, exc_info=True)
            return {"error": repr(error)}

    def carry_out(self, method: str, arguments: dict[str, Any]) -> Any:
        """Do what a command says, from another thread: where the pool is looked after. The error is raised."""
        from zerocelery.worker.control import Panel

        def act() -> Any:
            return Panel.data[method](self.state, **arguments)

        if self.supervisor.children is None:
            return act()
        job: Future[Any] = Future()
        self._jobs.append((job, act))
        self.supervisor._wake()
        return job.result(_CARRIED_OUT_WITHIN)

    def _work_off(self) -> None:
        while self._jobs:
            job, act = self._jobs.popleft()
            try:
                job.set_result(act())
            except SystemExit:
                self.supervisor.stop()
                job.set_result(None)
            except Exception as error:
                job.set_exception(error)

    # ── telling the processes of the pool ────────────────────────────────────────────────────────────────────────────

    def tell(self, **what: Any) -> None:
        """Tell all processes of the pool (:meth:`zerocelery.app.trace.AppStrategy.told`)."""
        self.station.tell(msgspec.msgpack.encode(what))

    def serve_queues(self, names: Iterable[str]) -> None:
        """Serve these queues from now on."""
        self.supervisor.queues = tuple(dict.fromkeys(names))
        self.station.tell(queues=self.supervisor.queues)

    @property
    def sends_task_events(self) -> bool:
        return self.dispatcher is not None and "task" in self.dispatcher.groups

    # ── what the node tells ──────────────────────────────────────────────────────────────────────────────────────────

    def noticed(self, body: bytes) -> None:
        """One of the pool's tasks was revoked, is expired, or was ended while it ran."""
        kind, said, raw = msgspec.msgpack.decode(body, type=tuple[str, str, bytes])
        message = wire.decode_task(raw)
        if isinstance(message, wire.Malformed):
            return
        terminated, expired = kind == "terminated", kind == "expired"
        signum = int(said) if terminated and said.isdigit() else None
        fields, args, kwargs = self.tasks.request_of(message)
        request = Context(fields, args=args, kwargs=kwargs, hostname=self.hostname, called_directly=False)
        task = self.app.tasks.get(message.name)
        request.task = task  # type: ignore[attr-defined]
        if not terminated:
            logger.info("Discarding %s task: %s[%s]", "expired" if expired else "revoked", message.name, message.id)
        signals.task_revoked.send(
            sender=task, request=request, terminated=terminated, signum=signum, expired=expired
        )  # fmt: skip
        if self.sends_task_events:
            self.dispatcher.send(
                "task-revoked", uuid=message.id, terminated=terminated, signum=signum, expired=expired
            )  # fmt: skip
