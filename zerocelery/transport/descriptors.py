"""File descriptors: whether there are enough for a connection, and a node's door, which keeps some for itself."""

from __future__ import annotations

import logging
import os
import resource
import socket
from typing import Final

from zerocelery.engine.errors import NodeUnreachable

logger = logging.getLogger("zerocelery.node")

#: A node keeps this part of the descriptors that it may have, and at most so many, for its journal, its workers'
#: processes, and for peers that are being turned away.
_KEPT_PART: Final = 4
_KEPT_MOST: Final = 4_096


def descriptor_limit() -> int:
    """How many descriptors this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def check_descriptors(needs: int) -> None:
    """
    Raises:
        NodeUnreachable: the process has not this many descriptors to spare.
    """
    taken: list[int] = []
    try:
        taken.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(needs))
    except OSError as error:
        raise NodeUnreachable(
            f"this process (pid {os.getpid()}) has no {needs} file descriptors left for a connection, of the "
            f"{descriptor_limit()} that it may have: let it close some, or raise its limit (ulimit -n, LimitNOFILE=)"
        ) from error
    finally:
        for fd in taken:
            os.close(fd)


class Door:
    """Turns peers away before a node runs out of descriptors.

    Without one, libzmq would try to accept a waiting TCP peer again and again, at the cost of a processor, and at an
    ipc socket it would abort the process. With few left, who has just come is cut off; it tries again by itself, and
    whoever is connected notices nothing. (To unbind would cut off everybody.)
    """

    def __init__(self) -> None:
        self._limit = descriptor_limit()
        # A new descriptor is the lowest that is free: its number tells how many there are.
        self._highest = self._limit - min(_KEPT_MOST, self._limit // _KEPT_PART)
        self._turned_away = 0

    def admits(self, fd: int) -> bool:
        """Whether the peer that has just come, on this descriptor, may stay."""
        if fd < self._highest:
            return True
        self._turned_away += 1
        if self._turned_away & (self._turned_away - 1) == 0:  # 1, 2, 4, 8 …: they come again and again
            logger.warning(
                "a client was turned away (%d so far), for this node has used its file descriptors, %d of %d: stop "
                "some clients, or raise its limit (ulimit -n, LimitNOFILE=)", self._turned_away, fd, self._limit,
            )  # fmt: skip
        return False

    def shut(self, fd: int) -> None:
        """Cut a peer off whose descriptor is somebody else's to close, unless it may stay."""
        if self.admits(fd):
            return
        try:
            peer = socket.socket(fileno=fd)
        except OSError:  # gone already
            return
        try:
            peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # gone already
        finally:
            peer.detach()  # it is libzmq's, which closes it now
