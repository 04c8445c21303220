"""Names that only one may have at a time: unique keys, each a task's, and leases, each a client's.

A *unique key* is taken when its task is accepted, in the same transaction, and free when the task has ended, but not
before the time that the task itself said. A *lease* is a client's for some seconds, as long as it renews it; it is free
at once when the client's inbox is gone. It carries a value, which the next holder finds.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

import msgspec

from zerocelery.engine import wire
from zerocelery.engine.clock import Clock
from zerocelery.engine.revocations import Marks

_UNIQUE, _LEASE = "unique", "client-lease"

#: After a start of the node, a holder's inbox has this long to come back (seconds).
_RETURN_SECONDS: Final = 5.0

#: For how long a key is taken at most (seconds).
_MOST_SECONDS: Final = 365 * 86_400.0

_MOST_LEASES: Final = 10_000
_MOST_VALUE: Final = 4 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode_lease = msgspec.msgpack.Decoder(tuple[str, float, bytes]).decode


def bounded(seconds: float, most: float = _MOST_SECONDS) -> float:
    """A number of seconds from outside, which may be none at all, between 0 and a limit."""
    return min(seconds, most) if seconds > 0 else 0.0


class Uniques:
    """The unique keys that are taken: by which task, and until when at least."""

    def __init__(self, journal: Marks) -> None:
        self.journal = journal
        #: key → (task id, wall-clock second until which it is taken in any case, whether the task has ended)
        self._taken: dict[str, tuple[str, int, bool]] = {
            name: (value[1:].decode(), until, value[:1] == b"-")
            for name, until, value in journal.marked(_UNIQUE)
            if value
        }

    def claim(self, raw: bytes, now: float, *, again: bool) -> str:
        """Take the task's key; '' where it is its own now, else the id of the task that has it.

        Arguments:
            again: this message follows the same task (a retry), so it may have its key.
        """
        task = wire.decode_task(raw)
        if isinstance(task, wire.Malformed) or task.unique is None:
            return ""
        holder, until, ended = self._taken.get(task.unique, ("", 0, True))
        if holder and not (ended and until <= now) and not (again and holder == task.id):
            return holder
        self._set(task.unique, task.id, max(int(now + bounded(task.unique_for)), until if again else 0), ended=False)
        return ""

    def release(self, raw: bytes, now: float) -> None:
        """The task has ended."""
        task = wire.decode_task(raw)
        if isinstance(task, wire.Malformed) or task.unique is None:
            return
        holder, until, _ = self._taken.get(task.unique, ("", 0, True))
        if holder != task.id:
            return
        if until > now:
            self._set(task.unique, holder, until, ended=True)
        else:
            del self._taken[task.unique]
            self.journal.unmark(_UNIQUE, task.unique)

    def _set(self, key: str, holder: str, until: int, *, ended: bool) -> None:
        self._taken[key] = (holder, until, ended)
        self.journal.mark(_UNIQUE, key, until, (b"-" if ended else b"+") + holder.encode())

    def expire(self, now: float) -> None:
        """Let keys go whose task has ended and whose time is over."""
        for key in [key for key, (_, until, ended) in self._taken.items() if ended and until <= now]:
            del self._taken[key]
            self.journal.unmark(_UNIQUE, key)


class Leases:
    """The clients' leases, by name."""

    def __init__(self, journal: Marks, live: Container[str], clock: Clock) -> None:
        self.journal = journal
        self.live = live
        self.clock = clock
        self._leases: dict[str, tuple[str, float, bytes]] = {
            name: _decode_lease(value) for name, _, value in journal.marked(_LEASE) if value
        }
        self._began = clock.wall()

    def take(self, name: Any, owner: Any, seconds: Any, value: Any = None, release: bool = False) -> dict[str, Any]:
        """Have a lease, or have it for longer; with ``release`` let it go.

        Gives ``held``: whether it is the owner's now; ``value``, its own or that of who had it last; ``seconds``, for
        which it is somebody's. What comes in comes from outside: its types are looked at here.

        Raises:
            TypeError, ValueError: it is no lease.
        """
        if not (isinstance(name, str) and isinstance(owner, str) and isinstance(value, bytes | None)):
            raise TypeError("a lease has a name, an owner's inbox, and bytes that go with it")
        seconds = bounded(float(seconds))
        now = self.clock.wall()
        holder, until, kept = self._leases.get(name, ("", 0.0, b""))
        here = holder in self.live or now - self._began < _RETURN_SECONDS
        if holder not in ("", owner) and here and until > now:
            return {"held": False, "value": kept, "seconds": until - now}
        if len(kept if value is None else value) > _MOST_VALUE or (not holder and len(self._leases) >= _MOST_LEASES):
            raise ValueError("there are too many leases, or the value is too large")
        had_it = holder == owner
        if release:
            owner, seconds = "", 0.0
        # Who takes it over hears first what its former holder has left.
        left = value if value is not None and had_it else kept
        self._leases[name] = (owner, now + seconds, left)
        self.journal.mark(_LEASE, name, 0, _encode(self._leases[name]))
        return {"held": not release, "value": left, "seconds": seconds}
