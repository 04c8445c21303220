"""ISO 8601 as Celery's old parser reads it; new code takes :func:`datetime.fromisoformat`."""

from __future__ import annotations

import re
import warnings
from datetime import datetime, timedelta, timezone

from zerocelery.exceptions import CPendingDeprecationWarning

__all__ = ("parse_iso8601",)

_FORM = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2})"
    r"(?:.(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d+))?)?"
    r"(?P<zone>Z|(?P<sign>[+-])(?P<zone_hours>\d{2}):?(?P<zone_minutes>\d{2}))?)?)?)?"
)


def parse_iso8601(datestring: str) -> datetime:
    """The moment that a text names; what it doesn't understand at its end is ignored."""
    warnings.warn(
        "parse_iso8601 is scheduled for deprecation in version 5.3 and removal in version 6.0: "
        "use datetime.fromisoformat instead",
        CPendingDeprecationWarning,
        stacklevel=2,
    )
    found = _FORM.match(datestring)
    if found is None:
        raise ValueError(f"unable to parse date string {datestring!r}")
    part = found.groupdict()
    if part["month"] is None or part["day"] is None:
        raise TypeError(f"{datestring!r} names no day")
    return datetime(
        int(part["year"]),
        int(part["month"]),
        int(part["day"]),
        int(part["hour"] or 0),
        int(part["minute"] or 0),
        int(part["second"] or 0),
        int((part["fraction"] or "0").ljust(6, "0")[:6]),
        _zone(part),
    )


def _zone(part: dict[str, str | None]) -> timezone | None:
    if part["zone"] is None:
        return None
    if part["zone"] == "Z":
        return timezone.utc
    ahead = timedelta(hours=int(part["zone_hours"] or 0), minutes=int(part["zone_minutes"] or 0))
    return timezone(-ahead if part["sign"] == "-" else ahead)
