"""The tasks that every app has."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zerocelery.app.base import Celery

__all__ = ()


def add_backend_cleanup_task(app: Celery) -> Any:
    """``celery.backend_cleanup``: remove results that have expired, where the backend doesn't do it by itself."""

    @app.task(name="celery.backend_cleanup", shared=False, lazy=False)
    def backend_cleanup() -> None:
        app.backend.cleanup()

    return backend_cleanup


def add_accumulate_task(app: Celery) -> Any:
    """``celery.accumulate``: gives its arguments, or one of them."""

    @app.task(bind=True, name="celery.accumulate", shared=False, lazy=False)
    def accumulate(self: Any, *args: Any, **kwargs: Any) -> Any:
        index = kwargs.get("index")
        return args[index] if index is not None else args

    return accumulate


def add_unlock_chord_task(app: Celery) -> Any:  # noqa: C901 - one task, with what only it needs
    """``celery.chord_unlock``: look whether a header is done, and call its body; for backends that can't count."""
    from zerocelery import canvas
    from zerocelery.exceptions import ChordError, MaxRetriesExceededError, Reject
    from zerocelery.result import allow_join_result
    from zerocelery.result import result_from_tuple as from_tuple

    def refused(backend: Any, callback: Any, error: BaseException, cause: BaseException | None) -> None:
        what = f"Could not retry the chord unlock: {error!r}"
        backend.chord_error_from_stack(callback, exc=ChordError(what if cause is None else f"{what}, after {cause!r}"))

    @app.task(
        name="celery.chord_unlock",
        max_retries=None,
        shared=False,
        default_retry_delay=app.conf["result_chord_retry_interval"],
        ignore_result=True,
        lazy=False,
        bind=True,
    )
    def unlock_chord(
        self: Any,
        /,
        group_id: str,
        callback: Any,
        interval: float | None = None,
        max_retries: int | None = None,
        result: Any = None,
        Result: Any = None,
        GroupResult: Any = None,
        result_from_tuple: Any = from_tuple,
        _chord_unlock_exchange_type: str | None = None,
        **kwargs: Any,
    ) -> None:
        interval = app.conf["result_chord_retry_interval"] if interval is None else interval
        members = (GroupResult or app.GroupResult)(
            group_id, [result_from_tuple(one, app=app) for one in result or ()], app=app
        )
        if not isinstance(callback, canvas.Signature):
            callback = canvas.maybe_signature(callback, app=app)
        again: dict[str, Any] = {"countdown": interval, "max_retries": max_retries}
        if _chord_unlock_exchange_type is not None:
            again["exchange_type"] = _chord_unlock_exchange_type
        cause: BaseException | None = None
        try:
            try:
                ready = members.ready()
            except Exception as error:
                cause = error
                raise self.retry(exc=error, **again) from error
            if not ready:
                raise self.retry(**again)
        except (Reject, MaxRetriesExceededError) as error:
            refused(app.backend, callback, error, cause)
            raise
        except KeyError as error:
            if error is cause:
                app.backend.chord_error_from_stack(callback, exc=ChordError(repr(error)))
            raise
        call_body(app, members, callback)

    def call_body(app: Celery, members: Any, callback: Any) -> None:
        join = members.join_native if members.supports_native_join else members.join
        try:
            with allow_join_result():
                values = join(timeout=app.conf["result_chord_join_timeout"], propagate=True)
        except Exception as error:
            culprit = next(iter(members._failed_join_report()), None)
            reason = f"Dependency {culprit.id} raised {error!r}" if culprit is not None else repr(error)
            app.backend.chord_error_from_stack(callback, exc=ChordError(reason))
            return
        try:
            # the header can't become ready a second time: so a refused connection is no end
            app.amqp._retry_publish(lambda: callback.delay(values))
        except Exception as error:
            app.backend.chord_error_from_stack(callback, exc=ChordError(f"Callback error: {error!r}"))

    return unlock_chord


def add_map_task(app: Celery) -> Any:
    """``celery.map``: call a task with each item."""
    from zerocelery.canvas import signature

    @app.task(name="celery.map", shared=False, lazy=False)
    def xmap(task: Any, it: Any) -> list[Any]:
        called = signature(task, app=app).type
        return [called(item) for item in it]

    return xmap


def add_starmap_task(app: Celery) -> Any:
    """``celery.starmap``: call a task with each item as its arguments."""
    from zerocelery.canvas import signature

    @app.task(name="celery.starmap", shared=False, lazy=False)
    def xstarmap(task: Any, it: Any) -> list[Any]:
        called = signature(task, app=app).type
        return [called(*item) for item in it]

    return xstarmap


def add_chunk_task(app: Celery) -> Any:
    """``celery.chunks``: send items in chunks."""
    from zerocelery import canvas

    @app.task(name="celery.chunks", shared=False, lazy=False)
    def chunks(task: Any, it: Any, n: int) -> Any:
        return canvas.chunks.apply_chunks(task, it, n)

    return chunks


def add_group_task(app: Celery) -> Any:
    """``celery.group``: send calls that were prepared."""
    from zerocelery import canvas
    from zerocelery.result import result_from_tuple

    @app.task(name="celery.group", bind=True, shared=False, lazy=False)
    def group(self: Any, tasks: Any, result: Any, group_id: str, partial_args: Any, add_to_parent: bool = True) -> Any:
        app = self.app
        found = result_from_tuple(result, app)
        calls = [canvas.maybe_signature(task, app=app).clone(partial_args) for task in tasks]
        with app.producer_or_acquire() as producer:
            for call in calls:
                call.apply_async(group_id=group_id, producer=producer, add_to_parent=False)
        parent = app.current_worker_task
        if add_to_parent and parent:
            parent.add_trail(found)
        return found

    return group


def add_chain_task(app: Celery) -> Any:
    """``celery.chain``: a name only; a chain is sent as its first step."""

    @app.task(name="celery.chain", shared=False, lazy=False)
    def chain(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("chain is not a real task")

    return chain


def add_chord_task(app: Celery) -> Any:
    """``celery.chord``: send a chord."""
    from zerocelery.canvas import chord as make_chord
    from zerocelery.canvas import group, maybe_signature

    @app.task(name="celery.chord", bind=True, ignore_result=False, shared=False, lazy=False)
    def chord(
        self: Any,
        /,
        header: Any,
        body: Any,
        partial_args: Any = (),
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,
        **kwargs: Any,
    ) -> Any:
        app = self.app
        if not isinstance(header, group):
            header = maybe_signature(header, app=app) if isinstance(header, dict) else group(header, app=app)
        made = make_chord(header, body, app=app)
        return made.run(
            header, maybe_signature(body, app=app), partial_args, app, interval, None, max_retries, eager, **kwargs
        )

    return chord


def add_all(app: Celery) -> None:
    """Give an app all of them; called by every app when it is finalised."""
    for add in (
        add_backend_cleanup_task,
        add_accumulate_task,
        add_unlock_chord_task,
        add_map_task,
        add_starmap_task,
        add_chunk_task,
        add_group_task,
        add_chain_task,
        add_chord_task,
    ):
        add(app)
