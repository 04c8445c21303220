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
from ssl import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED
from typing import Any
from urllib.parse import unquote

from kombu.utils import encoding, functional
from kombu.utils.url import _parse_url, maybe_sanitize_url

from zerocelery import states
from zerocelery._ids import uuid
from zerocelery.backends.base import BaseKeyValueStoreBackend, SyncBackendMixin, _create_chord_error_with_cause
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

__all__ = ("RedisBackend", "SentinelBackend")

logger = get_logger("celery.backends.redis")

# kombu has no types
bytes_to_str: Any = encoding.bytes_to_str
retry_over_time: Any = functional.retry_over_time

E_REDIS_MISSING = (
    "You need to install the redis library in order to use the Redis result store backend: pip install redis"
)
E_REDIS_SENTINEL_MISSING = "You need a redis library with sentinel: pip install --upgrade redis"
E_LOST = "Connection to Redis lost: Retry (%s/%s) %s."

#: What Redis takes for one value.
_MOST_BYTES = 536_870_912

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

#: Counts a member, once: gives how many there are, how many were added, the size, and who calls has got the claim.
#: Keys: members, added, size, known, group, claim. Arguments: task id, entry, "1" for a sorted header, index, seconds
#: to keep members and group, seconds of the claim, the caller's token.
CHORD_PART_RETURN_LUA = """
local members, added, size, known, header, claim = unpack(KEYS)
local sorted = ARGV[3] == '1'
if redis.call('GET', claim) == 'done' then return {-1, 0, 0, 0} end
if redis.call('SADD', known, ARGV[1] .. ':' .. ARGV[4]) == 1 then
  if sorted then redis.call('ZADD', members, ARGV[4], ARGV[2])
  else redis.call('RPUSH', members, ARGV[2]) end
end
local count = redis.call(sorted and 'ZCARD' or 'LLEN', members)
local keep, keep_header = tonumber(ARGV[5]), tonumber(ARGV[6])
if keep > 0 then
  redis.call('EXPIRE', members, keep)
  redis.call('EXPIRE', added, keep)
  redis.call('EXPIRE', size, keep)
  redis.call('EXPIRE', known, keep)
  if keep_header > 0 then redis.call('EXPIRE', header, keep_header) end
end
local more, whole, mine = redis.call('GET', added), redis.call('GET', size), 0
if whole and count == whole + (more or 0) and redis.call('SET', claim, ARGV[8], 'EX', ARGV[7], 'NX') then mine = 1 end
return {count, more, whole, mine}
"""

#: Removes a chord that its claim's holder is done with, and leaves the mark. Keys: claim and what is removed.
CHORD_CLEANUP_LUA = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', unpack(KEYS, 2))
local keep = tonumber(ARGV[2] or '0') or 0
if keep > 0 then redis.call('SETEX', KEYS[1], keep, 'done') end
return 1
"""

#: Holds a claim for longer; one that has run out is taken again if the chord is still there. Keys: claim, size.
CHORD_CLAIM_EXTEND_LUA = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end
if holder or redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
return 1
"""


class RedisBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
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
        if self.connparams.get("decode_responses"):
            self.compression = None
        self.url = url
        self.failure_expires = self._failure_expires(conf["result_failure_expires"])
        self.chord_expires = self._chord_expires(conf["result_chord_expires"])
        self.connection_errors, self.channel_errors = self._errors()
        self._client: Any = None
        self._scripts: dict[str, Any] = {}

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
        if conf["redis_username"]:
            found["username"] = conf["redis_username"]
        for setting, name in (("redis_backend_health_check_interval", "health_check_interval"),
                              ("redis_client_name", "client_name")):  # fmt: skip
            value = conf.get(setting)
            if value:
                found[name] = value
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

    def _errors(self) -> tuple[tuple[type[BaseException], ...], tuple[type[BaseException], ...]]:
        library = redis.exceptions
        return (
            (library.ConnectionError, library.TimeoutError, library.BusyLoadingError, OSError),
            (library.InvalidResponse, library.ResponseError),
        )

    def close(self) -> None:
        """Let go of the connections; they are made anew when they are needed."""
        if self._client is not None:
            self._client.connection_pool.disconnect()
            self._client = self._pool = None
            self._scripts.clear()

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
        if isinstance(value, (str, bytes)) and len(value) > _MOST_BYTES:
            raise BackendStoreError("value too large for Redis backend")
        return self.ensure(self._set, (key, value, self._seconds(state)), **retry_policy)

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
        return int(self.client.incr(key))

    def expire(self, key: Any, value: Any) -> Any:
        return self.client.expire(key, value)

    def _failure_expires(self, value: Any) -> Any:
        return self.expires if value is None else self.prepare_expires(value, type=int)

    def _chord_expires(self, value: Any) -> Any:
        return self.expires if value is None else self.prepare_expires(value, type=int)

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> dict[str, Any]:
        for _, meta in self.get_many([task_id], timeout=timeout, interval=interval, on_interval=on_interval):
            return meta
        raise TimeoutError("The operation timed out.")

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        callback: Callable[[Any, Any], Any] | None = None,
        propagate: bool = True,
    ) -> Any:
        self._ensure_not_eager()
        listening = self.get_many(
            [result.id], timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval
        )
        for _, meta in listening:
            result._maybe_set_cache(meta)
        return result.maybe_throw(propagate=propagate, callback=callback)

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
        return bool((self.app.conf["result_backend_transport_options"] or {}).get("result_chord_ordered", True))

    @property
    def _transport_options(self) -> Any:
        return self.app.conf["result_backend_transport_options"] or {}

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        group_id, results = header_result_args[0], header_result_args[1]
        # a header with groups in it has more parts than tasks that count: its results are looked for when it is done
        if any(isinstance(one, GroupResult) for one in results):
            header = self.app.GroupResult(group_id, results)
            header.save(backend=self)
            if self.chord_expires and self.expires and self.chord_expires > self.expires:
                self.expire(self.get_key_for_group(group_id), self.chord_expires)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        key = self.get_key_for_group(group_id, ".s")
        self.ensure(lambda: self.client.set(key, chord_size, ex=self.chord_expires or None), ())

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
            chord_error = _create_chord_error_with_cause(f"Dependency {task_id} raised {value!r}", value)
            raise chord_error
        return value

    def on_chord_part_return(self, request: Any, state: str, result: Any, propagate: Any = None, **kwargs: Any) -> None:
        task_id, group_id, index = request.id, request.group, request.group_index
        if not group_id or not task_id:
            return
        if index is None:
            index = "+inf"
        ordered = self._chord_ordered
        entry = self.encode([1, task_id, state, self.encode_result(result, state)])
        token = uuid()
        keys = self._chord_keys(group_id)
        keep = int(self.chord_expires or 0)
        join_timeout = float(self.app.conf["result_chord_join_timeout"] or 0)
        claim = max(1, int(2 * join_timeout))
        *_, claimed = self._script(
            CHORD_PART_RETURN_LUA,
            [*keys[:4], self.get_key_for_group(group_id), keys[4]],
            [task_id, entry, int(ordered), index, keep, max(keep, int(self.expires or 0)), claim, token],
        )
        if not claimed:
            return
        members = keys[0]
        callback = maybe_signature(request.chord, app=self.app)
        try:
            self._send_body(group_id, callback, self._header(members, ordered), keys, token)
        except ChordError as error:
            logger.exception("Chord %r raised: %r", group_id, error)
            self.chord_error_from_stack(callback, error)
        except Exception as error:
            logger.exception("Chord %r raised: %r", group_id, error)
            reason = f"Join error: {error!r}"
            self.chord_error_from_stack(callback, _create_chord_error_with_cause(reason, error))
        finally:
            self._script(
                CHORD_CLEANUP_LUA, [keys[4], *keys[:4]], [token, max(int(self.chord_expires or self.expires or 0), 1)]
            )

    def _chord_keys(self, group_id: str) -> list[Any]:
        return [self.get_key_for_group(group_id, suffix) for suffix in (".j", ".t", ".s", ".d", ".c")]

    def _script(self, source: str, keys: list[Any], args: list[Any]) -> Any:
        script = self._scripts.get(source)
        if script is None:
            script = self._scripts[source] = self.client.register_script(source)
        return self.ensure(lambda: script(keys=keys, args=args, client=self.client), ())

    def _header(self, members: Any, ordered: bool) -> Any:
        if ordered:
            return self.client.zrange(members, 0, -1)
        return self.client.lrange(members, 0, -1)

    def _send_body(self, group_id: str, callback: Any, entries: Any, keys: list[Any], token: str) -> None:
        header = GroupResult.restore(group_id, backend=self, app=self.app)
        if header is not None:
            join = header.join_native if header.supports_native_join else header.join
            with allow_join_result():
                values = join(timeout=self.app.conf["result_chord_join_timeout"], propagate=True)
        else:
            values = [self._unpack_chord_result(entry, self.decode) for entry in entries]
        budget = int(self.app.conf["broker_connection_timeout"] or 4) * 10
        if not self._script(CHORD_CLAIM_EXTEND_LUA, [keys[4], keys[2]], [token, budget]):
            logger.warning("Chord %r is sent by another worker: the claim has run out", group_id)
            return
        try:
            self.app.amqp._retry_publish(lambda: callback.delay(values))
        except Exception as error:
            logger.exception("Chord callback for %r raised: %r", group_id, error)
            reason = f"Callback error: {error!r}"
            self.chord_error_from_stack(callback, _create_chord_error_with_cause(reason, error))

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {"expires": self.expires, "url": self.url, **(kwargs or {})})


class SentinelBackend(RedisBackend):
    """Results in the Redis that sentinels name: ``sentinel://host:port/db;sentinel://host:port/db``."""

    _SERVER_SEPARATOR = ";"
    sentinel: Any = getattr(redis, "sentinel", None)
    connection_class_ssl: Any = getattr(sentinel, "SentinelManagedSSLConnection", None)

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
            master = self._transport_options.get("master_name")
            self._pool = (
                self._get_sentinel_instance(**params)
                .master_for(service_name=master, redis_class=self._get_client())
                .connection_pool
            )
        return self._pool
