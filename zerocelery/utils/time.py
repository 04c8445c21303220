"""Points in time and spans of it, with their zones."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta, tzinfo
from datetime import timezone as _timezone
from zoneinfo import ZoneInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = (
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "timezone",
    "to_utc",
)

_UNITS = (("day", 86400.0, "{:.2f}"), ("hour", 3600.0, "{:.2f}"), ("minute", 60.0, "{:.2f}"), ("second", 1.0, "{:.2f}"))


class _Zone:
    """Zones by name, and the two that always exist."""

    utc = _timezone.utc

    @property
    def local(self) -> tzinfo:
        """The zone of this machine."""
        return datetime.now().astimezone().tzinfo or self.utc

    def tz_or_local(self, tzinfo: Any = None) -> tzinfo:
        """The zone given, or this machine's."""
        return self.get_timezone(tzinfo) if tzinfo is not None else self.local

    def get_timezone(self, zone: Any) -> tzinfo:
        """The zone of this name; a zone is returned as it is."""
        if not isinstance(zone, str):
            return zone  # type: ignore[no-any-return]
        return self.utc if zone.upper() == "UTC" else ZoneInfo(zone)

    def to_local(self, dt: datetime, local: Any = None, orig: Any = None) -> datetime:
        """The moment as the clocks of a zone show it; naive times are in ``orig``."""
        if is_naive(dt):
            dt = make_aware(dt, self.tz_or_local(orig) if orig is not None else self.utc)
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """The moment as this machine's clock shows it."""
        return localize(dt, self.local)

    def to_local_fallback(self, dt: datetime) -> datetime:
        """The moment in this machine's zone; naive times are in it already."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)


timezone = _Zone()


def maybe_timedelta(delta: Any) -> Any:
    """Seconds as a timedelta; a timedelta (or None) as it is."""
    return timedelta(seconds=delta) if isinstance(delta, (int, float)) else delta


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """The moment that an ISO 8601 text names; a datetime (or None, or '') as it is."""
    if not dt or isinstance(dt, datetime):
        return dt or None
    return parse_iso8601(dt)


def parse_iso8601(text: str) -> datetime:
    """The moment that an ISO 8601 text names."""
    # Python before 3.11 reads neither Z nor fractions of odd length
    text = text.strip().replace(" ", "T", 1)
    if text.endswith(("Z", "z")):
        text = f"{text[:-1]}+00:00"
    return datetime.fromisoformat(text)


def is_naive(dt: datetime) -> bool:
    """Whether the time names no zone."""
    return dt.tzinfo is None or dt.utcoffset() is None


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """The time as this zone's clocks show it; one that comes twice is the earlier, one that is skipped is moved on."""
    aware = dt.replace(tzinfo=tz)
    there_and_back = aware.astimezone(_timezone.utc).astimezone(tz)
    if there_and_back.replace(tzinfo=None) != dt.replace(tzinfo=None):
        return there_and_back
    return aware


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """The moment as this zone's clocks show it."""
    return make_aware(dt, tz) if is_naive(dt) else dt.astimezone(tz)


def to_utc(dt: datetime) -> datetime:
    """A naive time as UTC."""
    return make_aware(dt, _timezone.utc)


def maybe_make_aware(dt: datetime, tz: tzinfo | None = None, naive_as_utc: bool = True) -> datetime:
    """An aware time as it is; a naive one in UTC, or in the zone, shown in the zone."""
    if not is_naive(dt):
        return dt
    if naive_as_utc:
        dt = to_utc(dt)
    return localize(dt, _timezone.utc if tz is None else timezone.tz_or_local(tz))


def humanize_seconds(secs: int, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False) -> str:
    """Seconds in words: ``humanize_seconds(90, 'in ')`` is 'in 1.50 minutes'."""
    secs = float(f"{float(secs):.2f}")  # type: ignore[assignment]
    for unit, size, form in _UNITS:
        if secs >= size:
            number = form.format(secs / size).rstrip("0").rstrip(".") if unit == "second" else form.format(secs / size)
            return f"{prefix}{sep}{number} {unit}{'' if float(number) == 1 else 's'}"
    if microseconds and secs > 0.0:
        return f"{prefix}{sep}{secs:.2f} seconds"
    return now


def get_exponential_backoff_interval(factor: int, retries: int, maximum: int, full_jitter: bool = False) -> int:
    """Seconds to wait before the next retry: doubled each time, up to the maximum, or random below that."""
    countdown: int = min(maximum, factor * 2 ** max(retries, 0))
    if full_jitter:
        countdown = random.randrange(countdown + 1)  # noqa: S311 - spreads load, keeps no secret
    return max(0, countdown)


def to_timestamp(moment: date | str | float, tz: tzinfo | None = None) -> float:
    """Seconds since the epoch; naive times are in the zone, UTC unless given."""
    if isinstance(moment, (int, float)):
        return float(moment)
    if isinstance(moment, str):
        moment = parse_iso8601(moment)
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if is_naive(moment):
        moment = make_aware(moment, tz or _timezone.utc)
    return moment.timestamp()
