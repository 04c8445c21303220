"""Result backends by their names and URLs."""

from __future__ import annotations

import sys
import types
from importlib.metadata import entry_points
from typing import Any

from zerocelery._state import current_app
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.utils.imports import symbol_by_name

__all__ = ("by_name", "by_url")

UNKNOWN_BACKEND = "Unknown result backend: {0!r}.  Did you spell that correctly? ({1!r})"

#: Other packages add theirs under this group of entry points.
_ENTRY_POINTS = "celery.result_backends"

BACKEND_ALIASES = {
    "zmq": "zerocelery.backends.zmq:NodeBackend",
    "rpc": "zerocelery.backends.rpc.RPCBackend",
    "cache": "zerocelery.backends.cache:CacheBackend",
    "redis": "zerocelery.backends.redis:RedisBackend",
    "rediss": "zerocelery.backends.redis:RedisBackend",
    "sentinel": "zerocelery.backends.redis:SentinelBackend",
    "db": "zerocelery.backends.database:DatabaseBackend",
    "database": "zerocelery.backends.database:DatabaseBackend",
    "file": "zerocelery.backends.filesystem:FilesystemBackend",
    "disabled": "zerocelery.backends.base:DisabledBackend",
}

#: Celery's own paths of classes that are here.
_CELERY = "celery.backends."


def _extensions() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=_ENTRY_POINTS)}


def by_name(backend: Any = None, loader: Any = None, extension_namespace: str = _ENTRY_POINTS) -> Any:
    """A backend's class by its alias or path.

    Raises:
        ImproperlyConfigured: the name leads to no class.
        ImportError: there is no such module.
    """
    backend = backend or "disabled"
    loader = loader or current_app.loader
    aliases = {**BACKEND_ALIASES, **_extensions(), **(loader.override_backends or {})}
    try:
        found = symbol_by_name(_ours(backend), aliases)
    except ValueError as error:
        unknown = ImproperlyConfigured(UNKNOWN_BACKEND.strip().format(backend, error))
        raise unknown.with_traceback(sys.exc_info()[2]) from error
    if isinstance(found, types.ModuleType):
        raise ImproperlyConfigured(UNKNOWN_BACKEND.strip().format(backend, "is a Python module, not a backend class."))
    return found


def _ours(backend: Any) -> Any:
    if isinstance(backend, str) and backend.startswith(_CELERY):
        return f"zero{backend}"
    return backend


def by_url(backend: Any = None, loader: Any = None) -> tuple[Any, Any]:
    """A backend's class and URL by a URL: what is before a ``+`` is the backend's alias or path."""
    url = None
    if backend and isinstance(backend, str) and "://" in backend:
        url = backend
        scheme, _, _ = url.partition("://")
        if "+" in scheme:
            backend, url = url.split("+", 1)
        else:
            backend = scheme
    return by_name(backend, loader), url
