"""Settings and URLs without their secrets, for logs and bug reports."""

from __future__ import annotations

import re
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("filter_hidden_settings", "sanitize_url")

MASK = "*" * 8

#: What the name of a secret setting has in it.
_HIDDEN = re.compile("API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE", re.IGNORECASE)

#: One server of a URL, with nothing in it that could be read otherwise.
_SERVER = r"(?:[^@/?#;,]*@)?(?:\[[^\]@/?#]*\]|[^:@/?#;,\[\]]*)(?::\d+)?"
_BETWEEN = r"[;,](?:[a-z][a-z0-9+.\-]*://)?"
_SERVERS = re.compile(rf"({_SERVER}(?:{_BETWEEN}(?:{_SERVER})?)*)([/?#][^@]*)?", re.IGNORECASE)
_SPLIT = re.compile(f"({_BETWEEN})", re.IGNORECASE)
_AZURE_SECRETS = frozenset({"accountkey", "sharedaccesssignature"})
_AZURE_SIGNATURE = re.compile(r"([?&]sig=)[^&;]*", re.IGNORECASE)


def filter_hidden_settings(conf: Mapping[Any, Any]) -> dict[Any, Any]:
    """Settings whose secrets are starred out, in mappings within them too."""
    return {key: _censored(key, value) for key, value in conf.items()}


def _censored(key: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return filter_hidden_settings(value)
    if isinstance(key, str) and _HIDDEN.search(key):
        return MASK
    if isinstance(value, (list, tuple)):
        return type(value)(map(_censored_url, value)) if type(value) in (list, tuple) else value
    return _censored_url(value)


def _censored_url(value: Any) -> Any:
    return sanitize_url(value) if isinstance(value, str) and "://" in value else value


def sanitize_url(url: Any, mask: str = MASK) -> Any:
    """A URL, also one of several servers, with its passwords starred out; what is no URL is given back.

    Where it is not clear what belongs to a password, more is starred out, not less.
    """
    if not isinstance(url, str) or not url:
        return url
    try:
        scheme, separator, rest = url.partition("://")
        if not separator:
            return url
        if scheme.lower() == "azureblockblob":
            return f"{scheme}://{_azure(rest, mask)}"
        return f"{scheme}://{_plainly(rest, mask) or _bluntly(rest, mask)}"
    except Exception:
        # whatever it is, it may have a password in it
        masked, found = re.subn(r"://.*@", f"://{mask}@", str.__str__(url), flags=re.DOTALL)
        return masked if found else "<unparsable url>"


def _azure(text: str, mask: str) -> str:
    parts = []
    for part in text.split(";"):
        name, equals, _ = part.partition("=")
        secret = equals and name.strip().lower() in _AZURE_SECRETS
        parts.append(f"{name}={mask}" if secret else _AZURE_SIGNATURE.sub(rf"\g<1>{mask}", part))
    return ";".join(parts)


def _plainly(rest: str, mask: str) -> str | None:
    """Each server's password starred out; None where it isn't plain where one server ends and the next begins."""
    found = _SERVERS.fullmatch(rest)
    if found is None:
        return None
    first, *others = _SPLIT.split(found.group(1))
    if "@" in "".join(others) and "@" not in first:
        return None
    parts = [_masked(first, mask, alone=not others)]
    for between, server in zip(others[::2], others[1::2], strict=True):
        if server:
            parts += [between, _masked(server, mask, alone=False)]
    return "".join(parts) + (found.group(2) or "")


def _masked(server: str, mask: str, *, alone: bool) -> str:
    login, at, host = server.rpartition("@")
    user, colon, _ = login.partition(":")
    if colon:
        return f"{user}:{mask}@{host}"
    return f"{mask}@{host}" if at and not alone else server


def _bluntly(rest: str, mask: str) -> str:
    """All that could belong to a password starred out."""
    login, at, host = rest.rpartition("@")
    if not at:
        return rest
    user, colon, _ = login.partition(":")
    return f"{user}:{mask}@{host}" if colon and not re.search("[@/?#;,]", user) else f"{mask}@{host}"
