"""``zerocelery top``: workers, queues and tasks, live, in the terminal."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from zerocelery.bin.base import (
    EX_UNAVAILABLE,
    CeleryCommand,
    CeleryOption,
    CLIContext,
    CommandError,
    handle_preload_options,
)
from zerocelery.bin.nodes import ask_through, client_of
from zerocelery.bin.topview import Model, Style
from zerocelery.engine.errors import EngineError

if TYPE_CHECKING:
    import curses

#: Seconds that a node may take to answer, and between two tries of what did not.
_PATIENCE = 2.0

#: Milliseconds after which a key is looked for again, which is how late what happens is seen.
_LOOK = 200


@click.command(cls=CeleryCommand)
@click.option("-b", "--broker", cls=CeleryOption, metavar="URL", help="The node's address, where no app is given.")
@click.option(
    "-i",
    "--interval",
    cls=CeleryOption,
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Ask the node so often.",
)
@click.option("--once", cls=CeleryOption, is_flag=True, help="Print it once, and exit: for scripts and pipes.")
@click.pass_context
@handle_preload_options
def top(ctx: click.Context, /, broker: str | None, interval: float, once: bool) -> None:
    """Show workers, queues and tasks in the terminal, live.

    Workers that send events (worker -E, or the key e) tell run times and failures, too.
    """
    cli: CLIContext = ctx.obj
    if broker:
        cli.app.conf.broker_url = broker
    url = cli.node_url(broker)
    model = Model(url)
    if once or not sys.stdout.isatty():
        ctx.exit(_print_once(cli, model))
    try:
        import curses
    except ImportError as error:
        raise CommandError(f"this Python has no curses ({error}): take --once") from error
    with Feed(cli.app, url, interval) as feed:
        curses.wrapper(lambda window: Screen(window, model, feed, cli.app).run())


def _print_once(cli: CLIContext, model: Model) -> int:
    """All that the node says, without keys or colours."""
    from zerocelery.bin.nodes import ask
    from zerocelery.engine.address import parse_address

    model.told(ask(parse_address(model.url), timeout=_PATIENCE), time.monotonic())
    for line in model.lines(160, 1_000, time.time())[:-1]:
        if line.text:
            cli.echo(line.text)
    return 0 if model.workers else EX_UNAVAILABLE


class Feed:
    """Asks the node every so often and listens to events, in threads of its own: a context.

    Arguments:
        url: of the node; of a broker, there are events only.
    """

    def __init__(self, app: Any, url: str, interval: float) -> None:
        self.app = app
        self.url = url
        self.interval = interval
        self.news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("top-status", self._ask), ("top-events", self._listen))
        ]

    def __enter__(self) -> Feed:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()  # the threads are daemons: one that waits for a message is not waited for

    def _ask(self) -> None:
        from zerocelery.engine.address import is_node, parse_address

        if not is_node(self.url):
            return
        with client_of(parse_address(self.url), timeout=_PATIENCE) as client:
            while not self._over.is_set():
                try:
                    self.news.put(("status", (ask_through(client, timeout=_PATIENCE), time.monotonic())))
                except EngineError as error:
                    self.news.put(("trouble", f"does not answer: {error}"))
                self._over.wait(self.interval)

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                with self.app.connection_for_read() as connection:
                    receiver = self.app.events.Receiver(connection, handlers={"*": self._heard})
                    receiver.capture(limit=None, timeout=None, wakeup=True)
            except Exception as error:  # whatever a broker's client raises: it is shown, and tried again
                self.news.put(("notice", f"no events: {error}"))
            self._over.wait(_PATIENCE)

    def _heard(self, event: dict[str, Any]) -> None:
        self.news.put(("event", event))


class Screen:
    """A model on a terminal, with keys."""

    def __init__(self, window: curses.window, model: Model, feed: Feed, app: Any) -> None:
        self.window = window
        self.model = model
        self.feed = feed
        self.app = app
        self.keys: dict[str, Callable[[], object]] = {
            "j": lambda: model.move(1),
            "KEY_DOWN": lambda: model.move(1),
            "k": lambda: model.move(-1),
            "KEY_UP": lambda: model.move(-1),
            "i": self._turn_details,
            "\n": self._turn_details,
            "r": lambda: self._revoke(terminate=False),
            "R": lambda: self._revoke(terminate=True),
            "e": self._enable_events,
        }

    def run(self) -> None:
        """Until q."""
        import curses

        curses.use_default_colors()
        curses.curs_set(0)
        self.window.timeout(_LOOK)
        styles = self._styles()
        while True:
            self._take_news()
            self._draw(styles)
            try:
                key = self.window.getkey()
            except curses.error:
                continue  # nobody has pressed one
            except KeyboardInterrupt:
                return
            if key in ("q", "\x1b"):
                return
            if key in self.keys:
                self.model.notice = ""
                self.keys[key]()

    @staticmethod
    def _styles() -> dict[Style, int]:
        import curses

        for number, color in ((1, curses.COLOR_GREEN), (2, curses.COLOR_RED), (3, curses.COLOR_CYAN)):
            curses.init_pair(number, color, -1)
        return {
            "title": curses.A_BOLD | curses.color_pair(3),
            "head": curses.A_BOLD | curses.A_UNDERLINE,
            "plain": curses.A_NORMAL,
            "good": curses.color_pair(1),
            "bad": curses.color_pair(2),
            "selected": curses.A_REVERSE,
            "dim": curses.A_DIM,
        }

    def _take_news(self) -> None:
        while True:
            try:
                kind, what = self.feed.news.get_nowait()
            except queue.Empty:
                return
            if kind == "status":
                self.model.told(*what)
            elif kind == "event":
                self.model.event(what)
            else:
                setattr(self.model, kind, what)

    def _draw(self, styles: dict[Style, int]) -> None:
        import curses

        height, width = self.window.getmaxyx()
        self.window.erase()
        for row, line in enumerate(self.model.lines(width, height, time.time())):
            try:
                self.window.addstr(row, 0, line.text, styles[line.style])
            except curses.error:
                break  # the window has become smaller meanwhile
        self.window.refresh()

    def _turn_details(self) -> None:
        self.model.details = not self.model.details

    def _revoke(self, *, terminate: bool) -> None:
        if self.model.selected is None:
            self.model.notice = "select a task first: j, k"
            return
        try:
            self.app.control.revoke(self.model.selected, terminate=terminate)
        except Exception as error:  # whatever a broker's client raises: it is shown
            self.model.notice = f"it could not be revoked: {error}"
        else:
            done = "revoked, and ended where it runs" if terminate else "revoked (R ends one that runs)"
            self.model.notice = f"task {self.model.selected}: {done}"

    def _enable_events(self) -> None:
        try:
            replies = self.app.control.enable_events(reply=True)
        except Exception as error:  # whatever a broker's client raises: it is shown
            self.model.notice = f"events could not be turned on: {error}"
        else:
            self.model.notice = f"{len(replies or ())} workers send events from now on"
