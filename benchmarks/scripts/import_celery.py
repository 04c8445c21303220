"""What a script with an app and one task costs to import; nothing is connected."""

# What runs here is installed for the contestant's interpreter, not for the type checker's.
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"
from __future__ import annotations

from celery import Celery

app = Celery("import_celery", broker="redis://127.0.0.1:6379/13", backend="redis://127.0.0.1:6379/13")


@app.task
def add(x: int, y: int) -> int:
    """The one task."""
    return x + y


# Celery makes its tasks lazily: looking at one is what makes it.
NAME = add.name
