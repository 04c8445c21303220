"""Tasks: functions that know how to be called elsewhere."""

from __future__ import annotations

import sys
from time import monotonic as _monotonic
from types import MethodType

from zerocelery import _state
from zerocelery._ids import uuid
from zerocelery._state import Frame, frame_of, frames
from zerocelery.app.context import Context
from zerocelery.app.registry import _unpickle_task
from zerocelery.app.utils import appstr
from zerocelery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Any, Generic

    from typing_extensions import ParamSpec, TypeVar

    from zerocelery.app.base import Celery
    from zerocelery.app.sending import Plan
    from zerocelery.canvas.maps import chunks, xmap, xstarmap
    from zerocelery.canvas.signature import Signature
    from zerocelery.result import AsyncResult, EagerResult

    P = ParamSpec("P", default=...)
    R = TypeVar("R", covariant=True, default=Any)

    class _Typed(Generic[P, R]):
        pass

else:
    from types import GenericAlias

    class _Typed:
        __class_getitem__ = classmethod(GenericAlias)


__all__ = ("Context", "Task")

#: Attributes that a task has from its app's settings unless it says otherwise.
_FROM_CONFIG = (
    ("serializer", "task_serializer"),
    ("rate_limit", "task_default_rate_limit"),
    ("priority", "task_default_priority"),
    ("time_limit", "task_time_limit"),
    ("soft_time_limit", "task_soft_time_limit"),
    ("track_started", "task_track_started"),
    ("acks_late", "task_acks_late"),
    ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
    ("acks_on_failure", "task_acks_on_failure"),
    ("acks_on_timeout", "task_acks_on_timeout"),
    ("reject_on_worker_lost", "task_reject_on_worker_lost"),
    ("retry_on_worker_lost", "task_retry_on_worker_lost"),
    ("ignore_result", "task_ignore_result"),
    ("store_eager_result", "task_store_eager_result"),
    ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
    ("compression", "task_compression"),
)
_CONFIGURED = frozenset(name for name, _ in _FROM_CONFIG)

#: Options of apply_async that a task may have as attributes.
_EXEC_OPTIONS = (
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
)

#: How often a run tells its progress at most (seconds).
_PROGRESS_SECONDS = 0.05

#: Those that Celery has not.
_OWN_OPTIONS = ("unique_key", "unique_for")

#: All of them, as who sees a call of send_task finds them.
_NO_OPTIONS = dict.fromkeys((*_EXEC_OPTIONS, "immediate", "mandatory"))

#: Attributes that say where a task goes, which is better said by the setting task_routes.
_ROUTING = ("queue", "exchange", "exchange_type", "routing_key", "delivery_mode", "priority")

#: Changing one of these changes how a task is sent.
_PLANNED = _CONFIGURED | {*_EXEC_OPTIONS, *_OWN_OPTIONS, "name", "typing", "ship", "run", "__header__", "shadow_name"}


class Recipe:
    """What ``@app.task`` was given, to make the same task again elsewhere."""

    __slots__ = ("base", "bind", "function", "options")

    def __init__(self, function: Any, *, base: Any, bind: bool, options: dict[str, Any]) -> None:
        self.function = function
        self.base = base
        self.bind = bind
        self.options = options

    def is_like(self, other: Recipe | None) -> bool:
        """Whether the same task comes of both."""
        if other is None:
            return False
        mine, others = (self.base, self.bind, self.options), (other.base, other.bind, other.options)
        return self.function is other.function and mine == others


class _Configured:
    """An attribute whose value is a setting's until somebody sets it on a task or a task class."""

    __slots__ = ("setting",)

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __get__(self, task: Any, owner: type) -> Any:
        return None if task is None else task.app.conf[self.setting]


def _reprtask(task: Any, fmt: str | None = None, flags: str | None = None) -> str:
    """What a task's repr says."""
    app = task._app
    flags = flags or ("v2 compatible" if task.__v2_compat__ else "")
    flags = f" ({flags})" if flags else ""
    if fmt is None:
        fmt = "<@task: {0.name} of {app}{flags}>" if app is not None else "<unbound {0.name}{flags}>"
    return fmt.format(task, app="" if app is None else appstr(app), flags=flags)


