"""An app's connection to its node: the engine's producer, with Celery's exceptions."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from zerocelery.app.censor import sanitize_url
from zerocelery.app.utils import broker_url
from zerocelery.engine import wire
from zerocelery.engine.address import is_node
from zerocelery.engine.errors import AddressError, EngineError, NodeUnreachable
from zerocelery.engine.producer import Patience, ProducerOptions
from zerocelery.engine.purging import purge_queue
from zerocelery.engine.station import Station
from zerocelery.engine.watching import Watch
from zerocelery.exceptions import ImproperlyConfigured, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery


@contextmanager
def celery_errors() -> Iterator[None]:
    """What the engine raises, as callers of Celery know it; the message names the address and the fix."""
    try:
        yield
    except EngineError as error:
        raise operational(error) from error


def operational(error: Exception) -> Exception:
    """The engine's error as kombu's OperationalError."""
    from kombu.exceptions import OperationalError

    return OperationalError(str(error))


def _patience(connect_timeout: float, retry: bool, policy: Mapping[str, Any]) -> Patience:
    """How long publishing waits for a node: one connection's time, and all pauses of the retry policy."""
    if not retry:
        return True, connect_timeout
    retries = policy.get("max_retries", 3)
    if retries is None:
        return False, math.inf
    pause, step, most = (float(policy.get(key) or 0) for key in ("interval_start", "interval_step", "interval_max"))
    pauses = sum(min(pause + step * n, most) if most else pause + step * n for n in range(int(retries)))
    return False, connect_timeout + pauses


