"""A worker as the collector sees it."""

from __future__ import annotations

from zerocelery.engine import wire
from zerocelery.engine.ledger import Entry


class WorkerState:
    """One worker, what it holds, and what is known of its process."""

    __slots__ = (
        "acked", "beat", "begun", "busy", "capacity", "ending", "frozen", "generation", "held", "id", "joined", "local",
        "obituary", "seconds", "silent_until", "totals",
    )  # fmt: skip

    def __init__(self, worker_id: str, joined: wire.Join) -> None:
        self.id = worker_id
        self.joined = joined
        self.held: dict[int, Entry] = {}  # in the order in which they were leased, which is that in which they run
        self.begun: set[int] = set()  # of these, known to have been started, though its word names another
        self.seconds = 0.0  # what it holds is expected to take
        self.capacity = joined.capacity
        self.generation = joined.generation
        self.acked = 0
        self.busy = False
        self.ending = False  # its process has ended
        self.local = False
        self.obituary: wire.Lost | None = None  # what its supervisor said of its end
        self.beat = 0.0
        self.frozen = False
        self.silent_until: float | None = None  # known from the journal, has to join again by then
        self.totals: dict[str, int] = {}  # finished tasks by name, of all workers of its pool

    @property
    def pool(self) -> str:
        """Names the pool that it is one of."""
        join = self.joined
        return f"{join.host}/{join.parent_pid or join.pid}/{join.parent_started or join.started}"

    def has_begun(self, running: int) -> int:
        """How many of the tasks that it holds, in the order of their leases, it has started.

        Arguments:
            running: key of the one that it said it was running.
        """
        begun = self.begun
        return max((i + 1 for i, key in enumerate(self.held) if key == running or key in begun), default=0)
