"""The private key that messages are signed with."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from kombu.utils import encoding as _encoding

from zerocelery.security.utils import reraise_errors

ensure_bytes: Any = _encoding.ensure_bytes

__all__ = ("PrivateKey",)


class PrivateKey:
    """An RSA key in PEM.

    Raises:
        SecurityError: it can't be read, or is of another kind.
    """

    def __init__(self, key: Any, password: Any = None) -> None:
        with reraise_errors("Invalid private key: {0!r}", errors=(ValueError, TypeError)):
            loaded: Any = serialization.load_pem_private_key(ensure_bytes(key), password=ensure_bytes(password))
            if not isinstance(loaded, rsa.RSAPrivateKey):
                raise ValueError(f"only RSA keys are supported, and this is a {type(loaded).__name__}")
            self._key = loaded

    def sign(self, data: bytes, digest: Any) -> bytes:
        """The signature of the data."""
        pad = padding.PSS(mgf=padding.MGF1(digest), salt_length=padding.PSS.MAX_LENGTH)
        return self._key.sign(ensure_bytes(data), pad, digest)
