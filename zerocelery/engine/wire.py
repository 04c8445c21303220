"""Frames ⇄ typed messages: versioned, bounded, pure.

Every message is one frame: a msgpack array whose first item says what it is. ``Hello`` keeps its number for ever, so
that two versions can tell each other that they differ; the numbers of all other messages carry the version, so a frame
of another version is an unknown message, never a wrong one.

Decoding is total: ``decode_*`` gives a message or a :class:`Malformed`, and raises nothing. Sizes are limited by the
sockets (``MAXMSGSIZE``) before a frame is allocated, and msgspec allocates nothing that the frame does not hold.

Tasks and results travel as :class:`msgspec.Raw` inside their envelopes: the node reads the head of a task and never
touches its body, and what it stores and forwards are the bytes that it got.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

VERSION: Final = 1
_V: Final = VERSION << 8

#: Task.flags
IGNORE_RESULT: Final = 1
ACK_LATE: Final = 2
REJECT_ON_LOST: Final = 4
#: Its end counts in the group that ``Task.gather`` names.
MEMBER: Final = 8
#: Somebody has to hear of it when the engine itself ends this task: it is accepted again, with a verdict.
AFTERMATH: Final = 16
#: It comes with a verdict: nothing of it is run, so it may be tried again after any loss.
SETTLED: Final = 32
#: With ACK_LATE: where its time limit ends it, it is run again.
AGAIN_ON_TIMEOUT: Final = 64
#: It has ``Task.labels``.
LABELLED: Final = 128
#: It has a ``Task.unique``.
UNIQUE: Final = 256
#: Its success is stored, and sent to nobody who has not asked: a step of a chain, whose last result is waited for.
QUIET: Final = 1024
#: Where its process is lost and the pool goes on, its strategy says how it ends: it gets the task with its own verdict.
RETRY_ON_LOST: Final = 512

#: What the topic of a stream begins with; those of inboxes don't.
STREAM: Final = "#"

#: Content type of an outcome that the engine itself made: the value is an encoded :class:`Loss`.
LOSS_TYPE: Final = "application/x-zerocelery-loss"

SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"


class TaskHead(Struct, array_like=True, frozen=True, gc=False):
    """What the node reads of a task; the first fields of :class:`Task`, in its order."""

    id: str
    name: str
    queue: str
    priority: int
    eta: float | None
    expires: float | None
    flags: int
    topics: tuple[str, ...]
    keep: float | None
    digest: str | None


class Task(Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """One task, as its producer made it.

    Arguments:
        id: the task's own id; may be published again.
        name: what the strategy looks up.
        priority: 0 to 255, higher first.
        eta, expires: wall-clock seconds since the epoch.
        flags: IGNORE_RESULT, ACK_LATE, REJECT_ON_LOST, MEMBER, AFTERMATH, SETTLED, AGAIN_ON_TIMEOUT, LABELLED, UNIQUE,
            RETRY_ON_LOST, QUIET.
        topics: where the result goes.
        keep: for how many seconds the result is stored; None is the node's default, 0 stores nothing.
        digest: of the shipped callable that runs it where the worker has no task of that name.
        head: opaque to the engine (for Celery: the message's headers and properties).
        body: opaque to the engine (for Celery: the message's body as its serialiser made it).
        gather: the group whose member this is.
        inputs: put there by the node: the results of the group whose body this is, in the members' order.
        verdict: put there by the node: the failed result because of which this task is not to be run, but to be ended
            by its strategy; this task's own where the engine has ended it already.
        labels: by which it can be revoked, with others (flag LABELLED).
        unique: no second task with this key is accepted before this one has ended (flag UNIQUE), and for
            ``unique_for`` seconds after its acceptance.
    """

    id: str
    name: str
    queue: str = "celery"
    priority: int = 0
    eta: float | None = None
    expires: float | None = None
    flags: int = 0
    topics: tuple[str, ...] = ()
    keep: float | None = None
    digest: str | None = None
    head: bytes = b""
    body: bytes = b""
    gather: str | None = None
    inputs: list[bytes] = []
    verdict: bytes = b""
    labels: list[str] = []
    unique: str | None = None
    unique_for: float = 0


class ResultHead(Struct, array_like=True, frozen=True, gc=False):
    """What the node reads of a result; the first fields of :class:`Result`, in its order."""

    id: str
    state: str
    final: bool


class Result(Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A task's state as everybody sees it.

    Arguments:
        final: whether this ends the task (RETRY, STARTED and progress do not).
        content_type: how ``value`` is to be read.
        info: opaque to the engine (for Celery: traceback, children, …).
        finished: wall-clock seconds since the epoch.
    """

    id: str
    state: str
    final: bool
    content_type: str = ""
    value: bytes = b""
    info: bytes = b""
    finished: float = 0.0


class Loss(Struct, array_like=True, frozen=True, gc=False):
    """Why the engine itself ended a task: ``kind`` is one of worker-lost, expired, revoked, duplicate, too-large, dead,
    callable, time-limit (``message`` is its seconds) and terminated (``message`` is the signal's number)."""

    kind: str
    message: str
    history: list[str] = []


class Gathering(Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A group of tasks with a body that is accepted, once, when all of them have ended.

    Arguments:
        id: what the members' ``Task.gather`` says.
        members: their ids, in the order in which the body gets their results.
        body: an encoded :class:`Task`; where a member has failed, it is accepted with that result as its verdict.
        collect: whether the body wants the results; else it gets the last one only.
        delay, lifetime: seconds from the body's acceptance on to its ETA and its expiry.
        closed: False where the members are told later, by a :class:`Grow` that closes it.
    """

    id: str
    members: list[str]
    body: Raw
    collect: bool = True
    delay: float | None = None
    lifetime: float | None = None
    closed: bool = True


class Ending(Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """The result of a task that will never be run, because of how another went.

    Arguments:
        store: whether it is stored and published.
        gather: the group that it is a member of.
    """

    result: Raw
    store: bool = True
    topics: tuple[str, ...] = ()
    keep: float | None = None
    gather: str | None = None


# ── producer → collector ─────────────────────────────────────────────────────────────────────────────────────────────


class Hello(Struct, array_like=True, frozen=True, tag=1):
    """A producer is there: ``lowest`` is the first sequence number that it still keeps."""

    version: int
    inbox: str
    lowest: int


class Submit(Struct, array_like=True, frozen=True, tag=_V + 1):
    """Tasks with consecutive sequence numbers, the first of which is ``seq``."""

    inbox: str
    seq: int
    tasks: list[Raw]


class Ship(Struct, array_like=True, frozen=True, tag=_V + 2):
    """A callable by its digest; takes one sequence number."""

    inbox: str
    seq: int
    digest: str
    blob: bytes


class Ask(Struct, array_like=True, frozen=True, tag=_V + 3):
    """How do these tasks stand? Answered now, and, with ``wait``, again when each ends.

    ``heard``: the number of the last delivery that has been read. It is told, with no ids, also where nothing is asked:
    the publisher sends no more than some megabytes ahead of it.
    """

    inbox: str
    ids: list[str]
    wait: bool
    heard: int = -1


class Forget(Struct, array_like=True, frozen=True, tag=_V + 4):
    """Remove these results from the store."""

    inbox: str
    ids: list[str]


class Query(Struct, array_like=True, frozen=True, tag=_V + 5):
    """A question about the node itself; the answer is a :class:`Answer` with the same token."""

    inbox: str
    token: str
    what: str
    argument: bytes = b""


class Gather(Struct, array_like=True, frozen=True, tag=_V + 32):
    """Open a group (an encoded :class:`Gathering`); takes one sequence number. Its members follow."""

    inbox: str
    seq: int
    group: Raw


class Grow(Struct, array_like=True, frozen=True, tag=_V + 33):
    """More members for an open group; takes one sequence number. They follow, or, with ``close``, were all of them."""

    inbox: str
    seq: int
    id: str
    members: list[str]
    close: bool = False


class Put(Struct, array_like=True, frozen=True, tag=_V + 34):
    """Store a result that is none of a task; takes one sequence number."""

    inbox: str
    seq: int
    result: Raw
    keep: float | None = None


class Attend(Struct, array_like=True, frozen=True, tag=_V + 35):
    """This inbox is a *station*: it has a name, and takes calls. Answered by :class:`Reached`; said again to each node.

    Arguments:
        name: what calls name it by; two stations may have the same one.
        host, pid, started: its process, as in :class:`Join`: a call is not sent to the dead.
    """

    inbox: str
    name: str
    host: str
    pid: int
    started: int


class Call(Struct, array_like=True, frozen=True, tag=_V + 36):
    """A message to stations: those with these names, or all. Answered by a :class:`Reached`, then by each station."""

    inbox: str
    token: str
    names: list[str] | None
    body: bytes


class Reply(Struct, array_like=True, frozen=True, tag=_V + 37):
    """A station's answer to the call with this token, which came from ``inbox``."""

    inbox: str
    token: str
    name: str
    body: bytes


class Tell(Struct, array_like=True, frozen=True, tag=_V + 40):
    """From a station to all workers of its pool, by way of the node.

    Arguments:
        body: for their strategies.
        queues: those that they serve from now on; None: as before.
    """

    inbox: str
    body: bytes = b""
    queues: list[str] | None = None


class Cast(Struct, array_like=True, frozen=True, tag=_V + 38):
    """Messages to whoever listens to a stream, kept for nobody; from producers and, with inbox '', from workers.

    Where nobody listens, the sender is told so by a :class:`Watched`, and again when somebody does.
    """

    inbox: str
    stream: str
    bodies: list[bytes]


class Revoke(Struct, array_like=True, frozen=True, tag=_V + 39):
    """Tasks that are not to be started any more; takes one sequence number.

    Arguments:
        ids: of tasks that are here, or will be.
        labels: ``Task.labels``: all tasks that have one of them.
        terminate: those that run are about to be ended: then they were revoked, not lost.
        keep: for how many seconds this is remembered; a negative number takes earlier revocations of these back, for
            tasks that are still to come.
    """

    inbox: str
    seq: int
    ids: list[str]
    labels: list[str]
    terminate: bool
    keep: float


FromProducer = (
    Hello | Submit | Ship | Ask | Forget | Query | Gather | Grow | Put | Attend | Call | Reply | Cast | Revoke | Tell
)  # fmt: skip


# ── publisher → inbox ────────────────────────────────────────────────────────────────────────────────────────────────


class Refusal(Struct, array_like=True, frozen=True):
    """One sequence number that was taken and refused: ``reason`` is queue-full, malformed or callable-unknown."""

    seq: int
    reason: str
    detail: str = ""


#: An empty list.
NO_REFUSALS: Final = Raw(b"\x90")


class Welcome(Struct, array_like=True, frozen=True, tag=2):
    """The inbox is live. ``last`` is the highest number taken from it, ``seq`` that of its last delivery.

    ``refusals``: an encoded list of :class:`Refusal`: what was refused among these numbers, as far as the producer has
    not said that it knows. Encoded, so that a later version may mean something else by it, and still be told apart.
    """

    version: int
    session: str
    node: str
    last: int
    seq: int
    max_message: int
    refusals: Raw = NO_REFUSALS


class Answer(Struct, array_like=True, frozen=True):
    """The answer to the query with this token."""

    token: str
    value: bytes


class Delivery(Struct, array_like=True, frozen=True, tag=_V + 1):
    """All that one loop turn has for one topic.

    Arguments:
        seq: counts the deliveries to this topic in this session; a gap says that some were lost.
        upto: every sequence number up to this one is in the journal (-1: no news).
        gap: what came after ``upto`` had a hole before it; send it again.
        results: encoded :class:`Result` each.
        pending: ids that were asked for and have no final result yet.
    """

    session: str
    seq: int
    upto: int = -1
    gap: bool = False
    results: list[Raw] = []
    refusals: list[Refusal] = []
    pending: list[str] = []
    answers: list[Answer] = []


class Called(Struct, array_like=True, frozen=True, tag=_V + 2):
    """A call for this station; to be answered with a :class:`Reply` to ``inbox``, whatever there is to say."""

    inbox: str
    token: str
    body: bytes


class Replied(Struct, array_like=True, frozen=True, tag=_V + 3):
    """A station's answer."""

    token: str
    name: str
    body: bytes


class Reached(Struct, array_like=True, frozen=True, tag=_V + 4):
    """So many stations have the call with this token; with token '': that many are known by now."""

    token: str
    count: int


class Heard(Struct, array_like=True, frozen=True, tag=_V + 5):
    """What was cast to a stream; sent under the stream's own topic. Empty: the subscription is live."""

    bodies: list[bytes]


class Watched(Struct, array_like=True, frozen=True, tag=_V + 6):
    """Whether anybody listens to a stream that the receiver has cast to."""

    stream: str
    watched: bool


ToInbox = Welcome | Delivery | Called | Replied | Reached | Heard | Watched


# ── worker ⇄ node ────────────────────────────────────────────────────────────────────────────────────────────────────


class Report(Struct, array_like=True, frozen=True):
    """How one leased task went; all that is in here becomes durable together.

    ``gathers`` and ``followups`` are groups and tasks accepted with its end, ``endings`` tasks that end with it.
    ``bury`` is why the task is kept as a dead letter, where it is.
    """

    key: int
    runtime: float
    store: bool
    result: Raw
    followups: list[Raw] = []
    gathers: list[Raw] = []
    endings: list[Ending] = []
    bury: str = ""


class Rate(Struct, array_like=True, frozen=True):
    """How many tasks of a name may start in a second: in this worker's pool or, ``shared``, over all of the node."""

    name: str
    limit: float
    shared: bool


class Join(Struct, array_like=True, frozen=True, tag=3):
    """A worker is there, or is back. Frozen like ``Hello``: it keeps its number and first field for ever.

    Arguments:
        generation: counts the joins of this worker; leases of an older one are void.
        pid, started: of its process, on ``host``: with both, a process can't be taken for another.
        word: path of the file that says which task is running, or ''.
        parent: id of the supervisor, whose loss is not only this process's.
        holding: keys that it still has to run or is running.
        done: what it reported without having had an answer.
        policies: acknowledgement flags of task names that differ from ``policy``.
        rates: how often tasks may start.
    """

    version: int
    generation: int
    name: str
    host: str
    pid: int
    started: int
    word: str
    parent_pid: int
    parent_started: int
    queues: list[str]
    capacity: int
    holding: list[int]
    done: list[Report]
    policy: int
    policies: dict[str, int]
    rates: list[Rate] = []


class Limit(Struct, array_like=True, frozen=True, tag=_V + 40):
    """Other limits than those that the worker joined with: ``rates`` as there; a rate of 0 is no limit."""

    rates: list[Rate]


class Done(Struct, array_like=True, frozen=True, tag=_V + 2):
    """Finished tasks, and those handed back unstarted; ``number`` counts them within a generation.

    ``busy``: lease me nothing until I report again.
    """

    generation: int
    number: int
    reports: list[Report]
    returned: list[int]
    busy: bool = False


class Update(Struct, array_like=True, frozen=True, tag=_V + 3):
    """A state that doesn't end a task (STARTED, progress)."""

    key: int
    result: Raw


class Fetch(Struct, array_like=True, frozen=True, tag=_V + 4):
    """Send me the callable with this digest."""

    digest: str


class Bye(Struct, array_like=True, frozen=True, tag=_V + 5):
    """The worker leaves; answered by :class:`Farewell` once its reports are in the journal."""

    generation: int
    reports: list[Report]
    returned: list[int]


class Beat(Struct, array_like=True, frozen=True, tag=_V + 6):
    """The workers with these ids are alive, says their supervisor or they themselves."""

    workers: list[str]


class Lost(Struct, array_like=True, frozen=True, tag=_V + 7):
    """A supervisor saw one of its workers die, whose process the node can't see.

    ``running`` is the key in its word (-1: none had started); ``cause`` and ``number`` are its word's, too.
    """

    worker: str
    running: int
    cause: int = 0
    number: float = 0.0


FromWorker = Join | Done | Update | Fetch | Bye | Beat | Lost | Cast | Limit


class LeaseEntry(Struct, array_like=True, frozen=True):
    """One leased task; ``losses`` workers were lost with it before."""

    key: int
    losses: int
    task: Raw


class Lease(Struct, array_like=True, frozen=True, tag=_V + 1):
    """Tasks that are this worker's until it answers or is lost; its reports up to ``acked`` are in the journal.

    ``keep``: in the answer to a ``Join``, which of the keys that the worker holds still are its own; with it comes
    ``limit``, the largest report that the node takes, in bytes.
    """

    generation: int
    acked: int
    entries: list[LeaseEntry]
    keep: list[int] | None = None
    limit: int | None = None


class Blob(Struct, array_like=True, frozen=True, tag=_V + 2):
    """A shipped callable, or None where the node has none of that digest."""

    digest: str
    blob: bytes | None


class Told(Struct, array_like=True, frozen=True, tag=_V + 7):
    """What the worker's pool has to say (:class:`Tell`)."""

    body: bytes = b""
    queues: list[str] | None = None


class Farewell(Struct, array_like=True, frozen=True, tag=_V + 3):
    """All that the leaving worker reported is in the journal."""


class Rejoin(Struct, array_like=True, frozen=True, tag=4):
    """The node doesn't know this worker (any more), or speaks another version: join (again)."""

    version: int


ToWorker = Lease | Blob | Farewell | Rejoin | Watched | Told


class Malformed:
    """What a decoder gives for a frame that it can't read; never raised."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"Malformed({self.reason!r})"


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode

_from_producer = msgspec.msgpack.Decoder(FromProducer)
_to_inbox = msgspec.msgpack.Decoder(ToInbox)
_from_worker = msgspec.msgpack.Decoder(FromWorker)
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_task = msgspec.msgpack.Decoder(Task)
_task_head = msgspec.msgpack.Decoder(TaskHead)
_result = msgspec.msgpack.Decoder(Result)
_result_head = msgspec.msgpack.Decoder(ResultHead)
_gathering = msgspec.msgpack.Decoder(Gathering)
_refusals = msgspec.msgpack.Decoder(list[Refusal])
_loss = msgspec.msgpack.Decoder(Loss)

#: All that msgspec raises on hostile bytes: its own errors, and those of what it calls (deep nesting, bad UTF-8).
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError, OverflowError, MemoryError)

_T = TypeVar("_T")


def _total(decoder: msgspec.msgpack.Decoder[_T], frame: Any) -> _T | Malformed:
    try:
        return decoder.decode(frame)
    except _UNREADABLE as error:
        return Malformed(str(error) or type(error).__name__)


def encode_submit(inbox: str, seq: int, tasks: Sequence[Task]) -> bytes:
    """A :class:`Submit` straight from tasks, each encoded once."""
    return encode((_V + 1, inbox, seq, tasks))


def encode_result(
    task_id: str, state: str, final: bool, content_type: str, value: bytes, info: bytes, finished: float
) -> bytes:
    """A :class:`Result` straight from its fields: the hot path builds no object for it."""
    return encode((task_id, state, final, content_type, value, info, finished))


def decode_from_producer(frame: bytes) -> FromProducer | Malformed:
    """What a collector reads from its PULL socket."""
    return _total(_from_producer, frame)


def decode_to_inbox(frame: bytes | memoryview) -> ToInbox | Malformed:
    """What a producer reads from its inbox, after the topic."""
    return _total(_to_inbox, frame)


def decode_from_worker(frame: bytes) -> FromWorker | Malformed:
    """What a node reads from a worker."""
    return _total(_from_worker, frame)


def decode_to_worker(frame: bytes) -> ToWorker | Malformed:
    """What a worker reads from its node."""
    return _total(_to_worker, frame)


def decode_task(raw: Raw | bytes) -> Task | Malformed:
    """The whole task, body and all: for workers."""
    return _total(_task, raw)


def decode_task_head(raw: Raw | bytes) -> TaskHead | Malformed:
    """The task without head and body: for the node."""
    return _total(_task_head, raw)


def decode_result(raw: Raw | bytes) -> Result | Malformed:
    """The whole result: for producers."""
    return _total(_result, raw)


def decode_result_head(raw: Raw | bytes) -> ResultHead | Malformed:
    """Whose result it is and what it means: for the node."""
    return _total(_result_head, raw)


def decode_gathering(raw: Raw | bytes) -> Gathering | Malformed:
    """A group: for the node."""
    return _total(_gathering, raw)


def decode_refusals(raw: Raw | bytes) -> list[Refusal] | Malformed:
    """What a welcome says was refused: for producers of its version."""
    return _total(_refusals, raw)


def decode_loss(value: bytes) -> Loss | Malformed:
    """The value of a result whose content type is LOSS_TYPE."""
    return _total(_loss, value)


def aftermath(task: Task, verdict: bytes) -> Task:
    """The task that is accepted when this one has ended otherwise than by its strategy, so that the strategy can see to
    what follows from that: it is this one with a verdict, and its own end counts nowhere."""
    flags = (task.flags | SETTLED) & ~(MEMBER | AFTERMATH | UNIQUE | RETRY_ON_LOST)
    return msgspec.structs.replace(task, flags=flags, verdict=verdict, eta=None, expires=None, gather=None)


def head_of(task: Task) -> TaskHead:
    """What a node reads of a task that it has at hand."""
    return TaskHead(*(getattr(task, field) for field in TaskHead.__struct_fields__))


def undecided(task: Task, verdict: bytes) -> Task:
    """The task that is accepted in the place of one whose process was lost, so that its strategy can say how it ends:
    it is this one with its own verdict, which is not its end yet."""
    return msgspec.structs.replace(task, flags=task.flags | SETTLED | RETRY_ON_LOST, verdict=verdict, eta=None)


def topic_prefix(topic: str) -> bytes:
    """What a subscriber subscribes to; the NUL keeps one topic from being the prefix of another."""
    return topic.encode() + b"\0"
