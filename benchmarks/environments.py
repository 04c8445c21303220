"""The interpreters: the running one for zerocelery, a virtual environment made here for the peers."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.errors import Unavailable
from benchmarks.processes import SCRIPTS

#: What the peers' environment is made of. celery brings the redis client that it wants.
PEERS = ("celery[redis]==5.7.0", "dramatiq[redis]==2.2.1")

_INSTALL_DEADLINE = 600.0
_QUESTION_DEADLINE = 60.0

_VERSIONS = """
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Interpreter:
    """One Python and the environment variables that its processes get."""

    python: str
    variables: Mapping[str, str]

    def versions(self, *names: str) -> dict[str, str]:
        """Versions of the distributions that are installed for it."""
        versions: dict[str, str] = json.loads(self._run("-c", _VERSIONS, *names))
        return versions

    def check(self, module: str) -> None:
        """Raises Unavailable when this Python can't import the module."""
        self._run("-c", f"import {module}")

    def _run(self, *arguments: str) -> str:
        command = [self.python, *arguments]
        return _run(command, variables=self.variables, deadline=_QUESTION_DEADLINE)


def own_interpreter(python: str | None) -> Interpreter:
    """The interpreter that has zerocelery: the running one unless another is named."""
    return Interpreter(python or sys.executable, _variables(keep_path=True))


def peers_interpreter(python: str | None, *, venvs: Path) -> Interpreter:
    """The interpreter that has the peers, made on first use. PYTHONPATH is not for them."""
    chosen = python or str(_peers_environment(venvs))
    return Interpreter(chosen, _variables(keep_path=False))


def _variables(*, keep_path: bool) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if keep_path or name != "PYTHONPATH"}
    # What pip installs is compiled, a source tree is when it is first imported: unless this variable forbids it.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**variables, "PYTHONUNBUFFERED": "1"}


def _peers_environment(venvs: Path) -> Path:
    directory = venvs / "peers"
    python, done = directory / "bin" / "python", directory / "requirements.txt"
    wanted = "\n".join(PEERS)
    if done.exists() and done.read_text() == wanted:
        return python
    sys.stderr.write(f"making {directory}: {', '.join(PEERS)}\n")
    venv.create(directory, with_pip=True, clear=True)
    _run([str(python), "-m", "pip", "install", "--quiet", *PEERS], variables=os.environ, deadline=_INSTALL_DEADLINE)
    done.write_text(wanted)
    return python


def _run(command: Sequence[str], *, variables: Mapping[str, str], deadline: float) -> str:
    try:
        done = subprocess.run(
            command, cwd=SCRIPTS, env=dict(variables), capture_output=True, text=True, timeout=deadline, check=True
        )
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{command[0]}: {error.stderr.strip().splitlines()[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
    return done.stdout
