"""Takes each result, stores it, and sends it to the topics that want it; answers late askers from the store.

What one loop turn has for a topic leaves as one :class:`wire.Delivery` (split where it gets large). Deliveries are
numbered per topic, so a subscriber that was cut off or too slow sees the gap and asks for what it misses: nothing is
ever kept for a subscriber, the store has it all. Results are sent some megabytes ahead of what a subscriber has said
that it has read; beyond, they are left to the store in the same way.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Raw

from zerocelery.engine import wire
from zerocelery.engine.failpoints import failpoint
from zerocelery.engine.journal import Journal

#: A delivery is closed at about this many bytes, so that no subscriber has to swallow one huge message.
_CHUNK_BYTES: Final = 1 << 20

#: Topics whose subscriber left are remembered for the numbering of their deliveries, the newest this many.
_REMEMBERED_TOPICS: Final = 20_000

#: Results are sent this far ahead of what the subscriber has read; how far it has is noted in steps (bytes).
_AHEAD_BYTES: Final = 32 << 20
_STEP_BYTES: Final = 1 << 20

#: At most this many ids may be waited for that nobody has finished; beyond, the oldest askers have to ask again.
_MAX_ASKED: Final = 1_000_000


class _Box:
    """What the current turn has for one topic."""

    __slots__ = ("answers", "gap", "pending", "refusals", "results", "size", "upto")

    def __init__(self) -> None:
        self.results: list[Raw] = []
        self.refusals: list[wire.Refusal] = []
        self.pending: list[str] = []
        self.answers: list[wire.Answer] = []
        self.upto = -1
        self.gap = False
        self.size = 0


class _Flow:
    """How far a topic's subscriber is behind."""

    __slots__ = ("heard", "sent", "skipped", "steps")

    def __init__(self) -> None:
        self.sent = 0  # bytes of results
        self.heard = 0  # of these, read
        self.steps: deque[tuple[int, int]] = deque()  # number of a delivery, and what was sent up to it
        self.skipped = False  # some were left to the store, and the subscriber may not know it

    def add(self, number: int, size: int) -> None:
        self.sent += size
        if not self.steps or self.sent - self.steps[-1][1] >= _STEP_BYTES:
            self.steps.append((number, self.sent))

    def read(self, number: int) -> None:
        while self.steps and self.steps[0][0] <= number:
            self.heard = self.steps.popleft()[1]


