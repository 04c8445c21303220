"""Documents tasks with Sphinx.

Add ``"zerocelery.contrib.sphinx"`` to ``extensions`` in the documentation's ``conf.py``. ``automodule`` then shows
tasks as it shows functions, ``autotask`` shows one, and the directive ``task`` and the role ``:task:`` describe one by
hand and refer to it. What stands before a task's name is the setting ``celery_task_prefix``, ``(task)`` unless given.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyFunction, PyXRefRole
from sphinx.ext.autodoc import FunctionDocumenter

from zerocelery.app.task import Task

__all__ = ("TaskDirective", "TaskDocumenter", "autodoc_skip_member_handler", "setup")


def _is_task(found: Any) -> bool:
    # Shared tasks are proxies, whose class is that of what they stand for.
    return isinstance(found, Task)


class TaskDocumenter(FunctionDocumenter):  # type: ignore[misc,unused-ignore]
    """Shows a task: the parameters and the docstring of its function."""

    objtype = "task"
    member_order = 11
    priority = FunctionDocumenter.priority + 1

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        """Whether something is a task."""
        return _is_task(member) and hasattr(member, "__wrapped__")

    def format_args(self, **kwargs: Any) -> str:
        """The function's parameters; without ``self``, which the caller of a bound task doesn't give."""
        wrapped = getattr(self.object, "__wrapped__", None)
        return "" if wrapped is None else str(signature(wrapped))

    def document_members(self, all_members: bool = False) -> None:
        """A task's attributes are those of all tasks."""

    def check_module(self) -> bool:
        """Whether the task is of the module that is shown: an imported one is shown where it is defined."""
        wrapped = getattr(self.object, "__wrapped__", None)
        if wrapped is not None and getattr(wrapped, "__module__", None) == self.modname:
            return True
        return bool(super().check_module())


class TaskDirective(PyFunction):  # type: ignore[misc,unused-ignore]
    """Describes a task."""

    def get_signature_prefix(self, sig: str) -> Any:
        return [nodes.Text(f"{self.env.config.celery_task_prefix} ")]


def autodoc_skip_member_handler(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Keep a task in ``automodule`` that autodoc would leave out, because its docstring is that of its class."""
    return False if _is_task(obj) and hasattr(obj, "__wrapped__") and skip else None


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    if "autodoc_use_legacy_class_based" in app.config:
        # From Sphinx 9 on: only so are an extension's own documenters asked.
        app.config.autodoc_use_legacy_class_based = True
    app.add_autodocumenter(TaskDocumenter)
    app.add_directive_to_domain("py", "task", TaskDirective)
    app.add_role_to_domain("py", "task", PyXRefRole())
    app.add_config_value("celery_task_prefix", "(task)", True)
    app.connect("autodoc-skip-member", autodoc_skip_member_handler)
    return {"parallel_read_safe": True}
