"""The helpers that Celery publishes, and no others."""

from __future__ import annotations

from zerocelery._ids import uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from kombu.utils.objects import cached_property

    from zerocelery.utils.imports import gen_task_name, import_from_cwd, instantiate, symbol_by_name
    from zerocelery.utils.nodenames import nodename, nodesplit, worker_direct

__all__ = (
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "get_full_cls_name",
    "import_from_cwd",
    "instantiate",
    "nodename",
    "nodesplit",
    "noop",
    "symbol_by_name",
    "uuid",
    "worker_direct",
)

gen_unique_id = uuid

_HOMES = {
    "cached_property": "kombu.utils.objects",
    "gen_task_name": "zerocelery.utils.imports",
    "import_from_cwd": "zerocelery.utils.imports",
    "instantiate": "zerocelery.utils.imports",
    "symbol_by_name": "zerocelery.utils.imports",
    "nodename": "zerocelery.utils.nodenames",
    "nodesplit": "zerocelery.utils.nodenames",
    "worker_direct": "zerocelery.utils.nodenames",
}


def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing, whatever the arguments."""


def chunks(it: Iterable[Any], n: int) -> Iterator[list[Any]]:
    """Split into lists of n items; the last may be shorter."""
    from itertools import islice

    iterator = iter(it)
    while part := list(islice(iterator, n)):
        yield part


def get_full_cls_name(obj: type) -> str:
    """The class's module and name."""
    return f"{obj.__module__}.{obj.__name__}"


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(home), name)
    return found
