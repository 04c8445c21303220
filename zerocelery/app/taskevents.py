"""Events of the tasks that a process runs, as they are made and written; nothing of it needs kombu.

One message of the stream is the routing key, content type, encoding and bytes of what kombu would have published: an
event, or a list of them under ``task.multi``. Where nobody listens the node says so, and no event is made.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from typing import Any

import msgspec

from zerocelery.app import codec
from zerocelery.app.message import arguments_repr
from zerocelery.utils.log import get_logger
from zerocelery.utils.time import utcoffset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.app.trace import NodeRun
    from zerocelery.engine.worker import Worker

__all__ = ("TaskEvents", "pack", "unpack")

logger = get_logger("celery.events")

#: A batch of a process that runs without a pause leaves when it has so many events.
_TOGETHER = 500

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, str, str, bytes]).decode
_json = msgspec.json.Encoder().encode


def pack(value: Any, routing_key: str, serializer: str) -> bytes:
    """A message of the stream.

    Raises:
        kombu.exceptions.EncodeError: an event has something in it that can't be serialised.
    """
    if serializer == "json":
        try:
            return _encode((routing_key, codec.JSON, codec.UTF8, _json(value)))
        except (TypeError, ValueError, OverflowError):
            pass  # kombu's JSON knows more types
    return _encode((routing_key, *codec.dumps(value, serializer)))


def unpack(data: bytes) -> tuple[str, str, str, bytes]:
    """Routing key, content type, encoding and bytes of a message.

    Raises:
        ValueError: it is none.
    """
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"what came on the stream of events is none: {error}") from error


class TaskEvents:
    """Makes the events of the tasks that one process runs; they leave with the results.

    Arguments:
        on: whether to make them from the start.
    """

    def __init__(self, app: Celery, hostname: str, *, on: bool) -> None:
        self.app = app
        self.on = on
        self.stream = str(app.conf["event_exchange"])
        self.serializer = str(app.conf["event_serializer"])
        self.hostname = hostname
        self._made: list[dict[str, Any]] = []
        self._worker: Worker | None = None
        self._pid = 0
        self._clock = 0  # the last event's
        self._offset = utcoffset()

    def attach(self, worker: Worker) -> None:
        """Let what is made leave with this worker's reports."""
        self._pid = os.getpid()
        self._worker = worker
        worker.before_report = lambda: self.flush(worker)

    def wants(self, task: Any) -> bool:
        """Whether events of this task are to be made: they are on, the task sends some, and somebody listens."""
        worker = self._worker
        return (
            self.on and worker is not None and self.stream not in worker.unwatched
            and (task is None or bool(task.send_events))
        )  # fmt: skip

    def _tick(self, now: float) -> int:
        """The next event's clock.

        It follows the time: each process of a pool has a clock of its own, and who orders a worker's events by their
        clocks is to see them in their order. The app's clock is set by it when the events leave.
        """
        if not self._made:
            self._clock = max(self._clock, self.app.clock.value)
        self._clock = clock = max(self._clock + 1, int(now * 1000))
        return clock

    def make(self, type: str, uuid: str, **fields: Any) -> None:
        """Make one event."""
        now = time.time()
        self._made.append(
            {
                "type": type, "uuid": uuid, **fields, "hostname": self.hostname, "pid": self._pid,
                "clock": self._tick(now), "timestamp": now, "utcoffset": self._offset,
            }
        )  # fmt: skip
        if len(self._made) >= _TOGETHER and self._worker is not None:
            self.flush(self._worker)

    def begun(self, run: NodeRun) -> None:
        """A worker has a task, and runs it."""
        # Two events at once, written out: half of what -E costs a worker was in making them one by one.
        head, task = run.head, run.task
        now = time.time()
        clock = self._tick(now)
        self._made += (
            {
                "type": "task-received",
                "uuid": task.id,
                "name": task.name,
                "args": head.argsrepr if head.argsrepr is not None else arguments_repr(tuple(run.args)),
                "kwargs": head.kwargsrepr if head.kwargsrepr is not None else arguments_repr(run.kwargs),
                "root_id": head.root_id or task.id,
                "parent_id": run.parent_id,
                "retries": head.retries,
                "eta": _iso(task.eta),
                "expires": _iso(task.expires),
                "hostname": self.hostname,
                "pid": self._pid,
                "clock": clock,
                "timestamp": now,
                "utcoffset": self._offset,
            },
            {
                "type": "task-started", "uuid": task.id, "hostname": self.hostname, "pid": self._pid,
                "clock": self._tick(now), "timestamp": now, "utcoffset": self._offset,
            },
        )  # fmt: skip

    def ended(self, run: NodeRun, answer: Any) -> None:
        """The task has returned, or raised.

        Arguments:
            answer: what its tracer gave.
        """
        if answer.info is None:
            self.make("task-succeeded", run.id, result=answer.retstr, runtime=answer.runtime)
            return
        kind = _KINDS.get(answer.info.state)
        if kind == "task-rejected":
            self.make(kind, run.id, requeue=bool(getattr(answer.info.retval, "requeue", False)))
        elif kind is not None:
            error = answer.info.retval
            told = getattr(error, "exc", None) if kind == "task-retried" else error
            self.failed(run.id, told, getattr(answer.retval, "traceback", None), kind=kind)

    def failed(self, uuid: str, error: Any, traceback: Any, *, kind: str = "task-failed") -> None:
        """A task has failed, or is retried."""
        text = None if traceback is None else str(traceback)
        self.make(kind, uuid, exception=codec.safe_repr(error), traceback=text)

    def flush(self, worker: Worker) -> None:
        """Send what was made since the last time."""
        if not self._made:
            return
        made, self._made = self._made, []
        self._offset = utcoffset()
        self.app.clock.adjust(self._clock)
        try:
            worker.cast(self.stream, [pack(made, "task.multi", self.serializer)])
        except Exception as error:  # an event that can't be written must not cost a result
            logger.error("events were not sent: %r", error)


_KINDS = {"FAILURE": "task-failed", "RETRY": "task-retried", "REJECTED": "task-rejected"}


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, timezone.utc).isoformat()
