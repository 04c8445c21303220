"""Results in memcached, or in this process's memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any

from kombu.utils.encoding import bytes_to_str, ensure_bytes
from kombu.utils.functional import LRUCache

from zerocelery.backends.base import KeyValueStoreBackend
from zerocelery.exceptions import CDeprecationWarning, ImproperlyConfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("CacheBackend",)

logger = logging.getLogger("celery.backends.cache")

REQUIRES_BACKEND = "The memcached backend requires pymemcache: pip install pymemcache"
UNKNOWN_BACKEND = "The cache backend {0!r} is unknown, take one of: {1}"

#: Replies are waited for, so that a result that could not be stored is an error and no silence.
DEFAULT_CLIENT_OPTIONS: dict[str, Any] = {"default_noreply": False, "connect_timeout": 5.0, "timeout": 5.0}

_RETRY_OPTIONS = {"retry_attempts": "attempts", "retry_delay": "retry_delay"}
_RETRY_LISTS = ("retry_for", "do_not_retry_for")
_PYLIBMC_OPTIONS = ("behaviors", "binary", "username", "password")

#: memcached takes a longer time for a date.
_MOST_SECONDS = 30 * 24 * 3600

_DUMMY_CLIENT_CACHE: Any = LRUCache(limit=5000)  # type: ignore[no-untyped-call]


class DummyClient:
    """memcached, as far as a test needs it: one store for the whole process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cache = _DUMMY_CLIENT_CACHE

    def get(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        return self.cache.get(key)

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        return {key: self.cache[key] for key in keys if key in self.cache}

    get_multi = get_many

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        self.cache[key] = value

    def delete(self, key: Any, *args: Any, **kwargs: Any) -> None:
        self.cache.pop(key, None)

    def incr(self, key: Any, delta: int = 1) -> Any:
        return self.cache.incr(key, delta)

    def touch(self, key: Any, expire: Any) -> None:
        """Nothing expires here."""


def _addresses(servers: Any) -> list[Any]:
    if isinstance(servers, (str, tuple)) and servers and _is_address(servers):
        servers = [servers]
    if isinstance(servers, (int, float)):
        raise ImproperlyConfigured(f"{servers!r} is no address of a memcached server")
    found = [server for server in servers or () if server]
    if not found:
        raise ImproperlyConfigured("no memcached server is named")
    for server in found:
        if not isinstance(server, (str, tuple, list)):
            raise ImproperlyConfigured(f"{server!r} is no address of a memcached server")
    return found


def _is_address(value: Any) -> bool:
    return isinstance(value, str) or (len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int))


def get_memcache_client() -> tuple[Callable[..., Any], Callable[[Any], Any]]:
    """What makes a client of memcached, and the type of its keys.

    Raises:
        ImproperlyConfigured: pymemcache is not installed.
    """
    try:
        import pymemcache  # type: ignore[import-not-found]
        import pymemcache.client.base  # type: ignore[import-not-found]
        import pymemcache.client.hash  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImproperlyConfigured(REQUIRES_BACKEND) from error

    def client(servers: Any, **options: Any) -> Any:
        addresses = _addresses(servers)
        for name in _PYLIBMC_OPTIONS:
            if name in options:
                del options[name]
                warnings.warn(
                    CDeprecationWarning(f"the option {name!r} was pylibmc's, and has no effect: remove it"),
                    stacklevel=2,
                )
        retries = {ours: options.pop(theirs) for theirs, ours in _RETRY_OPTIONS.items() if theirs in options}
        retries.update((name, options.pop(name)) for name in _RETRY_LISTS if name in options)
        options = {**DEFAULT_CLIENT_OPTIONS, **options}
        if len(addresses) == 1:
            made = pymemcache.client.base.Client(addresses[0], **options)
        else:
            made = pymemcache.client.hash.HashClient(addresses, **options)
        return _with_retries(made, retries) if retries else made

    return client, bytes_to_str


def _with_retries(client: Any, options: dict[str, Any]) -> Any:
    import pymemcache.client.retrying  # type: ignore[import-not-found]

    return pymemcache.client.retrying.RetryingClient(client, **options)


def get_best_memcache(*args: Any, **kwargs: Any) -> Any:
    """The older name of :func:`get_memcache_client`."""
    warnings.warn(CDeprecationWarning("get_best_memcache() is now get_memcache_client()"), stacklevel=2)
    return get_memcache_client()


