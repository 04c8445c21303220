"""Results in Redis, told by PUBLISH as they are stored.

A waiting client subscribes to the channels of its tasks (a channel is called as the key is), looks once whether they
are there already, and then only listens; it lets go of the channels when it stops waiting. Nothing is shared by two
who wait, so there is nothing to leak.

A chord is counted by a script on the server, which also knows members that are told twice. Whoever completes the count
holds a claim for as long as it takes to send the body, and leaves a mark for late copies.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from ssl import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED
from typing import Any
from urllib.parse import unquote

from kombu.utils import encoding, functional
from kombu.utils.url import _parse_url, maybe_sanitize_url

from zerocelery import states
from zerocelery._alias import CELERY_LEVEL
from zerocelery._ids import uuid
from zerocelery.backends.base import BaseKeyValueStoreBackend, ListeningBackendMixin, _create_chord_error_with_cause
from zerocelery.backends.redis_chords import (
    CHORD_CLAIM_EXTEND_LUA,
    CHORD_CLEANUP_LUA,
    CHORD_PART_RETURN_LUA,
    publish_seconds,
)
from zerocelery.backends.redis_options import connection_errors, credential_provider, with_driver
from zerocelery.canvas import maybe_signature
from zerocelery.exceptions import BackendStoreError, ChordError, ImproperlyConfigured, TimeoutError
from zerocelery.result import GroupResult, allow_join_result
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import redis
    import redis.connection
    import redis.exceptions
    import redis.sentinel
except ImportError:
    redis = None  # type: ignore[assignment]

__all__ = (
    "CHORD_CLAIM_EXTEND_LUA",
    "CHORD_CLEANUP_LUA",
    "CHORD_PART_RETURN_LUA",
    "RedisBackend",
    "SentinelBackend",
)

logger = get_logger("celery.backends.redis")

SentinelManagedSSLConnection: Any = getattr(getattr(redis, "sentinel", None), "SentinelManagedSSLConnection", None)

# kombu has no types
bytes_to_str: Any = encoding.bytes_to_str
retry_over_time: Any = functional.retry_over_time

E_REDIS_MISSING = (
    "You need to install the redis library in order to use the Redis result store backend: pip install redis"
)
E_REDIS_SENTINEL_MISSING = "You need a redis library with sentinel: pip install --upgrade redis"
E_LOST = "Connection to Redis lost: Retry (%s/%s) %s."

_CERTIFICATES = {
    "required": CERT_REQUIRED,
    "CERT_REQUIRED": CERT_REQUIRED,
    "optional": CERT_OPTIONAL,
    "CERT_OPTIONAL": CERT_OPTIONAL,
    "none": CERT_NONE,
    "CERT_NONE": CERT_NONE,
}
_SSL_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_DEFAULT_HOST = "localhost"

#: Seconds that the mark of a chord that is done is kept at least.
_MARK = 300


class RedisBackend(BaseKeyValueStoreBackend, ListeningBackendMixin):
    """Results in Redis: ``redis://:password@host:port/db``, ``rediss://…`` or ``redis+socket:///path``.

    Raises:
        ImproperlyConfigured: the redis library is missing.
    """

    redis: Any = redis
    connection_class_ssl: Any = redis.SSLConnection if redis is not None else None
    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True

    #: Bytes that Redis takes for one value.
    _MAX_STR_VALUE_SIZE = 536_870_912

    #: The most connections of a pool; None: as many as are needed.
    max_connections: int | None = None

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        db: int | str | None = None,
        password: str | None = None,
        max_connections: int | None = None,
        url: str | None = None,
        connection_pool: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(expires_type=int, url=url, **kwargs)
        if self.redis is None:
            raise ImproperlyConfigured(E_REDIS_MISSING.strip())
        conf = self.app.conf
        if host and "://" in host:
            url, host = host, None
        self.max_connections = max_connections or conf["redis_max_connections"] or self.max_connections
        self._pool = connection_pool
        self.connparams = self._parameters(host, port, db, password)
        if url:
            self.connparams = self._params_from_url(url, self.connparams)
        self._add_ssl(conf["redis_backend_use_ssl"])
        self._add_credentials()
        if self.connparams.get("decode_responses"):
            self.compression = None
        self.url = url
        self.failure_expires = self._failure_expires(conf["result_failure_expires"])
        self.chord_expires = self._chord_expires(conf["result_chord_expires"])
        self.connection_errors, self.channel_errors = self._errors()
        self._client: Any = None

    # ── connecting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _parameters(self, host: Any, port: Any, db: Any, password: Any) -> dict[str, Any]:
        conf = self.app.conf
        found = {
            "host": host or conf["redis_host"] or _DEFAULT_HOST,
            "port": port or conf["redis_port"] or 6379,
            "db": db or conf["redis_db"] or 0,
            "password": password or conf["redis_password"],
            "max_connections": self.max_connections,
            "socket_timeout": conf["redis_socket_timeout"] and float(conf["redis_socket_timeout"]),
            "retry_on_timeout": conf["redis_retry_on_timeout"] or False,
            "socket_connect_timeout": conf["redis_socket_connect_timeout"]
            and float(conf["redis_socket_connect_timeout"]),
        }
        found["client_name"] = conf.get("redis_client_name")
        found.update(with_driver(redis, CELERY_LEVEL))
        if conf["redis_username"]:
            found["username"] = conf["redis_username"]
        if conf.get("redis_backend_health_check_interval"):
            found["health_check_interval"] = conf["redis_backend_health_check_interval"]
        if conf.get("redis_backend_credential_provider"):
            found["credential_provider"] = conf["redis_backend_credential_provider"]
        if conf["redis_socket_keepalive"]:
            found["socket_keepalive"] = conf["redis_socket_keepalive"]
        return found

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        scheme, host, port, username, password, path, query = _parse_url(url)
        found = dict(defaults, **query)
        found["db"] = query.get("virtual_host", found.get("db"))
        if scheme == "socket":
            found.update(
                connection_class=self.redis.UnixDomainSocketConnection,
                path=f"/{path}",
                password=password or found["password"],
            )
            for name in ("host", "port", "socket_connect_timeout", "socket_keepalive"):
                found.pop(name, None)
        else:
            found.update(host=host or found["host"], port=port or found["port"])
            path = query.get("virtual_host") or path
            if path:
                found["db"] = path
            found["password"] = password or found["password"]
        if username:
            found["username"] = username
        found.pop("virtual_host", None)
        db = found.get("db") or 0
        found["db"] = int(db.strip("/") or 0) if isinstance(db, str) else db
        for name in ("socket_timeout", "socket_connect_timeout"):
            if isinstance(found.get(name), str):
                found[name] = float(found[name])
        if scheme == "rediss":
            self._ssl_from_url(found)
        elif scheme == "redis" and any(name.startswith("ssl_") for name in query):
            raise ValueError(
                f"TLS options are for rediss:// URLs, this one begins with redis://: {maybe_sanitize_url(url)}"
            )
        return found

    def _ssl_from_url(self, found: dict[str, Any]) -> None:
        found["connection_class"] = self.connection_class_ssl
        for name in _SSL_OPTIONS:
            if isinstance(found.get(name), str):
                found[name] = unquote(found[name])
        level = found.get("ssl_cert_reqs")
        if level in _CERTIFICATES:
            found["ssl_cert_reqs"] = _CERTIFICATES[level]
        elif level is not None and not isinstance(level, int):
            raise ValueError(f"ssl_cert_reqs is {level!r}: it must be CERT_REQUIRED, CERT_OPTIONAL, or CERT_NONE")
        elif level is None and not self.app.conf["redis_backend_use_ssl"]:
            raise ValueError(
                "A rediss:// URL must have parameter ssl_cert_reqs and this must be set to CERT_REQUIRED, "
                "CERT_OPTIONAL, or CERT_NONE"
            )

    def _add_ssl(self, options: Any) -> None:
        if not options:
            return
        options = dict(options) if isinstance(options, dict) else {"ssl_cert_reqs": CERT_REQUIRED}
        level = options.get("ssl_cert_reqs")
        if isinstance(level, str):
            options["ssl_cert_reqs"] = _CERTIFICATES.get(level, level)
        self.connparams.update(options, connection_class=self.connection_class_ssl)

    def _add_credentials(self) -> None:
        given = self.connparams.get("credential_provider")
        if given is not None:
            self.connparams["credential_provider"] = credential_provider(redis, given)
            for name in ("username", "password"):
                self.connparams.pop(name, None)

    def _errors(self) -> tuple[tuple[type[BaseException], ...], tuple[type[BaseException], ...]]:
        library = redis.exceptions
        more = self._transport_options.get("additional_connection_errors", ())
        return (
            (library.ConnectionError, library.TimeoutError, library.BusyLoadingError, OSError,
             *connection_errors(more)),
            (library.InvalidResponse, library.ResponseError),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the connections; they are made anew when they are needed."""
        if self._client is not None:
            self._client.connection_pool.disconnect()
            self._client = self._pool = None

    @property
    def ConnectionPool(self) -> Any:
        """The library's class of pools."""
        return self.redis.ConnectionPool

    @property
    def client(self) -> Any:
        """The client; connections are made when they are used."""
        if self._client is None:
            self._client = self._create_client(**self.connparams)
        return self._client

    @client.setter
    def client(self, client: Any) -> None:
        self._client = client

    def _create_client(self, **params: Any) -> Any:
        return self._get_client()(connection_pool=self._get_pool(**params))

    def _get_client(self) -> Any:
        return self.redis.StrictRedis

    def _get_pool(self, **params: Any) -> Any:
        if self._pool is None:
            self._pool = self.ConnectionPool(**params)
        return self._pool

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, self.connection_errors)

    def ensure(self, fun: Callable[..., Any], args: Any, **policy: Any) -> Any:
        """Call a function, again while the connection fails."""
        policy = {**self.retry_policy, **self._policy(), **policy}
        limit = policy.get("max_retries")

        def lost(error: BaseException, intervals: Any, retries: int) -> float:
            return self.on_connection_error(limit, error, intervals, retries)

        return retry_over_time(fun, self.connection_errors, args, {}, lost, **policy)

    def _policy(self) -> dict[str, Any]:
        options = self.app.conf["result_backend_transport_options"] or {}
        return options.get("retry_policy") or {}

    def on_connection_error(self, max_retries: Any, exc: BaseException, intervals: Any, retries: int) -> float:
        """Tell that the connection is lost; gives the seconds to wait."""
        pause = next(intervals)
        logger.error(E_LOST.strip(), retries, max_retries or "Inf", f"in {pause:.2f} seconds")
        return float(pause)

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, key: Any) -> Any:
        return self.client.get(key)

    def mget(self, keys: Any) -> Any:
        return self.client.mget(keys)

    def set(self, key: Any, value: Any, **retry_policy: Any) -> Any:
        return self._set_with_state(key, value, states.SUCCESS, **retry_policy)

    def _set_with_state(self, key: Any, value: Any, state: str, **retry_policy: Any) -> Any:
        self._check_size(value)
        return self.ensure(self._set, (key, value, self._seconds(state)), **retry_policy)

    def _check_size(self, value: Any) -> None:
        if isinstance(value, (str, bytes)) and len(value) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("value too large for Redis backend")

    def _seconds(self, state: str) -> Any:
        return self.failure_expires if state in states.EXCEPTION_STATES else self.expires

    def _set(self, key: Any, value: Any, expires: Any = None) -> None:
        with self.client.pipeline() as pipe:
            if expires:
                pipe.set(key, value, ex=expires)
            else:
                pipe.set(key, value)
            pipe.publish(key, value)
            pipe.execute()

    def delete(self, key: Any) -> Any:
        return self.client.delete(key)

    def incr(self, key: Any) -> int:
        return self.client.incr(key)  # type: ignore[no-any-return]

    def expire(self, key: Any, value: Any) -> Any:
        return self.client.expire(key, value)

    def _failure_expires(self, value: Any) -> Any:
        return self.expires if value is None else self.prepare_expires(value, type=int)

    def _chord_expires(self, value: Any) -> Any:
        return self.expires if value is None else self.prepare_expires(value, type=int)

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        waiting = {self.get_key_for_task(one): bytes_to_str(one) for one in task_ids}
        deadline = None if timeout is None else time.monotonic() + timeout
        if not waiting:
            return
        with self._listening(list(waiting)) as channel:
            # what was stored before the channel was open is found by looking, all else is heard
            stored = self.mget(list(waiting))
            told: Iterable[tuple[Any, Any]] = list(zip(list(waiting), stored, strict=True))
            while True:
                for key, payload in told:
                    if payload is None or key not in waiting:
                        continue
                    meta = self.decode_result(payload)
                    if on_message is not None:
                        on_message(meta)
                    if meta["status"] in READY_STATES:
                        task_id = waiting.pop(key)
                        self._cache[task_id] = meta
                        yield task_id, meta
                if not waiting:
                    return
                told = self._heard(channel, list(waiting), deadline, interval, on_interval)

    def _heard(
        self, channel: Any, keys: list[Any], deadline: float | None, interval: float, on_interval: Any
    ) -> list[tuple[Any, Any]]:
        left = 60.0 if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("The operation timed out.")
        if on_interval is not None:
            on_interval()
            left = min(left, interval)
        try:
            message = channel.get_message(timeout=left, ignore_subscribe_messages=True)
        except self.connection_errors:
            # the library subscribes again by itself; what was said meanwhile has to be looked for
            return list(zip(keys, self.ensure(self.mget, (keys,)), strict=True))
        if not message or message["type"] != "message":
            return []
        return [(self.key_t(message["channel"]), message["data"])]

    @contextmanager
    def _listening(self, keys: list[Any]) -> Iterator[Any]:
        channel = self.client.pubsub()
        try:
            self.ensure(channel.subscribe, tuple(keys))
            yield channel
        finally:
            with suppress(*self.connection_errors):
                channel.close()

    # ── chords ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _chord_ordered(self) -> bool:
        """Whether a chord's body gets results in the header's order."""
        return bool(self._transport_options.get("result_chord_ordered", True))

    @property
    def _transport_options(self) -> Any:
        return self.app.conf["result_backend_transport_options"] or {}

    # registered once; each call names the client, which may be another one by then

    @cached_property
    def _chord_part_return_script(self) -> Any:
        return self.client.register_script(CHORD_PART_RETURN_LUA)

    @cached_property
    def _chord_claim_extend_script(self) -> Any:
        return self.client.register_script(CHORD_CLAIM_EXTEND_LUA)

    @cached_property
    def _chord_cleanup_script(self) -> Any:
        return self.client.register_script(CHORD_CLEANUP_LUA)

    def _call(self, script: Any, keys: list[Any], args: list[Any]) -> Any:
        return self.ensure(lambda: script(keys=keys, args=args, client=self.client), ())

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        header = self.app.GroupResult(*header_result_args)
        # a header with groups in it has more parts than tasks that count: its results are looked for when it is done
        if any(isinstance(one, GroupResult) for one in header.results):
            self._set_chord_key(self.get_key_for_group(header.id), self.encode({"result": header.as_tuple()}))

    def _set_chord_key(self, key: Any, value: Any) -> None:
        self._check_size(value)
        self.ensure(lambda: self.client.set(key, value, ex=self.chord_expires or None), ())

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        # a group that is sent again is a new chord: its claim, or the mark of its end, is an old one's
        self.ensure(lambda: self.client.delete(self.get_key_for_group(group_id, ".c")), ())
        self._set_chord_key(self.get_key_for_group(group_id, ".s"), chord_size)

    def add_to_chord(self, chord_id: str, result: Any) -> Any:
        self.client.incr(self.get_key_for_group(chord_id, ".t"), 1)

    def _unpack_chord_result(
        self,
        tup: Any,
        decode: Callable[[Any], Any],
        EXCEPTION_STATES: Any = states.EXCEPTION_STATES,
        PROPAGATE_STATES: Any = states.PROPAGATE_STATES,
    ) -> Any:
        _, task_id, state, value = decode(tup)
        if state in EXCEPTION_STATES:
            value = self.exception_to_python(value)
        if state in PROPAGATE_STATES:
            raise _create_chord_error_with_cause(f"Dependency {task_id} raised {value!r}", value)
        return value

    def on_chord_part_return(self, request: Any, state: str, result: Any, propagate: Any = None, **kwargs: Any) -> None:
        """Count a member that has ended; whoever completes the count sends the body.

        Where the header has failed, its parts stay for those who want to look, and the claim with them: so a member
        that runs again finds its chord taken.
        """
        if not request.group or not request.id:
            return
        one = _Chord(self, request.group, uuid())
        if not one.count(request, state, result):
            return
        callback = maybe_signature(request.chord, app=self.app)
        try:
            values = one.values()
            if not one.extend(self._chord_publish_claim_expires(one.claim_seconds, callback)):
                logger.warning("Chord %r is sent by another worker: the claim has run out", request.group)
                return
        except Exception as error:
            logger.exception("Chord %r raised: %r", request.group, error)
            if not isinstance(error, ChordError):
                error = _create_chord_error_with_cause(f"Join error: {error!r}", error)
            self.chord_error_from_stack(callback, error)
            one.extend(one.mark_seconds)
            return
        try:
            self.app.amqp._retry_publish(lambda: callback.delay(values))
        except Exception as error:
            logger.exception("Chord callback for %r raised: %r", request.group, error)
            reason = f"Callback error: {error!r}"
            self.chord_error_from_stack(callback, _create_chord_error_with_cause(reason, error))
        one.end()

    def _chord_publish_claim_expires(self, claim: int, callback: Any) -> int:
        return publish_seconds(claim, self.app.conf, callback.options)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {"expires": self.expires, "url": self.url, **(kwargs or {})})


