"""The tasks, as plain functions: the same for every contestant."""

from __future__ import annotations

import os
import time


def noop() -> None:
    """Nothing."""


def add(x: int, y: int) -> int:
    """The task of the budget."""
    return x + y


def echo(text: str) -> str:
    """The payload goes in and comes back."""
    return text


def total(numbers: list[int]) -> int:
    """The body of the chord."""
    return sum(numbers)


def stamp(path: str) -> None:
    """Leave a file that says when this ran: tells how far the workers are without asking anybody."""
    with open(f"{path}.part", "w") as file:
        file.write(repr(time.monotonic()))
    os.rename(f"{path}.part", path)
