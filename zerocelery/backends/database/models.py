"""The tables of results."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from zerocelery import states
from zerocelery.backends.database.session import ResultModelBase

__all__ = ("Task", "TaskExtended", "TaskSet")


#: SQL Server's Integer ends at two thousand million.
_ID = sa.Integer().with_variant(sa.BigInteger(), "mssql")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _column_or_none(row: Any, name: str) -> Any:
    """A column that tables of older Celerys lack: None where it can't be read."""
    try:
        return getattr(row, name)
    except Exception:
        return None


def _configure(model: Any, schema: str | None, name: str | None) -> None:
    model.__table__.schema = schema
    model.__table__.c.id.default.schema = schema
    model.__table__.name = name or model.__tablename__


class Task(ResultModelBase):  # type: ignore[misc]
    """One task's document; value and children are bytes of the result serialiser."""

    __tablename__ = "celery_taskmeta"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy's name

    id = sa.Column(_ID, sa.Sequence("task_id_sequence"), primary_key=True, autoincrement=True)
    task_id = sa.Column(sa.String(155), unique=True)
    status = sa.Column(sa.String(50), default=states.PENDING)
    result = sa.Column(sa.LargeBinary, nullable=True)
    date_done = sa.Column(sa.DateTime, default=_now, onupdate=_now, nullable=True, index=True)
    traceback = sa.Column(sa.Text, nullable=True)
    children = sa.Column(sa.LargeBinary, nullable=True)

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """The columns that a document has."""
        return {
            "task_id": self.task_id,
            "status": self.status,
            "result": self.result,
            "traceback": self.traceback,
            "date_done": self.date_done,
            "children": _column_or_none(self, "children"),
        }

    def __repr__(self) -> str:
        return f"<Task {self.task_id} state: {self.status}>"

    @classmethod
    def configure(cls, schema: str | None = None, name: str | None = None) -> None:
        """Give the table another schema or name."""
        _configure(cls, schema, name)


class TaskExtended(Task):
    """The same with the request's own fields."""

    __tablename__ = "celery_taskmeta"
    __table_args__ = {"sqlite_autoincrement": True, "extend_existing": True}  # noqa: RUF012 - SQLAlchemy's name

    name = sa.Column(sa.String(155), nullable=True)
    args = sa.Column(sa.LargeBinary, nullable=True)
    kwargs = sa.Column(sa.LargeBinary, nullable=True)
    worker = sa.Column(sa.String(155), nullable=True)
    retries = sa.Column(sa.Integer, nullable=True)
    queue = sa.Column(sa.String(155), nullable=True)
    stamps = sa.Column(sa.LargeBinary, nullable=True)

    def to_dict(self) -> dict[str, Any]:
        own = ("name", "args", "kwargs", "worker", "retries", "queue")
        return {
            **super().to_dict(),
            **{field: getattr(self, field) for field in own},
            "stamps": _column_or_none(self, "stamps"),
        }


class TaskSet(ResultModelBase):  # type: ignore[misc]
    """A group's result."""

    __tablename__ = "celery_tasksetmeta"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy's name

    id = sa.Column(_ID, sa.Sequence("taskset_id_sequence"), autoincrement=True, primary_key=True)
    taskset_id = sa.Column(sa.String(155), unique=True)
    result = sa.Column(sa.LargeBinary, nullable=True)
    date_done = sa.Column(sa.DateTime, default=_now, nullable=True, index=True)

    def __init__(self, taskset_id: str, result: Any) -> None:
        self.taskset_id = taskset_id  # type: ignore[assignment]
        self.result = result

    def to_dict(self) -> dict[str, Any]:
        """The columns that a document has."""
        return {"taskset_id": self.taskset_id, "result": self.result, "date_done": self.date_done}

    def __repr__(self) -> str:
        return f"<TaskSet: {self.taskset_id}>"

    @classmethod
    def configure(cls, schema: str | None = None, name: str | None = None) -> None:
        """Give the table another schema or name."""
        _configure(cls, schema, name)
