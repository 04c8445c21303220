"""The tasks on the standard library's bare pool: no broker, nothing survives its process."""

# What runs here is installed for the contestant's interpreter, not for the type checker's.
# mypy: disable-error-code="import-not-found, import-untyped"
from __future__ import annotations

import functools
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import workload

executor = ProcessPoolExecutor(2)

SEND = {name: functools.partial(executor.submit, getattr(workload, name)) for name in ("noop", "add", "echo")}


def get(handle: Any, timeout: float) -> Any:
    """The result of one sent task."""
    return handle.result(timeout)
