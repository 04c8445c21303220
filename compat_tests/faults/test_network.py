"""What lies between a TCP node and its peers is slow, goes silent, or is gone for a while (rows 51 to 53)."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from compat_tests.faults.proxy import Proxy
from compat_tests.faults.rig import Rig, status_of, task, value_of
from zerocelery.engine.producer import Producer

pytestmark = pytest.mark.faults

#: A half-open connection is noticed after six seconds without a pong (transport/zmq.py).
NOTICED = 15.0


@pytest.fixture
def proxy(rig: Rig) -> Iterator[Proxy]:
    """A node, and what a worker and clients have to reach it through."""
    node = rig.node("zmq://127.0.0.1:0")
    with Proxy(int(rig.url_of(node).rpartition(":")[2])) as between:
        yield between
        rig.close()


def echoed(client: Producer, count: int, timeout: float) -> None:
    """So many tasks come back, each with its own result."""
    tasks = [task("echo", number, to=client) for number in range(count)]
    token = client.submit_many(tasks)
    for number, one in enumerate(tasks):
        assert value_of(client.wait(one.id, token=token, timeout=timeout)) == number


def test_a_slow_network_costs_time_and_nothing_else(rig: Rig, proxy: Proxy) -> None:
    """Row 51: 50 ms each way, in pieces of 7 bytes; and nothing is sent again only because it takes long."""
    proxy.slow(0.05, 7)
    rig.worker(proxy.url)
    client = rig.client(proxy.url, connect_timeout=20.0)
    for _ in range(3):
        echoed(client, 50, timeout=20)
    counters = status_of(client)["counters"]
    assert (counters["finished"], counters["duplicates"], counters["lost"]) == (150, 0, 0)
    assert len(rig.runs()) == 150


@pytest.mark.parametrize("silent", ["from_node", "to_node", "both"])
def test_a_connection_that_goes_silent_is_given_up_and_made_again(rig: Rig, proxy: Proxy, silent: str) -> None:
    """Row 52: no end of the connection is seen by anybody, in one direction or in both."""
    rig.worker(proxy.url)
    client = rig.client(proxy.url, connect_timeout=20.0)
    echoed(client, 20, timeout=20)
    proxy.swallow(from_node=silent != "to_node", to_node=silent != "from_node")
    echoed(client, 20, timeout=NOTICED)
    assert len({run.id for run in rig.runs()}) == len(rig.runs()) == 40
    assert status_of(client)["counters"]["lost"] == 0


def test_a_network_that_is_gone_for_a_while_again_and_again_loses_nothing(rig: Rig, proxy: Proxy) -> None:
    """Row 53: under load; the pauses are seeded."""
    chance, pause = random.Random(53), threading.Event()
    rig.worker(proxy.url)
    client = rig.client(proxy.url, connect_timeout=20.0)
    for _ in range(8):
        tasks = [task("echo", number, to=client) for number in range(100)]
        token = client.submit_many(tasks)
        proxy.cut(stay=True)
        pause.wait(chance.uniform(0.05, 1.0))
        proxy.heal()
        for number, one in enumerate(tasks):
            assert value_of(client.wait(one.id, token=token, timeout=20)) == number
    assert len({run.id for run in rig.runs()}) == len(rig.runs()) == 800
    assert status_of(client)["counters"]["lost"] == 0
