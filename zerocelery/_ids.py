"""Task ids: version 7 UUIDs, ordered by the time they were made, so that a journal's index grows at its end.

Built by hand: the first 48 bits are the clock's milliseconds, 26 random bits are this process's, and the last 48 count
up from a random start. Two ids of one process differ whatever the clock does; two processes share 74 random bits.
"""

from __future__ import annotations

import os
import time
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ns = time.time_ns


def _renew() -> None:
    """Start over with bits of our own: at import, and in every child of a fork."""
    global _middle, _next
    bits = int.from_bytes(os.urandom(10), "big")
    _middle = f"-7{bits & 0xFFF:03x}-{0x8000 | (bits >> 12 & 0x3FFF):04x}-"
    # 2^47 ids are left before the count would leave its 12 digits
    _next = count(bits >> 26 & 0x7FFF_FFFF_FFFF).__next__


_middle = ""
_next = count().__next__
_renew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def uuid(_uuid: Callable[[], object] | None = None) -> str:
    """A new id, 36 characters long. Any number of threads may ask at once.

    Arguments:
        _uuid: makes it in our place, as ``uuid.uuid4``.
    """
    if _uuid is not None:
        return str(_uuid())
    stamp = "%012x" % (_ns() // 1_000_000)
    return f"{stamp[:8]}-{stamp[8:]}{_middle}{_next():012x}"
