"""``billiard.process``: multiprocessing's processes, by the names that billiard has for them."""

from __future__ import annotations

from multiprocessing import Process, active_children, current_process
from multiprocessing.process import AuthenticationString, BaseProcess  # type: ignore[attr-defined]

__all__ = ("AuthenticationString", "BaseProcess", "Process", "active_children", "current_process")
