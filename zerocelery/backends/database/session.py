"""Engines and sessions: one engine for each process and database."""

from __future__ import annotations

import os
import time
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import declarative_base, sessionmaker
from sqlalchemy.pool import NullPool

#: How often to try to create tables that somebody else may be creating.
PREPARE_MODELS_MAX_RETRIES = 10
_PAUSE = 0.05

__all__ = ("ResultModelBase", "SessionManager")

ResultModelBase: Any = declarative_base()


class SessionManager:
    """Makes sessions; what a forked child inherits isn't used."""

    def __init__(self) -> None:
        self._engines: dict[Any, Any] = {}
        self._sessions: dict[Any, Any] = {}
        self._pid = os.getpid()
        self.prepared = False

    def _after_fork(self) -> None:
        self._engines.clear()
        self._sessions.clear()
        self._pid = os.getpid()

    def get_engine(self, dburi: str, **kwargs: Any) -> Any:
        """The engine of a database."""
        if self._pid != os.getpid():
            self._after_fork()
        if dburi not in self._engines:
            self._engines[dburi] = create_engine(dburi, **kwargs)
        return self._engines[dburi]

    def create_session(self, dburi: str, short_lived_sessions: bool = False, **kwargs: Any) -> tuple[Any, Any]:
        """The engine, and what makes sessions.

        Arguments:
            short_lived_sessions: connect for each session anew.
        """
        options = {**kwargs, "poolclass": NullPool} if short_lived_sessions else kwargs
        engine = self.get_engine(dburi, **options)
        if dburi not in self._sessions:
            self._sessions[dburi] = sessionmaker(bind=engine, expire_on_commit=False)
        return engine, self._sessions[dburi]

    def prepare_models(self, engine: Any) -> None:
        """Create the tables that aren't there."""
        for left in reversed(range(PREPARE_MODELS_MAX_RETRIES)):
            if self.prepared:
                return
            try:
                ResultModelBase.metadata.create_all(engine)
                self.prepared = True
            except DatabaseError:
                # another worker creates them at this moment
                if not left:
                    raise
                time.sleep(_PAUSE)

    def session_factory(self, dburi: str, **kwargs: Any) -> Any:
        """A session on tables that are there."""
        engine, make = self.create_session(dburi, **kwargs)
        self.prepare_models(engine)
        return make()

    def close(self) -> None:
        """Let go of the connections."""
        for engine in self._engines.values():
            engine.dispose()
        self._after_fork()
