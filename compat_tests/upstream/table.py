"""The table per file, for people and for docs/compatibility.md, and what is missing most."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from compat_tests.upstream import facts, fetch, run

DOCUMENT = run.ROOT / "docs" / "compatibility.md"
BEGIN = "<!-- upstream table: written by python -m compat_tests.upstream --docs -->"
END = "<!-- end of upstream table -->"

CLASSES = {
    "A": "must pass",
    "B": "should pass",
    "C": "Celery's engine",
    "O": "optional backends",
}


@dataclasses.dataclass
class Row:
    """A file: how stock Celery and zerocelery fare."""

    file: str
    kind: str
    stock: int = 0
    ours: int = 0
    black_stock: int = 0
    black_ours: int = 0
    #: Tests that are meant to differ.
    covered: set[str] = dataclasses.field(default_factory=set)
    #: Tests that stock passes, and zerocelery neither passes nor is known to differ in; and why.
    open: dict[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def known(self) -> int:
        return len(self.covered)


def row(file: str, fact: facts.Facts, known: Iterable[facts.Known]) -> Row | None:
    """What is known of a file; None where it was never run."""
    ours = run.recall(file, side="ours")
    if ours is None:
        return None
    stock = run.recall(file, side="stock")
    if stock is not None:
        ours = aligned(ours, stock)
    due = stock.passed if stock is not None else _presumed(file, ours, fact)
    made = Row(file, fact.kind, stock=len(due), ours=len(due & ours.passed))
    made.black_stock = sum(1 for test in due if fact.is_black_box(test))
    made.black_ours = sum(1 for test in due & ours.passed if fact.is_black_box(test))
    for test in sorted(due - ours.passed):
        if any(entry.covers(test) for entry in known):
            made.covered.add(test)
        elif test in ours.tests:
            made.open[test] = ours.tests[test][1] or ours.tests[test][0]
        else:
            made.open[test] = ours.error or "not collected"
    if ours.error and not due:  # nothing is known of what is in it
        if any(entry.file == file for entry in known):
            made.covered.add(file)
        else:
            made.open[file] = ours.error
    made.note = ours.error
    if ours.strangers:
        made.open[f"{file}: imported from another celery"] = ", ".join(ours.strangers)
    return made


def aligned(ours: run.FileResult, stock: run.FileResult) -> run.FileResult:
    """Our result with stock's names. pytest names a test's parameters by their ``__name__``, if they have one, and so
    our objects may give another name than Celery's; the order of the tests is the same.
    """
    theirs = _by_function(stock.tests)
    tests = {}
    for function, names in _by_function(ours.tests).items():
        known = theirs.get(function, [])
        same = len(known) != len(names) or set(known) == set(names)
        for name, known_name in zip(names, names if same else known, strict=True):
            tests[known_name] = ours.tests[name]
    return dataclasses.replace(ours, tests=tests)


def _by_function(tests: Iterable[str]) -> dict[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for test in tests:
        found[test.partition("[")[0]].append(test)
    return found


def _presumed(file: str, ours: run.FileResult, fact: facts.Facts) -> set[str]:
    """What stock Celery passes, where it was not run here: as it was measured, as far as that can be told."""
    if not ours.tests:
        return {f"{file}::(one of its {fact.items} tests: {number})" for number in range(1, (fact.items or 0) + 1)}
    skipped = {test for test, (outcome, _) in ours.tests.items() if outcome in ("skipped", "xfailed")}
    return set(ours.tests) - skipped - fact.stock_fails


def rows(files: Iterable[str], known: list[facts.Known]) -> list[Row]:
    """A row for each file that was run."""
    every = facts.load()
    made = (row(file, every.get(file, facts.Facts("B")), known) for file in sorted(files))
    return [one for one in made if one is not None]


def text(found: list[Row]) -> str:
    """The table for a terminal."""
    lines = [f"{'file':<52} class  stock   ours   black box  known   open"]
    lines += [
        f"{r.file:<52} {r.kind:^5} {r.stock:>6} {r.ours:>6} {r.black_ours:>5}/{r.black_stock:<5} {r.known:>5} "
        f"{len(r.open):>6}  {r.note[:60]}"
        for r in found
    ]
    for kind, total in totals(found).items():
        lines.append(
            f"{'class ' + kind + ' – ' + CLASSES[kind]:<52} {'':^5} {total.stock:>6} {total.ours:>6} "
            f"{total.black_ours:>5}/{total.black_stock:<5} {total.known:>5} {len(total.open):>6}"
        )
    return "\n".join(lines)


def outlived(found: list[Row], known: Iterable[facts.Known]) -> list[facts.Known]:
    """Known differences that are none any more: all that they cover, and was run, passes."""
    due = {r.file: r for r in found if r.stock}
    return [
        entry
        for entry in known
        if (entry.file or entry.test.partition("::")[0]) in due
        and not any(entry.covers(test) for r in due.values() for test in r.covered)
    ]


def totals(found: list[Row]) -> dict[str, Row]:
    """Sums by class."""
    sums: dict[str, Row] = {}
    for r in found:
        total = sums.setdefault(r.kind, Row(f"class {r.kind}", r.kind))
        for name in ("stock", "ours", "black_stock", "black_ours"):
            setattr(total, name, getattr(total, name) + getattr(r, name))
        total.covered |= r.covered
        total.open.update(r.open)
    return dict(sorted(sums.items()))


def markdown(found: list[Row]) -> str:
    """The table for the documentation."""
    lines = [
        f"| file | class | Celery {fetch.CELERY} passes | zerocelery passes | of these black-box | meant to differ |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.file} | {r.kind} | {r.stock} | {r.ours} | {r.black_ours} of {r.black_stock} | {r.known} |" for r in found
    ]
    lines += [
        f"| **class {kind}: {CLASSES[kind]}** | | **{t.stock}** | **{t.ours}** | **{t.black_ours} of {t.black_stock}** "
        f"| **{t.known}** |"
        for kind, t in totals(found).items()
    ]
    return "\n".join(lines)


def write_document(found: list[Row], *, document: Path = DOCUMENT) -> None:
    """Put the table between its markers; the rest of the document stays."""
    old = document.read_text() if document.exists() else f"# Compatibility with Celery\n\n{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        old = f"{old.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n\n{markdown(found)}\n\n{END}{after}")


# ── what to build next ───────────────────────────────────────────────────────────────────────────────────────────────

_MISSING = (
    (re.compile(r"No module named '(?:zero)?celery\.([\w.]+)'"), r"module \1"),
    (re.compile(r"cannot import name '(\w+)' from '(?:zero)?celery\.?([\w.]*)'"), r"\2:\1"),
    (re.compile(r"module '(?:zero)?celery\.?([\w.]*)' has no attribute '(\w+)'"), r"\1:\2"),
    (re.compile(r"<module '(?:zero)?celery\.?([\w.]*)' .*> (?:has no|does not have the) attribute '(\w+)'"), r"\1:\2"),
    (re.compile(r"'?(\w+)'? object has no attribute '(\w+)'"), r"\1.\2"),
    (re.compile(r"type object '(\w+)' has no attribute '(\w+)'"), r"\1.\2"),
    (re.compile(r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'"), r"\1(\2=)"),
)  # fmt: skip


def missing(found: list[Row]) -> list[tuple[str, int, int, str]]:
    """What tests ask for in vain: the name, how many tests, in how many files, and an example."""
    tests: Counter[str] = Counter()
    files: defaultdict[str, set[str]] = defaultdict(set)
    examples: dict[str, str] = {}
    for r in found:
        for test, reason in r.open.items():
            name = _asked_for(reason)
            tests[name] += 1
            files[name].add(r.file)
            examples.setdefault(name, test)
    return [(name, number, len(files[name]), examples[name]) for name, number in tests.most_common()]


def _asked_for(reason: str) -> str:
    for pattern, name in _MISSING:
        match = pattern.search(reason)
        if match:
            return match.expand(name)
    return re.sub(r"0x[0-9a-f]+|\d+", "…", reason)[:110]


def missing_text(found: list[Row], *, most: int = 30) -> str:
    """The list for a terminal."""
    lines: list[str] = [f"{'tests':>5} {'files':>5}  missing"]
    lines += [f"{number:>5} {files:>5}  {name}   ({test})" for name, number, files, test in missing(found)[:most]]
    return "\n".join(lines)


def by_reason(open_tests: Mapping[str, str]) -> str:
    """Each open test and why."""
    return "\n".join(f"  {test}\n      {reason}" for test, reason in open_tests.items())
