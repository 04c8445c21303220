"""Signed messages: the serializer ``auth``, and a worker that reads nothing else."""

from __future__ import annotations

from typing import Any

from kombu import serialization as _kombu

from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.security.serialization import register_auth

_disable_insecure_serializers: Any = _kombu.disable_insecure_serializers
registry: Any = _kombu.registry

__all__ = ("disable_untrusted_serializers", "setup_security")

CRYPTOGRAPHY_NOT_INSTALLED = "The auth serializer needs the package cryptography: pip install cryptography"

SECURITY_SETTING_MISSING = (
    "The auth serializer needs the settings security_key, security_certificate and security_cert_store: the paths of "
    "this app's private key and certificate, and of the certificates whose tasks it accepts (with *)."
)

SETTING_MISSING = (
    "Messages must be signed and checked: set task_serializer = 'auth' and accept_content = ['auth'], "
    "then call app.setup_security()."
)


def setup_security(
    allowed_serializers: Any = None,
    key: str | None = None,
    key_password: Any = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
    app: Any = None,
) -> None:
    """Sign what this app sends, and read only what was signed by somebody it knows.

    Arguments:
        allowed_serializers: serializers that stay allowed beside ``auth``, by name or content type.
        key: path of the private key, in PEM; ``security_key`` unless given.
        key_password: its password; ``security_key_password`` unless given.
        cert: path of the certificate; ``security_certificate`` unless given.
        store: path of the certificates of those whose messages are read, with ``*``; ``security_cert_store``.
        digest: of the signature; ``security_digest`` unless given.
        serializer: what the messages are written with before they are signed.

    Raises:
        ImproperlyConfigured: the app doesn't use ``auth``, or the paths or the package cryptography are missing.
    """
    if app is None:
        from zerocelery import current_app

        app = current_app
    _disable_insecure_serializers(allowed_serializers)
    conf = app.conf
    if conf["task_serializer"] != "auth" or conf["accept_content"] != ["auth"]:
        raise ImproperlyConfigured(SETTING_MISSING)
    key = key or conf["security_key"]
    cert = cert or conf["security_certificate"]
    store = store or conf["security_cert_store"]
    if not (key and cert and store):
        raise ImproperlyConfigured(SECURITY_SETTING_MISSING)
    try:
        import cryptography  # noqa: F401  told here, where the setting is named
    except ImportError:
        raise ImproperlyConfigured(CRYPTOGRAPHY_NOT_INSTALLED) from None
    password = key_password or conf["security_key_password"]
    with open(key) as key_file, open(cert) as cert_file:
        register_auth(key_file.read(), password, cert_file.read(), store, digest or conf["security_digest"], serializer)
    registry._set_default_serializer("auth")


def disable_untrusted_serializers(whitelist: Any = None) -> None:
    """Refuse to read what these serializers, and no others, haven't written."""
    _disable_insecure_serializers(allowed=whitelist)
