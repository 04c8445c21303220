"""``python -m compat_tests.upstream [FILE…]``: see --help."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

from compat_tests.upstream import facts, fetch, run, table


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m compat_tests.upstream",
        description="Run Celery's own test suite against zerocelery. Fails where a test that stock Celery passes "
        "neither passes nor is listed, with a reason, in known.toml.",
    )
    parser.add_argument("files", nargs="*", help="as in t/unit/tasks/test_canvas.py; a directory means what is in it")
    parser.add_argument("--integration", action="store_true", help="without files: t/integration, too")
    parser.add_argument("--classes", default="ABCO", help="without files: of these classes only, as in AB")
    parser.add_argument("--stock", action="store_true", help="run the files against stock Celery, too")
    parser.add_argument("--only-stock", action="store_true", help="run them against stock Celery only")
    parser.add_argument("--record-stock", action="store_true", help="write stock Celery's counts into facts.json")
    parser.add_argument("--cached", action="store_true", help="run nothing: tell what earlier runs gave")
    parser.add_argument("--reasons", action="store_true", help="name each open test, and why it fails")
    parser.add_argument("--missing", type=int, default=30, metavar="N", help="how many missing names to list")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/compatibility.md")
    parser.add_argument("--jobs", type=int, default=1, help="how many files at a time")
    return parser.parse_args()


def chosen(given: argparse.Namespace) -> list[str]:
    """The files to run."""
    suite = fetch.suite()
    if given.files:
        found: list[str] = []
        for name in given.files:
            path = suite / name
            if path.is_dir():
                found += [str(file.relative_to(suite)) for file in path.rglob("test_*.py")]
            elif path.is_file():
                found.append(name)
            else:
                sys.exit(f"there is no {name} in Celery's suite: name a file as in t/unit/tasks/test_canvas.py")
        return sorted(found)
    kinds = facts.load()
    parts = ["t/unit", *(["t/integration"] if given.integration else [])]
    every = sorted(str(file.relative_to(suite)) for part in parts for file in (suite / part).rglob("test_*.py"))
    return [file for file in every if kinds.get(file, facts.Facts("B")).kind in given.classes]


def execute(files: list[str], sides: list[run.Side], jobs: int) -> None:
    """Run each file for each side, and remember what came of it."""

    def one(job: tuple[str, run.Side]) -> None:
        file, side = job
        result = run.run_file(file, side=side)
        run.keep(file, result, side=side)
        bad = len(result.bad)
        sys.stderr.write(
            f"{side:<5} {file}: {len(result.passed)} passed, {bad} failed, {result.seconds:g} s"
            f"{'; ' + result.error if result.error else ''}\n"
        )

    fetch.python()  # once, before threads ask for it
    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(one, (file, side)) for file in files for side in sides]:
            done.result()


def record_stock(files: list[str]) -> None:
    """Write stock Celery's outcomes down."""
    measured = {}
    for file in files:
        result = run.recall(file, side="stock")
        if result is not None:
            measured[file] = (len(result.passed), sorted(result.bad))
    facts.save_stock(measured)


def main() -> int:
    """Run, tell, and judge."""
    given = options()
    files = chosen(given)
    if not given.cached:
        sides: list[run.Side] = ["stock"] if given.only_stock else ["ours", *(["stock"] if given.stock else [])]  # type: ignore[list-item]
        execute(files, sides, given.jobs)
    if given.record_stock:
        record_stock(files)
    found = table.rows(files, facts.known())
    print(table.text(found))
    print()
    print(table.missing_text(found, most=given.missing))
    if given.reasons:
        for row in found:
            if row.open:
                print(f"\n{row.file}\n{table.by_reason(row.open)}")
    if given.docs:
        table.write_document(found)
    for entry in table.outlived(found, facts.known()):
        print(f"known.toml: {entry.file or entry.test} passes now: take it out")
    still_open = sum(len(row.open) for row in found)
    print(f"\n{still_open} tests neither pass nor are listed in known.toml" if still_open else "\nnothing is open")
    return 1 if still_open else 0


if __name__ == "__main__":
    sys.exit(main())