class Publisher:
    """The topics and the store of results.

    Arguments:
        session: names this run of the node; numbering starts again with each.
        max_message: the largest message, in bytes, that the node takes.
    """

    def __init__(self, journal: Journal, *, session: str, node: str, max_message: int) -> None:
        self.journal = journal
        self.session = session
        self.node = node
        self.max_message = max_message
        self.live: dict[str, int] = {}  # topic → how many listen
        self.dropped_asks = 0
        self._numbers: dict[str, int] = {}
        self._departed: OrderedDict[str, None] = OrderedDict()
        self._boxes: dict[str, _Box] = {}
        self._closed: list[tuple[str, _Box]] = []  # boxes that got large, in order
        self._flows: dict[str, _Flow] = {}
        self._welcomes: dict[str, tuple[int, Raw]] = {}
        self._said: list[tuple[str, bytes]] = []
        self._owed: dict[str, int] = {}
        self._asked: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    # ── topics ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def subscribed(self, topic: str) -> None:
        """Somebody listens to this topic (again)."""
        self.live[topic] = self.live.get(topic, 0) + 1
        self._departed.pop(topic, None)
        self._flows.pop(topic, None)

    def unsubscribed(self, topic: str) -> None:
        """One less listens to this topic."""
        left = self.live.get(topic, 0) - 1
        if left > 0:
            self.live[topic] = left
            return
        self.live.pop(topic, None)
        self._flows.pop(topic, None)
        if topic in self._numbers:
            self._departed[topic] = None
            if len(self._departed) > _REMEMBERED_TOPICS:
                oldest, _ = self._departed.popitem(last=False)
                self._numbers.pop(oldest, None)

    def welcome(self, topic: str, last: int, refusals: Iterable[wire.Refusal] = ()) -> None:
        """Tell a live inbox that it is live, and up to where its tasks are taken (-1: nothing known), but for these."""
        if topic in self.live:
            known = list(refusals)
            self._welcomes[topic] = (last, Raw(wire.encode(known)) if known else wire.NO_REFUSALS)

    def heard(self, topic: str, number: int) -> None:
        """The subscriber has read all deliveries up to this one."""
        flow = self._flows.get(topic)
        if flow is not None:
            flow.read(number)
            if flow.skipped:
                flow.skipped = False
                self._box(topic)  # its number tells that something is missing

    def _box(self, topic: str) -> _Box:
        box = self._boxes.get(topic)
        if box is None:
            box = self._boxes[topic] = _Box()
        return box

    # ── what there is to say ─────────────────────────────────────────────────────────────────────────────────────────

    def receipt(self, topic: str, upto: int) -> None:
        """Everything up to this number is in the journal: said with the next delivery, or by ``send_owed``."""
        self._owed[topic] = upto

    def gap(self, topic: str, upto: int) -> None:
        """Something before what has just come is missing."""
        box = self._box(topic)
        box.upto = upto
        box.gap = True

    def say(self, topic: str, message: wire.ToInbox) -> None:
        """Send a message as it is, numbered in no delivery; nothing where nobody listens."""
        if topic in self.live:
            self._said.append((topic, wire.encode(message)))

    def refuse(self, topic: str, refusal: wire.Refusal) -> None:
        self._box(topic).refusals.append(refusal)

    def answer(self, topic: str, token: str, value: bytes) -> None:
        box = self._box(topic)
        box.answers.append(wire.Answer(token, value))
        box.size += len(value)

    def result(self, task_id: str, raw: Raw, topics: Iterable[str], *, final: bool) -> None:
        """Send a result to its topics, and to whoever asked for it."""
        for topic in topics:
            self._add(topic, raw)
        if self._asked:
            askers = self._asked.pop(task_id, None) if final else self._asked.get(task_id)
            for topic in askers or ():
                if topic not in topics:
                    self._add(topic, raw)

    def _add(self, topic: str, raw: Raw) -> None:
        box = self._boxes.get(topic)
        if box is None:
            box = self._boxes[topic] = _Box()
        box.results.append(raw)
        box.size += memoryview(raw).nbytes
        if box.size > _CHUNK_BYTES:
            self._closed.append((topic, self._boxes.pop(topic)))

    def ask(self, topic: str, ids: Iterable[str], *, wait: bool, now: float) -> None:
        """Answer from the store; with ``wait``, remember who wants to know when it ends."""
        for task_id in ids:
            raw = self.journal.find_result(task_id, now)
            final = False
            if raw is not None:
                self._add(topic, Raw(raw))
                head = wire.decode_result_head(raw)
                final = isinstance(head, wire.ResultHead) and head.final
            if final:
                continue
            self._box(topic).pending.append(task_id)
            if wait:
                askers = self._asked.pop(task_id, ())
                self._asked[task_id] = askers if topic in askers else (*askers, topic)
                if len(self._asked) > _MAX_ASKED:
                    self._asked.popitem(last=False)
                    self.dropped_asks += 1

    @property
    def owes(self) -> bool:
        """Whether receipts wait for company."""
        return bool(self._owed)

    def send_owed(self) -> None:
        """Let the receipts leave that found no company."""
        for topic, upto in self._owed.items():
            self._box(topic).upto = upto
        self._owed.clear()

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def flush(self, send: Callable[[bytes], None]) -> None:
        """Send everything; called when the turn is in the journal."""
        self._flush_boxes(send)
        # Last: a welcome is a receipt, too, and a refusal of the same turn has to come before it.
        for topic, (last, refusals) in self._welcomes.items():
            number = self._numbers.setdefault(topic, 0)
            welcome = wire.Welcome(wire.VERSION, self.session, self.node, last, number, self.max_message, refusals)
            send(wire.topic_prefix(topic) + wire.encode(welcome))
        self._welcomes.clear()
        for topic, frame in self._said:
            send(wire.topic_prefix(topic) + frame)
        self._said.clear()

    def _flush_boxes(self, send: Callable[[bytes], None]) -> None:
        if self._closed:
            for topic, box in self._closed:
                # Its receipt goes with the last box: a refusal has to come before the receipt, or with it.
                self._send(topic, box, send, last=False)
            self._closed.clear()
        if not self._boxes:
            return
        failpoint("publisher.before_flush")
        for topic, box in self._boxes.items():
            self._send(topic, box, send, last=True)
        self._boxes.clear()
        failpoint("publisher.after_flush")

    def _send(self, topic: str, box: _Box, send: Callable[[bytes], None], *, last: bool) -> None:
        number = self._numbers.get(topic)
        if last and self._owed:
            box.upto = max(box.upto, self._owed.pop(topic, -1))
        if topic not in self.live:
            # Counted all the same where the topic is known: who comes back sees that it missed something.
            if number is not None:
                self._numbers[topic] = number + 1
            return
        number = self._numbers[topic] = (number or 0) + 1
        if box.size:
            flow = self._flows.get(topic)
            if flow is None:
                flow = self._flows[topic] = _Flow()
            if flow.sent - flow.heard >= _AHEAD_BYTES and box.results:
                # Counted, and left to the store. The rest is small, and goes under the next number.
                flow.skipped = True
                box.results = []
                number = self._numbers[topic] = number + 1
            else:
                flow.add(number, box.size)
        delivery = wire.Delivery(
            self.session, number, box.upto, box.gap, box.results, box.refusals, box.pending, box.answers
        )
        if box.results:
            failpoint("publisher.before_result")
        send(wire.topic_prefix(topic) + wire.encode(delivery))
        if box.results:
            failpoint("publisher.after_result")
