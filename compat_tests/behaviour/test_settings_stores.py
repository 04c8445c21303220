"""Settings of result backends, each observed in the store: a Redis server of the tests' own, and SQLite files."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, wait_until
from zerocelery import Celery
from zerocelery.app.context import Context
from zerocelery.backends.base import KeyValueStoreBackend
from zerocelery.exceptions import TimeoutError as WaitTimeout

redis = pytest.importorskip("redis")
pytest.importorskip("sqlalchemy")

App = Callable[..., Celery]


@pytest.fixture
def app() -> Iterator[App]:
    """``app(**settings)``: closed at the end."""
    made: list[Celery] = []

    def make(**settings: Any) -> Celery:
        made.append(Celery("settings", set_as_current=False, **{"broker_url": "memory://", **settings}))
        return made[-1]

    yield make
    for each in made:
        each.close()


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """A Redis server with a user ``worker`` (password ``hers``), another password for all others, and TLS."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.tls_port = _free_port(), _free_port()
        _certificate(home)
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "ours",
             "--user", "worker", "on", ">hers", "~*", "&*", "+@all", "--tls-port", str(self.tls_port),
             "--tls-cert-file", str(home / "cert.pem"), "--tls-key-file", str(home / "key.pem"),
             "--tls-ca-cert-file", str(home / "cert.pem"), "--tls-auth-clients", "no"],
            cwd=home, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def client(self, db: int = 0) -> Any:
        return redis.Redis(host="127.0.0.1", port=self.port, password="ours", db=db)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _certificate(home: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (home / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (home / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server to start")
    home = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
    running = Server(home)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", running.port)) == 0

    try:
        wait_until(answers, what="the Redis server")
        yield running
    finally:
        running.process.terminate()
        running.process.wait(PATIENCE)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def on_redis(server: Server, app: App) -> Iterator[App]:
    """An app with this server's results, by settings alone."""
    made: list[Celery] = []

    def make(**settings: Any) -> Celery:
        place = {"redis_host": "127.0.0.1", "redis_port": server.port, "redis_password": "ours"}
        made.append(app(**{"result_backend": "redis", **place, **settings}))
        return made[-1]

    yield make
    for each in made:
        each.backend.client.connection_pool.disconnect()


def keep(app: Celery, task_id: str, value: Any = 1, **request: Any) -> None:
    app.backend.store_result(task_id, value, "SUCCESS", request=Context(request) if request else None)


def test_redis_db_host_port_and_password(on_redis: App, server: Server) -> None:
    keep(on_redis(redis_db=3), "by-settings")
    with server.client(3) as third, server.client(0) as first:
        assert third.exists("celery-task-meta-by-settings")
        assert not first.exists("celery-task-meta-by-settings")
    # never retried: which of these settings is wrong shows at once
    never = {"result_backend_transport_options": {"retry_policy": {"max_retries": 0}}}
    with pytest.raises(redis.exceptions.RedisError):
        keep(on_redis(redis_password="theirs", **never), "wrong-password")
    with pytest.raises(redis.exceptions.RedisError):
        keep(on_redis(redis_port=_free_port(), **never), "wrong-port")
    with pytest.raises(redis.exceptions.RedisError):
        keep(on_redis(redis_host="127.0.0.99", redis_port=_free_port(), **never), "wrong-host")


def test_redis_username(on_redis: App) -> None:
    app = on_redis(redis_username="worker", redis_password="hers")
    keep(app, "hers")
    assert app.backend.client.acl_whoami() == "worker"


def test_redis_backend_use_ssl(on_redis: App, server: Server) -> None:
    ssl = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(server.home / "cert.pem")}
    app = on_redis(redis_port=server.tls_port, redis_backend_use_ssl=ssl)
    keep(app, "over-tls", 7)
    assert app.AsyncResult("over-tls").get(timeout=5) == 7
    unknown = {"ssl_cert_reqs": "required"}  # whose certificate is nobody's
    never = {"result_backend_transport_options": {"retry_policy": {"max_retries": 0}}}
    with pytest.raises(redis.exceptions.RedisError):
        keep(on_redis(redis_port=server.tls_port, redis_backend_use_ssl=unknown, **never), "stranger")


def test_redis_max_connections(on_redis: App) -> None:
    app = on_redis(redis_max_connections=1)
    pool = app.backend.client.connection_pool
    taken = pool.get_connection()
    with pytest.raises(redis.exceptions.ConnectionError, match=r"(?i)too many|no connection"):
        pool.get_connection()
    pool.release(taken)


def test_redis_socket_timeout(on_redis: App, server: Server) -> None:
    never = {"result_backend_transport_options": {"retry_policy": {"max_retries": 0}}}
    app = on_redis(redis_socket_timeout=0.2, **never)
    keep(app, "quick")
    with server.client() as admin:
        admin.execute_command("CLIENT", "PAUSE", 1500, "ALL")
    begun = time.monotonic()
    with pytest.raises(redis.exceptions.TimeoutError):
        app.backend.get("celery-task-meta-quick")
    assert time.monotonic() - begun < 1.4


def test_result_expires_and_global_keyprefix(on_redis: App, server: Server) -> None:
    keep(on_redis(result_expires=90), "expires")
    keep(on_redis(result_expires=0), "stays")
    keep(on_redis(result_backend_transport_options={"global_keyprefix": "mine"}), "named")
    with server.client() as look:
        assert 0 < look.ttl("celery-task-meta-expires") <= 90
        assert look.ttl("celery-task-meta-stays") == -1
        assert look.exists("mine_celery-task-meta-named")


# ── SQL ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def files(tmp_path: Path, app: App) -> tuple[App, Path]:
    path = tmp_path / "results.sqlite"

    def make(**settings: Any) -> Celery:
        return app(**{"result_backend": "database", "database_url": f"sqlite:///{path}", **settings})

    return make, path


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    finally:
        connection.close()


def test_database_url_and_tables_that_are_made_at_once(files: tuple[App, Path]) -> None:
    make, path = files
    assert make(database_create_tables_at_setup=True).backend
    assert {"celery_taskmeta", "celery_tasksetmeta"} <= tables(path)


def test_database_create_tables_at_setup(files: tuple[App, Path]) -> None:
    make, path = files
    app = make(database_create_tables_at_setup=False)
    assert app.backend
    assert not path.exists() or "celery_taskmeta" not in tables(path)
    keep(app, "now")
    assert "celery_taskmeta" in tables(path)


def test_database_table_names(files: tuple[App, Path]) -> None:
    make, path = files
    keep(make(database_table_names={"task": "my_tasks", "group": "my_groups"}), "mine")
    assert {"my_tasks", "my_groups"} <= tables(path)
    assert "celery_taskmeta" not in tables(path)


def test_database_table_schemas(files: tuple[App, Path]) -> None:
    from sqlalchemy.exc import OperationalError

    make, path = files
    keep(make(database_table_schemas={"task": "main", "group": "main"}), "in-main")
    assert "celery_taskmeta" in tables(path)
    with pytest.raises(OperationalError, match="unknown database"):
        keep(make(database_table_schemas={"task": "elsewhere", "group": "elsewhere"}), "nowhere")


def test_database_engine_options_and_short_lived_sessions(
    files: tuple[App, Path], caplog: pytest.LogCaptureFixture
) -> None:
    make, _ = files
    with caplog.at_level("INFO", logger="sqlalchemy.engine"):
        keep(make(database_engine_options={"echo": True}), "echoed")
    assert "INSERT INTO celery_taskmeta" in caplog.text

    def makers(app: Celery) -> int:
        """How many factories two sessions have come from: each makes a class of its own."""
        backend: Any = app.backend
        sessions = backend.ResultSession(), backend.ResultSession()
        for session in sessions:
            session.close()
        return len({type(session) for session in sessions})

    assert makers(make()) == 1
    assert makers(make(database_short_lived_sessions=True)) == 2


# ── any store ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Flaky(KeyValueStoreBackend):
    """A store whose first writes fail."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.data: dict[Any, Any] = {}
        self.failures = 0
        self.reads = self.writes = 0

    def _maybe_fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the store is away")

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, OSError)

    def get(self, key: Any) -> Any:
        self.reads += 1
        return self.data.get(key)

    def set(self, key: Any, value: Any) -> None:
        self.writes += 1
        self._maybe_fail()
        self.data[key] = value


def flaky(app: App, failures: int, **settings: Any) -> tuple[Celery, Flaky]:
    pause = {"result_backend_base_sleep_between_retries_ms": 1, "result_backend_max_sleep_between_retries_ms": 2}
    made = app(result_backend=f"{__name__}:Flaky", **pause, **settings)
    backend: Any = made.backend
    backend.failures = failures
    return made, backend


def test_result_backend_always_retry(app: App) -> None:
    from zerocelery.exceptions import BackendStoreError

    made, backend = flaky(app, 3, result_backend_always_retry=True)
    keep(made, "patient")
    assert made.AsyncResult("patient").get(timeout=5) == 1
    made, backend = flaky(app, 3)
    with pytest.raises((OSError, BackendStoreError)):
        keep(made, "at-once")
    assert backend.writes == 1


def test_result_backend_max_retries(app: App) -> None:
    from zerocelery.exceptions import BackendStoreError

    made, backend = flaky(app, 99, result_backend_always_retry=True, result_backend_max_retries=4)
    with pytest.raises(BackendStoreError):
        keep(made, "bounded")
    assert backend.writes == 5


def test_result_cache_max(app: App) -> None:
    made, backend = flaky(app, 0, result_cache_max=2)
    for n in range(3):
        keep(made, f"c{n}")
        assert made.AsyncResult(f"c{n}").state == "SUCCESS"
    asked = backend.reads
    assert made.AsyncResult("c2").state == "SUCCESS"
    assert backend.reads == asked  # known
    assert made.AsyncResult("c0").state == "SUCCESS"
    assert backend.reads == asked + 1  # forgotten: there is room for two


def test_result_chord_settings_reach_the_unlocking_task(app: App) -> None:
    """A backend that can't count looks for the header's end again and again: how often, and how long it joins."""
    made, _ = flaky(app, 0, result_chord_retry_interval=7.0, result_chord_join_timeout=0.3)
    made.conf.task_default_queue = "unlocking"
    pending = made.AsyncResult("never")
    unlock = made.tasks["celery.chord_unlock"]
    body = made.signature("body")
    body.freeze("body-of-it")

    # nothing is ready: it comes again after the interval
    unlock.apply_async(("group", body), {"result": [pending.as_tuple()]}, task_id="unlock")
    with made.connection() as connection:
        channel = connection.channel()
        queue = made.amqp.queues["unlocking"](channel)
        assert queue.get(no_ack=True).headers["task"] == "celery.chord_unlock"
        unlock.push_request(
            id="unlock", called_directly=False, args=["group", body], kwargs={"result": [pending.as_tuple()]},
            delivery_info={"routing_key": "unlocking"},
        )  # fmt: skip
        before = datetime.datetime.now(datetime.timezone.utc)
        try:
            with pytest.raises(Exception, match=r"(?i)retry"):
                unlock.run("group", body, result=[pending.as_tuple()])
        finally:
            unlock.pop_request()
        again = queue.get(no_ack=True)
    eta = datetime.datetime.fromisoformat(again.headers["eta"])
    assert 6.5 < (eta - before).total_seconds() < 9.0

    # all say that they are ready, and one's value doesn't come: it is waited for so long
    class Ready(made.GroupResult):  # type: ignore[misc,name-defined]
        supports_native_join = False

        def ready(self) -> bool:
            return True

    begun = time.monotonic()
    unlock.run("group", body, result=[pending.as_tuple()], GroupResult=Ready)
    assert 0.2 < time.monotonic() - begun < 2.5  # and not the usual 3 s
    assert WaitTimeout.__name__ in str(made.AsyncResult("body-of-it").result)
