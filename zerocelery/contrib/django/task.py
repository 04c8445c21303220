"""A task that is sent when Django's transaction is committed."""

from __future__ import annotations

import functools
from typing import Any

from django.db import transaction

from zerocelery.app.task import Task

__all__ = ("DjangoTask",)


class DjangoTask(Task[..., Any]):
    """A task that can wait for the end of the transaction it is sent in: before, a worker would not see its data.

    Where there is no transaction, the task is sent at once. What is rolled back is never sent.
    """

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """``delay`` on commit. There is no result yet, so none is returned."""
        transaction.on_commit(functools.partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """``apply_async`` on commit. There is no result yet, so none is returned."""
        transaction.on_commit(functools.partial(self.apply_async, *args, **kwargs))
