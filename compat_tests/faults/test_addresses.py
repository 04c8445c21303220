"""One node at each address, and nobody in its place: locks, ports, sockets, modes (rows 29 and 55 to 57)."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from compat_tests.conftest import wait_for_end, wait_until
from compat_tests.faults.rig import Rig, status_of, task, value_of
from zerocelery.engine.address import MAX_IPC_PATH, parse_address
from zerocelery.engine.errors import AddressError, NodeUnreachable
from zerocelery.engine.producer import Producer
from zerocelery.engine.tenure import ensure_node, owner_pid, take_lock

pytestmark = pytest.mark.faults

SOCKETS = ("tasks", "results", "leases")


def works(rig: Rig, client: Producer) -> bool:
    """A task goes all the way."""
    one = task("echo", "works", to=client)
    return bool(value_of(client.wait(one.id, token=client.submit(one), timeout=20)) == "works")


def refused(rig: Rig, process: subprocess.Popen[bytes]) -> str:
    """What a node said that did not start."""
    assert process.wait(20) == 1, rig.box.output(process)
    return rig.box.output(process)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ── one node for each address and journal ────────────────────────────────────────────────────────────────────────────


def test_a_second_node_at_an_ipc_address_is_refused_and_says_who_has_it(rig: Rig) -> None:
    """Rows 29 and 55."""
    first = rig.node()
    rig.worker()
    client = rig.client()
    assert works(rig, client)
    inodes = [(rig.box.node_dir / name).stat().st_ino for name in SOCKETS]
    said = refused(rig, rig.node(wait=False))
    assert (
        f"NodeRunning: a node is running already at {rig.url} (pid {first.pid}, directory {rig.box.node_dir})" in said
    )
    assert [(rig.box.node_dir / name).stat().st_ino for name in SOCKETS] == inodes
    assert works(rig, client)
    assert status_of(client)["pid"] == first.pid


def test_two_nodes_with_different_ports_and_one_journal_are_refused(rig: Rig) -> None:
    """Row 29."""
    options = ("-m", "zerocelery.engine.node", "zmq://127.0.0.1:0", "--directory", str(rig.box.home / "shared"))
    first = rig.box.python(*options)
    rig.box.wait_for_output(first, "node")
    wait_until((rig.box.home / "shared" / "node.url").exists)
    said = refused(rig, rig.box.python(*options))
    assert f"pid {first.pid}, directory {rig.box.home / 'shared'}" in said
    client = rig.client((rig.box.home / "shared" / "node.url").read_text().strip())
    assert status_of(client)["pid"] == first.pid


def test_a_node_at_a_tcp_port_in_use_is_refused(rig: Rig) -> None:
    """Row 55: each has a journal of its own, and the port is the first one's."""
    first = rig.node("zmq://127.0.0.1:0")
    url = rig.url_of(first)
    rig.worker(url)
    client = rig.client(url)
    assert works(rig, client)
    port = int(url.rpartition(":")[2])
    for overlapping in (port, port + 1, port - 1):
        options = (f"zmq://127.0.0.1:{overlapping}", "--directory", str(rig.box.home / f"other-{overlapping}"))
        said = refused(rig, rig.box.python("-m", "zerocelery.engine.node", *options))
        assert re.search(r"tcp://127\.0\.0\.1:\d+ is in use: another node, or another program, has this port", said)
    assert works(rig, client)
    assert status_of(client)["pid"] == first.pid


def test_of_many_embedded_nodes_one_stays(rig: Rig) -> None:
    """Row 29: several workers start at once, and each starts a node."""
    options = ("-m", "zerocelery.engine.node", rig.url, "--embedded")
    nodes = [rig.box.python(*options) for _ in range(6)]
    client = rig.client(connect_timeout=20)
    pid = status_of(client)["pid"]
    wait_until(lambda: sum(node.poll() is None for node in nodes) == 1)
    assert [node.pid for node in nodes if node.poll() is None] == [pid]
    assert {node.returncode for node in nodes if node.pid != pid} == {0}
    assert status_of(client)["pid"] == pid


def test_a_worker_joins_a_tcp_node_whose_directory_it_does_not_know(rig: Rig) -> None:
    """Row 55: behind a tunnel, in a container, with --directory: it's the port that counts."""
    node = rig.node("zmq://127.0.0.1:0")
    url = rig.url_of(node)
    rig.worker(url)
    client = rig.client(url)
    assert works(rig, client)
    assert status_of(client)["pid"] == node.pid
    assert not (rig.box.home / f"tcp-127.0.0.1-{url.rpartition(':')[2]}" / "journal.db").exists()


# ── what the dead leave behind ───────────────────────────────────────────────────────────────────────────────────────


def test_the_sockets_and_the_lock_of_a_killed_node_are_no_obstacle(rig: Rig) -> None:
    """Row 56."""
    first = rig.node()
    client = rig.client()
    client.submit(task("echo", "from its former life"))
    assert client.confirm(20)
    first.kill()
    wait_for_end(first.pid)
    left = {path.name for path in rig.box.node_dir.iterdir()}
    assert left >= {*SOCKETS, "node.lock", "node.pid"}
    second = rig.node()
    rig.worker()
    assert works(rig, client)
    assert status_of(client)["pid"] == second.pid
    assert len(rig.runs()) == 2
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 0


