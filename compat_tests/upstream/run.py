"""Runs one file of the suite in a process of its own, and keeps what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import psutil

from compat_tests.upstream import fetch

ROOT = Path(__file__).resolve().parents[2]

Side = Literal["ours", "stock"]

#: How long a file may take (seconds); files that need more are named.
DEADLINE = 240.0
DEADLINES = {"t/integration/test_canvas.py": 1800.0, "t/integration/test_tasks.py": 600.0}
#: Files that test a result backend of Celery's by name are given it; the broker is a node all the same.
BACKENDS = {
    "t/integration/test_backend_leak_in_fixture_teardown.py": "redis://",
    "t/integration/test_redis_backend.py": "redis://",
}
#: Tests that skip themselves unless the backend is a key/value store, or that read what Redis has: they are run by
#: themselves, and Redis is broker and backend.
ON_REDIS = {
    "t/integration/test_canvas.py": (
        "test_chord::test_chord_on_error",
        "test_chord::test_simple_chord_with_a_delay_in_group_save",
        "test_result_set::test_join_native_timeout_zero_gives_up_on_pending_results",
        "test_result_set::test_join_native_timeout_zero_returns_results_that_are_ready",
    ),
}
#: How long one test may take.
TEST_DEADLINE = {"unit": 15, "integration": 300}


@dataclasses.dataclass
class FileResult:
    """What became of a file's tests.

    Arguments:
        tests: outcome and reason of each test.
        error: why none was run, where the file could not be imported.
    """

    tests: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    error: str = ""
    skipped: str = ""
    strangers: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> set[str]:
        return {test for test, (outcome, _) in self.tests.items() if outcome == "passed"}

    @property
    def bad(self) -> dict[str, str]:
        """Tests that failed, and why."""
        return {test: reason for test, (outcome, reason) in self.tests.items() if outcome in ("failed", "error")}

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=0)

    @classmethod
    def load(cls, text: str) -> FileResult:
        fields: dict[str, Any] = json.loads(text)
        fields["tests"] = {test: (outcome, reason) for test, (outcome, reason) in fields["tests"].items()}
        return cls(**fields)


def run_file(file: str, *, side: Side) -> FileResult:
    """Run a file of the suite."""
    began = time.monotonic()
    result = _run(file, side=side)
    if side == "ours" and file in ON_REDIS and not result.error:
        tests = [f"{file}::{test}" for test in ON_REDIS[file]]
        result.tests.update(_run(file, side=side, only=tests, url="redis://").tests)
    result.seconds = round(time.monotonic() - began, 1)
    return result


def _run(file: str, *, side: Side, only: Sequence[str] = (), url: str = "") -> FileResult:
    home = Path(tempfile.mkdtemp(prefix="zc-", dir="/tmp"))
    report = home / "report.jsonl"
    try:
        ended = _execute(file, side=side, home=home, report=report, only=only, url=url)
        return _read(report, ended)
    finally:
        _end_all(home)
        shutil.rmtree(home, ignore_errors=True)


def _execute(file: str, *, side: Side, home: Path, report: Path, only: Sequence[str] = (), url: str = "") -> str:
    """Run pytest; a sentence where it ended otherwise than by itself.

    Arguments:
        only: these of the file's tests.
        url: of broker and backend, where they aren't the usual.
    """
    suite = fetch.suite()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [*([str(ROOT / "zerocelery" / "_startup")] if side == "ours" else ()), str(ROOT)]
        ),
        "ZEROCELERY_UPSTREAM_REPORT": str(report),
        "ZEROCELERY_UPSTREAM_SIDE": side,
        "ZEROCELERY_HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        # some tests start the program celery
        "PATH": os.pathsep.join([str(fetch.python().parent), os.environ.get("PATH", os.defpath)]),
    }
    environment.pop("PYTEST_ADDOPTS", None)
    if side == "ours":
        environment.setdefault("TEST_BROKER", url or "zmq://")
        environment.setdefault("TEST_BACKEND", url or BACKENDS.get(file, "zmq://"))
    else:
        environment.setdefault("TEST_BROKER", "redis://")
        environment.setdefault("TEST_BACKEND", "redis://")
    # what Celery's own runs of these tests have in their environment
    environment.setdefault("WORKER_LOGLEVEL", "INFO")
    limit = TEST_DEADLINE["integration" if "integration" in file else "unit"]
    plugins = ("compat_tests.upstream.plugin", "celery.contrib.pytest", "no:cacheprovider")
    command = [str(fetch.python()), "-m", "pytest", "-q", "--no-header", "--tb=short"]
    command += [part for plugin in plugins for part in ("-p", plugin)]
    command += [f"--timeout={limit}", "--timeout-method=signal", *(only or [file])]
    with (home / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=suite, env=environment, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(DEADLINES.get(file, DEADLINE))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code is None:
        return f"the file took more than {DEADLINES.get(file, DEADLINE):g} s"
    if code in (0, 1, 5):
        return ""
    lines = [line for line in (home / "output.txt").read_text(errors="replace").splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
    return f"pytest ended with {code}: {told}"[:300]


def _read(report: Path, ended: str) -> FileResult:
    result = FileResult()
    collected: list[str] = []
    whole = False
    for line in report.read_text(encoding="utf-8").splitlines() if report.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # the last line of a process that was killed
            said = json.loads(line)
            whole = whole or "end" in said
            if "collected" in said:
                collected.append(said["collected"])
            elif "test" in said:
                result.tests[said["test"]] = (said["outcome"], said["reason"])
            elif "strangers" in said:
                result.strangers = said["strangers"]
            elif "file" in said:
                result.error = result.error or said.get("reason", "")
                result.skipped = result.skipped or said.get("skipped", "")
    if not whole or ended:
        why = ended or "pytest ended before its report was complete"
        for test in collected:
            result.tests.setdefault(test, ("error", why))
        if not collected and not result.error:
            result.error = why
    return result


def _end_all(home: Path) -> None:
    """End what the file's tests have left running: nodes, and workers that found a session of their own."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("ZEROCELERY_HOME") == str(home):
                process.kill()


# ── what is known from earlier runs ──────────────────────────────────────────────────────────────────────────────────


def _path(file: str, side: Side) -> Path:
    return fetch.cache() / "results" / side / f"{file.replace('/', '.')}.json"


def keep(file: str, result: FileResult, *, side: Side) -> None:
    """Remember a result."""
    path = _path(file, side)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(result.dump())


def recall(file: str, *, side: Side) -> FileResult | None:
    """The result of the last run of a file, or None."""
    try:
        return FileResult.load(_path(file, side).read_text())
    except FileNotFoundError:
        return None
