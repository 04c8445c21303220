"""``python -m compat_tests.ecosystem [--docs] [PACKAGE…]``: run packages' own tests thrice, and compare.

With Celery; under ``zerocelery-run``, Celery installed beside it; and under it, with Celery and billiard uninstalled.
Each package has an environment of its own, in this user's cache.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from compat_tests.ecosystem.packages import CELERY, PACKAGES, Package
from compat_tests.upstream.fetch import cache as upstream_cache

HOME = Path(__file__).resolve().parents[2]
DOCS = HOME / "docs" / "ecosystem.md"

#: Outcome of each test by its name.
Outcomes = Mapping[str, str]


def cache() -> Path:
    """Where sources and environments are kept, outside of the repository."""
    return upstream_cache().parent / "ecosystem"


# ── what is run ──────────────────────────────────────────────────────────────────────────────────────────────────────


def source(package: Package) -> Path:
    """The package's source with its tests; a checkout that was put there by hand is taken as it is."""
    home = cache() / "sources" / f"{package.name}-{package.version}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    if package.repository is not None:
        tag = ["--branch", package.tag] if package.tag else []
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", *tag, package.repository, str(home)], check=True)
        return home
    with tempfile.TemporaryDirectory(dir=home.parent) as directory:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
             "--dest", directory, f"{package.name}=={package.version}"],
            check=True,
        )  # fmt: skip
        (archive,) = Path(directory).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(directory, filter="data")
        (unpacked,) = (entry for entry in Path(directory).iterdir() if entry.is_dir())
        unpacked.rename(home)
    return home


def environment(package: Package) -> Path:
    """The ``bin`` directory of an environment with the package, Celery, and this very zerocelery."""
    home = cache() / "environments" / package.name
    programs = home / "bin"
    done = home / "complete"
    installed = package.install if package.install is not None else (f"{package.name}=={package.version}",)
    wanted = [f"celery=={CELERY}", "pytest", "pytest-timeout", *package.requirements]
    if not package.behind:
        wanted += installed
    content = "\n".join([*wanted, *installed, str(HOME)])
    if not done.exists() or done.read_text() != content:
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        _pip(programs, "install", *wanted)
        if package.behind:
            _pip(programs, "install", "--no-deps", *installed)
        # Without what it depends on: what the package and Celery brought is what is tested with.
        _pip(programs, "install", "cloudpickle", "msgspec", "pyzmq", "setuptools>=77,<80")
        _pip(programs, "install", "--no-deps", "--no-build-isolation", "--editable", str(HOME))
        done.write_text(content)
    return programs


def _pip(programs: Path, *arguments: str) -> None:
    subprocess.run([str(programs / "python"), "-m", "pip", "--quiet", *arguments], check=True)


@contextmanager
def own_redis(variable: str | None) -> Iterator[dict[str, str]]:
    """A Redis server for tests that empty it; nothing, if they need none."""
    if variable is None:
        yield {}
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield {variable: f"redis://127.0.0.1:{port}"}
    finally:
        server.terminate()
        server.wait()


@contextmanager
def without_celery(programs: Path) -> Iterator[None]:
    """Celery and billiard are not installed within this context."""
    aside = programs.parent / "aside"
    aside.mkdir()
    moved = []
    for pattern in ("celery", "celery-*.dist-info", "billiard", "billiard-*.dist-info", "_billiard.*"):
        moved += list(programs.parent.glob(f"lib/python*/site-packages/{pattern}"))
    try:
        for entry in moved:
            entry.rename(aside / entry.name)
        yield
    finally:
        for entry in moved:
            (aside / entry.name).rename(entry)
        aside.rmdir()


@contextmanager
def default_node(programs: Path) -> Iterator[dict[str, str]]:
    """A node at the default address, as tests expect a RabbitMQ at Celery's."""
    with tempfile.TemporaryDirectory(prefix="zc-ecosystem-") as directory:
        home = {"ZEROCELERY_HOME": directory}
        node = subprocess.Popen(
            [str(programs / "zerocelery"), "node"],
            env={**os.environ, **home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield home
        finally:
            node.terminate()
            node.wait()


def run(package: Package, programs: Path, way: str) -> Outcomes:
    """Run the package's tests one way: with ``celery``, or with the alias."""
    reports = cache() / "reports"
    reports.mkdir(exist_ok=True)
    report = reports / f"{package.name}.{way}.xml"
    report.unlink(missing_ok=True)
    start = [str(programs / "python")] if way == "celery" else [str(programs / "zerocelery-run")]
    with (
        own_redis(package.redis) as redis,
        default_node(programs) as home,
        report.with_suffix(".log").open("wb") as log,
    ):
        subprocess.run(
            [*start, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=120", f"--junitxml={report}",
             *package.pytest],
            cwd=source(package) / package.folder,
            env={**os.environ, **home, **package.environment, **redis},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=1200,
            check=False,
        )  # fmt: skip
    if not report.exists():
        raise SystemExit(f"{package.name}: pytest left no report; see {report.with_suffix('.log')}")
    return _outcomes(report)


def _outcomes(report: Path) -> Outcomes:
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        bad = tags & {"failure", "error"}
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes[name] = "failed" if bad else "skipped" if "skipped" in tags else "passed"
    return outcomes


def compare(package: Package) -> list[Outcomes]:
    """Run the tests all ways; tell which pass with Celery and not with zerocelery."""
    programs = environment(package)
    results = [run(package, programs, "celery"), run(package, programs, "beside")]
    with without_celery(programs):
        results.append(run(package, programs, "alone"))
    for way, outcomes in zip(("Celery", "zerocelery beside Celery", "zerocelery alone"), results, strict=True):
        print(f"{package.name} {package.version}, {way}: {dict(Counter(outcomes.values()))}", flush=True)
    for way, outcomes in zip(("beside", "alone"), results[1:], strict=True):
        for name, outcome in results[0].items():
            if outcome == "passed" and outcomes.get(name) != "passed":
                print(f"  {way}: {outcomes.get(name, 'missing')}: {name}", flush=True)
    return results


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def row(package: Package, results: list[Outcomes]) -> str:
    """The package's line of the table in the documentation."""

    def count(outcomes: Outcomes) -> str:
        counted = Counter(outcomes.values())
        return f"{counted['passed']} of {counted['passed'] + counted['failed']}"

    figures = " | ".join(count(outcomes) for outcomes in results)
    return f"| {package.name} | {package.version} | {figures} |"


def write(package: Package, line: str) -> None:
    """Put the package's line into the table, in place of the one that it has; what was noted there stays."""
    text = DOCS.read_text()
    text, found = re.subn(
        rf"^\| {re.escape(package.name)} \|.*\|( [^|]*\|)$", lambda old: line + old[1], text, flags=re.MULTILINE
    )
    if not found:
        text = text.replace("\n\n<!-- end of the table -->", f"\n{line}  |\n\n<!-- end of the table -->")
    DOCS.write_text(text)


def main() -> int:
    """The command."""
    known = {package.name: package for package in PACKAGES}
    parser = argparse.ArgumentParser(prog="python -m compat_tests.ecosystem", description=__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"one of {', '.join(known)}; none: all")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/ecosystem.md")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.packages if name not in known]
    if unknown:
        parser.error(f"there is no {unknown[0]!r} among: {', '.join(known)}")
    worse = 0
    for name in arguments.packages or known:
        results = compare(known[name])
        passed = [{case for case, outcome in outcomes.items() if outcome == "passed"} for outcomes in results]
        worse += bool(passed[0] - passed[1] or passed[0] - passed[2])
        if arguments.docs:
            write(known[name], row(known[name], results))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
