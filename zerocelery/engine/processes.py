"""Who is who on this machine: processes that can't be mistaken for one another, and the word that each worker keeps.

A worker's *word* is a small file, mapped into its memory, in which it writes the key of the task that it is about to
run, and in which the node can write that nothing more of its lease may be started. It outlives the worker: after a
``kill -9`` it says which of the leased tasks had been started. Who kills a worker on purpose (its pool) writes the
cause there first, so that the node can tell a time limit from an accident.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

logger = logging.getLogger("zerocelery.worker")

_WORD: Final = struct.Struct("<qqqd")
_KEY: Final = struct.Struct("<q")
_CAUSE: Final = struct.Struct("<qd")
_REVOKED_AT: Final = 8
_CAUSE_AT: Final = 16
NOTHING: Final = -1

#: Why a worker's process has ended, as its word says: by itself or by accident, because its task's time was over (after
#: so many seconds), because its pool was told to end at once, because its task was ended by somebody (by this signal).
ACCIDENT: Final = 0
TIME_LIMIT: Final = 1
SHUTDOWN: Final = 2
TERMINATED: Final = 3


def host_id() -> str:
    """Names this machine since its last boot, and this pid namespace: within it a pid means one process."""
    parts = [boot_id()]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(part for part in parts if part) or os.uname().nodename


def boot_id() -> str:
    """Another one after each boot of this machine; "" where the system doesn't tell."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def raise_descriptor_limit() -> None:
    """Each client takes two descriptors, and each worker six; the system's default allows some hundred of them only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def started(pid: int) -> int:
    """When the process was started, in clock ticks since boot; 0 where the system doesn't tell."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; [] where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def alive(pid: int, since: int) -> bool:
    """Whether this very process runs: not a zombie, not another one with its number."""
    fields = _stat(pid)
    if fields:
        return fields[0] not in "ZX" and (since == 0 or int(fields[19]) == since)
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Processes(Protocol):
    """What the collector asks of the machine about workers' processes; every answer may be 'unknown'."""

    def local(self, host: str) -> bool: ...
    def alive(self, pid: int, started: int) -> bool: ...
    def frozen(self, pid: int) -> bool: ...
    def watch(self, pid: int) -> bool: ...
    def running(self, word: str) -> int | None: ...
    def cause(self, word: str) -> tuple[int, float]: ...
    def revoke(self, word: str) -> None: ...
    def discard(self, word: str) -> None: ...


class LocalProcesses:
    """The machine as the collector sees it.

    Arguments:
        watch: registers a pid to be reported when its process ends; False where that can't be had.
        words: the directory of the workers' words: no other file is read, written or removed, whatever a worker says.
    """

    def __init__(self, watch: Callable[[int], bool] | None = None, words: Path | None = None) -> None:
        self._host = host_id()
        self._watch = watch
        self._words = words

    def _is_word(self, word: str) -> bool:
        if self._words is None or not word or "\0" in word:
            return False
        return os.path.realpath(os.path.dirname(word)) == os.path.realpath(self._words)

    def local(self, host: str) -> bool:
        return host == self._host

    def alive(self, pid: int, since: int) -> bool:
        return alive(pid, since)

    def frozen(self, pid: int) -> bool:
        """Whether the process was stopped by a signal (or a debugger)."""
        fields = _stat(pid)
        return bool(fields) and fields[0] in "Tt"

    def watch(self, pid: int) -> bool:
        return self._watch is not None and self._watch(pid)

    def running(self, word: str) -> int | None:
        """The key in a worker's word; NOTHING where it had started none, None where there is no word."""
        if not self._is_word(word):
            return None
        read = read_word(Path(word))
        return None if read is None else read[0]

    def cause(self, word: str) -> tuple[int, float]:
        """Why the worker's process was ended, and a number that goes with it (see TIME_LIMIT and its neighbours)."""
        read = read_word(Path(word)) if self._is_word(word) else None
        return (ACCIDENT, 0.0) if read is None else read[2:]

    def revoke(self, word: str) -> None:
        """Forbid the worker to start anything more of its lease."""
        if self._is_word(word):
            with contextlib.suppress(OSError), open(word, "r+b") as file:
                file.seek(_REVOKED_AT)
                file.write(_KEY.pack(1))

    def discard(self, word: str) -> None:
        """Remove a word that nobody will ask for again."""
        if self._is_word(word):
            with contextlib.suppress(OSError):
                os.unlink(word)


def read_word(word: Path) -> tuple[int, int, int, float] | None:
    """What a word says: the running key, the node's ban, the cause of its worker's end, and a number; None: no word."""
    try:
        key, revoked, cause, number = _WORD.unpack(word.read_bytes()[: _WORD.size])
    except (OSError, struct.error):
        return None
    return int(key), int(revoked), int(cause), float(number)


def signal_main_thread(pid: int, number: int) -> None:
    """Send a signal to the main thread of a process, where the system can; else to the process."""
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
    if tgkill is None or tgkill(pid, pid, number) != 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def read_key(word: Path) -> int | None:
    """The key in a worker's word; None where there is no word."""
    try:
        return int(_KEY.unpack_from(word.read_bytes())[0])
    except (OSError, struct.error):
        return None


def give_cause(word: Path, cause: int, number: float = 0.0) -> None:
    """Write into a worker's word why its process is about to be ended."""
    with contextlib.suppress(OSError), word.open("r+b") as file:
        file.seek(_CAUSE_AT)
        file.write(_CAUSE.pack(cause, number))


class Word:
    """A worker's own side of its word.

    Arguments:
        directory: where the file is made; without it, or where it can't be made, there is no word, and all tasks of a
            lost lease count as started.
        name: of the file.
    """

    def __init__(self, directory: Path | None, name: str) -> None:
        self.path = ""
        self._map: mmap.mmap | bytearray = bytearray(_WORD.size)
        self._directory = directory
        self._name = name

    def renew(self) -> None:
        """Begin a new life: nothing started, nothing revoked."""
        self.close()
        self.path = ""
        try:
            self._make(self._directory)
        except OSError as error:
            logger.warning("this worker keeps no word in %s: %s", self._directory, error)
        if not self.path:
            self._map[:] = _WORD.pack(NOTHING, 0, ACCIDENT, 0.0)

    def _make(self, directory: Path | None) -> None:
        if directory is None:
            return
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / self._name
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_EXCL, 0o600)
        try:
            os.write(fd, _WORD.pack(NOTHING, 0, ACCIDENT, 0.0))
            self._map = mmap.mmap(fd, _WORD.size)
        finally:
            os.close(fd)
        self.path = str(path)

    def start(self, key: int) -> bool:
        """Say that this task is about to run; False where the node has forbidden it.

        Written before it is asked, so that either the node sees the task as started or this sees the ban.
        """
        _KEY.pack_into(self._map, 0, key)
        return self._map[_REVOKED_AT] == 0

    @property
    def revoked(self) -> bool:
        """Whether the node has forbidden to start anything more."""
        return self._map[_REVOKED_AT] != 0

    def discard(self) -> None:
        """Remove the file: this worker has taken leave, and nobody needs to know more."""
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        """Let go of the file; the node removes it, or whoever tells the node of this worker's end."""
        if isinstance(self._map, mmap.mmap):
            self._map.close()
            self._map = bytearray(_WORD.size)
