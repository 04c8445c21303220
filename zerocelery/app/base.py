"""The app: tasks, settings and the connection that they share."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import defaultdict, deque
from functools import cached_property
from types import GenericAlias

from zerocelery import _state
from zerocelery._ids import uuid
from zerocelery._state import connect_on_app_finalize, set_default_app
from zerocelery.app.autoretry import add_autoretry_behaviour
from zerocelery.app.defaults import DEFAULT_BROKER
from zerocelery.app.pending import PendingConfiguration as PendingConfiguration
from zerocelery.app.registry import TaskRegistry
from zerocelery.app.task import _ROUTING, Recipe, Task, argument_check, task_class
from zerocelery.app.utils import AppPickler, Settings, _unpickle_app, _unpickle_app_v2, appstr
from zerocelery.exceptions import CDeprecationWarning, DuplicateTaskNameWarning, ImproperlyConfigured
from zerocelery.utils.dispatch import Signal
from zerocelery.utils.imports import gen_task_name, qualname, symbol_by_name
from zerocelery.utils.objects import FallbackContext
from zerocelery.utils.quorum_queues import detect_quorum_queues as detect_quorum_queues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any, Literal, ParamSpec, TypeVar, overload

    from zerocelery.app.client import NodeClient
    from zerocelery.app.sending import Sender
    from zerocelery.app.trace import AppStrategy
    from zerocelery.app.types import AsyncTask, BoundDecorator, Decorator
    from zerocelery.canvas.signature import Signature
    from zerocelery.result import AsyncResult, GroupResult, ResultSet

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")

__all__ = ("Celery",)

_UNSET: Any = object()

#: What an app does in a Django project; its module isn't imported where there is none.
_DJANGO = "zerocelery.fixups.django:fixup"

#: Whether this process was started anew by multiprocessing; for programs that look here.
USING_EXECV = bool(os.environ.get("FORKED_BY_MULTIPROCESSING"))


class Celery:
    """An application.

    Arguments:
        main: the name that tasks defined in ``__main__`` are given.
        broker: URL of the broker; ``zmq://``, this user's own node, unless given.
        backend: URL of the result backend; the broker's node unless given.
        include: modules that workers import.
        set_as_current: whether this thread's current app becomes this one.
        changes: settings; as are all further keyword arguments.
        config_source: as for :meth:`config_from_object`.
        task_cls: base class of the tasks.
        autofinalize: whether looking at the tasks finalises the app.
        strict_typing: whether arguments are checked when a task is sent.
    """

    #: Set by the alias for tools that look for the class by its place.
    task_cls: Any = Task
    loader_cls: Any = None
    registry_cls: Any = TaskRegistry
    amqp_cls: Any = "zerocelery.app.amqp:AMQP"
    events_cls: Any = "zerocelery.app.events:Events"
    log_cls: Any = "zerocelery.app.log:Logging"
    control_cls: Any = "zerocelery.app.control:Control"
    backend_cls: Any = None
    builtin_fixups: Any = frozenset({_DJANGO})

    IS_WINDOWS = os.name == "nt"
    IS_macOS = sys.platform == "darwin"

    __class_getitem__: Any = classmethod(GenericAlias)

    #: What makes an app of the arguments that a class of its own gives for it.
    Pickler: Any = AppPickler

    #: Sent when settings are about to be read.
    on_configure: Any = None

    def __init__(
        self,
        main: str | None = None,
        loader: Any = None,
        backend: Any = None,
        amqp: Any = None,
        events: Any = None,
        log: Any = None,
        control: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        broker: str | None = None,
        include: Any = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        fixups: Any = None,
        task_cls: Any = None,
        autofinalize: bool = True,
        namespace: str | None = None,
        strict_typing: bool = True,
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self.main = main
        self.loader_cls = loader or os.environ.get("CELERY_LOADER") or self.loader_cls or "app"
        self.amqp_cls = amqp or self.amqp_cls
        self.events_cls = events or self.events_cls
        self.log_cls = log or self.log_cls
        self.control_cls = control or self.control_cls
        #: Whether somebody has chosen the base class of the tasks.
        self._custom_task_cls_used = bool(task_cls) or type(self).task_cls is not Celery.task_cls
        self.task_cls = task_cls or self.task_cls
        self.set_as_current = set_as_current
        self.autofinalize = autofinalize
        self.strict_typing = strict_typing
        self.user_options: defaultdict[str, set[Any]] = defaultdict(set)
        self.steps: defaultdict[str, set[Any]] = defaultdict(set)
        self.fixups = set(self.builtin_fixups) if fixups is None else fixups

        self._using_v1_reduce = type(self).__reduce_args__ is not Celery.__reduce_args__
        #: Counts the changes after which everything that was prepared for sending is void.
        self.epoch = 0
        self.configured = False
        self.finalized = False
        self._finalize_mutex = threading.RLock()
        self._pending: deque[Task[..., Any]] = deque()
        self._tasks = tasks if isinstance(tasks, TaskRegistry) else self.registry_cls(tasks or {})
        self._task_base: Any = None
        #: The task_cls that the base was made of; None where somebody has set the base itself.
        self._task_base_of: Any = None
        self._made: dict[str, Any] = {}
        self._local = threading.local()
        self._warned: set[str] = set()

        self._config_source = config_source
        self._config_source_silent = config_source_silent
        self._pending_defaults: list[Any] = []
        self._pending_periodic_tasks: deque[tuple[str | None, str, dict[str, Any]]] = deque()
        given = {"broker_url": broker, "result_backend": backend, "include": include, **kwargs}
        self._conf = Settings(
            {**(changes or {}), **{key: value for key, value in given.items() if value is not None}},
            load=self._load_config,
            changed=self._changed,
            prefix=namespace,
        )
        # whatever the names of the source are: these have only one
        self._conf.__dict__["_written"] -= {"broker_url", "result_backend", "include"}

        if self.on_configure is None:
            self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal({"source"}, name="app.on_after_configure")
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")

        wanted = [one for one in self.fixups if one != _DJANGO or os.environ.get("DJANGO_SETTINGS_MODULE")]
        self._fixups = [done for one in wanted if (done := symbol_by_name(_ours(one))(self)) is not None]
        if set_as_current:
            self.set_current()
        self.on_init()
        _state._register_app(self)

    def on_init(self) -> None:
        """Called at the end of construction."""

    def set_current(self) -> None:
        """Make this the current app of this thread."""
        _state._set_current_app(self)

    def set_default(self) -> None:
        """Make this the current app of every thread that has no other."""
        set_default_app(self)

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    if TYPE_CHECKING:

        @overload
        def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
        @overload
        def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
        @overload
        def task(self, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
        @overload
        def task(self, *, bind: Literal[False] = False, **options: Any) -> Decorator: ...

    def task(self, *args: Any, **opts: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(bind=True, …)``.

        Arguments:
            name: the task's name; that of the module and the function unless given.
            bind: whether the task itself is the function's first argument.
            base: class of the task.
            shared: whether every other app has it too.
            lazy: whether the task is registered only when the app is finalised.
            serializer, max_retries, acks_late, …: attributes of the task.
        """
        if len(args) == 1:
            if not callable(args[0]):
                raise TypeError("argument 1 to @task() must be a callable")
            return self._decorate(args[0], **opts)
        if args:
            raise TypeError(f"@task() takes exactly 1 argument ({len(args) + len(opts)} given)")
        return lambda function: self._decorate(function, **opts)

    def _decorate(
        self, function: Any, shared: bool = True, filter: Any = None, lazy: bool = True, **options: Any
    ) -> Any:
        if getattr(function, "__name__", "") == "<lambda>" and "name" not in options:
            raise SyntaxError("a lambda has no name that a worker could find it by: app.task(name='…')(lambda …)")
        if shared:
            # a cell of a notebook that is run again takes the place of its former self
            key = function.__module__, getattr(function, "__qualname__", id(function)), options.get("name")
            connect_on_app_finalize(lambda app: app._take_shared(function, options), key=key)
        if not lazy or self.finalized:
            task = self._task_from_fun(function, **options)
            task.annotate()
        else:
            task = self._register(self._make_task(function, **options))
            self._pending.append(task)
        return filter(task) if filter else task

    def _task_from_fun(
        self, fun: Any, name: str | None = None, base: Any = None, bind: bool = False, **options: Any
    ) -> Any:
        """The registered task of a function: this one, or the one that has its name already."""
        if not self.finalized and not self.autofinalize:
            raise RuntimeError("Contract breach: app not finalized")
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        known = self._tasks.get(name)
        if known is not None and known._decorated_fun is fun:
            return known
        return self._register(self._make_task(fun, name=name, base=base, bind=bind, **options))

    def _take_shared(self, function: Any, options: dict[str, Any]) -> None:
        """Have a task that another app shares, unless there is one of its name."""
        name = options.get("name") or self.gen_task_name(function.__name__, function.__module__)
        if name not in self._tasks:
            self._task_from_fun(function, **options)

    def _make_task(
        self, fun: Any, name: str | None = None, base: Any = None, bind: bool = False, **options: Any
    ) -> Any:
        name = name or self.gen_task_name(fun.__name__, fun.__module__)
        recipe = Recipe(fun, base=base, bind=bind, options=options)
        task = self._task_class(name, recipe)()
        return self._adopt(task, options)

    def _models(self, name: str, recipe: Recipe) -> Any:
        """The pydantic models among a function's parameters; None unless the task was said to have some."""
        if not recipe.options.get("pydantic"):
            return None
        from zerocelery.app.models import Models

        said = {key: recipe.options.get(f"pydantic_{key}") for key in ("strict", "context", "dump_kwargs")}
        given = {key: value for key, value in said.items() if value is not None}
        return Models(self, recipe.function, name, bound=recipe.bind, **given)

    def _task_class(self, name: str, recipe: Recipe) -> type[Task[..., Any]]:
        """The class of one task that was a function."""
        function = recipe.function
        models = self._models(name, recipe)
        called = function if models is None else models.wrapped()
        run = called if recipe.bind else staticmethod(called)
        label = getattr(function, "__name__", name)
        attributes = {
            "name": name,
            "run": run,
            "_decorated": True,
            "_decorated_fun": staticmethod(function),
            "_recipe": recipe,
            "_models": models,
            "__doc__": getattr(function, "__doc__", None),
            "__module__": getattr(function, "__module__", None),
            "__qualname__": getattr(function, "__qualname__", label),
            "__annotations__": getattr(function, "__annotations__", {}),
            "__wrapped__": run,
            **{key: value for key, value in recipe.options.items() if not key.startswith("pydantic")},
        }
        if callable(attributes.get("unique_key")):
            attributes["unique_key"] = staticmethod(attributes["unique_key"])  # it gets the arguments, and no task
        return type(label, (recipe.base or self.Task,), attributes)

    def _adopt(self, task: Any, options: dict[str, Any]) -> Any:
        """Make an instance one of this app's tasks; it isn't registered by that."""
        recipe = task._recipe
        if recipe is not None:
            task.__header__ = self.type_checker(recipe.function, bound=recipe.bind)
        task.bind(self)
        add_autoretry_behaviour(task, **options)
        declared = options if recipe is not None else {**vars(type(task)), **options}
        for name in _ROUTING:
            if declared.get(name) is not None:
                warnings.warn(
                    CDeprecationWarning(
                        f"The {name!r} task attribute is deprecated and goes in version 6.0: set task_routes instead"
                    ),
                    stacklevel=_callers_level(),
                )
        return task

    def _register(self, task: Any) -> Any:
        known = self._tasks.get(task.name)
        if known is None or known is task:
            self._tasks[task.name] = task
            return task
        if _callable_of(known) is _callable_of(task):
            if self.finalized or known._recipe is None or known._recipe.is_like(task._recipe):
                return known
            self._tasks[task.name] = task
            return task
        if _is_redefinition(known, task):
            self._tasks[task.name] = task
            return task
        if known._decorated_fun is not None and not _are_built_in(known, task):
            self._warn_duplicate(known, task, "stays, and the latter is never run")
        return known

    def _warn_duplicate(self, known: Any, task: Any, consequence: str) -> None:
        if task.name in self._warned:
            return
        self._warned.add(task.name)
        warnings.warn(
            DuplicateTaskNameWarning(
                f"two callables are registered as task {task.name!r}: {_whereabouts(known)} and {_whereabouts(task)}; "
                f"the former {consequence}: give one of them a name of its own"
            ),
            stacklevel=_callers_level(),
        )

    if TYPE_CHECKING:

        @overload
        def register_task(self, task: type[T], **options: Any) -> T: ...
        @overload
        def register_task(self, task: T, **options: Any) -> T: ...

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register an instance of a task class (or the class), under its ``name``."""
        if isinstance(task, type):
            task = task()
        if not task.name:
            task.name = self.gen_task_name(type(task).__name__, type(task).__module__)
        known = self.tasks.get(task.name)
        if known is not None and known is not task and type(known) is not type(task):
            self._warn_duplicate(known, task, "is replaced by the latter")
        self.tasks[task.name] = task
        self._adopt(task, options)
        task.annotate()
        return task

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that was given none."""
        return gen_task_name(self, name, module)

    @property
    def tasks(self) -> TaskRegistry:
        """All tasks by name; finalises the app."""
        self.finalize(auto=True)
        return self._tasks

    def finalize(self, auto: bool = False) -> None:
        """Register what was decorated so far, and the tasks that are shared by all apps."""
        if self.finalized:
            return
        with self._finalize_mutex:
            if self.finalized:
                return
            if auto and not self.autofinalize:
                raise RuntimeError("Contract breach: app not finalized")
            self.finalized = True
            try:
                self._conf.finalize()
            except BaseException:
                self.finalized = False
                raise
            pending, self._pending = self._pending, deque()
            for task in pending:
                self._rebase(task)
                task.annotate()
            from zerocelery.app import builtins

            builtins.add_all(self)
            _state._announce_app_finalized(self)
            self.on_after_finalize.send(sender=self)

    def _rebase(self, task: Any) -> None:
        """Give a task that was made before ``app.Task`` was set the base that it is to have."""
        recipe = task._recipe
        if recipe is not None and recipe.base is None and not isinstance(task, self.Task):
            task.__class__ = self._task_class(task.name, recipe)
            self._adopt(task, recipe.options)

    @property
    def Task(self) -> Any:
        """Base class of this app's tasks."""
        if self._task_base is None or self._task_base_of not in (None, self.task_cls):
            self._task_base_of = self.task_cls
            self._task_base = self.create_task_cls()
        return self._task_base

    @Task.setter
    def Task(self, value: Any) -> None:
        self._task_base, self._task_base_of = value, None

    def create_task_cls(self) -> Any:
        """A new base class of this app's tasks."""
        return task_class(self, symbol_by_name(_ours(self.task_cls)))

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def send_task(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        expires: Any = _UNSET,
        publisher: Any = None,
        link: Any = None,
        link_error: Any = None,
        add_to_parent: bool = True,
        group_id: str | None = None,
        group_index: int | None = None,
        retries: int = 0,
        chord: Any = None,
        reply_to: str | None = None,
        time_limit: Any = _UNSET,
        soft_time_limit: Any = _UNSET,
        root_id: str | None = None,
        parent_id: str | None = None,
        route_name: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        task_type: Any = None,
        replaced_task_nesting: int = 0,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send a task by its name, which this process need not know.

        Takes what :meth:`Task.apply_async` takes; gives an AsyncResult.

        Arguments:
            name: the task's name, as the worker knows it.
            args, kwargs, countdown, eta, expires, link, link_error, queue, priority, …: as for ``Task.apply_async``.
            task_id: its id; a new one unless given.
            add_to_parent: whether the result is a child of the task that runs here, if one does.
            producer, connection: what sends it, where the broker isn't a node.

        Raises:
            kombu.exceptions.OperationalError: the node can't be reached, or refuses the task.
        """
        from zerocelery.app.sending import send_by_name

        call = {
            "countdown": countdown,
            "eta": eta,
            "task_id": task_id,
            "result_cls": result_cls,
            "link": link,
            "link_error": link_error,
            "add_to_parent": add_to_parent,
            "group_id": group_id,
            "group_index": group_index,
            "retries": retries,
            "chord": chord,
            "reply_to": reply_to,
            "root_id": root_id,
            "parent_id": parent_id,
            "route_name": route_name,
            "shadow": shadow,
            "chain": chain,
            "task_type": task_type,
            "replaced_task_nesting": replaced_task_nesting,
        }
        if router is not None:
            options = router.route(options, route_name or name, args, kwargs, task_type)
        given = {"producer": producer or publisher, "connection": connection, "router": router}
        call.update((key, value) for key, value in given.items() if value is not None)
        # None takes a task's own limit away, silence leaves it
        limits = {"expires": expires, "time_limit": time_limit, "soft_time_limit": soft_time_limit}
        call.update((key, value) for key, value in limits.items() if value is not _UNSET)
        return send_by_name(self, name, args, kwargs, {**options, **call})  # type: ignore[no-any-return]

    #: The method as it is here: where it was replaced, whoever did so sees every call.
    _sends_by_itself = send_task

    @property
    def sender(self) -> Sender:
        """What sends this app's tasks, as the settings are now."""
        found = self._made.get("sender")
        if found is None or found.epoch != self.epoch:
            from zerocelery.app.sending import Sender

            found = self._made["sender"] = Sender(self)
        return found

    @property
    def client(self) -> NodeClient:
        """The connection to this app's node; nothing is connected before it is used."""
        found = self._made.get("client")
        if found is None:
            from zerocelery.app.client import NodeClient

            with self._finalize_mutex:
                found = self._made.get("client") or NodeClient.of(self)
                self._made["client"] = found
        return found

    @property
    def has_node(self) -> bool:
        """Whether the broker is a node; looked up once, and again when a setting has changed."""
        known: tuple[int, bool] | None = self._made.get("has_node")
        if known is None or known[0] != self.epoch:
            from zerocelery.app.utils import broker_url
            from zerocelery.engine.address import is_node

            found = is_node(broker_url(self.conf))
            known = self._made["has_node"] = self.epoch, found  # the epoch of now: reading settings may change it
        return known[1]

    @property
    def backend(self) -> Any:
        """Where results are kept: one for each thread, unless the store's client may be shared."""
        found = self._made.get("backend")
        if found is not None and found[0] == self.epoch:
            return found[1]
        own: Any = getattr(self._local, "backend", None)
        if own is not None and own[0] == self.epoch:
            return own[1]
        from zerocelery.backends import backend_of

        made = backend_of(self)
        own = self.epoch, made  # in this order: reading the settings for the first time changes the epoch
        if getattr(own[1], "thread_safe", True) or self.conf.get("result_backend_thread_safe"):
            self._made["backend"] = own
        else:
            self._local.backend = own
        return own[1]

    @backend.setter
    def backend(self, backend: Any) -> None:
        # whoever sets it wants it whatever the settings say from now on
        self.conf  # noqa: B018 - read first: reading changes the epoch
        self._made["backend"] = self.epoch, backend

    @property
    def _backend(self) -> Any:
        """The backend, where this thread has asked for it; None where not."""
        for found in (self._made.get("backend"), getattr(self._local, "backend", None)):
            if found is not None and found[0] == self.epoch:
                return found[1]
        return None

    @_backend.deleter
    def _backend(self) -> None:
        self._made.pop("backend", None)
        self._local.backend = None

    @property
    def _backend_cache(self) -> Any:
        """The same, under the name by which people's tests put another in its place for a while."""
        return self._backend

    @_backend_cache.setter
    def _backend_cache(self, backend: Any) -> None:
        self.backend = backend

    @_backend_cache.deleter
    def _backend_cache(self) -> None:
        del self._backend

    # ── kombu's brokers ──────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def amqp(self) -> Any:
        """Queues, routes and messages for kombu's brokers."""
        return self._once("amqp", self.amqp_cls)

    @amqp.setter
    def amqp(self, value: Any) -> None:
        self._made["amqp"] = value

    @property
    def control(self) -> Any:
        """Remote control of workers."""
        return self._once("control", self.control_cls)

    @control.setter
    def control(self, value: Any) -> None:
        self._made["control"] = value

    @property
    def log(self) -> Any:
        """How workers and tasks log."""
        return self._once("log", self.log_cls)

    @log.setter
    def log(self, value: Any) -> None:
        self._made["log"] = value

    @property
    def annotations(self) -> Any:
        """What the setting ``task_annotations`` says of tasks."""
        said = self.conf["task_annotations"]
        if not said:
            return ()
        from zerocelery.app.annotations import prepare

        found = self._made.get("annotations")
        if found is None or found[0] is not said:
            found = self._made["annotations"] = said, prepare(said)
        return found[1]

    def _once(self, name: str, path: Any) -> Any:
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = self.instantiate(path, self)
        return found

    @staticmethod
    def instantiate(path: Any, *args: Any, **kwargs: Any) -> Any:
        """An instance of the class at a path."""
        return symbol_by_name(_ours(path))(*args, **kwargs)

    def select_queues(self, queues: Any = None) -> Any:
        """Let workers of this process consume from these queues only."""
        return self.amqp.queues.select(queues)

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection to consume with."""
        return self._connection(url or self.conf["broker_read_url"], **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection to publish with."""
        return self._connection(url or self.conf["broker_write_url"], **kwargs)

    def connection(
        self,
        hostname: str | None = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        ssl: Any = None,
        connect_timeout: float | None = None,
        transport: str | None = None,
        transport_options: Any = None,
        heartbeat: float | None = None,
        login_method: str | None = None,
        failover_strategy: Any = None,
        **kwargs: Any,
    ) -> Any:
        """A kombu connection to the broker; connected when it is used.

        Arguments:
            hostname: a host, or a URL; what is not given is the app's settings.
        """
        return self.connection_for_write(
            hostname, userid=userid, password=password, virtual_host=virtual_host, port=port, ssl=ssl,
            connect_timeout=connect_timeout, transport=transport, transport_options=transport_options,
            heartbeat=heartbeat, login_method=login_method, failover_strategy=failover_strategy, **kwargs,
        )  # fmt: skip

    broker_connection = connection

    def _connection(
        self,
        url: str | None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        ssl: Any = None,
        connect_timeout: float | None = None,
        transport: str | None = None,
        transport_options: Any = None,
        heartbeat: float | None = None,
        login_method: str | None = None,
        failover_strategy: Any = None,
        **kwargs: Any,
    ) -> Any:
        conf = self.conf
        url = url or conf["broker_url"] or DEFAULT_BROKER
        if isinstance(url, str) and url.startswith("zmq:"):
            from zerocelery.app import channel

            channel.register()
        return self.amqp.Connection(
            url,
            userid or conf["broker_user"],
            password or conf["broker_password"],
            virtual_host or conf["broker_vhost"],
            port or conf["broker_port"],
            transport=transport or conf["broker_transport"],
            ssl=self.either("broker_use_ssl", ssl),
            heartbeat=heartbeat or conf["broker_heartbeat"],
            login_method=login_method or conf["broker_login_method"],
            failover_strategy=failover_strategy or conf["broker_failover_strategy"],
            transport_options={**(conf["broker_transport_options"] or {}), **(transport_options or {})},
            connect_timeout=self.either("broker_connection_timeout", connect_timeout),
        )

    @property
    def pool(self) -> Any:
        """Connections to the broker, to be had for a while."""
        found = self._made.get("pool")
        if found is None:
            found = self._made["pool"] = self.connection_for_write().Pool(self.conf["broker_pool_limit"])
        return found

    @property
    def _pool(self) -> Any:
        """These connections, where somebody has asked for them; None where not."""
        return self._made.get("pool")

    @_pool.setter
    def _pool(self, pool: Any) -> None:
        self._made["pool"] = pool

    @property
    def producer_pool(self) -> Any:
        """Producers to be had for a while."""
        return self.amqp.producer_pool

    def connection_or_acquire(self, connection: Any = None, pool: bool = True, *_: Any, **__: Any) -> Any:
        """This connection, or else one from the pool: a context manager."""
        return FallbackContext(connection, self._acquire_connection, pool=pool)

    default_connection = connection_or_acquire

    def _acquire_connection(self, pool: bool = True) -> Any:
        if not pool:
            return self.connection_for_write()
        return self._acquired(self.pool, "connection", self.conf["broker_pool_acquire_timeout"])

    def producer_or_acquire(self, producer: Any = None) -> Any:
        """This producer, or else one from the pool: a context manager."""
        return FallbackContext(producer, self._acquire_producer, timeout=self.conf["broker_pool_acquire_timeout"])

    def _acquire_producer(self, timeout: float | None = None) -> Any:
        return self._acquired(self.producer_pool, "producer", timeout)

    def _acquired(self, pool: Any, what: str, timeout: float | None) -> Any:
        """One of a pool.

        Raises:
            kombu.exceptions.OperationalError: all were in use for as long as there is to wait.
        """
        from kombu.exceptions import LimitExceeded, OperationalError

        try:
            return pool.acquire(block=True, timeout=timeout)
        except LimitExceeded as error:
            raise OperationalError(
                f"no broker {what} was free within {timeout} seconds: all {self.conf['broker_pool_limit']} are in use; "
                "raise broker_pool_limit, or broker_pool_acquire_timeout"
            ) from error

    default_producer = producer_or_acquire

    @property
    def clock(self) -> Any:
        """The app's logical clock: it goes on with what is sent, and follows what comes in."""
        found = self._made.get("clock")
        if found is None:
            from kombu.clocks import LamportClock

            found = self._made["clock"] = LamportClock()
        return found

    @property
    def events(self) -> Any:
        """What happens to tasks and workers: ``Dispatcher``, ``Receiver``, ``State``."""
        found = self._made.get("events")
        if found is None:
            found = self._made["events"] = symbol_by_name(self.events_cls)(app=self)
        return found

    @events.setter
    def events(self, value: Any) -> None:
        self._made["events"] = value

    @property
    def _canvas(self) -> Any:
        from zerocelery import canvas

        return canvas

    @cached_property
    def AsyncResult(self) -> type[AsyncResult[Any]]:
        """Result class of this app: ``app.AsyncResult(task_id)``."""
        return self._bound("zerocelery.result:AsyncResult")  # type: ignore[no-any-return]

    @cached_property
    def ResultSet(self) -> type[ResultSet[Any]]:
        """Class of sets of this app's results."""
        return self._bound("zerocelery.result:ResultSet")  # type: ignore[no-any-return]

    @cached_property
    def GroupResult(self) -> type[GroupResult[Any]]:
        """Result class of this app's groups."""
        return self._bound("zerocelery.result:GroupResult")  # type: ignore[no-any-return]

    def _bound(self, path: str) -> Any:
        """A class of ours whose ``app`` is this one."""
        found = self._made.get(path)
        if found is None:
            found = self._made[path] = self.subclass_with_self(path)
        return found

    def subclass_with_self(
        self,
        Class: Any,
        name: str | None = None,
        attribute: str = "app",
        reverse: str | None = None,
        keep_reduce: bool = False,
        **attributes: Any,
    ) -> Any:
        """A subclass whose attribute is this app.

        Arguments:
            Class: the class, or its name.
            name: the subclass's; the class's own unless given.
            reverse: the app's attribute (with dots) that is the subclass: an instance is pickled as that, called with
                what the instance's ``__reduce_args__()`` gives.
            keep_reduce: instances are pickled as those of the class are, all the same.
            attributes: more of the subclass.
        """
        base = symbol_by_name(Class)
        own = {attribute: self, "__module__": base.__module__, "__doc__": base.__doc__, **attributes}
        if reverse is not None and not keep_reduce:
            own["__reduce__"] = lambda made: (_remade, (self, reverse, made.__reduce_args__()))
        return type(name or base.__name__, (base,), own)

    def type_checker(self, fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any] | None:
        """What checks the arguments of a task's calls: called with them, it raises TypeError where they don't fit.

        None where all arguments do.

        Arguments:
            bound: the function's first parameter is the task, which callers don't give.
        """
        return argument_check(fun, bound=bound)

    def strategy(self, *, hostname: str | None = None) -> AppStrategy:
        """What a worker of this app does with a task: an engine's strategy.

        Arguments:
            hostname: the worker's name.
        """
        from zerocelery.app.trace import AppStrategy

        return AppStrategy(self, hostname=hostname)

    def signature(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """A signature of this app."""
        from zerocelery.canvas.signature import signature

        kwargs["app"] = self
        return signature(*args, **kwargs)

    # ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def conf(self) -> Settings:
        """The settings, read from their source at the first look."""
        return self._conf

    @conf.setter
    def conf(self, values: Mapping[str, Any]) -> None:
        self._conf.replace(values)
        self.configured = True

    def _changed(self) -> None:
        self.epoch += 1

    def _load_config(self) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
        if isinstance(self.on_configure, Signal):
            self.on_configure.send(sender=self)
        else:
            self.on_configure()
        loader = self.loader
        if self._config_source and not loader.config_from_object(
            self._config_source, silent=self._config_source_silent
        ):
            loader._conf = {}
        self.configured = True
        added = [layer() for layer in self._pending_defaults]
        self._pending_defaults = []
        source = self.prepare_config(loader.conf)
        self.epoch += 1
        # receivers read settings, so they are told when there is something to read
        self._conf.when_loaded(self._loaded)
        return source, added

    def _loaded(self) -> None:
        while self._pending_periodic_tasks:
            self._enter_periodic_task(*self._pending_periodic_tasks.popleft())
        self.on_after_configure.send(sender=self, source=self._conf)

    def prepare_config(self, c: Any) -> Any:
        """Called with what the source says; what it returns is used."""
        return c

    @property
    def _preconf(self) -> dict[str, Any]:
        """What was set by hand, under the names of today."""
        return self._conf.__dict__["changes"]  # type: ignore[no-any-return]

    def config_from_cmdline(self, argv: Any, namespace: str = "celery") -> None:
        """Take settings from words such as ``worker_concurrency=8`` or ``.concurrency=8``; see the loader's parser."""
        self._conf.update(self.loader.cmdline_config_parser(argv, namespace))

    def setup_security(
        self,
        allowed_serializers: Any = None,
        key: str | None = None,
        key_password: Any = None,
        cert: str | None = None,
        store: str | None = None,
        digest: str = "sha256",
        serializer: str = "json",
    ) -> Any:
        """Sign messages and accept signed ones only; see :func:`zerocelery.security.setup_security`."""
        from zerocelery import security

        return security.setup_security(
            allowed_serializers, key, key_password, cert, store, digest, serializer, app=self
        )

    def add_defaults(self, fun: Any) -> None:
        """Settings beneath those of the source: a dict, or a function that returns one when it is needed."""
        layer = fun if callable(fun) else lambda: fun
        if self.configured:
            self._conf.add_defaults(layer())
        else:
            self._pending_defaults.append(layer)

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> Any:
        """Read settings from an object, or the module of this name, when they are first needed.

        Arguments:
            silent: whether a module that isn't there is no error.
            force: read now.
            namespace: what the names in it begin with, as ``CELERY`` in ``CELERY_TASK_ROUTES``.
        """
        self._config_source = obj
        self._config_source_silent = silent
        if namespace:
            self._conf.__dict__["prefix"] = namespace
        if force or self.configured:
            self._conf.reload(self._load_config)
        if force:
            self._conf.finalize()
            return bool(self.loader.conf)
        return None

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> Any:
        """Read settings from the module that an environment variable names.

        Arguments:
            variable_name: the variable.
            silent: an error is no error; returns False then.
            force: read them now, not at the first look at ``conf``.

        Raises:
            ImproperlyConfigured: the variable is not set.
        """
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"the environment variable {variable_name!r} is not set, and so there is no configuration: "
                "let it name a module"
            )
        return self.config_from_object(module, silent=silent, force=force or self.configured)

    @property
    def namespace(self) -> str | None:
        """What the names in the source begin with."""
        return self._conf.__dict__["prefix"]  # type: ignore[no-any-return]

    @property
    def loader(self) -> Any:
        """What reads settings and imports modules."""
        found = self._made.get("loader")
        if found is None:
            from zerocelery.loaders import get_loader_cls

            found = self._made["loader"] = get_loader_cls(self.loader_cls)(app=self)
        return found

    @loader.setter
    def loader(self, value: Any) -> None:
        self._made["loader"] = value

    def autodiscover_tasks(self, packages: Any = None, related_name: str | None = "tasks", force: bool = False) -> Any:
        """Import ``package.tasks`` of each of these packages, when a worker imports its modules.

        Arguments:
            packages: names, or a function that returns them; the fixups' (Django's apps) unless given.
            related_name: the module's name; None imports the packages themselves.
            force: import now.
        """
        if force:
            return self._autodiscover_tasks(packages, related_name)
        from zerocelery import signals

        signals.import_modules.connect(
            lambda **kwargs: self._autodiscover_tasks(packages, related_name), sender=self, weak=False
        )
        return None

    def _autodiscover_tasks(self, packages: Any, related_name: str | None, **kwargs: Any) -> Any:
        if packages:
            return self._autodiscover_tasks_from_names(packages, related_name)
        return self._autodiscover_tasks_from_fixups(related_name)

    def _autodiscover_tasks_from_names(self, packages: Any, related_name: str | None) -> Any:
        return self.loader.autodiscover_tasks(packages() if callable(packages) else packages, related_name)

    def _autodiscover_tasks_from_fixups(self, related_name: str | None) -> Any:
        names = [name for fixup in self._fixups for name in getattr(fixup, "autodiscover_tasks", list)()]
        return self._autodiscover_tasks_from_names(names, related_name=related_name)

    def add_periodic_task(
        self, schedule: Any, sig: Any, args: Any = (), kwargs: Any = None, name: str | None = None, **opts: Any
    ) -> str:
        """Have beat send a task again and again; gives the entry's key in ``beat_schedule``.

        Arguments:
            schedule: seconds, a timedelta, or a schedule.
            sig: a signature.
            args, kwargs: given to the signature, before and beside its own.
            name: the key, which must be unique; the call's repr unless given.
            opts: as for ``apply_async``.
        """
        call = sig.clone(args, kwargs)
        key = name or repr(call)
        options = {**call.options, **opts}
        entry = {
            "schedule": schedule, "task": call.task, "args": call.args, "kwargs": call.kwargs, "options": options,
        }  # fmt: skip
        if self.configured:
            self._enter_periodic_task(name, key, entry)
        else:
            self._pending_periodic_tasks.append((name, key, entry))
        return key

    def _enter_periodic_task(self, name: str | None, key: str, entry: dict[str, Any]) -> None:
        entries = self._conf.beat_schedule
        if name is None and key in entries:
            import logging

            logging.getLogger("celery.app.base").warning(
                "Periodic task key=%r shadowed a previous unnamed periodic task. "
                "Pass a name kwarg to add_periodic_task to silence this warning.",
                key,
            )
        self._conf.beat_schedule = {**entries, key: entry}

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def uses_utc_timezone(self) -> bool:
        """Whether times without a zone are UTC."""
        from zerocelery.utils.time import timezone

        return bool(self.timezone == timezone.utc)

    @property
    def timezone(self) -> Any:
        """The zone of times that name none."""
        from zerocelery.utils.time import timezone

        if "timezone" in self._made:
            return timezone.get_timezone(self._made["timezone"])
        conf = self.conf
        if not conf["timezone"]:
            return timezone.utc if conf["enable_utc"] else timezone.local
        return timezone.get_timezone(conf["timezone"])

    @timezone.setter
    def timezone(self, value: Any) -> None:
        self._made["timezone"] = value

    @timezone.deleter
    def timezone(self) -> None:
        self._made.pop("timezone", None)

    def now(self) -> Any:
        """The time in the app's zone."""
        from datetime import datetime, timezone

        return datetime.now(timezone.utc).astimezone(self.timezone)

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def current_task(self) -> Any:
        """The task that runs here."""
        return _state.get_current_task()

    @property
    def current_worker_task(self) -> Any:
        """The task that the worker started here."""
        return _state.get_current_worker_task()

    @property
    def oid(self) -> str:
        """This process's id of the app."""
        found = self._made.get("oid")
        if found is None:
            found = self._made["oid"] = uuid()
        return found

    @property
    def thread_oid(self) -> str:
        """This thread's id of the app: the name of its reply queue where the broker is kombu's."""
        found: str | None = getattr(self._local, "oid", None)
        if found is None:
            main = threading.current_thread() is threading.main_thread()
            found = self._local.oid = self.oid if main else uuid()
        return found

    def either(self, default_key: str, *defaults: Any) -> Any:
        """The first default that is given, or else a setting."""
        return next((value for value in defaults if value is not None), self.conf.get(default_key))

    def bugreport(self) -> str:
        """What to put into a bug report."""
        from zerocelery.app.utils import bugreport

        return bugreport(self)

    def start(self, argv: Any = None) -> Any:
        """Run the command line; gives its exit code.

        Arguments:
            argv: the command's words; those of this process unless given.
        """
        # the command line is above all of this: only its name is known here
        command_line: Any = symbol_by_name("zerocelery.bin.celery:celery")
        command_line.params[0].default = self
        try:
            return command_line.main(args=sys.argv[1:] if argv is None else argv, standalone_mode=False)
        finally:
            command_line.params[0].default = None

    def worker_main(self, argv: Any = None) -> Any:
        """Run a worker, as ``celery worker`` does.

        Arguments:
            argv: the command's words, ``worker`` among them; ``sys.argv`` unless given.

        Raises:
            ValueError: ``worker`` is not among them.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        if "worker" not in words:
            raise ValueError(
                "The worker sub-command must be specified in argv.\n"
                "Use app.start() to programmatically start other commands."
            )
        return self.start(words)

    @property
    def WorkController(self) -> Any:
        """Class of this app's workers, to be run in this process."""
        return self._bound("zerocelery.worker:WorkController")

    @property
    def Worker(self) -> Any:
        """Class of this app's workers, as the command line has them."""
        return self._bound("zerocelery.apps.worker:Worker")

    @property
    def Beat(self) -> Any:
        """Class of this app's beat, as the command line has it."""
        return self._bound("zerocelery.apps.beat:Beat")

    def close(self) -> None:
        """Send what is left, and let go of the node."""
        client = self._made.pop("client", None)
        if client is not None:
            client.close()
        backend: Any = getattr(self._local, "backend", None) or self._made.get("backend")
        if backend is not None and hasattr(backend[1], "close"):
            backend[1].close()
        pool = self._made.pop("pool", None)
        if pool is not None:
            pool.force_close_all()
            amqp = self._made.pop("amqp", None)
            if amqp is not None:
                amqp._producer_pool = None
        self.epoch += 1
        _state._deregister_app(self)

    def _after_fork(self) -> None:
        """In a child: the client has a new inbox, and messages a new origin."""
        self._finalize_mutex = threading.RLock()
        for name in ("oid", "pool", "amqp", "control"):
            self._made.pop(name, None)
        self._local = threading.local()
        self.epoch += 1
        if self.on_after_fork.receivers:
            self.on_after_fork.send(sender=self)

    def __enter__(self) -> Celery:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {appstr(self)}>"

    def __reduce__(self) -> Any:
        if _state.packing.get():
            return _state.get_current_app, ()
        if self._using_v1_reduce:
            return _unpickle_app, (type(self), self.Pickler, *self.__reduce_args__())
        return _unpickle_app_v2, (type(self), self.__reduce_keys__())

    def __reduce_args__(self) -> tuple[Any, ...]:
        """What an app is made of elsewhere, for classes that give less, or more, by a version of their own."""
        return (
            self.main, dict(self._conf.__dict__["changes"]), self.loader_cls, self.backend_cls, self.amqp_cls,
            self.events_cls, self.log_cls, self.control_cls, False, self._config_source, self._config_source_silent,
        )  # fmt: skip

    def __reduce_keys__(self) -> dict[str, Any]:
        """The keyword arguments that make the same app elsewhere."""
        return {
            "main": self.main,
            "changes": dict(self._conf.__dict__["changes"]),
            "loader": self.loader_cls,
            "amqp": self.amqp_cls,
            "events": self.events_cls,
            "log": self.log_cls,
            "control": self.control_cls,
            "fixups": self.fixups,
            "config_source": self._config_source,
            "config_source_silent": self._config_source_silent,
            "task_cls": self.task_cls,
            "namespace": self.namespace,
        }


def _remade(app: Celery, attribute: str, args: tuple[Any, ...]) -> Any:
    """An instance of a class that is the app's, as it was pickled."""
    from operator import attrgetter

    return attrgetter(attribute)(app)(*args)


def _ours(path: Any) -> Any:
    """Celery's path of a class as it is here."""
    return f"zero{path}" if isinstance(path, str) and path.startswith("celery.") else path


def _is_redefinition(known: Any, task: Any) -> bool:
    """Whether a task is a newer version of another: a cell of a notebook run again, a module reloaded."""
    old, new = known._decorated_fun, task._decorated_fun
    if old is None or new is None:
        return False
    name = getattr(new, "__qualname__", None)
    if name is None or (old.__module__, getattr(old, "__qualname__", None)) != (new.__module__, name):
        return False
    if new.__module__ == "__main__":
        return True
    return getattr(old, "__globals__", 0) is getattr(new, "__globals__", 1) and "<locals>" not in name


def _are_built_in(known: Any, task: Any) -> bool:
    """Whether both are the same one of our own tasks, of two apps that share a registry."""
    return all(getattr(one._decorated_fun, "__module__", "") == "zerocelery.app.builtins" for one in (known, task))


def _callable_of(task: Any) -> Any:
    """What a task runs, as its author wrote it."""
    return task._decorated_fun or type(task)


def _whereabouts(task: Any) -> str:
    return qualname(_callable_of(task))


def _callers_level() -> int:
    """The stack level, for a warning from the function that calls this, of the first frame beyond this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("zerocelery."):
        level, frame = level + 1, frame.f_back
    return level
