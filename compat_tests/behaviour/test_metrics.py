"""Figures for Prometheus, and whether a node or a worker works."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_until
from zerocelery import Celery
from zerocelery.bin.metrics import exposition, node_figures, worker_figures

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed (the extra: metrics)")


def test_a_nodes_figures_have_each_queue() -> None:
    status = {
        "uptime": 3.5, "results": 2, "inboxes": 1, "workers": [{"running": ["a"]}, {"running": []}],
        "counters": {"accepted": 7},
    }  # fmt: skip
    queues = {"celery": {"waiting": 4, "scheduled": 1, "leased": 2, "dead": 0, "oldest": 1.5}}
    text = exposition(list(node_figures({**status, "queues": queues})))[0].decode()
    assert 'zerocelery_queue_waiting{queue="celery"} 4.0' in text
    assert 'zerocelery_queue_oldest_seconds{queue="celery"} 1.5' in text
    assert "zerocelery_node_accepted_total 7.0" in text
    assert "zerocelery_node_running 1.0" in text
    assert "zerocelery_node_worker_processes 2.0" in text


def test_a_workers_figures_have_each_task() -> None:
    stats = {"total": {"proj.add": 3}, "uptime": 5, "pool": {"processes": [1, 2], "max-concurrency": 2}}
    text = exposition(list(worker_figures("w@h", stats, [{"id": "x"}])))[0].decode()
    assert 'zerocelery_worker_tasks_total{task="proj.add",worker="w@h"} 3.0' in text
    assert 'zerocelery_worker_running{worker="w@h"} 1.0' in text
    assert 'zerocelery_worker_processes{worker="w@h"} 2.0' in text


@pytest.fixture
def port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    """A page's status, and the page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:  # nobody is there, or not any more
        return 0, ""


def test_a_node_serves_both_pages_and_is_ill_while_it_is_stopped(sandbox: Sandbox, port: int) -> None:
    node = sandbox.python("-m", "zerocelery", "node", "-b", sandbox.url, "--metrics", f"127.0.0.1:{port}")
    wait_until(lambda: get(port, "/health")[0] == 200, what="health")
    code, text = get(port, "/metrics")
    assert code == 200
    assert "zerocelery_node_uptime_seconds" in text
    assert get(port, "/other")[0] == 404
    os.kill(node.pid, signal.SIGSTOP)
    code, text = get(port, "/health")
    assert code == 503
    assert json.loads(text)["status"] == "ill"
    os.kill(node.pid, signal.SIGCONT)
    wait_until(lambda: get(port, "/health")[0] == 200, what="health again")
    node.terminate()
    assert node.wait(PATIENCE) == 0, sandbox.output(node)
    wait_until(lambda: get(port, "/health")[0] == 0, what="the end of the pages")


def test_the_pages_end_with_a_node_that_is_killed(sandbox: Sandbox, port: int) -> None:
    node = sandbox.python("-m", "zerocelery", "node", "-b", sandbox.url, "--metrics", f"127.0.0.1:{port}")
    wait_until(lambda: get(port, "/health")[0] == 200, what="health")
    node.kill()
    node.wait(PATIENCE)
    wait_until(lambda: get(port, "/health")[0] == 0, what="the end of the pages")


@pytest.mark.parametrize("given", ["9540", "host:", "127.0.0.1:http"])
def test_what_is_no_address_is_said(sandbox: Sandbox, given: str) -> None:
    node = sandbox.python("-m", "zerocelery", "node", "-b", sandbox.url, "--metrics", given)
    assert node.wait(PATIENCE) == 2
    assert "write HOST:PORT" in sandbox.output(node)


def test_a_port_that_is_taken_is_said(sandbox: Sandbox) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        taken = f"127.0.0.1:{sock.getsockname()[1]}"
        node = sandbox.python("-m", "zerocelery", "node", "-b", sandbox.url, "--metrics", taken)
        assert node.wait(PATIENCE) == 2
    assert f"{taken} can't be listened at" in sandbox.output(node)


def test_a_worker_serves_its_own(sandbox: Sandbox, running_worker: Callable[..., str], port: int) -> None:
    project = "from zerocelery import Celery\napp = Celery('proj')\n@app.task\ndef add(x, y): return x + y\n"
    url = running_worker(project, "-c", "1", "-n", "w1@here", "--metrics", f"127.0.0.1:{port}")
    with Celery("client", broker=url, set_as_current=False) as app:
        assert app.send_task("proj.add", [1, 2]).get(timeout=PATIENCE) == 3
    wait_until(lambda: get(port, "/health")[0] == 200, what="health")
    code, text = get(port, "/metrics")
    assert code == 200
    assert 'zerocelery_worker_tasks_total{task="proj.add",worker="w1@here"} 1.0' in text
    assert 'zerocelery_worker_processes{worker="w1@here"} 1.0' in text
