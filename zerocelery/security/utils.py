"""Digests by name, and errors by one name."""

from __future__ import annotations

from contextlib import contextmanager

from zerocelery.exceptions import SecurityError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ("get_digest_algorithm", "reraise_errors")


def get_digest_algorithm(digest: str = "sha256") -> Any:
    """The hash of this name.

    Raises:
        AttributeError: there is none.
    """
    from cryptography.hazmat.primitives import hashes

    return getattr(hashes, digest.upper())()


@contextmanager
def reraise_errors(msg: str = "{0!r}", errors: tuple[type[BaseException], ...] | None = None) -> Iterator[None]:
    """Within this context these errors become SecurityError.

    Arguments:
        msg: what it says; ``{0}`` is the error.
        errors: those of cryptography unless given.
    """
    if errors is None:
        import cryptography.exceptions

        errors = (cryptography.exceptions.UnsupportedAlgorithm, cryptography.exceptions.InvalidSignature)
    try:
        yield
    except errors as error:
        raise SecurityError(msg.format(error)) from error
