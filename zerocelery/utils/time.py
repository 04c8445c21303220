"""Points in time and spans of it, with their zones."""

from __future__ import annotations

import os
import random
import time as _time
from calendar import monthrange
from datetime import date, datetime, timedelta, tzinfo
from datetime import timezone as _timezone
from functools import cached_property
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import Any

__all__ = (
    "LocalTimezone",
    "add_seconds_to_datetime",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_timedelta",
    "rate",
    "remaining",
    "subtract_datetimes",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
    "yearmonth",
)

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
_PER = {"s": 0, "m": 1, "h": 2}
_DAY, _HOUR, _MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)

# ── zones ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class LocalTimezone(tzinfo):
    """This machine's zone where it has no name: standard and summer time as the C library knows them."""

    def __init__(self) -> None:
        self.STDOFFSET = timedelta(seconds=-_time.timezone)
        self.DSTOFFSET = timedelta(seconds=-_time.altzone) if _time.daylight else self.STDOFFSET
        self.DSTDIFF = self.DSTOFFSET - self.STDOFFSET

    def __repr__(self) -> str:
        return f"<LocalTimezone: UTC{int(self.DSTOFFSET.total_seconds() / 3600):+03d}>"

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return self.DSTOFFSET if dt is not None and self._isdst(dt) else self.STDOFFSET

    def dst(self, dt: datetime | None) -> timedelta:
        return self.DSTDIFF if dt is not None and self._isdst(dt) else timedelta(0)

    def tzname(self, dt: datetime | None) -> str:
        return _time.tzname[1 if dt is not None and self._isdst(dt) else 0]

    def fromutc(self, dt: datetime) -> datetime:
        # The fixed offset that is in force then: tzinfo's own way gets the hours around a change wrong.
        fixed = _timezone(self.utcoffset(dt))
        return fixed.fromutc(dt.replace(tzinfo=fixed))

    def _isdst(self, dt: datetime) -> bool:
        seconds = _time.mktime((dt.year, dt.month, dt.day, dt.hour, dt.minute, dt.second, dt.weekday(), 0, 0))
        return _time.localtime(seconds).tm_isdst > 0


def _local_zone() -> tzinfo:
    """This machine's zone, by its name if it has one: only then the rules for other years are known."""
    name = os.environ.get("TZ", "").lstrip(":") or os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return LocalTimezone()


class _Zone:
    """Zones by name, and the two that always exist."""

    @cached_property
    def utc(self) -> tzinfo:
        """UTC."""
        try:
            return ZoneInfo("UTC")
        except ZoneInfoNotFoundError:  # a machine with no time zone data
            return _timezone.utc

    @cached_property
    def local(self) -> tzinfo:
        """The zone of this machine."""
        return _local_zone()

    def tz_or_local(self, tzinfo: Any = None) -> tzinfo:
        """The zone given, or this machine's."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def get_timezone(self, zone: Any) -> tzinfo:
        """The zone of this name; a zone is returned as it is."""
        if not isinstance(zone, str):
            return zone  # type: ignore[no-any-return]
        return self.utc if zone.upper() == "UTC" else ZoneInfo(zone)

    def to_local(self, dt: datetime, local: Any = None, orig: Any = None) -> datetime:
        """The moment as the clocks of a zone show it; naive times are in ``orig``, UTC unless given."""
        if is_naive(dt):
            dt = make_aware(dt, self.get_timezone(orig or self.utc))
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """The moment as this machine's clock shows it."""
        return dt.astimezone()

    def to_local_fallback(self, dt: datetime) -> datetime:
        """The moment in this machine's zone; naive times are in it already."""
        return localize(dt, self.local)


timezone = _Zone()


