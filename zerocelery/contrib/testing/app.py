"""Apps for tests: their own settings, no trace left in the process."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from zerocelery import _state
from zerocelery.app.base import Celery
from zerocelery.utils.imports import symbol_by_name

__all__ = ("DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app")

#: Settings of an app that has none of its own.
DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": {"json"},
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
    "broker_heartbeat": 0,
}

UnitLogging: Any
_UNIT_LOGGING = f"{__name__}:UnitLogging"


class Trap:
    """In the place of the current app: whoever uses it, when the test's own app was meant, hears of it."""

    def __getattr__(self, name: str) -> Any:
        # What patches and inspects objects asks for these, and means nothing by it.
        if name in ("_is_coroutine", "_is_coroutine_marker", "__func__"):
            return None
        raise RuntimeError(f"Test depends on current_app: it asked for {name!r} of it")


def __getattr__(name: str) -> Any:
    # Its base is the app's logging class, whose module not every test needs.
    if name != "UnitLogging":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = _unit_logging()
    return found


def _unit_logging() -> Any:
    base: Any = symbol_by_name(Celery.log_cls)

    class UnitLogging(base):  # type: ignore[misc]
        """Logging that each test may set up again."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.already_setup = True

    UnitLogging.__qualname__ = "UnitLogging"
    return UnitLogging


def TestApp(
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = _UNIT_LOGGING,
    backend: Any = None,
    broker: str | None = None,
    **kwargs: Any,
) -> Celery:
    """An app for tests.

    Arguments:
        config: its settings, over :data:`DEFAULT_TEST_CONFIG`.
        enable_logging: log as a worker's app does; else a test's logging stays as it is.
    """
    app = Celery(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=None if enable_logging else log,
        broker=broker,
        backend=backend,
        **kwargs,
    )
    app.add_defaults(deepcopy({**DEFAULT_TEST_CONFIG, **(config or {})}))
    return app


TestApp.__test__ = False  # type: ignore[attr-defined]  # pytest takes what begins with Test for a class of tests


@contextmanager
def set_trap(app: Any) -> Iterator[None]:
    """Within this context there is no current app, in any thread: who asks for it fails."""
    trap: Any = Trap()
    before = _state._tls
    _state.set_default_app(trap)

    class Everywhere:
        current_app = trap

    _state._tls = Everywhere()  # type: ignore[assignment]
    try:
        yield
    finally:
        _state._tls = before


@contextmanager
def setup_default_app(app: Any, use_trap: bool = False) -> Iterator[None]:
    """A context that leaves current app, default app and what was to be done with new apps as they were.

    Arguments:
        use_trap: within it, let whoever uses the current app fail.
    """
    current, default = _state._tls.current_app, _state.default_app
    finalizers = dict(_state._finalizers)
    apps = weakref.WeakSet(_state._apps)
    try:
        if use_trap:
            with set_trap(app):
                yield
        else:
            yield
    finally:
        _state.set_default_app(default)
        _state._tls.current_app = current
        if app is not current:
            app.close()
        # The next test is not to find the results of this one.
        del app._backend
        _state._finalizers.clear()
        _state._finalizers.update(finalizers)
        _state._apps = apps
