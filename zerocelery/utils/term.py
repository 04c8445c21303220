"""Colours and pictures in a terminal."""

from __future__ import annotations

import base64
import os
import platform
import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

__all__ = ("colored",)

BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
OP_SEQ = "\033[%dm"
RESET_SEQ = "\033[0m"
COLOR_SEQ = "\033[1;%dm"

IS_WINDOWS = platform.system() == "Windows"

ITERM_PROFILE = os.environ.get("ITERM_PROFILE")
TERM = os.environ.get("TERM")
TERM_IS_SCREEN = bool(TERM and TERM.startswith("screen"))

# tmux hands on what is wrapped so, with every escape doubled.
_IMG_PRE = "\033Ptmux;\033\033]" if TERM_IS_SCREEN else "\033]"
_IMG_POST = "\a\033\\" if TERM_IS_SCREEN else "\a"


def fg(s: int) -> str:
    """The sequence that begins a colour."""
    return COLOR_SEQ % s


class colored:
    """Text in colours, where the terminal has any.

    >>> c = colored(enabled=True)
    >>> print(str(c.red('the quick ', c.blue('brown ', 'fox '), 'jumps over')))

    Arguments:
        s: what to show, text or other coloured text.
        enabled: show colours; otherwise the plain text.
        op: the sequence that it begins with.
    """

    def __init__(self, *s: object, **kwargs: Any) -> None:
        self.s = s
        self.enabled: bool = not IS_WINDOWS and kwargs.get("enabled", True)
        self.op: str = kwargs.get("op", "")
        self.names: dict[str, Callable[..., colored]] = {
            "black": self.black,
            "red": self.red,
            "green": self.green,
            "yellow": self.yellow,
            "blue": self.blue,
            "magenta": self.magenta,
            "cyan": self.cyan,
            "white": self.white,
        }

    def _add(self, a: object, b: object) -> str:
        return f"{a}{b}"

    def _fold_no_color(self, a: Any, b: Any) -> str:
        return "".join(text.no_color() if isinstance(text, colored) else str(text) for text in (a, b))

    def no_color(self) -> str:
        """The plain text."""
        return reduce(self._fold_no_color, self.s, "")

    def embed(self) -> str:
        """With the sequence that begins it, and without the one that ends it."""
        return (self.op if self.enabled else "") + "".join(str(text) for text in self.s)

    def __str__(self) -> str:
        return f"{self.embed()}{RESET_SEQ if self.enabled else ''}"

    def node(self, s: tuple[object, ...], op: str) -> colored:
        """Text that begins with a sequence."""
        return self.__class__(enabled=self.enabled, op=op, *s)  # noqa: B026 - the text is all there is by place

    def black(self, *s: object) -> colored:
        return self.node(s, fg(30 + BLACK))

    def red(self, *s: object) -> colored:
        return self.node(s, fg(30 + RED))

    def green(self, *s: object) -> colored:
        return self.node(s, fg(30 + GREEN))

    def yellow(self, *s: object) -> colored:
        return self.node(s, fg(30 + YELLOW))

    def blue(self, *s: object) -> colored:
        return self.node(s, fg(30 + BLUE))

    def magenta(self, *s: object) -> colored:
        return self.node(s, fg(30 + MAGENTA))

    def cyan(self, *s: object) -> colored:
        return self.node(s, fg(30 + CYAN))

    def white(self, *s: object) -> colored:
        return self.node(s, fg(30 + WHITE))

    def __repr__(self) -> str:
        return repr(self.no_color())

    def bold(self, *s: object) -> colored:
        return self.node(s, OP_SEQ % 1)

    def underline(self, *s: object) -> colored:
        return self.node(s, OP_SEQ % 4)

    def blink(self, *s: object) -> colored:
        return self.node(s, OP_SEQ % 5)

    def reverse(self, *s: object) -> colored:
        return self.node(s, OP_SEQ % 7)

    def bright(self, *s: object) -> colored:
        return self.node(s, OP_SEQ % 8)

    # On a ground of this colour.

    def ired(self, *s: object) -> colored:
        return self.node(s, fg(40 + RED))

    def igreen(self, *s: object) -> colored:
        return self.node(s, fg(40 + GREEN))

    def iyellow(self, *s: object) -> colored:
        return self.node(s, fg(40 + YELLOW))

    def iblue(self, *s: object) -> colored:
        return self.node(s, fg(40 + BLUE))

    def imagenta(self, *s: object) -> colored:
        return self.node(s, fg(40 + MAGENTA))

    def icyan(self, *s: object) -> colored:
        return self.node(s, fg(40 + CYAN))

    def iwhite(self, *s: object) -> colored:
        return self.node(s, fg(40 + WHITE))

    def reset(self, *s: object) -> colored:
        """In the terminal's own colours."""
        return self.node(s or ("",), RESET_SEQ)

    def __add__(self, other: object) -> str:
        return f"{self}{other}"


def supports_images() -> bool:
    """Whether this terminal shows pictures: iTerm2 does."""
    return sys.stdin.isatty() and bool(os.environ.get("ITERM_PROFILE"))


def _read_as_base64(path: str) -> str:
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode("ascii")


def imgcat(path: str, inline: int = 1, preserve_aspect_ratio: int = 0, **kwargs: Any) -> str:
    """The sequence that shows a picture in iTerm2's terminal."""
    return (
        f"\n{_IMG_PRE}1337;File=inline={inline};preserveAspectRatio={preserve_aspect_ratio}"
        f":{_read_as_base64(path)}{_IMG_POST}"
    )
