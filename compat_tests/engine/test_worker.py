"""The worker over the memory transport: fetch, run, report, and what it says when something is wrong."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import psutil
import pytest

from compat_tests.conftest import wait_until
from compat_tests.engine.system import task
from zerocelery.engine import wire
from zerocelery.engine.address import parse_address
from zerocelery.engine.errors import CallableError, VersionMismatch
from zerocelery.engine.node import Node
from zerocelery.engine.producer import Producer, _Kept
from zerocelery.engine.strategy import CallableStrategy, Outcome, Strategy, failure, success
from zerocelery.engine.worker import Worker, current_worker
from zerocelery.transport.memory import MemoryNetwork
from zerocelery.transport.zmq import SharedContext


class Place:
    """A node in a thread, on the machine's own clock, with producers and workers in memory."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.network = MemoryNetwork()
        self.url = f"zmq://{directory}/node"
        self.stack = stack
        self.listens = threading.Event()
        self._run(self._serve, lambda: self.node.stop())
        assert self.listens.wait(20.0)
        self.producer = Producer(self.url, link=self.network.client)
        stack.callback(self.producer.close)

    def _serve(self) -> None:
        self.node = Node(self.url, port=self.network.node)
        self.listens.set()
        self.node.run()

    def _run(self, run: Callable[[], None], stop: Callable[[], None]) -> None:
        thread = threading.Thread(target=run)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(stop)

    def worker(self, strategy: Strategy, **more: Any) -> Worker:
        worker = Worker(self.url, strategy, link=self.network.worker, **more)
        self._run(worker.run, worker.stop)
        return worker

    def run(self, one: wire.Task) -> wire.Result:
        token = self.producer.submit(msgspec.structs.replace(one, topics=(self.producer.inbox,)))
        return self.producer.wait(one.id, token=token, timeout=20.0)


@pytest.fixture
def place(short_path: Path) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(short_path, stack)


def call(*args: Any, name: str = "f", **kwargs: Any) -> wire.Task:
    return task(name, body=cloudpickle.dumps((args, kwargs)))


def value(result: wire.Result) -> Any:
    assert result.content_type == "application/x-python-serialize", result
    return cloudpickle.loads(result.value)


def test_a_plain_function_is_called(place: Place) -> None:
    place.worker(CallableStrategy({"f": lambda x, y=1: x * y}))
    assert value(place.run(call(6, y=7))) == 42


def test_many_short_tasks_come_back_each_with_its_own(place: Place) -> None:
    for _ in range(3):
        place.worker(CallableStrategy({"f": lambda x: x}))
    tasks = [msgspec.structs.replace(call(n), topics=(place.producer.inbox,)) for n in range(500)]
    token = place.producer.submit_many(tasks)
    assert [value(place.producer.wait(one.id, token=token, timeout=20.0)) for one in tasks] == list(range(500))


def test_a_task_that_raises_fails_with_its_exception(place: Place) -> None:
    def bad() -> None:
        raise ValueError("no good")

    place.worker(CallableStrategy({"f": bad}))
    result = place.run(call())
    assert result.state == wire.FAILURE
    assert repr(value(result)) == "ValueError('no good')"
    assert b"no good" in result.info


def test_a_name_that_nobody_knows_fails_and_says_so(place: Place) -> None:
    place.worker(CallableStrategy({}), name="w1")
    assert "worker w1 has no use for tasks named 'f'" in str(value(place.run(call())))


def test_a_task_whose_body_can_not_be_read_fails_and_its_owner_hears_of_it(place: Place) -> None:
    """The node reads the head only, and the owner waits for the task's own id."""
    place.worker(CallableStrategy({"f": lambda: None}))
    producer = place.producer
    producer.query("")
    fields = list(msgspec.structs.astuple(task("f", "broken", topics=(producer.inbox,))))
    fields[wire.Task.__struct_fields__.index("body")] = 7
    with producer._lock:
        seq = producer._next()
        frame = wire.encode((257, producer.inbox, seq, [fields]))
        producer._keep(_Kept(seq, 1, frame, ()))
    assert "the task can't be read" in str(value(producer.wait("broken", timeout=20.0)))


