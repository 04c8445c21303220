"""Notices the end of the node's process, and starts another one on its journal."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final

from zerocelery.engine import tenure
from zerocelery.engine.address import Address
from zerocelery.engine.errors import EngineError
from zerocelery.engine.processes import alive

if TYPE_CHECKING:
    from zerocelery.engine.journal import Durability

logger = logging.getLogger("zerocelery.worker")

#: How soon a node that can't be watched is looked after, doubled each time up to the second figure (seconds).
_LOOK_AFTER_NODE: Final = 0.05
_LOOK_AT_MOST: Final = 2.0


class NodeWatch:
    """Notices the end of the node's process, and starts another one."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._fd = -1
        self._pid = 0
        self._patience = _LOOK_AFTER_NODE

    def fd(self) -> int:
        """A descriptor that becomes readable when the node ends; -1 where there is none to be had."""
        if not self.address.is_local:
            return -1
        pid = tenure.owner_pid(self.address)
        if self._fd < 0 or pid != self._pid or not alive(pid, 0):
            self.close()
            self._pid = pid
            with contextlib.suppress(OSError, AttributeError):
                self._fd = os.pidfd_open(pid) if pid and alive(pid, 0) else -1
        if self._fd >= 0:
            self._patience = _LOOK_AFTER_NODE
        return self._fd

    def patience(self) -> float:
        """How soon to look after a node that can't be watched: it may be gone, or may not have written its pid yet."""
        patience, self._patience = self._patience, min(self._patience * 2, _LOOK_AT_MOST)
        return patience

    def revive(self, durability: Durability) -> None:
        """Start a node if there is none."""
        if not self.address.is_local or tenure.is_owned(self.address):
            return
        self.close()
        logger.warning("the node at %s is gone: starting another on its journal", self.address.url)
        try:
            tenure.ensure_node(self.address, durability=durability)
        except EngineError as error:
            logger.error("%s", error)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
