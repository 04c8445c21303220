"""Celery's API on a ZeroMQ task queue that needs no server."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery import signals, states
    from zerocelery._alias import install_as_celery
    from zerocelery._ids import uuid
    from zerocelery._state import current_app, current_task
    from zerocelery.app import bugreport, shared_task
    from zerocelery.app.base import Celery
    from zerocelery.app.task import Task
    from zerocelery.canvas.chains import chain
    from zerocelery.canvas.chords import chord
    from zerocelery.canvas.groups import group
    from zerocelery.canvas.maps import chunks, xmap, xstarmap
    from zerocelery.canvas.signature import Signature, maybe_signature, signature, subtask
    from zerocelery.canvas.stamping import StampingVisitor
    from zerocelery.concurrency.green import maybe_patch_concurrency
    from zerocelery.result import AsyncResult, GroupResult, ResultSet

__version__ = "0.1.0"

__all__ = (
    "AsyncResult",
    "Celery",
    "GroupResult",
    "ResultSet",
    "Signature",
    "StampingVisitor",
    "Task",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "install_as_celery",
    "maybe_patch_concurrency",
    "maybe_signature",
    "shared_task",
    "signals",
    "signature",
    "states",
    "subtask",
    "uuid",
    "xmap",
    "xstarmap",
)

#: Where each name lives. Nothing is imported before it is asked for: importing zerocelery is to cost next to nothing.
_HOMES = {
    "AsyncResult": "zerocelery.result",
    "Celery": "zerocelery.app.base",
    "GroupResult": "zerocelery.result",
    "ResultSet": "zerocelery.result",
    "Signature": "zerocelery.canvas.signature",
    "StampingVisitor": "zerocelery.canvas.stamping",
    "Task": "zerocelery.app.task",
    "_find_option_with_arg": "zerocelery.concurrency.green",
    "bugreport": "zerocelery.app",
    "chain": "zerocelery.canvas.chains",
    "chord": "zerocelery.canvas.chords",
    "chunks": "zerocelery.canvas.maps",
    "current_app": "zerocelery._state",
    "current_task": "zerocelery._state",
    "group": "zerocelery.canvas.groups",
    "install_as_celery": "zerocelery._alias",
    "maybe_patch_concurrency": "zerocelery.concurrency.green",
    "maybe_signature": "zerocelery.canvas.signature",
    "shared_task": "zerocelery.app",
    "signature": "zerocelery.canvas.signature",
    "subtask": "zerocelery.canvas.signature",
    "uuid": "zerocelery._ids",
    "xmap": "zerocelery.canvas.maps",
    "xstarmap": "zerocelery.canvas.maps",
}
_MODULES = frozenset({"signals", "states"})


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