def test_a_killed_nodes_pid_is_not_taken_for_its_successors(rig: Rig) -> None:
    """Row 56: while the next node opens a long journal, nobody may think that it listens."""
    first = rig.node()
    address = parse_address(rig.url)
    assert owner_pid(address) == first.pid
    first.kill()
    wait_for_end(first.pid)
    lock = take_lock(address)
    try:
        assert owner_pid(address) == 0
    finally:
        os.close(lock)


@pytest.mark.parametrize("lost", ["node.lock", "node.pid", "both"])
def test_a_living_node_is_not_stolen_from_when_its_files_are_removed(rig: Rig, lost: str) -> None:
    """Row 56: somebody tidied up. ZeroMQ itself would let the second one take over in silence."""
    first = rig.node()
    client = rig.client()
    pid = status_of(client)["pid"]
    for name in ("node.lock", "node.pid") if lost == "both" else (lost,):
        (rig.box.node_dir / name).unlink()
    said = refused(rig, rig.node(wait=False))
    assert "NodeRunning" in said
    assert str(rig.box.node_dir) in said
    other = rig.client()
    assert status_of(other)["pid"] == status_of(client)["pid"] == pid == first.pid


# ── paths and modes ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_path_too_long_for_a_socket_is_refused_and_the_longest_that_fits_works(rig: Rig) -> None:
    """Row 57."""
    room = MAX_IPC_PATH - len("/results") - len(str(rig.box.home)) - 1
    longest, longer = (f"zmq://{rig.box.home}/{'d' * length}" for length in (room, room + 1))
    said = refused(rig, rig.node(longer, wait=False))
    assert f"would have paths of {MAX_IPC_PATH + 1} bytes" in said
    assert "choose a shorter directory" in said
    with pytest.raises(AddressError, match="choose a shorter directory"):
        Producer(longer)
    rig.node(longest)
    rig.worker(longest)
    assert works(rig, rig.client(longest))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177, 0o777], ids=oct)
def test_whatever_the_umask_only_the_owner_gets_in(rig: Rig, umask: int) -> None:
    """Row 57: a missing directory is made with 0700, the sockets in it have 0600."""
    before = os.umask(umask)
    try:
        rig.node(f"zmq://{rig.box.home}/node", wait=False)
    finally:
        os.umask(before)
    rig.box.wait_for_output(rig.box.processes[-1], "node at")
    assert mode_of(rig.box.node_dir) == 0o700
    assert {name: oct(mode_of(rig.box.node_dir / name)) for name in SOCKETS} == dict.fromkeys(SOCKETS, oct(0o600))
    assert mode_of(rig.box.node_dir / "journal.db") & 0o077 == 0
    rig.worker()
    assert works(rig, rig.client())


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710, 0o701], ids=oct)
def test_a_directory_that_others_can_enter_is_refused_with_the_command_that_mends_it(rig: Rig, mode: int) -> None:
    """Row 57: by the node, a client and a worker."""
    rig.box.node_dir.mkdir()
    rig.box.node_dir.chmod(mode)
    advice = f"run chmod 700 {rig.box.node_dir}"
    assert advice in refused(rig, rig.node(wait=False))
    with pytest.raises(AddressError, match=advice):
        rig.client().submit(task("echo"))
    assert advice in refused(rig, rig.worker(wait=False))
    rig.box.node_dir.chmod(0o700)
    rig.worker()
    assert works(rig, rig.client())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(rig: Rig) -> None:
    """Row 57: whoever owns it could put sockets of their own there, and tasks are code."""
    rig.box.node_dir.mkdir(mode=0o700)
    os.chown(rig.box.node_dir, 65534, 65534)
    words = "belongs to user 65534, and this is user 0"
    assert words in refused(rig, rig.node(wait=False))
    with pytest.raises(AddressError, match=words):
        rig.client().submit(task("echo"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_gets_neither_in_nor_hangs(rig: Rig) -> None:
    """Row 57, from the other side."""
    rig.node()
    rig.box.home.chmod(0o755)
    client = rig.box.script(
        """
import os, sys
from compat_tests.faults.rig import task
from zerocelery.engine.errors import AddressError
from zerocelery.engine.producer import Producer

os.setgid(65534)
os.setuid(65534)
try:
    Producer(sys.argv[1]).submit(task("echo"))
except AddressError as error:
    print(error)
""",
        rig.url,
    )
    assert client.wait(20) == 0, rig.box.output(client)
    assert "belongs to user 0, and this is user 65534" in rig.box.output(client)


@pytest.mark.parametrize("obstacle", ["a file", "a file above it", "a socket that is a directory"])
def test_what_is_in_the_way_is_named(rig: Rig, obstacle: str) -> None:
    """Row 57."""
    if obstacle == "a file":
        rig.box.node_dir.write_text("")
    elif obstacle == "a file above it":
        (rig.box.home / "above").write_text("")
        rig.box.home.joinpath("node").symlink_to(rig.box.home / "above" / "node")
    else:
        (rig.box.node_dir / "tasks").mkdir(parents=True)
        rig.box.node_dir.chmod(0o700)
    said = refused(rig, rig.node(wait=False))
    assert re.search(rf"AddressError: .*{rig.box.node_dir}", said), said


def test_a_listener_that_is_no_node_does_not_pass_for_one(rig: Rig) -> None:
    """Row 55: a worker whose port is somebody else's says so at its deadline."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        url = f"zmq://127.0.0.1:{stranger.getsockname()[1] - 2}"
        with pytest.raises(NodeUnreachable, match="is in use: another node, or another program, has this port"):
            ensure_node(parse_address(url), timeout=6.0)
