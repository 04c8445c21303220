"""The serializer ``auth``: a body in another serializer's format, with a signature and who has signed it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from kombu import serialization as _kombu
from kombu.utils import encoding as _encoding

from zerocelery.exceptions import SecurityError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.security.certificate import Certificate, CertStore
    from zerocelery.security.key import PrivateKey

bytes_to_str: Any = _encoding.bytes_to_str
ensure_bytes: Any = _encoding.ensure_bytes
registry: Any = _kombu.registry

__all__ = ("SecureSerializer", "register_auth")

#: What stands between the parts of a message; the body, which comes last, may have it within.
DEFAULT_SEPARATOR = b"\x00\x01"

_PARTS = 5


class SecureSerializer:
    """Signs and checks.

    Arguments:
        key, cert: this side's.
        cert_store: the certificates of those whose messages are read.
        digest: the hash's name.
        serializer: of the bodies.
    """

    def __init__(
        self,
        key: PrivateKey | None = None,
        cert: Certificate | None = None,
        cert_store: CertStore | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> None:
        from zerocelery.security.utils import get_digest_algorithm

        self._key: Any = key
        self._cert: Any = cert
        self._cert_store: Any = cert_store
        self._digest = get_digest_algorithm(digest)
        self._serializer = serializer

    def serialize(self, data: Any) -> str:
        """The signed message.

        Raises:
            SecurityError: the data can't be serialised, or not signed.
        """
        try:
            content_type, encoding, text = registry.dumps(data, serializer=self._serializer)
            body = ensure_bytes(text)
            signature = self._key.sign(body, digest=self._digest)
            return self._pack(body, content_type, encoding, self._cert.get_id(), signature)
        except Exception as error:
            raise SecurityError(f"Unable to serialize: {error!r}") from error

    def deserialize(self, data: Any) -> Any:
        """The data of a message.

        Raises:
            SecurityError: it isn't signed by anybody known, or was changed.
        """
        try:
            message = self._unpack(data)
            self._cert_store[message["signer"]].verify(message["body"], message["signature"], self._digest)
        except Exception as error:
            raise SecurityError(f"Unable to deserialize: {error!r}") from error
        return registry.loads(
            bytes_to_str(message["body"]) if message["content_encoding"] == "utf-8" else message["body"],
            message["content_type"],
            message["content_encoding"],
            force=True,
        )

    def _pack(
        self,
        body: bytes,
        content_type: str,
        content_encoding: str,
        signer: str,
        signature: bytes,
        sep: bytes = DEFAULT_SEPARATOR,
    ) -> str:
        parts = _b64(signer), _b64(signature), ensure_bytes(content_type), ensure_bytes(content_encoding), body
        return str(bytes_to_str(_b64(sep.join(parts))))

    def _unpack(self, payload: Any, sep: bytes = DEFAULT_SEPARATOR) -> dict[str, Any]:
        parts = b64decode(ensure_bytes(payload)).split(sep, _PARTS - 1)
        if len(parts) != _PARTS:
            raise ValueError("the message has not been signed")
        signer, signature, content_type, content_encoding, body = parts
        return {
            "signer": bytes_to_str(b64decode(signer)),
            "signature": b64decode(signature),
            "content_type": bytes_to_str(content_type),
            "content_encoding": bytes_to_str(content_encoding),
            "body": body,
        }


def _b64(value: Any) -> bytes:
    return b64encode(ensure_bytes(value))


def register_auth(
    key: str | None = None,
    key_password: Any = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str = "sha256",
    serializer: str = "json",
) -> None:
    """Make the serializer known under the name ``auth``.

    Arguments:
        key, cert: texts in PEM.
        store: path of the known certificates, with ``*``.
    """
    from zerocelery.security.certificate import Certificate, FSCertStore
    from zerocelery.security.key import PrivateKey

    signer = SecureSerializer(
        PrivateKey(key, password=key_password) if key else None,
        Certificate(cert) if cert else None,
        FSCertStore(store) if store else None,
        digest,
        serializer=serializer,
    )
    registry.register(
        "auth", signer.serialize, signer.deserialize, content_type="application/data", content_encoding="utf-8"
    )
