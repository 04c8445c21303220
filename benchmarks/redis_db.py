"""A numbered Redis database that is ours: emptied only where it was empty or bears our mark."""

from __future__ import annotations

import dataclasses
import socket
from typing import BinaryIO

from benchmarks.errors import Refused, Unavailable

_OWNER = "zerocelery-benchmark:owner"


@dataclasses.dataclass(frozen=True, slots=True)
class RedisDatabase:
    """One database of one server, spoken to without a client library: the runner depends on nothing."""

    host: str
    port: int
    number: int

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/{self.number}"

    def claim(self) -> None:
        """Empty the database and mark it as ours.

        Raises:
            Refused: it holds keys and isn't marked.
        """
        size, owner = self._ask("DBSIZE"), self._ask("EXISTS", _OWNER)
        if size != "0" and owner == "0":
            raise Refused(f"{self.url} holds {size} keys of somebody else; choose others with --redis-dbs")
        self._ask("FLUSHDB")
        self._ask("SET", _OWNER, "1")

    def release(self) -> None:
        """Leave the database empty."""
        if self._ask("EXISTS", _OWNER) == "1":
            self._ask("FLUSHDB")

    def server(self) -> dict[str, str]:
        """What the server says of itself."""
        lines = self._ask("INFO", "server").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _ask(self, *words: str) -> str:
        select = _encode("SELECT", str(self.number))
        try:
            with socket.create_connection((self.host, self.port), timeout=30) as connection:
                connection.sendall(select + _encode(*words))
                with connection.makefile("rb") as replies:
                    _reply(replies)
                    return _reply(replies)
        except OSError as error:
            raise Unavailable(f"no Redis at {self.host}:{self.port} ({error})") from error


def _encode(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _reply(replies: BinaryIO) -> str:
    line = replies.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode()
    if kind == b"-":
        raise Unavailable(f"Redis says: {rest}")
    if kind != b"$":
        return rest
    length = int(rest)
    return replies.read(length + 2)[:-2].decode() if length >= 0 else ""
