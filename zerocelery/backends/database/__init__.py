"""Results in a database, by SQLAlchemy: ``db+sqlite:///results.sqlite3``, ``db+postgresql://…``."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from kombu.utils import imports

from zerocelery import states
from zerocelery.backends.base import BaseBackend, ensure_bytes
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.result import ResultBase, result_from_tuple
from zerocelery.utils.log import get_logger

try:
    from sqlalchemy.exc import DatabaseError, InterfaceError, InvalidRequestError
    from sqlalchemy.orm import defer
    from sqlalchemy.orm.attributes import flag_modified
    from sqlalchemy.orm.exc import StaleDataError
except ImportError as error:
    raise ImproperlyConfigured(
        "The database result backend requires SQLAlchemy to be installed: pip install sqlalchemy"
    ) from error

from zerocelery.backends.database.models import Task, TaskExtended, TaskSet
from zerocelery.backends.database.session import LATER_COLUMNS, SessionManager

__all__ = ("DatabaseBackend", "Task", "TaskExtended", "TaskSet", "session_cleanup")

logger = get_logger("celery.backends.database")

symbol_by_name: Any = imports.symbol_by_name

#: What pickles begin with: before 5.7 Celery wrote nothing else.
_PICKLE = b"\x80"

#: Tried again unless the settings say something else: a database that is restarted is back soon.
_RETRIES = 3

_EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue")


@contextmanager
def session_cleanup(session: Any) -> Iterator[None]:
    """Roll back what failed, and close the session in any case."""
    try:
        yield
    except BaseException:
        session.rollback()
        raise
    finally:
        session.close()


class DatabaseBackend(BaseBackend):
    """Results in two tables.

    Arguments:
        dburi: the database's URL, as SQLAlchemy has it.
        engine_options: of its ``create_engine``; over those of the settings.
        url: the same as ``dburi``, with ``db+`` in front.
        engine_callback: called with each engine that is made, or the name of what is to be called.

    Raises:
        ImproperlyConfigured: there is no URL, or the callback can't be called.
    """

    #: Seconds between two looks of a client that waits.
    subpolling_interval = 0.5
    taskset_cls = TaskSet

    def __init__(
        self,
        dburi: str | None = None,
        engine_options: dict[str, Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        engine_callback = kwargs.pop("engine_callback", None)
        super().__init__(expires_type=lambda seconds: timedelta(seconds=seconds), url=url, **kwargs)
        conf = self.app.conf
        self.task_cls: Any = TaskExtended if self.extended else Task
        self.url = url or dburi or conf["database_url"]
        if not self.url:
            raise ImproperlyConfigured(
                "there is no URL of a database: set result_backend to db+sqlite:///results.sqlite3"
            )
        self.url = str(self.url).removeprefix("db+")
        self.engine_options = {**(conf["database_engine_options"] or {}), **(engine_options or {})}
        self.short_lived_sessions = kwargs.get("short_lived_sessions", conf["database_short_lived_sessions"])
        always, most = conf.chosen("result_backend_always_retry"), conf.chosen("result_backend_max_retries")
        self.always_retry = True if always is None else bool(always)
        self.max_retries = _RETRIES if most is None else most
        names, schemas = conf["database_table_names"] or {}, conf["database_table_schemas"] or {}
        for model, kind in ((self.task_cls, "task"), (self.taskset_cls, "group")):
            model.configure(schema=schemas.get(kind), name=names.get(kind))
        self.session_manager = SessionManager(_callable(engine_callback or conf["database_engine_callback"]))
        if conf["database_create_tables_at_setup"]:
            self._create_tables()

    def _create_tables(self) -> None:
        self._retried(lambda: self.ResultSession().close())

    def ResultSession(self, session_manager: SessionManager | None = None) -> Any:
        """A session; the engine is this process's own, and the tables are there."""
        return (session_manager or self.session_manager).session_factory(
            dburi=str(self.url), short_lived_sessions=self.short_lived_sessions, **self.engine_options
        )

    def close(self) -> None:
        """Let go of the connections; they are made anew when they are needed."""
        self.session_manager.close()

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, (DatabaseError, InterfaceError, InvalidRequestError, StaleDataError))

    def on_backend_retryable_error(self, exc: Exception) -> None:
        """The connection may be what is broken: the next attempt has another."""
        self.session_manager.invalidate(str(self.url))

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _packed(self, value: Any) -> Any:
        return ensure_bytes(self.encode(value))

    def _unpacked(self, blob: Any) -> Any:
        if blob is None:
            return None
        data = bytes(blob)
        try:
            return self.decode(data)
        except Exception:
            if not data.startswith(_PICKLE):
                raise
        logger.warning("A result is a pickle, though the serializer is %s: an older Celery stored it", self.serializer)
        return pickle.loads(data)  # noqa: S301 - from the application's own database

    def _stamps(self, blob: Any) -> dict[str, Any]:
        """What a result was stamped with, as the other backends have it; nothing where the column isn't readable."""
        try:
            stored = self._unpacked(blob)
            named = {"stamped_headers": stored["stamped_headers"]} if "stamped_headers" in stored else {}
            return {**stored.get("stamps", {}), **named}
        except Exception:
            return {}

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _query_task(self, session: Any, task_id: str, for_update: bool = False) -> Any:
        """A task's row or None; columns that the table lacks are left out.

        Arguments:
            for_update: lock the row, and take it as it is now.
        """
        lacking: list[str] = []
        while True:
            query = session.query(self.task_cls)
            try:
                if lacking:
                    query = query.options(*(defer(getattr(self.task_cls, name), raiseload=True) for name in lacking))
                if for_update:
                    query = query.with_for_update().populate_existing()
                found = query.filter(self.task_cls.task_id == task_id)
                return next(iter(found), None)
            except DatabaseError as error:
                named = [name for name in LATER_COLUMNS if name not in lacking and f".{name}" in str(error.orig)]
                if not named:
                    raise
                lacking += named
                session.rollback()

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        session = self.ResultSession()
        with session_cleanup(session):
            row = self._query_task(session, task_id)
            if row is None:
                row = self.task_cls(task_id)
                session.add(row)
                session.flush()
            else:
                row = self._query_task(session, task_id, for_update=True) or row
            if row.status == states.SUCCESS:
                return result
            self._update_result(row, result, state, traceback=traceback, request=request)
            for field in ("status", "result", "traceback"):
                # written though it looks unchanged: where rows can't be locked, another one may have written since
                flag_modified(row, field)
            session.commit()
        return result

    def _update_result(self, task: Any, result: Any, state: str, traceback: Any = None, request: Any = None) -> None:
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request, format_date=False, encode=True
        )
        task.status, task.traceback, task.date_done = meta["status"], meta["traceback"], meta["date_done"]
        task.result = self._packed(meta["result"])
        fields = {field: meta[field] for field in _EXTENDED if field in meta}
        fields["children"] = self._packed(meta["children"]) if meta["children"] else None
        if "stamped_headers" in meta:
            stamped = meta["stamped_headers"]
            stamps = {name: meta[name] for name in stamped if name in meta}
            fields["stamps"] = self._packed({"stamped_headers": stamped, "stamps": stamps})
        for field, value in fields.items():
            if hasattr(task, field):
                setattr(task, field, value)

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        session = self.ResultSession()
        with session_cleanup(session):
            row = self._query_task(session, task_id)
            if row is None:
                row = self.task_cls(task_id)
                row.status, row.result = states.PENDING, None
            document: dict[str, Any] = row.to_dict()
        for field in ("result", "children", "args", "kwargs"):
            if field in document:
                document[field] = self._unpacked(document[field])
        stamps = document.pop("stamps", None)
        if stamps is not None:
            document = {**self._stamps(stamps), **document}
        return self.meta_from_decoded(document)

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything was stored for the task."""
        return bool(self._retried(lambda: self._task_result_exists(task_id)))

    exists = task_result_exists

    def _task_result_exists(self, task_id: str) -> bool:
        session = self.ResultSession()
        with session_cleanup(session):
            known = session.query(self.task_cls.task_id).filter(self.task_cls.task_id == task_id)
            return known.first() is not None

    def _forget(self, task_id: str) -> None:
        session = self.ResultSession()
        with session_cleanup(session):
            session.query(self.task_cls).filter(self.task_cls.task_id == task_id).delete()
            session.commit()

    # ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _save_group(self, group_id: str, result: Any) -> Any:
        stored = result.as_tuple() if isinstance(result, ResultBase) else result
        session = self.ResultSession()
        with session_cleanup(session):
            session.add(self.taskset_cls(group_id, self._packed(stored)))
            session.commit()
        return result

    def _restore_group(self, group_id: str) -> Any:
        session = self.ResultSession()
        with session_cleanup(session):
            row = session.query(self.taskset_cls).filter(self.taskset_cls.taskset_id == group_id).first()
            if row is None:
                return None
            document: dict[str, Any] = row.to_dict()
        stored = self._unpacked(document["result"])
        document["result"] = result_from_tuple(stored, self.app) if isinstance(stored, (list, tuple)) else stored
        return document

    def _delete_group(self, group_id: str) -> Any:
        session = self.ResultSession()
        with session_cleanup(session):
            session.query(self.taskset_cls).filter(self.taskset_cls.taskset_id == group_id).delete()
            session.commit()

    def cleanup(self) -> None:
        """Remove what has expired."""
        self._retried(self._cleanup)

    def _cleanup(self) -> None:
        if not self.expires:
            return
        oldest = datetime.now(timezone.utc) - self.expires
        session = self.ResultSession()
        with session_cleanup(session):
            for model in (self.task_cls, self.taskset_cls):
                session.query(model).filter(model.date_done < oldest).delete()
            session.commit()

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        named = {"dburi": self.url, "engine_options": self.engine_options, "expires": self.expires, **(kwargs or {})}
        return super().__reduce__(args, named)


def _callable(callback: Any) -> Any:
    if isinstance(callback, str):
        callback = symbol_by_name(callback)
    if callback is not None and not callable(callback):
        raise ImproperlyConfigured(
            f"database_engine_callback takes a function of one engine, or the name of one, not {callback!r}"
        )
    return callback
