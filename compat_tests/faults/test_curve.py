"""Rows 69 and 72 of the fault matrix: who has no key, or the wrong one, is told so, and nothing of it gets in."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path

import msgspec
import pytest

from compat_tests.conftest import Sandbox, wait_until
from zerocelery.engine import wire
from zerocelery.engine.errors import AddressError, NodeUnreachable
from zerocelery.engine.node import Node
from zerocelery.engine.producer import Producer, ProducerOptions
from zerocelery.transport.curve import generate

pytestmark = pytest.mark.faults

WORKER = """
    import sys
    from zerocelery.engine.pool import run_worker
    from zerocelery.engine.strategy import CallableStrategy

    def make():
        return CallableStrategy({"double": lambda x: 2 * x})

    run_worker(address=sys.argv[1], strategy_factory=make, pool="solo", on_ready=lambda: print("ready.", flush=True))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 65000)


@pytest.fixture
def keys(sandbox: Sandbox) -> Path:
    directory = sandbox.home / "keys"
    generate(directory)
    return directory


@pytest.fixture
def guarded(sandbox: Sandbox, keys: Path) -> str:
    """The address, without keys, of a node that lets in only those of ``keys``, with a worker."""
    url = f"zmq://127.0.0.1:{free_port()}"
    node = sandbox.python("-m", "zerocelery", "node", "-b", f"{url}?keys={keys}")
    sandbox.wait_for_output(node, "pid")
    worker = sandbox.script(WORKER, f"{url}?keys={keys}")
    sandbox.wait_for_output(worker, "ready.")
    return url


def submit(url: str) -> wire.Result:
    producer = Producer(url, options=ProducerOptions(connect_timeout=3.0))
    try:
        producer.submit(
            wire.Task(id="a", name="double", topics=(producer.inbox,), body=pickle.dumps(((21,), {})))
        )  # fmt: skip
        return producer.wait("a", timeout=10)
    finally:
        producer.close(timeout=0)


def test_a_client_with_a_key_that_the_node_knows_works(guarded: str, keys: Path) -> None:
    assert submit(f"{guarded}?keys={keys}").state == "SUCCESS"


def test_a_client_whose_key_is_not_allowed_is_told_so(guarded: str, sandbox: Sandbox, keys: Path) -> None:
    stranger = sandbox.home / "stranger"
    generate(stranger)
    (stranger / "node.key").write_bytes((keys / "node.key").read_bytes())

    with pytest.raises(NodeUnreachable, match="does not know this client's key"):
        submit(f"{guarded}?keys={stranger}")


def test_a_client_with_the_key_of_another_node_is_told_so(guarded: str, sandbox: Sandbox) -> None:
    other = sandbox.home / "other"
    generate(other)

    with pytest.raises(NodeUnreachable, match=r"another one than this client's node\.key says"):
        submit(f"{guarded}?keys={other}")


def test_a_client_without_keys_gets_nothing_in(guarded: str, keys: Path) -> None:
    with pytest.raises(NodeUnreachable):
        submit(guarded)

    producer = Producer(f"{guarded}?keys={keys}")
    try:
        status = msgspec.msgpack.decode(producer.query("status"))
        assert status["counters"]["accepted"] == 0
        assert status["counters"]["malformed"] == 0
    finally:
        producer.close()


def test_a_node_that_others_can_reach_needs_keys(sandbox: Sandbox) -> None:
    with pytest.raises(AddressError, match="zerocelery keygen"):
        Node("zmq://0.0.0.0:0")


def test_a_secret_that_others_can_read_is_refused(keys: Path) -> None:
    (keys / "client.key_secret").chmod(0o644)

    with pytest.raises(AddressError, match="chmod 600"):
        Producer(f"zmq://127.0.0.1:5757?keys={keys}").submit(wire.Task(id="a", name="b"))


def test_an_empty_list_is_refused(keys: Path) -> None:
    (keys / "allowed" / "client.key").unlink()

    with pytest.raises(AddressError, match="nobody could connect"):
        Node(f"zmq://127.0.0.1:0?keys={keys}")


def test_keys_are_their_owners_alone(keys: Path) -> None:
    assert keys.stat().st_mode & 0o077 == 0
    wait_until(lambda: (keys / "node.key_secret").exists())
    assert (keys / "node.key_secret").stat().st_mode & 0o077 == 0
