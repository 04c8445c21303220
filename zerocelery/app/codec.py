"""Values ⇄ bytes: the one place that serialises, deserialises and judges content types.

Plain JSON, which is nearly everything, never touches kombu: a value made only of exactly str, int, finite float, bool,
None, list, tuple and dicts with str keys gives the same document through msgspec as through kombu, at a twentieth of
the price. All else (datetime, Decimal, bytes, UUID, NaN, lone surrogates, and every other serialiser) goes to kombu's
registry, which is imported then and not before.
"""

from __future__ import annotations

import pickle
from typing import Any

import msgspec

from zerocelery.exceptions import SecurityError

JSON = "application/json"
UTF8 = "utf-8"
CLOUDPICKLE = "application/x-cloudpickle"

#: Short names, as kombu has them; here so that a JSON user pays for no import of kombu.
_CONTENT_TYPES = {
    "json": JSON,
    "pickle": "application/x-python-serialize",
    "yaml": "application/x-yaml",
    "msgpack": "application/x-msgpack",
    "cloudpickle": CLOUDPICKLE,
}

#: What kombu's JSON writes for values that JSON has no form for.
_TYPED = b"__type__"

_SCALARS = frozenset({str, int, bool, type(None)})
_PLAIN = frozenset({str, int, bool, type(None), float, list, tuple, dict})
_KEYS = frozenset({str})

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def is_plain(values: Any) -> bool:
    """Whether every one of these values means the same in any JSON."""
    for value in values:
        kind = type(value)
        if kind in _SCALARS:
            continue
        if kind not in _PLAIN:
            return False
        if kind is float:
            # inf and nan differ from themselves by nan
            if value - value != 0.0:
                return False
        elif kind is dict:
            if value and not (set(map(type, value)) <= _KEYS and is_plain(value.values())):
                return False
        elif not (_SCALARS.issuperset(map(type, value)) or is_plain(value)):
            return False
    return True


def plain_json(*values: Any) -> bytes | None:
    """A JSON array of these values, or None where only kombu knows what to do."""
    try:
        return _encode(values) if is_plain(values) else None
    except (UnicodeEncodeError, RecursionError):
        return None


def plain_value(value: Any) -> bytes | None:
    """The value as JSON, or None where only kombu knows what to do."""
    try:
        return _encode(value) if is_plain((value,)) else None
    except (UnicodeEncodeError, RecursionError):
        return None


def read_json(data: bytes) -> Any:
    """Decode JSON that may have been written by kombu."""
    if _TYPED not in data:
        try:
            return _decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            # NaN, lone surrogates, numbers beyond a double: Python's own decoder takes them
            pass
    return _kombu().loads(data, JSON, UTF8, accept=[JSON])


def content_type_of(name: str) -> str:
    """The content type of a serialiser's name, or of what is a content type already."""
    known = _CONTENT_TYPES.get(name)
    if known is not None or "/" in name:
        return known or name
    return str(_kombu().registry.name_to_type[name])


def acceptable(names: Any) -> frozenset[str] | None:
    """The content types that these serialisers stand for; None accepts what kombu has enabled."""
    return None if names is None else frozenset(content_type_of(name) for name in names)


def dumps(value: Any, serializer: str) -> tuple[str, str, bytes]:
    """Content type, encoding and bytes.

    Raises:
        kombu.exceptions.EncodeError: the serialiser can't.
    """
    if serializer in ("json", JSON):
        data = plain_value(value)
        if data is not None:
            return JSON, UTF8, data
    registry = _kombu()
    if "/" in serializer:
        serializer = registry.registry.type_to_name[serializer]
    content_type, encoding, payload = registry.dumps(value, serializer=serializer)
    return content_type, encoding, payload.encode(UTF8) if isinstance(payload, str) else payload


def loads(data: bytes, content_type: str, encoding: str, accept: frozenset[str] | None) -> Any:
    """The value behind bytes that came over the wire.

    Raises:
        kombu.exceptions.ContentDisallowed: this content type is not accepted.
        kombu.exceptions.DecodeError: it is no such content.
    """
    if content_type == JSON and accept is not None and JSON in accept:
        return read_json(data)
    return _kombu().loads(data, content_type, encoding, accept=accept)


def compress(data: bytes, method: str) -> tuple[bytes, str]:
    """The bytes, smaller, and the content type of the compression."""
    from kombu import compression

    return compression.compress(data, method)  # type: ignore[no-any-return,no-untyped-call]


