"""A node, its workers and a client for one fault test: processes of their own, and a record of what was run."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import psutil

from compat_tests.conftest import PATIENCE, Sandbox, wait_until
from compat_tests.faults.strategies import Run, read_runs
from zerocelery.engine import wire
from zerocelery.engine.producer import Producer, ProducerOptions

#: Tasks whose worker is lost are run again.
LATE = wire.ACK_LATE | wire.REJECT_ON_LOST

_PROGRAM = ("-m", "compat_tests.faults.strategies")


class Gate:
    """Holds tasks (``gate`` and ``hoard``) until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1
        os.mkfifo(path)

    def open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._fd, b".")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclasses.dataclass
class Rig:
    """What a fault test has to do with."""

    box: Sandbox
    producers: list[Producer] = dataclasses.field(default_factory=list)
    gates: list[Gate] = dataclasses.field(default_factory=list)

    @property
    def url(self) -> str:
        return self.box.url

    @property
    def record(self) -> Path:
        return self.box.home / "record"

    def node(
        self, url: str | None = None, *, failpoint: str = "", wait: bool = True, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a node (not embedded: it ends only when it is told to)."""
        env = {"ZEROCELERY_FAILPOINT": failpoint}
        process = self.box.python(*_PROGRAM, "node", url or self.url, json.dumps(options), env=env)
        if wait:
            self.box.wait_for_output(process, "node at ")
        return process

    def url_of(self, node: subprocess.Popen[bytes]) -> str:
        """The address that a node has printed: where it was started with port 0, it says which it got."""
        found = re.search(r"^node at (\S+)$", self.box.output(node), re.MULTILINE)
        assert found is not None, self.box.output(node)
        return found[1]

    def worker(
        self, url: str | None = None, *, failpoint: str = "", wait: bool = True, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a pool; without a node, it starts an embedded one."""
        env = {"ZEROCELERY_FAILPOINT": failpoint}
        options = {"record": str(self.record), **options}
        process = self.box.python(*_PROGRAM, "worker", url or self.url, json.dumps(options), env=env)
        if wait:
            self.box.wait_for_output(process, "worker ready")
        return process

    def client(self, url: str | None = None, **options: Any) -> Producer:
        """A client in the test's own process."""
        producer = Producer(url or self.url, options=ProducerOptions(**options))
        self.producers.append(producer)
        return producer

    def gate(self) -> Gate:
        gate = Gate(self.box.home / f"gate-{len(self.gates)}")
        self.gates.append(gate)
        return gate

    def runs(self, *task_ids: str) -> list[Run]:
        """What was run, of these tasks or of all."""
        return [run for run in read_runs(self.record) if not task_ids or run.id in task_ids]

    def wait_for_run(self, task_id: str, *, attempt: int = 1) -> Run:
        """Return when the task has begun to run."""
        wait_until(lambda: len(self.runs(task_id)) >= attempt, what=f"run {attempt} of {task_id}")
        return self.runs(task_id)[attempt - 1]

    def status(self) -> dict[str, Any]:
        """What the node says of itself, asked by a client of its own."""
        with_node = Producer(self.url)
        try:
            return status_of(with_node)
        finally:
            with_node.close(timeout=0)

    def close(self) -> None:
        for producer in self.producers:
            producer.close(timeout=0)
        for gate in self.gates:
            gate.close()


def task(deed: str, *arguments: Any, to: Producer | None = None, **fields: Any) -> wire.Task:
    """A task that does this deed; its result goes to that client."""
    topics = (to.inbox,) if to is not None else ()
    body = json.dumps([deed, *arguments]).encode()
    return wire.Task(id=uuid.uuid4().hex, name=deed, topics=topics, body=body, **fields)


def status_of(producer: Producer) -> dict[str, Any]:
    """What the node says of itself."""
    return dict(msgspec.msgpack.decode(producer.query("status", timeout=PATIENCE)))


def value_of(result: wire.Result) -> Any:
    """What a task returned."""
    assert result.state == wire.SUCCESS, (result.state, loss_of(result) or result.info.decode() or result.value)
    return pickle.loads(result.value)


def loss_of(result: wire.Result) -> wire.Loss | None:
    """Why the engine itself ended a task, if it did."""
    loss = wire.decode_loss(result.value) if result.content_type == wire.LOSS_TYPE else None
    return loss if isinstance(loss, wire.Loss) else None


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def assert_idle(pid: int, *, seconds: float = 2.0, share: float = 0.25) -> None:
    """Nothing spins in this process: over some seconds of the wall clock it uses only this share of a processor."""
    before, until = processor_seconds(pid), time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, timeout=seconds + 1)
    used = processor_seconds(pid) - before
    assert used <= seconds * share, f"process {pid} used {used:.2f} s of processor time in {seconds:g} s"
