"""What a loader does."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from zerocelery import signals
from zerocelery.exceptions import ImproperlyConfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, ClassVar

__all__ = ("BaseLoader", "autodiscover_tasks", "find_related_module")


class BaseLoader:
    """Reads configuration and imports task modules; subclasses say where from.

    Life: ``read_configuration`` at the first look at ``app.conf``; ``import_default_modules`` and ``init_worker`` in a
    worker at its start; ``on_task_init`` before each task.
    """

    builtin_modules: frozenset[str] = frozenset()
    configured = False
    override_backends: ClassVar[dict[str, str]] = {}
    worker_initialized = False

    _conf: Any = None

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()

    def now(self, utc: bool = True) -> Any:
        """The time."""
        from datetime import datetime, timezone

        return datetime.now(timezone.utc) if utc else datetime.now()

    # hooks of subclasses

    def on_task_init(self, task_id: str, task: Any) -> None:
        """Called before a task is run."""

    def on_process_cleanup(self) -> None:
        """Called after a task was run."""

    def on_worker_init(self) -> None:
        """Called when a worker starts."""

    def on_worker_shutdown(self) -> None:
        """Called when a worker ends."""

    def on_worker_process_init(self) -> None:
        """Called when a process of a pool starts."""

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Mapping[str, Any]:
        """The configuration of apps that were given none."""
        import os

        name = os.environ.get(env)
        return self._import_config_module(name) if name else {}

    # modules

    def import_module(self, module: str, package: str | None = None) -> Any:
        return import_module(module, package=package)

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        from zerocelery.utils.imports import import_from_cwd

        return import_from_cwd(module, imp or self.import_module, package=package)

    def import_task_module(self, module: str) -> Any:
        self.task_modules.add(module)
        return self.import_from_cwd(module)

    @property
    def default_modules(self) -> tuple[str, ...]:
        """The modules that settings name."""
        conf = self.app.conf
        return (*self.builtin_modules, *_several(conf["imports"]), *_several(conf["include"]))

    def import_default_modules(self) -> list[Any]:
        """Import all that a worker needs; an error of a module that is found by discovery is raised too."""
        for _, response in signals.import_modules.send(sender=self.app):
            if isinstance(response, Exception):
                raise response
        return [self.import_task_module(module) for module in self.default_modules]

    def init_worker(self) -> None:
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        self.on_worker_process_init()

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str | None = "tasks") -> None:
        self.task_modules.update(
            module.__name__ for module in autodiscover_tasks(packages, related_name) if module is not None
        )

    # configuration

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Take the configuration from an object, or from the module of this name."""
        if isinstance(obj, str):
            try:
                obj = self._find_config(obj)
            except (ImportError, AttributeError):
                if silent:
                    return False
                raise
        self._conf = as_mapping(obj)
        return True

    def _find_config(self, path: str) -> Any:
        from zerocelery.utils.imports import symbol_by_name

        try:
            return symbol_by_name(path, imp=self.import_from_cwd)
        except (ImportError, AttributeError):
            if ":" in path:
                raise
            return self.import_from_cwd(path)

    def _import_config_module(self, name: str) -> Mapping[str, Any]:
        try:
            found = self._find_config(name)
        except ModuleNotFoundError as error:
            if name.endswith(".py"):
                raise ImproperlyConfigured(f"{name!r} is a file: name the module, {name[:-3]!r}") from error
            raise
        return as_mapping(found)

    @property
    def conf(self) -> Mapping[str, Any]:
        """What the source says."""
        if self._conf is None:
            self._conf = self.read_configuration()
        return self._conf  # type: ignore[no-any-return]


def _several(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def as_mapping(obj: Any) -> Mapping[str, Any]:
    """A dict as it is; of a module or class the public names."""
    if hasattr(obj, "keys"):
        return obj  # type: ignore[no-any-return]
    found = {name: getattr(obj, name) for name in dir(obj) if not name.startswith("_")}
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


def autodiscover_tasks(packages: Iterable[str], related_name: str | None = "tasks") -> list[Any]:
    """The modules of this name in the packages, imported."""
    return [find_related_module(package, related_name) for package in packages or ()]


def find_related_module(package: str, related_name: str | None) -> Any:
    """``package.related_name`` imported; None where the package has none. A module's own errors are raised."""
    try:
        module = import_module(package)
    except ModuleNotFoundError as error:
        # the name of a class in a package, as Django's INSTALLED_APPS may have it
        package, _, _ = package.rpartition(".")
        if not package or error.name is None or not f"{error.name}.".startswith(f"{package}."):
            raise
        module = import_module(package)
    if not related_name:
        return module
    wanted = f"{package}.{related_name}"
    if wanted in sys.modules:
        return sys.modules[wanted]
    try:
        return import_module(wanted)
    except ModuleNotFoundError as error:
        if error.name == wanted:
            return None
        raise
