"""Tells a node of the death of a worker whose process it can't see: one of another machine, or of another container.

The node would find out by the worker's silence, after ``lease_timeout``. Whoever keeps the worker's process knows at
once, and has the worker's word, which says what it was running and, where it was killed on purpose, why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final

from zerocelery.engine import wire
from zerocelery.engine.address import Address
from zerocelery.engine.errors import EngineError
from zerocelery.engine.processes import read_word
from zerocelery.transport.zmq import worker_link

#: A node that is not there for so long finds out by the worker's silence (seconds).
_PATIENCE: Final = 10.0


class Obituaries:
    """The messages of one pool about its dead, each sent by a thread of its own: the pool does not wait for a node."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._threads: list[threading.Thread] = []

    def write(self, worker_id: str) -> None:
        """This worker's process has ended; one that had said goodbye has no word, and there is nothing to tell."""
        if self.address.is_ipc or not worker_id:
            return  # the node is on this machine, and sees it by itself
        path = self.address.words / worker_id
        word = read_word(path)
        if word is None:
            return
        running, _, cause, number = word
        if not self.address.is_local:  # else the node reads it, and removes it
            with contextlib.suppress(OSError):
                path.unlink()
        message = wire.encode(wire.Lost(worker_id, running, cause, number))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(
            target=self._send, args=(worker_id, message), name="zerocelery-obituary", daemon=True
        )  # fmt: skip
        thread.start()
        self._threads.append(thread)

    def _send(self, worker_id: str, message: bytes) -> None:
        try:
            link = worker_link(self.address, f"{worker_id}-dead")
        except EngineError:  # no descriptors left: the node finds out by itself
            return
        try:
            until = time.monotonic() + _PATIENCE
            while not link.send(message) and (left := until - time.monotonic()) > 0:
                link.receive(left)  # returns when there is a connection
        finally:
            link.close(linger=1.0)

    def close(self) -> None:
        """Wait for what is being sent, but not for a node that is not there."""
        for thread in self._threads:
            thread.join(timeout=1.0)
