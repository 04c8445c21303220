"""The documents that result backends store: Celery's fields, its exceptions, and payloads that say how they are packed.

Functions only. What a store is and how it is spoken to is the business of the classes in the modules beside this one.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import Any

from kombu import compression
from kombu.utils import encoding

from zerocelery import states
from zerocelery.app import codec
from zerocelery.exceptions import ImproperlyConfigured, SecurityError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# kombu has no types
_compression: Any = compression
ensure_bytes: Any = encoding.ensure_bytes

#: What a compressed payload begins with; no serialiser's output begins with NUL.
COMPRESSED_PAYLOAD_MAGIC = b"\x00celery-compressed\x00"

_OUR_MODULES = {"zerocelery": "celery"}


# ── payloads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def compression_method(name: str | None) -> str | None:
    """The compression of this name, when there is one.

    Raises:
        ImproperlyConfigured: kombu knows no such compression.
    """
    if not name:
        return None
    try:
        _compression.get_encoder(name)
    except KeyError as error:
        raise ImproperlyConfigured(
            f"Unknown compression method for result_compression: {name!r}; take gzip, bzip2 or zlib"
        ) from error
    return name


def compress_payload(payload: Any, method: str) -> bytes:
    """The payload, compressed, with the compression's content type in front of it."""
    body, content_type = _compression.compress(ensure_bytes(payload), method)
    return COMPRESSED_PAYLOAD_MAGIC + bytes(content_type, "ascii") + b"\x00" + bytes(body)


def decompress_payload(payload: Any) -> Any:
    """What was compressed; a payload that wasn't is returned as it is."""
    if isinstance(payload, memoryview):
        payload = bytes(payload)
    if not isinstance(payload, (bytes, bytearray)) or not payload.startswith(COMPRESSED_PAYLOAD_MAGIC):
        return payload
    content_type, _, body = bytes(payload[len(COMPRESSED_PAYLOAD_MAGIC) :]).partition(b"\x00")
    return _compression.decompress(body, content_type.decode("ascii"))


# ── the common document ──────────────────────────────────────────────────────────────────────────────────────────────


def date_done(state: str, *, as_text: bool) -> Any:
    """Now, for a state that is an end; else None."""
    if state not in states.READY_STATES:
        return None
    now = datetime.now(timezone.utc)
    return now.isoformat() if as_text else now


def result_document(
    result: Any,
    state: str,
    traceback: str | None,
    request: Any,
    *,
    extended: bool,
    as_text: bool = True,
    encode: Callable[[Any], Any] | None = None,
) -> dict[str, Any]:
    """A task's meta, as every backend stores it.

    Arguments:
        extended: whether the request's own fields go in.
        as_text: whether dates become ISO 8601.
        encode: what to do with arguments, for stores that have columns for them.
    """
    document: dict[str, Any] = {
        "status": state,
        "result": result,
        "traceback": traceback,
        "children": children_of(request),
        "date_done": date_done(state, as_text=as_text),
    }
    group_id, parent_id = getattr(request, "group", None), getattr(request, "parent_id", None)
    if group_id:
        document["group_id"] = group_id
    if parent_id:
        document["parent_id"] = parent_id
    if extended and request:
        _extend(document, request, encode)
    return document


def children_of(request: Any) -> list[Any] | None:
    """The results of the tasks that this one called, as they are stored; None where there is no request to ask."""
    if request is None:
        return None
    return [child.as_tuple() for child in getattr(request, "children", None) or ()]


def _extend(document: dict[str, Any], request: Any, encode: Callable[[Any], Any] | None) -> None:
    if hasattr(request, "delivery_info") or hasattr(request, "task"):
        delivery: Any = getattr(request, "delivery_info", None)
        arguments = getattr(request, "args", None), getattr(request, "kwargs", None)
        args, kwargs = (ensure_bytes(encode(one)) for one in arguments) if encode is not None else arguments
        document.update(
            name=getattr(request, "task", None),
            args=args,
            kwargs=kwargs,
            worker=getattr(request, "hostname", None),
            retries=getattr(request, "retries", None),
            queue=delivery.get("routing_key") if hasattr(delivery, "get") else None,
        )
    declared = getattr(request, "stamped_headers", None)
    if declared:
        stamps = getattr(request, "stamps", None) or {}
        document["stamped_headers"] = declared
        document.update((name, stamps[name]) for name in declared if name in stamps and name not in document)


# ── exceptions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def public_module(kind: type[BaseException]) -> str:
    """The module that a stored exception names, so that any Celery finds it."""
    root, dot, rest = kind.__module__.partition(".")
    return f"{_OUR_MODULES[root]}{dot}{rest}" if root in _OUR_MODULES else kind.__module__


def exception_document(error: BaseException, encode: Callable[[Any], Any]) -> dict[str, Any]:
    """An exception for a serialiser that knows none; arguments that it refuses become text."""
    kind = type(error)
    return {
        "exc_type": getattr(kind, "__qualname__", kind.__name__),
        "exc_message": _serializable(error.args, encode),
        "exc_module": public_module(kind),
    }


def _serializable(arguments: tuple[Any, ...], encode: Callable[[Any], Any]) -> tuple[Any, ...]:
    try:
        encode(arguments)
        return arguments
    except Exception:
        return tuple(_one(argument, encode) for argument in arguments)


def _one(argument: Any, encode: Callable[[Any], Any]) -> Any:
    try:
        encode(argument)
        return argument
    except Exception:
        return codec.safe_repr(argument)


def exception_from(document: Any) -> Any:
    """The exception that was stored.

    Raises:
        SecurityError: the document names something that is no exception.
    """
    if not document or isinstance(document, BaseException):
        return document
    if not isinstance(document, dict):
        return _pythonised(document)
    try:
        name = document["exc_type"]
    except KeyError:
        return ValueError("Exception information must include the exception type")
    message = document.get("exc_message")
    kind = _class_of(document.get("exc_module"), name, message)
    try:
        return kind(*message) if isinstance(message, (tuple, list)) else kind(message)
    except Exception:
        return Exception(f"{kind}({message})")


def _pythonised(stored: Any) -> Any:
    unwrap = getattr(stored, "restore", None)
    return unwrap() if unwrap is not None else stored


def _class_of(module: str | None, name: str, message: Any) -> Any:
    """The class, if this process has it already: reading a result imports nothing."""
    if module is None:
        return type(name, (Exception,), {"__module__": __name__})
    found: Any = _imported(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        return type(name, (Exception,), {"__module__": module})
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    label = f"{module}.{name}" if module else name
    raise SecurityError(f"Expected an exception class, got {label} with payload {message}")


def _imported(module: str) -> Any:
    root, dot, rest = module.partition(".")
    ours = sys.modules.get(f"zerocelery{dot}{rest}") if root == "celery" else None
    return ours or sys.modules.get(module)
