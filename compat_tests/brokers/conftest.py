"""Stock Celery beside zerocelery: where its interpreter is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from compat_tests.upstream import fetch


@pytest.fixture(scope="session")
def stock() -> str:
    """An interpreter that has Celery."""
    python = os.environ.get("ZEROCELERY_STOCK_PYTHON") or str(fetch.cache() / "venv" / "bin" / "python")
    if not Path(python).exists():
        pytest.skip("no interpreter with Celery: set ZEROCELERY_STOCK_PYTHON, or run python -m compat_tests.upstream")
    checked = subprocess.run([python, "-c", "import celery, redis, sqlalchemy"], capture_output=True, text=True)
    if checked.returncode:
        pytest.skip(f"{python} has no Celery with redis and sqlalchemy: {checked.stderr.strip().splitlines()[-1]}")
    return python
