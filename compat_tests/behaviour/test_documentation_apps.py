"""The apps of Celery's documentation ("First Steps", "Next Steps", "Canvas"), unchanged but for the import.

They name the broker and the result backend that the documentation names; the environment says that it is a node.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from compat_tests.conftest import PATIENCE, Sandbox

NODE = {"CELERY_BROKER_URL": "zmq://", "CELERY_RESULT_BACKEND": "zmq://"}


def ours(source: str) -> str:
    """The import is what changes."""
    return re.sub(r"^(\s*)(from|import) celery\b", r"\1\2 zerocelery", source, flags=re.MULTILINE)


@contextlib.contextmanager
def worker(sandbox: Sandbox, app: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """``celery -A app worker`` until the block ends, and then a warm shutdown."""
    process = sandbox.python("-m", "zerocelery", "-A", app, "worker", "-c", "2", *options, env=NODE)
    sandbox.wait_for_output(process, "ready.")
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, sandbox.output(process)


def session(sandbox: Sandbox, source: str) -> None:
    """What a reader types into a shell."""
    process = sandbox.script(ours(source), env=NODE)
    assert process.wait(PATIENCE) == 0, sandbox.output(process)


def command(sandbox: Sandbox, *arguments: str) -> str:
    """A ``celery`` command's output."""
    process = sandbox.python("-m", "zerocelery", *arguments, env=NODE)
    assert process.wait(PATIENCE) == 0, sandbox.output(process)
    return sandbox.output(process)


# ── First Steps with Celery ──────────────────────────────────────────────────────────────────────────────────────────

FIRST_STEPS = """
from celery import Celery

app = Celery('tasks', backend='rpc://', broker='pyamqp://guest@localhost//')
app.config_from_object('celeryconfig')

@app.task
def add(x, y):
    return x + y

@app.task
def div(x, y):
    return x / y
"""

CELERYCONFIG = """
broker_url = 'pyamqp://'
result_backend = 'rpc://'

task_serializer = 'json'
result_serializer = 'json'
accept_content = ['json']
timezone = 'Europe/Oslo'
enable_utc = True

task_annotations = {
    'tasks.add': {'rate_limit': '6000/m'}
}
"""


def test_first_steps(sandbox: Sandbox) -> None:
    sandbox.write("tasks.py", ours(FIRST_STEPS))
    sandbox.write("celeryconfig.py", CELERYCONFIG)
    with worker(sandbox, "tasks", "--loglevel=INFO") as process:
        session(
            sandbox,
            """
            from tasks import add, app, div

            result = add.delay(4, 4)
            assert result.get(timeout=20) == 8
            assert result.ready()
            assert add.rate_limit == '6000/m'
            assert str(app.conf.timezone) == 'Europe/Oslo'

            broken = div.delay(1, 0)
            try:
                broken.get(timeout=20)
            except ZeroDivisionError as error:
                assert str(error) == 'division by zero'
            else:
                raise AssertionError('nothing was raised')
            assert isinstance(broken.get(propagate=False), ZeroDivisionError)
            assert 'ZeroDivisionError: division by zero' in broken.traceback
            """,
        )
        output = sandbox.wait_for_output(process, "raised unexpected")
    assert ". tasks.add" in output, "the banner lists the tasks"
    assert re.search(r"Task tasks\.add\[\S+\] received", output)
    assert re.search(r"Task tasks\.add\[\S+\] succeeded in \S+s: 8", output)
    assert re.search(r"Task tasks\.div\[\S+\] raised unexpected: ZeroDivisionError\('division by zero'\)", output)


# ── Next Steps ───────────────────────────────────────────────────────────────────────────────────────────────────────

PROJ_CELERY = """
from celery import Celery

app = Celery('proj',
             broker='amqp://',
             backend='rpc://',
             include=['proj.tasks'])

# Optional configuration, see the application user guide.
app.conf.update(
    result_expires=3600,
    task_routes={
        'proj.tasks.add': {'queue': 'hipri'},
    },
)
app.conf.timezone = 'Europe/London'

if __name__ == '__main__':
    app.start()
"""

