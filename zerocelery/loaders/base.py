"""What a loader does."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from types import ModuleType

from zerocelery import signals
from zerocelery.utils.imports import NotAPackage, find_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ("BaseLoader", "autodiscover_tasks", "find_related_module")

#: A loader's configuration before anything was read.
unconfigured: Any = object()

#: Whether modules are being searched for: one that imports another app's must not start a search of its own.
_RACE_PROTECTION = False

_CAST = re.compile(r"\((\w+)\)")


class BaseLoader:
    """Reads configuration and imports task modules; subclasses say where from.

    Life: ``read_configuration`` at the first look at ``app.conf``; ``import_default_modules`` and ``init_worker`` in a
    worker at its start; ``on_task_init`` before each task.
    """

    builtin_modules: frozenset[str] = frozenset()
    configured = False
    override_backends: Any = {}  # noqa: RUF012  replaced, never changed
    worker_initialized = False

    _conf: Any = unconfigured

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

    def read_configuration(self, env: str = "CELERY_CONFIG_MODULE") -> Mapping[str, Any] | None:
        """The configuration of apps that were given none."""
        name = os.environ.get(env)
        return as_mapping(self._import_config_module(name)) if name else None

    # modules

    def import_module(self, module: str, package: str | None = None) -> Any:
        """Import a module, as ``importlib`` does."""
        return importlib.import_module(module, package=package)

    def find_module(self, module: str) -> Any:
        """Where a module is; None where there is none."""
        return find_module(module)

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        """Import a module, from the current directory if need be.

        Arguments:
            imp: what imports it; :meth:`import_module` unless given.
        """
        from zerocelery.utils.imports import import_from_cwd

        return import_from_cwd(module, imp or self.import_module, package=package)

    def import_task_module(self, module: str) -> Any:
        """Import a module, and remember it as one with tasks."""
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
        """Import the default modules and those with tasks, once; called when a worker starts."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        """Called when a worker ends."""
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        """Called in each process of a worker's pool when it starts."""
        self.on_worker_process_init()

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str | None = "tasks") -> None:
        """Import the modules of this name that the packages have, as modules with tasks.

        Arguments:
            related_name: the modules' name; None where the packages themselves have the tasks.
        """
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
        if "override_backends" in self._conf:
            self.override_backends = self._conf["override_backends"]
        return True

    def _find_config(self, path: str) -> Any:
        from zerocelery.utils.imports import symbol_by_name

        if ":" in path:
            return symbol_by_name(path, imp=self.import_from_cwd)
        try:
            return self.import_from_cwd(path)
        except ImportError:
            # not a module: then a name in one
            module, _, name = path.rpartition(".")
            if not module:
                raise
            found = getattr(sys.modules.get(module) or self._import_if_there(module), name, unconfigured)
            if found is unconfigured:
                raise
            return found

    def _import_if_there(self, module: str) -> Any:
        try:
            return self.import_from_cwd(module)
        except ImportError:
            return None

    def _import_config_module(self, name: str) -> Any:
        """The module of this name, looked for before it is imported: an error within it is not "no such module".

        Raises:
            NotAPackage: what is said to be a package is none.
        """
        try:
            self.find_module(name)
        except NotAPackage as error:
            hint = f"name the module, {name[:-3]!r}" if name.endswith(".py") else "is it on the Python path?"
            raise NotAPackage(f"there is no configuration module {name!r}: {hint}") from error
        return self.import_from_cwd(name)

    def cmdline_config_parser(
        self,
        args: Iterable[str],
        namespace: str = "celery",
        re_type: re.Pattern[str] = _CAST,
        extra_types: Mapping[str, Any] | None = None,
        override_types: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Settings from words such as ``worker_concurrency=8``, ``.concurrency=8`` or ``my_limit=(int)3``.

        Arguments:
            namespace: what a name that begins with a dot is in.
            extra_types: readers of further types, by the name that stands in parentheses.
            override_types: types to be read as others.

        Raises:
            ValueError: a value is not of its setting's type.
        """
        from zerocelery.app.defaults import NAMESPACES, OPTIONS, Option

        readers: dict[str, Any] = {**Option.typemap, **dict.fromkeys(("dict", "list", "tuple"), _json)}
        readers.update(extra_types or {})
        renamed = dict(override_types or {})

        def one(word: str) -> tuple[str, Any]:
            key, _, text = word.partition("=")
            key = key.lower().replace(".", "_") if not key.startswith(".") else f"{namespace}_{key[1:].lower()}"
            cast = re_type.match(text)
            if cast:
                kind, text = cast.group(1), text[cast.end() :]
            else:
                # top-level settings are options themselves
                option = OPTIONS.get(key) or NAMESPACES.get(key)
                kind = option.type if isinstance(option, Option) else "string"
            try:
                return key, readers[renamed.get(kind, kind)](text)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{key!r}: {error}") from error

        return dict(map(one, args))

    @property
    def conf(self) -> Mapping[str, Any]:
        """What the source says."""
        if self._conf is unconfigured:
            self._conf = self.read_configuration() or {}
        return self._conf  # type: ignore[no-any-return]


def _json(text: str) -> Any:
    import json

    return json.loads(text)


def _several(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def as_mapping(obj: Any) -> Mapping[str, Any]:
    """A dict as it is; of a module or class the public names."""
    if hasattr(obj, "keys"):
        return obj  # type: ignore[no-any-return]
    found: dict[str, Any] = {}
    for name in dir(obj):
        if name.startswith("_"):
            continue
        # Django's settings raise where a value must not be used as it is, which nobody here wants to.
        with contextlib.suppress(Exception):
            found[name] = getattr(obj, name)
    return {name: value for name, value in found.items() if not isinstance(value, ModuleType)}


def autodiscover_tasks(packages: Iterable[str], related_name: str | None = "tasks") -> list[Any]:
    """The modules of this name in the packages, imported."""
    global _RACE_PROTECTION
    if _RACE_PROTECTION:
        return []
    _RACE_PROTECTION = True
    try:
        return [find_related_module(package, related_name) for package in packages or ()]
    finally:
        _RACE_PROTECTION = False


def find_related_module(package: str, related_name: str | None) -> Any:
    """``package.related_name`` imported; None where the package has none. A module's own errors are raised."""
    try:
        # looked up on the module: people wrap importlib.import_module to see what is imported
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        # the name of a class in a package, as Django's INSTALLED_APPS may have it
        package, _, _ = package.rpartition(".")
        if not package:
            raise
        return _import_if_there(f"{package}.{related_name}")
    return _import_if_there(f"{package}.{related_name}") if related_name else module


def _import_if_there(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        # the module is there, or its package isn't: either is news
        raise
