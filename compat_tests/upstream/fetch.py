"""Celery's source distribution and an environment to run its tests in, in this user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

CELERY = "5.7.0"

#: What the tests import, beside Celery and zerocelery's own dependencies. Tests whose packages aren't here skip.
PACKAGES = (
    f"celery=={CELERY}",
    "PyYAML",
    "click",
    "cloudpickle",
    "cryptography",
    "django",
    "ephem",
    "fakeredis[lua]",
    "freezegun",
    "kombu==5.7.0",
    "msgpack",
    "msgspec",
    "psutil",
    "pydantic",
    "pymemcache",
    "pytest-click",
    "pytest-order",
    "pytest-rerunfailures",
    "pytest-timeout",
    "pytest>=9",
    "pyzmq",
    "redis",
    "sqlalchemy",
    "tblib",
)


def cache() -> Path:
    """Where all of it is kept; outside of the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ZEROCELERY_UPSTREAM_CACHE") or Path(base) / "zerocelery" / "upstream")


def suite() -> Path:
    """The directory whose ``t`` has the tests."""
    home = cache() / f"celery-{CELERY}"
    if (home / "t").is_dir():
        return home
    downloads = cache() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
         "--dest", str(downloads), f"celery=={CELERY}"],
        check=True,
    )  # fmt: skip
    unpacked = cache() / "unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(downloads / f"celery-{CELERY}.tar.gz") as archive:
        wanted = [
            member
            for member in archive.getmembers()
            if (member.isfile() or member.isdir()) and member.name.split("/")[1:2] in (["t"], ["pyproject.toml"])
        ]
        archive.extractall(unpacked, members=wanted, filter="data")
    (unpacked / f"celery-{CELERY}").rename(home)
    shutil.rmtree(unpacked)
    return home


def python() -> Path:
    """The interpreter of an environment that has Celery, zerocelery's dependencies, and what the tests import."""
    home = cache() / "venv"
    interpreter = home / "bin" / "python"
    done = home / "complete"
    if not done.exists():
        venv.create(home, with_pip=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        done.write_text("\n".join(PACKAGES))
    return interpreter


if __name__ == "__main__":  # for ZEROCELERY_STOCK_PYTHON
    print(python())
