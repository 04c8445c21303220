"""The tasks of an app, by name."""

from __future__ import annotations

from zerocelery.exceptions import InvalidTaskError, NotRegistered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from zerocelery.app.task import Task

    _Tasks = dict[str, Task[..., Any]]
else:
    _Tasks = dict

__all__ = ("TaskRegistry",)


class TaskRegistry(_Tasks):
    """Task name to task; an unknown name is :exc:`~zerocelery.exceptions.NotRegistered`."""

    NotRegistered = NotRegistered

    def __missing__(self, key: str) -> NoReturn:
        raise self.NotRegistered(key)

    def register(self, task: Any) -> None:
        """Add a task, or a task class, under its name."""
        if task.name is None:
            raise InvalidTaskError(f"Task class {type(task).__name__!r} must specify .name attribute")
        from zerocelery.app.autoretry import add_autoretry_behaviour

        made = task() if isinstance(task, type) else task
        add_autoretry_behaviour(made)
        self[made.name] = made

    def unregister(self, name: Any) -> None:
        """Remove a task by its name or itself."""
        try:
            self.pop(getattr(name, "name", name))
        except KeyError:
            raise self.NotRegistered(name) from None

    def regular(self) -> Any:
        """Pairs of the tasks that aren't periodic."""
        return self.filter_types("regular")

    def periodic(self) -> Any:
        """Pairs of the periodic tasks."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> Any:
        """Pairs of the tasks of this type."""
        return ((name, task) for name, task in self.items() if getattr(task, "type", "regular") == type)


def _unpickle_task(name: str, module: str | None = None) -> Any:
    from importlib import import_module

    from zerocelery._state import get_current_app

    tasks = get_current_app().tasks
    if name not in tasks and module and module != "__main__":
        import_module(module)
    return tasks[name]


def _unpickle_task_v2(name: str, module: str | None = None) -> Any:
    # what tasks of Celery say of themselves when they are pickled
    return _unpickle_task(name, module)
