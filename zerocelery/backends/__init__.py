"""Where results are kept."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.app.base import Celery

__all__ = ("backend_of",)

#: rpc:// means "results come back to who asked", which is what a node does anyway.
_NODE_SCHEMES = frozenset({"zmq", "rpc"})


def backend_of(app: Celery) -> Any:
    """The result backend that the settings describe; a class or instance of somebody's own is taken as it is.

    Raises:
        ImproperlyConfigured: there is no such backend.
        ImportError: there is no such module.
    """
    chosen = app.backend_cls or app.conf["result_backend"]
    if chosen is not None and not isinstance(chosen, str):
        return chosen(app=app) if isinstance(chosen, type) else chosen
    if not chosen or (chosen.partition(":")[0] in _NODE_SCHEMES and app.has_node):
        return _node_backend(app)
    from zerocelery.app.backends import by_url

    kind, url = by_url(chosen, app.loader)
    return kind(app=app, url=url)


def _node_backend(app: Celery) -> Any:
    """Results on the broker's node; there are none where the broker is no node."""
    if not app.has_node:
        from zerocelery.backends.base import DisabledBackend

        return DisabledBackend(app=app)
    from zerocelery.backends.zmq import NodeBackend

    return NodeBackend(app)
