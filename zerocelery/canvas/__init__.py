"""Calls as values: signatures, and what is built of them."""

from __future__ import annotations

from zerocelery.canvas.signature import Signature, maybe_signature, signature, subtask

__all__ = ("Signature", "maybe_signature", "signature", "subtask")
