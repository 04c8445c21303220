"""Hostile bytes at a real node's sockets: it counts and drops them, and goes on serving who means well."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import msgspec
import psutil
import pytest
import zmq
from msgspec import Raw

from compat_tests.conftest import PATIENCE, Sandbox, wait_until
from zerocelery.engine import wire
from zerocelery.engine.address import Address, parse_address
from zerocelery.engine.processes import host_id
from zerocelery.engine.producer import Producer
from zerocelery.engine.strategy import CallableStrategy
from zerocelery.engine.worker import Worker

pytestmark = pytest.mark.fuzz

SEED = int(os.environ.get("ZEROCELERY_FUZZ_SEED", "20240601"))


class Target:
    """A node in a process of its own, an honest client and an honest worker."""

    def __init__(self, box: Sandbox, kind: str, stack: contextlib.ExitStack) -> None:
        url = box.url if kind == "ipc" else "zmq://127.0.0.1:0"
        self.process = box.python("-m", "zerocelery.engine.node", url, "--directory", str(box.node_dir))
        wait_until((box.node_dir / "node.url").exists, what="the node")
        self.box = box
        self.stack = stack
        self.address: Address = parse_address((box.node_dir / "node.url").read_text().strip(), directory=box.node_dir)
        self.producer = Producer(self.address)
        stack.callback(self.producer.close)
        self.worker = Worker(self.address, CallableStrategy({"add": lambda x, y: x + y}))
        thread = threading.Thread(target=self.worker.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self.worker.stop)
        self.sockets: list[zmq.Socket[bytes]] = []
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(self.context.destroy, linger=0)
        self.sums = 0
        self.serves()

    def socket(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = self.context.socket(kind)
        made.linger = 0
        made.sndtimeo = int(PATIENCE * 1000)
        made.connect(endpoint)
        self.sockets.append(made)
        return made

    def worker_peer(self) -> Callable[[bytes], object]:
        """A connection to the desk where workers come; called, it sends a frame."""
        if not self.address.is_ipc:
            return self.socket(zmq.DEALER, self.address.leases).send
        peer = socket.socket(socket.AF_UNIX)
        self.stack.callback(peer.close)
        peer.connect(self.address.leases.removeprefix("ipc://"))
        send = functools.partial(_send_frame, peer)
        send(secrets.token_hex(8).encode())
        return send

    def serves(self) -> None:
        """A task goes round."""
        self.sums += 1
        one = wire.Task(
            id=f"honest-{self.sums}", name="add", topics=(self.producer.inbox,),
            body=cloudpickle.dumps(((self.sums, 1), {})),
        )  # fmt: skip
        token = self.producer.submit(one)
        result = self.producer.wait(one.id, token=token, timeout=PATIENCE)
        assert cloudpickle.loads(result.value) == self.sums + 1

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.msgpack.decode(self.producer.query("status", timeout=PATIENCE))
        return found

    def malformed(self) -> int:
        return int(self.status()["counters"]["malformed"])

    def dropped(self, count: int) -> None:
        """Returns when the node has counted so many more than before, and serves."""
        wait_until(lambda: self.malformed() >= count, what=f"{count} dropped frames of {self.malformed()}")
        self.serves()
        assert self.process.poll() is None, self.box.output(self.process)
        output = self.box.output(self.process)
        assert "Traceback" not in output, output
        assert output.count("dropped a frame") <= 64


def _send_frame(peer: socket.socket, frame: bytes) -> None:
    peer.sendall(len(frame).to_bytes(8, "little") + frame)


@pytest.fixture(params=["ipc", "tcp"])
def target(request: pytest.FixtureRequest, sandbox: Sandbox) -> Iterator[Target]:
    with contextlib.ExitStack() as stack:
        yield Target(sandbox, request.param, stack)


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────────────────────────

TASK = wire.Task(id="t", name="nothing runs this", queue="fuzz", topics=("nobody",), body=b"body", keep=5.0)
RESULT = wire.Result(id="t", state="SUCCESS", final=True, value=b"value")


def producers_messages() -> list[bytes]:
    """An honest one of each kind."""
    raw = Raw(wire.encode(RESULT))
    group = wire.Gathering(id="g", members=["t"], body=Raw(wire.encode(TASK)))
    return [
        wire.encode(wire.Hello(wire.VERSION, "fuzz", 1)), wire.encode_submit("fuzz", 1, [TASK, TASK]),
        wire.encode(wire.Ship("fuzz", 2, "digest", b"blob")), wire.encode(wire.Ask("fuzz", ["a", "b"], True)),
        wire.encode(wire.Forget("fuzz", ["a"])), wire.encode(wire.Query("fuzz", "token", "status")),
        wire.encode(wire.Gather("fuzz", 3, Raw(wire.encode(group)))), wire.encode(wire.Grow("fuzz", 4, "g", ["u"])),
        wire.encode(wire.Put("fuzz", 5, raw, 1.0)),
    ]  # fmt: skip


def workers_messages(box: Sandbox) -> list[bytes]:
    raw = Raw(wire.encode(RESULT))
    report = wire.Report(1, 0.1, True, raw, [Raw(wire.encode(TASK))])
    join = wire.Join(
        wire.VERSION, 1, "fuzz", "nowhere", 1, 1, str(box.home / "no-word"), 0, 0, ["fuzz no queue"], 1, [1], [report],
        -1, {"a": 2},
    )  # fmt: skip
    return [
        wire.encode(join), wire.encode(wire.Done(1, 1, [report], [2])), wire.encode(wire.Update(1, raw)),
        wire.encode(wire.Fetch("digest")), wire.encode(wire.Bye(1, [report], [3])),
        wire.encode(wire.Beat(["fuzz"])), wire.encode(wire.Lost("fuzz", -1)),
    ]  # fmt: skip


def mutated(chance: random.Random, honest: list[bytes]) -> bytes:
    """An honest frame with some damage, or no honest one at all."""
    kind = chance.randrange(7)
    if kind == 0:
        return chance.randbytes(chance.choice([0, 1, 2, 10, 300]))
    frame = bytearray(chance.choice(honest))
    if kind == 1:
        return bytes(frame[: chance.randrange(len(frame))])
    if kind == 2:
        return bytes(frame) + chance.randbytes(chance.randrange(1, 9))
    if kind == 3:  # another version, another kind
        return wire.encode([chance.choice([0, 5, 99, 256, 300, 513, 1 << 40]), *msgspec.msgpack.decode(frame)[1:]])
    if kind == 4:  # lengths
        at = chance.randrange(len(frame))
        frame[at : at + 1] = chance.choice([b"\xdd\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xc6\xff\xff\xff\xff"])
        return bytes(frame)
    if kind == 5:  # numbers at their limits, and other types, anywhere
        items = msgspec.msgpack.decode(frame)
        items[chance.randrange(1, len(items))] = chance.choice(
            [-1, 0, (1 << 64) - 1, -(1 << 63), 1 << 31, float("nan"), float("inf"), None, "", [], {}, b"", "\0"]
        )
        return wire.encode(items)
    for _ in range(chance.randrange(1, 6)):
        frame[chance.randrange(len(frame))] = chance.randrange(256)
    return bytes(frame)


# ── the sockets ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_random_frames_to_the_collector_are_dropped(target: Target) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    honest = producers_messages()
    push = target.socket(zmq.PUSH, target.address.tasks)
    hopeless = 0
    for _ in range(3_000):
        frame = mutated(chance, honest)
        hopeless += isinstance(wire.decode_from_producer(frame), wire.Malformed)
        push.send(frame)
    assert hopeless > 1_000
    target.dropped(hopeless)


def test_random_frames_to_the_desk_are_dropped(target: Target) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    honest = workers_messages(target.box)
    peers = [target.worker_peer() for _ in range(4)]
    hopeless = 0
    for _ in range(3_000):
        frame = mutated(chance, honest)
        hopeless += isinstance(wire.decode_from_worker(frame), wire.Malformed)
        chance.choice(peers)(frame)
    target.dropped(hopeless)


@pytest.mark.parametrize("parts", [1, 2, 3, 10_000])
def test_a_message_of_any_number_of_frames_is_dropped(target: Target, parts: int) -> None:
    before = target.malformed()
    endpoints = [(zmq.PUSH, target.address.tasks)]
    if not target.address.is_ipc:
        endpoints.append((zmq.DEALER, target.address.leases))
    for kind, endpoint in endpoints:
        target.socket(kind, endpoint).send_multipart([b"\xc1"] * parts)
    target.dropped(before + len(endpoints))


def test_random_topics_to_the_publisher_do_no_harm(target: Target) -> None:
    """A SUB may ask for any topic; an XSUB may say anything."""
    chance = random.Random(SEED)
    sub = target.socket(zmq.SUB, target.address.results)
    sub.sndhwm = 0
    topics = [chance.randbytes(chance.randrange(40)) for _ in range(300)]
    topics += [b"\xff\xfe\0", b"\0", b"", b"a" * 100_000 + b"\0", b"\0" * 50]
    for topic in topics:
        sub.subscribe(topic)
    xsub = target.socket(zmq.XSUB, target.address.results)
    for _ in range(1_000):
        xsub.send(chance.choice([b"\x00", b"\x01", b""]) + chance.randbytes(chance.randrange(30)) + b"\0")
    xsub.send_multipart([b"\x01many\0"] * 100)
    target.serves()
    for topic in topics:
        sub.unsubscribe(topic)
    sub.close()
    xsub.close()
    target.serves()
    assert target.process.poll() is None


def test_peers_of_the_wrong_kind_do_no_harm(target: Target) -> None:
    endpoints = (target.address.tasks, target.address.results, target.address.leases)
    for endpoint in endpoints:
        for kind in (zmq.PUSH, zmq.PULL, zmq.SUB, zmq.PUB, zmq.DEALER, zmq.ROUTER, zmq.REQ, zmq.PAIR):
            made = target.socket(kind, endpoint)
            with contextlib.suppress(zmq.ZMQError):
                made.send(b"hello", zmq.NOBLOCK)
    target.serves()
    assert target.process.poll() is None


def test_a_frame_over_the_limit_is_never_allocated(target: Target) -> None:
    before = psutil.Process(target.process.pid).memory_info().rss
    push = target.socket(zmq.PUSH, target.address.tasks)
    push.send(bytes(70 << 20))
    with contextlib.suppress(ConnectionError):  # it may be cut off before all has left
        target.worker_peer()(bytes(70 << 20))
    for _ in range(20):
        target.serves()
    assert psutil.Process(target.process.pid).memory_info().rss - before < 40 << 20


def test_frames_that_kept_their_form_but_name_others_files_touch_none(target: Target) -> None:
    """A worker says where its word is; the node removes it when the worker goes."""
    victim = target.box.home / "victim"
    victim.write_bytes(b"\0" * 16)
    send = target.worker_peer()
    for path in (str(victim), f"{target.box.node_dir}/workers/../../victim", "a\0b"):
        me = os.getpid()
        join = wire.Join(wire.VERSION, 1, "thief", host_id(), me, 0, path, 0, 0, ["q"], 1, [], [], -1, {})
        send(wire.encode(join))
        send(wire.encode(wire.Bye(1, [], [])))
    target.serves()
    assert victim.read_bytes() == b"\0" * 16


# ── not ZeroMQ at all ────────────────────────────────────────────────────────────────────────────────────────────────

GREETINGS: dict[str, Callable[[random.Random], bytes]] = {
    "http": lambda _: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "random": lambda chance: chance.randbytes(500),
    "half a greeting": lambda _: b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03",
    "a greeting and then noise": lambda chance: b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    + chance.randbytes(300),
    "nothing": lambda _: b"",
}  # fmt: skip


@pytest.mark.parametrize("greeting", sorted(GREETINGS))
def test_programs_that_speak_something_else_are_left_alone(target: Target, greeting: str) -> None:
    chance = random.Random(SEED)
    peers = []
    for n in range(60):
        if target.address.is_ipc:
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(str(target.address.directory / ("tasks", "results", "leases")[n % 3]))
        else:
            peer = socket.create_connection((target.address.host, target.address.port + n % 3))
        with contextlib.suppress(OSError):
            peer.sendall(GREETINGS[greeting](chance))
        peers.append(peer)
    target.serves()
    for peer in peers:
        peer.close()
    target.serves()
    assert target.process.poll() is None
    assert "Traceback" not in target.box.output(target.process)


# ── guided by coverage ───────────────────────────────────────────────────────────────────────────────────────────────


#: Every decoder gets what the fuzzer makes of the messages in a directory; an exception ends it with its traceback.
#: Decoding is done in C, where the fuzzer sees nothing: so each kind of answer, and each reason to refuse, leads to a
#: function of its own, and what leads to a new one is kept and changed further.
FUZZER = """
import sys
import zlib
import atheris
with atheris.instrument_imports(include=["zerocelery.engine.wire"]):
    from zerocelery.engine import wire

decoders = [value for name, value in vars(wire).items() if name.startswith("decode_")]
places = []
for number in range(1024):
    exec(f"def place(): return {number}")
    places.append(atheris.instrument_func(place))

def one(data):
    for decode in decoders:
        said = decode(data)
        answer = f"{decode.__name__} {type(said).__name__} {getattr(said, 'reason', '')}"
        places[zlib.crc32(answer.encode()) % len(places)]()

atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""


def test_atheris_finds_no_exception(sandbox: Sandbox) -> None:
    """In a process of its own: it takes over signals, and ends it."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it has wheels for some Pythons only")
    messages = sandbox.home / "messages"
    messages.mkdir()
    for number, message in enumerate([*producers_messages(), wire.encode(TASK), wire.encode(RESULT)]):
        (messages / str(number)).write_bytes(message)

    runs = 60_000
    output = sandbox.run(FUZZER, f"-runs={runs}", f"-seed={SEED}", "-max_len=4096", str(messages), timeout=50)

    assert f"Done {runs} runs" in output
