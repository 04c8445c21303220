"""Canvases on a real worker: shapes against a sequential evaluator, and what Celery promises of each part."""

from __future__ import annotations

import json
import operator
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compat_tests.conftest import Sandbox, wait_until, worker_process
from zerocelery import Celery, GroupResult, StampingVisitor, chain, chord, group, signature
from zerocelery.app.message import read_head
from zerocelery.app.sending import Members
from zerocelery.canvas import Signature, _chain, chunks, xmap
from zerocelery.engine import wire
from zerocelery.exceptions import ChordError, IncompleteStream, TimeoutError
from zerocelery.result import result_from_tuple

TASKS = """
import os
from zerocelery import Celery, chain, group, signature

app = Celery("proj")
app.conf.worker_hijack_root_logger = False

def total(x):
    return sum(map(total, x)) if isinstance(x, list) else x

@app.task
def plus(x, k=0):
    return total(x) + k

@app.task
def echo(x):
    return x

@app.task
def pair(x, y):
    return [x, y]

@app.task
def fail(*args):
    raise ValueError(f"no {args}")

@app.task(ignore_result=True)
def quiet(x):
    return x

@app.task
def note(word):
    fd = os.open(os.path.join(os.environ["ZEROCELERY_HOME"], "notes"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(fd, f"{word}\\n".encode())
    os.close(fd)

@app.task
def told(request, error, traceback, word):
    note(f"{word} {request.id} {type(error).__name__}")

@app.task(bind=True)
def family(self, *args):
    return [self.request.id, self.request.parent_id, self.request.root_id, self.request.group]

@app.task(bind=True)
def stamps(self, *args):
    return self.request.stamps

@app.task(bind=True)
def nesting(self, left):
    if left:
        return self.replace(nesting.s(left - 1))
    return self.request.replaced_task_nesting

@app.task(bind=True)
def instead(self, x, sig):
    return self.replace(signature(sig, app=app).clone((x,)))

@app.task(bind=True)
def more(self, numbers):
    for number in numbers:
        self.add_to_chord(echo.si(number))
    return 0

@app.task
def calls(x):
    return group(plus.si(x, i) for i in range(3)).apply_async().as_tuple()
"""


@pytest.fixture(scope="module")
def shared_worker(module_sandbox: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """One for all tests: none of them changes it."""
    with worker_process(module_sandbox, TASKS, "-P", "threads", "-c", "2") as process:
        yield process


@pytest.fixture
def call(client: Celery) -> Callable[..., Signature]:
    """``call(name, *args)``: a signature of one of the worker's tasks."""

    def make(name: str, *args: Any, **options: Any) -> Signature:
        made: Signature = signature(f"proj.{name}", args=args, app=client, **options)
        return made

    return make


@pytest.fixture
def notes(module_sandbox: Sandbox) -> Callable[[], list[str]]:
    """``notes()``: what tasks have noted since the test began."""
    path = module_sandbox.home / "notes"
    path.unlink(missing_ok=True)
    return lambda: path.read_text().splitlines() if path.exists() else []


# ── shapes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#: A shape is ("plus", k), ("const", k), or a kind with shapes in it.
leaves = st.one_of(
    st.tuples(st.just("plus"), st.integers(1, 99)),
    st.tuples(st.just("const"), st.integers(1, 99)),
)


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("chain"), several),
        st.tuples(st.just("or"), several),
        st.tuples(st.just("group"), several),
        st.tuples(st.just("chord"), several, inner),
    )


shapes = st.recursive(leaves, _deeper, max_leaves=8)


def built(app: Celery, shape: Any) -> Any:
    """The canvas of a shape."""
    kind, content, *body = shape
    if kind == "plus":
        return signature("proj.plus", kwargs={"k": content}, app=app)
    if kind == "const":
        return signature("proj.plus", args=(content,), immutable=True, app=app)
    parts = [built(app, part) for part in content]
    if kind == "chain":
        return chain(*parts)
    if kind == "or":
        return reduce(operator.or_, parts)
    if kind == "group":
        return group(parts, app=app)
    return chord(parts, built(app, body[0]), app=app)


