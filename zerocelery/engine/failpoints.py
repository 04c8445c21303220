"""Named places at which a fault test can end this process, as ``kill -9`` would.

``ZEROCELERY_FAILPOINT=name`` in the environment arms the place of this name: the process kills itself when it passes
there. ``name:n`` lets it pass n - 1 times first. Without the variable, a place is a call of an empty function; so all
names are found by searching for ``failpoint(``.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable


def _pass(name: str, /) -> None:
    """Nothing is armed."""


def _armed(setting: str) -> Callable[[str], None]:
    armed, _, count = setting.partition(":")
    last = int(count or 1)
    passages = itertools.count(1)

    def passing(name: str, /) -> None:
        if name == armed and next(passages) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return passing


_setting = os.environ.get("ZEROCELERY_FAILPOINT", "")

failpoint: Callable[[str], None] = _armed(_setting) if _setting else _pass
