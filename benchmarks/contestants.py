"""The contestants: how each is started and stopped, and which of its processes plays which part."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks import procfs
from benchmarks.environments import Interpreter
from benchmarks.errors import Failed, Unavailable
from benchmarks.processes import Client, Family
from benchmarks.redis_db import RedisDatabase


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """Process ids by the part they play."""

    worker: Sequence[int] = ()
    broker: Sequence[int] = ()

    @property
    def all(self) -> list[int]:
        return [*self.worker, *self.broker]


class Contestant(ABC):
    """One task queue with two workers. Everything that it starts is gone after `stop`, whatever happened between.

    Arguments:
        interpreter: the Python that has it.
        scratch: directory for logs and, for zerocelery, its node.
        deadline: seconds that one request to its client may take.
    """

    name: ClassVar[str]
    #: The scripts' module with its tasks.
    app: ClassVar[str]
    #: What must be importable.
    package: ClassVar[str]
    #: The script whose import time counts, '' for none.
    import_script: ClassVar[str] = ""
    #: Whether its memory, start and idleness are those of a task queue.
    is_queue: ClassVar[bool] = True

    def __init__(self, interpreter: Interpreter, *, scratch: Path, deadline: float) -> None:
        self.interpreter = interpreter
        self.scratch = scratch
        self._deadline = deadline
        self._family = self._new_family()
        self._clients: list[Family] = []

    @abstractmethod
    def start_broker(self) -> None:
        """Make ready an empty broker that takes tasks while no worker runs."""

    @abstractmethod
    def start_worker(self) -> None:
        """Start two workers, and the broker with them where that is how its users do it."""

    def start_worker_with_events(self) -> None:
        """The same with what Celery calls task events.

        Raises:
            Failed: it has none.
        """
        raise Failed(f"{self.name} has no task events")

    @abstractmethod
    def parts(self, client: Client | None = None) -> Parts:
        """The processes as they are now."""

    def prepare(self) -> None:
        """Make ready what `start_worker` needs on an empty machine; started on the clock is only the worker."""
        self.start_broker()

    def stop(self) -> None:
        """Stop everything and leave no data behind. Where it was interrupted it can be called again."""
        while self._clients:
            self._clients[-1].stop()
            self._clients.pop()
        self._family.stop()

    def waiting(self) -> int:
        """How many tasks its broker says that it holds.

        Raises:
            Failed: it can't say.
        """
        raise Failed(f"{self.name} isn't asked how many tasks wait")

    def check(self) -> None:
        """Raises Failed when one of its processes has ended by itself."""
        self._family.check()

    def available(self) -> None:
        """Raises Unavailable where it can't run here."""
        self.interpreter.check(self.package)

    @contextlib.contextmanager
    def cleared(self) -> Iterator[None]:
        """Whatever is started inside is stopped at the end."""
        try:
            yield
        finally:
            self.stop()

    @contextlib.contextmanager
    def running(self, *, events: bool = False) -> Iterator[Client]:
        """The contestant at work, with a client that had some results already."""
        with self.cleared():
            self.prepare()
            if events:
                self.start_worker_with_events()
            else:
                self.start_worker()
            with self.client() as client:
                client.ask("throughput", task="noop", tasks=50)
                yield client

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A client process of its own, imported and ready."""
        family = self._new_family()
        self._clients.append(family)
        try:
            command = [self.interpreter.python, "client.py", self.app]
            client = Client(family, command, watch=self.check, deadline=self._deadline)
            client.ask("ready")
            yield client
        finally:
            family.stop()

    def variables(self) -> Mapping[str, str]:
        """Environment variables for its processes."""
        return {}

    def _new_family(self) -> Family:
        return Family(self.scratch / f"{self.name}.log", {**self.interpreter.variables, **self.variables()})

    def _start(self, *arguments: str) -> None:
        self._family.start([self.interpreter.python, *arguments])


class ZeroCelery(Contestant):
    """zerocelery as it comes: a worker that brings its node along, journal on, nothing configured."""

    name = "zerocelery"
    app = "zerocelery_app"
    package = "zerocelery"
    import_script = "import_zerocelery.py"

    @property
    def directory(self) -> Path:
        """The node's directory."""
        return self.scratch / "node"

    @property
    def address(self) -> str:
        return f"zmq://{self.directory}"

    def variables(self) -> Mapping[str, str]:
        return {"BENCHMARK_BROKER": self.address}

    def prepare(self) -> None:
        """Nothing: the worker brings its node along."""

    def start_broker(self) -> None:
        self._start("-m", "zerocelery", "node", "-b", self.address)

    def start_worker(self) -> None:
        self._start(*_worker(self))

    def start_worker_with_events(self) -> None:
        self._start(*_worker(self), "-E")

    def parts(self, client: Client | None = None) -> Parts:
        node = self._node()
        return Parts(worker=[pid for pid in self._family.pids() if pid != node], broker=[node] if node else [])

    def waiting(self) -> int:
        command = [self.interpreter.python, "-m", "zerocelery", "status", "-b", self.address, "--node", "--json"]
        # Its exit status tells whether there are workers, and here there need not be any.
        done = subprocess.run(
            command, env=dict(self.interpreter.variables), capture_output=True, text=True, timeout=30, check=False
        )
        try:
            return sum(queue["waiting"] for queue in json.loads(done.stdout)["queues"].values())
        except (ValueError, KeyError) as error:
            raise Failed(f"zerocelery status said {done.stdout!r} {done.stderr!r}") from error

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _node(self) -> int:
        """The node's process, 0 where none is."""
        try:
            return int((self.directory / "node.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return 0


class _OverRedis(Contestant):
    """A peer whose broker is a Redis that already runs; a database of it is claimed and left empty."""

    def __init__(self, interpreter: Interpreter, *, scratch: Path, deadline: float, database: RedisDatabase) -> None:
        self.database = database
        super().__init__(interpreter, scratch=scratch, deadline=deadline)

    def variables(self) -> Mapping[str, str]:
        return {"BENCHMARK_BROKER": self.database.url}

    def available(self) -> None:
        self.database.server()
        super().available()

    def start_broker(self) -> None:
        self.database.claim()

    def parts(self, client: Client | None = None) -> Parts:
        return Parts(worker=self._family.pids(), broker=self._redis())

    def stop(self) -> None:
        super().stop()
        with contextlib.suppress(Unavailable):
            self.database.release()

    def _redis(self) -> list[int]:
        """The server's process where it runs on this machine and in our sight."""
        pid = int(self.database.server().get("process_id", "0"))
        return [pid] if procfs.name_of(pid).startswith("redis") else []


class Celery(_OverRedis):
    """Stock Celery over Redis, prefork, two processes, otherwise as it comes."""

    name = "celery"
    app = "celery_app"
    package = "celery"
    import_script = "import_celery.py"

    def start_worker(self) -> None:
        self._start(*_worker(self))

    def start_worker_with_events(self) -> None:
        self._start(*_worker(self), "-E")


class Dramatiq(_OverRedis):
    """dramatiq over Redis with its default of eight threads, two processes, results on."""

    name = "dramatiq"
    app = "dramatiq_app"
    package = "dramatiq"
    import_script = "import_dramatiq.py"

    def start_worker(self) -> None:
        self._start("-m", "dramatiq", "-p", "2", "-t", "8", self.app)


class Pool(Contestant):
    """concurrent.futures.ProcessPoolExecutor(2): its workers are children of the client, and nothing is durable."""

    name = "ppe"
    app = "pool_app"
    package = "concurrent.futures"
    is_queue = False

    def start_broker(self) -> None:
        """It has none."""

    def start_worker(self) -> None:
        """The client starts them."""

    def parts(self, client: Client | None = None) -> Parts:
        return Parts(worker=[pid for pid in client.pids() if pid != client.pid] if client else ())


CONTESTANTS: tuple[type[Contestant], ...] = (ZeroCelery, Celery, Dramatiq, Pool)


def _worker(contestant: Contestant) -> tuple[str, ...]:
    """The command that Celery and what replaces it have in common."""
    return ("-m", contestant.package, "-A", contestant.app, "worker", "-c", "2", "-P", "prefork", "-l", "WARNING")


def make_scratch(directory: Path) -> Path:
    """A new directory for one run, on the file system of the cache: a journal in memory would flatter."""
    directory.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=directory))
