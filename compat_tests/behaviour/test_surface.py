"""Every published name of Celery imports under the alias, and takes Celery's parameters.

What is not here is listed in surface_missing.txt, each with its reason. The list is exact: a name that is missing and
not listed fails, and so does one that is listed and here.
"""

from __future__ import annotations

import pytest

from compat_tests.behaviour import surface

MISSING = surface.known_missing()
MODULES = sorted({path.partition(":")[0] for path in surface.expected()})


@pytest.fixture(scope="module")
def differences() -> dict[str, str]:
    return surface.differences()


@pytest.mark.parametrize("module", MODULES)
def test_the_published_names_of_a_module_are_here_with_their_parameters(
    module: str, differences: dict[str, str]
) -> None:
    wrong = {path: why for path, why in differences.items() if path.startswith(f"{module}:")}
    listed = {path for path in MISSING if path.startswith(f"{module}:")}
    assert {path: why for path, why in wrong.items() if path not in listed} == {}, "not here, and not listed"
    assert listed - set(wrong) == set(), "here now: python -m compat_tests.behaviour.surface takes them off the list"


def test_what_is_listed_as_missing_is_a_published_name() -> None:
    assert set(surface.expected()) >= MISSING


def test_what_is_not_going_to_be_here_has_a_reason() -> None:
    assert [path for path, why in surface.reasons().items() if not why] == []


def test_every_published_name_says_what_it_promises() -> None:
    assert surface.undocumented() == []