class Telling:
    """Tells how it is doing, and knows its worker."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.attached: list[Worker] = []
        self.detached = threading.Event()
        self.go_on = threading.Event()

    def attach(self, worker: Worker) -> None:
        self.attached.append(worker)

    def detach(self) -> None:
        self.detached.set()

    def accept(self, one: wire.Task, /) -> bool:
        return True

    def run(self, one: wire.Task, /) -> Any:
        worker = current_worker()
        assert worker is not None
        if one.name == "progress":
            worker.update("PROGRESS", b"half", content_type="text")
            assert self.go_on.wait(20.0)
        if one.name == "fetch":
            return Outcome(wire.SUCCESS, worker.fetch("digest"))
        if one.name == "missing":
            worker.fetch("missing")
        return Outcome(wire.SUCCESS, b"done", "text")


def test_a_running_task_tells_its_state(place: Place) -> None:
    strategy = Telling()
    worker = place.worker(strategy)
    one = task("progress", topics=(place.producer.inbox,))
    token = place.producer.submit(one)

    def told() -> bool:
        state = place.producer.peek(one.id, token=token)
        return state is not None and state.value == b"half"

    wait_until(told)
    strategy.go_on.set()
    assert place.producer.wait(one.id, token=token, timeout=20.0).value == b"done"
    assert strategy.attached == [worker]
    worker.stop()
    assert strategy.detached.wait(20.0)
    worker.update("PROGRESS")  # nothing runs: nothing is said


def test_a_shipped_callable_is_fetched_while_the_task_runs(place: Place) -> None:
    place.worker(Telling())
    place.producer.ship("digest", b"blob")
    assert place.run(task("fetch")).value == b"blob"
    error = value(place.run(task("missing")))
    assert isinstance(error, CallableError)
    assert "no function with digest missing" in str(error)


def test_a_worker_leaves_after_so_many_tasks(place: Place) -> None:
    worker = place.worker(CallableStrategy({"f": lambda: None}), max_tasks=3)
    for _ in range(3):
        place.run(call())
    wait_until(lambda: worker.left)
    assert worker.finished == 3
    wait_until(lambda: msgspec.msgpack.decode(place.producer.query("status"))["workers"] == [])
    place.worker(CallableStrategy({"f": lambda: 5}))
    assert value(place.run(call())) == 5


def test_nothing_waits_behind_a_long_task(place: Place) -> None:
    started, go_on = threading.Event(), threading.Event()

    def work(wait: bool) -> int:
        if wait:
            started.set()
            assert go_on.wait(20.0)
        return threading.get_ident()

    strategy = CallableStrategy({"f": work})
    place.worker(strategy)
    place.run(call(False))  # it is known to be short from here on
    producer = place.producer
    tasks = [msgspec.structs.replace(call(n == 0), topics=(producer.inbox,)) for n in range(20)]
    token = producer.submit_many(tasks)
    assert started.wait(20.0)
    place.worker(strategy)
    others = {value(producer.wait(one.id, token=token, timeout=20.0)) for one in tasks[1:]}
    go_on.set()
    long = value(producer.wait(tasks[0].id, token=token, timeout=20.0))
    assert others
    assert long not in others or len(others) == 2


def test_a_worker_that_is_cut_off_joins_again_and_tells_what_it_has_done(place: Place) -> None:
    go_on = threading.Event()
    place.worker(CallableStrategy({"f": lambda: go_on.wait(20.0)}))
    one = msgspec.structs.replace(call(), topics=(place.producer.inbox,))
    token = place.producer.submit(one)

    def running() -> bool:
        return any(worker["held"] for worker in msgspec.msgpack.decode(place.producer.query("status"))["workers"])

    wait_until(running)
    link = next(c for c in place.network.connections if c.worker_id)
    link.cut()
    go_on.set()
    link.mend()
    assert value(place.producer.wait(one.id, token=token, timeout=20.0)) is True


def test_a_worker_of_another_version_stops_and_says_so(place: Place) -> None:
    worker = Worker(place.url, CallableStrategy({}), link=place.network.worker)
    worker._link = place.network.worker(worker.address, worker.id)
    with pytest.raises(VersionMismatch, match=r"speaks version 9 .* and this worker version 1"):
        worker._take(wire.encode(wire.Rejoin(9)))
    worker._take(b"\xc1")  # counted as nothing
    worker._link.close()


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Picky(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__("picky")


class Mute(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not me")

    def __str__(self) -> str:
        raise RuntimeError("I have no text")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("k"), "KeyError('k')"),
        (Unpicklable("text"), "RuntimeError('Unpicklable: text')"),
        (Picky(1, 2), "RuntimeError('Picky: picky')"),
        (Mute(), "RuntimeError('Mute: (no text: its __str__ raised RuntimeError)')"),
        (SystemExit(3), "SystemExit(3)"),
    ],
)
def test_every_exception_becomes_a_failure_that_can_be_read(error: BaseException, expected: str) -> None:
    outcome = failure(error)
    assert (outcome.state, outcome.content_type) == (wire.FAILURE, "application/x-python-serialize")
    assert repr(cloudpickle.loads(outcome.value)) == expected
    assert type(error).__name__.encode() in outcome.info


def test_what_was_returned_and_can_not_be_packed_is_a_failure() -> None:
    assert cloudpickle.loads(success(5).value) == 5
    outcome = success(threading.Lock())
    assert outcome.state == wire.FAILURE
    assert "the result, a lock, can't be pickled" in str(cloudpickle.loads(outcome.value))


def test_anything_with_the_two_methods_is_a_strategy() -> None:
    assert isinstance(CallableStrategy({}), Strategy)
    assert isinstance(Telling(), Strategy)
    assert not isinstance(object(), Strategy)


def test_the_workers_of_a_process_share_a_context_that_ends_with_the_last() -> None:
    """Each context of its own would take two threads and six descriptors; with a hundred workers that counts."""
    address, shared, process = parse_address("zmq://127.0.0.1:5757"), SharedContext(), psutil.Process()
    for _ in range(2):
        before = process.num_threads()
        links = [shared.link(address, f"w{number}") for number in range(20)]
        assert process.num_threads() <= before + 2
        for link in links:
            link.close()
        wait_until(lambda: process.num_threads() == before)  # noqa: B023 - called before the loop goes on
