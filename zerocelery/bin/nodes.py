"""Talking to the node itself: what commands ask of it that workers don't answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from zerocelery.engine.address import Address
    from zerocelery.engine.producer import Producer


@contextlib.contextmanager
def client_of(address: Address, *, timeout: float) -> Iterator[Producer]:
    """A client of the node, for as long as the block.

    Arguments:
        timeout: seconds to wait for the node to answer.
    """
    from zerocelery.engine.producer import Producer, ProducerOptions

    producer = Producer(address, options=ProducerOptions(connect_timeout=timeout))
    try:
        yield producer
    finally:
        producer.close(timeout=0)


def ask(address: Address, what: str = "status", *, timeout: float, **arguments: Any) -> Any:
    """What the node says of itself; None where it doesn't know the question.

    Raises:
        NodeUnreachable: none answered in time.
    """
    with client_of(address, timeout=timeout) as client:
        return ask_through(client, what, timeout=timeout, **arguments)


def ask_through(client: Producer, what: str = "status", *, timeout: float, **arguments: Any) -> Any:
    """As :func:`ask`, with a client that is there."""
    told = client.query(what, msgspec.msgpack.encode(arguments) if arguments else b"", timeout=timeout)
    return msgspec.msgpack.decode(told) if told else None
