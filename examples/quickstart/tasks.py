"""Two pieces of work for a file, and one for all of them. This is all that a worker needs."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from zerocelery import Celery

app = Celery("quickstart")


@app.task
def words(path: str) -> dict[str, int]:
    """How many words and lines a file has."""
    text = Path(path).read_bytes()
    return {"words": len(text.split()), "lines": text.count(b"\n")}


@app.task
def digest(path: str) -> dict[str, Any]:
    """A file's SHA-256 and its size."""
    data = Path(path).read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@app.task
def summary(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The totals, the longest files, and the files that are there more than once."""
    copies = Counter(file["sha256"] for file in files.values() if file["bytes"])
    longest = sorted(files, key=lambda path: (-files[path]["words"], path))
    return {
        "files": len(files),
        "words": sum(file["words"] for file in files.values()),
        "lines": sum(file["lines"] for file in files.values()),
        "bytes": sum(file["bytes"] for file in files.values()),
        "copies": sum(count - 1 for count in copies.values()),
        "longest": longest[:10],
    }
