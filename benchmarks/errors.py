"""What a benchmark raises.

BenchmarkError
├── Unavailable   a contestant can't be had on this machine: the message says why
├── Refused       the run must not start: something here isn't ours to touch
└── Failed        a contestant started and then failed, or its client did
    └── Hung      it didn't answer within its deadline and was killed
"""

from __future__ import annotations


class BenchmarkError(Exception):
    """Base of what the benchmarks raise on purpose."""


class Unavailable(BenchmarkError):
    """The contestant can't run on this machine."""


class Refused(BenchmarkError):
    """Going on would touch what doesn't belong to the benchmarks."""


class Failed(BenchmarkError):
    """The contestant or its client failed in the middle of a measure."""


class Hung(Failed):
    """The contestant passed its deadline."""
