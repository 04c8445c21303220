"""The command line: what each command prints, and the code that it exits with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psutil
import pytest
from click.testing import CliRunner, Result

from compat_tests.conftest import PATIENCE, Sandbox, wait_until
from zerocelery import _state
from zerocelery.bin.celery import COMMANDS, celery
from zerocelery.bin.worker import concurrency_number

PROJECT = '''
from zerocelery import Celery
from zerocelery.utils.log import get_task_logger

app = Celery("proj")

@app.task
def add(x, y):
    """Add."""
    return x + y

@app.task
def fail():
    get_task_logger("proj").info("on it")
    raise ValueError("boom")
'''


def run(sandbox: Sandbox, *arguments: str, given: str = "", env: dict[str, str] | None = None) -> tuple[int, str]:
    """The program, to its end: its exit code, and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "zerocelery", *arguments],
        cwd=sandbox.home, env={**sandbox.environment, **(env or {})}, input=given.encode(), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode()


@pytest.fixture
def node(sandbox: Sandbox) -> Iterator[str]:
    """A node alone, with a project beside it: nobody takes what is sent."""
    sandbox.write("proj.py", PROJECT)
    process = sandbox.python("-m", "zerocelery", "node", "-b", sandbox.url)
    sandbox.wait_for_output(process, "node")
    yield sandbox.url
    process.terminate()
    assert process.wait(PATIENCE) == 0, sandbox.output(process)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The program within this process, over a broker in memory."""
    for name in list(os.environ):
        if name.startswith("CELERY_"):
            monkeypatch.delenv(name)
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_LOADER", "CELERY_CONFIG_MODULE"):
        monkeypatch.setenv(name, "")  # what the program sets is to be gone with the test
    monkeypatch.setattr(_state, "default_app", None)  # an app of an earlier test has its own broker
    monkeypatch.setattr(_state._tls, "current_app", None)

    def call(*arguments: str, given: str | None = None) -> Result:
        return CliRunner().invoke(celery, ["-b", "memory://", *arguments], input=given)

    return call


# ── the program ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_and_is_imported_only_when_it_is_called(command: str) -> None:
    result = CliRunner().invoke(celery, [command, "--help"])
    assert result.exit_code == 0, result.output
    assert "sage:" in result.output


def test_help_costs_no_import_of_commands() -> None:
    program = "import sys; from zerocelery.bin.celery import celery; celery(['--help'], standalone_mode=False); " \
        "print(sorted(m for m in sys.modules if m.startswith(('zerocelery.bin.', 'kombu', 'zmq'))))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE)
    loaded = done.stdout.splitlines()[-1]
    assert "zerocelery.bin.worker" not in loaded
    assert "kombu" not in loaded
    assert "zmq" not in loaded


@pytest.mark.parametrize(("wrong", "right"), [("wurker", "worker"), ("statsu", "status"), ("inspct", "inspect")])
def test_a_wrong_name_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    result = CliRunner().invoke(celery, [wrong])
    assert result.exit_code == 2
    assert f"did you mean {right!r}" in result.output


def test_an_option_of_the_program_behind_the_command_is_put_right() -> None:
    result = CliRunner().invoke(celery, ["inspect", "-A", "proj", "ping"])
    assert result.exit_code == 2
    assert "-A belongs before the command: zerocelery -A proj inspect" in result.output


def test_completion_for_the_shell(sandbox: Sandbox) -> None:
    program = Path(sys.executable).with_name("zerocelery")
    asked = {**sandbox.environment, "_ZEROCELERY_COMPLETE": "bash_complete", "COMP_WORDS": "zerocelery in"}
    done = subprocess.run([program], env={**asked, "COMP_CWORD": "1"}, capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["plain,inspect"]
    asked["COMP_WORDS"] = "zerocelery purge --f"
    done = subprocess.run([program], env={**asked, "COMP_CWORD": "2"}, capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["plain,--force"]


def test_a_command_of_an_installed_package_works(sandbox: Sandbox) -> None:
    sandbox.write("proj.py", PROJECT)
    sandbox.write(
        "plug.py",
        """
        import click
        @click.command()
        @click.pass_context
        def greet(ctx):
            "Say who it is."
            click.echo(f"hello from {ctx.obj.app.main}")
        """,
    )
    info = sandbox.home / "plug-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[celery.commands]\ngreet = plug:greet\nbroken = nowhere:command\n")
    assert run(sandbox, "-A", "proj", "greet") == (0, "hello from proj\n")
    code, text = run(sandbox, "--help")
    assert code == 0
    assert "Say who it is." in text
    code, text = run(sandbox, "broken")
    assert code == 1
    assert "can't be loaded" in text


def test_options_that_an_app_adds_go_to_its_signal_and_its_command(sandbox: Sandbox) -> None:
    sandbox.write(
        "proj.py",
        """
        import click
        from zerocelery import Celery
        from zerocelery.signals import user_preload_options
        app = Celery("proj")
        app.user_options["preload"].add(click.Option(["--ini"]))
        @user_preload_options.connect
        def told(app, options, **kwargs):
            print("ini is", options["ini"])
        """,
    )
    code, text = run(sandbox, "-A", "proj", "report", "--ini", "a.ini")
    assert code == 0, text
    assert "ini is a.ini" in text


def _all_commands(name: str, command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        inner = click.Context(command, parent=ctx, info_name=name)
        for each in command.list_commands(inner):
            found = command.get_command(inner, each)
            assert found is not None
            yield from _all_commands(f"{name} {each}".strip(), found, inner)


def test_every_option_and_argument_of_celery_5_7_is_there() -> None:
    """``cli_options.json``: what the commands of Celery 5.7 take."""
    theirs = json.loads(Path(__file__).with_name("cli_options.json").read_text())
    ours = dict(_all_commands("", celery, click.Context(celery)))
    missing = []
    for name, wanted in theirs.items():
        params = ours[name].params if name in ours else []
        options = {opt for p in params if isinstance(p, click.Option) for opt in (*p.opts, *p.secondary_opts)}
        missing += [f"{name} {option}" for option in wanted["options"] if option not in options]
        assert [p.name for p in params if isinstance(p, click.Argument)] == wanted["arguments"], name
    assert not missing


def test_settings_behind_the_options(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    url = running_worker(PROJECT, "-c", "1", "--", ".prefetch_multiplier=7", "task_track_started=true")
    code, text = run(sandbox, "-b", url, "inspect", "conf", "-j")
    assert code == 0, text
    (conf,) = json.loads(text).values()
    assert conf["worker_prefetch_multiplier"] == 7
    assert conf["task_track_started"] is True
    assert "task_time_limit" not in conf  # nobody has set it


@pytest.mark.parametrize("command", ["worker", "beat"])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("extra", "'extra' is no option and no setting"),
        ("prefetch_multiplier=1", "did you mean 'worker_prefetch_multiplier'?"),
        ("worker_prefetch_multiplier=x", "'worker_prefetch_multiplier': invalid literal"),
    ],
)
def test_what_is_no_setting_is_refused(invoke: Callable[..., Result], command: str, word: str, said: str) -> None:
    result = invoke(command, "--", word)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("command", ["worker", "beat", "purge"])
def test_a_broker_that_nobody_knows_is_one_sentence(invoke: Callable[..., Result], command: str) -> None:
    result = invoke("-b", "nope://x", command, *(["-f"] if command == "purge" else []))
    assert result.exit_code == 2
    assert "nope" in result.output
    assert "another that kombu knows" in result.output


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_call_prints_the_id_and_result_the_value(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    url = running_worker(PROJECT, "-c", "1")
    code, printed = run(sandbox, "-A", "proj", "-b", url, "call", "proj.add", "-a", "[1, 2]")
    assert code == 0, printed
    assert re.fullmatch(r"[0-9a-f-]{36}\n", printed)
    assert run(sandbox, "-A", "proj", "-b", url, "result", printed.strip()) == (0, "3\n")
    failing = run(sandbox, "-A", "proj", "-b", url, "call", "proj.fail")[1].strip()
    code, text = run(sandbox, "-A", "proj", "-b", url, "result", failing)
    assert code == 1
    assert text.rstrip().endswith("ValueError: boom")
    code, text = run(sandbox, "-A", "proj", "-b", url, "result", failing, "--traceback")
    assert code == 0
    assert text.startswith("Traceback (most recent call last):")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-a", "[1,"], "is no JSON"),
        (["-a", "{}"], "is no JSON array"),
        (["-k", "[]"], "is no JSON object"),
        (["--eta", "tomorrow"], "is no point in time"),
        (["--expires", "soon"], "is no point in time"),
        (["--countdown", "x"], "not a valid float"),
        (["--serializer", "nope"], "No encoder installed for nope"),
    ],
)
def test_call_refuses_what_it_can_not_read(invoke: Callable[..., Result], options: list[str], reason: str) -> None:
    result = invoke("call", "proj.add", *options)
    assert result.exit_code == 2
    assert reason in result.output


def test_call_where_nobody_answers_exits_with_69(sandbox: Sandbox) -> None:
    sandbox.write("proj.py", PROJECT + "app.conf.broker_transport_options = {'connect_timeout': 0.2}\n")
    code, text = run(sandbox, "-A", "proj", "call", "proj.add", env={"ZEROCELERY_HOME": str(sandbox.home / "x")})
    assert code == 69
    assert "no node" in text
    assert "Traceback" not in text


def test_purge_removes_what_waits_in_a_node_and_counts_it(sandbox: Sandbox, node: str) -> None:
    for _ in range(3):
        assert run(sandbox, "-A", "proj", "-b", node, "call", "proj.add")[0] == 0
    refused = run(sandbox, "-A", "proj", "-b", node, "purge", given="n\n")
    assert refused[0] == 1
    assert "Aborted" in refused[1]
    code, text = run(sandbox, "-A", "proj", "-b", node, "purge", "-f")
    assert (code, text) == (0, "Purged 3 messages from 1 known task queue.\n")
    assert run(sandbox, "-A", "proj", "-b", node, "purge", "-f") == (0, "No messages purged from 1 queue.\n")
    assert run(sandbox, "-A", "proj", "-b", node, "purge", "-f", "-X", "celery") == (0, "")


def test_purge_over_a_broker(invoke: Callable[..., Result]) -> None:
    queue = "cli-purged"
    assert invoke("call", "proj.add", "--queue", queue).exit_code == 0
    result = invoke("purge", "-f", "-Q", queue)
    assert result.output == "Purged 1 message from 1 known task queue.\n"
    assert invoke("purge", "-f", "-Q", queue).output == "No messages purged from 1 queue.\n"


def test_status_of_a_node_without_workers_shows_its_queues_and_exits_with_69(sandbox: Sandbox, node: str) -> None:
    run(sandbox, "-A", "proj", "-b", node, "call", "proj.add")
    code, text = run(sandbox, "-b", node, "status", "--node")
    assert code == 69
    assert "queue celery: 1 waiting" in text
    code, text = run(sandbox, "-b", node, "status", "--node", "--json")
    assert code == 69
    assert json.loads(text)["queues"]["celery"]["waiting"] == 1


def test_list_bindings(invoke: Callable[..., Result], sandbox: Sandbox, node: str) -> None:
    heads = "Queue                        Exchange                     Routing Key"
    result = invoke("list", "bindings")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0] == heads
    assert run(sandbox, "-b", node, "list", "bindings")[1].splitlines()[2].split() == ["celery"] * 3


def test_report_stars_passwords_out(invoke: Callable[..., Result]) -> None:
    result = CliRunner().invoke(celery, ["-b", "redis://:secret@localhost:1/0", "report"])
    assert result.exit_code == 0, result.output
    assert "software ->" in result.output
    assert "secret" not in result.output


def test_shell_knows_the_app_and_its_tasks(sandbox: Sandbox) -> None:
    sandbox.write("proj.py", PROJECT)
    code, text = run(sandbox, "-A", "proj", "shell", "--python", given="print(app is celery, add.name, group)\n")
    assert code == 0, text
    assert "True proj.add <class 'zerocelery.canvas" in text
    code, text = run(sandbox, "-A", "proj", "shell", "--python", "-T", given="add\n")
    assert "NameError" in text


def test_graph_is_dot(invoke: Callable[..., Result]) -> None:
    result = invoke("graph", "bootsteps")
    assert result.exit_code == 0
    assert result.output.startswith("digraph dependencies {")
    assert '"Worker" -> "Node"' in result.output
    result = invoke("graph", "workers", "nodes:w1,w2", "threads:2,1")
    assert '"w1 2" -> "w1"' in result.output
    assert '"w2 2"' not in result.output


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_upgrade_renames_settings_and_nothing_else(invoke: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "celeryconfig.py"
    file.write_text("BROKER_URL = 'x'\nCELERY_RESULT_BACKEND = 'y'\nMY_BROKER_URL = 1\n")
    result = invoke("upgrade", "settings", str(file), "--compat")
    assert result.exit_code == 0, result.output
    assert file.read_text() == "BROKER_URL = 'x'\nRESULT_BACKEND = 'y'\nMY_BROKER_URL = 1\n"
    assert (tmp_path / "celeryconfig.py.orig").read_text().startswith("BROKER_URL")
    missing = invoke("upgrade", "settings", str(tmp_path / "nothing.py"))
    assert missing.exit_code == 1
    assert "can't be rewritten" in missing.output


LOG = """\
 -------------- w1@host v5 (banner)
