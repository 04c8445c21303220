"""An app's connection to its node: the engine's producer, with Celery's exceptions."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from zerocelery.app.utils import broker_url, censored_url
from zerocelery.engine import wire
from zerocelery.engine.errors import AddressError, EngineError, NodeUnreachable
from zerocelery.engine.producer import Producer, ProducerOptions
from zerocelery.exceptions import ImproperlyConfigured, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

SCHEME = "zmq"


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


def is_node(url: str) -> bool:
    """Whether the URL is a node's."""
    return url.partition("://")[0] == SCHEME


class NodeClient:
    """One app's client of one node.

    Raises:
        ImproperlyConfigured: the URL is none of a node.
    """

    def __init__(self, url: str, *, connect_timeout: float = 4.0) -> None:
        if not is_node(url):
            raise ImproperlyConfigured(
                f"broker_url is {censored_url(url)!r}, and this version talks to nodes only: use zmq:// (this user's "
                "node), zmq:///a/directory or zmq://host:port"
            )
        try:
            self.producer = Producer(url, options=ProducerOptions(connect_timeout=connect_timeout))
        except AddressError as error:
            raise ImproperlyConfigured(str(error)) from error
        self.url = url

    @classmethod
    def of(cls, app: Celery) -> NodeClient:
        """The client that the app's settings describe."""
        conf = app.conf
        options = conf["broker_transport_options"] or {}
        timeout = options.get("connect_timeout", conf["broker_connection_timeout"])
        return cls(broker_url(conf), connect_timeout=float(timeout) if timeout is not None else 4.0)

    @property
    def is_local_socket(self) -> bool:
        """Whether the node is reached over a Unix socket."""
        return bool(self.producer.address.is_ipc)

    def submit(self, task: wire.Task) -> int:
        """Send a task; gives the token to wait with.

        Raises:
            kombu.exceptions.OperationalError: there is no node in reach, or it refuses the task.
        """
        try:
            return self.producer.submit(task)
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

    def close(self) -> None:
        """Send what is left, and let go of the node."""
        self.producer.close()