def is_naive(dt: datetime) -> bool:
    """Whether the time names no zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def _is_imaginary(dt: datetime, tz: tzinfo) -> bool:
    """Whether clocks of the zone never show this time, for they are put forward over it."""
    aware = dt.replace(tzinfo=tz)
    try:
        there_and_back = aware.astimezone(_timezone.utc).astimezone(tz)
    except (NotImplementedError, ValueError):  # a zone that knows no offsets
        return False
    return there_and_back.replace(tzinfo=None) != dt.replace(tzinfo=None)


def _moved_on(dt: datetime) -> datetime:
    """A time that clocks skip, put forward by what they skip."""
    offsets = [(dt + shift).utcoffset() for shift in (-_DAY, _DAY)]
    before, after = (offset or timedelta(0) for offset in offsets)
    return dt + max(after - before, timedelta(0))


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """The time as this zone's clocks show it; one that comes twice is the earlier, one that is skipped is moved on."""
    aware = dt.replace(tzinfo=tz, fold=0)
    if _knows_offsets(tz, aware) and _is_imaginary(aware, tz):
        return _moved_on(aware)
    return aware


def _knows_offsets(tz: tzinfo, dt: datetime) -> bool:
    try:
        return tz.utcoffset(dt) is not None
    except NotImplementedError:
        return False


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """The moment as this zone's clocks show it."""
    if is_naive(dt):
        dt = make_aware(dt, tz)
    return dt.astimezone(tz) if _knows_offsets(tz, dt) else dt


def to_utc(dt: datetime) -> datetime:
    """A naive time as UTC."""
    return make_aware(dt, timezone.utc)


def maybe_make_aware(dt: datetime, tz: Any = None, naive_as_utc: bool = True) -> datetime:
    """An aware time as it is; a naive one in UTC, or in the zone, shown in the zone."""
    if not is_naive(dt):
        return dt
    if naive_as_utc:
        dt = to_utc(dt)
    return localize(dt, timezone.utc if tz is None else timezone.get_timezone(tz))


def utcoffset(time: ModuleType = _time, localtime: Callable[..., Any] = _time.localtime) -> float:
    """Hours that this machine's clock is behind UTC."""
    seconds: float = time.altzone if localtime().tm_isdst else time.timezone
    return seconds / 3600


def adjust_timestamp(ts: float, offset: float, here: Callable[[], float] = utcoffset) -> float:
    """A timestamp of a machine whose clock is ``offset`` hours behind UTC, as of this machine."""
    return ts - (offset - here()) * 3600


# ── texts and numbers ────────────────────────────────────────────────────────────────────────────────────────────────


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


def humanize_seconds(secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False) -> str:
    """Seconds in words: ``humanize_seconds(90, 'in ')`` is 'in 1.50 minutes'."""
    secs = float(f"{float(secs):.2f}")
    for unit, size in _UNITS:
        if secs >= size:
            number = secs / size
            return f"{prefix}{sep}{number:.2f} {unit}{'' if number == 1 else 's'}"
    if microseconds and secs > 0.0:
        return f"{prefix}{sep}{secs:.2f} seconds"
    return now


def rate(r: Any) -> float:
    """Tasks a second, of a number or of '10/m' (s, m, h; a second unless given)."""
    if not r:
        return 0
    if not isinstance(r, str):
        return float(r)
    number, _, per = r.partition("/")
    found = float(number)
    for _ in range(_PER[per or "s"]):
        found /= 60.0
    return found


def weekday(name: str) -> int:
    """The number of a day by the beginning of its name; Sunday is 0."""
    return _named(name, _DAYS)


def yearmonth(name: str) -> int:
    """The number of a month by the beginning of its name."""
    return _named(name, _MONTHS) + 1


def _named(name: str, among: tuple[str, ...]) -> int:
    try:
        return among.index(name[:3].lower())
    except ValueError:
        raise KeyError(name) from None


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


# ── arithmetic ───────────────────────────────────────────────────────────────────────────────────────────────────────


def add_seconds_to_datetime(dt: datetime, seconds: float) -> datetime:
    """The moment that many seconds later, whatever clocks do meanwhile."""
    if is_naive(dt):
        return dt + timedelta(seconds=seconds)
    return (dt.astimezone(_timezone.utc) + timedelta(seconds=seconds)).astimezone(dt.tzinfo)


