"""A thread that calls functions at their time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from itertools import count
from threading import TIMEOUT_MAX as THREAD_TIMEOUT_MAX
from time import sleep
from typing import Any

from kombu.asynchronous.timer import Entry, to_timestamp
from kombu.asynchronous.timer import Timer as Schedule
from kombu.asynchronous.timer import logger as logger

TIMER_DEBUG = os.environ.get("TIMER_DEBUG")

__all__ = ("Entry", "Schedule", "Timer", "to_timestamp")


class Timer(threading.Thread):
    """Calls functions at their time, one after the other; started by the first one that is entered.

    Arguments:
        schedule: what holds the entries; one of its own unless given.
        on_error: called with what a function raises.
        on_tick: called with the seconds until the next entry, before they are slept.
        on_start: called with the timer when its thread is about to be started.
        max_interval: never sleep longer than this (seconds).
    """

    Entry = Entry
    Schedule = Schedule

    running: bool = False
    on_tick: Callable[[float], None] | None = None
    _timer_count = count(1)

    def __init__(
        self,
        schedule: Any = None,
        on_error: Callable[[Exception], None] | None = None,
        on_tick: Callable[[float], None] | None = None,
        on_start: Callable[[Timer], None] | None = None,
        max_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=f"Timer-{next(self._timer_count)}", daemon=True)
        self.schedule: Any = schedule or self.Schedule(on_error=on_error, max_interval=max_interval)  # type: ignore[no-untyped-call]
        self.on_start = on_start
        self.on_tick = on_tick or self.on_tick
        self.mutex = threading.Lock()
        self.not_empty = threading.Condition(self.mutex)
        self._over = threading.Event()
        self._ended = threading.Event()

    def _next_entry(self) -> float | None:
        with self.not_empty:
            delay, entry = next(self.scheduler)
            if entry is None:
                if delay is None:
                    self.not_empty.wait(1.0)
                return delay  # type: ignore[no-any-return]
        self.schedule.apply_entry(entry)
        return None

    __next__ = next = _next_entry

    def run(self) -> None:
        try:
            self.running = True
            self.scheduler = iter(self.schedule)
            while not self._over.is_set():
                delay = self.next()
                if delay:
                    if self.on_tick is not None:
                        self.on_tick(delay)
                    sleep(delay)
        except Exception as error:
            # A worker without its timer would go on and be late for ever.
            logger.error("Thread Timer crashed: %r", error, exc_info=True)
            sys.stderr.flush()
            os._exit(1)
        finally:
            self.running = False
            self._ended.set()

    def stop(self) -> None:
        """Call nothing more, and wait for the thread's end."""
        self._over.set()
        if self.running:
            self._ended.wait()
            self.join(THREAD_TIMEOUT_MAX)
            self.running = False

    def ensure_started(self) -> None:
        """Start the thread, if it isn't."""
        if not self.running and not self.is_alive():
            if self.on_start is not None:
                self.on_start(self)
            self.start()

    def _do_enter(self, meth: str, *args: Any, **kwargs: Any) -> Any:
        self.ensure_started()
        with self.mutex:
            entry = getattr(self.schedule, meth)(*args, **kwargs)
            self.not_empty.notify()
            return entry

    def enter(self, entry: Any, eta: float, priority: int | None = None) -> Any:
        """Call an entry at a time."""
        return self._do_enter("enter_at", entry, eta, priority=priority)

    def call_at(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function at a time."""
        return self._do_enter("call_at", *args, **kwargs)

    def enter_after(self, *args: Any, **kwargs: Any) -> Any:
        """Call an entry after a delay (seconds)."""
        return self._do_enter("enter_after", *args, **kwargs)

    def call_after(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function after a delay (seconds)."""
        return self._do_enter("call_after", *args, **kwargs)

    def call_repeatedly(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function again and again, with a pause (seconds)."""
        return self._do_enter("call_repeatedly", *args, **kwargs)

    def exit_after(self, secs: float, priority: int = 10) -> None:
        """End the process after a delay (seconds)."""
        self.call_after(secs, sys.exit, priority)

    def cancel(self, tref: Any) -> None:
        """Don't call an entry."""
        tref.cancel()

    def clear(self) -> None:
        """Call none of the entries."""
        self.schedule.clear()

    def empty(self) -> bool:
        """Whether there is nothing to call."""
        return not len(self)

    def __len__(self) -> int:
        return len(self.schedule)

    def __bool__(self) -> bool:
        return True  # an empty one is there, too

    @property
    def queue(self) -> list[Any]:
        """The entries with their times."""
        return self.schedule.queue  # type: ignore[no-any-return]
