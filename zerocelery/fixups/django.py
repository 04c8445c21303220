"""What an app does in a Django project, that is, where DJANGO_SETTINGS_MODULE is set.

In every process: tasks are of :class:`~zerocelery.contrib.django.task.DjangoTask`, ``autodiscover_tasks()`` looks into
the installed apps, and a naive time is Django's. In a worker: Django is set up and checked, and database connections
and caches are closed around each task, so that no task sees another's, or one that the server has dropped.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from datetime import datetime, timezone
from functools import cached_property
from importlib import import_module
from uuid import uuid4

from zerocelery import _state, signals
from zerocelery.exceptions import FixupWarning, ImproperlyConfigured
from zerocelery.local import Proxy
from zerocelery.utils.imports import symbol_by_name
from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("DjangoFixup", "fixup")

logger = get_logger("celery.fixups.django")

#: The oldest Django that this works with.
_OLDEST = (1, 11)

ERR_NOT_INSTALLED = (
    "DJANGO_SETTINGS_MODULE is set, but Django isn't installed: the app does nothing for Django. "
    "Unset the variable, or install Django"
)

#: A task class that says nothing of its own.
_DJANGO_TASK = "celery.contrib.django.task:DjangoTask"


def fixup(app: Any, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Make the app one of a Django project, if the environment says that this is one."""
    if not os.environ.get(env) or "django" in str(app.loader_cls).lower():
        return None
    try:
        import django
    except ImportError:
        warnings.warn(FixupWarning(ERR_NOT_INSTALLED), stacklevel=2)
        return None
    if django.VERSION[:2] < _OLDEST:
        raise ImproperlyConfigured(f"Django {django.VERSION} is too old: 1.11 is the first that this works with")
    return DjangoFixup(app).install()


def _maybe_close_fd(fh: Any) -> None:
    """Close a connection's socket in a process that has only inherited it: its owner goes on using it."""
    with suppress(AttributeError, OSError, TypeError):
        os.close(fh.fileno())


def _unwrapped(app: Any) -> Any:
    return app._get_current_object() if type(app) is Proxy else app


class DjangoFixup:
    """What is done in every process of a Django project."""

    def __init__(self, app: Any) -> None:
        self.app = app
        if _state.default_app is None:
            app.set_default()
        self._worker_fixup: DjangoWorkerFixup | None = None
        # ids of objects are given again, this is not
        self._worker_init_uid = ("django.worker_init", uuid4().hex)

    def install(self) -> DjangoFixup:
        """Do it."""
        # a project is started from its directory, and its modules are named from there
        sys.path.insert(0, os.getcwd())
        self._settings = symbol_by_name("django.conf:settings")
        self.app.loader.now = self.now
        if not getattr(self.app, "_custom_task_cls_used", False):
            self.app.task_cls = _DJANGO_TASK
        signals.import_modules.connect(self.on_import_modules, sender=self.app)
        signals.worker_init.connect(self.on_worker_init, dispatch_uid=self._worker_init_uid)
        return self

    @property
    def worker_fixup(self) -> Any:
        """What is done in a worker."""
        if self._worker_fixup is None:
            self._worker_fixup = DjangoWorkerFixup(self.app)
        return self._worker_fixup

    @worker_fixup.setter
    def worker_fixup(self, value: Any) -> None:
        self._worker_fixup = value

    def on_import_modules(self, **kwargs: Any) -> None:
        """Tasks are about to be imported: their models need Django to be set up."""
        self.worker_fixup.validate_models()

    def on_worker_init(self, **kwargs: Any) -> None:
        """A worker starts."""
        worker = kwargs.get("sender")
        if worker is None:
            warnings.warn(FixupWarning("worker_init was called without a sender: its app is taken"), stacklevel=2)
        elif hasattr(worker, "app") and _unwrapped(worker.app) is not _unwrapped(self.app):
            logger.debug("The Django fixup of %r leaves %r alone: it is a worker of %r", self.app, worker, worker.app)
            return
        self.worker_fixup.worker = worker
        self.worker_fixup.install()

    def now(self, utc: bool = False) -> datetime:
        """The time, as Django has it."""
        found: datetime = datetime.now(timezone.utc) if utc else self._now()
        return found

    def autodiscover_tasks(self) -> list[str]:
        """The installed apps."""
        from django.apps import apps

        return [config.name for config in apps.get_app_configs()]

    @cached_property
    def _now(self) -> Any:
        return symbol_by_name("django.utils.timezone:now")


