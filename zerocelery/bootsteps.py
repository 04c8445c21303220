"""Steps that something starts in, and stops in: what ``app.steps`` takes.

A *step* is a class. A *blueprint* is a set of them for one parent, a worker or its consumer: it makes the steps in the
order of what they require, starts them in that order, and stops them the other way round.

zerocelery's worker starts in one function, and has no need of these for itself. They are its hook for the steps of
others (:mod:`zerocelery.worker.steps`). Where a step of Celery's own is required (``celery.worker.components:Pool``),
there is a step of that name, which says when the thing is there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from zerocelery.utils.graph import DependencyGraph, GraphFormatter
from zerocelery.utils.imports import instantiate, symbol_by_name
from zerocelery.utils.log import get_logger

try:
    from greenlet import GreenletExit  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    IGNORE_ERRORS: tuple[type[BaseException], ...] = ()
else:
    IGNORE_ERRORS = (GreenletExit,)

__all__ = ("Blueprint", "ConsumerStep", "StartStopStep", "Step")

RUN = 0x1
CLOSE = 0x2
TERMINATE = 0x3

logger = get_logger(__name__)


def _load(step: Any) -> Any:
    """A step's class, from it or where it is; Celery's own steps are found here whether there is a Celery or not."""
    if isinstance(step, str) and step.startswith("celery."):
        step = f"zero{step}"
    return symbol_by_name(step)


def _label(step: Any) -> str:
    return str(step.name).rsplit(".", 1)[-1]


class StepFormatter(GraphFormatter):
    """Draws steps: the last one of a blueprint, those that may be left out, and all others."""

    blueprint_prefix = "⧉"
    conditional_prefix = "∘"
    blueprint_scheme: ClassVar[dict[str, Any]] = {
        "shape": "parallelogram", "color": "slategray4", "fillcolor": "slategray3",
    }  # fmt: skip

    def label(self, step: Any) -> str:
        return step and f"{self._get_prefix(step)}{_label(step)}"

    def _get_prefix(self, step: Any) -> str:
        if step.last:
            return self.blueprint_prefix
        return self.conditional_prefix if step.conditional else ""

    def node(self, obj: Any, **attrs: Any) -> bytes:
        return self.draw_node(obj, self.blueprint_scheme if obj.last else self.node_scheme, attrs)

    def edge(self, a: Any, b: Any, **attrs: Any) -> bytes:
        if a.last:
            attrs.update(arrowhead="none", color="darkseagreen3")
        return self.draw_edge(a, b, self.edge_scheme, attrs)


class Blueprint:
    """The steps of one parent.

    Arguments:
        steps: classes or their names (``package.module:Class``), besides the blueprint's own.
        name: what logs call it.
        on_start, on_close, on_stopped: called before the first step starts, before the steps close, when all have
            stopped.
    """

    GraphFormatter = StepFormatter

    name: str | None = None
    state: int | None = None
    started = 0
    default_steps: ClassVar[Any] = set()
    state_to_name: ClassVar[dict[int, str]] = {
        0: "initializing", RUN: "running", CLOSE: "closing", TERMINATE: "terminating",
    }  # fmt: skip

    def __init__(
        self,
        steps: Iterable[Any] | None = None,
        name: str | None = None,
        on_start: Callable[[], object] | None = None,
        on_close: Callable[[], object] | None = None,
        on_stopped: Callable[[], object] | None = None,
    ) -> None:
        self.name = name or self.name or f"{type(self).__module__}.{type(self).__qualname__}"
        self.types = {*(steps or ()), *self.default_steps}
        self.on_start = on_start
        self.on_close = on_close
        self.on_stopped = on_stopped
        self.shutdown_complete = threading.Event()
        self.steps: dict[str, Any] = {}
        self.order: list[Any] = []

    # ── starting and stopping ────────────────────────────────────────────────────────────────────────────────────────

    def start(self, parent: Any) -> None:
        """Start the parent's steps, in order. What one raises is raised, and those after it don't start."""
        self.state = RUN
        if self.on_start is not None:
            self.on_start()
        for number, step in enumerate((step for step in parent.steps if step is not None), 1):
            self._debug("starting %s", step.alias)
            self.started = number
            step.start(parent)
            logger.debug("^-- substep ok")

    def human_state(self) -> str:
        """The state in a word."""
        return self.state_to_name[self.state or 0]

    def info(self, parent: Any) -> dict[str, Any]:
        """What the steps say of themselves."""
        found: dict[str, Any] = {}
        for step in parent.steps:
            found.update(step.info(parent) or {})
        return found

    def close(self, parent: Any) -> None:
        """Tell the steps that they are going to be stopped."""
        if self.on_close is not None:
            self.on_close()
        self.send_all(parent, "close", "closing", reverse=False)

    def restart(
        self, parent: Any, method: str = "stop", description: str = "restarting", propagate: bool = False
    ) -> None:
        """Stop the steps, to be started again."""
        self.send_all(parent, method, description, propagate=propagate)

    def send_all(
        self,
        parent: Any,
        method: str,
        description: str | None = None,
        reverse: bool = True,
        propagate: bool = True,
        args: tuple[Any, ...] = (),
    ) -> None:
        """Call a method of every step that has it.

        Arguments:
            reverse: the last one first.
            propagate: raise what a step raises; otherwise it is logged.
            args: given after the parent.
        """
        told = description or method.replace("_", " ")
        for step in reversed(parent.steps) if reverse else parent.steps:
            call = getattr(step, method, None) if step is not None else None
            if call is None:
                continue
            self._debug("%s %s...", told.capitalize(), step.alias)
            try:
                call(parent, *args)
            except Exception as error:
                if propagate:
                    raise
                logger.exception("Error on %s %s: %r", told, step.alias, error)

    def stop(self, parent: Any, close: bool = True, terminate: bool = False) -> None:
        """Stop the steps, in the opposite order. One that was stopped, or never ran whole, is left as it is.

        Arguments:
            terminate: don't wait for what runs.
        """
        if self.state in (CLOSE, TERMINATE):
            return
        if self.state != RUN or self.started != len(parent.steps):
            self.state = TERMINATE
            self.shutdown_complete.set()
            return
        self.close(parent)
        self.state = CLOSE
        method, description = ("terminate", "terminating") if terminate else ("stop", "stopping")
        self.restart(parent, method, description=description, propagate=False)
        if self.on_stopped is not None:
            self.on_stopped()
        self.state = TERMINATE
        self.shutdown_complete.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the steps have stopped (seconds)."""
        try:
            self.shutdown_complete.wait(timeout=timeout)
        except IGNORE_ERRORS:
            pass

    # ── making the steps ─────────────────────────────────────────────────────────────────────────────────────────────

    def apply(self, parent: Any, **kwargs: Any) -> Blueprint:
        """Make the parent's steps, in order, and include those that want to be.

        Raises:
            ImportError: one requires what is not there.
        """
        self._debug("Preparing bootsteps.")
        self.order = []
        self.steps = self.claim_steps()
        for kind in self._finalize_steps(self.steps):
            step = kind(parent, **kwargs)
            self.steps[step.name] = step
            self.order.append(step)
        for step in self.order:
            step.include(parent)
        return self

    def connect_with(self, other: Blueprint) -> None:
        """Put another blueprint's graph under this one: its last step comes before this one's first ones."""
        self.graph.connect(other.graph)
        last, bottom = other.order[-1], self.order[0]
        self.graph.add_edge(type(bottom), type(last))

    def __getitem__(self, name: str) -> Any:
        return self.steps[name]

    def claim_steps(self) -> dict[str, Any]:
        """The classes of the steps by their names."""
        return dict(sorted(map(self.load_step, self.types)))

    def load_step(self, step: Any) -> tuple[str, Any]:
        """A step's name and class, from the class or where it is."""
        kind = _load(step)
        return kind.name, kind

    def _find_last(self) -> Any:
        return next((kind for kind in self.steps.values() if kind.last), None)

    def _firstpass(self, steps: dict[str, Any]) -> None:
        """Load what the steps require, and what that requires."""
        for kind in steps.values():
            kind.requires = [_load(name) for name in kind.requires]
        waiting = deque(required for kind in steps.values() for required in kind.requires)
        while waiting:
            kind = waiting.popleft()
            if steps.setdefault(kind.name, kind) is kind:
                kind.requires = [_load(name) for name in kind.requires]
                waiting.extend(required for required in kind.requires if required.name not in steps)

    def _finalize_steps(self, steps: dict[str, Any]) -> list[Any]:
        last = self._find_last()
        self._firstpass(steps)
        graph = self.graph = DependencyGraph(
            ((kind, kind.requires) for kind in steps.values()), formatter=self.GraphFormatter(root=last)
        )
        if last is not None:
            for kind in graph:
                if kind is not last:
                    graph.add_edge(last, kind)
        try:
            return graph.topsort()
        except KeyError as error:
            raise KeyError(f"a step requires {error}, which is none of the steps") from error

    @property
    def alias(self) -> str:
        """The name without its path."""
        return _label(self)

    def _debug(self, msg: str, *args: Any) -> None:
        logger.debug(f"| %s: {msg}", str(self.alias).capitalize(), *args)


