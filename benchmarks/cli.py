"""The command line: which measures, which contestants, how often, and where the figures go."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import campaign, machine, report
from benchmarks.campaign import Choice, Record
from benchmarks.contestants import CONTESTANTS, Celery, Contestant, Dramatiq, Pool, ZeroCelery, make_scratch
from benchmarks.environments import own_interpreter, peers_interpreter
from benchmarks.errors import BenchmarkError, Refused
from benchmarks.measures import MEASURES
from benchmarks.redis_db import RedisDatabase
from benchmarks.sizes import BY_NAME, Sizes

_MEASURES = tuple(measure.name for measure in MEASURES)
_CONTESTANTS = tuple(contestant.name for contestant in CONTESTANTS)


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A run as it is kept in a file: enough to print its tables again."""

    facts: Mapping[str, str]
    absent: Mapping[str, str]
    records: Sequence[Record]

    def dump(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Run:
        records = [Record(**record) for record in data["records"]]
        return cls(facts=data["facts"], absent=data["absent"], records=records)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; 0 whatever the figures are, 2 when they could not be run."""
    options = _parser().parse_args(arguments)
    try:
        run = _loaded(options.load) if options.load else _measured(options)
    except BenchmarkError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        return 2
    if options.json:
        Path(options.json).write_text(json.dumps(run.dump(), indent=1))
    sys.stdout.write(_printed(run, markdown=options.markdown) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="zerocelery beside its peers.")
    parser.add_argument("--quick", action="store_true", help="one short round of a few minutes")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds over all contestants")
    parser.add_argument(
        "--only",
        type=_names,
        default=(),
        metavar="NAME,…",
        help=f"measures ({', '.join(_MEASURES)}) or contestants ({', '.join(_CONTESTANTS)})",
    )
    parser.add_argument("--json", metavar="FILE", help="write every record there")
    parser.add_argument("--load", metavar="FILE", help="measure nothing, print the tables of this file again")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--venvs", type=Path, default=_cache(), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--peers-python", metavar="PATH", help="a Python that has the peers; default: made in DIR")
    parser.add_argument("--own-python", metavar="PATH", help="the Python that has zerocelery; default: this one")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379", metavar="URL", help="default: %(default)s")
    parser.add_argument(
        "--redis-dbs",
        type=_numbers,
        default=(13, 14),
        metavar="A,B",
        help="databases for celery and dramatiq, emptied; one that holds somebody's keys is refused (default: 13,14)",
    )
    parser.add_argument("--deadline", type=float, metavar="S", help="seconds that one step of a contestant may take")
    return parser


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zerocelery-bench"


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = set(names) - {*_MEASURES, *_CONTESTANTS}
    if unknown:
        raise argparse.ArgumentTypeError(f"no measure or contestant: {', '.join(sorted(unknown))}")
    return names


def _numbers(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    return int(first), int(second)


def _loaded(file: str) -> Run:
    return Run.load(json.loads(Path(file).read_text()))


def _measured(options: argparse.Namespace) -> Run:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupted)
    choice = Choice(
        measures=[name for name in options.only if name in _MEASURES],
        contestants=[name for name in options.only if name in _CONTESTANTS],
        quick=options.quick,
    )
    with _alone(options.venvs), _scratch(options.venvs) as scratch:
        contestants = _contestants(options, scratch=scratch, sizes=_sizes(options))
        present, absent = campaign.available(contestants, choice)
        facts = machine.describe(present, database=_database(options, 0), scratch=scratch)
        try:
            records = campaign.run(present, choice=choice, sizes=_sizes(options), report=_progress)
        finally:
            # An interruption may have come in the middle of a contestant's own stop.
            for contestant in present:
                contestant.stop()
    return Run(facts=facts, absent=absent, records=records)


def _interrupted(number: int, _frame: object) -> None:
    """Ends the run once; whatever is sent later must not keep what was started from being stopped."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = BY_NAME["quick" if options.quick else "full"]
    repeats, deadline = options.repeats or sizes.repeats, options.deadline or sizes.deadline
    return dataclasses.replace(sizes, repeats=repeats, deadline=deadline)


def _contestants(options: argparse.Namespace, *, scratch: Path, sizes: Sizes) -> list[Contestant]:
    own = own_interpreter(options.own_python)
    peers = peers_interpreter(options.peers_python, venvs=options.venvs)
    deadline = sizes.deadline
    return [
        ZeroCelery(own, scratch=scratch, deadline=deadline),
        Celery(peers, scratch=scratch, deadline=deadline, database=_database(options, 0)),
        Dramatiq(peers, scratch=scratch, deadline=deadline, database=_database(options, 1)),
        Pool(own, scratch=scratch, deadline=deadline),
    ]


def _database(options: argparse.Namespace, index: int) -> RedisDatabase:
    url = urlsplit(options.redis)
    return RedisDatabase(url.hostname or "127.0.0.1", url.port or 6379, options.redis_dbs[index])


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Two runs at a time would empty each other's databases and spoil each other's figures."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"another run is under way (it holds {lock.name})") from None
        yield


@contextlib.contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    scratch = make_scratch(cache)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _progress(record: Record) -> None:
    what = record.failure or ", ".join(f"{name} {value:.4g}" for name, value in record.figures.items())
    sys.stderr.write(f"[{record.repeat}] {record.measure} {record.contestant} ({record.seconds:g} s): {what}\n")
    sys.stderr.flush()


def _printed(run: Run, *, markdown: bool) -> str:
    found = report.tables(run.records, facts=run.facts, absent=run.absent)
    return "\n\n".join(table.markdown() if markdown else table.text() for table in found)
