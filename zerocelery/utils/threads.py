"""Threads, and what each of them has for itself."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import GenericAlias
from typing import Any

from zerocelery.local import Proxy

__all__ = (
    "Local",
    "LocalManager",
    "LocalStack",
    "bgThread",
    "bound_open_broker_sockets",
    "default_socket_timeout",
    "get_ident",
    "release_local",
)

get_ident = threading.get_ident


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """Within this context new sockets have a timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def bound_open_broker_sockets(connection: Any, timeout: float | None) -> None:
    """Let a broker's connection that is to be closed wait no longer than this for the other side (seconds).

    Only sockets that are open are touched; asking kombu for its connection would make one.
    """
    for sock in _open_broker_sockets(connection):
        try:
            sock.settimeout(timeout)
        except (OSError, ValueError, AttributeError):  # closed by now
            pass


def _open_broker_sockets(connection: Any) -> list[Any]:
    try:
        channels = getattr(connection.transport, "channels", None) or ()
        clients = [vars(channel).get(name) for channel in channels for name in ("client", "subclient")]
        found = [getattr(getattr(client, "connection", None), "_sock", None) for client in clients]
        found.append(getattr(getattr(getattr(connection, "_connection", None), "_transport", None), "sock", None))
    except Exception:  # a connection in whatever state: closing it goes on without
        return []
    return [sock for sock in found if sock is not None]


class bgThread(threading.Thread):
    """Calls ``body()`` again and again until :meth:`stop`; an error in it ends the process."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or type(self).__name__, daemon=True, **kwargs)
        self._over = threading.Event()
        self._ended = threading.Event()

    def body(self) -> None:
        """What to do."""
        raise NotImplementedError

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Say what happened."""
        sys.stderr.write(f"{msg.format(*fmt)}\n{traceback.format_exc()}\n")

    def run(self) -> None:
        try:
            while not self._over.is_set():
                try:
                    self.body()
                except Exception as error:  # a thread that ended would be missed by nobody
                    self.on_crash("{0!r} crashed: {1!r}", self.name, error)
                    sys.stderr.flush()
                    os._exit(1)
        finally:
            self._ended.set()

    def stop(self) -> None:
        """Call ``body()`` no more, and wait for the thread's end."""
        self._over.set()
        self._ended.wait()
        if self.is_alive():
            self.join()


def release_local(local: Any) -> None:
    """Forget what this thread has in a Local or a LocalStack."""
    local.__release_local__()


class Local:
    """Attributes that each thread has for itself."""

    __slots__ = ("__ident_func__", "__storage__")

    def __init__(self) -> None:
        object.__setattr__(self, "__storage__", {})
        object.__setattr__(self, "__ident_func__", get_ident)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__storage__.items())

    def __call__(self, proxy: Any) -> Proxy:
        """A proxy for what the function returns."""
        return Proxy(self._named(proxy) if isinstance(proxy, str) else proxy)

    def _named(self, name: str) -> Callable[[], Any]:
        return lambda: getattr(self, name)

    def __release_local__(self) -> None:
        self.__storage__.pop(self.__ident_func__(), None)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__storage__[self.__ident_func__()][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__ident_func__":
            object.__setattr__(self, name, value)
        else:
            self.__storage__.setdefault(self.__ident_func__(), {})[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self.__storage__[self.__ident_func__()][name]
        except KeyError:
            raise AttributeError(name) from None


class _LocalStack:
    """A stack that each thread has for itself."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(self) -> None:
        self._local = Local()

    def __release_local__(self) -> None:
        self._local.__release_local__()

    @property
    def __ident_func__(self) -> Any:
        return self._local.__ident_func__

    @__ident_func__.setter
    def __ident_func__(self, value: Any) -> None:
        self._local.__ident_func__ = value

    def __call__(self) -> Proxy:
        """A proxy for what is on top."""

        def top() -> Any:
            found = self.top
            if found is None:
                raise RuntimeError("object unbound")
            return found

        return Proxy(top)

    @property
    def stack(self) -> list[Any]:
        """All of it."""
        found: list[Any] = getattr(self._local, "stack", [])
        return found

    def push(self, obj: Any) -> list[Any]:
        """Put something on top."""
        stack = self.stack
        stack.append(obj)
        self._local.stack = stack
        return stack

    def pop(self) -> Any:
        """Take off what is on top; None if there is nothing."""
        return self.stack.pop() if self.stack else None

    def __len__(self) -> int:
        return len(self.stack)

    @property
    def top(self) -> Any:
        """What is on top; None if there is nothing."""
        return self.stack[-1] if self.stack else None


class _FastLocalStack(threading.local):
    """The same, with what Python has for it; for threads only, whatever else tells who is who."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.push = self.stack.append

    def pop(self) -> Any:
        """Take off what is on top; None if there is nothing."""
        return self.stack.pop() if self.stack else None

    @property
    def top(self) -> Any:
        """What is on top; None if there is nothing."""
        return self.stack[-1] if self.stack else None

    def __len__(self) -> int:
        return len(self.stack)


LocalStack = _LocalStack


class LocalManager:
    """Several Locals that are forgotten together."""

    def __init__(self, locals: Any = None, ident_func: Callable[[], Any] | None = None) -> None:
        self.locals = [] if locals is None else list(locals) if isinstance(locals, (list, tuple)) else [locals]
        self.ident_func = ident_func or get_ident
        if ident_func is not None:
            for local in self.locals:
                object.__setattr__(local, "__ident_func__", ident_func)

    def get_ident(self) -> Any:
        """What tells threads apart."""
        return self.ident_func()

    def cleanup(self) -> None:
        """Forget what this thread has."""
        for local in self.locals:
            release_local(local)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} storages: {len(self.locals)}>"
