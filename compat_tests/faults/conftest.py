"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compat_tests.conftest import Sandbox
from compat_tests.faults.rig import Rig


@pytest.fixture
def rig(sandbox: Sandbox) -> Iterator[Rig]:
    """A rig in a sandbox of its own."""
    made = Rig(sandbox)
    try:
        yield made
    finally:
        made.close()
