"""The loader of the app that exists when nobody has made one: reads the module ``celeryconfig``."""

from __future__ import annotations

import os
import warnings

from zerocelery.exceptions import NotConfigured
from zerocelery.loaders.base import BaseLoader
from zerocelery.utils.imports import NotAPackage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("DEFAULT_CONFIG_MODULE", "Loader")

DEFAULT_CONFIG_MODULE = "celeryconfig"

#: Whether to warn when there is no configuration module.
C_WNOCONF = bool(os.environ.get("C_WNOCONF"))


class Loader(BaseLoader):
    """Reads the configuration module that CELERY_CONFIG_MODULE names, ``celeryconfig`` unless set."""

    def setup_settings(self, settingsdict: Any) -> Any:
        """The module's settings as the app has them."""
        from zerocelery.utils.collections import DictAttribute

        return DictAttribute(settingsdict)

    def read_configuration(self, fail_silently: bool = True) -> Any:  # type: ignore[override]
        name = os.environ.get("CELERY_CONFIG_MODULE") or DEFAULT_CONFIG_MODULE
        try:
            found = self._import_config_module(name)
        except NotAPackage:
            raise
        except ImportError:
            if not fail_silently:
                raise
            # Who names a module wants it. That there is none of the usual name is worth a word only if asked for:
            # the app's settings may well come from elsewhere.
            if C_WNOCONF:
                warnings.warn(NotConfigured(f"No {name} module found: is it on the Python path?"), stacklevel=2)
            return self.setup_settings({})
        self.configured = True
        return self.setup_settings(found)
