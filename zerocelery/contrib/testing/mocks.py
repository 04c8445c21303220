"""Stand-ins for messages."""

from __future__ import annotations

import json
import numbers
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock

from kombu.serialization import dumps

from zerocelery._ids import uuid

__all__ = ("ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig")


def TaskMessage(
    name: str,
    id: str | None = None,
    args: Any = (),
    kwargs: Any = None,
    callbacks: Any = None,
    errbacks: Any = None,
    chain: Any = None,
    shadow: str | None = None,
    utc: Any = None,
    **options: Any,
) -> Any:
    """A message of protocol 2; further options become headers."""
    task_id = id or uuid()
    embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain}
    message = _message(f"TaskMessage-{task_id}", (args, kwargs or {}, embed))
    message.headers = {"id": task_id, "task": name, "shadow": shadow, **options}
    return message


def TaskMessage1(
    name: str,
    id: str | None = None,
    args: Any = (),
    kwargs: Any = None,
    callbacks: Any = None,
    errbacks: Any = None,
    chain: Any = None,
    **options: Any,
) -> Any:
    """A message of protocol 1: everything is in the body."""
    task_id = id or uuid()
    payload = {
        "task": name,
        "id": task_id,
        "args": args,
        "kwargs": kwargs or {},
        "callbacks": callbacks,
        "errbacks": errbacks,
        **options,
    }
    message = _message(f"TaskMessage-{task_id}", payload)
    message.headers = {}
    return message


def _message(name: str, payload: Any) -> Any:
    message = Mock(name=name)
    message.content_type, message.content_encoding, message.body = dumps(payload, serializer="json")  # type: ignore[no-untyped-call, unused-ignore]
    message.payload = payload
    message.decode.return_value = json.loads(message.body)
    return message


def task_message_from_sig(app: Any, sig: Any, utc: bool = True, TaskMessage: Any = TaskMessage) -> Any:
    """The message that sending this signature would make."""
    sig.freeze()
    options = sig.options
    expires = options.pop("expires", None)
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        callbacks=[dict(link) for link in _links(options.pop("link", None))] or None,
        errbacks=[dict(link) for link in _links(options.pop("link_error", None))] or None,
        eta=_in(app, options.pop("countdown", None)) or options.pop("eta", None),
        expires=_in(app, expires) if isinstance(expires, numbers.Real) else expires,
        utc=utc,
        **options,
    )


def _links(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _in(app: Any, seconds: Any) -> datetime | None:
    return app.now() + timedelta(seconds=seconds) if seconds else None


class _ContextMock(Mock):
    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Whatever was raised goes on."""


def ContextMock(*args: Any, **kwargs: Any) -> Any:
    """A mock that is its own context."""
    return _ContextMock(*args, **kwargs)
