"""A client that can be called by its name, calls others, and casts to and listens to streams.

What goes this way is kept nowhere: a call that was not answered in time was not answered, a cast that nobody listened
to is gone. The rest is the :class:`~zerocelery.engine.producer.Producer` that it is.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from zerocelery.engine import wire
from zerocelery.engine.errors import EngineError
from zerocelery.engine.processes import host_id, started
from zerocelery.engine.producer import Producer

#: What was heard and not fetched yet, in messages; beyond, the oldest are let go.
_KEPT_CASTS: Final = 100_000

_TICK: Final = 0.1


class Station(Producer):
    """One station; its name is given by :meth:`attend`, and without one it can only call and cast."""

    _name = ""
    _on_call: Callable[[bytes], bytes] | None = None
    #: called by :meth:`serve` with what the node tells of its own accord: an encoded (kind, message, task), how a task
    #: of this pool was revoked
    on_notice: Callable[[bytes], None] | None = None

    def _reset(self) -> None:
        super()._reset()
        self._attended = False
        self._calls: deque[wire.Called] = deque()
        self._replies: dict[str, list[tuple[str, bytes]]] = {}
        self._reached: dict[str, int] = {}
        self._heard_casts: dict[str, list[bytes]] = {}  # stream → what has come
        self._live: set[str] = set()  # streams whose subscription the node has seen
        self._unwatched: set[str] = set()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._name = ""  # that is the parent's

    def _take(self, frame: bytes) -> None:
        end = frame.find(b"\0")
        message = wire.decode_to_inbox(memoryview(frame)[end + 1 :])
        if isinstance(message, wire.Called):
            self._calls.append(message)
        elif isinstance(message, wire.Replied):
            if message.token in self._replies:
                self._replies[message.token].append((message.name, message.body))
        elif isinstance(message, wire.Reached):
            if message.token:
                self._reached[message.token] = message.count
            else:
                self._attended = True
        elif isinstance(message, wire.Heard):
            self._take_casts(frame[1:end].decode("utf-8", "replace"), message.bodies)
        elif isinstance(message, wire.Watched):
            (self._unwatched.discard if message.watched else self._unwatched.add)(message.stream)
        else:
            super()._take(frame)

    def _take_casts(self, stream: str, bodies: list[bytes]) -> None:
        self._live.add(stream)
        heard = self._heard_casts.get(stream)
        if heard is not None:
            heard.extend(bodies)
            if len(heard) > _KEPT_CASTS:
                del heard[: len(heard) - _KEPT_CASTS]

    def _welcomed(self, welcome: wire.Welcome) -> None:
        session = self._session
        super()._welcomed(welcome)
        if self._session != session:
            self._unwatched.clear()
        if self._name and self._connected:
            self._attend()

    # ── being called ─────────────────────────────────────────────────────────────────────────────────────────────────

    def attend(self, name: str, on_call: Callable[[bytes], bytes], *, timeout: float) -> None:
        """Take calls under this name from now on, in whatever thread calls :meth:`serve`.

        Arguments:
            on_call: gets a call, and gives the answer.
            timeout: seconds to wait until the node knows of it.

        Raises:
            NodeUnreachable: it did not say so in time; it will know when it is there.
        """
        self._name, self._on_call = name, on_call
        deadline = self._now() + timeout
        self._await_node(deadline)
        self._attend()
        while not self._attended:
            left = deadline - self._now()
            if left <= 0:
                raise self._unreachable()
            self._step(min(left, _TICK))

    def _attend(self) -> None:
        pid = os.getpid()
        self._send_now(wire.Attend(self.inbox, self._name, host_id(), pid, started(pid)))

    def serve(self) -> None:
        """Take in what has come, and answer the calls; does not block."""
        self.look()
        while self._calls:  # what is done for one may read others in
            call = self._calls.popleft()
            if not call.token:
                if self.on_notice is not None:
                    self.on_notice(call.body)
                continue
            body = self._on_call(call.body) if self._on_call is not None else b""
            self._send_now(wire.Reply(call.inbox, call.token, self._name, body))

    def tell(self, body: bytes = b"", *, queues: Sequence[str] | None = None) -> bool:
        """Tell all workers of this process's pool something; False where no node is connected.

        Arguments:
            queues: those that they serve from now on.
        """
        return self._send_now(wire.Tell(self.inbox, body, None if queues is None else list(queues)))

    @property
    def is_restless(self) -> bool:
        """Whether :meth:`serve` has to be called soon: a call was read in, something has no receipt, no node there."""
        return bool(self._calls or self._kept or self._refused or not self._connected)

    def fileno(self) -> int:
        """A descriptor that may be readable when something has come; :meth:`serve` after every wait on it. -1: none."""
        link = self._link
        return link.fileno() if link is not None else -1

    def _send_now(self, message: object) -> bool:
        """Send what is kept nowhere; False where no node is connected."""
        frame = wire.encode(message)
        with self._lock:
            return self._link is not None and len(frame) <= self._max_message and self._link.send(frame)

    # ── calling ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def call(
        self, body: bytes, names: Sequence[str] | None = None, *, timeout: float, limit: int | None = None,
        replies: bool = True,
    ) -> Iterator[tuple[str, bytes]]:  # fmt: skip
        """Call stations, and give each one's name and answer as they come.

        Ends when all that the call has reached have answered, when there were ``limit`` answers that say something, or
        when the time is over.

        Arguments:
            names: of the stations; None: all.
            timeout: seconds; 0 waits for ever.
            replies: False: send it, and wait for nothing.

        Raises:
            NodeUnreachable: there is no node to send it to.
        """
        self._await_node(self._now() + self.options.connect_timeout)
        token = secrets.token_hex(8)
        frame = wire.encode(wire.Call(self.inbox, token, None if names is None else list(names), body))
        if len(frame) > self._max_message:
            raise self._too_large("the call", len(frame))
        if replies:
            self._replies[token] = []
        self._post(frame, self._now() + self.options.connect_timeout)
        return self._answers_to(token, timeout, limit) if replies else iter(())

    def _answers_to(self, token: str, timeout: float, limit: int | None) -> Iterator[tuple[str, bytes]]:
        deadline = self._now() + timeout if timeout else None
        answers = self._replies[token]
        given = said = 0
        try:
            while True:
                while given < len(answers):
                    given += 1
                    said += bool(answers[given - 1][1])
                    yield answers[given - 1]
                    if limit is not None and said >= limit:
                        return
                left = _TICK if deadline is None else deadline - self._now()
                if left <= 0 or given >= self._reached.get(token, 1 << 62):
                    return
                self._step(min(left, _TICK))
        finally:
            self._replies.pop(token, None)
            self._reached.pop(token, None)

    def revoke(
        self, ids: Sequence[str], labels: Sequence[str] = (), *, terminate: bool = False, keep: float = 10_800.0
    ) -> None:
        """Have these tasks not started any more: those that wait end as REVOKED, now or when they would be started.

        Arguments:
            labels: all tasks that have one of these labels.
            terminate: those that run are about to be ended, which is no loss of a worker.
            keep: for how many seconds this holds for messages that are still to come.

        Raises:
            NodeUnreachable, PayloadTooLarge
        """
        self._number(
            "a revocation",
            lambda seq: wire.encode(wire.Revoke(self.inbox, seq, list(ids), list(labels), terminate, keep)),
        )

    def take_back(self, ids: Sequence[str], labels: Sequence[str] = (), *, timeout: float) -> None:
        """Let tasks run that are still to come, though they were revoked by these ids or labels.

        Raises:
            NodeUnreachable: the node has not confirmed it in time.
        """
        self.revoke(ids, labels, keep=-1.0)
        if not self.confirm(timeout):
            raise self._unreachable()

    def lease(
        self, name: str, seconds: float, *, value: bytes | None = None, release: bool = False
    ) -> tuple[bool, bytes]:
        """Have a name for this client alone, for so many seconds; it is free at once when this client is gone.

        Arguments:
            value: kept with it; who has it next gets it.
            release: let it go.

        Returns:
            whether it is ours, and the value: our own, or that of who had it last.

        Raises:
            NodeUnreachable: there is no node to ask.
        """
        argument = {"name": name, "owner": self.inbox, "seconds": seconds, "value": value, "release": release}
        answer = self.ask("lease", argument)
        return bool(answer["held"]), bytes(answer["value"])

    def ask(self, what: str, argument: dict[str, Any] | None = None, *, timeout: float = 2.0) -> Any:
        """Ask the node a question (:mod:`zerocelery.engine.inspection`) and give the answer in plain types.

        Raises:
            NodeUnreachable: it did not answer in time.
            EngineError: it could not understand the question.
        """
        raw = self.query(what, msgspec.msgpack.encode(argument or {}), timeout=timeout)
        answer = msgspec.msgpack.decode(raw) if raw else {"error": f"it has no answer to {what!r}"}
        if isinstance(answer, dict) and "error" in answer:
            raise EngineError(f"the node at {self.address.url} did not answer: {answer['error']}")
        return answer

    # ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_watched(self, stream: str) -> bool:
        """Whether somebody listens to the stream, as far as it is known: True until the node has said otherwise."""
        return stream not in self._unwatched

    def cast(self, stream: str, bodies: Sequence[bytes]) -> bool:
        """Send to whoever listens; False where that is nobody, or no node is connected."""
        self._read_if_free()  # somebody may have come, or gone
        if stream in self._unwatched:
            return False
        if not self._connected:
            self._await_node(self._now() + self.options.connect_timeout)
        return self._send_now(wire.Cast(self.inbox, stream, list(bodies)))

    def listen(self, stream: str, *, timeout: float) -> None:
        """Hear what is cast to a stream from now on; :meth:`hear` gives it.

        Raises:
            NodeUnreachable: the node did not say within ``timeout`` seconds that it knows.
        """
        deadline = self._now() + timeout
        self._await_node(deadline)
        if stream not in self._heard_casts:
            self._heard_casts[stream] = []
            with self._reader:
                if self._link is not None:
                    self._link.subscribe(wire.STREAM + stream)
        while stream not in self._live:
            left = deadline - self._now()
            if left <= 0:
                raise self._unreachable()
            self._step(min(left, _TICK))

    def hear(self, stream: str, timeout: float | None) -> list[bytes]:
        """What was cast to the stream since the last call; [] where nothing came in that many seconds (None: waits)."""
        return self.hear_any((stream,), timeout)[1]

    def hear_any(self, streams: Iterable[str], timeout: float | None) -> tuple[str, list[bytes]]:
        """As :meth:`hear`, of several streams: the one on which something came, and what."""
        deadline = None if timeout is None else self._now() + timeout
        self._read_if_free()
        while True:
            for stream in streams:
                heard = self._heard_casts.get(stream)
                if heard:
                    self._heard_casts[stream] = []
                    return stream, heard
            left = _TICK if deadline is None else deadline - self._now()
            if left <= 0:
                return "", []
            self._step(min(left, _TICK))
