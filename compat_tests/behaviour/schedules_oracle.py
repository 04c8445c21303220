"""Answers what a schedule says, of zerocelery or of stock Celery: one code for both, so that they can be compared.

As a program it answers with the package that is named on the command line: a case a line on stdin, an answer a line on
stdout, both JSON. ``--table FILE`` answers the cases of a table and writes the answers into it.
"""

from __future__ import annotations

import importlib
import json
import sys
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")


def moment(said: dict[str, Any]) -> datetime:
    """A time: ``{at, zone, fold}``, naive without a zone."""
    zone = ZoneInfo(said["zone"]) if said.get("zone") else None
    return datetime.fromisoformat(said["at"]).replace(tzinfo=zone, fold=said.get("fold", 0))


def answer(case: dict[str, Any], *, package: str) -> dict[str, Any]:
    """What the package's schedule says of a case; the class of the exception where it raises one."""
    celery = importlib.import_module(package)
    schedules = importlib.import_module(f"{package}.schedules")
    app = celery.Celery("oracle", set_as_current=False)
    app.conf.enable_utc = case.get("enable_utc", True)
    app.conf.timezone = case["zone"]
    app.conf.beat_cron_starting_deadline = case.get("deadline")
    now = moment(case["now"])
    try:
        schedule, said = _make(schedules, case, app=app, nowfun=lambda: now)
        last = moment(case["last"])
        due, following = schedule.is_due(last)
        left = schedule.remaining_estimate(last).total_seconds()
    except Exception as error:  # whatever it is, both packages are to raise the same
        return {"error": type(error).__name__}
    return {**said, "due": due, "next": following, "remaining": left}


def _make(schedules: Any, case: dict[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
    if "every" in case:
        every = timedelta(seconds=case["every"])
        made = schedules.schedule(every, relative=case.get("relative", False), **options)
        return made, {"repr": repr(made)}
    made = schedules.crontab(*(case["cron"][field] for field in FIELDS), **options)
    return made, {"repr": repr(made), **{field: sorted(getattr(made, field)) for field in FIELDS}}


def main(package: str, *arguments: str) -> None:
    """Answer lines, or a table."""
    if arguments:
        with open(arguments[1], encoding="utf-8") as file:
            cases = [entry["case"] for entry in json.load(file)]
        table = [{"case": case, "answer": answer(case, package=package)} for case in cases]
        with open(arguments[1], "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(entry) for entry in table) + "\n]\n")
        return
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line), package=package)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
