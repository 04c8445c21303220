"""``import celery`` gives zerocelery: its very modules, under a second name.

:func:`install_as_celery` puts one finder in front of all others. From then on ``celery.app.base`` *is*
``zerocelery.app.base``, whether a Celery is installed beside it or not. Only the top module is an object of its own: it
hands everything on to ``zerocelery``, but answers with the version of Celery whose interface this is.

Tools that wait for an import of ``celery`` or ``celery.app.trace`` to patch it (newrelic, ddtrace, wrapt's hooks) do so
with finders of their own. These are asked in turn, as if they stood in front, and get a module of the name they know.

``billiard``, which is Celery's own fork of multiprocessing, is imported by user code for its exceptions. Where it is
not installed, :mod:`zerocelery._billiard` stands in for what people use of it; where it is, its exceptions become ours,
so that ``except`` clauses written with either name catch the same.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections import namedtuple
from importlib.machinery import ModuleSpec
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.metadata import Distribution
    from types import CodeType
    from typing import Any

__all__ = ("install_as_celery",)

#: The version of Celery whose interface this is.
CELERY_LEVEL = "5.7.0"
SERIES = "zerocelery"

version_info_t = namedtuple("version_info_t", ("major", "minor", "micro", "releaselevel", "serial"))

#: Names that have a second one: what stands behind ``celery.x`` and, if there is no such package, ``billiard.x``.
_BEHIND = {"celery": "zerocelery", "billiard": "zerocelery._billiard"}

#: Packages whose modules nobody knows by a name of Celery's.
_OURS_ALONE = tuple(f"zerocelery.{name}" for name in ("_alias", "_billiard", "_ids", "_startup", "engine", "transport"))

#: What has to say ``celery.`` of itself, for there is code that compares these strings.
_CALLED_CELERY = {
    "zerocelery.app.base": ("Celery",),
    "zerocelery.app.task": ("Context", "Task"),
    "zerocelery.local": ("Proxy",),
}

#: Modules of old: name in the module → where it is on the current app.
_LEFTOVERS = {
    "celery.execute": {"send_task": "send_task"},
    "celery.log": {
        "get_default_logger": "log.get_default_logger",
        "redirect_stdouts_to_logger": "log.redirect_stdouts_to_logger",
        "setup_logging_subsystem": "log.setup_logging_subsystem",
    },
    "celery.messaging": {
        "TaskConsumer": "amqp.TaskConsumer",
        "establish_connection": "connection",
        "get_consumer_set": "amqp.TaskConsumer",
    },
    "celery.registry": {"tasks": "tasks"},
}

#: Which names of billiard's modules become ours, where billiard is installed.
_SHARED_WITH_BILLIARD = {
    "billiard.einfo": ("zerocelery._billiard.einfo", ("ExceptionInfo",)),
    "billiard.exceptions": (
        "zerocelery.exceptions",
        ("SoftTimeLimitExceeded", "Terminated", "TimeLimitExceeded", "WorkerLostError"),
    ),
    "billiard": ("zerocelery.exceptions", ("SoftTimeLimitExceeded", "TimeLimitExceeded", "WorkerLostError")),
}

_STANDARD_FINDERS: tuple[Any, ...] = (
    importlib.machinery.BuiltinImporter,
    importlib.machinery.FrozenImporter,
    importlib.machinery.PathFinder,
)


def install_as_celery() -> None:
    """Make ``import celery`` give zerocelery, in this process, from now on.

    Call it before anything imports celery; more than once does no harm. To have the same in programs that can't be
    changed, and in their child processes, start them with ``zerocelery-run``.

    Raises:
        RuntimeError: another celery is imported already, so some modules would use that and some this.
    """
    found = sys.modules.get("celery")
    if isinstance(found, AliasModule):
        return
    if found is not None:
        raise RuntimeError(
            f"celery is imported already, from {getattr(found, '__file__', None) or 'an unknown place'}: "
            "call zerocelery.install_as_celery() before the first import of celery, "
            "or start the program with zerocelery-run"
        )
    finder = Finder()
    sys.meta_path.insert(0, finder)
    importlib.import_module("celery")
    for name in [name for name in sys.modules if name.startswith("zerocelery.")]:
        finder.announce(name)
    for name in _SHARED_WITH_BILLIARD:
        if name in sys.modules:
            _share_with_billiard(sys.modules[name])


# ── modules ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class AliasModule(ModuleType):
    """A module under its second name: what is read, set or deleted here is so there.

    What the import system wrote into it stays its own, and for the top module what it says of its version.
    """

    #: Set when the module behind it is there.
    _behind: ModuleType | None

    def __getattr__(self, name: str) -> Any:
        behind = self.__dict__.get("_behind")
        if behind is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        try:
            return getattr(behind, name)
        except AttributeError:
            if name in _TOP_MODULES and self.__name__ == "celery":
                return importlib.import_module(f"celery.{name}")
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        behind = self.__dict__.get("_behind")
        if behind is None or name in self.__dict__ or (name.startswith("__") and name.endswith("__")):
            super().__setattr__(name, value)
        else:
            setattr(behind, name, value)

    def __delattr__(self, name: str) -> None:
        behind = self.__dict__.get("_behind")
        if behind is None or name in self.__dict__:
            super().__delattr__(name)
        else:
            delattr(behind, name)

    def __dir__(self) -> list[str]:
        behind = self.__dict__.get("_behind")
        return sorted({*self.__dict__, *(dir(behind) if behind is not None else ())} - {"_behind"})


#: Modules that come with a mere ``import celery``: asked for as attributes, they are imported.
_TOP_MODULES = frozenset({"app", "execute", "loaders", "local", "log", "messaging", "registry", "result"})


def _top_attributes() -> dict[str, Any]:
    major, minor, micro = CELERY_LEVEL.split(".")
    version = version_info_t(int(major), int(minor), int(micro), "", "")
    return {
        "SERIES": SERIES,
        "VERSION": version,
        "VERSION_BANNER": f"{CELERY_LEVEL} ({SERIES})",
        "__author__": "zerocelery developers",
        "__contact__": "https://github.com/zerocelery/zerocelery/issues",
        "__docformat__": "restructuredtext",
        "__homepage__": "https://github.com/zerocelery/zerocelery",
        "__version__": CELERY_LEVEL,
        "version_info": version,
        "version_info_t": version_info_t,
    }


class _Leftover(ModuleType):
    """A module of old: its names are found on the current app when asked for."""

    def __getattr__(self, name: str) -> Any:
        path = _LEFTOVERS[self.__name__].get(name)
        if path is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from zerocelery._state import current_app

        found: Any = current_app
        for part in path.split("."):
            found = getattr(found, part)
        return found

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *_LEFTOVERS[self.__name__]})


class AliasLoader:
    """Loads nothing: imports the module under its own name, and enters it under this one."""

    def __init__(self, behind: str) -> None:
        self.behind = behind

    # The import system takes two specs for the same if their loaders are.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AliasLoader) and self.behind == other.behind

    def __hash__(self) -> int:
        return hash(self.behind)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return AliasModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        behind = importlib.import_module(self.behind)
        for attribute in ("__doc__", "__file__", "__path__"):
            if hasattr(behind, attribute):
                setattr(module, attribute, getattr(behind, attribute))
        if name == "celery":
            module.__dict__.update(_top_attributes())
        module.__dict__["_behind"] = behind
        if name != "celery":
            # The import system takes from here what it hands out, while hooks were promised the module they know.
            sys.modules[name] = behind

    # What runpy, inspect and importlib.resources ask a loader for.

    def get_code(self, fullname: str) -> CodeType | None:
        return self._real().get_code(self.behind)  # type: ignore[no-any-return]

    def get_source(self, fullname: str) -> str | None:
        return self._real().get_source(self.behind)  # type: ignore[no-any-return]

    def get_filename(self, fullname: str) -> str:
        return self._real().get_filename(self.behind)  # type: ignore[no-any-return]

    def is_package(self, fullname: str) -> bool:
        return self._real().is_package(self.behind)  # type: ignore[no-any-return]

    def get_resource_reader(self, fullname: str) -> Any:
        return self._real().get_resource_reader(self.behind)

    def _real(self) -> Any:
        spec = _spec_of(self.behind)
        if spec is None or spec.loader is None:
            raise ImportError(f"there is no module {self.behind}", name=self.behind)
        return spec.loader


class _LeftoverLoader:
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Leftover(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _ThenLoader:
    """Another loader, and something to do when it is done."""

    def __init__(self, spec: ModuleSpec, then: Callable[[ModuleType], object]) -> None:
        self._spec = spec
        self._loader: Any = spec.loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        # Whoever looks at the module from now on sees its own loader.
        self._spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _spec_of(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a parent that isn't there either, or is no package
        return None
    except ValueError:  # imported, and its spec was taken away
        module = sys.modules[name]
        return ModuleSpec(name, None, origin=getattr(module, "__file__", None), is_package=hasattr(module, "__path__"))


def _share_with_billiard(module: ModuleType) -> None:
    home, names = _SHARED_WITH_BILLIARD[module.__name__]
    ours = importlib.import_module(home)
    for name in names:
        setattr(module, name, getattr(ours, name))


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Asking(threading.local):
    """Which finders are being asked right now, for what: they ask the import system again, and so come back here."""

    def __init__(self) -> None:
        self.finders: dict[str, list[Any]] = {}
        self.offered: dict[str, ModuleSpec] = {}


class Finder:
    """Answers for ``celery`` and what is below it; sees to it that everybody else hears of it."""

    def __init__(self) -> None:
        self._asking = _Asking()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root == "celery":
            return self._find_celery(fullname, path, target)
        if root == "zerocelery":
            return self._find_zerocelery(fullname, path, target)
        if root == "billiard":
            return self._find_billiard(fullname, path, target)
        self._stay_first()
        return None

    def invalidate_caches(self) -> None:
        """There are none."""

    def _stay_first(self) -> None:
        # pytest puts its assertion rewriter in front, which reads files of the name it is asked for: with it there, a
        # celery that is installed, or a second copy of a module of ours, would be imported.
        finders = sys.meta_path
        if finders[0] is not self and self in finders:
            finders[:] = [self, *(finder for finder in finders if finder is not self)]

    def _find_celery(self, fullname: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
        offered = self._asking.offered.get(fullname)
        if offered is None:
            offered = self._make_spec(fullname)
        return None if offered is None else self._offer(offered, path, target)

    @staticmethod
    def _make_spec(fullname: str) -> ModuleSpec | None:
        if fullname in _LEFTOVERS:
            return ModuleSpec(fullname, _LeftoverLoader(), origin=__file__)  # type: ignore[arg-type]
        root, _, rest = fullname.partition(".")
        behind = f"{_BEHIND[root]}.{rest}" if rest else _BEHIND[root]
        found = _spec_of(behind)
        if found is None:
            return None
        loader: Any = AliasLoader(behind)
        spec = ModuleSpec(
            fullname, loader, origin=found.origin, is_package=found.submodule_search_locations is not None
        )
        if found.submodule_search_locations is not None:
            spec.submodule_search_locations = list(found.submodule_search_locations)
        return spec

    def _find_zerocelery(self, fullname: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
        if fullname.startswith(_OURS_ALONE):
            return None
        spec = self._from_others(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenLoader(spec, lambda module: self.announce(module.__name__))  # type: ignore[assignment]
        return spec

    def _find_billiard(self, fullname: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
        shim = sys.modules.get("zerocelery._billiard")
        installed = shim is None or sys.modules.get("billiard") is not shim
        spec = self._from_others(fullname, path, target) if installed else None
        if spec is None:
            stands_in = not installed or fullname == "billiard"
            return self._find_celery(fullname, path, target) if stands_in else None
        if fullname in _SHARED_WITH_BILLIARD and spec.loader is not None:
            spec.loader = _ThenLoader(spec, _share_with_billiard)  # type: ignore[assignment]
        return spec

    # Other finders.

    def _others(self, fullname: str) -> Iterable[Any]:
        """All but this one and those that are being asked already, and have come back."""
        busy = self._asking.finders.get(fullname, ())
        return [
            finder
            for finder in sys.meta_path
            if finder is not self and not any(finder is one for one in busy) and hasattr(finder, "find_spec")
        ]

    def _ask(self, finder: Any, fullname: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
        busy = self._asking.finders.setdefault(fullname, [])
        busy.append(finder)
        try:
            return finder.find_spec(fullname, path, target)  # type: ignore[no-any-return]
        finally:
            busy.pop()
            if not busy:
                del self._asking.finders[fullname]

    def _from_others(self, fullname: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
        for finder in self._others(fullname):
            spec = self._ask(finder, fullname, path, target)
            if spec is not None:
                return spec
        return None

    def _offer(self, spec: ModuleSpec, path: Any, target: ModuleType | None) -> ModuleSpec:
        """The spec, after all who listen for imports could wrap its loader.

        A listener asks the import system for the spec, gets this one, and returns it changed. One that answers with a
        spec of its own has found a file by itself: that is another celery, and not what was asked for.
        """
        outermost = spec.name not in self._asking.offered
        self._asking.offered[spec.name] = spec
        try:
            for finder in self._others(spec.name):
                if finder in _STANDARD_FINDERS:
                    continue
                loader = spec.loader
                found = self._ask(finder, spec.name, path, target)
                if found is spec:
                    break  # it has asked all the others
                spec.loader = loader
        finally:
            if outermost:
                del self._asking.offered[spec.name]
        return spec

    def announce(self, name: str) -> None:
        """Enter a module of ours under its other name; whoever waits for that name to be imported hears of it."""
        if name.startswith(_OURS_ALONE):
            return
        module = sys.modules[name]
        for attribute in _CALLED_CELERY.get(name, ()):
            kind = module.__dict__.get(attribute)
            if isinstance(kind, type) and kind.__module__ == name:
                kind.__module__ = f"celery{name.removeprefix('zerocelery')}"
        alias = f"celery{name.removeprefix('zerocelery')}"
        if alias in sys.modules:
            return
        if any(finder is not self and finder not in _STANDARD_FINDERS for finder in sys.meta_path):
            importlib.import_module(alias)
        else:
            sys.modules[alias] = module

    # Metadata.

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        """Where no distribution named celery is installed: one that tells the version to tools that ask for it."""
        from importlib.metadata import MetadataPathFinder

        name = getattr(context, "name", None)
        if name is not None and name.lower().replace("_", "-") != "celery":
            return ()
        if any(True for _ in MetadataPathFinder.find_distributions(MetadataPathFinder.Context(name="celery"))):
            return ()
        return (_distribution(),)


def _distribution() -> Distribution:
    from importlib.metadata import Distribution

    class AliasDistribution(Distribution):
        """Says which Celery's interface this is."""

        def read_text(self, filename: str) -> str | None:
            if filename != "METADATA":
                return None
            return f"Metadata-Version: 2.1\nName: celery\nVersion: {CELERY_LEVEL}\nSummary: zerocelery's alias\n"

        def locate_file(self, path: Any) -> Any:
            from pathlib import Path

            return Path(__file__).parent.parent / path

    return AliasDistribution()
