"""Read by type checkers, and never run: each remark says what they are to see in its line."""

# ruff: noqa: F821  reveal_type is theirs alone

from typing import Any

from zerocelery import (
    AsyncResult,
    Celery,
    GroupResult,
    Signature,
    Task,
    chain,
    chord,
    group,
    shared_task,
    signals,
    signature,
)

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


# ── canvases ─────────────────────────────────────────────────────────────────────────────────────────────────────────

reveal_type(add.s(1) | later.s())  # sees: Signature[str]
reveal_type((add.s(1) | later.s() | named.s()).delay().get())  # sees: list[str]
reveal_type(chain(add.s(1), later.s()).delay().get())  # sees: str
reveal_type(chain(add.s(1), later.s(), named.s()).apply_async(countdown=1))  # sees: AsyncResult[list[str]]
reveal_type(chain([add.s(1), later.s()]).delay().get())  # sees: Any
piped = add.s(1)
reveal_type(~(piped | bound.s()))  # sees: float

reveal_type(group(add.s(1), add.s(2)))  # sees: group[int]
reveal_type(group(add.s(n) for n in range(3)).delay())  # sees: GroupResult[int]
reveal_type(group([add.s(1)]).apply_async(countdown=1).get(timeout=1))  # sees: list[int]
reveal_type(group(add.s(1), later.s(2))().get())  # sees: list[int | str]
reveal_type(group(add.s(1), add.s(2), add.s(3), add.s(4), add.s(5)).delay().join())  # sees: list[int]
reveal_type([one.get() for one in group(add.s(1)).delay()])  # sees: list[int]
reveal_type(group(add.s(1)).delay()[0].get())  # sees: int
reveal_type((add.s(1) | group(later.s(), later.s())).delay().results)  # sees: Any
reveal_type((add.s(1) | group(later.s(), later.s())).delay().get())  # sees: list[str]
reveal_type(chain(add.s(1), group(later.s(), later.s())).delay())  # sees: GroupResult[str]
reveal_type((group(later.s(1)) | add.s()).delay().get())  # sees: int

reveal_type(chord([add.s(1), add.s(2)])(later.s()))  # sees: AsyncResult[str]
reveal_type(chord([add.s(1), add.s(2)], later.s()).delay().get())  # sees: str
reveal_type(chord(group(add.s(1), add.s(2)))(named.s()).get())  # sees: list[str]
reveal_type((chord([add.s(1)], later.s()) | shared.s()).delay().get())  # sees: bytes

reveal_type(add.map([1, 2]).delay().get())  # sees: list[int]
reveal_type(add.starmap([(1, 2)]).apply_async().get())  # sees: list[int]
reveal_type(add.chunks([(1, 2), (3, 4)], 1)().get())  # sees: list[list[int]]
reveal_type(signature(add, (1, 2)).delay().get())  # sees: int
reveal_type(signature("typed.add", (1, 2)).delay().get())  # sees: Any

add.s(1) | 5  # refused
group(5)  # refused
group(add)  # refused
chain(5, add.s())  # refused
chord(5)  # refused
chord([add.s(1)])(5)  # refused
wrong: int = (add.s(1) | later.s()).delay().get()  # refused
wrong_too: list[str] = group(add.s(1)).delay().get()  # refused


def keeps(task: Task, result: AsyncResult, results: GroupResult) -> Signature:
    """What a task takes and gives need not be said."""
    task.delay(1, anything=2)
    reveal_type(result.get())  # sees: Any
    reveal_type(results.get())  # sees: list[Any]
    return task.s()


keeps(add, add.delay(1), group(add.s(1)).delay())


async def waits() -> None:
    reveal_type(await add.s(1).adelay(2))  # sees: AsyncResult[int]
    reveal_type(await (await add.s(1, 2).aapply_async(countdown=1)))  # sees: int
    reveal_type(await add.aapply_async((1,)))  # sees: AsyncResult[int]
    reveal_type(await group(add.s(1)).delay())  # sees: list[int]
    reveal_type(await (await group(later.s(1)).adelay()).aget(timeout=1))  # sees: list[str]
    reveal_type(await (add.s(1) | later.s()).delay())  # sees: str
    reveal_type(await add.s(1).delay(2))  # sees: int
    reveal_type(await add.delay(1))  # sees: int
    reveal_type(await add.adelay(1))  # sees: AsyncResult[int]
    reveal_type(await later.delay(1))  # sees: str
    reveal_type(await later(1))  # sees: str
    await add.adelay("a")  # refused


# ── the rest of a program ────────────────────────────────────────────────────────────────────────────────────────────


@signals.task_prerun.connect
def before(task_id: str, **kwargs: Any) -> None:
    """A receiver stays what it is."""


@signals.worker_ready.connect(weak=False)
def ready(**kwargs: Any) -> int:
    return 1


@app.on_after_configure.connect
def periodic(sender: Celery, **kwargs: Any) -> None:
    sender.add_periodic_task(10.0, add.s(1))


class Summing(Task):
    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.update_state(state="SO")

    def total(self, *numbers: int) -> int:
        return sum(numbers)


@app.task(base=Summing, bind=True)
def retried(self: Task, x: int) -> int:
    raise self.retry(countdown=1)


reveal_type(retried.s(1).delay().get())  # sees: int
reveal_type(before("x"))  # sees: None
reveal_type(ready())  # sees: int
reveal_type(app.register_task(Summing()).total(1))  # sees: int
reveal_type(app.send_task("proj.add", (1, 2)))  # sees: AsyncResult[Any]
reveal_type(app.AsyncResult("some-id"))  # sees: AsyncResult[Any]
reveal_type(app.signature("proj.add").delay().get())  # sees: Any
app.tasks["proj.add"].delay(1, 2)
