"""What an app stores in its result backend, and reads from it; the same for Celery and for zerocelery.

As a program (``python stored.py URL SERIALIZER write|read``) it is run by an interpreter that has Celery.
"""

from __future__ import annotations

import json
import sys
from typing import Any

IDS = ("ok", "failed", "nested", "odd", "progress", "retry", "revoked")


def write(app: Any) -> None:
    """Store one result of each kind, and a group."""
    backend = app.backend
    context = type(app.tasks["celery.accumulate"].request)
    request = context(
        id="ok", task="proj.add", args=[1, 2], kwargs={"z": 3}, retries=1, hostname="w1@here",
        delivery_info={"routing_key": "celery"}, group="a-group", parent_id="a-parent",
        stamped_headers=["version"], stamps={"version": ["v1"]},
    )  # fmt: skip
    request.children.append(app.AsyncResult("a-child"))
    backend.store_result("ok", {"answer": 42, "text": "ü"}, "SUCCESS", request=request)
    backend.store_result("failed", ValueError("no", 7), "FAILURE", traceback="Traceback: here")
    backend.store_result("odd", KeyError(b"bytes"), "FAILURE")
    backend.store_result("progress", {"done": 3, "of": 10}, "PROGRESS")
    backend.mark_as_retry("retry", OSError(5, "later"), traceback="Traceback: there")
    if backend.serializer == "pickle":
        return  # what follows is pickled by the names of its classes, which each side has its own of
    backend.store_result("nested", app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")]), "SUCCESS")
    backend.mark_as_revoked("revoked", "terminated")
    app.GroupResult("group", [app.AsyncResult("ok"), app.AsyncResult("failed")]).save()


def read(app: Any) -> dict[str, Any]:
    """What this app understands of all that, as JSON can have it."""
    found: dict[str, Any] = {}
    for task_id in IDS:
        result = app.AsyncResult(task_id)
        value = result.result
        if isinstance(value, BaseException):
            value = [type(value).__name__, [str(argument) for argument in value.args]]
        found[task_id] = {
            "state": result.state,
            "value": value,
            "traceback": result.traceback,
            "children": [child.id for child in result.children or ()],
            "ended": result.date_done is not None,
            "name": result.name,
            "args": result.args,
            "kwargs": result.kwargs,
            "worker": result.worker,
            "retries": result.retries,
            "queue": result.queue,
            "exists": app.backend.task_result_exists(task_id),
        }
    group = app.GroupResult.restore("group")
    found["group"] = group and [group.id, [member.id for member in group.results]]
    found["unknown"] = app.AsyncResult("nobody").state
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def settings(url: str, serializer: str) -> dict[str, Any]:
    """Those of either app."""
    return {
        "broker_url": "memory://",
        "result_backend": url,
        "result_serializer": serializer,
        "accept_content": ["json", "pickle"],
        "result_extended": True,
    }


def main(url: str, serializer: str, action: str) -> None:
    """Write or read with the Celery that is installed here."""
    from celery import Celery  # type: ignore[import-not-found,unused-ignore]

    app = Celery("stock")
    app.conf.update(settings(url, serializer))
    if action == "write":
        write(app)
    else:
        json.dump(read(app), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
