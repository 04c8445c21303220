"""A debugger in a worker's process, reached by telnet.

>>> from zerocelery.contrib import rdb
>>> @app.task
... def add(x, y):
...     result = x + y
...     rdb.set_trace()
...     return result

The task stops there, and the worker's log says which port to connect to. ``CELERY_RDB_HOST`` (127.0.0.1) and
``CELERY_RDB_PORT`` (6899, or the next one that is free) say where the debugger listens. Whoever reaches it can do all
that the worker can: never let it listen where others can connect.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from multiprocessing import current_process
from pdb import Pdb
from types import FrameType, TracebackType
from typing import Any

__all__ = ("CELERY_RDB_HOST", "CELERY_RDB_PORT", "DEFAULT_PORT", "Rdb", "debugger", "set_trace")

DEFAULT_PORT = 6899

CELERY_RDB_HOST = os.environ.get("CELERY_RDB_HOST") or "127.0.0.1"
CELERY_RDB_PORT = int(os.environ.get("CELERY_RDB_PORT") or DEFAULT_PORT)

_UNUSABLE = (errno.EADDRINUSE, errno.EINVAL)

#: The process's debugger, while there is one.
_current: list[Any] = [None]


def _frame() -> FrameType | None:
    """Where the caller of the caller is."""
    return sys._getframe(2)


class Rdb(Pdb):
    """A debugger that waits for somebody to connect, and then is theirs.

    Arguments:
        host, port: where to listen.
        port_search_limit: how many ports to try, from this one on.
        port_skew: how far from it to begin; a pool's processes are given one each.
        out: where to say so.
    """

    me = "Remote Debugger"
    active = False
    _prev_outs: Any = None
    _sock: Any = None
    _client: Any = None
    _handle: Any = None
    _reader: Any = None

    def __init__(
        self,
        host: str = CELERY_RDB_HOST,
        port: int = CELERY_RDB_PORT,
        port_search_limit: int = 100,
        port_skew: int = +0,
        out: Any = sys.stdout,
    ) -> None:
        self.active = True
        self.out = out
        self.host = host
        self._prev_handles = sys.stdin, sys.stdout
        self._sock, this_port = self.get_avail_port(host, port, port_search_limit, port_skew)
        self._sock.setblocking(True)
        self._sock.listen(1)
        self.port = this_port
        self.ident = f"{self.me}:{this_port}"
        self.say(
            f"{self.ident}: Ready to connect: telnet {host} {this_port}\n\n"
            f"Type `exit` in the session to go on.\n\n{self.ident}: Waiting for client..."
        )
        self._client, address = self._sock.accept()
        self._client.setblocking(True)
        self.remote_addr = ":".join(str(part) for part in address)
        self.say(f"{self.ident}: Now in session with {self.remote_addr}.")
        # Two files: one for both ways forgets what it has read ahead when something is written.
        self._reader = sys.stdin = self._client.makefile("r")
        self._handle = sys.stdout = self._client.makefile("w")
        super().__init__(completekey="tab", stdin=self._reader, stdout=self._handle)

    def get_avail_port(self, host: str, port: int, search_limit: int = 100, skew: int = +0) -> tuple[Any, int]:
        """A socket at the first port that is free, and the port.

        Raises:
            Exception: none was.
        """
        worker = current_process().name.rpartition("-")[2]
        skew = int(worker) if worker.isdigit() else skew
        for number in range(port + skew, port + skew + search_limit):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, number))
            except OSError as error:
                sock.close()
                if error.errno not in _UNUSABLE:
                    raise
                continue
            return sock, number
        raise Exception(
            f"{self.me}: none of the ports {port + skew} to {port + skew + search_limit - 1} is free: "
            "name one with the environment variable CELERY_RDB_PORT"
        )

    def say(self, m: str) -> None:
        """Tell those who read the worker's output."""
        print(m, file=self.out)

    def __enter__(self) -> Rdb:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close_session()

    def _close_session(self) -> None:
        sys.stdin, sys.stdout = self._prev_handles
        if not self.active:
            return
        for part in (self._reader, self._handle, self._client, self._sock):
            if part is not None:
                part.close()
        self.active = False
        _current[0] = None
        self.say(f"{self.ident}: Session with {self.remote_addr} ended.")

    def do_continue(self, arg: Any) -> bool:
        """Go on, and end the session."""
        self._close_session()
        self.set_continue()
        return True

    do_c = do_cont = do_continue

    def do_quit(self, arg: Any) -> bool:
        """End the session, and the task with it."""
        self._close_session()
        self.set_quit()
        return True

    do_q = do_exit = do_quit

    def set_quit(self) -> None:
        # Pdb's own would raise BdbQuit in the task.
        sys.settrace(None)

    def set_trace(self, frame: FrameType | None = None, **kwargs: Any) -> Any:
        """Stop here, or in a frame."""
        try:
            return super().set_trace(_frame() if frame is None else frame, **kwargs)
        except OSError as error:
            if error.errno != errno.ECONNRESET:  # whoever was connected has gone
                raise
            return None


def debugger() -> Rdb:
    """The process's debugger; one is made, and waits for somebody to connect, if there is none."""
    if _current[0] is None or not _current[0].active:
        _current[0] = Rdb()
    return _current[0]  # type: ignore[no-any-return]


def set_trace(frame: FrameType | None = None) -> Any:
    """Stop here, or in a frame, and wait for somebody to connect."""
    return debugger().set_trace(_frame() if frame is None else frame)
