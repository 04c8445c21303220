"""What the settings and the URL of a Redis backend say, as parameters of the redis library's connections."""

from __future__ import annotations

import inspect
from typing import Any

from kombu.utils import imports

from zerocelery.utils.log import get_logger

__all__ = ("connection_errors", "credential_provider", "with_driver")

logger = get_logger("celery.backends.redis")

symbol_by_name: Any = imports.symbol_by_name


def with_driver(library: Any, version: str) -> dict[str, Any]:
    """What a connection tells the server of who is there (``CLIENT LIST`` shows it); nothing where it can't."""
    try:
        return {"driver_info": library.DriverInfo().add_upstream_driver("celery", version)}
    except (ImportError, AttributeError):
        pass
    taken = inspect.signature(library.connection.AbstractConnection.__init__).parameters
    if "lib_name" not in taken:
        return {}
    return {
        "lib_name": f"redis-py(celery_v{version})",
        "lib_version": getattr(library, "__version__", "unknown"),
    }


def credential_provider(library: Any, given: Any) -> Any:
    """The provider itself, where its name or class was given.

    Raises:
        ImportError: there is nothing of that name.
        ValueError: it is no CredentialProvider of the redis library.
    """
    provider = symbol_by_name(given) if isinstance(given, str) else given
    if isinstance(provider, type) and issubclass(provider, library.CredentialProvider):
        provider = provider()
    if not isinstance(provider, library.CredentialProvider):
        raise ValueError(f"redis_backend_credential_provider must be a redis.CredentialProvider, not {given!r}")
    return provider


def connection_errors(more: Any) -> tuple[type[BaseException], ...]:
    """Exceptions that ``additional_connection_errors`` names; what is none is told in the log."""
    found: list[type[BaseException]] = []
    for one in more if isinstance(more, (list, tuple, set, frozenset)) else [more]:
        kind = _class_named(one)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            found.append(kind)
        else:
            logger.warning("additional_connection_errors: %r is no exception class, it is left out", one)
    return tuple(found)


def _class_named(one: Any) -> Any:
    try:
        return symbol_by_name(one) if isinstance(one, str) else one
    except (ImportError, AttributeError, ValueError):
        return None
