"""``python -m zerocelery`` is the ``zerocelery`` command.

A pool of green threads has to patch what blocks before anything keeps the real thing, so that is done first of all.
"""

from __future__ import annotations

import sys

__all__ = ("main",)


def main() -> int:
    """Run the program with this process's arguments."""
    if "worker" in sys.argv and "multi" not in sys.argv:
        from zerocelery.concurrency.green import maybe_patch_concurrency

        try:
            maybe_patch_concurrency()
        except ImportError as error:
            sys.stderr.write(f"Error: {error}\n")
            return 2
    from zerocelery.bin.celery import main as program

    return program()


if __name__ == "__main__":
    sys.exit(main())
