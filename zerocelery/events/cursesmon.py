"""Tasks on a screen, the latest first, as their events come."""

from __future__ import annotations

import curses
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from textwrap import wrap
from time import time
from typing import Any

from zerocelery import __version__
from zerocelery._state import app_or_default
from zerocelery.utils.text import abbr, abbrtask

__all__ = ("CursesMonitor", "evtop")

BORDER_SPACING = 4
LEFT_BORDER_OFFSET = 3
UUID_WIDTH = 36
STATE_WIDTH = 8
TIMESTAMP_WIDTH = 8
MIN_WORKER_WIDTH = 15
MIN_TASK_WIDTH = 16

#: A row with a whole id, and a blank between two columns.
_FULL_WIDTH = UUID_WIDTH + MIN_WORKER_WIDTH + MIN_TASK_WIDTH + TIMESTAMP_WIDTH + STATE_WIDTH + 4

_COLORS = {"SUCCESS": 3, "FAILURE": 2, "RETRY": 5, "REVOKED": 4, "STARTED": 6}


class CursesMonitor:
    """The screen.

    Arguments:
        state: what is shown; a :class:`~zerocelery.events.state.State`.
        keymap: more keys, and what to call for each.
    """

    win: Any = None
    #: Milliseconds between two looks.
    screen_delay = 10
    selected_task: str | None = None
    selected_position = 0
    selected_str = "Selected: "
    foreground = curses.COLOR_BLACK
    background = curses.COLOR_WHITE
    online_str = "Workers online: "
    help_title = "Keys: "
    help = "j:down k:up i:info t:traceback r:result c:revoke ^c: quit"
    greet = f"zerocelery events {__version__}"
    info_str = "Info: "
    keyalias = {curses.KEY_DOWN: "J", curses.KEY_UP: "K", curses.KEY_ENTER: "I"}  # noqa: RUF012 - read only

    def __init__(self, state: Any, app: Any, keymap: dict[str, Callable[[], object]] | None = None) -> None:
        self.app = app
        self.state = state
        self.keymap: dict[str, Callable[[], object]] = {
            "J": self.move_selection_down,
            "K": self.move_selection_up,
            "C": self.revoke_selection,
            "T": self.selection_traceback,
            "R": self.selection_result,
            "I": self.selection_info,
            "L": self.selection_rate_limit,
            **(keymap or {}),
        }
        self.lock = threading.RLock()

    # ── layout ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def screen_width(self) -> int:
        return int(self.win.getmaxyx()[1])

    @property
    def screen_height(self) -> int:
        return int(self.win.getmaxyx()[0])

    @property
    def display_width(self) -> int:
        return self.screen_width - BORDER_SPACING

    @property
    def display_height(self) -> int:
        return self.screen_height - 10

    @property
    def limit(self) -> int:
        """How many tasks there is room for."""
        return max(self.display_height, 0)

    def format_row(self, uuid: str, task: str, worker: str, timestamp: str, state: str) -> str:
        """A task's line: on a narrow screen the id is cut, on a wide one worker and task have more room."""
        spare = self.display_width - _FULL_WIDTH
        uuid_width = UUID_WIDTH + min(spare, 0)
        for_worker = max(spare, 0) // 2
        for_task = max(spare, 0) - for_worker
        columns = (
            (abbr(uuid, uuid_width), uuid_width),
            (abbr(worker, MIN_WORKER_WIDTH + for_worker), MIN_WORKER_WIDTH + for_worker),
            (abbrtask(task, MIN_TASK_WIDTH + for_task), MIN_TASK_WIDTH + for_task),
            (timestamp, TIMESTAMP_WIDTH),
            (abbr(state, STATE_WIDTH), STATE_WIDTH),
        )
        return " ".join(text.ljust(width) for text, width in columns)[: self.screen_width]

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def handle_keypress(self) -> None:
        """Do what the key says that was pressed, if one was."""
        try:
            key = self.win.getkey().upper()
        except curses.error:
            return
        handler = self.keymap.get(key) or self.keymap.get(self.keyalias.get(_code(key), ""))
        if handler is not None:
            handler()

    def find_position(self) -> int:
        """Where the selected task is among those shown."""
        for position, (uuid, _) in enumerate(self.tasks):
            if uuid == self.selected_task:
                return position
        return 0

    def move_selection_up(self) -> None:
        self.move_selection(-1)

    def move_selection_down(self) -> None:
        self.move_selection(1)

    def move_selection(self, direction: int = 1) -> None:
        """Select the next task, or the one before."""
        tasks = self.tasks
        if tasks:
            position = min(max(self.find_position() + direction, 0), len(tasks) - 1)
            self.selected_position, self.selected_task = position, tasks[position][0]

    def revoke_selection(self) -> None:
        """Revoke the selected task, and show what workers say to it."""
        if self.selected_task:
            self.alert_remote_control_reply(self.app.control.revoke(self.selected_task, reply=True))

    def selection_rate_limit(self) -> None:
        """Ask for a rate limit for the selected task's type, and set it."""
        task = self.state.tasks.get(self.selected_task)
        if task is None or not task.name:
            return
        prompt = "New rate limit: "
        self.win.addstr(1, 3, prompt, curses.A_BOLD | curses.A_UNDERLINE)
        self.win.refresh()
        rate = self.readline(1, 3 + len(prompt))
        if rate:
            self.alert_remote_control_reply(self.app.control.rate_limit(task.name, rate, reply=True))

    def readline(self, x: int, y: int) -> str | None:
        """A line that is typed at row x, column y; None where it was given up."""
        self.win.nodelay(0)
        curses.echo()
        try:
            return str(self.win.getstr(x, y).decode(errors="replace")).strip() or None
        except curses.error:
            return None
        finally:
            curses.noecho()
            self.win.nodelay(1)

    def alert_remote_control_reply(self, reply: Any) -> None:
        """Show what workers answered."""

        def show(x: int, y: int, height: int) -> int:
            if not reply:
                self.win.addstr(y, x, "No replies received in 1s deadline.", curses.A_BOLD)
                return y + 1
            for sub in reply:
                name, answer = next(iter(sub.items()))
                self.win.addstr(y, x, f"{name}: ", curses.A_BOLD)
                text = answer.get("error") or answer.get("ok") if isinstance(answer, dict) else answer
                self.win.addstr(y, x + len(name) + 2, abbr(str(text), self.screen_width - len(name) - x - 4))
                y += 1
            return y

        self.alert(show, "Remote Control Command Replies")

    def selection_info(self) -> None:
        """Show all that is known of the selected task."""
        task = self.state.tasks.get(self.selected_task)
        if task is None:
            return
        fields = task.info(extra=["state"])
        fields.update(root_id=task.root_id, parent_id=task.parent_id)
        for name in ("received", "started"):
            moment = getattr(task, name)
            fields[name] = moment and datetime.fromtimestamp(moment).isoformat(" ", "milliseconds")
        if task.runtime is not None:
            fields["runtime"] = f"{task.runtime:.6f} s"
        self._show_lines(
            [f"{name}: {value}" for name, value in sorted(fields.items()) if value is not None],
            f"Task details for {self.selected_task}",
        )

    def selection_traceback(self) -> None:
        """Show the selected task's traceback."""
        task = self.state.tasks.get(self.selected_task)
        if task is None or task.state not in ("FAILURE", "RETRY"):
            curses.beep()
            return
        self._show_lines(str(task.traceback).splitlines(), f"Task Exception Traceback for {self.selected_task}")

    def selection_result(self) -> None:
        """Show the selected task's result."""
        if not self.selected_task:
            return
        task = self.state.tasks.get(self.selected_task)
        value = (task.result or task.exception) if task is not None else None
        self._show_lines([str(value)], f"Task Result for {self.selected_task}")

    def _show_lines(self, lines: Sequence[str], title: str) -> None:
        def show(x: int, y: int, height: int) -> int:
            for line in lines:
                for part in wrap(line, max(self.screen_width - 6, 10)) or [""]:
                    if y >= height:
                        return y
                    self.win.addstr(y, x, part)
                    y += 1
            return y

        self.alert(show, title)

    def alert(self, callback: Callable[[int, int, int], int], title: str | None = None) -> None:
        """Show something instead of the tasks, until a key is pressed.

        Arguments:
            callback: draws it: called with column, row and height; gives the row behind it.
        """
        with self.lock:
            self.win.erase()
            y = 1
            if title:
                self.safe_add_str(y, 2, title, curses.A_BOLD | curses.A_UNDERLINE)
                y += 2
            y = callback(2, y, self.screen_height - 2)
            self.safe_add_str(min(y + 1, self.screen_height - 1), 2, "Press any key to continue...", curses.A_BOLD)
            self.win.refresh()
            self.win.nodelay(0)
            try:
                self.win.getkey()
            except curses.error:
                pass  # the screen has changed its size: that counts as a key
            finally:
                self.win.nodelay(1)

    # ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def tasks(self) -> list[tuple[str, Any]]:
        """The tasks that are shown."""
        # its own limit counts events, of which a task has several
        return list(islice(self.state.tasks_by_time(), self.limit))

    @property
    def workers(self) -> list[str]:
        """The workers that are there."""
        return [name for name, worker in self.state.workers.items() if worker.alive]

    def display_task_row(self, lineno: int, task: Any) -> int:
        """Draw a task's line."""
        timestamp = datetime.fromtimestamp(task.timestamp or time()).astimezone().strftime("%H:%M:%S")
        line = self.format_row(task.uuid, task.name or "", task.hostname or "", timestamp, task.state)
        style = curses.A_STANDOUT if task.uuid == self.selected_task else curses.A_NORMAL
        self.safe_add_str(lineno, LEFT_BORDER_OFFSET, line, style)
        if task.state in _COLORS and task.uuid != self.selected_task:
            column = LEFT_BORDER_OFFSET + len(line) - STATE_WIDTH
            self.safe_add_str(lineno, column, task.state[:STATE_WIDTH], curses.color_pair(_COLORS[task.state]))
        return lineno + 1

    def draw(self) -> None:
        """Draw it all."""
        with self.lock:
            self.handle_keypress()
            win, x, y = self.win, LEFT_BORDER_OFFSET, 1
            win.erase()
            self.safe_add_str(y, x, self.greet, curses.A_DIM | curses.color_pair(5))
            y += 2
            self.safe_add_str(
                y, x, self.format_row("UUID", "TASK", "WORKER", "TIME", "STATE"), curses.A_BOLD | curses.A_UNDERLINE
            )
            y += 1
            for uuid, task in self.tasks[: max(self.screen_height - 9, 0)]:
                if task.uuid:
                    if self.selected_task is None:
                        self.selected_task = uuid
                    y = self.display_task_row(y, task)
            self._draw_foot()
            win.refresh()

    def _draw_foot(self) -> None:
        bottom, x = self.screen_height, LEFT_BORDER_OFFSET
        task = self.state.tasks.get(self.selected_task) if self.selected_task else None
        if task is not None:
            info = task.info()
            text = "  ".join(f"{key}={value}" for key, value in info.items())
            if task.state == "FAILURE":
                text = f"{task.exception}"
            self.safe_add_str(bottom - 5, x, self.selected_str, curses.A_BOLD)
            self.safe_add_str(bottom - 5, x + len(self.selected_str), abbr(text, max(self.screen_width - 16, 8)))
        alive = self.workers
        self.safe_add_str(bottom - 4, x, self.online_str, curses.A_BOLD)
        self.safe_add_str(bottom - 4, x + len(self.online_str), ", ".join(sorted(alive)))
        self.safe_add_str(bottom - 3, x, self.info_str, curses.A_BOLD)
        self.safe_add_str(
            bottom - 3,
            x + len(self.info_str),
            f"events: {self.state.event_count} tasks:{self.state.task_count} "
            f"workers:{len(alive)}/{len(self.state.workers)}",
        )
        self.safe_add_str(bottom - 2, x, self.help_title, curses.A_BOLD)
        self.safe_add_str(bottom - 2, x + len(self.help_title), self.help, curses.A_DIM)

    def safe_add_str(self, y: int, x: int, string: str, *args: Any, **kwargs: Any) -> None:
        """Write where there is room."""
        if y < 0 or x + len(string) > self.screen_width:
            string = string[: max(self.screen_width - x - 1, 0)]
        try:
            self.win.addstr(y, x, string, *args, **kwargs)
        except curses.error:
            pass  # the window has become smaller than it was when this was laid out

    def init_screen(self) -> None:
        """Take the terminal."""
        self.win = curses.initscr()
        self.win.nodelay(True)
        self.win.keypad(True)
        curses.noecho()
        curses.cbreak()
        if curses.has_colors():
            curses.start_color()
            curses.use_default_colors()
            for number, color in enumerate(
                (curses.COLOR_RED, curses.COLOR_GREEN, curses.COLOR_MAGENTA, curses.COLOR_BLUE, curses.COLOR_YELLOW), 2
            ):
                curses.init_pair(number, color, -1)

    def resetscreen(self) -> None:
        """Give the terminal back."""
        if self.win is None:
            return
        curses.nocbreak()
        self.win.keypad(False)
        curses.echo()
        curses.endwin()

    def nap(self) -> None:
        """Wait until the next look."""
        curses.napms(self.screen_delay)


