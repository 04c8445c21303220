"""Objects and modules by their names."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from functools import cache
from importlib import import_module, reload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import Any

__all__ = (
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "load_extension_class_names",
    "load_extension_classes",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
)


#: The program's file, in processes that multiprocessing starts: its module has another name there.
MP_MAIN_FILE = os.environ.get("MP_MAIN_FILE")


class NotAPackage(Exception):
    """A module was looked for in one that is no package."""


def qualname(obj: Any) -> str:
    """Module and qualified name of a class or function, or of an object's class."""
    if not hasattr(obj, "__name__") and hasattr(obj, "__class__"):
        obj = obj.__class__
    name = getattr(obj, "__qualname__", None) or obj.__name__
    return name if "." in name and hasattr(obj, "__self__") else f"{obj.__module__}.{name}"


def symbol_by_name(
    name: Any,
    aliases: dict[str, str] | None = None,
    imp: Callable[..., ModuleType] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """The object at ``module.name`` or ``module:name``; what is no string is returned as it is.

    Arguments:
        aliases: short names.
        default: returned where there is no such object; without one the import's error is raised.
    """
    if not isinstance(name, str):
        return name
    path = (aliases or {}).get(name, name)
    separator = ":" if ":" in path else sep
    module_name, _, attribute = path.rpartition(separator)
    if not module_name:
        module_name, attribute = attribute, ""
        if package:
            module_name, attribute = package, module_name
    try:
        module = (
            (imp or import_module)(module_name, package=package, **kwargs)
            if module_name
            else sys.modules[package or ""]
        )
        for part in attribute.split(".") if attribute else ():
            module = getattr(module, part)
    except (ImportError, AttributeError):
        if default is None:
            raise
        return default
    return module


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the class or function of this name."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[None]:
    """Find modules in the current directory too."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    if not here or here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def import_from_cwd(
    module: str, imp: Callable[..., ModuleType] | None = None, package: str | None = None
) -> ModuleType:
    """Import a module, from the current directory if need be."""
    with cwd_in_path():
        return (imp or import_module)(module, package=package)


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """The name of a task: its module's and its own; for ``__main__`` the app's where it has one."""
    module_name = module_name or "__main__"
    if MP_MAIN_FILE and getattr(sys.modules.get(module_name), "__file__", None) == MP_MAIN_FILE:
        module_name = "__main__"
    if module_name == "__main__" and app.main:
        return f"{app.main}.{name}"
    return ".".join(part for part in (module_name, name) if part)


def find_module(module: str, path: Any = None, imp: Callable[[str], Any] | None = None) -> Any:
    """Where a module is, its packages imported; None if it is not there. Looks in the current directory too.

    Raises:
        NotAPackage: what was said to be a package is none.
    """
    from importlib.util import find_spec

    load = imp or import_module
    with cwd_in_path():
        parent = ""
        for part in module.split(".")[:-1]:
            parent = f"{parent}.{part}" if parent else part
            if not hasattr(load(parent), "__path__"):
                raise NotAPackage(parent)
        found = find_spec(module)
        if found is None and parent:
            raise ImportError(f"there is no module {module}", name=module)
        return found


def reload_from_cwd(module: Any, reloader: Callable[[Any], Any] | None = None) -> Any:
    """Load a module anew, from the current directory if need be."""
    with cwd_in_path():
        return (reloader or reload)(module)


def module_file(module: Any) -> str:
    """The source file of a module."""
    name: str = module.__file__
    return name[:-1] if name.endswith(".pyc") else name


def entry_points(*, group: str) -> Any:
    """What installed packages offer under an entry-point group."""
    # imports a good part of the standard library, which programs that only send tasks don't need
    from importlib.metadata import entry_points as found

    return found(group=group)


@cache
def load_extension_class_names(namespace: str) -> tuple[tuple[str, str], ...]:
    """Name and place of what installed packages offer under an entry-point group."""
    return tuple((point.name, point.value) for point in entry_points(group=namespace))


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """Name and object of what installed packages offer; what can't be imported is warned of and left out."""
    for name, place in load_extension_class_names(namespace):
        try:
            found = symbol_by_name(place)
        except (ImportError, SyntaxError) as error:
            warnings.warn(f"Cannot load {namespace} extension {place!r}: {error!r}", stacklevel=2)
        else:
            yield name, found
