"""What control commands and events are in while a node carries them: content type, encoding, and the bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from zerocelery.app import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, str, bytes]).decode


def pack(value: Any, serializer: str) -> bytes:
    """The value as it travels.

    Raises:
        kombu.exceptions.EncodeError: it can't be serialised.
    """
    return _encode(codec.dumps(value, serializer))


def unpack(data: bytes, accept: frozenset[str] | None) -> Any:
    """The value that came.

    Raises:
        ValueError: it was not made by :func:`pack`.
        kombu.exceptions.ContentDisallowed: it is of a type that is not accepted.
    """
    try:
        content_type, encoding, body = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"the message can't be read: {error}") from error
    return codec.loads(body, content_type, encoding, accept)


def acceptable(app: Celery) -> frozenset[str] | None:
    """The content types that an app takes."""
    return codec.acceptable(app.conf["accept_content"])
