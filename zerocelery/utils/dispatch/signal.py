"""Signals: functions that are called when something happens, wherever it happens in this process."""

from __future__ import annotations

import threading
import weakref

from zerocelery.local import Proxy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar, overload

    Receiver = Callable[..., Any]
    F = TypeVar("F", bound=Receiver)
    Key = tuple[Any, Any]

__all__ = ("Signal",)

_NOBODY = object()


def _identity(target: Any) -> Any:
    """What tells one sender or receiver from another; a bound method is new at each look, so its parts count."""
    if isinstance(target, Proxy):
        target = target._get_current_object()
    if isinstance(target, (bytes, str)):
        return target
    if hasattr(target, "__func__"):
        return id(target.__self__), id(target.__func__)
    return id(target)


def _key(receiver: Any, sender: Any, dispatch_uid: Any) -> Key:
    if dispatch_uid is None:
        dispatch_uid = getattr(receiver, "_dispatch_uid", None) or _identity(receiver)
    return dispatch_uid, _identity(sender) if sender is not None else None


def _takes_keywords(function: Any) -> bool:
    """Whether the function has a ``**kwargs``; signals gain arguments over time."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None:
        return bool(code.co_flags & 0x08)
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


class Signal:
    """One thing that can happen.

    Sending costs nothing while nobody listens: senders on a hot path look at ``receivers`` first.

    Arguments:
        providing_args: names of the arguments that receivers get.
    """

    def __init__(
        self, providing_args: Iterable[str] | None = None, use_caching: bool = False, name: str | None = None
    ) -> None:
        self.name = name
        self.providing_args = set(providing_args or ())
        self.use_caching = use_caching
        self.receivers: list[tuple[Key, Any]] = []
        self.lock = threading.Lock()

    if TYPE_CHECKING:

        @overload
        def connect(self, receiver: F, /, sender: Any = None, weak: bool = ..., **kwargs: Any) -> F: ...
        @overload
        def connect(self, *, sender: Any = None, weak: bool = ..., **kwargs: Any) -> Callable[[F], F]: ...

    def connect(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        """Call the receiver from now on: ``connect(f)``, ``@connect`` or ``@connect(sender=…)``.

        Arguments:
            sender: only when this object sends.
            weak: forget the receiver when nobody else holds it.
            dispatch_uid: a second connection with the same one is none.
            retry: call the receiver again, with growing pauses, until it doesn't raise.
        """
        if args and callable(args[0]):
            return self._connect(args[0], *args[1:], **kwargs)

        def decorate(function: Receiver) -> Receiver:
            return self._connect(function, *args, **kwargs)

        return decorate

    def _connect(
        self, function: Receiver, sender: Any = None, weak: bool = True, dispatch_uid: Any = None, retry: bool = False
    ) -> Receiver:
        if not callable(function):
            raise TypeError("a signal's receiver must be callable")
        if not _takes_keywords(function):
            raise ValueError("Signal receiver must accept keyword arguments.")
        key = _key(function, sender, dispatch_uid)
        held: Any = function
        if retry:
            held = _persistent(function)
        elif weak:
            bound = hasattr(function, "__self__") and hasattr(function, "__func__")
            held = weakref.WeakMethod(function, self._drop_dead) if bound else weakref.ref(function, self._drop_dead)
        with self.lock:
            if all(known != key for known, _ in self.receivers):
                self.receivers.append((key, held))
        return function

    def disconnect(
        self, receiver: Receiver | None = None, sender: Any = None, weak: bool | None = None, dispatch_uid: Any = None
    ) -> bool:
        """Stop calling the receiver; whether it had been connected."""
        key = _key(receiver, sender, dispatch_uid)
        with self.lock:
            for place, (known, _) in enumerate(self.receivers):
                if known == key:
                    del self.receivers[place]
                    return True
        return False

    def has_listeners(self, sender: Any = None) -> bool:
        """Whether anybody would hear this sender."""
        return bool(self._live(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call every receiver; gives ``(receiver, what it returned or raised)`` of each.

        A receiver's exception is logged, and neither reaches the sender nor keeps the others from hearing.
        """
        responses: list[tuple[Receiver, Any]] = []
        if not self.receivers:
            return responses
        for receiver in self._live(sender):
            try:
                response = receiver(signal=self, sender=sender, **named)
            except Exception as error:
                if not hasattr(error, "__traceback__"):
                    raise
                _logger().exception("Signal handler %r raised: %r", receiver, error)
                responses.append((receiver, error))
            else:
                responses.append((receiver, response))
        return responses

    send_robust = send

    def _live(self, sender: Any) -> list[Receiver]:
        wanted = _identity(sender) if sender is not None else _NOBODY
        with self.lock:
            entries = [held for (_, of), held in self.receivers if of is None or of == wanted]
        found = (held() if isinstance(held, weakref.ReferenceType) else held for held in entries)
        return [receiver for receiver in found if receiver is not None]

    def _drop_dead(self, reference: Any) -> None:
        # A reference can die while this very thread holds the lock, so the list is replaced without it.
        self.receivers[:] = [entry for entry in self.receivers if entry[1] is not reference]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={self.providing_args!r}>"


def _persistent(function: Receiver) -> Receiver:
    """The receiver, called again until it succeeds."""

    def receive(*args: Any, **kwargs: Any) -> Any:
        from kombu.utils.functional import retry_over_time

        def report(error: BaseException, intervals: Any, retries: int) -> Any:
            interval = next(intervals)
            _logger().error("Signal handler %r raised %r, trying again in %s seconds", function, error, interval)
            return interval

        return retry_over_time(function, Exception, args, kwargs, report)  # type: ignore[no-untyped-call]

    return receive


def _logger() -> Any:
    import logging

    return logging.getLogger("celery.utils.dispatch.signal")
