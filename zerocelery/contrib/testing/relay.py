"""What the processes of an embedded worker's pool do, told in the test's own process.

A test looks at log records, connects to ``task_received`` and reads :mod:`zerocelery.worker.state` in its own process,
and so does a worker whose pool is made of threads. A prefork pool runs its tasks in other processes: these tell of them
over a socket, and it is repeated here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import tempfile
import threading
from multiprocessing.connection import Client, Listener
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zerocelery import signals
from zerocelery.worker import state
from zerocelery.worker.request import Request

if TYPE_CHECKING:
    from zerocelery.app.base import Celery

_Connection = Any  # its class has another name on each system


class Relay:
    """The test's end.

    Arguments:
        app: whose requests these are.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._home = tempfile.TemporaryDirectory(prefix="zerocelery-")
        self._listener = Listener(os.path.join(self._home.name, "relay"), "AF_UNIX")
        self._closed = False
        self._connections: list[_Connection] = []
        self._threads = [threading.Thread(target=self._accept, name="zerocelery-relay", daemon=True)]
        self._threads[0].start()

    def in_child(self) -> None:
        """Called in each process of the pool: tell of what happens from now on."""
        _Teller(Client(self._listener.address, "AF_UNIX"))

    def close(self) -> None:
        """Hear no more; what was told is repeated before this returns."""
        self._closed = True
        with contextlib.suppress(OSError):
            Client(self._listener.address, "AF_UNIX").close()  # wakes who accepts
        for thread in self._threads:
            thread.join(timeout=2.0)
        for connection in self._connections:
            connection.close()
        self._listener.close()
        self._home.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:
                return
            if self._closed:
                connection.close()
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._hear, args=(connection,), name="zerocelery-relay", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _hear(self, connection: _Connection) -> None:
        while True:
            try:
                kind, told = connection.recv()
            except (EOFError, OSError):
                return
            if kind == "log":
                record = logging.makeLogRecord(told)
                logging.getLogger(record.name).handle(record)
            elif kind == "succeeded":
                state.successful_requests.add(told)
            else:
                self._received(told)
                with contextlib.suppress(OSError):
                    connection.send(None)

    def _received(self, told: dict[str, Any]) -> None:
        if signals.task_received.receivers:
            message = SimpleNamespace(**told)
            request = Request(message, app=self.app, hostname=message.headers.get("hostname"))
            signals.task_received.send(sender=self, request=request)


class _Teller(logging.Handler):
    """A child's end."""

    def __init__(self, connection: _Connection) -> None:
        super().__init__()
        self._connection = connection
        self._sending = threading.RLock()
        known = [logging.getLogger(name) for name in logging.Logger.manager.loggerDict]
        for logger in (logging.getLogger(), *known):
            logger.handlers[:] = []  # records go where they are repeated, and from there to whoever wants them
        logging.getLogger().addHandler(self)
        signals.task_received.receivers = []  # they are called in the test's process
        signals.task_received.connect(self.on_received, weak=False)
        signals.task_postrun.connect(self.on_postrun, weak=False)

    def _tell(self, kind: str, what: Any, *, answered: bool = False) -> None:
        with contextlib.suppress(OSError, EOFError), self._sending:
            self._connection.send((kind, what))
            if answered:
                self._connection.recv()

    def emit(self, record: logging.LogRecord) -> None:
        fields = dict(record.__dict__)
        if record.exc_info:
            fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
        fields["exc_info"] = None
        try:
            pickle.dumps(fields)
        except Exception:
            # as it would be written: what it was made of can't travel
            fields.update(msg=record.getMessage(), args=None)
            fields = {name: value for name, value in fields.items() if isinstance(value, (str, int, float, type(None)))}
        self._tell("log", fields)

    def on_received(self, request: Request, **_: Any) -> None:
        message = request.message
        told = {name: getattr(message, name) for name in vars(message)}
        try:
            pickle.dumps(told)
        except Exception:
            told["payload"] = ((), {}, {})
        self._tell("received", told, answered=True)

    def on_postrun(self, task_id: str, state: str | None = None, **_: Any) -> None:
        if state == "SUCCESS":
            self._tell("succeeded", task_id)