def _code(key: str) -> int:
    """The number of a key by its name."""
    return int(getattr(curses, key, 0)) if key.startswith("KEY_") else 0


class DisplayThread(threading.Thread):
    """Draws while another thread takes events in."""

    def __init__(self, display: CursesMonitor) -> None:
        super().__init__(name="events-screen", daemon=True)
        self.display = display
        self.shutdown = threading.Event()

    def run(self) -> None:
        while not self.shutdown.is_set():
            self.display.draw()
            self.display.nap()


def capture_events(app: Any, state: Any, display: CursesMonitor) -> None:
    """Take events in until interrupted; a broker that is lost is waited for."""

    def lost(error: Exception, interval: float) -> None:
        display.online_str = f"Connection error: {error!r}. Retry in {interval}s. Workers online: "

    while True:
        with app.connection_for_read() as connection:
            try:
                connection.ensure_connection(lost, app.conf.broker_connection_max_retries)
                receiver = app.events.Receiver(connection, handlers={"*": state.event})
                display.online_str = CursesMonitor.online_str
                receiver.capture()
            except connection.connection_errors + connection.channel_errors as error:
                display.online_str = f"Connection lost: {error!r}. Workers online: "


def evtop(app: Any = None) -> None:
    """Show tasks on the screen, until interrupted."""
    app = app_or_default(app)
    state = app.events.State()
    display = CursesMonitor(state, app)
    display.init_screen()
    drawing = DisplayThread(display)
    drawing.start()
    try:
        capture_events(app, state, display)
    except (KeyboardInterrupt, SystemExit):
        pass
    finally:
        drawing.shutdown.set()
        drawing.join(1.0)  # it may be waiting for a key, which nobody will press any more
        display.resetscreen()
