"""Frames that keep their form and lie in their content, into a node in memory: nothing ends its loop."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from compat_tests.engine.system import System
from zerocelery.engine import wire
from zerocelery.engine.processes import LocalProcesses, host_id, started

pytestmark = pytest.mark.fuzz

#: The limits of numbers, and what is no number.
LIES: list[Any] = [
    -1, 0, 1, 2, 1 << 31, 1 << 62, 1 << 63, (1 << 64) - 1, -(1 << 63), float("nan"), float("inf"), -float("inf"), 1e300,
    None, True, "", "\0", b"", [], {},
]  # fmt: skip


def use_this_machine(system: System) -> None:
    system.node.collector.processes = LocalProcesses(system.node.port.watch, system.address.directory / "workers")


@pytest.fixture
def system(caplog: pytest.LogCaptureFixture) -> Iterator[System]:
    caplog.set_level(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
    one = System(directory / "node")
    use_this_machine(one)
    yield one
    one.close()
    shutil.rmtree(directory)


def lie(chance: random.Random, value: Any) -> Any:
    """The value with something in it replaced."""
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [lie(chance, one) if index == place else one for index, one in enumerate(value)]
    return chance.choice(LIES)


def plain(message: Any) -> list[Any]:
    found: list[Any] = msgspec.msgpack.decode(wire.encode(message))
    return found


ME = os.getpid()
TASK = wire.Task(id="t", name="f", queue="fuzz", topics=("fuzz",), gather="g", flags=wire.MEMBER)
UNIQUE = wire.Task(
    id="u", name="f", queue="fuzz", flags=wire.UNIQUE | wire.LABELLED, labels=["label"], unique="k", unique_for=5.0
)
LEASE = ["name", "owner", "seconds", "value", "release"]
RESULT = wire.Result(id="t", state="SUCCESS", final=True, value=b"v")
GROUP = wire.Gathering(id="g", members=["t"], body=Raw(wire.encode(TASK)), delay=1.0, lifetime=2.0)


def from_a_producer(chance: random.Random, last: int) -> bytes:
    raw = Raw(wire.encode(RESULT))
    honest = chance.choice([
        wire.Hello(wire.VERSION, "fuzz", 1), wire.Ship("fuzz", last + 1, "digest", b"blob"),
        wire.Submit("fuzz", last + 1, [Raw(wire.encode(lie(chance, plain(TASK))))] * 2),
        wire.Submit("fuzz", last + 1, [Raw(wire.encode(TASK))]), wire.Ask("fuzz", ["t"], True),
        wire.Forget("fuzz", ["t"]), wire.Query("fuzz", "token", "status"),
        wire.Gather("fuzz", last + 1, Raw(wire.encode(lie(chance, plain(GROUP))))),
        wire.Gather("fuzz", last + 1, Raw(wire.encode(GROUP))), wire.Grow("fuzz", last + 1, "g", ["u"]),
        wire.Put("fuzz", last + 1, raw, 1.0), wire.Attend("fuzz", "name", host_id(), ME, started(ME)),
        wire.Call("fuzz", "token", ["name"], b"call"), wire.Reply("fuzz", "token", "name", b"answer"),
        wire.Cast("fuzz", "stream", [b"cast"]), wire.Tell("fuzz", b"told", ["fuzz"]),
        wire.Revoke("fuzz", last + 1, ["t"], ["label"], chance.random() < 0.5, 60.0),
        wire.Submit("fuzz", last + 1, [Raw(wire.encode(lie(chance, plain(UNIQUE))))]),
        wire.Query("fuzz", "token", chance.choice(["pool", "scheduled", "queues", "dead", "stations", "revoked"])),
        wire.Query("fuzz", "token", "lease", wire.encode(
            {"name": "n", "owner": "fuzz", "seconds": 5.0, "value": b"v", chance.choice(LEASE): chance.choice(LIES)}
        )),
        wire.Query("fuzz", "token", "scheduled", wire.encode({"queues": ["fuzz"], "limit": chance.choice(LIES)})),
    ])  # fmt: skip
    return wire.encode(honest if chance.random() < 0.5 else lie(chance, plain(honest)))


def from_a_worker(chance: random.Random, keys: list[int], generation: int, acked: int) -> bytes:
    key = chance.choice(keys or [1])
    result = plain(RESULT) if chance.random() < 0.5 else lie(chance, plain(RESULT))
    followup = lie(chance, plain(TASK))
    report = plain(wire.Report(key, 0.1, True, Raw(wire.encode(result)), [Raw(wire.encode(followup))]))
    report = report if chance.random() < 0.5 else lie(chance, report)
    join = wire.Join(
        wire.VERSION, 1, "fuzz", host_id(), ME, started(ME), "/nowhere", ME, 1, ["fuzz"], 10, [], [], -1, {"f": 2}
    )
    done = [*plain(wire.Done(generation, acked + 1, [], []))[:3], [report], [key], False]
    honest = chance.choice([
        plain(join), plain(join), done, done, done, plain(wire.Update(key, Raw(wire.encode(result)))),
        [*plain(wire.Bye(generation, [], []))[:2], [report], [key]], plain(wire.Beat(["w"])),
        plain(wire.Lost("w", key)),
        plain(wire.Fetch("digest")),
    ])  # fmt: skip
    return wire.encode(honest if chance.random() < 0.7 else lie(chance, honest))


@pytest.mark.parametrize("seed", range(4))
def test_no_lie_ends_the_loop(system: System, seed: int) -> None:
    chance = random.Random(seed)
    producer = system.network.client(system.address)
    producer.subscribe("fuzz")
    worker = system.network.worker(system.address, "w")
    finished = 0
    for number in range(2_000):
        collector = system.node.collector
        producer.send(from_a_producer(chance, collector.last_of("fuzz") or 0))
        state = collector.workers.get("w")
        keys, generation, acked = (list(state.held), state.generation, state.acked) if state else ([], 1, 0)
        worker.send(from_a_worker(chance, keys, generation, acked))
        if number % 3 == 0:
            system.turn()
            system.clock.advance(0.2)
        if number % 500 == 499:
            finished += collector.counters.finished
            system.crash()
            system.start()
            use_this_machine(system)
        producer.results.down.arrived.clear()
        worker.down.arrived.clear()
    assert finished > 20  # the lies got that far
    producer.close()
    worker.close()
