"""The request: what a task may know of the message that started it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: Headers of the protocol that a request doesn't have as a field of its own.
_PROTOCOL = frozenset({"lang", "task", "argsrepr", "kwargsrepr", "compression"})
_UNSET = object()


class Context:
    """The request of one run; header fields are attributes, and so are a user's own headers."""

    _children: list[Any] | None = None
    _protected = 0
    args: Any = None
    callbacks: Any = None
    called_directly: bool = True
    chain: Any = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: Any = None
    errbacks: Any = None
    eta: Any = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    headers: Any = None
    hostname: str | None = None
    id: Any = None
    ignore_result: bool | None = False
    is_eager: bool = False
    kwargs: Any = None
    logfile: Any = None
    loglevel: Any = None
    origin: str | None = None
    parent_id: str | None = None
    properties: Any = None
    retries: int = 0
    reply_to: str | None = None
    replaced_task_nesting: int = 0
    root_id: str | None = None
    shadow: str | None = None
    taskset: Any = None
    timelimit: Any = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    utc: Any = None
    stamped_headers: Any = None
    stamps: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.update(*args, **kwargs)
        if self.headers is None:
            own = dict(*args, **kwargs)
            self.headers = {key: own[key] for key in own if key not in _FIELDS and key not in _PROTOCOL} or None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields as dict.update does; ``timelimit`` sets both limits."""
        fields = self.__dict__
        before = fields.get("timelimit", _UNSET)
        fields.update(*args, **kwargs)
        limits = fields.get("timelimit", _UNSET)
        if limits is before:
            return
        pair = limits if isinstance(limits, (list, tuple)) and len(limits) >= 2 else (None, None)
        self.time_limit, self.soft_time_limit = pair[0], pair[1]

    def clear(self) -> None:
        """Forget all fields."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """A field by its name."""
        return getattr(self, key, default)

    def __getattr__(self, name: str) -> Any:
        # made when somebody looks: the representation of large arguments is not for free
        if name in ("argsrepr", "kwargsrepr"):
            value = self.args if name == "argsrepr" else self.kwargs
            if value is not None:
                from zerocelery.app.message import arguments_repr

                return arguments_repr(tuple(value) if name == "argsrepr" else value)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def children(self) -> list[Any]:
        """Results of the tasks that this one called."""
        if self._children is None:
            self._children = []
        return self._children

    def as_execution_options(self) -> dict[str, Any]:
        """The options of apply_async that send this very request again."""
        hard, soft = self.timelimit or (None, None)
        options: dict[str, Any] = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft,
            "time_limit": hard,
            # RabbitMQ takes a message that carries its own x-death for one that goes in circles
            "headers": {k: v for k, v in (self.headers or {}).items() if not k.startswith("x-") or "death" not in k},
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.stamps is not None and self.stamped_headers is not None:
            options["stamped_headers"] = self.stamped_headers
            options.update((key, value) for key, value in self.stamps.items() if key in self.stamped_headers)
        return options

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"


class ReadAsDict:
    """What has a request, and is read as the dict that Celery gives a tracer: its fields by their names.

    Tools that put a tracer of their own around ours read the headers so. The request is made when they do.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def context(self) -> Context: ...

    def keys(self) -> list[str]:
        """The names of the fields that it has."""
        return list(vars(self.context()))

    def get(self, key: str, default: Any = None) -> Any:
        """A field by its name."""
        return vars(self.context()).get(key, default)

    def __getitem__(self, key: str) -> Any:
        return vars(self.context())[key]

    def __contains__(self, key: object) -> bool:
        return key in vars(self.context())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())


_FIELDS = frozenset(vars(Context))
