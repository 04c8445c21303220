"""Who is the node at an address of this machine: nobody, so that one may be started, or one process only.

Owning an address means holding the lock on ``node.lock`` in its directory. The lock goes with the process, however it
ends, so the next one can take over at once and nobody can take over from the living (ZeroMQ itself would let a second
node steal an ipc socket in silence).

Apart from the node itself, so that a worker, which only looks for one, doesn't load journal and collector.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from zerocelery.engine.address import Address, prepare_directory
from zerocelery.engine.errors import EngineError, NodeRunning, NodeUnreachable

if TYPE_CHECKING:
    from zerocelery.engine.journal import Durability


def take_lock(address: Address) -> int:
    """The lock of this address as an open descriptor.

    Raises:
        NodeRunning: somebody has it.
    """
    fd = os.open(address.directory / "node.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _lock_now(fd)
        _let_the_former_end(address)
    except OSError as error:
        os.close(fd)
        owner = owner_pid(address)
        raise NodeRunning(
            f"a node is running already at {address.url} ({f'pid {owner}' if owner else 'pid not written yet'}, "
            f"directory {address.directory}): use it, stop it, or choose another address"
        ) from error
    # A killed node's: from here on it would be taken for ours, which does not listen yet.
    (address.directory / "node.pid").unlink(missing_ok=True)
    return fd


def _lock_now(fd: int) -> None:
    """Take the lock; who only looks whether it is taken holds it for some microseconds, so one failure says little."""
    for _ in range(5):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.01)
        else:
            return
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _let_the_former_end(address: Address) -> None:
    """Make sure that nobody listens at an ipc node's sockets: ZeroMQ would take them from whoever does.

    A node that was killed may let go of its lock just before its sockets; one whose lock file was removed keeps them.

    Raises:
        OSError: somebody does.
    """
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.5)
            try:
                probe.connect(str(address.directory / "leases"))
            except TimeoutError:
                break
            except OSError:
                return
        time.sleep(0.01)
    raise FileExistsError(f"somebody listens at {address.directory / 'leases'}")


def owner_pid(address: Address) -> int:
    """The pid of the node that owns this address, as far as it is known; else 0."""
    try:
        return int((address.directory / "node.pid").read_text())
    except (OSError, ValueError):
        return 0


def is_owned(address: Address) -> bool:
    """Whether a living process is the node at this address of this machine."""
    return _is_locked(address) or (not address.is_ipc and _answers(address))


def _answers(address: Address) -> bool:
    """Whether ZeroMQ listens at a TCP node's last port: its directory may be another one, or on another machine."""
    try:
        with socket.create_connection((address.host, address.port + 2), timeout=0.5) as peer:
            return peer.recv(1) == b"\xff"  # how its greeting begins
    except OSError:
        return False


def _is_locked(address: Address) -> bool:
    try:
        fd = os.open(address.directory / "node.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def start_node(
    address: Address, *, durability: Durability = "process", options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start an embedded node at this address, as a process of its own that outlives its starter.

    Does not wait for it. Where another one is faster, the one started here ends by itself. What is returned is a
    go-between that ends within some milliseconds, and is to be waited for.

    Raises:
        AddressError: the directory can't be used.
    """
    prepare_directory(address.directory)
    command = [
        sys.executable, "-m", "zerocelery.engine.node", address.url, "--embedded",
        "--directory", str(address.directory), "--durability", durability, *options,
    ]  # fmt: skip
    log = os.open(
        address.directory / "node.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_TRUNC, 0o600
    )
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH", "")) if p)
    try:
        # Its starter's children must not keep it as theirs: a shell in between exits at once and init adopts the node.
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-S", "-c", _DETACH, *command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(log)


#: Starts the rest of its arguments as a process and ends without waiting for it.
_DETACH: Final = "import os,sys; os.fork() or os.execv(sys.argv[1], sys.argv[1:])"


def node_log(address: Address) -> str:
    """The last lines that an embedded node wrote, to tell why it did not start."""
    try:
        return "\n".join((address.directory / "node.log").read_text(errors="replace").splitlines()[-3:])
    except OSError:
        return ""


@contextlib.contextmanager
def node_on_its_way(address: Address, *, durability: Durability = "process") -> Iterator[None]:
    """While the block runs, a node starts if none runs at this address of this machine.

    For a program that has much to import before it needs one. It says nothing where none can be started:
    :func:`ensure_node`, which comes later, tries again and tells why.
    """
    between: subprocess.Popen[bytes] | None = None
    with contextlib.suppress(OSError, EngineError):
        if address.is_local and not is_owned(address):
            between = start_node(address, durability=durability)
    try:
        yield
    finally:
        if between is not None:
            between.wait()


def ensure_node(address: Address, *, timeout: float = 10.0, durability: Durability = "process") -> None:
    """Start a node if none runs at this address of this machine, and wait until it listens.

    Raises:
        NodeUnreachable: none could be started in time; the message holds what it said.
    """
    if not address.is_local:
        return
    start_at = time.monotonic()
    deadline, patience = start_at + timeout, 1.0
    while not _listening(address):
        if time.monotonic() >= start_at and not is_owned(address):
            _start_or_say_why(address, durability)
            start_at, patience = time.monotonic() + patience, patience * 2  # it may have died before it was seen
        if time.monotonic() > deadline:
            raise NodeUnreachable(
                f"no node could be started at {address.url} within {timeout:g} s. "
                f"Try it by hand: {address.start_command}\n{node_log(address)}".rstrip()
            )
        time.sleep(0.005)  # another process's file is the only sign there is


def _start_or_say_why(address: Address, durability: Durability) -> None:
    try:
        code = start_node(address, durability=durability).wait()
    except (OSError, subprocess.SubprocessError) as error:  # no descriptors, no memory, no processes left
        raise NodeUnreachable(f"no node could be started at {address.url}: {error}") from error
    if code:
        raise NodeUnreachable(f"no node could be started at {address.url}: {node_log(address)}")


def _listening(address: Address) -> bool:
    """Whether the owner of the address has bound its sockets (it writes its pid after that)."""
    return (bool(owner_pid(address)) and _is_locked(address)) or (not address.is_ipc and _answers(address))