class _Chord:
    """One chord, as the worker sees it that has ended a member of it.

    Arguments:
        token: what marks the claim as this call's.
    """

    def __init__(self, backend: RedisBackend, group_id: str, token: str) -> None:
        self.backend = backend
        self.group_id = group_id
        self.token = token
        self.ordered = backend._chord_ordered
        self.join_timeout = float(backend.app.conf["result_chord_join_timeout"] or 0)
        #: for as long as reading the results may take, and as much again
        self.claim_seconds = max(1, int(2 * self.join_timeout))
        self.kept = int(backend.chord_expires or 0)
        self.mark_seconds = max(self.kept or int(backend.expires or 0), _MARK)
        self.ended = 0

    def _key(self, ending: str = "") -> Any:
        return self.backend.get_key_for_group(self.group_id, ending)

    def count(self, request: Any, state: str, result: Any) -> bool:
        """Count the member of this request; whether that made the header whole, and the body is this worker's."""
        backend = self.backend
        index = request.group_index
        part = backend.encode([1, request.id, state, backend.encode_result(result, state)])
        saved = max(self.kept, int(backend.expires)) if backend.expires else 0
        self.ended, _, _, mine = backend._call(
            backend._chord_part_return_script,
            [*map(self._key, (".j", ".t", ".s", ".d", "", ".c"))],
            [
                request.id, part, int(self.ordered), "+inf" if index is None else index,
                self.kept, saved, self.claim_seconds, self.token,
            ],
        )  # fmt: skip
        return bool(mine)

    def values(self) -> list[Any]:
        """What the header's members returned.

        Raises:
            ChordError: one has failed.
        """
        backend = self.backend
        header = GroupResult.restore(self.group_id, backend=backend, app=backend.app)
        if header is not None:
            join = header.join_native if header.supports_native_join else header.join
            with allow_join_result():
                return join(timeout=backend.app.conf["result_chord_join_timeout"], propagate=True)  # type: ignore[no-any-return]
        return [backend._unpack_chord_result(part, backend.decode) for part in backend.ensure(self._parts, ())]

    def _parts(self) -> Any:
        with self.backend.client.pipeline() as pipe:
            if self.ordered:
                pipe.zrange(self._key(".j"), 0, -1)
            else:
                pipe.lrange(self._key(".j"), 0, self.ended)
            return pipe.execute()[0]

    def extend(self, seconds: int) -> bool:
        """Hold the claim for so long from now; whether it is still this worker's."""
        backend = self.backend
        keys = [self._key(".c"), self._key(".s")]
        return bool(backend._call(backend._chord_claim_extend_script, keys, [self.token, seconds]))

    def end(self) -> None:
        """Remove what was counted, and leave the mark."""
        backend = self.backend
        keys = [*map(self._key, (".c", ".j", ".t", ".s", ".d"))]
        backend._call(backend._chord_cleanup_script, keys, [self.token, self.mark_seconds])


