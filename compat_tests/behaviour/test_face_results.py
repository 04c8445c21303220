"""Results: what callers see of a task's life."""

from __future__ import annotations

import datetime
import pickle

import pytest

from zerocelery import AsyncResult, Celery
from zerocelery.exceptions import Reject, TimeoutError, WorkerLostError


def test_a_success_in_all_its_views(client: Celery) -> None:
    result = client.send_task("proj.add", (1, 2))

    assert result.get(timeout=10) == 3
    assert result.state == result.status == "SUCCESS"
    assert result.result == result.info == 3
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert result.traceback is None
    assert result.children == []
    assert result.parent is None
    assert abs(result.date_done - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(minutes=1)


def test_anybody_with_the_id_has_the_result(client: Celery) -> None:
    first = client.send_task("proj.add", (1, 2))
    first.get(timeout=10)

    assert client.AsyncResult(first.id).get(timeout=10) == 3
    assert client.AsyncResult(first.id).state == "SUCCESS"
    assert client.AsyncResult("nobody knows this").state == "PENDING"


def test_a_failure_raises_the_tasks_own_exception(client: Celery) -> None:
    result = client.send_task("proj.fail", ("wrong",))

    with pytest.raises(ValueError, match="wrong"):
        result.get(timeout=10)
    assert result.failed()
    assert isinstance(result.get(propagate=False), ValueError)
    assert result.traceback.startswith("Traceback")
    assert "raise ValueError(message)" in result.traceback
    assert "zerocelery/app" not in result.traceback


def test_an_exception_that_this_process_does_not_have(client: Celery) -> None:
    error = client.send_task("proj.fail_oddly").get(timeout=10, propagate=False)

    assert type(error).__name__ == "Odd"
    assert str(error) == "1 and 2"


def test_a_result_that_no_serializer_takes_is_a_failure(client: Celery) -> None:
    result = client.send_task("proj.unserialisable")

    with pytest.raises(Exception, match="object"):
        result.get(timeout=10)
    assert result.state == "FAILURE"


def test_a_result_that_this_client_does_not_accept_hurts_nobody_else(running_worker: object, worker_url: str) -> None:
    with Celery("client", broker=worker_url, set_as_current=False) as app:
        app.conf.result_accept_content = ["yaml"]
        refused, other = app.send_task("proj.add", (1, 2)), app.send_task("proj.add", (3, 4))
        from kombu.exceptions import ContentDisallowed

        with pytest.raises(ContentDisallowed):
            refused.get(timeout=10)
        assert refused.state == "SUCCESS"
        app.conf.result_accept_content = ["json"]
        assert app.AsyncResult(other.id).get(timeout=10) == 7


def test_a_task_that_raises_system_exit_does_not_leave_its_caller_waiting(client: Celery) -> None:
    with pytest.raises(WorkerLostError, match="SystemExit"):
        client.send_task("proj.leave").get(timeout=10)
    assert client.send_task("proj.add", (1, 1)).get(timeout=10) == 2


def test_get_gives_up_in_time(client: Celery) -> None:
    result = client.send_task("proj.slow")

    with pytest.raises(TimeoutError):
        result.get(timeout=0.05)
    assert result.get(timeout=10) == "slow"


def test_states_of_a_task_that_tells_them(client: Celery) -> None:
    seen: list[object] = []
    result = client.send_task("proj.progress")
    value = result.get(
        timeout=10,
        interval=0.02,
        on_interval=lambda: seen.append((result.state, result.info)),
        callback=lambda task_id, value: seen.append((task_id, value)),
    )

    assert value == "done"
    assert ("PROGRESS", {"done": 1}) in seen
    assert seen[-1] == (result.id, "done")


def test_started_is_told_where_it_is_tracked(client: Celery) -> None:
    seen = {}
    result = client.send_task("proj.slow")
    result.get(timeout=10, interval=0.02, on_interval=lambda: seen.setdefault(result.state, result.info))

    assert set(seen["STARTED"]) == {"pid", "hostname"}


def test_ignore_leaves_the_state_that_the_task_has_told(client: Celery) -> None:
    with pytest.raises(ValueError, match="told by hand"):
        client.send_task("proj.own_failure").get(timeout=10)


def test_reject_is_a_failure_that_says_reject(client: Celery) -> None:
    with pytest.raises(Reject):
        client.send_task("proj.reject").get(timeout=10)


def test_ignored_results_are_none_at_once(client: Celery) -> None:
    assert client.send_task("proj.add", (1, 2), ignore_result=True).get() is None


def test_waiting_within_a_task_is_refused(client: Celery) -> None:
    with pytest.raises(RuntimeError, match=r"Never call result.get"):
        client.send_task("proj.waits").get(timeout=10)


def test_a_forgotten_result_is_pending(client: Celery) -> None:
    result = client.send_task("proj.add", (1, 2))
    result.get(timeout=10)
    result.forget()

    assert client.AsyncResult(result.id).state == "PENDING"


def test_results_compare_hash_and_pickle(client: Celery) -> None:
    one, same, other = client.AsyncResult("a"), client.AsyncResult("a"), client.AsyncResult("b")

    assert one == same == "a"
    assert one != other
    assert len({one, same, other}) == 2
    assert isinstance(one, AsyncResult)
    assert str(one) == "a"
    client.set_current()
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.as_tuple() == (("a", None), None)
    with pytest.raises(ValueError, match="requires valid id"):
        client.AsyncResult(None)


def test_extended_results_tell_more(running_worker: object) -> None:
    url = running_worker(  # type: ignore[operator]
        """
        from zerocelery import Celery
        app = Celery("proj", result_extended=True)
        @app.task
        def add(x, y):
            return x + y
        """
    )
    with Celery("client", broker=url, set_as_current=False) as app:
        result = app.send_task("proj.add", (1,), {"y": 2})

        assert result.get(timeout=10) == 3
        assert (result.name, result.args, result.kwargs, result.retries, result.queue) == (
            "proj.add",
            [1],
            {"y": 2},
            0,
            "celery",
        )


def test_pickled_results_bring_the_exception_itself(running_worker: object) -> None:
    url = running_worker(  # type: ignore[operator]
        """
        from zerocelery import Celery
        app = Celery("proj", result_serializer="pickle", accept_content=["json", "pickle"])
        @app.task
        def fail():
            raise OSError(2, "gone", "file")
        @app.task
        def both():
            return {1, 2}
        """
    )
    with Celery("client", broker=url, set_as_current=False, accept_content=["json", "pickle"]) as app:
        assert app.send_task("proj.both").get(timeout=10) == {1, 2}
        with pytest.raises(FileNotFoundError) as caught:
            app.send_task("proj.fail").get(timeout=10)
        assert caught.value.filename == "file"


class NeedsTwo(Exception):
    """Its args are not what its __init__ wants."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


def test_an_exception_that_can_not_be_made_of_its_args_keeps_its_class_and_tells_them(client: Celery) -> None:
    client.backend.store_result("odd", NeedsTwo("one", "two"), "FAILURE")

    with pytest.raises(NeedsTwo) as caught:
        client.AsyncResult("odd").get(timeout=10)
    assert str(caught.value) == "NeedsTwo('one')"
    assert type(pickle.loads(pickle.dumps(caught.value))).__name__ == "NeedsTwo"


def test_a_state_may_be_told_of_a_task_that_is_anywhere(client: Celery) -> None:
    backend = client.backend

    backend.store_result("elsewhere", {"done": 1}, "PROGRESS")
    assert client.AsyncResult("elsewhere").state == "PROGRESS"
    assert client.AsyncResult("elsewhere").info == {"done": 1}
    backend.mark_as_done("elsewhere", 42)
    assert client.AsyncResult("elsewhere").get(timeout=10) == 42
    backend.mark_as_failure("elsewhere", ValueError("late"))
    assert Celery("other", broker=client.conf.broker_url, set_as_current=False).AsyncResult("elsewhere").result == 42


def test_a_task_that_is_run_on_the_spot_may_run_another_and_wait(client: Celery) -> None:
    @client.task
    def inner() -> int:
        return 2

    @client.task
    def outer() -> int:
        return inner.apply().get() + 1

    assert outer.apply().get() == 3
