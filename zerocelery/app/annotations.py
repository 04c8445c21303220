"""Task annotations: attributes that the settings give to tasks."""

from __future__ import annotations

from typing import Any

from kombu.utils import functional

from zerocelery.utils.imports import symbol_by_name

__all__ = ("MapAnnotation", "prepare", "resolve_all")

_lazy: Any = functional.lazy


class MapAnnotation(dict[str, Any]):
    """Attributes by the task's name; those under ``*`` are every task's."""

    def annotate_any(self) -> dict[str, Any] | None:
        """The attributes of every task."""
        return dict(self["*"]) if "*" in self else None

    def annotate(self, task: Any) -> dict[str, Any] | None:
        """The attributes of this task."""
        return dict(self[task.name]) if task.name in self else None


def _at(path: str) -> Any:
    found = symbol_by_name(path)
    return found() if isinstance(found, type) else found


def _one(annotation: Any) -> Any:
    if isinstance(annotation, dict):
        return MapAnnotation(annotation)
    return _lazy(_at, annotation) if isinstance(annotation, str) else annotation


def prepare(annotations: Any) -> Any:
    """The setting in any of its forms, as a list of annotations."""
    if annotations is None:
        return ()
    if not isinstance(annotations, (list, tuple)):
        annotations = (annotations,)
    return [_one(annotation) for annotation in annotations]


def resolve_all(anno: Any, task: Any) -> Any:
    """What the annotations say of a task, one after the other."""
    for one in anno:
        annotation = one() if isinstance(one, functional.lazy) else one
        for found in (annotation.annotate(task), annotation.annotate_any()):
            if found:
                yield found
