"""``zerocelery-run CMD …``: starts any program with zerocelery in celery's place, no line of it changed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence

from zerocelery.bin.base import EX_OK, EX_USAGE

USAGE = """\
Usage: zerocelery-run CMD [ARGS]...
       zerocelery-run -m MODULE [ARGS]...
       zerocelery-run SCRIPT.py [ARGS]...

Starts a program that imports celery, and gives it zerocelery; its child processes, too.

  zerocelery-run celery -A proj worker    zerocelery's own command line
  zerocelery-run flower -A proj           a package's command of celery
  zerocelery-run gunicorn wsgi            a program installed beside zerocelery, or on PATH
  zerocelery-run -m pytest                a module, as python -m does
  zerocelery-run manage.py runserver      a script
"""

#: Exit codes that shells use for a command that isn't there, or can't be run.
EX_NOT_FOUND = 127
EX_NOT_EXECUTABLE = 126

_STARTUP = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_startup")


class CannotRun(Exception):
    """There is nothing to start; says why, and has the code to exit with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment in which every Python that starts installs the alias first."""
    rest = [entry for entry in base.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != _STARTUP]
    return {**base, "PYTHONPATH": os.pathsep.join([_STARTUP, *rest])}


def command_line(arguments: Sequence[str]) -> list[str]:
    """What to execute for these arguments.

    Raises:
        CannotRun: there is no such command.
    """
    first, *rest = arguments
    if first == "-m":
        if not rest:
            raise CannotRun("-m needs a module's name: zerocelery-run -m MODULE", EX_USAGE)
        return [sys.executable, "-m", *rest]
    if first.startswith("-m"):  # as python takes it
        return [sys.executable, first, *rest]
    if first == "celery":
        return [sys.executable, "-m", "celery", *rest]
    if first.endswith((".py", ".pyc", ".pyz")) and os.path.isfile(first):
        return [sys.executable, first, *rest]
    try:
        return [_program(first), *rest]
    except CannotRun:
        if not _is_celery_command(first):
            raise
        before, behind = _program_options(rest)
        return [sys.executable, "-m", "celery", *before, first, *behind]


def _is_celery_command(name: str) -> bool:
    """Whether a package has made it a command of ``celery``, as Flower has."""
    from importlib.metadata import entry_points

    return any(point.name == name for point in entry_points(group="celery.commands"))


def _program_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of ``celery`` itself, which stand before the command; and the rest."""
    before: list[str] = []
    behind: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-A", "--app", "-b", "--broker"):
            before += [argument, *[value for value in [next(rest, None)] if value is not None]]
        elif argument.startswith(("--app=", "--broker=")):
            before.append(argument)
        else:
            behind.append(argument)
    return before, behind


def _program(name: str) -> str:
    """The path of a command: one that was installed beside zerocelery goes before others of its name."""
    if os.sep in name:
        if not os.path.exists(name):
            raise CannotRun(f"there is no {name}", EX_NOT_FOUND)
        if not os.access(name, os.X_OK):
            raise CannotRun(f"{name} may not be executed: chmod +x it", EX_NOT_EXECUTABLE)
        return name
    beside = os.path.dirname(sys.executable)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise CannotRun(f"there is no command {name!r} in {beside} or on PATH", EX_NOT_FOUND)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the program that the arguments name; returns only where there is none."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        sys.stderr.write(USAGE)
        return EX_USAGE
    if given[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return EX_OK
    if given[0].startswith("-") and not given[0].startswith("-m"):
        sys.stderr.write(f"zerocelery-run: there is no option {given[0]}; write the command first\n\n{USAGE}")
        return EX_USAGE
    try:
        command = command_line(given)
        os.execve(command[0], command, environment(os.environ))  # noqa: S606  starting programs is what it is for
    except CannotRun as error:
        sys.stderr.write(f"zerocelery-run: {error}\n")
        return error.code
    except OSError as error:
        sys.stderr.write(f"zerocelery-run: {given[0]}: {error.strerror}\n")
        return EX_NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main())
