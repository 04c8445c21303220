"""Real processes, told apart; and the word in which each worker says what it runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.conftest import wait_until
from zerocelery.engine import processes
from zerocelery.engine.processes import (
    ACCIDENT,
    NOTHING,
    TIME_LIMIT,
    LocalProcesses,
    Word,
    alive,
    give_cause,
    host_id,
    started,
)

NOBODY = 1 << 22  # the kernel's pids end here


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def machine(tmp_path: Path) -> LocalProcesses:
    return LocalProcesses(lambda pid: pid > 0, tmp_path)


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_process_is_known_by_its_start(child: subprocess.Popen[bytes]) -> None:
    since = started(child.pid)
    assert since > 0
    assert alive(child.pid, since)
    assert alive(child.pid, 0)  # where the start is not known
    assert not alive(child.pid, since - 1)  # another one with its number


def test_a_dead_process_is_not_alive_even_while_nobody_has_asked_for_its_status(
    child: subprocess.Popen[bytes],
) -> None:
    since = started(child.pid)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert not alive(child.pid, since)
    child.wait()
    assert not alive(child.pid, since)
    assert started(child.pid) == 0


@pytest.mark.parametrize("pid", [NOBODY, 1 << 40, (1 << 63) - 1, -5])
def test_what_is_no_process_is_not_alive(machine: LocalProcesses, pid: int) -> None:
    assert not alive(pid, 0)
    assert started(pid) == 0
    assert not machine.frozen(pid)


def test_a_stopped_process_is_seen(machine: LocalProcesses, child: subprocess.Popen[bytes]) -> None:
    assert not machine.frozen(child.pid)
    child.send_signal(signal.SIGSTOP)
    wait_until(lambda: machine.frozen(child.pid))
    assert machine.alive(child.pid, started(child.pid))
    child.send_signal(signal.SIGCONT)
    wait_until(lambda: not machine.frozen(child.pid))


def test_a_name_with_brackets_and_blanks_misleads_nobody() -> None:
    program = "open('/proc/self/comm', 'w').write('x) R 1 2 3 ('); print('set', flush=True); input()"
    with subprocess.Popen(
        [os.sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,  # type: ignore[attr-defined]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"set\n"
        assert alive(process.pid, started(process.pid))
        process.communicate(b"\n")


def test_without_proc_a_signal_tells(
    monkeypatch: pytest.MonkeyPatch, child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """As on systems that have no /proc."""
    monkeypatch.setattr(processes, "_stat", lambda pid: [])
    monkeypatch.setattr(processes, "Path", lambda path: tmp_path / "nothing")
    assert alive(child.pid, 0)
    assert not alive(NOBODY, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError))
        assert alive(child.pid, 0)


def test_this_machine_knows_itself(machine: LocalProcesses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.local(host_id())
    assert not machine.local("elsewhere")
    assert host_id() == host_id()
    monkeypatch.setattr(processes, "Path", lambda path: tmp_path / "nothing")
    monkeypatch.setattr(os, "readlink", lambda path: (_ for _ in ()).throw(OSError))
    assert host_id() == os.uname().nodename


def test_watching_is_somebody_elses_work(machine: LocalProcesses) -> None:
    assert machine.watch(5)
    assert not machine.watch(-5)
    assert not LocalProcesses().watch(5)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def word(tmp_path: Path) -> Iterator[Word]:
    one = Word(tmp_path, "w")
    one.renew()
    yield one
    one.close()


def test_a_word_says_which_task_was_started_last(machine: LocalProcesses, word: Word) -> None:
    assert machine.running(word.path) == NOTHING
    assert word.start(7)
    assert word.start((1 << 63) - 1)
    assert machine.running(word.path) == (1 << 63) - 1
    word.close()
    assert machine.running(word.path) == (1 << 63) - 1  # it outlives its worker


def test_a_revoked_word_lets_nothing_start(machine: LocalProcesses, word: Word) -> None:
    assert word.start(1)
    machine.revoke(word.path)
    assert not word.start(2)
    assert machine.running(word.path) == 2
    word.renew()
    assert word.start(3)


def test_a_removed_word_still_bans(machine: LocalProcesses, word: Word) -> None:
    """The node revokes, then removes; the worker still has the file."""
    machine.revoke(word.path)
    machine.discard(word.path)
    assert machine.running(word.path) is None
    assert not word.start(1)


def test_a_word_says_why_its_process_was_ended(machine: LocalProcesses, word: Word, tmp_path: Path) -> None:
    assert machine.cause(word.path) == (ACCIDENT, 0.0)
    word.start(5)
    give_cause(Path(word.path), TIME_LIMIT, 0.25)
    assert machine.cause(word.path) == (TIME_LIMIT, 0.25)
    assert machine.running(word.path) == 5
    assert word.start(6)
    give_cause(tmp_path / "nobody", TIME_LIMIT)  # it was quicker
    assert not (tmp_path / "nobody").exists()
    (tmp_path / "short").write_bytes(b"1234567")
    assert machine.cause(str(tmp_path / "short")) == machine.cause("/etc/hostname") == (ACCIDENT, 0.0)
    word.renew()
    assert machine.cause(word.path) == (ACCIDENT, 0.0)


def test_a_word_is_its_owners_only(word: Word) -> None:
    assert Path(word.path).stat().st_mode & 0o777 == 0o600


def test_where_no_word_can_be_made_there_is_none_and_the_worker_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    word = Word(tmp_path / "file", "w")
    word.renew()
    assert "keeps no word" in caplog.text
    assert word.path == ""
    assert word.start(7)
    assert not word.revoked


def test_a_word_may_be_let_go_of_twice(word: Word) -> None:
    word.close()
    word.close()


def test_without_a_directory_there_is_a_word_in_memory_only(machine: LocalProcesses) -> None:
    word = Word(None, "w")
    word.renew()
    assert word.path == ""
    assert word.start(5)
    assert machine.running(word.path) is None
    machine.revoke(word.path)
    machine.discard(word.path)
    word.close()


def test_a_word_that_is_cut_short_says_nothing(machine: LocalProcesses, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"1234567")
    assert machine.running(str(tmp_path / "short")) is None
    (tmp_path / "directory").mkdir()
    assert machine.running(str(tmp_path / "directory")) is None


@pytest.mark.parametrize("path", ["/etc/hostname", "", "a\0b", "w", "../w", "/nowhere/at/all", "x" * 10_000])
def test_no_other_file_is_read_written_or_removed_whatever_a_worker_says(machine: LocalProcesses, path: str) -> None:
    assert machine.running(path) is None
    machine.revoke(path)
    machine.discard(path)
    assert Path("/etc/hostname").exists()


def test_a_path_out_of_the_directory_is_another_file(machine: LocalProcesses, tmp_path: Path) -> None:
    victim = tmp_path.parent / "victim"
    victim.write_bytes(b"\0" * 16)
    sneaky = f"{tmp_path}/../victim"
    machine.revoke(sneaky)
    machine.discard(sneaky)
    assert machine.running(sneaky) is None
    assert victim.read_bytes() == b"\0" * 16


def test_the_same_directory_by_another_name_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    word = Word(tmp_path / "link", "w")
    word.renew()
    word.start(4)
    machine = LocalProcesses(None, tmp_path / "real")
    assert machine.running(word.path) == 4
    machine.discard(word.path)
    assert not Path(word.path).exists()
    word.close()


def test_nobodys_words_are_nobodys(word: Word) -> None:
    assert LocalProcesses().running(word.path) is None
