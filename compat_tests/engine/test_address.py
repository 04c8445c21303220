"""Where a node lives, and what is wrong with an address that can't be one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zerocelery.engine.address import (
    MAX_IPC_PATH,
    Address,
    check_directory,
    parse_address,
    prepare_directory,
    state_home,
)
from zerocelery.engine.errors import AddressError


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROCELERY_HOME", "/h")
    monkeypatch.delenv("ZEROCELERY_KEYS", raising=False)


# ── ipc ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", ["zmq://", "zmq:///"])
def test_the_short_form_is_this_users_node(url: str) -> None:
    address = parse_address(url)
    assert address.directory == Path("/h/default")
    assert address.is_ipc
    assert address.is_local
    assert (address.tasks, address.results, address.leases) == (
        "ipc:///h/default/tasks", "ipc:///h/default/results", "ipc:///h/default/leases",
    )  # fmt: skip


def test_a_directory_is_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_address("zmq:///tmp/x").directory == Path("/tmp/x")
    assert parse_address("zmq:///tmp/x").start_command == "zerocelery node -b zmq:///tmp/x"


def test_an_address_stays_one() -> None:
    address = parse_address("zmq:///tmp/x")
    assert parse_address(address) is address


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ZEROCELERY_HOME": "/a"}, "/a"),
        ({"ZEROCELERY_HOME": "", "XDG_STATE_HOME": "/b"}, "/b/zerocelery"),
        ({"ZEROCELERY_HOME": "", "XDG_STATE_HOME": "not/absolute", "HOME": "/u"}, "/u/.local/state/zerocelery"),
        ({"ZEROCELERY_HOME": "", "XDG_STATE_HOME": "", "HOME": "/u"}, "/u/.local/state/zerocelery"),
    ],
)
def test_where_a_users_nodes_live(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_home() == Path(expected)


def test_a_path_that_no_socket_can_have_is_refused_with_a_way_out() -> None:
    longest = "/" + "x" * (MAX_IPC_PATH - len("/results") - 1)
    assert len(parse_address(f"zmq://{longest}").results) == len("ipc://") + MAX_IPC_PATH
    with pytest.raises(AddressError, match=rf"paths of {MAX_IPC_PATH + 1} bytes, .* {MAX_IPC_PATH}: .*ZEROCELERY_HOME"):
        parse_address(f"zmq://{longest}x")
    with pytest.raises(AddressError, match="bytes"):
        parse_address("zmq:///" + "ü" * 60)  # counted in bytes


# ── TCP ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("zmq://10.0.0.1:5757", ["tcp://10.0.0.1:5757", "tcp://10.0.0.1:5758", "tcp://10.0.0.1:5759"]),
        ("zmq://[::1]:5757", ["tcp://[::1]:5757", "tcp://[::1]:5758", "tcp://[::1]:5759"]),
    ],
)
def test_a_port_is_three_in_a_row(url: str, endpoints: list[str]) -> None:
    address = parse_address(url)
    assert [address.tasks, address.results, address.leases] == endpoints
    assert not address.is_ipc


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("[::1]", True), ("0.0.0.0", False),
        ("10.0.0.1", False), ("example.org", False), ("[::]", False),
    ],
)  # fmt: skip
def test_which_hosts_nobody_else_can_reach(host: str, local: bool) -> None:
    assert parse_address(f"zmq://{host}:5757").is_local is local


def test_a_tcp_nodes_journal_has_a_directory_of_its_own(tmp_path: Path) -> None:
    assert parse_address("zmq://host:5757").directory == Path("/h/tcp-host-5757")
    assert parse_address("zmq://host:5757", directory=tmp_path).directory == tmp_path


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_the_port_that_was_really_got_makes_an_address_again(host: str) -> None:
    address = parse_address(f"zmq://{host}:0").with_port(6000)
    assert address.url == f"zmq://{host}:6000"
    again = parse_address(address.url, directory=address.directory)
    assert (again.host, again.port) == (address.host, 6000)
    assert again.tasks == address.tasks


def test_keys_come_from_the_address_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_address("zmq://h:1").keys is None
    address = parse_address("zmq://h:1?keys=/k")
    assert address.keys == Path("/k")
    assert parse_address(address.with_port(7).url).keys == Path("/k")
    monkeypatch.setenv("ZEROCELERY_KEYS", "/e")
    assert parse_address("zmq://h:1").keys == Path("/e")
    assert parse_address("zmq://h:1?keys=/k").keys == Path("/k")
    with pytest.raises(AddressError, match="options that no address has: a, b"):
        parse_address("zmq://h:1?b=1&keys=/k&a=2")


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://localhost", r"no node's address: write zmq://"),
        ("", r"no node's address"),
        ("/tmp/x", r"no node's address"),
        ("tcp://host:1", r"no node's address"),
        ("zmq://user@host:1", r"no user or password \(host\): TCP nodes use CURVE keys"),
        ("zmq://user:secret@host:1", r"no user or password"),
        ("zmq://host", r"names a host but no port: write zmq://host:5757"),
        ("zmq://:5757", r"names a host but no port: write zmq://host:5757"),
        ("zmq://host:99999", r"not between 0 and 65535"),
        ("zmq://host:port", r"not between 0 and 65535"),
        ("zmq://host:-1", r"not between 0 and 65535"),
        ("zmq://host:65534", r"three ports in a row from 65534"),
        ("zmq://[::1", r"can't be read"),
    ],
)
def test_what_can_not_be_an_address_is_refused_with_what_it_should_be(url: str, says: str) -> None:
    with pytest.raises(AddressError, match=says):
        parse_address(url)


def test_no_password_is_repeated() -> None:
    with pytest.raises(AddressError) as caught:
        parse_address("zmq://user:secret@host:1")
    assert "secret" not in str(caught.value)


# ── directories ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        prepare_directory(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    prepare_directory(tmp_path / "a" / "b")


def test_one_that_is_not_there_yet_is_no_danger(tmp_path: Path) -> None:
    check_directory(tmp_path / "nothing")


def test_one_that_others_can_enter_is_refused_with_the_command(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(AddressError, match=rf"open to others \(mode 750\): run chmod 700 {tmp_path}"):
        check_directory(tmp_path)
    with pytest.raises(AddressError, match="chmod 700"):
        prepare_directory(tmp_path)
    tmp_path.chmod(0o700)


def test_another_users_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(AddressError, match=rf"belongs to user {os.getuid()}, and this is user {os.getuid() + 1}"):
        check_directory(tmp_path)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(AddressError, match="is not a directory"):
        check_directory(file)
    with pytest.raises(AddressError, match="is not a directory"):
        prepare_directory(file)
    with pytest.raises(AddressError, match="can't be made"):
        prepare_directory(file / "below")
    with pytest.raises(AddressError, match="can't be read"):
        check_directory(file / "below")


def test_an_address_is_a_value() -> None:
    assert parse_address("zmq:///tmp/x") == parse_address("zmq:///tmp/x") != parse_address("zmq:///tmp/y")
    assert len({parse_address("zmq:///tmp/x"), Address("zmq:///tmp/x", Path("/tmp/x"))}) == 1
