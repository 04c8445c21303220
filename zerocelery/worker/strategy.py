"""Messages of Celery's first protocol, and those between the two, as ones of the second.

What a worker does with a message is :mod:`zerocelery.app.trace`'s, and :mod:`zerocelery.app.intake`'s for brokers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zerocelery.exceptions import InvalidTaskError

__all__ = ("hybrid_to_proto2", "proto1_to_proto2")

#: Headers that a message between the protocols may have in its body.
_HYBRID_HEADERS = (
    "lang", "task", "id", "root_id", "parent_id", "group", "meth", "shadow", "eta", "expires", "retries", "timelimit",
    "argsrepr", "kwargsrepr", "origin",
)  # fmt: skip

Converted = tuple[tuple[Any, Any, dict[str, Any]], dict[str, Any], bool, bool]


def hybrid_to_proto2(message: Any, body: Mapping[str, Any]) -> Converted:
    """A message with all fields in its body, as the second protocol has them: body, headers, decoded, utc.

    Arguments:
        message: kombu's.
        body: its body, decoded.

    Raises:
        InvalidTaskError: the keyword arguments are no mapping.
    """
    args, kwargs = _arguments(body)
    headers = {name: body.get(name) for name in _HYBRID_HEADERS}
    headers["retries"] = body.get("retries", 0)
    headers["timelimit"] = body.get("timelimit", (None, None))
    headers.update(message.headers or {})
    return (args, kwargs, _embedded(body)), headers, True, body.get("utc", True)


def proto1_to_proto2(message: Any, body: dict[str, Any]) -> Converted:
    """A message of the first protocol as the second has it: body, headers, decoded, utc.

    Arguments:
        message: kombu's.
        body: its body, decoded; becomes the headers.

    Raises:
        InvalidTaskError: the keyword arguments are no mapping.
    """
    args, kwargs = _arguments(body)
    body.update(argsrepr=repr(args), kwargsrepr=repr(kwargs), headers=message.headers)
    if "taskset" in body:
        body["group"] = body["taskset"]
    return (args, kwargs, _embedded(body)), body, True, body.get("utc", True)


def _arguments(body: Mapping[str, Any]) -> tuple[Any, Any]:
    args, kwargs = body.get("args", ()), body.get("kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise InvalidTaskError("Task keyword arguments must be a mapping")
    return args, kwargs


def _embedded(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body.get(name) for name in ("callbacks", "errbacks", "chord", "chain")}
