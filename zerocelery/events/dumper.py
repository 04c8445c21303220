"""Events as lines of text."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import Any

from kombu.utils.functional import LRUCache

from zerocelery._state import app_or_default

__all__ = ("Dumper", "evdump")

HUMAN_TYPES = {
    "worker-offline": "shutdown",
    "worker-online": "started",
    "worker-heartbeat": "heartbeat",
}

#: What tasks of late were called with, by their ids: only task-received says it.
TASK_NAMES: Any = LRUCache(limit=0xFFF)  # type: ignore[no-untyped-call]


def humanize_type(type: str) -> str:
    """An event's type in words."""
    return HUMAN_TYPES.get(type.lower()) or type.lower().replace("-", " ")


class Dumper:
    """Writes events to a file.

    Arguments:
        out: the file.
    """

    def __init__(self, out: Any = sys.stdout) -> None:
        self.out = out

    def say(self, msg: str) -> None:
        """Write a line at once."""
        self.out.write(f"{msg}\n")
        self.out.flush()

    def on_event(self, ev: dict[str, Any]) -> None:
        """Write an event."""
        timestamp = datetime.fromtimestamp(ev.pop("timestamp"), tz=timezone.utc)
        type = ev.pop("type").lower()
        hostname = ev.pop("hostname")
        if not type.startswith("task-"):
            fields = _fields(ev)
            self.say(f"{hostname} [{timestamp}] {humanize_type(type)}{': ' if fields else ''}{fields}")
            return
        uuid = ev.pop("uuid")
        if type in ("task-received", "task-sent"):
            name, args, kwargs = ev.pop("name"), ev.pop("args"), ev.pop("kwargs")
            TASK_NAMES[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
        self.format_task_event(hostname, timestamp, type, TASK_NAMES.get(uuid, f"({uuid})"), event=ev)

    def format_task_event(self, hostname: str, timestamp: Any, type: str, task: str, event: dict[str, Any]) -> None:
        """Write a task's event."""
        self.say(f"{hostname} [{timestamp}] {humanize_type(type)}: {task} {_fields(event)}".rstrip())


def _fields(event: dict[str, Any]) -> str:
    return ", ".join(f"{key}={event[key]}" for key in sorted(event))


def evdump(app: Any = None, out: Any = sys.stdout) -> None:
    """Write events as they come, until interrupted; a broker that is lost is waited for.

    Raises:
        SystemExit: it was interrupted.
    """
    app = app_or_default(app)
    dumper = Dumper(out=out)
    dumper.say("-> evdump: starting capture...")
    connection = app.connection_for_read().clone()

    def lost(error: Exception, interval: float) -> None:
        dumper.say(f"-> Cannot connect to {connection.as_uri()}: {error}.\nTrying again in {interval:.2f} seconds\n")

    while True:
        try:
            connection.ensure_connection(lost)
            app.events.Receiver(connection, handlers={"*": dumper.on_event}).capture()
        except (KeyboardInterrupt, SystemExit):
            connection.close()
            raise SystemExit from None
        except connection.connection_errors + connection.channel_errors:
            dumper.say("-> Connection lost, attempting reconnect")
