"""Remote control over a kombu connection, for what consumes from one by itself.

zerocelery's own worker is reached through its node (:mod:`zerocelery.worker.desk`), or through its broker's mailbox
(:mod:`zerocelery.worker.mailbox`).
"""

from __future__ import annotations

import threading
from typing import Any

from zerocelery.utils.collections import AttributeDict
from zerocelery.utils.functional import pass1
from zerocelery.utils.log import get_logger
from zerocelery.worker import control

__all__ = ("Pidbox", "gPidbox")

logger = get_logger(__name__)


def ignore_errors(conn: Any, fun: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Call, where the connection may be gone."""
    try:
        return fun(*args, **kwargs)
    except (*conn.connection_errors, *conn.channel_errors):
        return None


class Pidbox:
    """Takes commands in, and answers.

    Arguments:
        c: has ``app``, ``hostname``, ``connection`` and ``on_decode_error``; the commands know it as their consumer.
    """

    consumer: Any = None

    def __init__(self, c: Any) -> None:
        self.c = c
        self.hostname = c.hostname
        self.node = c.app.control.mailbox.Node(
            c.hostname,
            handlers=control.Panel.data,
            state=AttributeDict(app=c.app, hostname=c.hostname, consumer=c, tset=pass1 if _has_loop(c) else set),
        )

    def on_message(self, body: Any, message: Any) -> None:
        """Carry a command out. One that fails is logged, and costs the channel."""
        self._count_on()
        try:
            self.node.handle_message(body, message)
        except KeyError as error:
            logger.error("there is no control command %s", error)
        except Exception as error:
            logger.error("control command error: %r", error, exc_info=True)
            self.reset()

    def _count_on(self) -> None:
        clock = getattr(self.c.app, "clock", None)
        if clock is not None:
            clock.forward()

    def start(self, c: Any) -> None:
        """Listen."""
        self.node.channel = c.connection.channel()
        self.consumer = self.node.listen(callback=self.on_message)
        self.consumer.on_decode_error = c.on_decode_error

    def on_stop(self) -> None:
        """Called when it stops."""

    def stop(self, c: Any) -> None:
        """Listen no more."""
        self.on_stop()
        self._close_channel(c)
        self.consumer = None

    def reset(self) -> None:
        """Listen on a channel of its own again."""
        if self.consumer is not None:
            ignore_errors(self.c, self.consumer.cancel)
        self.stop(self.c)
        self.start(self.c)

    def _close_channel(self, c: Any) -> None:
        if self.node and self.node.channel:
            ignore_errors(c, self.node.channel.close)

    def shutdown(self, c: Any) -> None:
        """Listen no more, ever."""
        self.on_stop()
        if self.consumer:
            logger.debug("Canceling broadcast consumer...")
            ignore_errors(c, self.consumer.cancel)
        self.stop(self.c)


class gPidbox(Pidbox):
    """The same in a thread (a green one, with a pool of these) and on a connection of its own."""

    _node_shutdown: threading.Event | None = None
    _node_stopped: threading.Event | None = None
    _resets = 0

    def start(self, c: Any) -> None:
        c.pool.spawn_n(self.loop, c)

    def on_stop(self) -> None:
        """Wait for the thread's end."""
        if self._node_stopped is not None and self._node_shutdown is not None:
            self._node_shutdown.set()
            logger.debug("Waiting for broadcast thread to shutdown...")
            self._node_stopped.wait()
            self._node_stopped = self._node_shutdown = None

    def reset(self) -> None:
        """Ask the thread for a new channel."""
        self._resets += 1

    def _do_reset(self, c: Any, connection: Any) -> None:
        self._close_channel(c)
        self.node.channel = connection.channel()
        self.consumer = self.node.listen(callback=self.on_message)
        self.consumer.consume()

    def loop(self, c: Any) -> None:
        """Listen until told to stop."""
        resets = self._resets
        over = self._node_shutdown = threading.Event()
        ended = self._node_stopped = threading.Event()
        try:
            with c.connection_for_read() as connection:
                logger.info("pidbox: Connected to %s.", connection.as_uri())
                self._do_reset(c, connection)
                while not over.is_set() and c.connection:
                    if resets < self._resets:
                        resets += 1
                        self._do_reset(c, connection)
                    try:
                        connection.drain_events(timeout=1.0)
                    except TimeoutError:
                        pass
        finally:
            ended.set()


def _has_loop(c: Any) -> bool:
    return bool(getattr(getattr(c, "controller", None), "use_eventloop", False))