class _App:
    """The task's app, or else its class's, or else the current one."""

    def __get__(self, task: Any, owner: Any) -> Any:
        app = (owner if task is None else task)._app
        return app if app is not None else _state.get_current_app()

    def __set__(self, task: Any, app: Any) -> None:
        task.bind(app)


class _of_class_or_instance:
    """A method that is called on the class or on an instance, and given that."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, task: Any, owner: Any) -> Any:
        return MethodType(self._function, owner if task is None else task)


class _RequestStack:
    """A task's requests, as third parties push and pop them."""

    def __init__(self, task: Any) -> None:
        self._task = task

    @property
    def top(self) -> Context | None:
        frame = frame_of(self._task)
        return None if frame is None else frame.request

    def push(self, request: Context) -> None:
        _state.push(Frame(self._task, request=request, running=False))

    def pop(self) -> Context | None:
        frame = _state.pop()
        return None if frame is None else frame.request


class Task(_Typed["P", "R"]):
    """A task of an app.

    Functions become tasks by ``@app.task``; a class with a ``run`` method by ``app.register_task``. One instance serves
    all runs of a process; what belongs to one run is in ``request``.

    Arguments of ``@app.task`` are attributes here: what follows is what each is unless it is set.
    """

    #: Set where the task's function is wrapped for it.
    __trace__: Any = None
    __header__: Any = None
    __v2_compat__ = False

    name: Any = None
    #: Whether arguments are checked against the function's signature when the task is sent.
    typing: bool | None = None
    max_retries: int | None = 3
    #: Seconds.
    default_retry_delay: float = 180
    #: Whether results of tasks that this one calls are kept as its children.
    trail = True
    send_events = True
    #: Exceptions that are no surprise: logged without a traceback.
    throws: tuple[type[BaseException], ...] = ()
    expires: Any = None
    queue: Any = None
    exchange: Any = None
    routing_key: Any = None
    delivery_mode: Any = None
    resultrepr_maxsize = 1024
    #: Of calls with the same key only one waits or runs at a time; the others end as REVOKED. A text, a function of the
    #: arguments, or True: one made of name and arguments. Needs a node.
    unique_key: str | bool | Callable[..., str] | None = None
    #: For so many seconds after a call the key is taken in any case.
    unique_for: float | None = None
    abstract = True
    #: How often it may start over all workers of the node, as in "10/m"; ``rate_limit`` is for each worker.
    global_rate_limit: Any = None
    #: Whether the function may travel to workers that can't import it; None asks the setting ``ship_callables``.
    ship: bool | None = None

    Request = "zerocelery.worker.request:Request"
    Strategy = "zerocelery.worker.strategy:default"
    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError: Any

    from_config = _FROM_CONFIG

    serializer: Any
    rate_limit: Any
    priority: Any
    time_limit: Any
    soft_time_limit: Any
    track_started: Any
    acks_late: Any
    acks_on_failure_or_timeout: Any
    acks_on_failure: Any
    acks_on_timeout: Any
    reject_on_worker_lost: Any
    retry_on_worker_lost: Any
    ignore_result: Any
    store_eager_result: Any
    store_errors_even_if_ignored: Any
    compression: Any

    _app: Celery | None = None
    _backend: Any = None
    _plan: Any = None
    _default_request: Context | None = None
    _decorated_fun: Any = None
    _recipe: Recipe | None = None
    #: The pydantic models among the function's parameters.
    _models: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _CONFIGURED.intersection(cls.__dict__):
            if cls.__dict__[name] is None:
                # None says "as the settings do"
                delattr(cls, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PLANNED:
            self.__dict__["_plan"] = None
            if value is None and name in _CONFIGURED:
                self.__dict__.pop(name, None)
                return
        object.__setattr__(self, name, value)

    # ── app ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    if TYPE_CHECKING:
        app: Celery
    else:
        app = _App()

    @_of_class_or_instance
    def _get_app(self) -> Celery:
        return self.app

    @_of_class_or_instance
    def bind(self, app: Celery) -> Celery:
        """Make this a task of the app; of a task class, all of its instances."""
        self._app = app
        self._plan = None
        if self.typing is None:
            self.typing = app.strict_typing
        self.on_bound(app)
        if isinstance(self, type):
            self.annotate()
        return app

    @_of_class_or_instance
    def annotate(self) -> None:
        """Give the task what the setting ``task_annotations`` says of it."""
        annotations = self.app.annotations
        if not annotations:
            return
        from zerocelery.app.annotations import resolve_all

        for attributes in resolve_all(annotations, self):
            for name, value in attributes.items():
                if name.startswith("@"):
                    self.add_around(name[1:], value)
                else:
                    setattr(self, name, value)

    @_of_class_or_instance
    def add_around(self, attr: str, around: Any) -> None:
        """Wrap a method of the task, once: ``around`` is given the method and gives another."""
        kind = self if isinstance(self, type) else type(self)
        original = getattr(kind, attr)
        if getattr(original, "__around__", False):
            return
        wrapped = around(original)
        wrapped.__wrapped__ = original
        wrapped.__around__ = True
        setattr(kind, attr, wrapped)

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called when the task has got its app."""

    @property
    def backend(self) -> Any:
        """Where this task's results are kept."""
        return self._backend if self._backend is not None else self.app.backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    # ── calling ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, as a function.

        Where the task runs already (a class of its own calls this from its ``__call__``, or it calls itself), its
        request stays as it is, but for the arguments.
        """
        self.app.finalize(auto=True)
        outer = frame_of(self)
        if outer is None:
            frame = Frame(self, request=Context(args=args, kwargs=kwargs))
        else:
            fields = {**vars(outer.request), "args": args, "kwargs": kwargs, "_children": outer.request.children}
            frame = Frame(self, outer.source, request=Context(fields), followups=outer.followups)
        _state.push(frame)
        try:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            _state.pop()
            if outer is not None and frame.replaced:
                outer.replaced = True

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the task does."""
        raise NotImplementedError("Tasks must define the run method.")

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task with these arguments."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As :meth:`delay`, in a coroutine: the event loop goes on where sending has to wait."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """As :meth:`apply_async`, in a coroutine."""
        import asyncio

        return await asyncio.to_thread(self.apply_async, args, kwargs, **options)

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send the task.

        Arguments:
            args, kwargs: what to call it with.
            task_id: its id; a new one unless given.
            link, link_error: signatures to call when it has succeeded, or failed.
            shadow: the name to show in logs.
            countdown, eta: seconds from now, or the moment, before which it isn't run.
            expires: seconds from now, or the moment, after which it isn't run any more.
            queue, priority, serializer, compression, headers, ignore_result, time_limit, soft_time_limit, …: see the
                user guide; any other option is a property of the message.

        Raises:
            TypeError: the function doesn't take these arguments.
            ValueError: the soft time limit is above the hard one.
            kombu.exceptions.OperationalError: the node can't be reached, or refuses the task.
        """
        if link is None and link_error is None and shadow is None and not options:
            plan = self._plan
            if plan is None or plan.epoch != plan.app.epoch:
                plan = self._planned()
            if plan.usable and "send_task" not in plan.app.__dict__:
                result = plan.send(args or (), kwargs or {}, task_id)
                if result is not None:
                    return result  # type: ignore[no-any-return]
        return self._apply_async(args, kwargs, task_id, producer, link, link_error, shadow, options)

    def _planned(self) -> Plan:
        """How this task is sent, as things are now."""
        plan = self._plan
        if plan is None or plan.epoch != plan.app.epoch:
            self.app.finalize(auto=True)
            plan = self.app.sender.plan(self)
            self.__dict__["_plan"] = plan
        return plan  # type: ignore[no-any-return]

    def _apply_async(
        self,
        args: Any,
        kwargs: Any,
        task_id: str | None,
        producer: Any,
        link: Any,
        link_error: Any,
        shadow: str | None,
        options: dict[str, Any],
    ) -> AsyncResult[R]:
        plan = self._planned()
        if plan.check is not None:
            plan.check(*(args or ()), **(kwargs or {}))
        app = plan.app
        shadow = shadow or self.shadow_name(args, kwargs, options)
        options = {**plan.options, **options}
        if self._models is not None:
            args, kwargs = self._models.dumped(args, kwargs, options.get("serializer"))
        if plan.eager:
            return self._apply_eagerly(args, kwargs, task_id, link, link_error, options)  # type: ignore[no-any-return]
        options = {**_NO_OPTIONS, **options}
        return app.send_task(
            self.name,
            args,
            kwargs,
            task_id=task_id,
            producer=producer,
            link=link,
            link_error=link_error,
            result_cls=self.AsyncResult,
            shadow=shadow,
            task_type=self,
            **options,
        )

    def _apply_eagerly(
        self, args: Any, kwargs: Any, task_id: str | None, link: Any, link_error: Any, options: dict[str, Any]
    ) -> Any:
        """Run here what would have been sent, with arguments as a worker would have got them."""
        from zerocelery.app import codec
        from zerocelery.result import denied_join_result

        serializer = options.get("serializer") or self.app.conf["task_serializer"]
        content_type, encoding, data = codec.dumps((args, kwargs), serializer)
        args, kwargs = codec.loads(data, content_type, encoding, frozenset({content_type}))
        with denied_join_result():
            return self.apply(args, kwargs, task_id=task_id or uuid(), link=link, link_error=link_error, **options)

    def shadow_name(self, args: Any, kwargs: Any, options: dict[str, Any]) -> str | None:
        """The name to show in logs for this call; None for the task's own."""
        return None

    def _get_exec_options(self) -> dict[str, Any]:
        """The options that the task itself has."""
        return {
            name: value for name in (*_EXEC_OPTIONS, *_OWN_OPTIONS) if (value := getattr(self, name, None)) is not None
        }

    def apply(
        self,
        args: Any = None,
        kwargs: Any = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: Any = None,
        loglevel: Any = None,
        headers: Any = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the task here and now as a worker would; gives a finished result.

        Arguments:
            throw: raise the task's exception; ``task_eager_propagates`` unless given.
        """
        from zerocelery.app.eager import apply_eagerly

        call = {
            "link": link,
            "link_error": link_error,
            "task_id": task_id,
            "retries": retries,
            "throw": throw,
            "logfile": logfile,
            "loglevel": loglevel,
            "headers": headers,
        }
        return apply_eagerly(self, tuple(args or ()), kwargs or {}, call, options)

    # ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature[R]:
        """A call of this task as a value."""
        from zerocelery.canvas.signature import Signature

        self.app.finalize(auto=True)
        starkwargs.setdefault("app", self.app)
        return Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """``.s(*a, **k)`` is ``.signature(a, k)``."""
        return self.signature(args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """``.si(*a, **k)`` is ``.signature(a, k, immutable=True)``."""
        return self.signature(args, kwargs, immutable=True)

    def map(self, it: Any) -> xmap[R]:
        """One task that calls this one for each item."""
        from zerocelery.canvas.maps import xmap

        return xmap(self.s(), it, app=self.app)

    def starmap(self, it: Any) -> xstarmap[R]:
        """One task that calls this one for each item, which is a list of arguments."""
        from zerocelery.canvas.maps import xstarmap

        return xstarmap(self.s(), it, app=self.app)

    def chunks(self, it: Any, n: int) -> chunks[R]:
        """Tasks that call this one for n items each, which are lists of arguments."""
        from zerocelery.canvas.maps import chunks

        return chunks(self.s(), it, n, app=self.app)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Any = None,
        kwargs: Any = None,
        queue: Any = None,
        **extra_options: Any,
    ) -> Signature[R]:
        """The call that sends this request again, with other arguments or options where they are given."""
        request = self.request if request is None else request
        if args is not None or kwargs is not None:
            from zerocelery.app.again import arguments

            args, kwargs = arguments(self, (request.args, request.kwargs), args, kwargs)
        else:
            args, kwargs = request.args, request.kwargs
        options = {**request.as_execution_options(), "ignore_result": request.ignore_result, **extra_options}
        delivery = request.delivery_info or {}
        if queue:
            options["queue"] = queue
        else:
            # back to where it came from: routes may have changed, or the caller had chosen the place
            where = ("priority", "exchange", "routing_key") if delivery.get("exchange") else ("priority",)
            for name in where:
                if delivery.get(name) is not None:
                    options.setdefault(name, delivery[name])
        from zerocelery.canvas.signature import Signature

        return Signature(self, args, kwargs, options, app=self.app)

    subtask_from_request = signature_from_request

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The result of this task with that id."""
        return self.app.AsyncResult(task_id, backend=self.backend, task_name=self.name, **kwargs)

    # ── within a run ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def request(self) -> Context:
        """What is known of the call that runs now; outside of one, of a direct call."""
        frame = frames.get()
        if frame is not None and frame.task is not self:
            frame = frame_of(self)
        if frame is not None:
            return frame.request
        if self._default_request is None:
            self._default_request = Context()
        return self._default_request

    @property
    def request_stack(self) -> Any:
        """The requests of this task's runs in this context."""
        found = self.__dict__.get("_request_stack")
        if found is None:
            found = self.__dict__["_request_stack"] = _RequestStack(self)
        return found

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Make a request the current one of this task."""
        _state.push(Frame(self, request=Context(*args, **kwargs), running=False))

    def pop_request(self) -> None:
        """Undo push_request."""
        _state.pop()

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run this task again later: ``raise self.retry(exc=exc)``.

        The new message and the end of this run are one transaction where the task came from a node.

        Arguments:
            args, kwargs: other arguments for the next run.
            exc: what is raised when there have been enough retries.
            throw: raise Retry here; else return it.
            eta, countdown: when; ``default_retry_delay`` seconds from now unless given.
            max_retries: another limit for this call; None is the task's own.

        Raises:
            Retry: always, unless ``throw`` is false.
            MaxRetriesExceededError: there have been enough, and no exc is given.
        """
        request = self.request
        retries = request.retries + 1
        if max_retries is not None:
            self.__dict__["override_max_retries"] = max_retries
        limit = self.max_retries if max_retries is None else max_retries
        if request.called_directly:
            _raise_in_context(exc or Retry("Task can be retried", None))
        if not eta and countdown is None:
            countdown = self.default_retry_delay
        again = self.signature_from_request(
            request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options
        )
        if limit is not None and retries > limit:
            if exc is not None:
                _raise_in_context(exc)
            raise self.MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{again.args} kwargs:{again.kwargs}",
                task_args=again.args,
                task_kwargs=again.kwargs,
            )
        ret = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=again)
        if not request.is_eager:
            try:
                self.app.sender.retry(self, again)
            except Exception as error:
                raise Reject(error, requeue=False) from error
        if throw:
            raise ret
        return ret

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Tell everybody who watches a state of this run: ``update_state(state='PROGRESS', meta={…})``."""
        if task_id is None:
            task_id = self.request.id
        self.backend.store_result(task_id, meta, state, request=self.request, **kwargs)

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell everybody who watches how far this run is: ``self.progress(3, 10)``; they see ``result.progress``.

        May be called as often as one likes: it is told at most every 50 ms, and when all is done.

        Arguments:
            done, total: so much of so much, in whatever unit; without a total nobody knows how much there is.
        """
        request = self.request
        now = _monotonic()
        if now - getattr(request, "_progress_told", 0.0) < _PROGRESS_SECONDS and done != total:
            return
        request._progress_told = now  # type: ignore[attr-defined]
        self.update_state(state="PROGRESS", meta={"done": done, "total": total})

    def replace(self, sig: Signature) -> Any:
        """Let another call, or a canvas, take this task's place: ``return self.replace(sig)``.

        It gets this task's id, and with it whoever waits for the result, its callbacks and errbacks, its place in
        a chord and the rest of its chain. A group is replaced by the list of its results.

        Raises:
            Ignore: always, where a worker runs this.
            ImproperlyConfigured: it is part of a chord, or an empty chain.
        """
        from zerocelery.canvas.replacing import replacement

        return self.on_replace(replacement(self, sig))

    def add_to_chord(self, sig: Signature, lazy: bool = False) -> Any:
        """Let the chord whose header this task is in wait for one more call, and send that.

        Arguments:
            lazy: give the call back instead of sending it.

        Raises:
            ValueError: this task is in no chord's header.
        """
        request = self.request
        if not request.chord:
            raise ValueError("Current task is not member of any chord")
        sig.set(group_id=request.group, chord=request.chord, root_id=request.root_id)
        result = sig.freeze(group_id=request.group, chord=request.chord, root_id=request.root_id)
        self.backend.add_to_chord(request.group, result)
        return sig.delay() if not lazy else sig

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> Any:
        """Send an event of one's own about this run: ``self.send_event('task-progress', done=3)``.

        Arguments:
            type_: the event's type, with a dash in it.
            retry, retry_policy: as for publishing tasks.
        """
        request = self.request
        if retry_policy is None:
            retry_policy = self.app.conf["task_publish_retry_policy"]
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            return dispatcher.send(type_, uuid=request.id, retry=retry, retry_policy=retry_policy, **fields)

    def start_strategy(self, app: Any, consumer: Any, **kwargs: Any) -> Any:
        """What is done with this task's messages, by Celery's consumer: the class named by ``Strategy`` decides."""
        from zerocelery.utils.imports import instantiate

        return instantiate(self.Strategy, self, app, consumer, **kwargs)

    def add_trail(self, result: Any) -> Any:
        """Count a result among this run's children."""
        if self.trail:
            self.request.children.append(result)
        return result

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before the task runs."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called by the worker when the task has returned; what this returns is ignored.

        Arguments:
            retval: what it returned.
            task_id, args, kwargs: of the call.
        """

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by the worker when the task is to run again.

        Arguments:
            exc: why.
            task_id, args, kwargs: of the call.
            einfo: ExceptionInfo of the exception, with the traceback.
        """

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by the worker when the task has raised, and won't be tried again.

        Arguments:
            exc: what it raised.
            task_id, args, kwargs: of the call.
            einfo: its ExceptionInfo, with the traceback.
        """

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called by the worker when the task has ended, in whatever way, after the other methods of this kind.

        Arguments:
            status: its state now.
            retval: what it returned, or raised.
            task_id, args, kwargs: of the call.
            einfo: ExceptionInfo where it raised; else None.
        """

    def on_replace(self, sig: Signature) -> Any:
        """Called when the task is replaced by another."""
        if self.request.is_eager:
            return sig.apply().get()
        frame = frame_of(self)
        if frame is None:
            sig.delay()
        else:
            with self.app.sender.following(frame):
                sig.delay()
            frame.replaced = True
        raise Ignore("Replaced by new task")

    # ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _get_current_object(self) -> Task[P, R]:
        """This very task: for code that takes it for a proxy."""
        return self

    @property
    def __name__(self) -> str:
        return type(self).__qualname__.rpartition(".")[2]

    def __repr__(self) -> str:
        return _reprtask(self)

    def __reduce__(self) -> Any:
        if _state.packing.get():
            from zerocelery.app.ship import by_value, is_importable

            if not is_importable(self):
                return by_value(self)
        module = type(self).__module__
        return _unpickle_task, (self.name, None if module == "zerocelery.app.task" else module)


