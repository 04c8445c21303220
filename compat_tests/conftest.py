"""What all tiers share: a node's home of its own for each test, processes that end with the test, and a leak census.

Tests run the real engine: real sockets, real processes, real signals. What a test starts it starts through
:class:`Sandbox`, which ends it; what is still there afterwards (a thread, a child, a descriptor) fails the test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from compat_tests.isolation import as_it_was

ROOT = Path(__file__).resolve().parents[1]

#: How long anything may take that a test waits for; a test that needs more says so itself.
PATIENCE = 20.0


def wait_until(predicate: Callable[[], object], *, timeout: float = PATIENCE, what: str = "") -> None:
    """Return when the predicate holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout:g} s: {what or getattr(predicate, '__name__', predicate)}")
        pause.wait(0.01)


def wait_for_end(pid: int, *, timeout: float = PATIENCE) -> None:
    """Return when the process has ended (also one that is not our child)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([fd], [], [], timeout)
        assert ready, f"process {pid} did not end within {timeout:g} s"
    finally:
        os.close(fd)


@dataclasses.dataclass
class Sandbox:
    """A directory that a node may live in, and the processes of one test."""

    home: Path
    processes: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    @property
    def url(self) -> str:
        return f"zmq://{self.home}/node"

    @property
    def node_dir(self) -> Path:
        return self.home / "node"

    @property
    def environment(self) -> dict[str, str]:
        """For child processes: zmq:// means this sandbox's node, and the tests' modules can be imported."""
        environment = dict(os.environ)
        environment["ZEROCELERY_HOME"] = str(self.home)
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(self.home), str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        )
        environment["PYTHONFAULTHANDLER"] = "1"
        environment.pop("PYTEST_ADDOPTS", None)  # they are for the run that this is
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each of some hundred processes compiles all anew: 0.4 s
        environment["C_FORCE_ROOT"] = "1"  # machines that only run tests often run them as root
        return environment

    def write(self, name: str, source: str) -> Path:
        """Write a module or script into the sandbox."""
        path = self.home / name
        path.write_text(textwrap.dedent(source))
        return path

    def start(
        self, *command: str, stdin: int | None = None, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own; its output goes to ``output(process)``."""
        log = (self.home / f"process-{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                command, cwd=self.home, env={**self.environment, **(env or {})}, stdin=stdin or subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def python(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a Python process, see :meth:`start`."""
        return self.start(sys.executable, *arguments, env=env)

    def script(self, source: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a Python program from its text."""
        path = self.write(f"script_{len(self.processes)}.py", source)
        return self.python(str(path), *arguments, env=env)

    def run(self, source: str, *arguments: str, timeout: float = PATIENCE) -> str:
        """Run a Python program from its text to its end, and give what it printed."""
        process = self.script(source, *arguments)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # it says where each of its threads is
            process.wait(PATIENCE)
            raise AssertionError(f"not at its end after {timeout:g} s:\n{self.output(process)}") from None
        assert code == 0, f"exit status {code}:\n{self.output(process)}"
        return self.output(process)

    def output(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has printed so far."""
        return (self.home / f"process-{self.processes.index(process)}.log").read_text(errors="replace")

    def wait_for_output(self, process: subprocess.Popen[bytes], text: str, *, timeout: float = PATIENCE) -> str:
        """Return when the process has printed this text."""

        def printed() -> bool:
            if text in self.output(process):
                return True
            assert process.poll() is None, f"ended with {process.returncode}:\n{self.output(process)}"
            return False

        wait_until(printed, timeout=timeout, what=f"output {text!r}; it was:\n{self.output(process)}")
        return self.output(process)

    def node_pid(self) -> int:
        """The pid of this sandbox's node; 0 where there is none."""
        try:
            pid = int((self.node_dir / "node.pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else 0

    def kill_node(self) -> int:
        """kill -9 the node, wait for its end; its pid."""
        wait_until(self.node_pid, what="a node")
        pid = self.node_pid()
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        return pid

    def ours(self) -> list[psutil.Process]:
        """Every living process that belongs to this sandbox, also detached ones."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get("ZEROCELERY_HOME") == str(self.home)
                    or any(str(self.home) in part for part in process.cmdline())
                ):  # fmt: skip
                    found.append(process)
        return found

    def end(self) -> None:
        """End everything that still runs, also what was started by what is being ended (a node by a worker)."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait(PATIENCE)

        def nobody() -> bool:
            others = self.ours()
            for other in others:
                with contextlib.suppress(psutil.NoSuchProcess):
                    other.kill()
            return not others

        wait_until(nobody, what="the end of the sandbox's processes")


@contextlib.contextmanager
def new_sandbox() -> Iterator[Sandbox]:
    """A sandbox whose path is short enough for Unix sockets; all that runs in it ends with it."""
    home = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
    box = Sandbox(home)
    try:
        yield box
    finally:
        box.end()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox of the test's own; ``zmq://`` in the test's own process means it, too."""
    with new_sandbox() as box:
        monkeypatch.setenv("ZEROCELERY_HOME", str(box.home))
        yield box


@pytest.fixture(scope="module")
def module_sandbox() -> Iterator[Sandbox]:
    """One sandbox for all tests of a module, where each leaves the workers in it as they were."""
    with new_sandbox() as box:
        yield box


@contextlib.contextmanager
def worker_process(
    box: Sandbox, source: str, *arguments: str, module: str = "proj", ready: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """``zerocelery -A module worker`` on an app whose source is given; stopped politely at the end."""
    box.write(f"{module}.py", source)
    process = box.python("-m", "zerocelery", "-A", module, "-b", box.url, "worker", *arguments)
    try:
        if ready:
            box.wait_for_output(process, "ready.")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"the worker did not stop:\n{box.output(process)}") from None


@pytest.fixture
def running_worker(sandbox: Sandbox) -> Iterator[Callable[..., str]]:
    """``running_worker(source, *options) -> url``: a worker that is up, with its node, until the test ends."""
    with contextlib.ExitStack() as stack:

        def start(source: str, *arguments: str, module: str = "proj") -> str:
            stack.enter_context(worker_process(sandbox, source, *arguments, module=module))
            return sandbox.url

        yield start


# ── leaks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _children() -> list[psutil.Process]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # there are none: asked a thousand times, that is worth not reading all of /proc
        return []
    return list(psutil.Process().children())


def _files() -> set[str]:
    """What lies where the tests run, but for what the test runner and Python itself leave there."""
    return {name for name in os.listdir() if not name.startswith((".", "__pycache__"))}


def _leaks(before_fds: dict[int, str], before_threads: set[threading.Thread], before_children: set[int]) -> list[str]:
    leaks = [f"thread {t.name}" for t in threading.enumerate() if t not in before_threads and t.is_alive()]
    for fd, target in _descriptors().items():
        if before_fds.get(fd) != target and target.startswith(("socket:", "pipe:", "anon_inode:", "/tmp/zc-")):
            leaks.append(f"descriptor {fd} → {target}")
    return leaks + [f"child {child.pid}" for child in _children() if child.pid not in before_children]


def pytest_collection_finish() -> None:
    """What importing all tests has made stays: the census needn't look through it after each of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What a test changes for the whole process ends with it."""
    with as_it_was():
        yield


@pytest.fixture(autouse=True)
def _nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thread, child process, socket, pipe or file that outlives its test fails it."""
    gc.collect()
    files = _files()
    fds, threads, children = _descriptors(), set(threading.enumerate()), {child.pid for child in _children()}
    yield
    _close_producers()
    deadline = time.monotonic() + 3.0
    pause = threading.Event()
    while leaks := _leaks(fds, threads, children):
        if time.monotonic() > deadline:
            pytest.fail(f"{request.node.name} leaked: {', '.join(leaks)}")
        gc.collect()
        pause.wait(0.02)
    if left := _files() - files:
        pytest.fail(f"{request.node.name} left in {os.getcwd()}: {', '.join(sorted(left))}")


def _close_producers() -> None:
    """Apps keep their client for the life of the process; a test's life is shorter."""
    module = sys.modules.get("zerocelery.engine.producer")
    if module is not None:
        for producer in list(module._producers):
            producer.close(timeout=0.0)


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def require_server(name: str, port: int) -> None:
    """Skip where there is no such server, with the reason; in CI its absence is a failure."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return
    reason = f"no {name} listens on 127.0.0.1:{port}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
