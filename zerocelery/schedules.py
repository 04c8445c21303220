"""When a periodic task runs: every so often, as cron says, or as the sun stands."""

from __future__ import annotations

import importlib
import re
from bisect import bisect_right
from calendar import monthrange
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from zerocelery._state import app_or_default
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.utils.time import (
    ffwd,
    humanize_seconds,
    localize,
    maybe_make_aware,
    maybe_timedelta,
    remaining,
    subtract_datetimes,
    timezone,
    weekday,
    yearmonth,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Cronspec = int | str | Iterable[int]

__all__ = (
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
)

#: How many years cron's fields may ask to wait: the 29th of February is a given weekday every 40 years at worst.
YEARS_AHEAD = 60


class schedstate(NamedTuple):
    """Whether to run now, and in how many seconds to look again."""

    is_due: bool
    next: float


class ParseException(Exception):
    """A field of cron's that is none."""


class BaseSchedule:
    """Says when a task is next due, from when it last ran.

    Arguments:
        nowfun: returns the time; the app's clock unless given.
        app: whose time zone counts; the current app unless given.
    """

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun = nowfun
        self._app = app

    def now(self) -> datetime:
        """The time."""
        found: datetime = (self.nowfun or self.app.now)()
        return found

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """The time left until the next run; not above zero when that is due."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether to run now, and in how many seconds to look again."""
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """The time with a zone: a naive one is UTC, or else in the app's zone."""
        return maybe_make_aware(dt, self.tz, naive_as_utc=naive_as_utc)

    @property
    def app(self) -> Any:
        """The app whose time zone counts."""
        return app_or_default(self._app)

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @cached_property
    def tz(self) -> tzinfo:
        """The app's zone."""
        found: tzinfo = self.app.timezone
        return found

    @cached_property
    def utc_enabled(self) -> bool:
        """Whether the app counts in UTC."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """The time in this machine's zone, if the app doesn't count in UTC."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        return other.nowfun == self.nowfun if isinstance(other, BaseSchedule) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class schedule(BaseSchedule):
    """Every so many seconds.

    Arguments:
        run_every: seconds, or a timedelta.
        relative: on the full minute, hour or day, whichever of them the time between runs is as long as.
    """

    relative: bool = False

    def __init__(
        self,
        run_every: Any = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        self.run_every: timedelta = maybe_timedelta(run_every)
        self.relative = relative
        super().__init__(nowfun=nowfun, app=app)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """The time left until the next run."""
        now = self.maybe_make_aware(self.now())
        return remaining(self.maybe_make_aware(last_run_at), self.run_every, now, self.relative)

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether to run now, and in how many seconds to look again.

        The seconds need not be exact: a scheduler may look earlier.
        """
        last = self.maybe_make_aware(last_run_at)
        left = self.remaining_estimate(last).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        if not self.relative:
            return schedstate(is_due=True, next=self.seconds)
        # What comes after now, which need not be a whole period away: this run may be late, or clocks be put back.
        now = self.maybe_make_aware(self.now()).astimezone(last.tzinfo)
        following = self.remaining_estimate(now).total_seconds()
        return schedstate(is_due=True, next=following if following > 0 else self.seconds)

    @property
    def seconds(self) -> float:
        """The time between runs."""
        return max(self.run_every.total_seconds(), 0)

    @property
    def human_seconds(self) -> str:
        """The time between runs, in words."""
        return humanize_seconds(self.seconds)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        return self.run_every == (other.run_every if isinstance(other, schedule) else other)

    __hash__ = None

    def __reduce__(self) -> Any:
        return type(self), (self.run_every, self.relative, self.nowfun)


# ── cron ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class crontab_parser:
    """Reads one field of cron's: ``*``, ``5``, ``mon-fri``, ``*/15``, ``8-18/2``, or several of these with commas.

    Arguments:
        max_: how many values the field has.
        min_: the least of them.
    """

    ParseException = ParseException

    _STEPS = re.compile(r"(\*|\w+-\w+)/(\w*)")
    _RANGE = re.compile(r"(\w+)-(\w+)")

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """All values that the field allows.

        Raises:
            ParseException: this is no such field.
            ValueError: a value is out of range, or no number and no name.
        """
        return {value for part in spec.split(",") for value in self._parse_part(part)}

    def _parse_part(self, part: str) -> list[int]:
        if not part:
            raise self.ParseException("empty part")
        if steps := self._STEPS.match(part):
            body = steps[1]
            return self._range_steps([*(body.split("-") if body != "*" else ("*", "*")), steps[2]])
        if bounds := self._RANGE.match(part):
            return self._expand_range(*bounds.groups())
        if part == "*":
            return self._expand_star()
        return [self._expand_number(part)]

    def _range_steps(self, toks: Any) -> list[int]:
        if len(toks) != 3 or not toks[2]:
            raise self.ParseException("empty filter")
        first, last, step = toks
        values = self._expand_star() if first == "*" else self._expand_range(first, last)
        return values[:: int(step)]

    def _expand_star(self) -> list[int]:
        return list(range(self.min_, self.max_ + self.min_))

    def _expand_range(self, first: str, last: str) -> list[int]:
        begin, end = self._expand_number(first), self._expand_number(last)
        if end >= begin:
            return list(range(begin, end + 1))
        return [*range(begin, self.min_ + self.max_), *range(self.min_, end + 1)]

    def _expand_number(self, text: str) -> int:
        if text.startswith("-"):
            raise self.ParseException("negative numbers not supported")
        number = self._number(text)
        top = self.min_ + self.max_ - 1
        if number > top:
            raise ValueError(f"Invalid end range: {number} > {top}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number

    @staticmethod
    def _number(text: str) -> int:
        for read in (int, yearmonth, weekday):
            try:
                return read(text)
            except (ValueError, KeyError):
                continue
        raise ValueError(f"Invalid weekday literal {text!r}.")


class crontab(BaseSchedule):
    """As cron says: at these minutes of these hours, on days that are right in all three of weekday, day and month.

    Each field is a number, several of them, or a text as :class:`crontab_parser` reads it. Sunday is 0.

    Arguments:
        minute, hour, day_of_week, day_of_month, month_of_year: the fields; ``"*"`` (every one) unless given.
        kwargs: ``nowfun`` (what gives the time instead of the clock) and ``app`` (whose timezone counts).

    Raises:
        ValueError: a field is out of range, or no month has such a day.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        self._orig_minute = _field(minute)
        self._orig_hour = _field(hour)
        self._orig_day_of_week = _field(day_of_week)
        self._orig_day_of_month = _field(day_of_month)
        self._orig_month_of_year = _field(month_of_year)
        self._orig_kwargs = kwargs
        self.hour = self._expand_cronspec(hour, 24)
        self.minute = self._expand_cronspec(minute, 60)
        self.day_of_week = self._expand_cronspec(day_of_week, 7)
        self.day_of_month = self._expand_cronspec(day_of_month, 31, 1)
        self.month_of_year = self._expand_cronspec(month_of_year, 12, 1)
        # 2000 was a leap year
        if not any(day <= monthrange(2000, month)[1] for month in self.month_of_year for day in self.day_of_month):
            raise ValueError(
                f"Invalid crontab: day_of_month {self._orig_day_of_month!r} never occurs in "
                f"month_of_year {self._orig_month_of_year!r}."
            )
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """The schedule that a line of a crontab names: minute, hour, day of month, month, day of week."""
        minute, hour, day_of_month, month_of_year, day_of_week = crontab.split(" ")
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Any, max_: int, min_: int = 0) -> set[int]:
        """All values that a field allows."""
        if isinstance(cronspec, int):
            values = {cronspec}
        elif isinstance(cronspec, str):
            values = crontab_parser(max_, min_).parse(cronspec)
        elif isinstance(cronspec, Iterable):
            values = set(cronspec)
        else:
            raise TypeError(
                "Argument cronspec needs to be of any of the following types: int, str, or an iterable type. "
                f"{type(cronspec)!r} was given."
            )
        for value in values:
            if not min_ <= value < max_ + min_:
                raise ValueError(
                    f"Invalid crontab pattern.  Valid range is {min_}-{max_ - 1 + min_}. '{value}' was found."
                )
        return values

    def __repr__(self) -> str:
        return (
            f"<crontab: {self._orig_minute} {self._orig_hour} {self._orig_day_of_month} {self._orig_month_of_year} "
            f"{self._orig_day_of_week} (m/h/dM/MY/d)>"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        fields = ("month_of_year", "day_of_month", "day_of_week", "hour", "minute", "nowfun")
        return all(getattr(self, field) == getattr(other, field) for field in fields)

    __hash__ = None

    def __reduce__(self) -> Any:
        fields = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        return type(self), tuple(getattr(self, f"_orig_{field}") for field in fields), self._orig_kwargs

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__init__(**state)
        self._orig_kwargs = dict(state)

    def remaining_delta(
        self, last_run_at: datetime, tz: Any = None, ffwd: Any = ffwd
    ) -> tuple[datetime, Any, datetime]:
        """When it last ran, how the clock differs at the next run, and the time; all in the schedule's zone.

        Arguments:
            tz: another zone.
            ffwd: what the difference is made of; a relativedelta serves as well.
        """
        zone = timezone.get_timezone(tz or self.tz)
        last = self.maybe_make_aware(last_run_at).astimezone(zone)
        now = self.maybe_make_aware(self.now()).astimezone(zone)
        day, hour, minute = self._next_slot(last)
        delta = ffwd(year=day.year, month=day.month, day=day.day, hour=hour, minute=minute, second=0, microsecond=0)
        return last, delta, now

    def _next_slot(self, last: datetime) -> tuple[date, int, int]:
        """The first day, hour and minute after those of the last run that all fields allow."""
        if self._runs_on(last):
            minutes = sorted(self.minute)
            if last.hour in self.hour and last.minute < minutes[-1]:
                return last.date(), last.hour, minutes[bisect_right(minutes, last.minute)]
            hours = sorted(self.hour)
            if last.hour < hours[-1]:
                return last.date(), hours[bisect_right(hours, last.hour)], minutes[0]
        return self._next_day(last), min(self.hour), min(self.minute)

    def _runs_on(self, day: date) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
        )

    def _next_day(self, last: datetime) -> date:
        today = last.date()
        for day in self._days(today.year):
            if day > today and day.isoweekday() % 7 in self.day_of_week:
                return day
        raise RuntimeError("unable to rollover, time specification is probably invalid")

    def _days(self, year: int) -> Iterator[date]:
        """The days that day and month allow, from this year on."""
        months, days = sorted(self.month_of_year), sorted(self.day_of_month)
        for later in range(year, year + YEARS_AHEAD):
            for month in months:
                length = monthrange(later, month)[1]
                yield from (date(later, month, day) for day in days if day <= length)

    def remaining_estimate(self, last_run_at: datetime, ffwd: Any = ffwd) -> timedelta:
        """The time left until the next run."""
        return remaining(*self.remaining_delta(last_run_at, ffwd=ffwd))

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether to run now, and in how many seconds to look again.

        A run that was missed is due, unless ``beat_cron_starting_deadline`` is over since the last one that was.
        """
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        due = left == 0 or not self._too_late()
        return schedstate(is_due=due, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def _too_late(self) -> bool:
        """Whether no run fell into the time that the deadline allows, up to now."""
        deadline = self.app.conf.beat_cron_starting_deadline
        if deadline is None:
            return False
        now = self.maybe_make_aware(self.now())
        # a run that was exactly so long ago still counts
        since = now.astimezone(timezone.utc) - timedelta(seconds=deadline, microseconds=1)
        return self.remaining_estimate(since.astimezone(now.tzinfo)).total_seconds() > 0


def _field(spec: Any) -> Any:
    return "*" if spec is None else spec


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """A schedule of seconds or a timedelta; one that is a schedule already becomes this app's."""
    if s is None:
        return None
    if isinstance(s, (int, float, timedelta)):
        return schedule(s, relative, app=app)
    s.app = app
    return s


# ── the sun ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Event(NamedTuple):
    """What to ask ephem: its method, how high the sun stands (degrees), and whether its centre counts."""

    method: str
    horizon: str
    is_center: bool


_SUN = {
    "dawn_astronomical": _Event("next_rising", "-18", True),
    "dawn_nautical": _Event("next_rising", "-12", True),
    "dawn_civil": _Event("next_rising", "-6", True),
    "sunrise": _Event("next_rising", "-0:34", False),
    "solar_noon": _Event("next_transit", "0", False),
    "sunset": _Event("next_setting", "-0:34", False),
    "dusk_civil": _Event("next_setting", "-6", True),
    "dusk_nautical": _Event("next_setting", "-12", True),
    "dusk_astronomical": _Event("next_setting", "-18", True),
}


class solar(BaseSchedule):
    """As the sun stands at a place.

    Arguments:
        event: sunrise, solar_noon, sunset; dawn_ or dusk_ civil, nautical, astronomical.
        lat: degrees of latitude.
        lon: degrees of longitude.

    Raises:
        ImproperlyConfigured: ephem isn't installed.
    """

    _all_events = frozenset(_SUN)
    _horizons: ClassVar[dict[str, str]] = {name: event.horizon for name, event in _SUN.items()}
    _methods: ClassVar[dict[str, str]] = {name: event.method for name, event in _SUN.items()}
    _use_center_l: ClassVar[dict[str, bool]] = {name: event.is_center for name, event in _SUN.items()}

    #: How far ahead to look for an event that doesn't happen every day.
    max_search_days = 366

    def __init__(self, event: str, lat: float, lon: float, **kwargs: Any) -> None:
        try:
            self.ephem: Any = importlib.import_module("ephem")
        except ImportError as error:
            raise ImproperlyConfigured(
                "solar schedules need the package ephem: pip install zerocelery[solar] (as celery[solar] does)"
            ) from error
        self.event = event
        self.lat = lat
        self.lon = lon
        super().__init__(**kwargs)
        if event not in _SUN:
            names = ", ".join(sorted(_SUN))
            raise ValueError(f'Argument event "{event}" is invalid, must be one of {names}.')
        if not -90 <= lat <= 90:
            raise ValueError(f"Argument latitude {lat} is invalid, must be between -90 and 90.")
        if not -180 <= lon <= 180:
            raise ValueError(f"Argument longitude {lon} is invalid, must be between -180 and 180.")
        self.method, horizon, self.use_center = _SUN[event]
        self.cal: Any = self.ephem.Observer()
        self.cal.lat, self.cal.lon = str(lat), str(lon)
        self.cal.elev = self.cal.pressure = 0
        self.cal.horizon = horizon

    def __reduce__(self) -> Any:
        return type(self), (self.event, self.lat, self.lon)

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, solar):
            return NotImplemented
        return (other.event, other.lat, other.lon) == (self.event, self.lat, self.lon)

    __hash__ = None

    def _next_event(self, start: Any) -> Any:
        """When it happens next; where it doesn't, for the sun stays up or down, when the search ended."""
        sun = self.ephem.Sun()
        options = {"use_center": True} if self.use_center else {}
        for _ in range(self.max_search_days):
            try:
                return getattr(self.cal, self.method)(sun, start=start, **options)
            except self.ephem.CircumpolarError:
                start = self.cal.next_antitransit(sun, start=start)
        return start

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """The time left until the next run, or until it is worth looking again."""
        last = localize(self.maybe_make_aware(last_run_at), timezone.utc)
        self.cal.date = last
        following = self._next_event(self.ephem.Date(last)).datetime()
        return subtract_datetimes(self.maybe_make_aware(following), self.maybe_make_aware(self.now()))

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether to run now, and in how many seconds to look again."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=max(self.remaining_estimate(self.now()).total_seconds(), 0))