class StepType(type):
    """Gives a step its name, from where it is."""

    name: Any = None
    requires: Any = None

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> Any:
        module = attrs.get("__module__")
        attrs.setdefault("__qualname__", name)
        if not attrs.get("name"):
            attrs["name"] = f"{module}.{attrs['__qualname__']}" if module else name
        return super().__new__(cls, name, bases, attrs)

    def __str__(cls) -> str:
        return str(cls.name)

    def __repr__(cls) -> str:
        return f"step:{cls.name}{{{cls.requires!r}}}"


class Step(metaclass=StepType):
    """Does something when its parent is made: :meth:`__init__` and :meth:`create` are called then.

    Arguments:
        parent: the worker, or its consumer.
        kwargs: what the parent was made with.
    """

    #: Unique; where the class is, unless given.
    name: Any = None
    #: What it is called in logs.
    label: str | None = None
    #: Whether it may be left out.
    conditional = False
    #: Steps, or where they are (``package.module:Class``), that come before this one.
    requires: Any = ()
    #: Comes after all others.
    last = False
    #: Whether it is included, unless :meth:`include_if` knows better.
    enabled = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        pass

    def include_if(self, parent: Any) -> bool:
        """Whether the step is included."""
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """An object of a class, given as such or by where it is."""
        return instantiate(name, *args, **kwargs)

    def _should_include(self, parent: Any) -> tuple[bool, Any]:
        if self.include_if(parent):
            return True, self.create(parent)
        return False, None

    def include(self, parent: Any) -> bool:
        """Create what the step is about, if it is included; tells whether it is."""
        return self._should_include(parent)[0]

    def create(self, parent: Any) -> Any:
        """What the step is about."""

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"

    @property
    def alias(self) -> str:
        """The label, or the name without its path."""
        return self.label or _label(self)

    def info(self, obj: Any) -> Any:
        """What ``inspect stats`` is to tell of the step."""


