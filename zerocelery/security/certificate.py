"""Certificates of those whose messages are read."""

from __future__ import annotations

import datetime
import glob
import os
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import load_pem_x509_certificate
from kombu.utils import encoding as _encoding

from zerocelery.exceptions import SecurityError
from zerocelery.security.utils import reraise_errors

bytes_to_str: Any = _encoding.bytes_to_str
ensure_bytes: Any = _encoding.ensure_bytes

__all__ = ("CertStore", "Certificate", "FSCertStore")


class Certificate:
    """An X.509 certificate with an RSA key, in PEM.

    Raises:
        SecurityError: it can't be read, or has a key of another kind.
    """

    def __init__(self, cert: str) -> None:
        with reraise_errors("Invalid certificate: {0!r}", errors=(ValueError, TypeError)):
            self._cert = load_pem_x509_certificate(ensure_bytes(cert))
            if not isinstance(self._cert.public_key(), rsa.RSAPublicKey):
                raise ValueError("only certificates with RSA keys are supported")

    def has_expired(self) -> bool:
        """Whether it is not valid any more."""
        return datetime.datetime.now(datetime.timezone.utc) >= self._cert.not_valid_after_utc

    def get_pubkey(self) -> Any:
        """Its public key."""
        return self._cert.public_key()

    def get_serial_number(self) -> int:
        """Its serial number."""
        return self._cert.serial_number

    def get_issuer(self) -> str:
        """Who has made it: the values of the name."""
        return " ".join(str(part.value) for part in self._cert.issuer)

    def get_id(self) -> str:
        """What it is known by: issuer and serial number."""
        return f"{self.get_issuer()} {self.get_serial_number()}"

    def verify(self, data: bytes, signature: bytes, digest: Any) -> None:
        """Check a signature.

        Raises:
            SecurityError: it is none of this data by this certificate's key, or the certificate has expired.
        """
        if self.has_expired():
            raise SecurityError(f"Expired certificate: {self.get_id()!r}")
        with reraise_errors("Bad signature: {0!r}"):
            pad = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)
            self.get_pubkey().verify(signature, ensure_bytes(data), pad, digest)


class CertStore:
    """Certificates by what they are known by."""

    def __init__(self) -> None:
        self._certs: dict[str, Certificate] = {}

    def itercerts(self) -> Iterator[Certificate]:
        """All of them."""
        yield from self._certs.values()

    def __getitem__(self, id: str) -> Certificate:
        try:
            return self._certs[bytes_to_str(id)]
        except KeyError:
            raise SecurityError(f"Unknown certificate: {id!r}") from None

    def add_cert(self, cert: Certificate) -> None:
        """Add one.

        Raises:
            SecurityError: there is one of its name.
        """
        name = bytes_to_str(cert.get_id())
        if name in self._certs:
            raise SecurityError(f"Duplicate certificate: {name!r}")
        self._certs[name] = cert


class FSCertStore(CertStore):
    """The certificates in these files.

    Arguments:
        path: a directory, or a path with ``*``.

    Raises:
        SecurityError: one has expired, or is there twice.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        if os.path.isdir(path):
            path = os.path.join(path, "*")
        for name in glob.glob(path):
            with open(name) as file:
                cert = Certificate(file.read())
            if cert.has_expired():
                raise SecurityError(f"Expired certificate: {cert.get_id()!r}, in {name}")
            self.add_cert(cert)
