"""The loader of apps that somebody has made."""

from __future__ import annotations

from zerocelery.loaders.base import BaseLoader

__all__ = ("AppLoader",)


class AppLoader(BaseLoader):
    """Reads what the app was told to read."""