def import_best_memcache() -> Any:
    """Of old: whether it is pylibmc (never), the module, and the type of its keys."""
    warnings.warn(CDeprecationWarning("import_best_memcache() is now get_memcache_client()"), stacklevel=2)
    try:
        import pymemcache
    except ImportError as error:
        raise ImproperlyConfigured(REQUIRES_BACKEND) from error
    return False, pymemcache, bytes_to_str


#: Per scheme: gives what makes a client, and the type of its keys.
backends: dict[str, Callable[[], Any]] = {
    "memcache": get_memcache_client,
    "memcached": get_memcache_client,
    "pymemcache": get_memcache_client,
    "pylibmc": get_memcache_client,
    "memory": lambda: (DummyClient, ensure_bytes),
}


class CacheBackend(KeyValueStoreBackend):
    """Results in memcached, or (``memory://``) in this process.

    Arguments:
        backend: ``memcache://host:port;host:port/`` or ``memory://``; the setting ``cache_backend`` unless given.
        options: for the client.
    """

    servers: Any = None
    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(
        self,
        app: Any,
        expires: Any = None,
        backend: str | None = None,
        options: dict[str, Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self.url = url
        self.options = {**(app.conf["cache_backend_options"] or {}), **(options or {})}
        chosen = url or backend or app.conf["cache_backend"]
        if not chosen:
            raise ImproperlyConfigured("no cache backend is named: set result_backend to cache+memcached://host:port/")
        self.backend: str
        self.backend, _, servers = chosen.removeprefix("cache+").partition("://")
        self.expires = self.prepare_expires(expires, type=int)
        self.servers = servers.rstrip("/").split(";")
        if self.backend not in backends:
            raise ImproperlyConfigured(UNKNOWN_BACKEND.format(self.backend, ", ".join(sorted(backends))))
        self._client: Any = None
        self.key_t = backends[self.backend]()[1] if self.backend == "memory" else bytes_to_str
        self._encode_prefixes()
        self.chord_expires = self._chord_seconds(app.conf["result_chord_expires"])

    def _chord_seconds(self, value: Any) -> Any:
        seconds = self.expires if value is None else self.prepare_expires(value, type=int)
        if seconds is not None and seconds > _MOST_SECONDS and value is not None:
            logger.warning("result_chord_expires is more than 30 days, which memcached takes for a date in the past")
        return seconds

    @property
    def client(self) -> Any:
        """The client, made when it is first used."""
        if self._client is None:
            make, self.key_t = backends[self.backend]()
            self._encode_prefixes()
            self._client = make(self.servers, **self.options)
        return self._client

    def as_uri(self, include_password: bool = False) -> str:
        return f"{self.backend}://{';'.join(self.servers)}/"

    def get(self, key: Any) -> Any:
        return self.client.get(key)

    def mget(self, keys: Any) -> Any:
        return self.client.get_many(keys)

    def set(self, key: Any, value: Any) -> Any:
        return self.client.set(key, value, self.expires or 0)

    def delete(self, key: Any) -> Any:
        return self.client.delete(key)

    def incr(self, key: Any) -> int:
        return int(self.client.incr(key, 1))

    def expire(self, key: Any, value: Any) -> Any:
        return self.client.touch(key, value or 0)

    @property
    def _group_expires(self) -> int:
        """A group is needed for as long as its results, and as its chord runs."""
        if not self.expires or not self.chord_expires:
            return 0  # one of the two is kept for ever
        return int(max(self.expires, self.chord_expires))

    def _apply_chord_incr(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        group_id = header_result_args[0]
        self.client.set(self.get_key_for_chord(group_id), 0, self.chord_expires or 0)
        super()._apply_chord_incr(header_result_args, body, **kwargs)
        self.expire(self.get_key_for_group(group_id), self._group_expires)

    def _on_chord_counted(self, request: Any, group_id: str, key: Any) -> None:
        self.expire(key, self.chord_expires)
        self.expire(self.get_key_for_group(group_id), self._group_expires)
        self.expire(self.get_key_for_task(request.id), self._group_expires)

    def _call_chord_body(self, group_id: str, key: Any, members: Any, callback: Any) -> None:
        super()._call_chord_body(group_id, key, members, callback)
        for member in members.results:
            self.expire(self.get_key_for_task(member.id), self.expires)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        named = {"backend": f"{self.backend}://{';'.join(self.servers)}", "options": self.options, **(kwargs or {})}
        return super().__reduce__(args, named)
