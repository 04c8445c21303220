"""``python -m zerocelery`` is the ``zerocelery`` command."""

from __future__ import annotations

import sys

from zerocelery.bin.celery import main

if __name__ == "__main__":
    sys.exit(main())
