"""One beat at a time: a lease from the node, and the unique keys that tell one slot of an entry from all others.

Of the beats of one app the one that has the lease sends; the others stand by, and one of them takes over as soon as its
holder is gone. With the lease goes when each entry ran last, so that whoever takes over begins where the other ended.
Should two send the same slot all the same (one was killed before it could say so, or was stopped for long), the node
refuses the second message: both have the same unique key.
"""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from zerocelery.engine.errors import EngineError
from zerocelery.utils.log import get_logger

__all__ = ("BeatLease", "slot_options")

logger = get_logger("celery.beat")

#: For how long the lease is taken, and how often it is renewed (seconds).
LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 10.0

#: How often who stands by asks for it (seconds).
STAND_BY_SECONDS: Final = 1.0

#: For how long a slot's key is remembered at least (seconds); else for twice the time to the next slot.
_REMEMBERED: Final = 3_600.0


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _due(entry: Any) -> datetime:
    """When the entry's present run is due by its schedule; when it ran last where the schedule doesn't say."""
    last: datetime = entry.last_run_at
    schedule = entry.schedule
    try:
        if hasattr(schedule, "remaining_delta"):
            start, delta, _ = schedule.remaining_delta(last)
            return _utc(start + delta)
        if isinstance(getattr(schedule, "run_every", None), timedelta):
            return _utc(last + schedule.run_every)
    except Exception as error:  # a schedule of somebody's own
        logger.debug("entry %r does not say when it is due: %r", entry.name, error)
    return _utc(last)


def slot_options(entry: Any, scope: str) -> dict[str, Any]:
    """Options that make the node refuse a second message for this run of an entry.

    Arguments:
        scope: whose entry it is: those of another app may have the same names.
    """
    if not isinstance(entry.last_run_at, datetime):
        return {}
    due = _due(entry)
    try:
        following = entry.schedule.remaining_estimate(entry.schedule.now()).total_seconds()
    except Exception:  # a schedule of somebody's own
        following = 86_400.0
    keep = max(_REMEMBERED, 2 * following)
    return {"unique_key": f"{scope}:{entry.name}:{due.isoformat()}", "unique_for": round(keep)}


class BeatLease:
    """The lease of one app's beat.

    Arguments:
        scheduler: whose entries are sent by whoever has it.
    """

    def __init__(self, app: Any, scheduler: Any) -> None:
        self.app = app
        self.scheduler = scheduler
        self.name = f"beat:{app.main or ''}:{type(scheduler).__name__}"
        scheduler.slot_scope = self.name
        self.held = False
        self._stands_by = False
        self._renew_at = 0.0
        self._told: bytes | None = None

    def hold(self) -> bool:
        """Take or renew the lease, where that is due; whether it is ours."""
        now = time.monotonic()
        if self.held and now < self._renew_at:
            return True
        try:
            held, value = self.app.client.producer.lease(self.name, LEASE_SECONDS, value=self._told)
        except EngineError as error:
            logger.warning("beat: the node can't be asked whether this beat is to send: %s", error)
            self.held = False
            return False
        if held and not self.held:
            logger.info("beat: this beat sends from now on")
            self._take_over(value)
        elif not held and not self._stands_by:
            logger.info("beat: another beat of this app sends; this one stands by")
        self._stands_by = not held
        self.held = held
        self._renew_at = now + RENEW_SECONDS
        return bool(held)

    def tell(self) -> None:
        """An entry was sent: let whoever comes after us know, now."""
        self._told = json.dumps(
            {
                name: [_utc(entry.last_run_at).isoformat(), entry.total_run_count]
                for name, entry in self.scheduler.schedule.items()
                if isinstance(entry.last_run_at, datetime)
            }
        ).encode()
        self._renew_at = 0.0
        self.hold()

    def release(self) -> None:
        """Let another one send at once."""
        if not self.held:
            return
        self.held = False
        try:
            self.app.client.producer.lease(self.name, 0.0, value=self._told, release=True)
        except EngineError as error:
            logger.debug("the lease %s was not let go: %s", self.name, error)

    def _take_over(self, value: bytes) -> None:
        """Go on where the former holder has ended, where that is later than what is known here."""
        try:
            known: dict[str, Any] = json.loads(value) if value else {}
        except ValueError:
            return
        changed = False
        for name, (last, count) in known.items():
            entry = self.scheduler.schedule.get(name)
            if entry is None or not isinstance(entry.last_run_at, datetime):
                continue
            moment = datetime.fromisoformat(last)
            if moment > _utc(entry.last_run_at):
                zone = entry.last_run_at.tzinfo
                entry.last_run_at = moment.astimezone(zone) if zone else moment.replace(tzinfo=None)
                entry.total_run_count = max(entry.total_run_count or 0, count)
                self.scheduler.schedule[name] = entry
                changed = True
        if changed:
            self.scheduler._heap = None
            self.scheduler.sync()
