"""Where results are kept."""

from __future__ import annotations

from zerocelery.exceptions import ImproperlyConfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.app.base import Celery

__all__ = ("backend_of",)

#: rpc:// means "results come back to who asked", which is what a node does anyway.
_NODE_SCHEMES = frozenset({"zmq", "rpc"})
_NONE = frozenset({"disabled", "disabled://"})


def backend_of(app: Celery) -> Any:
    """The result backend that the settings describe; a class or instance of somebody's own is taken as it is.

    Raises:
        ImproperlyConfigured: there is no such backend.
    """
    chosen = app.backend_cls or app.conf["result_backend"]
    if chosen is not None and not isinstance(chosen, str):
        return chosen(app=app) if isinstance(chosen, type) else chosen
    if chosen in _NONE:
        from zerocelery.backends.base import DisabledBackend

        return DisabledBackend(app=app, url=chosen)
    if not chosen or chosen.partition(":")[0] in _NODE_SCHEMES:
        from zerocelery.backends.zmq import NodeBackend

        return NodeBackend(app)
    from zerocelery.app.utils import censored_url

    raise ImproperlyConfigured(
        f"result_backend is {censored_url(chosen)!r}, and this version keeps results on the broker's node only: "
        "leave it out, or set it to zmq://"
    )
