"""Where a node lives: ``zmq://``, ``zmq:///a/directory`` or ``zmq://host:port``.

An ipc node's directory holds its sockets, its journal, its lock and its pid. A TCP node takes three ports in a row
from the one in its address, and keeps its journal in a directory of this machine; ``?keys=DIR`` (or ZEROCELERY_KEYS)
names the directory of its CURVE keys.
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from zerocelery.engine.errors import AddressError

SCHEME = "zmq"

#: A Unix socket's path: sun_path has 108 bytes, one of them the final NUL.
MAX_IPC_PATH = 107

#: The longest socket name in a node's directory, with its slash.
_LONGEST_SOCKET = "/results"


def is_node(url: str) -> bool:
    """Whether the URL is a node's."""
    return url.partition("://")[0] == SCHEME


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """One node's address. ``directory`` is where it keeps its files, also for TCP; ``host`` is '' for ipc.

    ``keys``: directory of CURVE keys (:mod:`zerocelery.transport.curve`); None: connections are open.
    """

    url: str
    directory: Path
    host: str = ""
    port: int = 0
    keys: Path | None = None

    @property
    def is_ipc(self) -> bool:
        return not self.host

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can reach it."""
        if self.is_ipc or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def tasks(self) -> str:
        """Endpoint of the collector: producers push here."""
        return self._endpoint("tasks", 0)

    @property
    def results(self) -> str:
        """Endpoint of the publisher: inboxes subscribe here."""
        return self._endpoint("results", 1)

    @property
    def leases(self) -> str:
        """Endpoint where workers ask for tasks."""
        return self._endpoint("leases", 2)

    @property
    def words(self) -> Path:
        """Where workers of this machine keep their words, and the only place where a node looks for one."""
        # A TCP node's directory is its own affair: its workers don't know it.
        return (self.directory if self.is_ipc else state_home()) / "workers"

    def is_deserted(self) -> bool:
        """Whether nobody listens here at this moment; an answer that a few microseconds give."""
        if not self.is_ipc:
            return False  # that takes a connection to find out
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            return probe.connect_ex(self.tasks.removeprefix("ipc://")) in (errno.ECONNREFUSED, errno.ENOENT)

    @property
    def start_command(self) -> str:
        """What a person types to start a node here."""
        return f"zerocelery node -b {self.url}"

    def with_port(self, port: int) -> Address:
        """The same node at the port that it really got."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = f"?keys={self.keys}" if self.keys else ""
        return dataclasses.replace(self, port=port, url=f"{SCHEME}://{host}:{port}{query}")

    def _endpoint(self, name: str, offset: int) -> str:
        if self.is_ipc:
            return f"ipc://{self.directory}/{name}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port + offset}"


def state_home() -> Path:
    """Where this user's nodes live unless an address names a directory (ZEROCELERY_HOME, XDG_STATE_HOME)."""
    chosen = os.environ.get("ZEROCELERY_HOME")
    if chosen:
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state and os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "zerocelery"


def parse_address(url: str | Address, *, directory: str | os.PathLike[str] | None = None) -> Address:
    """Read a node's address.

    Arguments:
        url: ``zmq://``, ``zmq:///dir`` or ``zmq://host:port``.
        directory: where a TCP node keeps its journal; by default a directory of its own below the user's state.

    Raises:
        AddressError: the address can't be a node's; the message says what one looks like.
    """
    if isinstance(url, Address):
        return url
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise AddressError(f"{url!r} can't be read: {error}") from error
    if parts.scheme != SCHEME:
        raise AddressError(
            f"{url!r} is no node's address: write zmq:// (this user's node), zmq:///a/directory or zmq://host:port"
        )
    if parts.username or parts.password:
        raise AddressError(f"a node's address has no user or password ({parts.hostname}): TCP nodes use CURVE keys")
    if not parts.netloc:
        return _ipc(url, parts.path)
    try:
        port = parts.port
    except ValueError as error:
        raise AddressError(f"the port in {url!r} is not between 0 and 65535") from error
    if not parts.hostname or port is None:
        raise AddressError(f"{url!r} names a host but no port: write zmq://{parts.hostname or 'host'}:5757")
    if port > 65533:
        raise AddressError(f"a node takes three ports in a row from {port}: choose one up to 65533")
    home = Path(directory) if directory else state_home() / f"tcp-{parts.hostname}-{port}"
    return Address(url=url, directory=home.absolute(), host=parts.hostname, port=port, keys=_keys(url, parts.query))


def _keys(url: str, query: str) -> Path | None:
    options = parse_qs(query)
    unknown = options.keys() - {"keys"}
    if unknown:
        raise AddressError(f"{url!r} has options that no address has: {', '.join(sorted(unknown))} (there is keys=DIR)")
    chosen = options["keys"][-1] if "keys" in options else os.environ.get("ZEROCELERY_KEYS")
    return Path(chosen).expanduser().absolute() if chosen else None


def _ipc(url: str, path: str) -> Address:
    directory = Path(path).absolute() if path not in ("", "/") else state_home() / "default"
    length = len(os.fsencode(str(directory))) + len(_LONGEST_SOCKET)
    if length > MAX_IPC_PATH:
        raise AddressError(
            f"the sockets of a node in {directory} would have paths of {length} bytes, and the system takes "
            f"{MAX_IPC_PATH}: choose a shorter directory (zmq:///short/path, or ZEROCELERY_HOME for zmq://)"
        )
    return Address(url=url, directory=directory)


def prepare_directory(directory: Path) -> None:
    """Make the directory, for this user alone; refuse one that others can enter or own.

    Raises:
        AddressError: it can't be made, is another user's, or is open to others.
    """
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)  # whatever the umask has taken away
    except OSError as error:
        raise AddressError(f"the node's directory {directory} can't be made: {error.strerror}") from error
    check_directory(directory)


def check_directory(directory: Path) -> None:
    """Refuse a node's directory that isn't safe to connect to.

    Raises:
        AddressError: it is another user's, or group or others can enter it.
    """
    try:
        status = directory.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise AddressError(f"the node's directory {directory} can't be read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise AddressError(f"{directory} is not a directory: a node needs one for its sockets and its journal")
    if status.st_uid != os.geteuid():
        raise AddressError(
            f"the node's directory {directory} belongs to user {status.st_uid}, and this is user {os.geteuid()}: "
            "tasks are code, so a node and its clients must be one user's"
        )
    if status.st_mode & 0o077:
        raise AddressError(
            f"the node's directory {directory} is open to others (mode {stat.S_IMODE(status.st_mode):o}): "
            f"run chmod 700 {directory}"
        )