def decompress(data: bytes, method: str) -> bytes:
    """What was compressed."""
    from kombu import compression

    return compression.decompress(data, method)  # type: ignore[no-any-return,no-untyped-call]


_serialization: Any = None


def _kombu() -> Any:
    """kombu's serialisation module, with cloudpickle among its serialisers."""
    global _serialization
    if _serialization is None:
        from kombu import serialization

        register_cloudpickle()
        _serialization = serialization
    return _serialization


def register_cloudpickle() -> None:
    """Make ``serializer='cloudpickle'`` known to kombu; as every pickle, it is read only where it is accepted."""
    from kombu import serialization

    registry: Any = serialization.registry
    if "cloudpickle" not in registry._encoders:
        registry.register("cloudpickle", _cloudpickle, _unpickle, content_type=CLOUDPICKLE, content_encoding="binary")
        registry.disable("cloudpickle")


def _cloudpickle(value: Any) -> bytes:
    import cloudpickle

    return cloudpickle.dumps(value)  # type: ignore[no-any-return]


def _unpickle(data: bytes | memoryview) -> Any:
    return pickle.loads(data)  # noqa: S301 - reached only with an accept list that names cloudpickle


# ── exceptions ───────────────────────────────────────────────────────────────────────────────────────────────────────

#: Where an exception of the other implementation's module is found in ours.
_MODULES = {"celery.exceptions": "zerocelery.exceptions", "billiard.exceptions": "zerocelery.exceptions"}
_PICKLES = frozenset({"pickle", "cloudpickle", _CONTENT_TYPES["pickle"], CLOUDPICKLE})


def is_pickling(serializer: str) -> bool:
    """Whether the serialiser takes exceptions as they are."""
    return serializer in _PICKLES


def exception_document(error: BaseException) -> dict[str, Any]:
    """An exception in the form that every serialiser takes."""
    kind = type(error)
    return {"exc_type": kind.__qualname__, "exc_message": list(error.args), "exc_module": kind.__module__}


def exception_text_document(error: BaseException) -> dict[str, Any]:
    """The same, with arguments that can't be serialised as text."""
    kind = type(error)
    arguments = [arg if is_plain((arg,)) else safe_repr(arg) for arg in error.args]
    return {"exc_type": kind.__qualname__, "exc_message": arguments, "exc_module": kind.__module__}


def exception_from(document: Any) -> Any:
    """The exception that a document describes; only classes that this process has already imported are used.

    Raises:
        SecurityError: the document names something that is no exception.
    """
    if isinstance(document, BaseException) or not document:
        return document
    if not isinstance(document, dict):
        return document
    try:
        kind_name = document["exc_type"]
    except KeyError:
        return ValueError("Exception information must include the exception type")
    kind = _exception_class(document.get("exc_module"), str(kind_name))
    message = document.get("exc_message", ())
    arguments = tuple(message) if isinstance(message, (list, tuple)) else (message,)
    try:
        return kind(*arguments)
    except Exception:
        return _without_init(kind, arguments)


def _without_init(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """An exception whose __init__ wants something else than its args: rebuilt without it, and it says so."""

    def text(self: BaseException) -> str:
        return f"{kind.__qualname__}({', '.join(map(safe_repr, self.args))})"

    def reduce(self: BaseException) -> Any:
        return _without_init, (kind, self.args)

    methods = {"__str__": text, "__reduce__": reduce, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    try:
        made: Any = type(kind.__name__, (kind,), methods)
        error: BaseException = made.__new__(made)
    except TypeError:
        # it can be made by its own package only, as pydantic's can
        error = _made_up(kind.__qualname__, kind.__module__)(*arguments)
    error.args = arguments
    return error


def _exception_class(module_name: str | None, name: str) -> type[BaseException]:
    import sys

    if module_name is None:
        return _made_up(name, __name__)
    module: Any = sys.modules.get(_MODULES.get(module_name, module_name))
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        return _made_up(name, module_name)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise SecurityError(f"a result names {module_name}.{name} as its exception, and that is none")
    return found


def _made_up(name: str, module: str) -> type[BaseException]:
    """An exception class of this name, for one that this process doesn't have."""
    return type(name.rpartition(".")[2], (Exception,), {"__module__": module})


def portable(value: Any) -> Any:
    """The value where it is plain, else its repr."""
    return value if is_plain((value,)) else safe_repr(value)


def safe_repr(value: Any) -> str:
    """The value's repr, or a word about why it has none."""
    try:
        return repr(value)
    except Exception as error:
        return f"<unrepresentable {type(value).__name__}: {type(error).__name__}>"
