"""What is on the wire for each way to call a task."""

from __future__ import annotations

import base64
from datetime import datetime, timezone
from typing import Any

from celery import chain, group

from compat_tests.behaviour.programs.common import make_app, tell

app = make_app()


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="other.name", ignore_result=True, priority=3, time_limit=20, soft_time_limit=10, queue="q2")
def optioned() -> None: ...


@app.task(serializer="pickle", bind=True)
def pickled(self: Any, x: Any) -> None: ...


def sent(queue: str = "celery") -> list[dict[str, Any]]:
    """The messages that wait in a queue, oldest first."""
    found = []
    with app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        while True:
            try:
                message = simple.get(block=False)
            except simple.Empty:
                break
            message.ack()
            properties = dict(message.properties)
            properties.pop("delivery_info", None)
            properties.pop("delivery_tag", None)
            reply_to = properties.get("reply_to")
            properties["reply_to"] = bool(reply_to)
            body = message.body if isinstance(message.body, bytes) else message.body.encode()
            binary = message.content_encoding == "binary"
            found.append(
                {
                    "headers": list(message.headers.items()),
                    "properties": properties,
                    "content": [message.content_type, message.content_encoding],
                    "routing_key": message.delivery_info.get("routing_key"),
                    "body": base64.b64encode(body) if binary else body,
                }
            )
        simple.close()
    return found


eta = datetime(2040, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
calls = {
    "delay": lambda: add.delay(1, 2),
    "kwargs": lambda: add.apply_async((1,), {"y": 2}),
    "eta and expires": lambda: add.apply_async((1, 2), eta=eta, expires=eta),
    "expires in seconds": lambda: add.apply_async((1, 2), expires=100000),
    "limits": lambda: add.apply_async((1, 2), time_limit=30, soft_time_limit=20),
    "priority and shadow": lambda: add.apply_async((1, 2), priority=5, shadow="shade"),
    "headers": lambda: add.apply_async((1, 2), headers={"mine": 1}),
    "unknown options": lambda: add.apply_async((1, 2), correlation="x", reply_to="there"),
    "compressed": lambda: add.apply_async((1, 2), compression="zlib"),
    "link": lambda: add.apply_async((1, 2), link=add.s(3), link_error=[add.si(4, 5)]),
    "retries": lambda: add.apply_async((1, 2), retries=2, task_id="my id"),
    "argsrepr": lambda: add.apply_async((1, 2), argsrepr="(secret)", kwargsrepr="{}"),
    "parents": lambda: add.apply_async((1, 2), root_id="root", parent_id="parent", group_id="g", group_index=7),
    "send_task": lambda: app.send_task("not.here", ("ä", None, True, 1.5), {"k": [1, {"n": "m"}]}),
    "typed": lambda: add.delay(eta, b"bytes"),
    "pickle": lambda: pickled.delay({1, 2}),
    "chain": lambda: chain(add.s(1, 2), add.s(3), add.s(4))(),
    "group": lambda: group(add.s(1, 1), add.s(2, 2))(),
    "stamped": lambda: _stamped(),
}


def _stamped() -> None:
    signature = add.s(1, 2)
    signature.stamp(monitor="m1")
    signature.apply_async()


facts: dict[str, Any] = {}
for name, call in calls.items():
    call()
    facts[name] = sent()
optioned.delay()
facts["options of the task"] = sent("q2")
tell(facts)
