"""The canvas: calls as values, and how they are put together."""

from __future__ import annotations

from zerocelery.canvas.chains import _chain, _fold_chain, _merge_chain_step, chain
from zerocelery.canvas.chords import _chord, _clear_chord_option, _maybe_group, _strip_chord_header_links, chord
from zerocelery.canvas.groups import group, maybe_unroll_group
from zerocelery.canvas.maps import chunks, xmap, xstarmap
from zerocelery.canvas.signature import Signature, maybe_signature, maybe_subtask, signature, subtask
from zerocelery.canvas.stamping import StampingVisitor
from zerocelery.canvas.stamping import merge as _merge
from zerocelery.utils import abstract

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = (
    "Signature",
    "StampingVisitor",
    "_chain",
    "_chord",
    "_clear_chord_option",
    "_fold_chain",
    "_maybe_group",
    "_merge_chain_step",
    "_merge_dictionaries",
    "_strip_chord_header_links",
    "abstract",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "maybe_unroll_group",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
)


def _merge_dictionaries(d1: dict[str, Any], d2: dict[str, Any], aggregate_duplicates: bool = True) -> None:
    """Add the second dict's values to the first's."""
    _merge(d1, d2, collect=aggregate_duplicates)
