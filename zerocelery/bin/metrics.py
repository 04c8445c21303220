"""``--metrics HOST:PORT``: figures for Prometheus at /metrics, and at /health whether it works.

They are served by a process of their own, which asks over the same sockets as everybody: what answers there is known to
work, and a slow reader of figures holds up neither a node nor a worker. It ends with the process that has started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from zerocelery.bin.base import CeleryOption, CommandError

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

#: Seconds within which a node or a worker has to answer, or it counts as ill.
PATIENCE = 2.0

#: Seconds within which the process is up.
_START_SECONDS = 30.0

metrics_option = click.option(
    "--metrics",
    cls=CeleryOption,
    metavar="HOST:PORT",
    help="Serve /metrics (Prometheus) and /health there.",
    help_group="Metrics",
)


class Figure(NamedTuple):
    """One figure, by its labels' values: of kind ``counter``, which only grows, or ``gauge``."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]


def _one(name: str, kind: str, help: str, value: float) -> Figure:
    return Figure(name, kind, help, (), {(): value})


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_QUEUE_FIGURES = {
    "waiting": "Tasks that wait for a worker",
    "scheduled": "Tasks that wait for their time",
    "leased": "Tasks that are with workers",
    "dead": "Dead letters",
    "oldest": "Seconds that the oldest task has waited",
}


def node_figures(status: Mapping[str, Any]) -> Iterator[Figure]:
    """A node's figures, from what it says of itself."""
    queues: Mapping[str, Mapping[str, Any]] = status["queues"]
    yield _one("zerocelery_node_uptime_seconds", "gauge", "Seconds since the node started", status["uptime"])
    yield _one("zerocelery_node_results", "gauge", "Results in the store", status["results"])
    yield _one("zerocelery_node_clients", "gauge", "Clients that are connected", status["inboxes"])
    yield _one("zerocelery_node_worker_processes", "gauge", "Processes that take tasks", len(status["workers"]))
    running = sum(len(worker["running"]) for worker in status["workers"])
    yield _one("zerocelery_node_running", "gauge", "Tasks that run", running)
    for name, count in sorted(status["counters"].items()):
        yield _one(f"zerocelery_node_{name}", "counter", f"Since the node started: {name}", count)
    for key, text in _QUEUE_FIGURES.items():
        values: dict[tuple[str, ...], float] = {
            (name,): float(queue[key] or 0) for name, queue in sorted(queues.items()) if key in queue
        }
        unit = "_seconds" if key == "oldest" else ""
        yield Figure(f"zerocelery_queue_{key}{unit}", "gauge", text, ("queue",), values)


def worker_figures(worker: str, stats: Mapping[str, Any], active: list[Any]) -> Iterator[Figure]:
    """A worker's figures, from what it answers to ``inspect stats`` and ``inspect active``."""
    label: tuple[str, ...] = (worker,)
    pool = stats.get("pool") or {}
    finished: dict[tuple[str, ...], float] = {
        (worker, name): float(count) for name, count in sorted((stats.get("total") or {}).items())
    }
    yield Figure("zerocelery_worker_tasks", "counter", "Tasks taken, by name", ("worker", "task"), finished)
    for name, text, value in (
        ("running", "Tasks that run", len(active)),
        ("processes", "Processes or threads of the pool", len(pool.get("processes") or ())),
        ("concurrency", "Tasks at a time", pool.get("max-concurrency") or 0),
        ("uptime_seconds", "Seconds since the worker started", stats.get("uptime") or 0),
        ("max_resident_kib", "The most memory that its main process had", (stats.get("rusage") or {}).get("maxrss", 0)),
    ):
        yield Figure(f"zerocelery_worker_{name}", "gauge", text, ("worker",), {label: float(value)})


# ── serving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Ill(Exception):
    """It does not answer; says so."""


def of_node(url: str) -> tuple[Callable[[], list[Figure]], Callable[[], None]]:
    """Two functions: a node's figures, and one that raises :class:`Ill` where it does not answer."""
    from zerocelery.bin.nodes import ask_through
    from zerocelery.engine.address import parse_address
    from zerocelery.engine.errors import EngineError
    from zerocelery.engine.producer import Producer, ProducerOptions

    client = Producer(parse_address(url), options=ProducerOptions(connect_timeout=PATIENCE))
    lock = threading.Lock()

    def figures() -> list[Figure]:
        try:
            with lock:
                status = ask_through(client, timeout=PATIENCE)
        except EngineError as error:
            raise Ill(str(error)) from error
        return list(node_figures(status))

    return figures, lambda: void(figures())