class DjangoWorkerFixup:
    """What is done in a worker of a Django project."""

    #: Tasks since the connections were closed, where they may be used more than once.
    _db_recycles = 0
    worker: Any = None

    def __init__(self, app: Any) -> None:
        self.app = app
        self.db_reuse_max = app.conf.get("CELERY_DB_REUSE_MAX", None)
        self._db: Any = import_module("django.db")
        self._cache: Any = import_module("django.core.cache")
        self._settings: Any = symbol_by_name("django.conf:settings")
        self.interface_errors: Any = (symbol_by_name("django.db.utils:InterfaceError"),)
        self.DatabaseError: Any = symbol_by_name("django.db:DatabaseError")

    def django_setup(self) -> None:
        """Load the project's settings and apps."""
        import django

        django.setup()

    def validate_models(self) -> None:
        """Set Django up, and run its checks unless CELERY_SKIP_CHECKS is set."""
        from django.core.checks import run_checks

        self.django_setup()
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            run_checks()

    def install(self) -> DjangoWorkerFixup:
        """Close connections when a worker, a process or a task begins, and when a task ends."""
        signals.beat_embedded_init.connect(self.close_database)
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)
        signals.worker_process_init.connect(self.on_worker_process_init)
        self.close_database()
        self.close_cache()
        return self

    def on_worker_process_init(self, **kwargs: Any) -> None:
        """A process has begun: connections that it has inherited are its parent's."""
        if os.environ.get("FORKED_BY_MULTIPROCESSING"):
            # a new interpreter, which knows nothing yet
            self.validate_models()
        for connection in self._db.connections.all():
            if connection and connection.connection:
                self._maybe_close_db_fd(connection)
        self._close_database()
        self.close_cache()

    def _maybe_close_db_fd(self, c: Any) -> None:
        with suppress(*self.interface_errors):
            _maybe_close_fd(c.connection)

    def on_task_prerun(self, sender: Any, **kwargs: Any) -> None:
        """A task begins."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()

    def on_task_postrun(self, sender: Any, **kwargs: Any) -> None:
        """A task has ended. The caller of an eager one goes on with its own connections."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()
            self.close_cache()

    def close_database(self, **kwargs: Any) -> None:
        """Close the connections, unless the setting CELERY_DB_REUSE_MAX lets them be used again."""
        if not self.db_reuse_max:
            self._close_database()
            return
        if self._db_recycles >= self.db_reuse_max * 2:
            self._db_recycles = 0
            self._close_database()
        self._db_recycles += 1

    def _is_prefork(self) -> bool:
        pool = getattr(self.worker, "pool_cls", None)
        return pool is not None and "prefork" in (pool if isinstance(pool, str) else pool.__module__)

    def _close_database(self) -> None:
        try:
            connections = self._db.connections.all(initialized_only=True)
        except TypeError:
            # Django before 4.1
            connections = self._db.connections.all()
        for connection in connections:
            try:
                connection.close()
                self._close_pool(connection)
            except self.interface_errors:
                pass
            except self.DatabaseError as error:
                if "closed" not in str(error) and "not connected" not in str(error):
                    raise

    def _close_pool(self, connection: Any) -> None:
        """Close the connection's pool, where this process has it for itself."""
        if not self._is_prefork() or not hasattr(connection, "close_pool"):
            return
        if self._settings.DATABASES.get(connection.alias, {}).get("OPTIONS", {}).get("pool"):
            with suppress(KeyError):
                connection.close_pool()

    def close_cache(self) -> None:
        """Close the caches' connections."""
        with suppress(TypeError, AttributeError):
            self._cache.close_caches()
