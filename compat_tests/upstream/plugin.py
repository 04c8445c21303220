"""A pytest plugin: installs the alias before anything is imported, and writes one line per test as it ends.

It is given with ``-p``, so it is imported before any conftest. ``ZEROCELERY_UPSTREAM_REPORT`` names the file to write;
``ZEROCELERY_UPSTREAM_SIDE`` says whether zerocelery is tested, or, for comparison, Celery itself.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

OURS = os.environ.get("ZEROCELERY_UPSTREAM_SIDE", "ours") == "ours"

if OURS:
    import zerocelery

    zerocelery.install_as_celery()

#: What t/unit/conftest.py imports. One that is missing would fail every test of the suite, and tell nothing of the
#: others: while the conftest is imported, something stands in for it.
CONFTEST_NEEDS = {"celery.backends.cache": ("CacheBackend", "DummyClient")}

_PHASES = {"setup": "error", "call": "failed", "teardown": "error"}


class Recorder:
    """Writes what became of each test."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  open as long as the session
        self._done: dict[str, dict[str, str]] = {}

    def write(self, **fields: Any) -> None:
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()

    @pytest.hookimpl
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self.write(collected=item.nodeid)

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(file=report.nodeid, reason=reason_of(report.longrepr))
        elif report.skipped:
            self.write(file=report.nodeid, skipped=reason_of(report.longrepr))

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if getattr(report, "context", None) is not None and report.outcome != "failed":
            return  # a subtest that passed is no test
        said = self._done.setdefault(report.nodeid, {"outcome": "passed", "reason": ""})
        if report.failed and said["outcome"] == "passed":
            said.update(outcome=_PHASES[report.when or "call"], reason=reason_of(report.longrepr))
        elif report.skipped:
            outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"
            said.update(outcome=outcome, reason=reason_of(report.longrepr))
        if report.when == "teardown":
            self.write(test=report.nodeid, **self._done.pop(report.nodeid))

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        if OURS:
            self.write(strangers=list(strangers()))
        self.write(end=True)


def reason_of(representation: Any) -> str:
    """The exception and its message, on one line: the last that is marked as an error."""
    if isinstance(representation, tuple):
        return str(representation[-1])
    lines = str(representation).splitlines()
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    chosen = next((line for line in errors if _is_exception(line)), errors[0] if errors else lines[-1] if lines else "")
    return chosen[:300]


def _is_exception(line: str) -> bool:
    name = line.partition(":")[0]
    return name.replace(".", "").replace("_", "").isalnum() and name.rpartition(".")[2][:1].isupper()


def strangers() -> Iterator[str]:
    """Modules of an installed Celery that were imported in spite of the alias."""
    import zerocelery

    home = os.path.dirname(zerocelery.__file__)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "celery":
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and not file.startswith(home):
                yield f"{name} ({file})"


def stand_in() -> list[str]:
    """Put something into the place of what a conftest needs and is missing; the names of these modules."""
    missing = []
    for name, needed in CONFTEST_NEEDS.items():
        try:
            importlib.import_module(name)
        except ImportError:
            module = ModuleType(name)
            for attribute in needed:
                setattr(module, attribute, type(attribute, (), {}))
            sys.modules[name] = module
            missing.append(name)
    return missing


_stand_ins = stand_in() if OURS else []


class NodeURL(str):
    """The address of the result backend, which says yes when a test of Celery's asks whether it is Redis.

    Some hundred integration tests run on Redis only, because Celery's other backends can't do what they test. A node
    can, so they are run on it.
    """

    __slots__ = ()

    def startswith(self, *args: Any) -> bool:
        asked = args[0] if isinstance(args[0], tuple) else (args[0],)
        if "redis" in asked and os.path.join("t", "integration") in sys._getframe(1).f_code.co_filename:
            return True
        return super().startswith(*args)


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
    """Give the integration tests' settings such an address."""
    yield
    if OURS and fixturedef.argname == "celery_config" and fixturedef.cached_result is not None:
        config = fixturedef.cached_result[0]
        if isinstance(config, dict) and str(config.get("result_backend", "")).startswith("zmq:"):
            config["result_backend"] = NodeURL(config["result_backend"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """The conftests are imported by now: what stood in for missing modules is taken away again."""
    for name in _stand_ins:
        sys.modules.pop(name, None)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write."""
    path = os.environ.get("ZEROCELERY_UPSTREAM_REPORT")
    if path:
        config.pluginmanager.register(Recorder(path), "zerocelery-upstream")
