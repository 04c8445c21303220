"""Tells when tasks end, for callers that must not wait themselves: one thread for all of them, while there are any."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from zerocelery.engine import wire
from zerocelery.engine.errors import EngineError

if TYPE_CHECKING:
    from zerocelery.engine.producer import Producer

#: Called with a task's result, or with what keeps it from coming; in the watch's thread, or in that of ``add``.
Tell = Callable[[wire.Result | Exception], object]

#: How long a thread with nothing to watch stays for what may come next (seconds).
_LINGER: Final = 1.0
#: How long one look at the inbox lasts, and after how long the node is asked again (seconds).
_LOOK: Final = 1.0
_ASK_AGAIN: Final = 30.0


class Watch:
    """The tasks of one producer that somebody wants to be told of.

    Safe in any number of threads; a forked child begins with nothing to watch.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._renew()

    def _renew(self) -> None:
        self._pid = os.getpid()
        self._guard = threading.Condition()
        self._wanted: dict[str, list[Tell]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        #: by this lock other readers of the inbox wake the thread
        self._mine = threading.Lock()
        self._mine.acquire()

    def add(self, task_id: str, token: int | None, tell: Tell) -> None:
        """Call ``tell`` once, when the task has ended.

        Arguments:
            token: what ``submit`` returned; None for a task that this producer has not submitted.

        Raises:
            EngineError: the watch was closed.
        """
        if self._pid != os.getpid():
            self._renew()
        producer = self._producer
        with self._guard:
            if self._closed:
                raise EngineError("this producer was closed: nothing can be awaited with it")
            known = task_id in self._wanted
            self._wanted.setdefault(task_id, []).append(tell)
            if not known:
                producer._enrol((task_id,), self._mine)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zerocelery-watch", daemon=True)
                self._thread.start()
            self._guard.notify()
        if task_id in producer._results:
            self._deliver()
        elif token != producer.epoch:
            producer._ask([task_id], wait=True)

    def discard(self, task_id: str, tell: Tell) -> None:
        """Don't call it any more; who was told already, was told."""
        with self._guard:
            tells = self._wanted.get(task_id, [])
            if tell in tells:
                tells.remove(tell)
            if not tells and self._wanted.pop(task_id, None) is not None:
                self._producer._dismiss((task_id,), self._mine)

    def close(self) -> None:
        """Tell whoever waits that nothing comes any more, and end the thread."""
        if self._pid != os.getpid():
            return
        with self._guard:
            self._closed = True
            self._guard.notify()
            thread = self._thread
        self._fail(EngineError("this producer was closed while a task was awaited"))
        if self._mine.locked():
            self._mine.release()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LOOK + 1)

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        producer = self._producer
        ask_at = producer._now() + _ASK_AGAIN
        try:
            while self._has_work():
                if not producer._connected:
                    producer._await_node(producer._now() + producer.options.connect_timeout)
                self._look()
                self._deliver()
                if producer._now() >= ask_at:
                    ask_at = producer._now() + _ASK_AGAIN
                    with self._guard:
                        left = list(self._wanted)
                    producer._ask(left, wait=True)
        except Exception as error:
            with self._guard:
                self._thread = None
            self._fail(error)

    def _has_work(self) -> bool:
        """Whether there is something to watch; if not, wait a moment for it. A thread that hears no is done."""
        with self._guard:
            if not self._wanted and not self._closed:
                self._guard.wait(_LINGER)
            if self._wanted and not self._closed:
                return True
            self._thread = None
            return False

    def _look(self) -> None:
        """Read the inbox, or wait for whoever reads it."""
        producer = self._producer
        reading = False
        try:
            reading = producer._reader.acquire(blocking=False)
            if reading:
                producer._read(_LOOK)
        finally:
            producer._stop_reading()
        if not reading:
            self._mine.acquire(timeout=_LOOK)
        if producer._kept or producer._unasked or not producer._connected:
            producer._maintain(producer._now())

    def _deliver(self) -> None:
        producer = self._producer
        with self._guard:
            came = []
            for task_id in [one for one in self._wanted if one in producer._results]:
                result = producer._collect(task_id)
                if result is not None:
                    came.append((result, self._wanted.pop(task_id)))
                    producer._dismiss((task_id,), self._mine)
        for result, tells in came:
            for tell in tells:
                tell(result)

    def _fail(self, error: Exception) -> None:
        with self._guard:
            wanted, self._wanted = self._wanted, {}
            self._producer._dismiss(wanted, self._mine)
        for tells in wanted.values():
            for tell in tells:
                tell(error)
