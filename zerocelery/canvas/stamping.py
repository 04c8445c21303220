"""Stamps: headers that a visitor puts on every call of a canvas, its callbacks and errbacks included."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod

from zerocelery.canvas.lazy import several

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.canvas.chords import chord
    from zerocelery.canvas.signature import Signature

__all__ = ("StampingVisitor",)


class StampingVisitor(metaclass=ABCMeta):
    """Says which stamps a canvas's parts get: each method gives a dict of them.

    With ``stamped_headers`` in that dict, its list says which keys are stamps; without it all are. What a group, a
    chain or a chord's header is given goes to all calls in it.
    """

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        """Stamps of all of a group."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:  # noqa: B027 - may be left as it is
        """Called when a group is stamped."""

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        """Stamps of all of a chain."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:  # noqa: B027 - may be left as it is
        """Called when a chain is stamped."""

    @abstractmethod
    def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        """Stamps of one call."""

    def on_chord_header_start(self, sig: chord, **header: Any) -> dict[str, Any]:
        """Stamps of a chord's header; those of a group unless they are said here."""
        from zerocelery.canvas.groups import group

        if not isinstance(sig.tasks, group):
            sig.tasks = group(sig.tasks, app=sig._app)
        return self.on_group_start(sig.tasks, **header)

    def on_chord_header_end(self, sig: chord, **header: Any) -> None:
        """Called when a chord's header is stamped."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: chord, **header: Any) -> dict[str, Any]:
        """Stamps of a chord's body."""
        return {}

    def on_callback(self, callback: Signature, **header: Any) -> dict[str, Any]:
        """Stamps of a callback."""
        return {}

    def on_errback(self, errback: Signature, **header: Any) -> dict[str, Any]:
        """Stamps of an errback."""
        return {}


def merge(into: dict[str, Any], other: dict[str, Any], *, collect: bool) -> None:
    """Add another dict's values to this one's.

    Arguments:
        collect: two values of one key become a list; else the first stays, though lists grow all the same.
    """
    for key, value in other.items():
        if key not in into:
            into[key] = value
            continue
        mine = into[key]
        if collect and isinstance(mine, (int, float, str)):
            mine = [mine]
        if isinstance(mine, dict):
            merge(mine, value, collect=collect)
        elif isinstance(mine, list) and isinstance(value, list):
            into[key] = [*mine, *value]
        elif collect:
            known = [] if mine is None else list(mine)
            into[key] = [*known, value]


def with_names(stamps: dict[str, Any]) -> dict[str, Any]:
    """The stamps, with the list of their names."""
    if "stamped_headers" in stamps:
        return dict(stamps)
    return {**stamps, "stamped_headers": list(stamps)}


def combined(
    headers: dict[str, Any], visited: dict[str, Any] | None, options: dict[str, Any] | None, *, collect: bool
) -> dict[str, Any]:
    """The stamps that were given, the visitor's, and those that a signature has already; the first ones win."""
    result = with_names(_copied(headers))
    if visited is not None:
        merge(result, _copied(with_names(visited)), collect=collect)
    if options is not None:
        names = [*result["stamped_headers"], *several(options.get("stamped_headers"))]
        merge(result, _copied({name: options[name] for name in names if name in options}), collect=collect)
        result["stamped_headers"] = names
    result["stamped_headers"] = list(dict.fromkeys(result["stamped_headers"]))
    return result


def _copied(stamps: dict[str, Any]) -> dict[str, Any]:
    from copy import deepcopy

    return deepcopy(stamps)
