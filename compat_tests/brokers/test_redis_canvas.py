"""Canvases over a broker that counts nothing: chords by the result backend, or by a task that looks again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from compat_tests.behaviour.test_canvas import built, evaluated, flat, shapes
from compat_tests.conftest import PATIENCE, Sandbox, require_server, wait_until
from zerocelery import Celery, chain, chord, group, signature
from zerocelery.canvas import Signature
from zerocelery.exceptions import ChordError

BROKER = "redis://127.0.0.1:6379/9"
RESULTS = "redis://127.0.0.1:6379/8"

TASKS = """
import os
from zerocelery import Celery

app = Celery("proj", broker={broker!r}, backend={backend!r})
app.conf.result_chord_retry_interval = 0.05

def total(x):
    return sum(map(total, x)) if isinstance(x, list) else x

@app.task
def plus(x, k=0):
    return total(x) + k

@app.task
def echo(x):
    return x

@app.task
def fail(*args):
    raise ValueError("no")

@app.task
def body(x):
    fd = os.open(os.path.join(os.environ["ZEROCELERY_HOME"], "bodies"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(fd, b"one\\n")
    os.close(fd)
    return x
"""


@pytest.fixture
def databases() -> Iterator[Any]:
    """The database of results, empty, as a client of Redis."""
    require_server("Redis", 6379)
    import redis

    with redis.Redis.from_url(BROKER) as broker, redis.Redis.from_url(RESULTS) as results:
        broker.flushdb()
        results.flushdb()
        yield results
        broker.flushdb()
        results.flushdb()


@pytest.fixture
def client_of(sandbox: Sandbox, databases: Any) -> Iterator[Callable[[str], Celery]]:
    """``client_of(backend)``: an app whose worker is up, until the test ends."""
    processes: list[Any] = []
    apps: list[Celery] = []

    def start(backend: str) -> Celery:
        sandbox.write("proj.py", TASKS.format(broker=BROKER, backend=backend))
        process = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-P", "threads", "-c", "2")
        processes.append(process)
        sandbox.wait_for_output(process, "ready.")
        app = Celery("client", broker=BROKER, backend=backend, set_as_current=False)
        apps.append(app)
        return app

    yield start
    for app in apps:
        app.close()
    for process in processes:
        process.terminate()
        process.wait(PATIENCE)


def _calls(app: Celery) -> Callable[..., Signature]:
    def make(name: str, *args: Any) -> Signature:
        made: Signature = signature(f"proj.{name}", args=args, app=app)
        return made

    return make


def test_shapes_are_counted_by_redis(client_of: Callable[[str], Celery], databases: Any, sandbox: Sandbox) -> None:
    call = _calls(client_of(RESULTS))
    shapes: list[tuple[Any, Any]] = [
        (group(call("echo", i) for i in range(20)), list(range(20))),
        (chord([call("echo", i) for i in range(20)], call("echo")), list(range(20))),
        (chain(call("plus", 1), group(call("plus", i) for i in (1, 2)), call("plus", 10)), 15),
        (chord([chain(call("echo", 1), call("plus", 1)), call("echo", 5)], call("echo")), [2, 5]),
        (chord([group(call("echo", 1), call("echo", 2)), call("echo", 3)], call("plus")), 6),
        (
            chord([chain(call("echo", 1), group(call("plus", 1), call("plus", 2))), call("echo", 3)], call("echo")),
            [[2, 3], 3],
        ),
        (chord([chord([call("echo", 1)] * 2, call("plus")), call("echo", 3)], call("plus", 1)), 6),
        (chain(chord([call("echo", 1), call("echo", 2)], call("plus")), call("plus", 4)), 7),
        (chord([call("echo", 1)], group(call("plus", 1), call("plus", 2))), [2, 3]),
    ]
    sent = [shape.apply_async() for shape, _ in shapes]
    assert [result.get(timeout=PATIENCE) for result in sent] == [expected for _, expected in shapes]
    # all that is left of the chords are the marks for late copies of their members
    left = {key.decode()[-2:] for key in databases.keys("celery-taskset-meta-*.*")}
    assert left == {".c"}
    assert {databases.get(key) for key in databases.keys("celery-taskset-meta-*.c")} == {b"done"}


def test_every_shape_gives_what_it_gives_one_call_after_the_other(client_of: Callable[[str], Celery]) -> None:
    client = client_of(RESULTS)

    @settings(
        max_examples=40, deadline=15_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(shapes)
    def check(shape: Any) -> None:
        sent = built(client, shape).apply_async((1,)).get(timeout=10)

        assert flat(sent) == flat(evaluated(shape, 1))

    check()


def test_a_failed_header_fails_its_body_and_stays_to_be_looked_at(
    client_of: Callable[[str], Celery], databases: Any, sandbox: Sandbox
) -> None:
    app = client_of(RESULTS)
    call = _calls(app)
    result = chord([call("echo", 1), call("fail")], call("body")).apply_async()
    wait_until(result.ready)
    assert isinstance(result.result, ChordError)
    assert "ValueError('no')" in str(result.result)
    (parts,) = databases.keys("celery-taskset-meta-*.j")
    assert databases.zcard(parts) == 2
    assert not (sandbox.home / "bodies").exists()


def test_what_follows_a_body_that_is_a_chord_itself_fails_with_it(client_of: Callable[[str], Celery]) -> None:
    call = _calls(client_of(RESULTS))
    first = chord([call("echo", 1), call("echo", 2)], group(call("fail"), call("plus", 1)))
    result = chain(first, chord([call("plus", 3)], call("plus", 100))).apply_async()
    with pytest.raises(ChordError, match="no"):
        result.get(timeout=PATIENCE)


def test_a_group_behind_a_task_that_fails_fails_with_it(client_of: Callable[[str], Celery]) -> None:
    call = _calls(client_of(RESULTS))
    members = call("plus", 1), chain(call("plus", 1), call("plus", 2)), chord([call("echo", 1)], call("plus"))
    result = chain(call("fail"), group(*members)).apply_async()
    for member in result.results:
        with pytest.raises(ValueError, match="no"):
            member.get(timeout=PATIENCE)


def test_a_member_that_is_counted_twice_brings_no_second_body(
    client_of: Callable[[str], Celery], databases: Any, sandbox: Sandbox
) -> None:
    app = client_of(RESULTS)
    call = _calls(app)
    result = chord([call("echo", 1), call("echo", 2)], call("body")).apply_async()
    assert result.get(timeout=PATIENCE) == [1, 2]
    (mark,) = databases.keys("celery-taskset-meta-*.c")
    group_id = mark.decode().removeprefix("celery-taskset-meta-").removesuffix(".c")
    context = type(app.tasks["celery.accumulate"].request)
    member = result.parent.results[0].id
    late = context(id=member, group=group_id, group_index=0, chord=dict(call("body")))
    app.backend.on_chord_part_return(late, "SUCCESS", 1)
    assert databases.get(mark) == b"done"
    assert call("echo", "after").apply_async().get(timeout=PATIENCE) == "after"
    assert (sandbox.home / "bodies").read_text() == "one\n"


def test_a_store_that_can_not_count_is_looked_at_again_and_again(
    client_of: Callable[[str], Celery], sandbox: Sandbox
) -> None:
    call = _calls(client_of(f"file://{_made(sandbox, 'results')}"))
    result = chord([call("echo", i) for i in range(3)], call("plus", 1)).apply_async()
    assert result.get(timeout=PATIENCE) == 4


def _made(box: Sandbox, name: str) -> str:
    (box.home / name).mkdir()
    return str(box.home / name)


def test_rpc_brings_results_to_who_has_asked_and_refuses_chords(client_of: Callable[[str], Celery]) -> None:
    call = _calls(client_of("rpc://"))
    assert call("plus", 1, 2).apply_async().get(timeout=PATIENCE) == 3
    assert group(call("echo", i) for i in range(10)).apply_async().get(timeout=PATIENCE) == list(range(10))
    assert chain(call("plus", 1), call("plus", 2)).apply_async().get(timeout=PATIENCE) == 3
    with pytest.raises(ValueError, match="no"):
        call("fail").apply_async().get(timeout=PATIENCE)
    with pytest.raises(NotImplementedError, match="chords"):
        chord([call("echo", 1)], call("echo")).apply_async()


def test_a_node_counts_its_chords_wherever_results_are_kept(
    running_worker: Callable[..., str], databases: Any, sandbox: Sandbox
) -> None:
    url = running_worker(TASKS.format(broker="zmq://", backend=RESULTS), "-P", "threads", "-c", "2")
    with Celery("client", broker=url, backend=RESULTS, set_as_current=False) as app:
        call = _calls(app)
        inner = chain(call("echo", 1), group(call("plus", 1), call("plus", 2)))
        nested = chord([inner, call("echo", 3)], call("echo")).apply_async()
        upgraded = chain(call("plus", 1), group(call("plus", i) for i in (1, 2)), call("plus", 10)).apply_async()
        failed = chord([call("echo", 1), call("fail")], call("body")).apply_async()
        assert nested.get(timeout=PATIENCE) == [[2, 3], 3]
        assert upgraded.get(timeout=PATIENCE) == 15
        wait_until(failed.ready)
        assert isinstance(failed.result, ChordError)
        assert databases.exists(f"celery-task-meta-{nested.id}") == 1
        assert databases.keys("celery-taskset-meta-*") == []
    assert not (sandbox.home / "bodies").exists()
