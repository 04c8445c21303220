"""An app whose workers and senders are Celery's and zerocelery's, on one broker and one store.

``ZC_SIDE=stock`` in the environment makes it an app of Celery's. Run as a program, it sends canvases and prints what
has become of them; each names for every part the queue, and so the side, that runs it.
"""

from __future__ import annotations

import json
import os
from typing import Any

SIDE = os.environ.get("ZC_SIDE", "ours")
URL = "redis://127.0.0.1:6379/11"
#: How long a canvas may take (seconds).
WITHIN = 20

if SIDE == "stock":
    from celery import Celery, chain, chord, group  # type: ignore[import-not-found,unused-ignore]
    from celery.result import GroupResult  # type: ignore[import-not-found,unused-ignore]
else:
    from zerocelery import Celery, chain, chord, group
    from zerocelery.result import GroupResult

app: Any = Celery("mixed", broker=URL, backend=URL)
app.conf.update(task_default_queue=SIDE, result_extended=True)


@app.task(name="mixed.ran")
def ran(value: Any) -> list[Any]:
    """Which side has run it."""
    return [SIDE, value]


@app.task(name="mixed.fail")
def fail() -> None:
    raise ValueError("no")


@app.task(name="mixed.again", bind=True, default_retry_delay=0)
def again(self: Any) -> list[Any]:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return [SIDE, "again"]


@app.task(name="mixed.instead", bind=True)
def instead(self: Any, other: str) -> Any:
    raise self.replace(ran.si("instead").set(queue=other))


@app.task(name="mixed.noted")
def noted(task_id: str) -> None:
    """An errback: how often it is called is counted in the store."""
    app.backend.client.incr(f"noted-{task_id}")


def _on(side: str, value: Any) -> Any:
    return ran.si(value).set(queue=side)


def _end(result: Any) -> Any:
    try:
        return result.get(timeout=WITHIN)
    except Exception as error:
        return [type(error).__name__, str(error)]


def main() -> dict[str, Any]:
    """Send everything; what came of it."""
    found: dict[str, Any] = {}
    for body, other in (("ours", "stock"), ("stock", "ours")):
        header = [_on("ours", 1), _on("stock", 2), again.si().set(queue=body), instead.si(other).set(queue=body)]
        found[f"chord {body}"] = _end(chord(header, ran.s().set(queue=body)).apply_async())
        failing = chord(
            [_on(other, 1), fail.si().set(queue=body)],
            ran.s().set(queue=other).on_error(noted.s().set(queue=body)),
        ).apply_async()
        found[f"failing {body}"] = _end(failing)
        steps = chain(_on(body, 0), group(_on(other, 1), _on(body, 2)), ran.s().set(queue=other))
        found[f"chain {body}"] = _end(steps.apply_async())
        inner = chord([_on(other, "a"), _on(body, "b")], ran.s().set(queue=body))
        found[f"nested {body}"] = _end(chord([inner, _on(other, "c")], ran.s().set(queue=other)).apply_async())
        members = group(_on(body, 1), _on(other, 2)).apply_async()
        members.save()
        restored = GroupResult.restore(members.id, app=app)
        found[f"group {body}"] = _end(restored)
    return found


if __name__ == "__main__":
    print(json.dumps(main()))
