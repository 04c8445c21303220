"""``-A name``: loads the app, and says in one sentence what is wrong where it can't.

What a name means is decided by :func:`zerocelery.app.utils.find_app`. The modules are imported here first, where it can
still be told whether one is absent, or is there and broken.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from zerocelery.bin.base import CommandError

if TYPE_CHECKING:
    from zerocelery.app.base import Celery


def find_app(name: str) -> Celery:
    """The app that ``-A name`` means; the working directory is on the path from now on.

    Raises:
        CommandError: there is none; the message says what was looked for and how to name it.
    """
    from zerocelery.app.base import Celery
    from zerocelery.app.utils import find_app

    module_name, colon, _ = name.partition(":")
    if not module_name or module_name.startswith("."):
        raise CommandError(f"-A {name!r} names no module: write -A proj, -A proj.module or -A proj.module:app")
    cwd = os.getcwd()
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    module = _import(module_name) if colon else _import_or_parent(name)
    in_package = f"{module.__name__}.celery"
    if _is_package(module) and not isinstance(getattr(module, "app", None), Celery) and _exists(in_package):
        _import(in_package)
    try:
        return find_app(name)
    except (AttributeError, ModuleNotFoundError) as error:
        raise CommandError(_no_app(name, module)) from error


def default_app() -> Celery:
    """The app of a program without ``-A``: it has no tasks of its own, and runs those that are shipped to it."""
    from zerocelery._state import get_current_app

    app: Celery = get_current_app()
    return app


def load_app(name: str | None) -> Celery:
    """The app that ``-A`` names, or the default one; it becomes this process's current app."""
    app = find_app(name) if name else default_app()
    app.set_current()
    app.set_default()
    return app


def import_tasks(app: Celery, include: Sequence[str] = ()) -> None:
    """Import every module that the app's settings, its loader and the command line name.

    Raises:
        CommandError: one of them can't be imported; the message says why.
    """
    try:
        for module in include:
            app.loader.import_task_module(module)
        app.loader.import_default_modules()
    except Exception as error:
        raise _broken("the app's task modules", error) from error


def _is_package(module: ModuleType) -> bool:
    return hasattr(module, "__path__")


def _exists(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _import_or_parent(name: str) -> ModuleType:
    """The module of that name, or, where the last part is an attribute, the module that has it."""
    parent, dot, attribute = name.rpartition(".")
    if dot and hasattr(_import(parent), attribute):
        return _import(parent)
    return _import(name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(
                f"there is no module {error.name!r} in {os.getcwd()} or on Python's path: "
                "run this in the directory that holds it, or name that with --workdir"
            ) from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> CommandError:
    """The user's module raised: its own traceback first, for the cause is there, then the sentence."""
    here = os.path.dirname(__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and not frame.filename.startswith(here)
    ]
    sys.stderr.write("".join(traceback.format_list(frames)))
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return CommandError(f"importing {name} failed with {type(error).__name__}: {error}{place}")


def _no_app(name: str, module: ModuleType) -> str:
    where = module.__name__
    if name == where:
        fix = f"write app = Celery({where!r}) in it, or name the app with -A module:attribute"
        return f"-A {name}: there is no Celery app in module {where!r}: {fix}"
    return f"-A {name}: there is no Celery app of that name in module {where!r}: name the app with -A {where}:attribute"
