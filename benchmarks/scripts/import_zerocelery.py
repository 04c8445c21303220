"""What a script with an app and one task costs to import; nothing is connected."""

# What runs here is installed for the contestant's interpreter, not for the type checker's.
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"
from __future__ import annotations

from zerocelery import Celery

app = Celery("import_zerocelery", broker="zmq:///nowhere")


@app.task
def add(x: int, y: int) -> int:
    """The one task."""
    return x + y


# Celery makes its tasks lazily: looking at one is what makes it.
NAME = add.name
