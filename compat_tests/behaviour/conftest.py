"""A worker with tasks of every kind, and a client that knows them by name only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from compat_tests.conftest import Sandbox, worker_process
from zerocelery import Celery

TASKS = '''
import time
from zerocelery import Celery, shared_task, signals
from zerocelery.exceptions import Ignore, Reject, Retry

app = Celery("proj")
app.conf.accept_content = ["json", "pickle", "yaml", "msgpack", "cloudpickle"]

class Odd(Exception):
    """An exception whose __init__ is not its args."""
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")

@app.task
def add(x, y):
    return x + y

@app.task
def echo(*args, **kwargs):
    return [list(args), kwargs]

@app.task
def note(task_id):
    return f"noted {task_id}"

@app.task
def fail(message):
    raise ValueError(message)

@app.task
def fail_oddly():
    raise Odd(1, 2)

@app.task
def unserialisable():
    return object()

@app.task(serializer="json")
def leave():
    raise SystemExit(3)

@app.task(bind=True, max_retries=3)
def until(self, wanted):
    if self.request.retries < wanted:
        raise self.retry(countdown=0.01, exc=KeyError("not yet"))
    return self.request.retries

@app.task(bind=True, max_retries=2)
def retry_by_hand(self):
    if self.request.retries < 1:
        raise Retry("by hand", when=0.01)
    return self.request.retries

@app.task(bind=True, autoretry_for=(OSError,), max_retries=2, retry_backoff=False, default_retry_delay=0.01)
def auto(self, wanted):
    if self.request.retries < wanted:
        raise OSError("flaky")
    return self.request.retries

@app.task(bind=True)
def about_me(self):
    r = self.request
    return {"id": r.id, "task": r.task, "retries": r.retries, "root_id": r.root_id, "parent_id": r.parent_id,
            "args": list(r.args), "kwargs": r.kwargs, "delivery_info": r.delivery_info, "headers": r.headers,
            "timelimit": r.timelimit, "expires": r.expires, "eta": r.eta, "origin": r.origin, "hostname": r.hostname,
            "called_directly": r.called_directly, "is_eager": r.is_eager, "mine": r.get("mine"),
            "lang": r.lang, "argsrepr": r.argsrepr,
            "correlation_id": r.correlation_id, "shadow": r.shadow, "stamps": r.stamps}

@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    time.sleep(0.3)
    return "done"

@app.task(bind=True)
def own_failure(self):
    self.update_state(state="FAILURE", meta=ValueError("told by hand"))
    raise Ignore()

@app.task
def reject():
    raise Reject("no", requeue=False)

@app.task(bind=True, acks_late=True)
def back_once(self):
    if not self.request.delivery_info["redelivered"]:
        raise Reject("not now", requeue=True)
    return self.request.delivery_info["redelivered"]

@app.task
def parent(x):
    return add.delay(x, 1).id

@app.task
def waits():
    return add.delay(1, 1).get(timeout=5)

@app.task(track_started=True)
def slow():
    time.sleep(0.5)
    return "slow"

@app.task(ignore_result=True)
def quiet():
    return 1

@shared_task
def shared(x):
    return x * 2

class Hooked(app.Task):
    seen = []
    def before_start(self, task_id, args, kwargs):
        self.seen.append("before_start")
    def on_success(self, retval, task_id, args, kwargs):
        self.seen.append(f"on_success {retval}")
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.seen.append(f"on_failure {exc} {type(einfo.exception).__name__}")
    def on_retry(self, exc, task_id, args, kwargs, einfo):
        self.seen.append(f"on_retry {exc}")
    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        self.seen.append(f"after_return {status}")

@app.task(base=Hooked, bind=True, max_retries=1)
def hooked(self, what):
    if what == "fail":
        raise ValueError("no")
    if what == "retry" and not self.request.retries:
        raise self.retry(exc=ValueError("later"), countdown=0.01)
    return what

@app.task
def hooks_seen():
    seen, Hooked.seen[:] = list(Hooked.seen), []
    return seen

class Counter(app.Task):
    name = "proj.Counter"
    count = 0
    def run(self, step=1):
        self.count += step
        return self.count

app.register_task(Counter())
'''


@pytest.fixture(scope="module")
def shared_worker(module_sandbox: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """A worker for all tests of a module, in one process, so that tasks may count on meeting each other."""
    with worker_process(module_sandbox, TASKS, "-P", "solo", "-c", "1") as process:
        yield process


@pytest.fixture
def worker_url(shared_worker: subprocess.Popen[bytes], module_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """The node of the module's worker; ``zmq://`` means it, too."""
    assert shared_worker.poll() is None, f"a test has ended it:\n{module_sandbox.output(shared_worker)}"
    monkeypatch.setenv("ZEROCELERY_HOME", str(module_sandbox.home))
    return module_sandbox.url


@pytest.fixture
def client(worker_url: str) -> Iterator[Celery]:
    """An app that knows the worker's tasks by name only."""
    with Celery("client", broker=worker_url, set_as_current=False) as app:
        app.conf.accept_content = ["json", "pickle", "yaml", "msgpack", "cloudpickle"]
        yield app
