"""Fixtures for pytest: ``pytest_plugins = ("celery.contrib.pytest",)``, or ``zerocelery.contrib.pytest``.

Fixtures that say what others are made of are meant to be overridden in a conftest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest

from zerocelery.contrib.testing.app import TestApp, setup_default_app
from zerocelery.contrib.testing.tasks import ping_task
from zerocelery.contrib.testing.worker import start_worker

if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.contrib.testing.worker import TestWorkController

NO_WORKER = bool(os.environ.get("NO_WORKER"))

_MARKER = "celery(**overrides): settings of the app that the test's celery_app fixture is."


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@contextmanager
def _app(
    config: Mapping[str, Any], parameters: Mapping[str, Any] | None, *, enable_logging: bool, use_trap: bool
) -> Iterator[Celery]:
    app = TestApp(
        set_as_current=False, enable_logging=enable_logging, config=deepcopy(dict(config)), **dict(parameters or {})
    )
    with setup_default_app(app, use_trap=use_trap):
        yield app


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Override to let tests fail that use the current app, and not their own."""
    return False


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Override to have embedded workers log."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Override with modules that the session's worker is to import."""
    return ()


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """Override with the pool of embedded workers."""
    return "solo"


@pytest.fixture(scope="session")
def celery_config() -> dict[str, Any]:
    """Override with the test app's settings."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> dict[str, Any]:
    """Override with arguments for the test app's class."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> dict[str, Any]:
    """Override with arguments for embedded workers, as for ``start_worker``."""
    return {}


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Override with class-based tasks that the session's app is to register."""
    return []


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for the whole session, and its current app."""
    with _app(
        celery_config, celery_parameters, enable_logging=celery_enable_logging, use_trap=use_celery_app_trap
    ) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for one test; ``@pytest.mark.celery(setting=value)`` changes its settings.

    It becomes the current app when a worker of it starts: until then a program's own app stays that.
    """
    mark = request.node.get_closest_marker("celery")
    config = {**celery_config, **(mark.kwargs if mark else {})}
    with _app(config, celery_parameters, enable_logging=celery_enable_logging, use_trap=use_celery_app_trap) as app:
        yield app


def _worker(app: Celery, pool: str, parameters: Mapping[str, Any]) -> AbstractContextManager[Any]:
    # A shared task belongs to the apps that are finalised after it was made, and this one may be older.
    if "celery.ping" not in app.tasks:
        app._task_from_fun(ping_task, name="celery.ping")
    return start_worker(app, **{"pool": pool, **parameters})


@pytest.fixture(scope="session")
def celery_session_worker(
    request: pytest.FixtureRequest,
    celery_session_app: Celery,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorkController | None]:
    """A worker that lives as long as the session."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_session_app.loader.import_task_module(module)
    for task in celery_class_tasks:
        celery_session_app.register_task(task)
    with _worker(celery_session_app, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def celery_worker(
    request: pytest.FixtureRequest,
    celery_app: Celery,
    celery_includes: Sequence[str],
    celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorkController | None]:
    """A worker that lives as long as the test."""
    if NO_WORKER:
        yield None
        return
    for module in celery_includes:
        celery_app.loader.import_task_module(module)
    with _worker(celery_app, celery_worker_pool, celery_worker_parameters) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """For tests that use the current app: it is the test's, and no trap."""
    celery_app.set_current()
