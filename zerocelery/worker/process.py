"""What each process of a pool does first and last, however it was started."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
from typing import Any

from zerocelery import signals
from zerocelery.concurrency import prefork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zerocelery.app.base import Celery
    from zerocelery.app.trace import AppStrategy
    from zerocelery.worker.ownpool import PoolStrategy

#: Modules that running a task takes.
_NEEDED = ("zerocelery.app.timelimits", "zerocelery.app.trace", "zerocelery.engine.pool", "zerocelery.engine.worker")

#: The apps of this process and of those that are forked from it, by the name that leads to them.
_apps: dict[str | None, Celery] = {}


def keep_app(name: str | None, app: Celery) -> None:
    """Remember an app that has all its tasks, so that forked children needn't look for it."""
    _apps[name] = app


@dataclasses.dataclass(frozen=True, slots=True)
class PoolProcess:
    """Makes the app's strategy in whatever process a pool calls it: also in one that spawn has started from nothing.

    Arguments:
        app_name: what ``-A`` says; None: the default app.
        include: more modules with tasks.
        settings: what options of the command have put in the place of the app's settings.
        announces: whether ``worker_process_init`` is sent where the strategy is made: by a pool without processes of
            its own that runs tasks in the worker's.
        shares_loop: whether all coroutines run on one loop.
        pool: what calls the tasks, where that is a pool of somebody else's class.
    """

    app_name: str | None
    hostname: str
    include: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    loglevel: int = logging.WARNING
    logfile: str | None = None
    announces: bool = False
    shares_loop: bool = False
    pool: Any = None

    def preload(self) -> None:
        """Import what every process of the pool will need, once and in memory that forks share."""
        for name in _NEEDED:
            importlib.import_module(name)

    def app(self) -> Celery:
        """The app with all its tasks."""
        app = _apps.get(self.app_name)
        if app is None:
            app = _apps[self.app_name] = self._load()
        return app

    def _load(self) -> Celery:
        from zerocelery._state import get_current_app
        from zerocelery.app.utils import find_app

        app = find_app(self.app_name) if self.app_name else get_current_app()
        app.set_current()
        app.set_default()
        for module in self.include:
            app.loader.import_task_module(module)
        app.loader.import_default_modules()
        app.finalize()
        app.conf.update(self.settings)
        self.set_up_logging(app)
        return app

    def set_up_logging(self, app: Celery) -> None:
        """Log as the app's settings and the command's options say, once a process."""
        app.log.setup(
            self.loglevel,
            self.logfile,
            redirect_stdouts=bool(app.conf["worker_redirect_stdouts"]),
            redirect_level=app.conf["worker_redirect_stdouts_level"],
            hostname=self.hostname,
        )

    def begin(self) -> None:
        """Called first in each child."""
        prefork.process_initializer(self.app(), self.hostname)

    def __call__(self) -> AppStrategy | PoolStrategy:
        if self.shares_loop:
            from zerocelery.app.sharedloop import share

            share()
        strategy = self.app().strategy(hostname=self.hostname)
        if self.announces:
            signals.worker_process_init.send(sender=self.hostname)
        if self.pool is not None:
            from zerocelery.worker.ownpool import PoolStrategy

            return PoolStrategy(strategy, self.pool)
        return strategy

    def end(self, exitcode: int) -> None:
        """Called last in each child that was not killed."""
        prefork.process_destructor(os.getpid(), exitcode)