class SentinelBackend(RedisBackend):
    """Results in the Redis that sentinels name: ``sentinel://host:port/db;sentinel://host:port/db``."""

    _SERVER_SEPARATOR = ";"
    sentinel: Any = getattr(redis, "sentinel", None)
    connection_class_ssl: Any = SentinelManagedSSLConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self.sentinel is None:
            raise ImproperlyConfigured(E_REDIS_SENTINEL_MISSING.strip())
        super().__init__(*args, **kwargs)

    def as_uri(self, include_password: bool = False) -> str:
        urls = [url for url in (self.url or "").split(";") if url]
        if include_password:
            return ";".join(urls)
        censored: Any = maybe_sanitize_url
        return ";".join(str(censored(url)) for url in urls)

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = dict(defaults, hosts=[])
        for one in url.split(self._SERVER_SEPARATOR):
            single = super()._params_from_url(one.replace("rediss", "redis", 1), defaults)
            found["hosts"].append(single)
        for name in ("host", "port", "db", "password"):
            found.pop(name, None)
        for name in ("db", "password", "username"):
            if name in found["hosts"][0]:
                found[name] = found["hosts"][0][name]
        return found

    def _get_sentinel_instance(self, **params: Any) -> Any:
        connection = dict(params)
        hosts = connection.pop("hosts")
        options = self._transport_options
        return self.sentinel.Sentinel(
            [(host["host"], host["port"]) for host in hosts],
            min_other_sentinels=options.get("min_other_sentinels", 0),
            sentinel_kwargs=options.get("sentinel_kwargs", {}),
            **connection,
        )

    def _get_pool(self, **params: Any) -> Any:
        if self._pool is None:
            who = {name: params[name] for name in ("username", "password") if params.get(name)}
            master = self._get_sentinel_instance(**params).master_for(
                service_name=self._transport_options.get("master_name"), redis_class=self._get_client(), **who
            )
            self._pool = master.connection_pool
        return self._pool
