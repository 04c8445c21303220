"""The seam between the engine and whatever carries its frames: small contracts, one per kind of entity."""

from __future__ import annotations

from typing import Protocol

from zerocelery.engine.address import Address


class NodePort(Protocol):
    """A node's side: the collector's intake, the publisher's outlet, the workers' desk.

    Attributes:
        address: where it listens, with the port that it really got.
    """

    address: Address

    def wait(self, seconds: float | None, awake: float = 0.0) -> None:
        """Block until something can be received, a watched process ended, or the time is over (None: no limit).

        Arguments:
            awake: of these seconds the first so many may be spent without sleeping.
        """

    def wake(self) -> None:
        """Make a blocked :meth:`wait` return; safe in a signal handler and from any thread."""

    def from_producers(self, limit: int) -> list[bytes]:
        """What producers sent, without blocking; at most ``limit`` frames."""

    def from_workers(self, limit: int) -> list[tuple[str, bytes]]:
        """What workers sent, with their ids, without blocking."""

    def subscriptions(self) -> list[tuple[bool, str]]:
        """Topics that were subscribed to (True) or left (False) since the last call."""

    def ended(self) -> list[int]:
        """Watched processes that have ended since the last call."""

    def publish(self, frame: bytes) -> None:
        """Send to whoever subscribed to the frame's topic; never blocks."""

    def to_worker(self, worker_id: str, frame: bytes) -> bool:
        """Send to one worker; False where it is not connected any more."""

    def watch(self, pid: int) -> bool:
        """Report this process of this machine when it ends; False where that can't be had."""

    def close(self) -> None:
        """Give everything back to the system."""


class Desk(Protocol):
    """Where a node's workers come: a part of a :class:`NodePort`."""

    def waits(self) -> bool:
        """Whether something may be taken without waiting for it."""

    def take(self, limit: int) -> list[tuple[str, bytes]]:
        """What workers sent, with their ids; at most ``limit`` frames."""

    def send(self, worker_id: str, frame: bytes) -> bool:
        """Send to one worker; False where it is not connected any more."""

    def close(self) -> None:
        """Let go of the workers."""


class ClientLink(Protocol):
    """A producer's side: its way to the collector, and its topics."""

    def send(self, frame: bytes) -> bool:
        """Hand the frame to a connected node; False where none is connected or its pipe is full."""

    def wait_sendable(self, seconds: float) -> bool:
        """Block until ``send`` may succeed, at most this long."""

    def receive(self, seconds: float) -> bytes | None:
        """One frame from a subscribed topic; None when the time is over. 0 does not block."""

    def subscribe(self, topic: str) -> None:
        """Listen to a topic."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when something may have come, once, until it is received; -1: none."""

    def problem(self) -> str:
        """Why the node does not let this client in; '' where nothing is known to be wrong."""

    def close(self) -> None:
        """Let go; what was not handed over by now is dropped."""

    def abandon(self) -> None:
        """Forget the sockets without touching them: in a forked child they are the parent's."""


class WorkerLink(Protocol):
    """A worker's side."""

    def send(self, frame: bytes) -> bool:
        """Hand the frame to the node; False where none is connected."""

    def receive(self, seconds: float | None) -> bytes | None:
        """One frame from the node; None when the time is over, on :meth:`wake`, or on a new connection."""

    def reconnected(self) -> bool:
        """Whether a connection was made since the last call: the node may be another one."""

    def wake(self) -> None:
        """Make a blocked :meth:`receive` return; safe in a signal handler and from any thread."""

    def close(self, *, linger: float = 0.0) -> None:
        """Let go; what was sent gets this many seconds to leave."""
