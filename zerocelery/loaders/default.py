"""The loader of the app that exists when nobody has made one: reads the module ``celeryconfig``."""

from __future__ import annotations

import os
import warnings

from zerocelery.exceptions import NotConfigured
from zerocelery.loaders.base import BaseLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ("DEFAULT_CONFIG_MODULE", "Loader")

DEFAULT_CONFIG_MODULE = "celeryconfig"


class Loader(BaseLoader):
    """Reads the configuration module that CELERY_CONFIG_MODULE names, ``celeryconfig`` unless set."""

    def setup_settings(self, settingsdict: Mapping[str, Any]) -> Mapping[str, Any]:
        return settingsdict

    def read_configuration(self, fail_silently: bool = True) -> Mapping[str, Any]:  # type: ignore[override]
        name = os.environ.get("CELERY_CONFIG_MODULE") or DEFAULT_CONFIG_MODULE
        try:
            found = self._import_config_module(name)
        except ImportError:
            if not fail_silently:
                raise
            if "CELERY_CONFIG_MODULE" in os.environ:
                warnings.warn(NotConfigured(f"No {name} module found: is it on the Python path?"), stacklevel=2)
            found = {}
        self.configured = True
        return self.setup_settings(found)
