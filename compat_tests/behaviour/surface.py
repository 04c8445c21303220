"""Compares what can be imported under the alias with Celery's published names.

``surface.json`` has every name that Celery documents or that well-known packages import: module → name → parameters; of
a class those of its constructor (``""``) and its methods; null where there is nothing but the name. A parameter ends in
``=`` if it has a default. ``surface_missing.txt`` lists what is not here yet, with a reason after ``#`` where it is not
going to be; after building some of it:

    python -m compat_tests.behaviour.surface

What needs a package that isn't installed (Django) is not compared.
"""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MISSING = HERE / "surface_missing.txt"


def expected() -> dict[str, str | None]:
    """Parameters by ``module:name`` and ``module:Class.method``; None where only the name counts."""
    flat: dict[str, str | None] = {}
    for module, names in json.loads((HERE / "surface.json").read_text()).items():
        for name, said in names.items():
            path = f"{module}:{name}"
            if isinstance(said, dict):
                flat[path] = said.get("")
                flat.update({f"{path}.{method}": params for method, params in said.items() if method})
            else:
                flat[path] = said
    return flat


def known_missing() -> set[str]:
    """What is listed as missing."""
    return set(reasons())


def reasons() -> dict[str, str]:
    """Why each of it is missing; empty where it is only not here yet."""
    lines = [line for line in MISSING.read_text().splitlines() if line and not line.startswith("#")]
    return {path.strip(): why.strip() for path, _, why in (line.partition("#") for line in lines)}


def differences() -> dict[str, str]:
    """What is wrong under the alias, by path; measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "compat_tests.behaviour.surface", "--measure"],
        check=True, capture_output=True, text=True, timeout=50, cwd=HERE.parents[1],
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


def undocumented() -> list[str]:
    """Published names of ours without a docstring; looked for in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "compat_tests.behaviour.surface", "--undocumented"],
        check=True, capture_output=True, text=True, timeout=50, cwd=HERE.parents[1],
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout)
    return found


# ── in the process that has the alias ────────────────────────────────────────────────────────────────────────────────


def measure() -> dict[str, str]:
    """What is wrong, by path."""
    found = {}
    for path, params in expected().items():
        try:
            problem = compare(look_up(path), params)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            problem = str(error) if package in ("celery", "zerocelery") else ""
        except Exception as error:  # whatever a module raises is what is wrong with it
            problem = f"{type(error).__name__}: {error}"
        if problem:
            found[path] = problem
    return found


def without_docstring() -> Iterator[str]:
    """Modules, classes, functions and methods of ours that say nothing."""
    for module in sorted({path.partition(":")[0] for path in expected()}):
        try:
            if not importlib.import_module(module).__doc__:
                yield module
        except ModuleNotFoundError:  # of a package that isn't installed
            continue
    for path in expected():
        try:
            found = look_up(path)
        except (AttributeError, ModuleNotFoundError):
            continue
        home = getattr(found, "__module__", None) or ""
        if not home.startswith(("zerocelery", "celery")):
            continue
        if inspect.isclass(found):  # a class has to speak for itself, a method may keep its base's word
            said = found.__doc__
        else:
            said = inspect.getdoc(found) if inspect.isroutine(found) else "a value"
        if not said:
            yield path


def look_up(path: str) -> Any:
    """The object behind a path. A method is looked up in its class, so that properties don't run."""
    module, _, dotted = path.partition(":")
    name, _, method = dotted.partition(".")
    home = importlib.import_module(module)
    try:
        found = getattr(home, name)
    except AttributeError:
        found = importlib.import_module(f"{module}.{name}")
    return getattr(found, method) if method else found


def compare(found: Any, params: str | None) -> str:
    """What is wrong with an object's parameters; empty where all is well."""
    if params is None:
        return ""
    if not callable(found):
        return f"is a {type(found).__name__}, and can't be called"
    try:
        ours = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return ""
    if ours and ours[0].name == "self":  # a method, looked up in its class
        ours = ours[1:]
    return "; ".join(_wrong(ours, params.split()))


def _wrong(ours: list[inspect.Parameter], theirs: list[str]) -> Iterator[str]:
    given = {text.rstrip("=").lstrip("*") for text in theirs}
    keyword_only = False
    for place, text in enumerate(theirs):
        if text.startswith("*"):
            keyword_only = True
            yield from _wrong_rest(ours, text)
        else:
            yield from _wrong_one(ours, text, None if keyword_only else place)
    for parameter in ours:
        if parameter.default is parameter.empty and parameter.kind not in _REST and parameter.name not in given:
            yield f"needs {parameter.name}, which Celery does not have"


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _wrong_rest(ours: list[inspect.Parameter], text: str) -> Iterator[str]:
    """``*``, ``*args`` or ``**kwargs``: by its kind, whatever its name."""
    wanted = {1: inspect.Parameter.VAR_POSITIONAL, 2: inspect.Parameter.VAR_KEYWORD}[text.count("*")]
    if text != "*" and wanted not in {parameter.kind for parameter in ours}:
        yield f"takes no {text}"


def _wrong_one(ours: list[inspect.Parameter], text: str, place: int | None) -> Iterator[str]:
    """A parameter; its place counts where it may be given by place."""
    name = text.rstrip("=")
    found = next((parameter for parameter in ours if parameter.name == name), None)
    if found is None:
        if not {parameter.kind for parameter in ours}.issuperset(_REST):
            yield f"has no parameter {name}"
        return
    if text.endswith("=") and found.default is found.empty:
        yield f"parameter {name} has no default"
    positional = [p.name for p in ours if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if place is not None and positional[place : place + 1] != [name]:
        yield f"parameter {name} is not in place {place + 1}"


def main() -> None:
    """Measure, or write the list of what is missing anew."""
    if "--measure" in sys.argv or "--undocumented" in sys.argv:
        import zerocelery

        zerocelery.install_as_celery()
        warnings.simplefilter("ignore")
        sys.stdout.write(json.dumps(measure() if "--measure" in sys.argv else list(without_docstring())))
        return
    found = differences()
    before = reasons() if MISSING.exists() else {}
    head = (
        f"# {len(found)} of Celery's {len(expected())} published names are not here yet, or differ.\n"
        "# Written by python -m compat_tests.behaviour.surface\n"
    )
    lines = (f"{path}  # {before[path]}" if before.get(path) else path for path in sorted(found))
    MISSING.write_text(head + "".join(f"{line}\n" for line in lines))
    fewer, new = len(set(before) - set(found)), len(set(found) - set(before))
    print(f"{len(found)} of {len(expected())} missing; {fewer} fewer, {new} new")


if __name__ == "__main__":
    main()