def of_worker(url: str, worker: str) -> tuple[Callable[[], list[Figure]], Callable[[], None]]:
    """As :func:`of_node`, for a worker of whatever broker."""
    from zerocelery import Celery

    app = Celery("metrics", broker=url, set_as_current=False)
    lock = threading.Lock()

    def asked(question: str) -> Any:
        try:
            with lock:
                ask = app.control.inspect(destination=[worker], timeout=PATIENCE, limit=1)
                found = getattr(ask, question)()
        except Exception as error:  # whatever a broker's client raises: it is told to who asked
            raise Ill(f"{worker} can't be asked: {error}") from error
        if not found or worker not in found:
            raise Ill(f"{worker} did not answer within {PATIENCE:g} s")
        return found[worker]

    def figures() -> list[Figure]:
        return list(worker_figures(worker, asked("stats"), asked("active")))

    return figures, lambda: void(asked("ping"))


def void(value: object) -> None:
    """Nothing: what was asked for has come."""


def exposition(figures: list[Figure]) -> tuple[bytes, str]:
    """Figures as Prometheus reads them, and their content type."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    families = []
    for figure in figures:
        kind: Any = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
        family = kind(figure.name, figure.help, labels=figure.labels)
        for labels, value in figure.values.items():
            family.add_metric(labels, value)
        families.append(family)

    class Collected:
        def collect(self) -> list[Any]:
            return families

    registry = CollectorRegistry()
    registry.register(Collected())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def server(host: str, port: int, figures: Callable[[], list[Figure]], check: Callable[[], None]) -> ThreadingHTTPServer:
    """A server of both pages; call its ``serve_forever``."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            try:
                if path == "/metrics":
                    self._answer(200, *exposition(figures()))
                elif path in ("/health", "/healthz"):
                    check()
                    self._answer(200, b'{"status": "ok"}\n', "application/json")
                else:
                    self._answer(404, b"there are /metrics and /health\n", "text/plain")
            except Ill as error:
                told = json.dumps({"status": "ill", "reason": str(error)}) + "\n"
                self._answer(503, told.encode(), "application/json")

        def _answer(self, code: int, body: bytes, kind: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A page that is read every few seconds is no news."""

    made = ThreadingHTTPServer((host, port), Handler)
    made.daemon_threads = True
    return made


def main(arguments: list[str]) -> int:
    """The process: serves until its stdin ends, which is when the one that started it does."""
    listen, url, worker = arguments
    host, _, port = listen.rpartition(":")
    figures, check = of_worker(url, worker) if worker else of_node(url)
    try:
        http = server(host.strip("[]"), int(port), figures, check)
    except OSError as error:
        sys.stdout.write(f"{listen} can't be listened at: {error.strerror}\n")
        return 1
    threading.Thread(target=http.serve_forever, name="http", daemon=True).start()
    sys.stdout.write(f"ready {http.server_address[0]!s}:{http.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    return 0


# ── who is served ────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def serving(listen: str | None, url: str, worker: str = "") -> Iterator[str | None]:
    """Serve a node's figures, or a worker's, for as long as the block; gives ``host:port``.

    Arguments:
        listen: ``host:port``; port 0 takes a free one. None: nothing is served.
        url: the node's, or the broker's.

    Raises:
        CommandError: it can't be; the message names the fix.
    """
    if listen is None:
        yield None
        return
    _, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal():
        raise CommandError(f"--metrics {listen!r} is no address: write HOST:PORT, as in 127.0.0.1:9540")
    try:
        import prometheus_client  # noqa: F401  whether it is there
    except ImportError as error:
        raise CommandError("--metrics needs prometheus-client: pip install 'zerocelery[metrics]'") from error
    process = subprocess.Popen(  # noqa: S603  this very Python, on a module of this package
        [sys.executable, "-m", __name__, listen, url, worker],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "CELERY_BROKER_URL": url},
    )
    try:
        yield _ready(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _ready(process: subprocess.Popen[bytes]) -> str:
    """Where it serves, once it does."""
    timer = threading.Timer(_START_SECONDS, process.kill)
    timer.start()
    try:
        line = process.stdout.readline().decode().strip() if process.stdout is not None else ""
    finally:
        timer.cancel()
        timer.join()
    word, _, where = line.partition(" ")
    if word != "ready":
        raise CommandError(f"--metrics: {line or 'the process that serves them did not start; its reason is above'}")
    return where


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
