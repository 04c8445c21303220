"""What the processes of a pool and the process that keeps them tell each other without a message: shared memory.

Each slot of a pool has a row. A worker writes there until when its task may run, and whether it is busy; the pool's
process reads it when it has to act. A task without a time limit writes nothing, unless the pool counts who is busy.

The pool's process sleeps until the first moment that it knows of, and writes that moment on the board, too. A worker
whose task is due before it wakes the pool's process by a few bytes in a pipe; all others cost no system call.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import tempfile
from multiprocessing import reduction
from typing import Any, Final

#: The most slots that a pool has.
SLOTS: Final = 4096

_ROW_SIZE: Final = 256
_LABEL_SIZE: Final = 200
_NUMBER: Final = struct.Struct("<d")
_DUE, _LIMIT, _BUSY, _WORKER, _LABEL = 0, 8, 16, 24, 56

#: What is written to the pool's pipe: a slot that has joined, or this.
MESSAGE: Final = struct.Struct("<H")
LOOK: Final = 0xFFFF


class Board:
    """The shared memory of one pool; its descriptor is inherited by fork, and travels with spawn."""

    def __init__(self) -> None:
        self._size = _ROW_SIZE * (SLOTS + 1)  # only pages that are written to exist
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("zerocelery-board")
        else:  # pragma: no cover - macOS
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        os.ftruncate(self.fd, self._size)
        self._map = mmap.mmap(self.fd, self._size)
        self.sleep_until(math.inf)

    def __getstate__(self) -> object:
        return reduction.DupFd(self.fd)

    def __setstate__(self, state: Any) -> None:
        self.fd = state.detach()
        self._size = _ROW_SIZE * (SLOTS + 1)
        self._map = mmap.mmap(self.fd, self._size)

    def row(self, slot: int, pipe: int = -1) -> Row:
        """One slot's row.

        Arguments:
            pipe: where to wake the pool's process; for the slot's own process.
        """
        return Row(self, slot, pipe)

    def sleep_until(self, moment: float) -> None:
        """Say when the pool's process looks at the board by itself (monotonic; infinity: never)."""
        _NUMBER.pack_into(self._map, 0, moment)

    @property
    def wakes_at(self) -> float:
        return float(_NUMBER.unpack_from(self._map, 0)[0])

    def close(self) -> None:
        """Let go of the memory."""
        self._map.close()
        os.close(self.fd)


class Row:
    """What is known of one slot's process."""

    def __init__(self, board: Board, slot: int, pipe: int) -> None:
        self._board = board
        self._map = board._map
        self._at = _ROW_SIZE * (slot + 1)
        self._pipe = pipe

    # ── the process itself ───────────────────────────────────────────────────────────────────────────────────────────

    def clear(self) -> None:
        """Nothing is known: a new process."""
        self._map[self._at : self._at + _ROW_SIZE] = bytes(_ROW_SIZE)

    def sign(self, worker_id: str) -> None:
        """Say whose row this is."""
        self._write(_WORKER, worker_id.encode()[: _LABEL - _WORKER])

    def begin(self, due: float, limit: float, label: bytes) -> None:
        """A task begins that may run until ``due`` (monotonic), for ``limit`` seconds; the label is for people."""
        self._write(_LABEL, label[: _LABEL_SIZE - 1] + b"\0")
        _NUMBER.pack_into(self._map, self._at + _LIMIT, limit)
        _NUMBER.pack_into(self._map, self._at + _DUE, due)
        if due < self._board.wakes_at and self._pipe >= 0:
            os.write(self._pipe, MESSAGE.pack(LOOK))

    def end(self) -> None:
        """That task has ended."""
        _NUMBER.pack_into(self._map, self._at + _DUE, 0.0)

    def busy(self, since: float) -> None:
        """A task began then (monotonic); 0.0: none runs."""
        _NUMBER.pack_into(self._map, self._at + _BUSY, since)

    # ── the pool's process ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def due(self) -> float:
        """When the running task's time is over (monotonic); 0.0: no limit."""
        return float(_NUMBER.unpack_from(self._map, self._at + _DUE)[0])

    @property
    def limit(self) -> float:
        return float(_NUMBER.unpack_from(self._map, self._at + _LIMIT)[0])

    @property
    def busy_since(self) -> float:
        return float(_NUMBER.unpack_from(self._map, self._at + _BUSY)[0])

    @property
    def worker_id(self) -> str:
        return self._text(_WORKER, _LABEL - _WORKER)

    @property
    def label(self) -> str:
        return self._text(_LABEL, _LABEL_SIZE)

    def _write(self, offset: int, data: bytes) -> None:
        start = self._at + offset
        self._map[start : start + len(data)] = data

    def _text(self, offset: int, size: int) -> str:
        start = self._at + offset
        return self._map[start : start + size].split(b"\0", 1)[0].decode(errors="replace")
