"""The injected contract: what a worker does with a task.

Any object with ``accept`` and ``run`` is a strategy. What ``run`` returns is the task's result: an :class:`Outcome`
says exactly what to store; anything else is packed with cloudpickle as a SUCCESS; an exception is a FAILURE.
"""

from __future__ import annotations

import dataclasses
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import cloudpickle

from zerocelery.engine import wire

#: Content type of what cloudpickle packed.
PICKLE_TYPE = "application/x-python-serialize"


@dataclasses.dataclass(slots=True)
class Outcome:
    """How a task went, in the words of the wire.

    Arguments:
        state: SUCCESS, FAILURE, or any word that the strategy's users understand.
        final: False where the task goes on elsewhere (a retry).
        store: False where nobody wants the result.
        followups: tasks, and groups, that are accepted together with this one's end, or not at all.
        endings: tasks that will never be run because of how this one went.
        bury: why the task is to be kept as a dead letter; '': it isn't.
    """

    state: str
    value: bytes = b""
    content_type: str = ""
    info: bytes = b""
    final: bool = True
    store: bool = True
    followups: Sequence[wire.Task | wire.Gathering] = ()
    endings: Sequence[wire.Ending] = ()
    bury: str = ""


@runtime_checkable
class Strategy(Protocol):
    """What a worker needs to know of the work.

    ``accept`` is asked first: False ends the task with a LookupError. A strategy may also have
    ``attach(worker)``, called once in each worker before its first task; ``detach()``, called when it ends;
    ``told(body)``, called with what the pool's process tells its workers (:class:`~zerocelery.engine.wire.Tell`);
    ``policy`` and ``policies``, the acknowledgement flags of all and of single task names; ``rates``, two dictionaries
    of how many tasks of a name may start in a second: in this worker's pool, and over all of the node.
    """

    def accept(self, task: wire.Task, /) -> bool: ...

    def run(self, task: wire.Task, /) -> Any: ...


def failure(error: BaseException) -> Outcome:
    """The outcome of a task that raised: the exception itself where it can be pickled, its text in any case."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        value = cloudpickle.dumps(error)
        pickle.loads(value)  # noqa: S301 - our own bytes; an exception that can't be rebuilt must fail here, not there
    except BaseException:  # what it does when it is pickled is the task's code, too
        value = cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {_text_of(error)}"))
    return Outcome(wire.FAILURE, value, PICKLE_TYPE, info=text.encode("utf-8", "replace"))


def success(value: Any) -> Outcome:
    """The outcome of a task that returned: FAILURE where the value can't be packed."""
    try:
        return Outcome(wire.SUCCESS, cloudpickle.dumps(value), PICKLE_TYPE)
    except Exception as error:
        return failure(TypeError(f"the result, a {type(value).__name__}, can't be pickled: {error}"))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:
        return f"(no text: its __str__ raised {type(second).__name__})"


class CallableStrategy:
    """Runs plain Python callables by name: body is a pickled ``(args, kwargs)``.

    Arguments:
        functions: what may be called, by task name.
    """

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.functions = dict(functions)

    def accept(self, task: wire.Task, /) -> bool:
        return task.name in self.functions

    def run(self, task: wire.Task, /) -> Any:
        args, kwargs = pickle.loads(task.body)  # noqa: S301 - ipc peers are this user; TCP peers are authenticated first
        return self.functions[task.name](*args, **kwargs)
