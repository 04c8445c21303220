"""Beat as a program that other programs start: ``app.Beat().run()``."""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import Any

from zerocelery import beat, platforms
from zerocelery._state import app_or_default
from zerocelery.utils.imports import qualname
from zerocelery.utils.log import get_logger, mlevel
from zerocelery.utils.time import humanize_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery

__all__ = ("Beat",)

logger = get_logger("celery.beat")


class Beat:
    """Sends an app's periodic tasks when they are due. What is not given is the app's settings.

    Arguments:
        max_interval: seconds after which to look at the schedule at the latest.
        pidfile: is there while it runs.
        loglevel, logfile, no_color: of the log.
        schedule: the file where it is kept when each entry ran.
        scheduler, scheduler_cls: the scheduler's class, or where it is.
        redirect_stdouts, redirect_stdouts_level: whether what is printed becomes log lines.
        quiet: don't say what starts.
        remote_control: answer ``inspect ping``.
        hostname: the name to answer under.
    """

    Service = beat.Service
    app: Celery = None  # type: ignore[assignment]

    def __init__(
        self,
        max_interval: float | None = None,
        app: Celery | None = None,
        socket_timeout: int = 30,
        pidfile: str | None = None,
        no_color: bool | None = None,
        loglevel: str | int = "WARN",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: Any = None,
        scheduler_cls: Any = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: str | None = None,
        quiet: bool = False,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app = app_or_default(app or self.app)
        self.max_interval = max_interval
        self.socket_timeout = socket_timeout
        self.pidfile = pidfile
        self.no_color = no_color
        self.loglevel = mlevel(loglevel)
        self.logfile = logfile
        self.schedule = schedule or app.conf["beat_schedule_filename"]
        self.scheduler_cls = scheduler or scheduler_cls or app.conf["beat_scheduler"]
        either = app.either
        self.redirect_stdouts = bool(either("worker_redirect_stdouts", redirect_stdouts))
        self.redirect_stdouts_level = either("worker_redirect_stdouts_level", redirect_stdouts_level)
        self.quiet = quiet
        self.remote_control = remote_control
        self.hostname = hostname
        self.colored = app.log.colored(logfile, enabled=None if no_color is None else not no_color)

    def run(self) -> None:
        """Send what is due until SIGTERM or SIGINT comes. Where the app's node does not run, it is started."""
        if not self.quiet:
            self._say(self.colored.cyan("celery beat is starting."))
        self.init_loader()
        self.set_process_title()
        self.start_scheduler()

    def init_loader(self) -> None:
        """Import what the app's tasks and schedule are in."""
        self.app.loader.init_worker()
        self.app.finalize()

    def setup_logging(self, colorize: bool | None = None) -> None:
        """Log as asked."""
        if colorize is None and self.no_color is not None:
            colorize = not self.no_color
        self.app.log.setup(
            self.loglevel,
            self.logfile,
            redirect_stdouts=self.redirect_stdouts,
            redirect_level=self.redirect_stdouts_level,
            colorize=colorize,
        )

    def start_scheduler(self) -> None:
        """Make the scheduler and run it."""
        if self.pidfile:
            platforms.create_pidlock(self.pidfile)
        service = self.Service(
            app=self.app,
            max_interval=self.max_interval,
            scheduler_cls=self.scheduler_cls,
            schedule_filename=self.schedule,
            remote_control=self.remote_control,
            hostname=self.hostname,
        )
        if not self.quiet:
            self._say(self.banner(service))
        self.setup_logging()
        self.install_sync_handler(service)
        self._bring_up_node()
        try:
            service.start()
        except Exception as error:
            logger.critical("beat raised exception %s: %r", type(error), error, exc_info=True)
            raise

    def _bring_up_node(self) -> None:
        if not self.app.has_node:
            return
        from zerocelery.app.utils import broker_url
        from zerocelery.engine.address import parse_address
        from zerocelery.engine.tenure import ensure_node

        ensure_node(parse_address(broker_url(self.app.conf)))

    def install_sync_handler(self, service: beat.Service) -> None:
        """End on SIGTERM and SIGINT, when what is due has been sent and the schedule is saved."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, service.interrupt)

    def banner(self, service: beat.Service) -> str:
        """What is said at the start."""
        return f"LocalTime -> {time.strftime('%Y-%m-%d %H:%M:%S')}\nConfiguration ->\n{self.startup_info(service)}"

    def startup_info(self, service: beat.Service) -> str:
        """The settings that it runs with, a line each."""
        from zerocelery.app.censor import sanitize_url
        from zerocelery.app.utils import broker_url

        scheduler = service.get_scheduler(lazy=True)
        rows = {
            "broker": sanitize_url(broker_url(self.app.conf) or "zmq://"),
            "loader": qualname(self.app.loader),
            "scheduler": qualname(scheduler),
            "db": self.schedule,
            "logfile": f"{self.logfile or '[stderr]'}@%{logging.getLevelName(self.loglevel)}",
            "maxinterval": f"{humanize_seconds(scheduler.max_interval)} ({scheduler.max_interval}s)",
        }
        lines = [f"    . {name} -> {value}" for name, value in rows.items()]
        return "\n".join(line for line in (*lines, self._remote_control_info(service)) if line)

    def _remote_control_info(self, service: beat.Service) -> str:
        return f"    . remote control -> {service.hostname}" if service.remote_control else ""

    def set_process_title(self) -> None:
        """What ``ps`` shows."""
        argument = f"[{platforms.strargv(sys.argv)}]"
        platforms.set_process_title("celery beat", info=argument)

    def _say(self, text: object) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
