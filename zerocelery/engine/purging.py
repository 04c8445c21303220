"""Removing what waits in a queue, in steps that don't hold up the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from zerocelery.engine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zerocelery.engine.journal import Journal
    from zerocelery.engine.ledger import Entry, Ledger
    from zerocelery.engine.producer import Producer

#: Tasks that one step removes.
STEP: Final = 5_000

QUERY: Final = "purge"


def purge(ledger: Ledger, journal: Journal, queue: str, dropped: Callable[[Entry], None]) -> int:
    """Remove the next tasks that wait in a queue, at most :data:`STEP`; how many there were.

    Arguments:
        dropped: told of each.

    Those with a worker, and those whose time has not come, are left.
    """
    removed = 0
    while removed < STEP and (lane := ledger.best((queue,))) is not None:
        entry = lane.take()
        journal.remove(entry.key)
        dropped(entry)
        if entry.losses:
            journal.forget_losses(entry.key)
        removed += 1
    return removed


def answer(ledger: Ledger, journal: Journal, argument: bytes, dropped: Callable[[Entry], None]) -> bytes:
    """The node's answer to the query: how many this step removed."""
    return msgspec.msgpack.encode(purge(ledger, journal, argument.decode("utf-8", "replace"), dropped))


def purge_queue(producer: Producer, queue: str, *, timeout: float = 10.0) -> int:
    """Remove all tasks that wait in a queue of the node; how many there were.

    Arguments:
        timeout: seconds to wait for each step's answer.

    Raises:
        NodeUnreachable: it did not answer; what it has removed by then is gone.
        EngineError: the node is older than this, and can't.
    """
    removed = 0
    while True:
        told = producer.query(QUERY, queue.encode(), timeout=timeout)
        if not told:
            raise EngineError("this node does not know how to purge a queue: start it again with this version")
        step = msgspec.msgpack.decode(told, type=int)
        removed += step
        if step < STEP:
            return removed
