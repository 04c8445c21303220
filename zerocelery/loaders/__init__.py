"""Loaders: where an app's configuration and its task modules come from."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("get_loader_cls",)

LOADER_ALIASES = {
    "app": "zerocelery.loaders.app:AppLoader",
    "default": "zerocelery.loaders.default:Loader",
}


def get_loader_cls(loader: Any) -> Any:
    """The loader class of this alias or path."""
    from zerocelery.utils.imports import import_from_cwd, symbol_by_name

    return symbol_by_name(loader, LOADER_ALIASES, imp=import_from_cwd)
