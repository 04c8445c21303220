"""Results in a database, by SQLAlchemy: ``db+sqlite:///results.sqlite3``, ``db+postgresql://…``."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from zerocelery import states
from zerocelery.backends.base import BaseBackend, ensure_bytes
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.result import result_from_tuple

try:
    from sqlalchemy.exc import DatabaseError, InvalidRequestError
    from sqlalchemy.orm.exc import StaleDataError
except ImportError as error:
    raise ImproperlyConfigured(
        "The database result backend requires SQLAlchemy to be installed: pip install sqlalchemy"
    ) from error

from zerocelery.backends.database.models import Task, TaskExtended, TaskSet
from zerocelery.backends.database.session import SessionManager

__all__ = ("DatabaseBackend", "Task", "TaskExtended", "TaskSet", "session_cleanup")

#: What pickles begin with: before 5.7 Celery wrote nothing else.
_PICKLE = b"\x80"


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

    Raises:
        ImproperlyConfigured: there is no URL.
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
        names, schemas = conf["database_table_names"] or {}, conf["database_table_schemas"] or {}
        for model, kind in ((self.task_cls, "task"), (self.taskset_cls, "group")):
            if names.get(kind) or schemas.get(kind):
                model.configure(schema=schemas.get(kind), name=names.get(kind))
        self.session_manager = SessionManager()
        if conf["database_create_tables_at_setup"]:
            self.ResultSession().close()

    def ResultSession(self) -> Any:
        """A session; the engine is this process's own, and the tables are there."""
        return self.session_manager.session_factory(
            str(self.url), short_lived_sessions=self.short_lived_sessions, **self.engine_options
        )

    def close(self) -> None:
        """Let go of the connections; they are made anew when they are needed."""
        self.session_manager.close()

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, (DatabaseError, InvalidRequestError, StaleDataError))

    def _packed(self, value: Any) -> Any:
        return ensure_bytes(self.encode(value))

    def _unpacked(self, blob: Any) -> Any:
        if blob is None:
            return None
        data = bytes(blob)
        if data.startswith(_PICKLE) and self.serializer != "pickle":
            return pickle.loads(data)  # noqa: S301 - of an older Celery, from the application's own database
        return self.decode(data)

    def _row(self, session: Any, task_id: str, *, lock: bool = False) -> Any:
        query = session.query(self.task_cls).filter(self.task_cls.task_id == task_id)
        return (query.with_for_update() if lock else query).first()

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        session = self.ResultSession()
        with session_cleanup(session):
            row = self._row(session, task_id, lock=True)
            if row is None:
                row = self.task_cls(task_id)
                session.add(row)
                session.flush()
            if row.status == states.SUCCESS:
                return result
            meta = self._get_result_meta(result, state, traceback, request, format_date=False, encode=True)
            row.status, row.traceback, row.date_done = meta["status"], meta["traceback"], meta["date_done"]
            row.result, row.children = self._packed(meta["result"]), self._packed(meta["children"])
            for field in ("name", "args", "kwargs", "worker", "retries", "queue"):
                if field in meta and hasattr(row, field):
                    setattr(row, field, meta[field])
            session.commit()
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        session = self.ResultSession()
        with session_cleanup(session):
            row = self._row(session, task_id)
            if row is None:
                return {"status": states.PENDING, "result": None, "task_id": task_id}
            document: dict[str, Any] = row.to_dict()
        for field in ("result", "children", "args", "kwargs"):
            if field in document:
                document[field] = self._unpacked(document[field])
        return self.meta_from_decoded(document)

    def _forget(self, task_id: str) -> None:
        session = self.ResultSession()
        with session_cleanup(session):
            session.query(self.task_cls).filter(self.task_cls.task_id == task_id).delete()
            session.commit()

    def _save_group(self, group_id: str, result: Any) -> Any:
        session = self.ResultSession()
        with session_cleanup(session):
            session.add(self.taskset_cls(group_id, self._packed(result.as_tuple())))
            session.commit()
        return result

    def _restore_group(self, group_id: str) -> Any:
        session = self.ResultSession()
        with session_cleanup(session):
            row = session.query(self.taskset_cls).filter(self.taskset_cls.taskset_id == group_id).first()
            if row is None:
                return None
            document: dict[str, Any] = row.to_dict()
        document["result"] = result_from_tuple(self._unpacked(document["result"]), self.app)
        return document

    def _delete_group(self, group_id: str) -> Any:
        session = self.ResultSession()
        with session_cleanup(session):
            session.query(self.taskset_cls).filter(self.taskset_cls.taskset_id == group_id).delete()
            session.commit()

    def cleanup(self) -> None:
        """Remove what has expired."""
        if not self.expires:
            return
        oldest = datetime.now(timezone.utc) - self.expires
        session = self.ResultSession()
        with session_cleanup(session):
            for model in (self.task_cls, self.taskset_cls):
                session.query(model).filter(model.date_done < oldest).delete()
            session.commit()

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        named = {"expires": None, "engine_options": self.engine_options, **(kwargs or {})}
        return super().__reduce__(args, named)