def subtract_datetimes(end: datetime, start: datetime) -> timedelta:
    """The time that passes between two moments; where only one is naive, it is UTC."""
    naive = [is_naive(end), is_naive(start)]
    if all(naive):
        return end.replace(tzinfo=None) - start.replace(tzinfo=None)
    moments = (
        dt.replace(tzinfo=_timezone.utc) if is_naive(dt) else dt.astimezone(_timezone.utc) for dt in (end, start)
    )
    later, earlier = moments
    return later - earlier


def _in_utc(dt: datetime) -> datetime:
    return dt.replace(tzinfo=_timezone.utc) if is_naive(dt) else dt.astimezone(_timezone.utc)


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """The time cut off at the largest unit (day, hour, minute) that fits into delta."""
    if delta >= _DAY:
        return dt.replace(hour=0, minute=0, second=0, microsecond=0)
    if delta >= _HOUR:
        return dt.replace(minute=0, second=0, microsecond=0)
    if delta >= _MINUTE:
        return dt.replace(second=0, microsecond=0)
    return dt


class ffwd:
    """A change of a date and time: fields that are set, days that are added.

    Arguments:
        weekday: go on to this day of the week, Monday is 0; stay where it is that day already.
        weeks: and add so many weeks.
    """

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.year = year
        self.month = month
        self.weeks = weeks
        self.weekday = weekday
        self.day = day
        self.hour = hour
        self.minute = minute
        self.second = second
        self.microsecond = microsecond
        self.days = weeks * 7

    def _fields(self, **extra: Any) -> dict[str, Any]:
        names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        found = {**{name: getattr(self, name) for name in names}, **extra}
        return {name: value for name, value in found.items() if value is not None}

    def __repr__(self) -> str:
        fields = self._fields(weeks=self.weeks, weekday=self.weekday)
        return f"ffwd({', '.join(f'{name}={value!r}' for name, value in fields.items())})"

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, date):
            return NotImplemented
        fields = self._fields()
        year, month = self.year or other.year, self.month or other.month
        fields["day"] = min(self.day or other.day, monthrange(year, month)[1])
        there = other.replace(**fields)
        ahead = 0 if self.weekday is None else (self.weekday - there.weekday()) % 7
        return there + timedelta(days=ahead + self.days)


def remaining(start: datetime, ends_in: Any, now: datetime | None = None, relative: bool = False) -> timedelta:
    """The time that is left until ``ends_in`` after start; less than nothing when that is over.

    Arguments:
        ends_in: a timedelta, which is time that passes; or an ffwd, which is what a clock shows.
        relative: end at the last full minute, hour or day (as the timedelta is) before that, but after start.
    """
    now = now or datetime.now(_timezone.utc)
    if relative:
        end = _relative_end(start, ends_in)
    elif isinstance(ends_in, timedelta):
        end = add_seconds_to_datetime(start, ends_in.total_seconds())
    else:
        end = start + ends_in
    return end.astimezone(_timezone.utc) - now.astimezone(_timezone.utc)


def _occurrences(wall: datetime) -> Iterator[datetime]:
    """The moments (UTC) at which clocks show a time: two where they are put back, and where they skip it, the next."""
    for fold in (0, 1):
        moment = wall.replace(fold=fold)
        if moment.tzinfo is not None and _is_imaginary(moment, moment.tzinfo):
            moment = _moved_on(moment.replace(fold=0))
        yield moment.astimezone(_timezone.utc)


def _relative_end(start: datetime, delta: timedelta) -> datetime:
    began = start.astimezone(_timezone.utc)
    if delta >= _DAY:
        # days are those of the calendar, however long
        there = start + delta
        midnights = [moment for moment in _occurrences(delta_resolution(there, delta)) if moment > began]
        return min(midnights, default=there.astimezone(_timezone.utc))
    end = began + delta
    if delta < _MINUTE:
        return end.replace(microsecond=0)
    local = end.astimezone(start.tzinfo)
    walls = [local, local + (_HOUR if delta >= _HOUR else _MINUTE), start + delta]
    found = [moment for wall in walls for moment in _occurrences(delta_resolution(wall, delta)) if moment > began]
    passed = [moment for moment in found if moment <= end]
    return max(passed) if passed else min(found, default=end)
