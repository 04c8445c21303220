"""Runs whose results are kept elsewhere than on a node.

The outcome still goes back to the engine, which acknowledges by it, counts groups by it and wakes who waits; what is
*kept* is what the backend keeps, in its own format. It is written before the engine hears of the end: a worker that
dies in between runs the task again, and the second result is the one that a SUCCESS in the store refuses.
"""

from __future__ import annotations

from typing import Any

from zerocelery import states
from zerocelery.app.trace import NodeRun
from zerocelery.backends.zmq import NodeBackend
from zerocelery.engine import wire
from zerocelery.engine.strategy import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery._state import Frame
    from zerocelery.app.base import Celery
    from zerocelery.app.message import Head

__all__ = ("BrokerRun", "StoredRun", "keeps_elsewhere", "run_of")


def keeps_elsewhere(backend: Any) -> bool:
    """Whether results are kept by a backend of Celery's kind."""
    return not isinstance(backend, NodeBackend)


class StoredRun(NodeRun):
    """A run of a task from a node, whose result goes to another backend, too.

    Arguments:
        keeper: the backend.
        codec: encodes what the engine is told.
    """

    __slots__ = ("keeper",)

    on_node = True

    def __init__(
        self, task: wire.Task, head: Head, args: Any, kwargs: Any, embed: Any, hostname: str, *, codec: Any, keeper: Any
    ) -> None:
        super().__init__(task, head, args, kwargs, embed, hostname, codec)
        self.keeper = keeper

    def started(self, meta: dict[str, Any]) -> None:
        self.keeper.mark_as_started(self.id, **meta)

    def succeeded(self, frame: Frame, retval: Any, ignored: bool) -> None:
        if not ignored:
            self.keeper.store_result(self.id, retval, states.SUCCESS, request=frame.request)
        super().succeeded(frame, retval, ignored)
        self._counted(frame, states.SUCCESS, retval)
        self._not_kept()

    def failed(self, frame: Frame, error: BaseException, text: str | None, store: bool) -> None:
        if store:
            self.keeper.store_result(self.id, error, states.FAILURE, traceback=text, request=frame.request)
        super().failed(frame, error, text, store)
        self._fail_what_follows(error, text)
        self._counted(frame, states.FAILURE, error)
        self._not_kept()

    def retried(self, frame: Frame, error: BaseException | None, text: str, store: bool) -> None:
        if store:
            self.keeper.store_result(self.id, error, states.RETRY, traceback=text, request=frame.request)
        super().retried(frame, error, text, store)
        self._not_kept()

    def _fail_what_follows(self, error: BaseException, text: str | None) -> None:
        """Give the rest of the chain this error as its result; a chord that a node counts is the node's business."""
        chain = self.embed.get("chain") or ()
        mine = [one for one in chain if not (self.on_node and (one.get("options") or {}).get("chord"))]
        if mine:
            self.keeper._fail_chain(mine, error, traceback=text)

    def _counted(self, frame: Frame, state: str, value: Any) -> None:
        """Tell the chord whose member this is, unless the node counts it."""
        if self.task.gather is None and frame.request.chord:
            self.keeper.on_chord_part_return(frame.request, state, value)

    def _not_kept(self) -> None:
        if self.outcome is not None:
            self.outcome.store = False


class BrokerRun(StoredRun):
    """A run of a task from kombu's broker: its node is private, so nobody but the backend hears of the result."""

    __slots__ = ()

    on_node = False

    @property
    def worker(self) -> None:
        return None

    def followups(self) -> None:
        """Messages go to the broker at once."""

    def started(self, meta: dict[str, Any]) -> None:
        self.keeper.mark_as_started(self.id, **meta)

    def succeeded(self, frame: Frame, retval: Any, ignored: bool) -> None:
        if not ignored:
            self.keeper.store_result(self.id, retval, states.SUCCESS, request=frame.request)
        self.outcome = Outcome(states.SUCCESS, store=False)
        self._counted(frame, states.SUCCESS, retval)

    def failed(self, frame: Frame, error: BaseException, text: str | None, store: bool) -> None:
        if store:
            self.keeper.store_result(self.id, error, states.FAILURE, traceback=text, request=frame.request)
        self.outcome = Outcome(states.FAILURE, store=False)
        self._fail_what_follows(error, text)
        self._counted(frame, states.FAILURE, error)

    def retried(self, frame: Frame, error: BaseException | None, text: str, store: bool) -> None:
        if store:
            self.keeper.store_result(self.id, error, states.RETRY, traceback=text, request=frame.request)
        self.outcome = Outcome(states.RETRY, store=False)

    def ignored(self, frame: Frame) -> None:
        self.outcome = Outcome(states.IGNORED, store=False)

    def requeued(self, frame: Frame) -> None:
        self.outcome = Outcome(states.REJECTED, store=False)


def run_of(
    app: Celery, task: wire.Task, head: Head, args: Any, kwargs: Any, embed: Any, hostname: str, keeper: Any
) -> NodeRun:
    """The run of a task from a node."""
    if not keeps_elsewhere(keeper):
        return NodeRun(task, head, args, kwargs, embed, hostname, keeper)
    return StoredRun(task, head, args, kwargs, embed, hostname, codec=NodeBackend(app), keeper=keeper)
