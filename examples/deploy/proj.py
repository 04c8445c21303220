"""The app that the services here run."""

from __future__ import annotations

from zerocelery import Celery

app = Celery("proj")
app.conf.beat_schedule = {"often": {"task": "proj.add", "schedule": 30.0, "args": (1, 2)}}


@app.task
def add(x: float, y: float) -> float:
    """Add two numbers."""
    return x + y
