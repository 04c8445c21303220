"""``python -m zerocelery`` is the ``zerocelery`` command.

A pool of green threads has to patch what blocks before anything keeps the real thing, so that is done first of all.
"""

from __future__ import annotations

import sys

__all__ = ("main",)


def main() -> int:
    """Run the program with this process's arguments."""
    from zerocelery.concurrency.green import patch_for_command

    patch_for_command()
    from zerocelery.bin.celery import main as program

    return program()


if __name__ == "__main__":
    sys.exit(main())