class NodeClient:
    """One app's client of one node.

    Raises:
        ImproperlyConfigured: the URL is none of a node.
    """

    def __init__(
        self, url: str, *, connect_timeout: float = 4.0, retry: bool = True, policy: Mapping[str, Any] | None = None
    ) -> None:
        if not is_node(url):
            raise ImproperlyConfigured(
                f"broker_url is {sanitize_url(url)!r}, and this version talks to nodes only: use zmq:// (this user's "
                "node), zmq:///a/directory or zmq://host:port"
            )
        try:
            once, seconds = _patience(connect_timeout, retry, policy or {})
            options = ProducerOptions(connect_timeout=connect_timeout, submit_timeout=seconds, once=once)
            self.producer = Station(url, options=options)
        except AddressError as error:
            raise ImproperlyConfigured(str(error)) from error
        self.url = url
        self._watch = Watch(self.producer)

    @classmethod
    def of(cls, app: Celery) -> NodeClient:
        """The client that the app's settings describe."""
        conf = app.conf
        options = conf["broker_transport_options"] or {}
        timeout = options.get("connect_timeout", conf["broker_connection_timeout"])
        return cls(
            broker_url(conf),
            connect_timeout=float(timeout) if timeout is not None else 4.0,
            retry=bool(conf["task_publish_retry"]),
            policy=conf["task_publish_retry_policy"],
        )

    @property
    def is_local_socket(self) -> bool:
        """Whether the node is reached over a Unix socket."""
        return bool(self.producer.address.is_ipc)

    def patience(self, retry: bool | None, policy: Mapping[str, Any] | None) -> Patience | None:
        """How long a call waits for a node that says so itself; None for as long as the settings say."""
        if retry is None and policy is None:
            return None
        options = self.producer.options
        if policy is None:
            return (
                (False, options.submit_timeout or options.connect_timeout) if retry else (True, options.connect_timeout)
            )
        return _patience(options.connect_timeout, retry is not False, policy)

    def reach(self, patience: Patience) -> None:
        """Wait for the node; as :meth:`submit`."""
        with celery_errors():
            self.producer.reach(patience)

    def submit(self, task: wire.Task, patience: Patience | None = None) -> int:
        """Send a task; gives the token to wait with.

        Raises:
            kombu.exceptions.OperationalError: there is no node in reach, or it refuses the task.
        """
        try:
            return self.producer.submit(task, patience)
        except EngineError as error:
            raise operational(error) from error

    def submit_many(self, tasks: Sequence[wire.Task]) -> int:
        """Send tasks in as few messages as may be; as :meth:`submit`."""
        try:
            return self.producer.submit_many(tasks)
        except EngineError as error:
            raise operational(error) from error

    def gather(self, group: wire.Gathering) -> int:
        """Open a group whose members follow; as :meth:`submit`."""
        try:
            return self.producer.gather(group)
        except EngineError as error:
            raise operational(error) from error

    def grow(self, gather: str, members: Sequence[str], *, close: bool = False, confirmed: bool = False) -> None:
        """Let a group have more members.

        Arguments:
            close: these were all.
            confirmed: return when the node has it: what the caller does next goes there by another way.
        """
        with celery_errors():
            self.producer.grow(gather, members, close=close)
            if confirmed and not self.producer.confirm(self.producer.options.connect_timeout):
                raise NodeUnreachable(f"the node at {self.url} did not say that it waits for one more member")

    def put(self, result: wire.Result, keep: float | None) -> None:
        """Store a result that is none of a task's run."""
        with celery_errors():
            self.producer.put(result, keep=keep)

    def wait_each(self, tasks: Mapping[str, int | None], timeout: float | None) -> Iterator[wire.Result]:
        """The final results of many tasks, as they come; as :meth:`wait`."""
        try:
            yield from self.producer.wait_each(tasks, timeout=timeout)
        except EngineError as error:
            raise operational(error) from error
        except builtins.TimeoutError:
            raise TimeoutError("The operation timed out.") from None

    def ship(self, digest: str, blob: bytes) -> None:
        """Give the node the callable that goes with a digest."""
        with celery_errors():
            self.producer.ship(digest, blob)

    def wait(self, task_id: str, token: int | None, timeout: float | None) -> wire.Result:
        """A task's final result.

        Raises:
            TimeoutError: it didn't come in time.
        """
        try:
            return self.producer.wait(task_id, token=token, timeout=timeout)
        except EngineError as error:
            raise operational(error) from error
        except builtins.TimeoutError:
            raise TimeoutError("The operation timed out.") from None

    def watch(self, task_id: str, token: int | None, tell: Callable[[wire.Result | Exception], object]) -> None:
        """Call ``tell`` when a task has ended, with its result or with what keeps it from coming; from any thread."""
        with celery_errors():
            self._watch.add(task_id, token, tell)

    def unwatch(self, task_id: str, tell: Callable[[wire.Result | Exception], object]) -> None:
        """Don't call it any more."""
        self._watch.discard(task_id, tell)

    def peek(self, task_id: str, token: int | None) -> wire.Result | None:
        """A task's latest state; None where nothing is known of it."""
        try:
            return self.producer.peek(task_id, token=token)
        except (EngineError, builtins.TimeoutError) as error:
            raise operational(error) from error

    def forget(self, task_ids: Sequence[str]) -> None:
        """Remove results from the store."""
        with celery_errors():
            self.producer.forget(task_ids)

    def call(
        self, body: bytes, names: Sequence[str] | None, *, timeout: float, limit: int | None, replies: bool
    ) -> list[tuple[str, bytes]]:
        """Call workers by their names (None: all) and give name and answer of each."""
        with celery_errors():
            return list(self.producer.call(body, names, timeout=timeout, limit=limit, replies=replies))

    def revoke(self, ids: Sequence[str], labels: Sequence[str], *, terminate: bool, keep: float) -> None:
        """Have the node start these tasks no more."""
        with celery_errors():
            self.producer.revoke(ids, labels, terminate=terminate, keep=keep)

    def purge(self, queue: str) -> int:
        """Remove what waits in a queue; how many there were."""
        with celery_errors():
            return purge_queue(self.producer, queue)

    def ask(self, what: str, argument: dict[str, Any] | None = None) -> Any:
        """Ask the node about itself."""
        with celery_errors():
            return self.producer.ask(what, argument)

    def close(self) -> None:
        """Send what is left, and let go of the node."""
        self._watch.close()
        self.producer.close()
