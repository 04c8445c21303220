"""Stands between a TCP node and its peers: cuts them off, slows them down, or says nothing more, as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
from types import TracebackType

_PORTS = 3


@dataclasses.dataclass(eq=False)
class _Way:
    """One direction of a connection."""

    from_node: bool
    swallows: bool = False


class Proxy:
    """Forwards three ports in a row to a node's three ports, in a thread of its own.

    Arguments:
        target: the node's first port on 127.0.0.1.

    ``connections`` counts those made so far.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.connections = 0
        self._listeners = _three_in_a_row()
        self.port = self._listeners[0].getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._ways: set[_Way] = set()
        self._open = True
        self._delay, self._piece = 0.0, 1 << 16
        self._thread = threading.Thread(target=self._run, name="proxy")

    @property
    def url(self) -> str:
        return f"zmq://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self, *, stay: bool = False) -> int:
        """Reset every connection, and say how many there were; with ``stay``, refuse new ones until :meth:`heal`."""
        return asyncio.run_coroutine_threadsafe(self._cut(stay), self._loop).result()

    def swallow(self, *, from_node: bool = False, to_node: bool = False) -> None:
        """Hold the connections of now, and drop what comes by them; who connects later is served."""
        for way in list(self._ways):
            way.swallows = way.swallows or (from_node if way.from_node else to_node)

    def slow(self, delay: float, piece: int) -> None:
        """Let everything wait for so many seconds, and arrive in pieces of so many bytes."""
        self._delay, self._piece = delay, piece

    def heal(self) -> None:
        self._open = True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            for offset, listener in enumerate(self._listeners):
                self._loop.run_until_complete(self._serve(listener, self.target + offset))
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _serve(self, listener: socket.socket, target: int) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            if not self._open:
                writer.transport.abort()
                return
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
            except OSError:
                writer.transport.abort()
                return
            for source, sink, from_node in ((reader, far_writer, False), (far_reader, writer, True)):
                self._writers.add(sink)
                pump = asyncio.create_task(self._pump(source, sink, _Way(from_node)))
                self._pumps.add(pump)
                pump.add_done_callback(self._pumps.discard)

        await asyncio.start_server(connected, sock=listener)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Way) -> None:
        self._ways.add(way)
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self._delay:
                    await asyncio.sleep(self._delay)
                for start in range(0, 0 if way.swallows else len(data), self._piece):
                    writer.write(data[start : start + self._piece])
                    await writer.drain()
                    await asyncio.sleep(0)
        self._ways.discard(way)
        writer.close()
        self._writers.discard(writer)

    async def _cut(self, stay: bool) -> int:
        self._open = not stay
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()
        return len(writers) // 2

    async def _end(self) -> None:
        await self._cut(True)
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        await asyncio.sleep(0)


def _three_in_a_row() -> list[socket.socket]:
    for _ in range(50):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = first.getsockname()[1]
            rest = [stack.enter_context(socket.create_server(("127.0.0.1", port + n))) for n in range(1, _PORTS)]
            stack.pop_all()
            return [first, *rest]
    raise AssertionError("no three free ports in a row")