PROJ_TASKS = """
from .celery import app

@app.task
def add(x, y):
    return x + y

@app.task
def mul(x, y):
    return x * y

@app.task
def xsum(numbers):
    return sum(numbers)

@app.task
def describe(x, y, debug=False):
    return [x, y, debug]
"""

NEXT_STEPS = """
    from celery import chain, chord, group
    from proj.tasks import add, describe, mul, xsum

    # Calling tasks
    assert add(2, 2) == 4
    assert add.delay(2, 2).get(timeout=20) == 4
    assert add.apply_async((2, 2)).get(timeout=20) == 4
    assert add.apply_async((2, 2), queue='lopri', countdown=0.1).get(timeout=20) == 4

    res = add.delay(2, '2')
    try:
        res.get(timeout=20)
    except TypeError as error:
        assert 'unsupported operand type(s) for +' in str(error)
    else:
        raise AssertionError('nothing was raised')
    assert isinstance(res.get(propagate=False), TypeError)
    assert res.failed() and not res.successful()
    assert res.state == 'FAILURE'
    assert len(res.id) == 36

    # Signatures and partials
    assert str(add.signature((2, 2), countdown=0.1)) == 'proj.tasks.add(2, 2)'
    assert add.s(2, 2).delay().get(timeout=20) == 4
    s2 = add.s(2)
    assert s2.delay(8).get(timeout=20) == 10
    s3 = describe.s(2, 2, debug=True)
    assert s3.delay(debug=False).get(timeout=20) == [2, 2, False]

    # Groups
    assert group(add.s(i, i) for i in range(10))().get(timeout=20) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    g = group(add.s(i) for i in range(10))
    assert g(10).get(timeout=20) == [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]

    # Chains
    assert chain(add.s(4, 4) | mul.s(8))().get(timeout=20) == 64
    g = chain(add.s(4) | mul.s(8))
    assert g(4).get(timeout=20) == 64
    assert (add.s(4, 4) | mul.s(8))().get(timeout=20) == 64

    # Chords
    assert chord((add.s(i, i) for i in range(10)), xsum.s())().get(timeout=20) == 90
    assert (group(add.s(i, i) for i in range(10)) | xsum.s())().get(timeout=20) == 90
"""


def test_next_steps(sandbox: Sandbox) -> None:
    (sandbox.home / "proj").mkdir()
    sandbox.write("proj/__init__.py", "")
    sandbox.write("proj/celery.py", ours(PROJ_CELERY))
    sandbox.write("proj/tasks.py", ours(PROJ_TASKS))
    with worker(sandbox, "proj", "-Q", "hipri,lopri,celery", "-n", "w1@next", "-E"):
        session(sandbox, NEXT_STEPS)

        assert "w1@next: OK" in command(sandbox, "-A", "proj", "status")
        assert "1 node online" in command(sandbox, "-A", "proj", "status")
        assert "empty" in command(sandbox, "-A", "proj", "inspect", "active", "--destination=w1@next")
        for name in ("enable_events", "disable_events"):
            assert "OK" in command(sandbox, "-A", "proj", "control", name)


# ── Canvas: Designing Work-flows ─────────────────────────────────────────────────────────────────────────────────────

CANVAS = """
import os
from celery import Celery, signals

app = Celery('tasks', backend='redis://', broker='pyamqp://')

@app.task
def add(x, y):
    return x + y

@app.task
def mul(x, y):
    return x * y

@app.task
def tsum(numbers):
    return sum(numbers)

@app.task
def xsum(numbers):
    return sum(numbers)

@app.task
def error():
    raise ValueError('something went wrong')

@app.task
def log_error(request, exc, traceback):
    with open(os.path.join('errors', request.id), 'a') as fh:
        print('--\\n\\n{0} {1} {2}'.format(request.id, exc, traceback), file=fh)

@app.task
def on_chord_error(request, exc, traceback):
    print('Task {0!r} raised error: {1!r}'.format(request.id, exc))

@app.task(bind=True)
def stamps(self):
    return {name: self.request.stamps[name] for name in self.request.stamped_headers}
"""

