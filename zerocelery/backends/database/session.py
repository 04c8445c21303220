"""Engines and sessions: one engine for each process and database."""

from __future__ import annotations

import os
import time
from typing import Any

from kombu.utils import compat
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import declarative_base, sessionmaker
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateColumn

from zerocelery.utils.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("ResultModelBase", "SessionManager")

logger = get_logger("celery.backends.database")

#: How often to try again to create tables that somebody else may be creating.
PREPARE_MODELS_MAX_RETRIES = 10
_PAUSE = 0.05

#: Columns that tables of older Celerys lack; without them a result is readable, but says less.
LATER_COLUMNS = ("children", "stamps")

register_after_fork: Any = compat.register_after_fork  # type: ignore[attr-defined]

ResultModelBase: Any = declarative_base()


class SessionManager:
    """Makes sessions; what a forked child inherits isn't used.

    A pool of connections is kept in forked processes only: they are workers, which store one result after the other.

    Arguments:
        engine_callback: called with each engine that is made.
    """

    def __init__(self, engine_callback: Callable[[Any], Any] | None = None) -> None:
        self.engine_callback = engine_callback
        self._engines: dict[Any, Any] = {}
        self._sessions: dict[Any, Any] = {}
        self._inherited: list[Any] = []
        self._pid = os.getpid()
        self.forked = False
        self.prepared = False
        if register_after_fork is not None:
            register_after_fork(self, SessionManager._after_fork)

    def _after_fork(self) -> None:
        # kept, for an engine that is collected closes connections, and these are the parent's
        self._inherited.append((self._engines, self._sessions))
        self._engines, self._sessions = {}, {}
        self._pid = os.getpid()
        self.forked = True

    def get_engine(self, dburi: str, **kwargs: Any) -> Any:
        """The engine of a database."""
        if self._pid != os.getpid():
            self._after_fork()
        if dburi not in self._engines:
            if not self.forked:
                kwargs = {name: value for name, value in kwargs.items() if not _is_of_pools(name)}
                kwargs["poolclass"] = NullPool
            engine = create_engine(dburi, **kwargs)
            if self.engine_callback is not None:
                self.engine_callback(engine)
            self._engines[dburi] = engine
        return self._engines[dburi]

    def invalidate(self, dburi: str) -> None:
        """Let go of a database's connections; the next session makes others."""
        self._sessions.pop(dburi, None)
        engine = self._engines.pop(dburi, None)
        if engine is not None:
            engine.dispose()

    def create_session(self, dburi: str, short_lived_sessions: bool = False, **kwargs: Any) -> tuple[Any, Any]:
        """The engine, and what makes sessions.

        Arguments:
            short_lived_sessions: make that anew for each session.
        """
        engine = self.get_engine(dburi, **kwargs)
        if short_lived_sessions or dburi not in self._sessions:
            self._sessions[dburi] = sessionmaker(bind=engine)
        return engine, self._sessions[dburi]

    def prepare_models(self, engine: Any) -> None:
        """Create the tables, and the columns, that aren't there."""
        if self.prepared:
            return
        left = PREPARE_MODELS_MAX_RETRIES
        while True:
            try:
                ResultModelBase.metadata.create_all(engine)
                break
            except DatabaseError:
                # another worker creates them at this moment
                if not left:
                    raise
                left -= 1
                time.sleep(_PAUSE)
        self._migrate_missing_columns(engine)
        self.prepared = True

    def _migrate_missing_columns(self, engine: Any) -> None:
        """Add the columns that an older Celery's tables lack; where that may not be, results do without."""
        try:
            inspector = inspect(engine)
            for table in ResultModelBase.metadata.sorted_tables:
                if not inspector.has_table(table.name, schema=table.schema):
                    continue
                there = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
                for column in table.columns:
                    if column.name in LATER_COLUMNS and column.name not in there:
                        _add_column(engine, table, column)
        except Exception as error:
            logger.warning("Failed to look for missing columns of the result tables: %r", error)

    def session_factory(self, dburi: str, **kwargs: Any) -> Any:
        """A session on tables that are there."""
        engine, make = self.create_session(dburi, **kwargs)
        self.prepare_models(engine)
        return make()

    def close(self) -> None:
        """Let go of all connections."""
        for dburi in list(self._engines):
            self.invalidate(dburi)


def _is_of_pools(option: str) -> bool:
    return "pool" in option or option == "max_overflow"


def _add_column(engine: Any, table: Any, column: Any) -> None:
    from sqlalchemy import text

    try:
        name = engine.dialect.identifier_preparer.format_table(table)
        definition = CreateColumn(column).compile(dialect=engine.dialect)
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {name} ADD {definition}"))
    except Exception as error:
        logger.warning("Failed to add missing column %s to %s: %r", column.name, table.name, error)
