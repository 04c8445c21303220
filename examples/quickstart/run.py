"""Count the words of every file of a directory, and hash each, with a worker of two processes.

    python examples/quickstart/run.py [DIRECTORY]

Without a directory it takes the Python standard library, which is on any machine that can run this. The worker is
started and stopped here, with a node of its own in a temporary directory; usually it runs in another terminal.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import digest, summary, words

HERE = Path(__file__).resolve().parent
SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib"}


def main() -> int:
    """Run it all and print the table."""
    tree = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")).resolve()
    files = list(find_files(tree))
    print(f"{len(files)} files in {tree}")
    if not files:
        return 1
    with tempfile.TemporaryDirectory(prefix="zc-") as directory, node_at(Path(directory)), worker():
        started = time.perf_counter()
        totals, rows = measure(files)
        seconds = time.perf_counter() - started
    print_table(tree, totals, rows)
    print(f"{2 * len(files) + 1} tasks in {seconds:.1f} s")
    return 0


def measure(files: list[Path]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Send two tasks for each file, gather what they return, and have it summed up."""
    pending = [(str(path), words.delay(str(path)), digest.delay(str(path))) for path in files]
    rows: dict[str, dict[str, Any]] = {}
    for done, (path, counted, hashed) in enumerate(pending, 1):
        rows[path] = counted.get(timeout=60) | hashed.get(timeout=60)
        show_progress(done, len(pending))
    return summary.delay(rows).get(timeout=60), rows


def find_files(tree: Path) -> Iterator[Path]:
    """Every readable text or source file of a tree, in order."""
    for folder, names, files in os.walk(tree):
        names[:] = sorted(set(names) - SKIPPED)
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix in {".py", ".txt", ".md", ".rst", ".c", ".h"} and os.access(path, os.R_OK):
                yield path


@contextlib.contextmanager
def node_at(directory: Path) -> Iterator[None]:
    """Have every app here use the node in this directory; see to it that the node ends, too."""
    os.environ["CELERY_BROKER_URL"] = f"zmq://{directory}"
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((directory / "node.pid").read_text())
            os.kill(pid, 15)
            while True:  # until it is gone: it writes its last words into this directory
                os.kill(pid, 0)
                time.sleep(0.02)


@contextlib.contextmanager
def worker() -> Iterator[None]:
    """A worker for tasks.py, from the time that it is ready."""
    command = [sys.executable, "-m", "zerocelery", "-A", "tasks", "worker", "-c", "2"]
    process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None  # noqa: S101 - says to the type checker what PIPE means
    try:
        for line in process.stdout:
            print(line, end="")
            if line.rstrip().endswith("ready."):
                break
        else:
            raise SystemExit(f"the worker ended at once, with exit code {process.wait()}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=10)


def show_progress(done: int, total: int) -> None:
    """A bar on a terminal; elsewhere a line at each quarter."""
    if sys.stdout.isatty():
        width = 40 * done // total
        print(f"\r[{'#' * width:<40}] {done}/{total} files", end="\n" if done == total else "", flush=True)
    elif done * 4 // total != (done - 1) * 4 // total:
        print(f"{done}/{total} files", flush=True)


def print_table(tree: Path, totals: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """The ten longest files and the totals."""
    print(f"\n{'words':>10} {'lines':>9} {'bytes':>11}  {'sha256':<12}  file")
    for path in totals["longest"]:
        row = rows[path]
        name = Path(path).relative_to(tree)
        print(f"{row['words']:>10,} {row['lines']:>9,} {row['bytes']:>11,}  {row['sha256'][:12]}  {name}")
    print(f"{totals['words']:>10,} {totals['lines']:>9,} {totals['bytes']:>11,}  {'':<12}  all {totals['files']} files")
    print(f"files that are copies of another: {totals['copies']}")


if __name__ == "__main__":
    sys.exit(main())
