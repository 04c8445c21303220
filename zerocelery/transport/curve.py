"""Who may talk to a node by TCP: CURVE keys, and the node's list of those that it lets in.

A key directory is made by ``zerocelery keygen DIR`` and looks like this:

    DIR/node.key_secret       the node's own; stays on the node's machine
    DIR/node.key              its public part; every client and worker has it
    DIR/client.key_secret     of clients and workers (one pair for all, or a directory with a pair for each)
    DIR/allowed/*.key         the public keys that the node lets in

CURVE encrypts and shows the client that the node is the right one. It does not show the node who the client is: without
an authenticator (ZAP) anybody who has the node's public key is in. So a node has both or refuses to start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import zmq

from zerocelery.engine.errors import AddressError

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

#: One domain for all sockets of a node.
_DOMAIN: Final = "zerocelery"

_HOW: Final = "make the keys with: zerocelery keygen"


def generate(directory: Path) -> list[Path]:
    """Make a node's pair and a client's pair, and let that client in; the files that were written.

    Raises:
        AddressError: there are keys already, or the directory can't be written.
    """
    from zmq.auth import create_certificates  # noqa: PLC0415 - only while making keys

    if (directory / "node.key_secret").exists():
        raise AddressError(f"{directory} has keys already: move them away first, clients may still use them")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        allowed = directory / "allowed"
        allowed.mkdir(mode=0o700, exist_ok=True)
        before = os.umask(0o077)
        try:
            files = [Path(name) for who in ("node", "client") for name in create_certificates(directory, who)]
        finally:
            os.umask(before)
        entry = allowed / "client.key"
        entry.write_bytes((directory / "client.key").read_bytes())
    except OSError as error:
        raise AddressError(f"no keys can be written to {directory}: {error.strerror}") from error
    return [*files, entry]


def _load(path: Path) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate  # noqa: PLC0415 - only where there are keys

    try:
        if path.suffix == ".key_secret" and path.stat().st_mode & 0o077:
            raise AddressError(f"others can read the secret key {path}: run chmod 600 {path}")
        return load_certificate(path)
    except OSError as error:
        raise AddressError(f"the key {path} can't be read ({error.strerror}): {_HOW} {path.parent}") from error
    except ValueError as error:
        raise AddressError(f"{path} is no key: {_HOW} {path.parent}") from error


def secure_client(sock: zmq.Socket[bytes], keys: Path) -> None:
    """Make a socket a CURVE client of the node whose public key is in this directory; before it connects.

    Raises:
        AddressError: a key is missing, unreadable, or open to others.
    """
    public, secret = _load(keys / "client.key_secret")
    if secret is None:
        raise AddressError(f"{keys / 'client.key_secret'} holds no secret key: {_HOW} {keys}")
    sock.curve_publickey = public
    sock.curve_secretkey = secret
    sock.curve_serverkey = _load(keys / "node.key")[0]


def secure_node(sock: zmq.Socket[bytes], keys: Path) -> None:
    """Make a socket a CURVE server that asks the authenticator about every client; before it binds.

    Raises:
        AddressError: a key is missing, unreadable, or open to others.
    """
    public, secret = _load(keys / "node.key_secret")
    if secret is None:
        raise AddressError(f"{keys / 'node.key_secret'} holds no secret key: {_HOW} {keys}")
    sock.curve_publickey = public
    sock.curve_secretkey = secret
    sock.curve_server = True
    sock.zap_domain = _DOMAIN.encode()


def authenticator(context: zmq.Context[zmq.Socket[bytes]], keys: Path) -> ThreadAuthenticator:
    """Answers for a context's sockets who may connect: the keys in ``allowed``; stop it before the context ends.

    Raises:
        AddressError: nobody is allowed.
    """
    from zmq.auth.thread import ThreadAuthenticator  # noqa: PLC0415 - only where there are keys

    allowed = keys / "allowed"
    if not any(allowed.glob("*.key")):
        raise AddressError(f"{allowed} holds no public key, so nobody could connect: copy clients' *.key files there")
    answers: ThreadAuthenticator = ThreadAuthenticator(context)
    answers.start()
    answers.configure_curve(domain=_DOMAIN, location=str(allowed))
    return answers
