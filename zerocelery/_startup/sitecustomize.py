"""Imported by Python as it starts: installs the alias, then lets the sitecustomize that would have run do so."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

HERE = os.path.dirname(os.path.abspath(__file__))


def install() -> None:
    """Make this interpreter's celery ours; one that has no zerocelery keeps what it has."""
    try:
        from zerocelery import install_as_celery
    except ImportError:
        return
    install_as_celery()


def run_the_other() -> None:
    """Import the sitecustomize that this one hides, under its name."""
    path = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
    spec = PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


install()
run_the_other()