def total(value: Any) -> int:
    return sum(map(total, value)) if isinstance(value, list) else int(value)


def evaluated(shape: Any, value: Any) -> Any:
    """What a shape gives for a value, one call after the other."""
    kind, content, *body = shape
    if kind == "plus":
        return total(value) + content
    if kind == "const":
        return content
    if kind in ("chain", "or"):
        return reduce(lambda so_far, part: evaluated(part, so_far), content, value)
    results = [evaluated(part, value) for part in content]
    return evaluated(body[0], results) if kind == "chord" else results


def flat(value: Any) -> list[Any]:
    return [one for part in value for one in flat(part)] if isinstance(value, list) else [value]


def test_every_shape_gives_what_it_gives_one_call_after_the_other(client: Celery) -> None:
    @settings(
        max_examples=60, deadline=15_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(shapes)
    def check(shape: Any) -> None:
        sent = built(client, shape).apply_async((1,)).get(timeout=10)

        assert flat(sent) == flat(evaluated(shape, 1))

    check()


def test_a_shape_that_was_frozen_and_travelled_as_json_is_the_same_shape(client: Celery) -> None:
    @settings(
        max_examples=30, deadline=15_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(shapes)
    def check(shape: Any) -> None:
        canvas = built(client, shape)
        frozen = canvas.freeze()
        again = signature(json.loads(json.dumps(canvas)), app=client)

        result = again.apply_async((1,))

        assert result.id == frozen.id
        assert flat(result.get(timeout=10)) == flat(evaluated(shape, 1))

    check()


def test_whatever_fails_in_a_shape_nobody_waits_for_ever(client: Celery) -> None:
    def poisoned(shape: Any, where: int) -> tuple[Any, int]:
        """The shape with a failing call in the place of the leaf of this number, and how many leaves it has."""
        count = 0

        def walk(part: Any) -> Any:
            nonlocal count
            kind, content, *body = part
            if kind in ("plus", "const"):
                count += 1
                return ("fail", 0) if count - 1 == where else part
            return (kind, tuple(walk(one) for one in content), *(walk(one) for one in body))

        return walk(shape), count

    def with_failure(app: Celery, shape: Any) -> Any:
        kind, content, *body = shape
        if kind == "fail":
            return signature("proj.fail", app=app)
        if kind in ("plus", "const"):
            return built(app, shape)
        parts = [with_failure(app, part) for part in content]
        if kind == "chain":
            return chain(*parts)
        if kind == "or":
            return reduce(operator.or_, parts)
        return group(parts, app=app) if kind == "group" else chord(parts, with_failure(app, body[0]), app=app)

    @settings(
        max_examples=40, deadline=15_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(shapes, st.integers(0, 7))
    def check(shape: Any, where: int) -> None:
        _, count = poisoned(shape, -1)
        bad, _ = poisoned(shape, where % count)

        result = with_failure(client, bad).apply_async((1,))

        with pytest.raises((ValueError, ChordError)):
            result.get(timeout=10)

    check()


# ── chains ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chains_result_knows_all_steps_before_it(call: Callable[..., Signature]) -> None:
    result = (call("plus", 1) | call("plus", 10) | call("plus", 100)).delay()

    assert result.get(timeout=10) == 111
    assert result.parent.get(timeout=10) == 11
    assert result.parent.parent.get(timeout=10) == 1
    assert result.parent.parent.parent is None


def test_every_step_names_the_one_before_it_as_its_parent_and_the_first_as_its_root(
    call: Callable[..., Signature],
) -> None:
    result = chain(call("family"), call("family"), call("family")).delay()

    third = result.get(timeout=10)
    second, first = result.parent.get(timeout=10), result.parent.parent.get(timeout=10)
    assert [third[1], second[1], first[1]] == [second[0], first[0], None]
    assert {third[2], second[2], first[2]} == {first[0]}


def test_what_follows_a_failed_step_ends_with_its_exception(call: Callable[..., Signature]) -> None:
    result = chain(call("plus", 1), call("fail"), call("plus"), call("plus")).delay()

    with pytest.raises(ValueError, match="no"):
        result.get(timeout=10)
    assert [result.state, result.parent.state, result.parent.parent.state] == ["FAILURE"] * 3
    assert result.parent.parent.parent.get(timeout=10) == 1


def test_an_immutable_step_gets_nothing(call: Callable[..., Signature]) -> None:
    assert chain(call("plus", 1), call("plus", 5, immutable=True)).delay().get(timeout=10) == 5


def test_a_step_whose_result_nobody_keeps_passes_it_on(call: Callable[..., Signature]) -> None:
    assert chain(call("quiet", 4), call("plus", 5)).delay().get(timeout=10) == 9


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_groups_results_are_in_its_order(call: Callable[..., Signature]) -> None:
    result = group(call("echo", i) for i in range(50)).apply_async()

    assert result.get(timeout=10) == list(range(50))
    assert result.completed_count() == 50
    assert result.ready()
    assert result.successful()


def test_results_can_be_had_as_they_come(call: Callable[..., Signature]) -> None:
    result = group(call("echo", i) for i in range(20)).apply_async()

    pairs = dict(result.iter_native(timeout=10))

    assert {task_id: meta["result"] for task_id, meta in pairs.items()} == {
        one.id: i for i, one in enumerate(result.results)
    }


def test_joining_calls_back_with_each_result(call: Callable[..., Signature]) -> None:
    result = group(call("echo", i) for i in range(5)).apply_async()
    heard: list[tuple[str, int]] = []

    assert result.join(timeout=10, callback=lambda task_id, value: heard.append((task_id, value))) is None
    assert heard == [(one.id, i) for i, one in enumerate(result.results)]


def test_a_join_gives_up_in_time(call: Callable[..., Signature]) -> None:
    result = group(call("echo", 1), call("echo", 2).set(countdown=60)).apply_async()

    for join in (result.join, result.join_native):
        with pytest.raises(TimeoutError):
            join(timeout=0.1)


def test_a_group_raises_what_its_member_has_raised_or_gives_it(call: Callable[..., Signature]) -> None:
    result = group(call("echo", 1), call("fail")).apply_async()

    with pytest.raises(ValueError, match="no"):
        result.get(timeout=10)
    assert [type(value) for value in result.get(timeout=10, propagate=False)] == [int, ValueError]
    assert result.failed()


def test_a_saved_group_is_found_by_its_id_until_it_is_deleted(client: Celery, call: Callable[..., Signature]) -> None:
    result = group(call("echo", i) for i in range(3)).apply_async()

    result.save()

    wait_until(lambda: GroupResult.restore(result.id, app=client) is not None, what="the saved group")
    assert client.GroupResult.restore(result.id).get(timeout=10) == [0, 1, 2]
    result.delete()
    wait_until(lambda: client.GroupResult.restore(result.id) is None, what="its end")


def test_a_generators_calls_leave_as_they_come(call: Callable[..., Signature]) -> None:
    """The second call is made when the first has a result: a header that was unrolled first would never end."""
    made: list[Signature] = []

    def calls() -> Iterator[Signature]:
        for i in range(3):
            if i == 2:
                assert made[0].AsyncResult(made[0].id).get(timeout=10) == 0
            one = call("echo", i)
            one.freeze()
            made.append(one)
            yield one

    assert chord(calls(), call("echo"))().get(timeout=10) == [0, 1, 2]


def test_skewed_calls_are_delayed_one_by_one(call: Callable[..., Signature]) -> None:
    skewed = group(call("echo", i) for i in range(4)).skew(start=1, stop=3)

    assert [task.options["countdown"] for task in skewed.tasks] == [1, 2, 3, 3]


# ── chords ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_body_gets_the_results_in_the_headers_order(call: Callable[..., Signature]) -> None:
    assert chord([call("echo", i) for i in range(100)], call("echo"))().get(timeout=10) == list(range(100))


def test_a_body_gets_nested_groups_nested(call: Callable[..., Signature]) -> None:
    inner = chain(call("echo", 1), group(call("plus", 1), call("plus", 2)))

    assert chord([call("echo", 0), inner], call("echo"))().get(timeout=10) == [0, [2, 3]]


def test_a_body_is_started_by_a_member_and_shares_its_root(call: Callable[..., Signature]) -> None:
    result = chain(call("family"), chord([call("family"), call("family")], call("pair", "x"))).delay()

    (members, word) = result.get(timeout=10)
    assert word == "x"
    first = result.parent.parent.get(timeout=10)[0]
    assert {parent for _, parent, _, _ in members} == {first}
    assert {root for _, _, root, _ in members} == {first}
    assert len({group_id for *_, group_id in members}) == 1


def test_get_raises_what_the_member_has_raised_and_the_body_has_a_chord_error(call: Callable[..., Signature]) -> None:
    result = chord([call("echo", 1), call("fail", 2)], call("echo"))()

    with pytest.raises(ValueError, match="no"):
        result.get(timeout=10)
    failed = result.parent.results[1]
    assert isinstance(result.result, ChordError)
    assert str(result.result) == f"Dependency {failed.id} raised {failed.result!r}"


def test_a_bodys_errbacks_are_called_once_for_a_failed_header(
    notes: Callable[[], list[str]], call: Callable[..., Signature]
) -> None:
    body = call("echo")
    body.link_error(call("note"))
    body.link_error(call("told", "told"))
    result = chord([call("fail"), call("fail"), call("echo", 1)], body)()

    result.get(timeout=10, propagate=False)

    wait_until(lambda: len(notes()) == 2, what="both errbacks")
    assert sorted(notes()) == sorted([result.id, f"told {result.id} ChordError"])


def test_errbacks_of_a_group_body_are_called_for_each_of_its_tasks(
    notes: Callable[[], list[str]], call: Callable[..., Signature]
) -> None:
    body = group(call("echo"), call("echo"))
    body.link_error(call("note"))
    result = chord([call("fail")], body)()

    with pytest.raises((ValueError, ChordError)):
        result.get(timeout=10)
    wait_until(lambda: len(notes()) == 2, what="both errbacks")
    assert sorted(notes()) == sorted(one.id for one in result.results)


def test_callbacks_of_a_chord_are_its_bodys(notes: Callable[[], list[str]], call: Callable[..., Signature]) -> None:
    made = chord([call("echo", 1), call("echo", 2)], call("plus"))
    made.link(call("note"))

    assert made().get(timeout=10) == 3
    wait_until(lambda: notes() == ["3"], what="the callback")


def test_a_bodys_countdown_begins_when_the_header_has_ended(call: Callable[..., Signature]) -> None:
    header = [call("echo", 1).set(countdown=0.5)]
    result = chord(header, call("echo").set(countdown=0.5))()

    member = result.parent.results[0]
    assert result.get(timeout=10) == [1]
    assert (result.date_done - member.date_done).total_seconds() >= 0.45


def test_a_header_may_grow_while_it_runs(call: Callable[..., Signature]) -> None:
    assert sorted(chord([call("more", [1, 2, 3])], call("echo"))().get(timeout=10)) == [0, 1, 2, 3]


def test_a_member_whose_result_nobody_keeps_counts_all_the_same(call: Callable[..., Signature]) -> None:
    assert chord([call("quiet", 1), call("echo", 2)], call("echo"))().get(timeout=10) == [1, 2]


def test_a_frozen_chord_can_be_sent_again(call: Callable[..., Signature]) -> None:
    made = chord([call("echo", 1), call("echo", 2)], call("plus"))
    made.freeze()

    assert [made.apply_async().get(timeout=10) for _ in range(2)] == [3, 3]


def test_an_empty_header_calls_the_body_at_once(call: Callable[..., Signature]) -> None:
    assert chord([], call("echo"))().get(timeout=10) == []


# ── replacing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_replacement_has_the_id_the_chain_and_the_place_of_what_it_replaces(call: Callable[..., Signature]) -> None:
    instead = call("instead", dict(call("plus", 10)))

    assert instead.clone((1,)).delay().get(timeout=10) == 11
    assert chain(call("echo", 1), instead, call("plus", 100)).delay().get(timeout=10) == 111
    assert chord([instead.clone((1,)), call("echo", 2)], call("echo"))().get(timeout=10) == [11, 2]


def test_a_task_can_be_replaced_by_a_group_whose_list_is_its_result(call: Callable[..., Signature]) -> None:
    instead = call("instead", 1, dict(group(call("plus", 10), call("plus", 20))))

    assert instead.delay().get(timeout=10) == [11, 21]
    assert chord([instead, call("echo", 2)], call("echo"))().get(timeout=10) == [[11, 21], 2]


def test_replacements_are_counted(call: Callable[..., Signature]) -> None:
    assert call("nesting", 3).delay().get(timeout=10) == 3


# ── maps, stamps, results ────────────────────────────────────────────────────────────────────────────────────────────


def test_maps_and_chunks_call_a_task_for_each_item(client: Celery, call: Callable[..., Signature]) -> None:
    assert xmap(call("echo"), [1, 2, 3], app=client).delay().get(timeout=10) == [1, 2, 3]
    parts = chunks(call("pair"), [(i, i) for i in range(5)], 2, app=client).apply_async().get(timeout=10)
    assert parts == [[[0, 0], [1, 1]], [[2, 2], [3, 3]], [[4, 4]]]


def test_stamps_arrive_with_every_call(call: Callable[..., Signature]) -> None:
    class Numbered(StampingVisitor):
        def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
            return {"stamp": "mine"}

    canvas = chord([call("stamps"), call("stamps")], call("pair", "x"))
    canvas.stamp(Numbered())

    assert canvas().get(timeout=10) == [[{"stamp": "mine"}] * 2, "x"]


def test_what_a_task_has_called_can_be_collected(client: Celery, call: Callable[..., Signature]) -> None:
    result = call("calls", 10).delay()

    value = result.get(timeout=10)

    made = result_from_tuple(value, app=client)
    assert made.get(timeout=10) == [10, 11, 12]
    assert result.children == [made]
    found = list(result.collect())
    assert [node.id for node, _ in found] == [result.id, made.id, *(one.id for one in made.results)]
    assert result.get_leaf() == 12


def test_a_tree_that_has_not_ended_says_so(call: Callable[..., Signature]) -> None:
    with pytest.raises(IncompleteStream):
        list(call("echo", 1).apply_async(countdown=60).iterdeps())


def test_a_signature_is_the_dict_that_celery_makes_of_it(call: Callable[..., Signature]) -> None:
    one = call("plus", 1)
    form = {"task": "proj.plus", "args": [1], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}

    assert json.loads(json.dumps(one)) == form
    together = json.loads(json.dumps(chord([one], one)))
    assert (together["task"], together["subtask_type"]) == ("celery.chord", "chord")
    assert together["kwargs"] == {"kwargs": {}, "header": [form], "body": form}
    assert json.loads(json.dumps(group(one, one)))["kwargs"] == {"tasks": [form, form]}
    steps = json.loads(json.dumps(one | one))
    assert (steps["task"], steps["subtask_type"], steps["kwargs"]) == ("celery.chain", "chain", {"tasks": [form, form]})
    assert isinstance(signature(steps), _chain)


# ── ways of sending ──────────────────────────────────────────────────────────────────────────────────────────────────


def _sent(app: Celery, send: Callable[[], object]) -> list[str]:
    """What is sent, as text, with every id made the same."""
    with app.sender.catching() as caught:
        send()
    texts = []
    for item in caught:
        fields = {name: getattr(item, name) for name in item.__struct_fields__}
        if isinstance(item, wire.Task):
            fields["head"], fields["body"] = read_head(item.head), json.loads(item.body)
        else:
            fields["body"] = bytes(item.body)
        texts.append(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "an-id", repr(fields)))
    return texts


@pytest.mark.parametrize(
    "shape",
    [
        lambda add, total: group(add.s(n, y=n) for n in range(3)),
        lambda add, total: group([add.s(n) for n in range(3)], immutable=True),
        lambda add, total: group(add.si(1, 2), group(add.s(3), add.s(4)), add.s("é", y=[1.5, None])),
        lambda add, total: group(add.s(1, 2), add.s(1).set(queue="other"), add.s(1) | add.s(2)),
        lambda add, total: group(add.s({1, 2}.pop(), y={"a": ("b",)})),
        lambda add, total: chord([add.s(n, n) for n in range(3)], total.s()),
        lambda add, total: chord((add.s(n, n) for n in range(3)), total.s(5)),
        lambda add, total: chord([add.s(1), add.s(2) | add.s(3)], total.s() | total.s()),
    ],
)
def test_members_by_the_short_way_are_those_of_the_long_one(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, shape: Callable[..., Any]
) -> None:
    with Celery("ways", broker=sandbox.url, set_as_current=False) as app:
        app.conf.ship_callables = False
        add = app.task(lambda x, y=0: None, name="ways.add", shared=False, typing=False)
        total = app.task(lambda *x: None, name="ways.total", shared=False, typing=False)
        short = _sent(app, lambda: shape(add, total).apply_async((7,) if shape(add, total)["subtask_type"] else ()))

        monkeypatch.setattr(Members, "prepare", lambda *call: None)
        long = _sent(app, lambda: shape(add, total).apply_async((7,) if shape(add, total)["subtask_type"] else ()))
        assert short
        assert short == long


def test_the_next_of_a_chain_by_the_short_way_is_what_it_is_by_the_long_one(client: Celery) -> None:
    family = client.signature("proj.family")
    plus = client.signature("proj.plus", kwargs={"k": 1})

    def told(step: Signature, *more: Signature) -> Any:
        result = chain(plus.clone((1,)), step, *more).apply_async()
        for _ in more:
            result = result.parent
        found = result.get(timeout=20)
        ids = {result.id: "own", result.parent.id: "parent"}
        children = [(child.id in {r.id for r in result.children}) for child in result.parent.children or ()]
        return [ids.get(one, one) if isinstance(one, str) else one for one in found], children

    short, long = family.clone(), family.clone().set(shadow="proj.family")
    assert told(short) == told(long)
    echo = client.signature("proj.echo")
    assert told(short, echo) == told(long, echo)


def test_a_chains_steps_are_there_for_who_asks_though_only_the_last_result_is_sent(
    client: Celery, call: Callable[..., Signature]
) -> None:
    one = {"k": 1}
    last = chain(call("plus", 1, kwargs=one), call("plus", kwargs=one), call("plus", kwargs=one)).apply_async()
    assert last.get(timeout=20) == 4
    inbox = client.client.producer._results
    assert last.parent.id not in inbox
    assert (last.parent.get(timeout=5), last.parent.parent.get(timeout=5)) == (3, 2)
    # before it has ended, too: it is told when it does
    first = chain(call("plus", 5), call("plus")).apply_async().parent
    assert first.get(timeout=20) == 5
