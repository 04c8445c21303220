"""Processes of a contestant: started in their own group, found again by their mark, stopped without exception."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks import procfs
from benchmarks.errors import Failed, Hung

SCRIPTS = Path(__file__).parent / "scripts"

#: How long a process may take over a polite request to end.
_GRACE = 8.0

_POLL = 0.02

_Process = subprocess.Popen[bytes]


@dataclasses.dataclass(slots=True)
class Family:
    """Processes that share a mark: what we started, and whatever those started in turn."""

    log: Path
    environment: Mapping[str, str]
    mark: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def start(self, command: Sequence[str], *, stdin: int = subprocess.DEVNULL, stdout: int | None = None) -> _Process:
        """Start a command in the scripts' directory, its output in the log unless `stdout` says otherwise."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=SCRIPTS,
                env={**self.environment, procfs.MARK: self.mark},
                stdin=stdin,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def pids(self) -> list[int]:
        return procfs.marked(self.mark)

    def check(self) -> None:
        """Raises Failed when something that we started has ended by itself."""
        for process in self.started:
            if process.poll() is not None:
                raise Failed(f"{_command(process)} ended with {process.returncode}: {self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of what the processes printed."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        telling = [line.strip() for line in lines if line.strip(" ^~-")]
        return " | ".join(telling[-3:])

    def stop(self) -> None:
        """End all of them: politely those that we started, then what is left, then by force."""
        _signal([process.pid for process in self.started if process.poll() is None], signal.SIGTERM)
        self._await(lambda: all(process.poll() is not None for process in self.started))
        _signal(self.pids(), signal.SIGTERM)
        self._await(lambda: not self._remaining())
        _signal(self._remaining(), signal.SIGKILL)
        self._await(lambda: not self._remaining())
        for process in self.started:
            process.wait()
        self.started.clear()

    def _remaining(self) -> list[int]:
        for process in self.started:
            process.poll()
        return [pid for pid in self.pids() if procfs.alive(pid)]

    @staticmethod
    def _await(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _GRACE
        while not done() and time.monotonic() < deadline:
            time.sleep(_POLL)


class Client:
    """A contestant's client script: one request a line in, one answer a line out."""

    def __init__(self, family: Family, command: Sequence[str], *, watch: Callable[[], None], deadline: float) -> None:
        self._family = family
        self._watch = watch
        self._deadline = deadline
        self._process = family.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def pids(self) -> list[int]:
        return self._family.pids()

    def ask(self, action: str, **arguments: Any) -> dict[str, float]:
        """Have the script do `action` and return its figures.

        Raises:
            Hung: no answer within the deadline.
            Failed: the script says so, or it or its contestant's processes ended.
        """
        try:
            _pipe(self._process.stdin).write(json.dumps({"action": action, **arguments}).encode() + b"\n")
            _pipe(self._process.stdin).flush()
        except BrokenPipeError:
            raise Failed(f"{action}: the client has ended: {self._family.log_tail()}") from None
        answer = json.loads(self._line(action))
        if "error" in answer:
            raise Failed(f"{action}: {answer['error']}")
        return {name: float(value) for name, value in answer.items()}

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        self._family.stop()
        _pipe(self._process.stdout).close()

    def _line(self, action: str) -> bytes:
        output = _pipe(self._process.stdout)
        deadline = time.monotonic() + self._deadline
        while b"\n" not in self._buffer:
            self._wait(output, action, deadline)
            chunk = os.read(output.fileno(), 65536)
            if not chunk:
                raise Failed(f"{action}: the client ended: {self._family.log_tail()}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _wait(self, output: IO[bytes], action: str, deadline: float) -> None:
        while not select.select([output], [], [], 1.0)[0]:
            self._watch()
            if time.monotonic() > deadline:
                raise Hung(f"{action}: no answer within {self._deadline:g} s, killed: {self._family.log_tail()}")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise AssertionError("started without this pipe")
    return stream


def _command(process: _Process) -> str:
    """What was started, without its interpreter."""
    words = process.args if isinstance(process.args, list) else [str(process.args)]
    return " ".join(str(word) for word in words[1:] or words)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
