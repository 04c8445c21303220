"""Read by type checkers, and never run: each remark says what they are to see in its line."""

# ruff: noqa: F821  reveal_type is theirs alone

from typing import Any

from zerocelery import Celery, Signature, Task, shared_task

app = Celery("typed")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="other", max_retries=3)
def named(x: str) -> list[str]:
    return [x]


@app.task(bind=True)
def bound(self: Task[..., Any], x: int) -> float:
    return float(x)


@app.task
async def later(x: int) -> str:
    return str(x)


@app.task(bind=True, acks_late=True)
async def bound_later(self: Task[..., Any], x: int) -> bytes:
    return bytes(x)


@shared_task
def shared(x: int) -> bytes:
    return bytes(x)


@shared_task(bind=True)
def shared_bound(self: Task[..., Any], x: int) -> dict[str, int]:
    return {"x": x}


reveal_type(add.delay(1, y=2))  # sees: AsyncResult[int]
reveal_type(add.delay(1).get())  # sees: int
reveal_type(add.apply_async((1,), countdown=3).get(timeout=1))  # sees: int
reveal_type(add.apply((1,)).get())  # sees: int
reveal_type(add(1))  # sees: int
reveal_type(named.delay("a").get())  # sees: list[str]
reveal_type(bound.delay(1).get())  # sees: float
reveal_type(later.delay(1).get())  # sees: str
reveal_type(bound_later.delay(1).get())  # sees: bytes
reveal_type(shared.delay(1).get())  # sees: bytes
reveal_type(shared_bound.delay(1).get())  # sees: dict[str, int]

add.delay("a")  # refused
add.delay()  # refused
add.delay(1, z=2)  # refused
named.delay(1)  # refused
bound.delay("x")  # refused
shared.delay(None)  # refused

reveal_type(add.s(1, 2))  # sees: Signature[int]
reveal_type(add.s(1).delay(2).get())  # sees: int
reveal_type(add.s(1, y=2).apply_async(countdown=3).get(timeout=1))  # sees: int
reveal_type(add.s(1).apply().get())  # sees: int
reveal_type(~add.s(1, 2))  # sees: int
reveal_type(add.si(1, y=2).delay().get())  # sees: int
reveal_type(add.signature((1,), countdown=3).set(queue="q").delay())  # sees: AsyncResult[int]
reveal_type(add.s().clone((1,)).replace(kwargs={}).on_error(add.s()))  # sees: Signature[int]
reveal_type(named.s("a").freeze().get())  # sees: list[str]
reveal_type(bound.si(1).delay().get())  # sees: float
reveal_type(later.s(1).delay().get())  # sees: str
reveal_type(bound_later.si(1).apply_async().get())  # sees: bytes
reveal_type(shared_bound.s().delay(1).get())  # sees: dict[str, int]

add.si("a")  # refused
add.si()  # refused
bound.si("x")  # refused
later.si(1, z=2)  # refused


def takes(one: Signature[int], other: Signature[str], any_one: Signature) -> None:
    """What a signature gives can be said, and need not be."""
    reveal_type(one.delay().get())  # sees: int
    reveal_type(any_one.delay().get())  # sees: Any


takes(add.s(1), later.s(1), named.s())
takes(add.s(1), add.s(1), add.s(1))  # refused


async def waits() -> None:
    reveal_type(await add.s(1).delay(2))  # sees: int
    reveal_type(await add.delay(1))  # sees: int
    reveal_type(await add.adelay(1))  # sees: AsyncResult[int]
    reveal_type(await later.delay(1))  # sees: str
    reveal_type(await later(1))  # sees: str
    await add.adelay("a")  # refused
