"""Schedules say what Celery's say: of cases that Hypothesis thinks of, and of a table of those that were hard.

``ZEROCELERY_STOCK_PYTHON`` names the interpreter of an environment with Celery 5.7; without it only the table is asked,
whose answers are Celery's too (``$ZEROCELERY_STOCK_PYTHON schedules_oracle.py celery --table schedules.json``).
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compat_tests.behaviour import schedules_oracle
from zerocelery import Celery
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.schedules import crontab, crontab_parser, maybe_schedule, schedule, solar

HERE = Path(__file__).parent
TABLE = [(entry["case"], entry["answer"]) for entry in json.loads((HERE / "schedules.json").read_text())]

#: Where clocks are put forward and back: by an hour, by half of one, at midnight, and not at all.
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata")

#: Days on which some of these change their clocks, and some that are odd in other ways.
ODD_DAYS = (
    "2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01", "2024-02-28", "2025-12-31",
)  # fmt: skip


def sets_of(least: int, most: int) -> st.SearchStrategy[Any]:
    """Fields as people write them: a number, a list, ranges, steps."""
    number = st.integers(least, most)
    ranges = st.builds(lambda a, b: f"{a}-{b}", number, number)
    steps = st.builds(lambda body, step: f"{body}/{step}", st.one_of(st.just("*"), ranges), st.integers(1, most))
    part = st.one_of(number.map(str), ranges, steps)
    texts = st.lists(part, min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), number, texts, st.lists(number, min_size=1, max_size=4))


CRONS = st.fixed_dictionaries(
    {
        "minute": sets_of(0, 59),
        "hour": sets_of(0, 23),
        "day_of_week": st.one_of(sets_of(0, 6), st.sampled_from(["mon-fri", "sun", "sat,Sunday", "tue-thursday"])),
        "day_of_month": sets_of(1, 31),
        "month_of_year": st.one_of(sets_of(1, 12), st.sampled_from(["feb", "jan-march", "Dec"])),
    }
)


@st.composite
def moments(draw: st.DrawFn, zone: str) -> datetime:
    """A time without a zone: any, or one on an odd day."""
    if draw(st.booleans()):
        return draw(st.datetimes(datetime(1995, 1, 1), datetime(2035, 1, 1)))
    day = datetime.fromisoformat(draw(st.sampled_from(ODD_DAYS)))
    return day + timedelta(
        seconds=draw(st.integers(-3600, 30 * 3600)), microseconds=draw(st.sampled_from([0, 750_000]))
    )


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A schedule, when it ran last, and what time it is."""
    zone = draw(st.sampled_from(ZONES))
    last = draw(moments(zone))
    gap = st.one_of(st.integers(0, 7200), st.integers(0, 400 * 86400), st.integers(-7200, 0))
    now = last + timedelta(seconds=draw(gap))
    fold = st.sampled_from([0, 0, 1])
    made: dict[str, Any] = {
        "zone": zone,
        "last": {"at": last.isoformat(), "zone": draw(st.sampled_from([zone, zone, "UTC", None])), "fold": draw(fold)},
        "now": {"at": now.isoformat(), "zone": zone, "fold": draw(fold)},
        "deadline": draw(st.sampled_from([None, None, 60, 3600])),
    }
    if draw(st.booleans()):
        every = st.one_of(st.integers(1, 59), st.sampled_from([60, 90, 300, 3600, 5400, 7200, 86400, 2 * 86400]))
        return {**made, "every": draw(every), "relative": draw(st.booleans())}
    return {**made, "cron": draw(CRONS)}


@pytest.fixture(scope="module")
def celery() -> Iterator[subprocess.Popen[str]]:
    """Stock Celery, which answers cases."""
    interpreter = os.environ.get("ZEROCELERY_STOCK_PYTHON")
    if not interpreter:
        pytest.skip("ZEROCELERY_STOCK_PYTHON names no interpreter with Celery 5.7 in its environment")
    process = subprocess.Popen(
        [interpreter, str(HERE / "schedules_oracle.py"), "celery"],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@given(case=cases())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.timeout(120)
def test_every_schedule_says_what_celerys_says(celery: subprocess.Popen[str], case: dict[str, Any]) -> None:
    assert celery.stdin is not None
    assert celery.stdout is not None
    celery.stdin.write(json.dumps(case) + "\n")
    celery.stdin.flush()
    assert schedules_oracle.answer(case, package="zerocelery") == json.loads(celery.stdout.readline())


@pytest.mark.parametrize(("case", "expected"), TABLE, ids=[str(number) for number in range(len(TABLE))])
def test_hard_cases_are_answered_as_celery_answers_them(case: dict[str, Any], expected: dict[str, Any]) -> None:
    assert schedules_oracle.answer(case, package="zerocelery") == expected


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("schedules", set_as_current=False) as app:
        yield app


@given(spec=sets_of(0, 59).filter(lambda spec: isinstance(spec, str)))
def test_a_field_is_the_union_of_its_parts(spec: str) -> None:
    parser = crontab_parser(60)
    assert parser.parse(spec) == set().union(*(parser.parse(part) for part in spec.split(",")))


@given(cron=CRONS)
def test_a_crontab_survives_pickling_with_what_was_written(cron: dict[str, Any]) -> None:
    try:
        made = crontab(**cron)
    except ValueError:
        return
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert [getattr(again, f"_orig_{field}") for field in schedules_oracle.FIELDS] == [
        cron[field] for field in schedules_oracle.FIELDS
    ]


@given(cron=CRONS, at=st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)))
def test_the_next_run_is_the_first_minute_that_all_fields_allow(cron: dict[str, Any], at: datetime) -> None:
    try:
        made = crontab(**cron, nowfun=lambda: at.replace(tzinfo=timezone.utc))
    except ValueError:
        return
    with Celery("first", set_as_current=False) as app:
        made.app = app
        following = at.replace(tzinfo=timezone.utc) + made.remaining_estimate(at)
    for day in range(min((following.date() - at.date()).days, 40) + 1):
        for allowed in _minutes(made, at + timedelta(days=day)):
            if allowed > at.replace(second=0, microsecond=0):
                assert allowed == following.replace(tzinfo=None)
                return


def _minutes(made: crontab, day: datetime) -> list[datetime]:
    if (
        day.day not in made.day_of_month
        or day.month not in made.month_of_year
        or day.isoweekday() % 7 not in made.day_of_week
    ):
        return []
    midnight = day.replace(hour=0, minute=0, second=0, microsecond=0)
    return [midnight.replace(hour=h, minute=m) for h in sorted(made.hour) for m in sorted(made.minute)]


def test_what_is_no_schedule_yet_becomes_one_of_the_app(app: Celery) -> None:
    made = maybe_schedule(30, app=app)
    assert made == schedule(timedelta(seconds=30))
    assert made.app is app
    given = crontab(minute=5)
    assert maybe_schedule(given, app=app) is given
    assert given.app is app
    assert maybe_schedule(None) is None


def test_a_solar_schedule_without_ephem_names_the_extra(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"zerocelery\[solar\]"):
        solar("sunrise", 60, 30, app=app)
