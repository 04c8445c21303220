"""Which queue a task goes to: the caller's word, then task_routes, then the task's own, then the default."""

from __future__ import annotations

import re

from zerocelery.exceptions import QueueNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zerocelery.app.base import Celery

    Route = Callable[..., Any]

__all__ = ("MapRoute", "Router", "expand_router_string", "prepare")


class MapRoute:
    """Routes from a dict, or pairs, of task name (or glob, or compiled pattern) to route."""

    def __init__(self, map: Any) -> None:
        pairs = map.items() if hasattr(map, "items") else map
        self.map: dict[str, Any] = {}
        self.patterns: dict[re.Pattern[str], Any] = {}
        for key, route in pairs:
            if isinstance(key, re.Pattern):
                self.patterns[key] = route
            elif "*" in key:
                self.patterns[_glob(key)] = route
            else:
                self.map[key] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """The task's route, or None."""
        found = self.map.get(name)
        if found is None:
            found = next((route for pattern, route in self.patterns.items() if pattern.match(name)), None)
        if found is None:
            return None
        return {"queue": found} if isinstance(found, str) else dict(found)


def _glob(key: str) -> re.Pattern[str]:
    import fnmatch

    return re.compile(fnmatch.translate(key))


def expand_router_string(router: Any) -> Any:
    """The router at a path; a class is instantiated, an object with ``route_for_task`` answers by that."""
    from zerocelery.utils.imports import symbol_by_name

    router = symbol_by_name(router)
    if isinstance(router, type):
        router = router()
    return getattr(router, "route_for_task", router)


def prepare(routes: Any) -> list[Route]:
    """All forms that task_routes may have, as a list of functions."""
    if routes is None:
        return []
    if not isinstance(routes, (list, tuple)):
        routes = (routes,)
    return [_expand(route) for route in routes]


def _expand(route: Any) -> Route:
    if isinstance(route, (dict, list, tuple)):
        return MapRoute(route)
    if isinstance(route, str):
        from kombu.utils.functional import lazy

        later: Any = lazy
        return later(_router_at, route)  # type: ignore[no-any-return]
    return route  # type: ignore[no-any-return]


def _router_at(path: str) -> Any:
    from zerocelery.utils.imports import symbol_by_name

    router = symbol_by_name(path)
    return router() if isinstance(router, type) else router


class Router:
    """Adds to a call's options where the task goes."""

    def __init__(
        self, routes: Any = None, queues: dict[str, Any] | None = None, create_missing: bool = False, app: Any = None
    ) -> None:
        self.app = app
        self.queues = {} if queues is None else queues
        self.routes = [] if routes is None else routes
        self.create_missing = create_missing

    @classmethod
    def of(cls, app: Celery) -> Router:
        """The router that the app's settings describe."""
        conf = app.conf
        return cls(
            prepare(conf["task_routes"]), named_queues(conf["task_queues"]), conf["task_create_missing_queues"], app
        )

    def route(
        self, options: dict[str, Any], name: str, args: Any = (), kwargs: Any = None, task_type: Any = None
    ) -> dict[str, Any]:
        """The options with the route's beneath them; a ``queue`` in the result is one that may be used."""
        options = dict(options)
        if not options.get("queue"):
            route = self.lookup_route(name, args, kwargs, options, task_type)
            if route:
                options = {**route, **{key: value for key, value in options.items() if value is not None}}
        queue = options.get("queue")
        if queue:
            options["queue"] = self.known(queue)
        elif self._declares and self.app is not None and not options.get("exchange"):
            options = {**self.expand_destination(self.app.conf["task_default_queue"]), **options}
            options["queue"] = self.known(self.app.conf["task_default_queue"])
        return options

    @property
    def _declares(self) -> bool:
        """Whether the queues are kombu's, which a broker is told to make."""
        return hasattr(self.queues, "new_missing")

    def expand_destination(self, route: Any) -> dict[str, Any]:
        """A route with its queue itself in place of the queue's name.

        Raises:
            QueueNotFound: there is no such queue, and none may be made.
        """
        options = {"queue": route} if isinstance(route, str) else dict(route)
        queue = options.get("queue")
        if queue:
            options["queue"] = self.known(queue)
        return options

    def known(self, queue: Any) -> Any:
        """The queue itself where it is declared; otherwise its name, if queues may be made."""
        if not isinstance(queue, str):
            return queue
        if self._declares:
            try:
                return self.queues[queue]
            except KeyError:
                if self.create_missing:
                    return self.queues.add(self.queues.new_missing(queue))  # type: ignore[attr-defined]
                raise QueueNotFound(f"Queue {queue!r} missing from task_queues") from None
        found = self.queues.get(queue)
        if found is not None:
            return found
        if self.queues and not self.create_missing:
            raise QueueNotFound(f"Queue {queue!r} missing from task_queues")
        return queue

    def lookup_route(
        self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task_type: Any = None
    ) -> dict[str, Any] | None:
        """What the first route that has an answer says."""
        for route in self.routes:
            found = self.query_router(route, name, args, kwargs, options, task_type)
            if found is not None:
                return {"queue": found} if isinstance(found, str) else dict(found)
        return None

    def query_router(self, router: Route, task: str, args: Any, kwargs: Any, options: Any, task_type: Any) -> Any:
        """Ask one route."""
        evaluate = getattr(router, "evaluate", None)
        found: Any = evaluate() if evaluate is not None and type(router).__name__ == "lazy" else router
        if not isinstance(found, MapRoute) and hasattr(found, "route_for_task"):
            return found.route_for_task(task, args, kwargs)
        return found(task, args, kwargs, options or {}, task=task_type)

    def queue_name(self, options: dict[str, Any], default: str) -> str:
        """The name of the queue that the routed options lead to: by name, or else by its routing key."""
        queue = options.get("queue")
        if queue:
            return str(getattr(queue, "name", queue))
        key = options.get("routing_key")
        if key:
            for name, declared in self.queues.items():
                if key in (getattr(declared, "routing_key", None), name):
                    return name
        return default


def named_queues(queues: Any) -> dict[str, Any]:
    """task_queues, in any of its forms, by name."""
    if not queues:
        return {}
    if isinstance(queues, dict):
        return dict(queues)
    return {getattr(queue, "name", queue): queue for queue in queues}
