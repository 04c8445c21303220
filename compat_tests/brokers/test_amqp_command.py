"""``zerocelery amqp``: a broker's own commands, from stdin, one line each."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, require_server

STORY = """
queue.declare zc-amqp
exchange.declare zc-amqp-x direct
queue.bind zc-amqp zc-amqp-x key
basic.publish hello zc-amqp-x key
basic.get zc-amqp
basic.publish again zc-amqp-x key
queue.purge zc-amqp
basic.get zc-amqp
nonsense
basic.get "open
queue.declare zc-amqp yes please
queue.delete zc-amqp
exit
queue.declare never-reached
"""


def amqp(sandbox: Sandbox, url: str, *arguments: str, given: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "zerocelery", "-b", url, "amqp", *arguments],
        env=sandbox.environment, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("server", "port", "url"),
    [("RabbitMQ", 5672, "amqp://guest@127.0.0.1//"), ("Redis", 6379, "redis://127.0.0.1:6379/12")],
)
def test_a_story(sandbox: Sandbox, server: str, port: int, url: str) -> None:
    require_server(server, port)
    code, out, err = amqp(sandbox, url, given=STORY)
    assert code == 0, err
    lines = [line for line in out.splitlines() if not line.startswith(("->", " ", "{"))]
    assert lines == [
        "queue:zc-amqp messages:0 consumers:0", "OK", "OK", "OK", "OK", "OK", "OK", "1 messages deleted.", "OK",
        "No messages in queue. basic.publish something.", "OK", "0 messages deleted.", "OK",
    ]  # fmt: skip
    assert "'body': 'hello'" in out
    for wrong in ("No such command 'nonsense'", "No closing quotation", "'please' is not a valid boolean"):
        assert wrong in err
    assert "never-reached" not in out
    amqp(sandbox, url, "exchange.delete", "zc-amqp-x")


def test_what_rabbitmq_refuses_is_one_sentence_and_the_shell_goes_on(sandbox: Sandbox) -> None:
    require_server("RabbitMQ", 5672)
    given = "basic.publish x zc-nowhere key\nqueue.declare zc-amqp-2\nqueue.delete zc-amqp-2"
    code, out, err = amqp(sandbox, "amqp://guest@127.0.0.1//", given=given)
    assert code == 0
    assert re.search(r"the broker refuses that: .*no exchange 'zc-nowhere'", err)
    assert out.count("-> connected.") == 2
    assert out.rstrip().endswith("OK")
    assert amqp(sandbox, "amqp://guest@127.0.0.1//", "queue.declare", "zc-amqp-none", "yes")[0] == 1


def test_a_node_has_none_of_these(sandbox: Sandbox) -> None:
    code, _, err = amqp(sandbox, sandbox.url, "queue.declare", "x")
    assert code == 2
    assert "a node has no exchanges" in err
    code, _, err = amqp(sandbox, "redis://127.0.0.1:1/0", "queue.declare", "x")
    assert code == 69
    assert "can't be reached" in err