CANVAS_SESSION = """
    import io
    import os
    import time
    from celery import chain, chord, group, signature
    from celery.canvas import StampingVisitor
    from celery.result import GroupResult
    from tasks import add, app, error, log_error, mul, on_chord_error, stamps, tsum, xsum

    # Signatures
    s = signature('tasks.add', args=(2, 2), countdown=10)
    assert (s.args, s.kwargs, s.options) == ((2, 2), {}, {'countdown': 10})
    assert ~add.s(2, 2) == 4
    partial = add.s(2)
    assert partial.clone(args=(4,), kwargs={}).args == (4, 2)
    assert add.apply_async((2, 2), link=add.si(8, 8)).get(timeout=20) == 4

    # Callbacks
    result = add.apply_async((2, 2), link=add.s(8))
    assert [value for _, value in result.collect(timeout=20)] == [4, 12]
    assert result.children[0].get(timeout=20) == 12

    # Error callbacks
    failed = error.apply_async(link_error=log_error.s())
    try:
        failed.get(timeout=20)
    except ValueError:
        pass
    path = os.path.join('errors', failed.id)
    until = time.monotonic() + 20
    while not os.path.exists(path) or 'something went wrong' not in open(path).read():
        assert time.monotonic() < until
        time.sleep(0.02)

    # Chains
    res = chain(add.s(2, 2), add.s(4), add.s(8))()
    assert res.get(timeout=20) == 16
    assert res.parent.get(timeout=20) == 8
    assert res.parent.parent.get(timeout=20) == 4
    assert (add.s(2, 2) | add.s(4) | add.s(8))().get(timeout=20) == 16
    assert (add.si(2, 2) | add.si(4, 4) | add.si(8, 8))().get(timeout=20) == 16
    assert (add.s(4, 4) | group(add.si(i, i) for i in range(3)))().get(timeout=20) == [0, 2, 4]
    dot = io.StringIO()
    res.graph.to_dot(dot)
    assert dot.getvalue().startswith('digraph')

    # Groups
    job = group([add.s(i, i) for i in (2, 4, 8, 16, 32)])
    result = job.apply_async()
    assert result.join(timeout=20) == [4, 8, 16, 32, 64]
    assert result.ready() and result.successful() and not result.failed() and not result.waiting()
    assert result.completed_count() == 5
    result.save()
    assert GroupResult.restore(result.id, app=app).get(timeout=20) == [4, 8, 16, 32, 64]

    # Chords
    callback = tsum.s()
    header = [add.s(i, i) for i in range(100)]
    assert chord(header)(callback).get(timeout=20) == 9900
    assert chord((add.s(i, i) for i in range(10)), tsum.s()).apply_async().get(timeout=20) == 90
    broken = chord([add.s(4, 4), error.s(), add.s(8, 8)])(xsum.s().on_error(on_chord_error.s()))
    try:
        broken.get(timeout=20)
    except Exception as raised:
        assert 'something went wrong' in str(raised), raised
    else:
        raise AssertionError('nothing was raised')

    # Map, starmap, chunks
    assert ~xsum.map([list(range(10)), list(range(100))]) == [45, 4950]
    assert ~add.starmap(zip(range(10), range(10))) == [i + i for i in range(10)]
    chunks = add.chunks(zip(range(100), range(100)), 10)
    assert chunks().get(timeout=20) == [[i + i for i in range(n, n + 10)] for n in range(0, 100, 10)]
    skewed = chunks.group()
    skewed.skew(start=1, stop=10)
    assert [task.options['countdown'] for task in skewed.tasks] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]

    # Stamping
    class MonitoringIdStampingVisitor(StampingVisitor):
        def on_signature(self, sig, **headers):
            return {'monitoring_id': 'one', 'stamped_headers': ['monitoring_id']}

    canvas = group(stamps.s(), stamps.s())
    canvas.stamp(MonitoringIdStampingVisitor())
    assert canvas.apply_async().get(timeout=20) == [{'monitoring_id': 'one'}, {'monitoring_id': 'one'}]
    single = stamps.s()
    single.stamp(purpose='test')
    assert single.apply_async().get(timeout=20) == {'purpose': 'test'}
"""


@pytest.mark.timeout(120)
def test_canvas(sandbox: Sandbox) -> None:
    (sandbox.home / "errors").mkdir()
    sandbox.write("tasks.py", ours(CANVAS))
    with worker(sandbox, "tasks"):
        session(sandbox, CANVAS_SESSION)