[2026-11-24 00:15:58,790: INFO/MainProcess] w1@host ready.
[2026-11-24 00:15:58,790: INFO/MainProcess] Task proj.add[a1] received
[2026-11-24 00:15:58,815: INFO/ForkPoolWorker-2] Task proj.add[a1] succeeded in 0.01s: 3
[2026-11-24 00:15:59,514: INFO/MainProcess] Task proj.fail[b2] received
[2026-11-24 00:15:59,525: ERROR/ForkPoolWorker-2] Task proj.fail[b2] raised unexpected: ValueError('boom')
Traceback (most recent call last):
  File "proj.py", line 10, in fail
ValueError: boom
[2026-11-24 00:15:59,600: INFO/MainProcess] Task proj.add[c3] received
"""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("stats", "Task total: 3\nTask errors: 1\nTask success: 1\nTask completed: 2\nTasks\n=====\nproj.add: 2"),
        ("traces", 'Traceback (most recent call last):\n  File "proj.py", line 10, in fail\nValueError: boom\n'),
        ("errors", LOG.splitlines()[5]),
        ("incomplete", "Did not complete: c3\n"),
        ("debug", LOG.splitlines()[1]),
    ],
)
def test_logtool(tmp_path: Path, command: str, expected: str) -> None:
    file = tmp_path / "worker.log"
    file.write_text(LOG)
    result = CliRunner().invoke(celery, ["logtool", command, str(file)])
    assert result.exit_code == 0, result.output
    assert expected in result.output
    assert "banner" not in result.output


def test_logtool_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(celery, ["logtool", "stats", str(tmp_path / "nothing.log")])
    assert result.exit_code == 1
    assert "can't be read" in result.output


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_node_logs_json(sandbox: Sandbox) -> None:
    process = sandbox.python("-m", "zerocelery", "node", "-b", sandbox.url, "--log-format", "json")
    text = sandbox.wait_for_output(process, "\n")
    process.terminate()
    assert process.wait(PATIENCE) == 0
    line = json.loads(text.splitlines()[0])
    assert line["level"] == "INFO"
    assert line["pid"] == process.pid
    assert line["message"]


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("given", "number"), [("4", 4), (" auto ", "auto"), ("AUTO", "auto"), ("0", None), ("", None)])
def test_concurrency_is_a_number_or_auto_and_0_is_what_settings_say(given: str, number: int | str | None) -> None:
    assert concurrency_number(given) == number


@pytest.mark.parametrize("given", ["-1", "many", "1.5"])
def test_what_is_no_concurrency_is_refused(given: str) -> None:
    with pytest.raises(click.BadParameter, match="take 1 or more, or auto"):
        concurrency_number(given)


def test_a_workers_log_in_json_names_the_task(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    url = running_worker(PROJECT, "-c", "1", "-l", "INFO", "--log-format", "json")
    task = run(sandbox, "-A", "proj", "-b", url, "call", "proj.fail")[1].strip()
    assert run(sandbox, "-A", "proj", "-b", url, "result", task)[0] == 1
    printed = sandbox.output(sandbox.processes[0]).splitlines()
    lines = [json.loads(line) for line in printed if line.startswith("{")]
    said = next(line for line in lines if line["message"] == "on it")
    assert (said["task_id"], said["task_name"], said["logger"]) == (task, "proj.fail", "proj")
    failed = next(line for line in lines if "raised unexpected" in line["message"])
    assert failed["level"] == "ERROR"
    assert "ValueError: boom" in failed["exception"]


def test_inspect_control_and_status_as_celery_prints_them(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    url = running_worker(PROJECT, "-c", "1", "-n", "w1@here")
    app = ("-A", "proj", "-b", url)
    assert run(sandbox, *app, "inspect", "ping") == (0, "->  w1@here: OK\n        pong\n\n1 node online.\n")
    assert run(sandbox, *app, "inspect", "ping", "--json") == (0, '{"w1@here": {"ok": "pong"}}\n')
    assert run(sandbox, *app, "inspect", "active") == (0, "->  w1@here: OK\n    - empty -\n\n1 node online.\n")
    code, text = run(sandbox, *app, "status")
    assert code == 0
    assert text.endswith("->  w1@here: OK\n\n1 node online.\n")
    assert run(sandbox, *app, "-q", "status") == (0, " w1@here: OK\n\n1 node online.\n")
    code, text = run(sandbox, *app, "control", "rate_limit", "proj.add", "10/s")
    assert (code, text) == (0, "->  w1@here: OK\n        new rate limit set successfully\n")
    code, text = run(sandbox, *app, "inspect", "-d", "nobody@here", "-t", "0.2", "ping")
    assert (code, text) == (69, "Error: No nodes replied within time constraint\n")
    code, text = run(sandbox, *app, "control", "pool_grow", "x")
    assert code == 2
    assert "'x' can't be its n" in text


def test_multi_starts_restarts_and_stops_workers_in_the_background(sandbox: Sandbox) -> None:
    sandbox.write("proj.py", PROJECT)
    app = ("-A", "proj", "-b", sandbox.url)
    files = (f"--pidfile={sandbox.home}/%n.pid", f"--logfile={sandbox.home}/%n%I.log")

    def multi(command: str, *names: str) -> tuple[int, str]:
        return run(sandbox, *app, "multi", command, *names, *files, "-c", "1", "-l", "INFO")

    def pid(name: str) -> int:
        file = sandbox.home / f"{name}.pid"
        return int(file.read_text() or 0) if file.exists() else 0

    code, text = multi("start", "w1", "w2")
    assert code == 0, text
    assert re.search(r"w1@\S+: OK\n\t> w2@\S+: OK", text)
    wait_until(lambda: pid("w1") and pid("w2"), what="pid files")

    def online() -> str:
        return run(sandbox, *app, "status")[1].splitlines()[-1]

    wait_until(lambda: online() == "2 nodes online.", what="two workers")
    first = pid("w1")
    code, text = multi("restart", "w1")
    assert code == 0, text
    wait_until(lambda: pid("w1") not in (0, first), what="another process")
    wait_until(lambda: online() == "2 nodes online.", what="two workers again")
    code, text = multi("stopwait", "w1", "w2")
    assert code == 0, text
    assert not (sandbox.home / "w1.pid").exists()
    assert "DOWN" in multi("stop", "w1")[1]
    assert multi("nonsense", "w1")[0] == 1
    assert "ready." in (sandbox.home / "w2.log").read_text()


def test_a_result_store_that_can_not_be_reached_is_one_sentence(sandbox: Sandbox) -> None:
    patience = "app.conf.result_backend_transport_options = {'retry_policy': {'max_retries': 1, 'interval_start': 0}}\n"
    sandbox.write("proj.py", PROJECT + patience)
    code, text = run(sandbox, "-A", "proj", "--result-backend", "redis://127.0.0.1:1/0", "result", "x")
    assert code == 69
    assert "the result store can't be asked" in text
    assert "Traceback" not in text


def test_a_camera_gets_snapshots(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    url = running_worker(PROJECT, "-c", "1", "-n", "w1@here")
    sandbox.write(
        "cameras.py",
        """
        from zerocelery.events.snapshot import Polaroid
        class Names(Polaroid):
            def on_shutter(self, state):
                print("there are", *state.workers, flush=True)
        """,
    )
    camera = sandbox.python("-m", "zerocelery", "-b", url, "events", "-c", "cameras.Names", "-F", "0.2")
    sandbox.wait_for_output(camera, "there are w1@here")


def test_events_are_dumped_as_lines(sandbox: Sandbox, running_worker: Callable[..., str]) -> None:
    url = running_worker(PROJECT, "-c", "1", "-n", "w1@here", "-E")
    dump = sandbox.python("-m", "zerocelery", "-b", url, "events", "--dump")
    sandbox.wait_for_output(dump, "heartbeat: active=0")
    task = run(sandbox, "-b", url, "call", "proj.add", "-a", "[1, 2]")[1].strip()
    text = sandbox.wait_for_output(dump, "task succeeded")
    assert f"task received: proj.add({task}) args=(1, 2) kwargs={{}} " in text
    assert re.search(r"w1@here \[\d{4}-\d\d-\d\d [\d:.]+\+00:00\] task succeeded: proj\.add\(", text)


def test_beat_runs_in_the_background_until_it_is_told_to_end(sandbox: Sandbox, node: str) -> None:
    app = ("-A", "proj", "-b", node, "beat", "-s", "schedule", "-l", "INFO")
    place = (f"--pidfile={sandbox.home}/beat.pid", f"--logfile={sandbox.home}/beat.log")
    code, text = run(sandbox, *app, "--detach", *place)
    assert code == 0, text
    log = sandbox.home / "beat.log"
    wait_until(lambda: log.exists() and "Starting" in log.read_text(), what="its log")
    pid = int((sandbox.home / "beat.pid").read_text())
    code, text = run(sandbox, *app, *place)
    assert code == 2
    assert "beat.pid is there already" in text
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not psutil.pid_exists(pid), what="its end")
    assert not (sandbox.home / "beat.pid").exists()
    (sandbox.home / "beat.pid").write_text(f"{pid}\n")  # as one that was killed leaves it
    code, text = run(sandbox, *app, "--detach", *place)
    assert code == 0, text

    def another() -> bool:
        file = sandbox.home / "beat.pid"
        return file.exists() and int(file.read_text() or pid) != pid

    wait_until(another, what="another beat")