for _name, _setting in _FROM_CONFIG:
    setattr(Task, _name, _Configured(_setting))


def _raise_in_context(error: BaseException) -> None:
    """Raise the exception that is being handled, where it is the same; else this one, from that."""
    current = sys.exc_info()[1]
    if current is None:
        raise error
    if current is error:
        raise current
    raise error from current


def task_class(app: Celery, base: type[Task[..., Any]] = Task) -> type[Task[..., Any]]:
    """The base of an app's tasks: ``app.Task``."""
    made: type[Task[..., Any]] = type("Task", (base,), {"_app": app, "__module__": base.__module__, "abstract": True})
    return made


def argument_check(function: Callable[..., Any], *, bound: bool) -> Callable[..., Any] | None:
    """A function that takes what the task's function takes, and does nothing: calling it is the check.

    Arguments:
        bound: the function's first parameter is the task.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    name_of_it = function.__name__ if function.__name__.isidentifier() else "task"
    flags, names = code.co_flags, code.co_varnames
    positional, keyword_only = code.co_argcount, code.co_kwonlyargcount
    defaults = len(getattr(function, "__defaults__", None) or ())
    keyword_defaults = getattr(function, "__kwdefaults__", None) or {}
    parts = [
        f"{name}=None" if place >= positional - defaults else name for place, name in enumerate(names[:positional])
    ]
    if code.co_posonlyargcount:
        parts.insert(code.co_posonlyargcount, "/")
    drop = 1 if bound and positional else 0
    if drop and code.co_posonlyargcount == 1:
        drop = 2  # nothing is left before the slash
    parts = parts[drop:]
    rest = positional + keyword_only
    if flags & 0x04:
        parts.append(f"*{names[rest]}")
        rest += 1
    elif keyword_only:
        parts.append("*")
    parts += [
        f"{name}=None" if name in keyword_defaults else name for name in names[positional : positional + keyword_only]
    ]
    if flags & 0x08:
        parts.append(f"**{names[rest]}")
    space: dict[str, Any] = {}
    exec(f"def {name_of_it}({', '.join(parts)}): pass", space)  # noqa: S102 - identifiers of compiled code
    return space[name_of_it]  # type: ignore[no-any-return]
