"""The worker as a program: it says what it is when it starts."""

from __future__ import annotations

import datetime
import logging
import os
import platform
import sys
from typing import Any

from zerocelery import platforms
from zerocelery.worker import WorkController
from zerocelery.worker.unsupported import without_effect

__all__ = ("Worker",)

#: The left edge of the banner: what stands before each of its lines.
_EDGE = (
    " --------------",
    "--- ***** -----",
    "-- ******* ----",
    "- *** --- * ---",
    "- ** ----------",
    "- ** ----------",
    "- ** ----------",
    "- ** ----------",
    "- *** --- * ---",
    "-- ******* ----",
    "--- ***** -----",
    " --------------",
)


class Worker(WorkController):
    """A worker with a banner."""

    def on_before_init(self, quiet: bool = False, **kwargs: Any) -> None:
        self.quiet = quiet
        super().on_before_init(**kwargs)

    def on_after_init(self, purge: bool = False, no_color: bool | None = None, **kwargs: Any) -> None:
        self.purge = purge
        self.no_color = no_color

    def on_start(self) -> None:
        if not self.quiet:
            self.emit_banner()
        if self.purge:
            self.purge_messages()
        platforms.check_privileges(self.app.conf["accept_content"])
        logger = logging.getLogger("celery.worker")
        for warning in without_effect(self):
            logger.warning("%s", warning)

    def on_consumer_ready(self, consumer: Any) -> None:
        if not self.quiet and not logging.getLogger("celery.worker").isEnabledFor(logging.INFO):
            print(f"{self.hostname} ready.", file=sys.__stdout__, flush=True)

    def emit_banner(self) -> None:
        """Print who starts, with which settings, and, where INFO is logged, which tasks it knows."""
        tasks = self.extra_info() if self.loglevel <= logging.INFO else ""
        print(f" \n{self.startup_info()}\n{tasks}", file=sys.__stdout__, flush=True)

    def startup_info(self) -> str:
        """The banner."""
        import zerocelery
        from zerocelery.app.censor import sanitize_url
        from zerocelery.app.utils import broker_url

        app = self.app
        pool = "prefork" if self.pool_name == "processes" else self.pool_name
        size = (
            str(self.concurrency) if not self.autoscale else f"{{min={min(self.autoscale)}, max={max(self.autoscale)}}}"
        )
        events = "ON" if self.task_events else "OFF (enable -E to monitor tasks in this worker)"
        moment = datetime.datetime.now().replace(microsecond=0)
        rows = (
            f" {self.hostname} v{zerocelery.__version__} (zerocelery)",
            "",
            f" {_system()} {moment}",
            "",
            " [config]",
            f" .> app:         {app.main or '__main__'}:{id(app):#x}",
            f" .> transport:   {sanitize_url(broker_url(app.conf) or 'zmq://')}",
            f" .> results:     {_results(app)}",
            f" .> concurrency: {size} ({pool})",
            f" .> task events: {events}",
            "",
            " [queues]",
        )
        lines = [edge + row for edge, row in zip(_EDGE, rows, strict=True)]
        lines.append(app.amqp.queues.format(indent=16))
        return "\n".join(lines) + "\n"

    def extra_info(self) -> str:
        """The names of its tasks; those that every app has only where DEBUG is logged."""
        names = sorted(self.app.tasks)
        if self.loglevel > logging.DEBUG:
            names = [name for name in names if not name.startswith("celery.")]
        return "\n".join(["", "[tasks]", *(f"  . {name}" for name in names), ""])

    def purge_messages(self) -> None:
        """Remove what waits in the app's queues."""
        count = _purge(self.app)
        if count:
            text = f"purge: Erased {count} {'message' if count == 1 else 'messages'} from the queue.\n"
            print(text, file=sys.__stdout__, flush=True)


def _system() -> str:
    """What ``platform.platform()`` says on Linux, without the process that it starts to learn of the processor."""
    here = os.uname()
    libc = "".join(platform.libc_ver())
    return "-".join([here.sysname, here.release, here.machine, *(("with", libc) if libc else ())])


def _purge(app: Any) -> int:
    if not app.has_node:
        return int(app.control.purge() or 0)
    from zerocelery.app.utils import broker_url
    from zerocelery.engine.address import parse_address
    from zerocelery.engine.producer import Producer
    from zerocelery.engine.purging import purge_queue
    from zerocelery.engine.tenure import ensure_node

    address = parse_address(broker_url(app.conf) or "zmq://")
    ensure_node(address)
    client = Producer(address)
    try:
        return sum(purge_queue(client, str(queue.name)) for queue in app.amqp.queues.consume_from.values())
    finally:
        client.close()


def _results(app: Any) -> str:
    from zerocelery.app.censor import sanitize_url

    url = app.conf["result_backend"]
    if not url:
        return sanitize_url(app.backend.as_uri()) if app.has_node else "disabled://"
    return str(sanitize_url(url))
