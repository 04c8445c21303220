"""The node that a worker with a kombu broker has for itself, in a directory that is gone with the worker.

Who holds the flock on ``owner.lock`` in it lives: the worker, or children of it that finish what they run. A worker
that was killed leaves its directory behind, and the next one of this user to start removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from zerocelery.engine import tenure
from zerocelery.engine.address import parse_address
from zerocelery.utils.log import get_logger

__all__ = ("PrivateNode", "remove_stale")

logger = get_logger("celery.worker")

_PREFIX = "zerocelery-"
_LOCK = "owner.lock"


class PrivateNode:
    """A directory with a node's address and the pipe; both are gone at the end."""

    def __init__(self) -> None:
        remove_stale()
        self.directory = tempfile.mkdtemp(prefix=_PREFIX)
        self._lock = _taken(Path(self.directory))
        self.address = f"zmq://{self.directory}"
        self.words = str(Path(self.directory) / "words")
        os.mkfifo(self.words, 0o600)
        # a pipe that somebody reads can be opened for writing by whoever comes first
        self._keep_open = os.open(self.words, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """End the node, and remove the directory."""
        pid = tenure.owner_pid(parse_address(self.address))
        if pid:
            _end(pid)
        os.close(self._keep_open)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)


def _taken(directory: Path) -> int:
    """The lock of a new directory; it gets its name when it is taken, so nobody finds it free before."""
    fresh = directory / f"{_LOCK}.new"
    fd = os.open(fresh, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    fresh.rename(directory / _LOCK)
    return fd


def remove_stale() -> list[str]:
    """Remove the directories of this user's killed workers, where their nodes have ended, too; gives their names."""
    removed = []
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone in this moment
            if _is_ours(directory) and _is_stale(directory):
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(directory.name)
    if removed:
        logger.info("removed what killed workers have left in %s: %s", tempfile.gettempdir(), ", ".join(removed))
    return removed


def _is_ours(directory: Path) -> bool:
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _is_stale(directory: Path) -> bool:
    """Whether its owner is dead: nobody has its lock. One without a lock is just being made, or something else."""
    fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return not tenure.is_owned(parse_address(f"zmq://{directory}"))


def _end(pid: int) -> None:
    try:
        watch = os.pidfd_open(pid)
    except OSError:
        return
    with contextlib.closing(os.fdopen(watch, "rb", closefd=True)), contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        select.select([watch], [], [], 5.0)
