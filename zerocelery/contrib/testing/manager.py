"""Waiting for what a worker does, from a test."""

from __future__ import annotations

import builtins
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from zerocelery.exceptions import TimeoutError
from zerocelery.result import AsyncResult

__all__ = ("Manager", "ManagerMixin", "Sentinel")

E_STILL_WAITING = "Still waiting for {0}.  Trying again {when}: {exc!r}"


class Sentinel(Exception):
    """What was waited for is not so yet."""


def _when(seconds: float) -> str:
    return f"in {seconds:g} seconds" if seconds else "now"


class ManagerMixin:
    """Asks again and again, with growing pauses, until something holds."""

    app: Any

    def _init_manager(
        self,
        block_timeout: float = 30 * 60.0,
        no_join: bool = False,
        stdout: Any = None,
        stderr: Any = None,
    ) -> None:
        #: How long waiting for a result may block.
        self.block_timeout = block_timeout
        self.no_join = no_join
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.connerrors: tuple[type[BaseException], ...] = (OSError,)

    def remark(self, s: str, sep: str = "-") -> None:
        """Print a line for whoever watches."""
        print(f"{sep}{s}", file=self.stdout)

    def warn(self, s: str) -> None:
        """Print a line on stderr."""
        print(s, file=self.stderr)

    def missing_results(self, r: Iterable[Any]) -> list[str]:
        """Ids of results whose backend has nothing yet."""
        return [result.id for result in r if not result.ready()]

    def wait_for(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: Any = None,
        errback: Callable[[Any, float, int], Any] | None = None,
        max_retries: int | None = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> Any:
        """Call until no exception of these is raised; what was returned.

        Arguments:
            desc: what is waited for, in a warning's words.
            errback: called with exception, pause and number of the attempt.
            max_retries: after so many more calls the exception is raised; None: never.
            emit_warning: whether to say on stderr that it is waited for.
        """
        interval = interval_start
        for attempt in count():
            try:
                return fun(*args, **(kwargs or {}))
            except catch as error:
                if max_retries is not None and attempt >= max_retries:
                    raise
                if emit_warning:
                    self.warn(E_STILL_WAITING.format(desc, when=_when(interval), exc=error))
                if errback is not None:
                    errback(error, interval, attempt)
                time.sleep(interval)
                interval = min(interval + interval_step, interval_max)
        raise AssertionError("unreachable")  # pragma: no cover

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., Any],
        catch: Any,
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> None:
        """Return when the call went on raising for a while.

        Raises:
            AssertionError: it did not.
        """
        try:
            self.wait_for(
                fun,
                catch,
                desc=desc,
                max_retries=max_retries,
                interval_start=interval_start,
                interval_step=interval_step,
                interval_max=interval_max,
                emit_warning=emit_warning,
            )
        except catch:
            return
        raise AssertionError(f"Should not have happened: {desc}")

    def retry_over_time(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`wait_for`."""
        return self.wait_for(*args, **kwargs)

    def join(self, r: Any, propagate: bool = False, max_retries: int | None = 10, **kwargs: Any) -> Any:
        """A result, or those of a group; while there are none, say so and go on.

        Raises:
            AssertionError: they didn't come.
        """
        if self.no_join:
            return None
        results = r if hasattr(r, "join") else _Several([r])
        received: list[str] = []

        def on_result(task_id: str, value: Any) -> None:
            received.append(task_id)

        for attempt in count() if not max_retries else range(max_retries):
            received[:] = []
            try:
                return results.get(callback=on_result, propagate=propagate, **kwargs)
            except (TimeoutError, builtins.TimeoutError) as error:
                missing = self.missing_results(getattr(results, "results", [r]))
                self.remark(f"Still waiting for {len(received)}/{len(received) + len(missing)}: {error!r}", "!")
            except self.connerrors as error:
                self.remark(f"join: connection lost: {error!r}", "!")
            if max_retries and attempt + 1 >= max_retries:
                break
        raise AssertionError("Test failed: Missing task results")

    def inspect(self, timeout: float = 3.0) -> Any:
        """The app's view of its workers."""
        return self.app.control.inspect(timeout=timeout)

    def query_tasks(self, ids: Any, timeout: float = 0.5) -> Iterable[Any]:
        """What each worker knows of these tasks."""
        yield from (self.inspect(timeout).query_task(ids) or {}).items()

    def query_task_states(self, ids: Any, timeout: float = 0.5) -> dict[str, set[str]]:
        """Ids by state, over all workers."""
        states: defaultdict[str, set[str]] = defaultdict(set)
        for _, reply in self.query_tasks(ids, timeout=timeout):
            for task_id, (state, _) in reply.items():
                states[state].add(task_id)
        return states

    def assert_accepted(
        self, ids: Any, interval: float = 0.5, desc: str = "waiting for tasks to be accepted", **policy: Any
    ) -> Any:
        """Return when all of these run."""
        return self.assert_task_worker_state(self.is_accepted, ids, interval=interval, desc=desc, **policy)

    def assert_received(
        self, ids: Any, interval: float = 0.5, desc: str = "waiting for tasks to be received", **policy: Any
    ) -> Any:
        """Return when all of these are with a worker."""
        return self.assert_task_worker_state(self.is_received, ids, interval=interval, desc=desc, **policy)

    def assert_result_tasks_in_progress_or_completed(
        self,
        async_results: Any,
        interval: float = 0.5,
        desc: str = "waiting for tasks to be started or completed",
        **policy: Any,
    ) -> Any:
        """Return when all of these have been started."""
        return self.assert_task_state_from_result(
            self.is_result_task_in_progress, async_results, interval=interval, desc=desc, **policy
        )

    def assert_task_state_from_result(
        self, fun: Callable[..., Any], results: Any, interval: float = 0.5, **policy: Any
    ) -> Any:
        """Return when a function of these results says yes."""
        return self.wait_for(
            self.true_or_raise, (Sentinel,), args=(fun, results), kwargs={"timeout": interval}, **policy
        )

    @staticmethod
    def is_result_task_in_progress(results: Iterable[AsyncResult[Any]], **kwargs: Any) -> bool:
        """Whether all of these have been started."""
        return all(result.state in ("STARTED", "SUCCESS") for result in results)

    def assert_task_worker_state(self, fun: Callable[..., Any], ids: Any, interval: float = 0.5, **policy: Any) -> Any:
        """Return when a function of these ids says yes."""
        return self.wait_for(self.true_or_raise, (Sentinel,), args=(fun, ids), kwargs={"timeout": interval}, **policy)

    def is_received(self, ids: Any, **kwargs: Any) -> bool:
        """Whether all of these are with a worker."""
        return self._ids_matches_state(["reserved", "active", "ready"], ids, **kwargs)

    def is_accepted(self, ids: Any, **kwargs: Any) -> bool:
        """Whether all of these run."""
        return self._ids_matches_state(["active", "ready"], ids, **kwargs)

    def _ids_matches_state(self, expected_states: Sequence[str], ids: Any, timeout: float = 0.5) -> bool:
        states = self.query_task_states(ids, timeout=timeout)
        return all(any(task_id in states[state] for state in expected_states) for task_id in ids)

    def true_or_raise(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the function returns, if that is true.

        Raises:
            Sentinel: it isn't.
        """
        answer = fun(*args, **kwargs)
        if not answer:
            raise Sentinel
        return answer

    def wait_until_idle(self) -> None:
        """Return when no worker has a task of ours any more."""

        def busy() -> bool:
            control = self.inspect()
            return any(
                tasks for asked in (control.active, control.reserved) for tasks in (asked() or {}).values() if tasks
            )

        self.wait_for(lambda: self.true_or_raise(lambda: not busy()), (Sentinel,), desc="idle workers")


class _Several:
    """A list of results, asked one after the other."""

    def __init__(self, results: list[Any]) -> None:
        self.results = results

    def get(self, *, callback: Callable[[str, Any], Any], **kwargs: Any) -> Any:
        values = [result.get(callback=callback, **kwargs) for result in self.results]
        return values[0]


class Manager(ManagerMixin):
    """See :class:`ManagerMixin`.

    Arguments:
        app: whose tasks these are.
    """

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)
