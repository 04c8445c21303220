"""The files in examples/deploy: as far as a machine without Docker's daemon can tell, they start what they say.

By hand, the image was built with buildah on a base of Debian's in the place of python:3.12-slim, and its node, workers,
beat and health check were run as its user, by chroot. What Docker itself makes of the compose file was never seen.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from compat_tests.conftest import PATIENCE, ROOT
from zerocelery.bin.celery import celery

DEPLOY = ROOT / "examples" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
    return found


def commands() -> Iterator[Any]:
    """Each command line that one of the files has, without the program's name."""
    for unit in UNITS:
        line = re.search(r"^ExecStart=\S+ (.*)$", unit.read_text(), re.MULTILINE)
        assert line is not None
        yield pytest.param(shlex.split(line[1]), id=unit.name)
    for name, service in compose()["services"].items():
        yield pytest.param(service["command"], id=f"compose: {name}")


@pytest.mark.parametrize("arguments", list(commands()))
def test_each_command_line_is_one_that_the_program_takes(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY)
    monkeypatch.setenv("PYTHONPATH", str(DEPLOY))
    program = celery.make_context("zerocelery", list(arguments))
    name = next(word for word in arguments if word in celery.list_commands(program))
    command = celery.get_command(program, name)
    assert command is not None
    # Without the program's own context: nothing is loaded and nothing is run.
    parsed = command.make_context(name, arguments[arguments.index(name) + 1 :], resilient_parsing=True)
    assert not parsed.args
    known = {option for param in command.params for option in param.opts}
    given = {word for word in arguments[arguments.index(name) + 1 :] if word.startswith("-")}
    assert given <= known


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    # A program that is there, in the place of one that is only where it is deployed.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
    copy = tmp_path / unit.name.replace("@.", "@w1.")
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if copy.name in line]
    assert not complaints


def test_compose_has_node_workers_and_beat_on_one_state() -> None:
    services = compose()["services"]
    assert list(services) == ["node", "worker", "beat"]
    assert all(service["volumes"] == ["state:/var/lib/zerocelery"] for service in services.values())
    for name in ("worker", "beat"):
        assert services[name]["depends_on"]["node"]["condition"] == "service_healthy"
        assert services[name]["pid"] == "service:node"  # the node sees a worker's end by its process
    programs = [["docker", "compose"], ["docker-compose"]]
    version = [
        subprocess.run([*p, "version"], capture_output=True, check=False) for p in programs if shutil.which(p[0])
    ]
    usable = next((one.args[:-1] for one in version if one.returncode == 0), None)
    if usable is None:
        pytest.skip("there is no docker compose here: the file is read as YAML only")
    done = subprocess.run(
        [*usable, "config", "--quiet"], cwd=DEPLOY, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_the_image_is_made_of_is_in_the_repository() -> None:
    build = {name: service["build"] for name, service in compose()["services"].items()}
    assert {(DEPLOY / one["context"]).resolve() for one in build.values()} == {ROOT}
    (dockerfile,) = {ROOT / one["dockerfile"] for one in build.values()}
    copied = re.findall(r"^COPY (?:--\S+ )*(.*) \S+$", dockerfile.read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for names in copied for name in names.split())
    assert len(copied) == 3