class StartStopStep(Step):
    """Starts and stops with its parent: what :meth:`create` gave is started and stopped, if it can be."""

    obj: Any = None

    def start(self, parent: Any) -> Any:
        """Called when the parent starts."""
        if self.obj is not None:
            return self.obj.start()
        return None

    def stop(self, parent: Any) -> Any:
        """Called when the parent stops, after :meth:`close`."""
        if self.obj is not None:
            return self.obj.stop()
        return None

    def close(self, parent: Any) -> Any:
        """Told before anything stops."""

    def terminate(self, parent: Any) -> Any:
        """Stop without waiting."""
        if self.obj is not None:
            return getattr(self.obj, "terminate", self.obj.stop)()
        return None

    def include(self, parent: Any) -> bool:
        included, found = self._should_include(parent)
        if included:
            self.obj = found
            parent.steps.append(self)
        return included


class ConsumerStep(StartStopStep):
    """Consumes messages of its own, by kombu consumers, beside the worker's tasks."""

    requires: Any = ("celery.worker.consumer:Connection",)
    consumers: Any = None

    def get_consumers(self, channel: Any) -> Any:
        """The consumers, given a channel of the broker's connection."""
        raise NotImplementedError("missing get_consumers")

    def start(self, c: Any) -> None:
        """Consume, on a channel of the parent's connection."""
        self.consumers = self.get_consumers(c.connection.channel())
        for consumer in self.consumers or ():
            consumer.consume()

    def stop(self, c: Any) -> None:
        """Consume no more, and close the channels."""
        self._close(c, True)

    def shutdown(self, c: Any) -> None:
        """Close the channels."""
        self._close(c, False)

    def _close(self, c: Any, cancel_consumers: bool = True) -> None:
        channels = set()
        for consumer in self.consumers or ():
            if cancel_consumers:
                _ignoring_lost(c.connection, consumer.cancel)
            if consumer.channel:
                channels.add(consumer.channel)
        for channel in channels:
            _ignoring_lost(c.connection, channel.close)


def _ignoring_lost(connection: Any, call: Callable[[], object]) -> None:
    """Call; where the broker is gone, so is what there was to close."""
    try:
        call()
    except (*connection.connection_errors, *connection.channel_errors, AttributeError):
        pass
