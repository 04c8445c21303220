"""The app: tasks, settings and the connection that they share."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections import defaultdict, deque

from zerocelery import _state
from zerocelery._ids import uuid
from zerocelery.app.autoretry import add_autoretry_behaviour
from zerocelery.app.registry import TaskRegistry
from zerocelery.app.task import Recipe, Task, argument_check, task_class
from zerocelery.app.utils import Settings, appstr
from zerocelery.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured
from zerocelery.utils.dispatch import Signal
from zerocelery.utils.imports import gen_task_name, qualname, symbol_by_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Concatenate, ParamSpec, TypeVar, overload

    from zerocelery.app.client import NodeClient
    from zerocelery.app.sending import Sender
    from zerocelery.app.trace import AppStrategy

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = ("Celery",)

_UNSET: Any = object()


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
    builtin_fixups: frozenset[str] = frozenset()

    IS_WINDOWS = os.name == "nt"

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
        self.task_cls = task_cls or self.task_cls
        self.set_as_current = set_as_current
        self.autofinalize = autofinalize
        self.strict_typing = strict_typing
        self.user_options: defaultdict[str, set[Any]] = defaultdict(set)
        self.steps: defaultdict[str, set[Any]] = defaultdict(set)
        self.fixups = set(self.builtin_fixups) if fixups is None else fixups

        #: Counts the changes after which everything that was prepared for sending is void.
        self.epoch = 0
        self.configured = False
        self.finalized = False
        self._finalize_mutex = threading.RLock()
        self._pending: deque[Task[..., Any]] = deque()
        self._tasks = tasks if isinstance(tasks, TaskRegistry) else self.registry_cls(tasks or {})
        self._task_base: Any = None
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

        if self.on_configure is None:
            self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal({"source"}, name="app.on_after_configure")
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        self.on_after_fork = Signal(name="app.on_after_fork")

        self._fixups = [symbol_by_name(fixup)(self) for fixup in self.fixups]
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
        _state.set_default_app(self)

    # ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    if TYPE_CHECKING:

        @overload
        def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
        @overload
        def task(self, *, bind: bool, **options: Any) -> Callable[[Callable[Concatenate[Any, P], R]], Task[P, R]]: ...
        @overload
        def task(self, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...

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
            _state.connect_on_app_finalize(lambda app: app._take_shared(function, options), key=key)
        if not lazy or self.finalized:
            task = self._task_from_fun(function, **options)
        else:
            task = self._make_task(function, **options)
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
        task = self._task_class(name, Recipe(fun, base=base, bind=bind, options=options))()
        return self._adopt(task, options)

    def _task_class(self, name: str, recipe: Recipe) -> type[Task[..., Any]]:
        """The class of one task that was a function."""
        function = recipe.function
        run = function if recipe.bind else staticmethod(function)
        label = getattr(function, "__name__", name)
        attributes = {
            "name": name,
            "run": run,
            "_decorated": True,
            "_decorated_fun": staticmethod(function),
            "_recipe": recipe,
            "__doc__": getattr(function, "__doc__", None),
            "__module__": getattr(function, "__module__", None),
            "__qualname__": getattr(function, "__qualname__", label),
            "__annotations__": getattr(function, "__annotations__", {}),
            "__wrapped__": run,
            **recipe.options,
        }
        return type(label, (recipe.base or self.Task,), attributes)

    def _adopt(self, task: Any, options: dict[str, Any]) -> Any:
        """Make an instance one of this app's tasks; it isn't registered by that."""
        recipe = task._recipe
        if recipe is not None:
            task.__header__ = argument_check(recipe.function, bound=recipe.bind)
        task.bind(self)
        add_autoretry_behaviour(task, **options)
        return task

    def _register(self, task: Any) -> Any:
        known = self._tasks.get(task.name)
        if known is None or known is task:
            self._tasks[task.name] = task
            return task
        if known._decorated_fun is task._decorated_fun:
            return known
        if _is_redefinition(known, task):
            self._tasks[task.name] = task
            return task
        self._warn_duplicate(known, task)
        return known

    def _warn_duplicate(self, known: Any, task: Any) -> None:
        if task.name in self._warned:
            return
        self._warned.add(task.name)
        warnings.warn(
            DuplicateTaskNameWarning(
                f"two callables are registered as task {task.name!r}: {qualname(known._decorated_fun or known)} stays, "
                f"and {qualname(task._decorated_fun or task)} is never run; give one of them a name of its own"
            ),
            stacklevel=2,
        )

    def register_task(self, task: Any, **options: Any) -> Any:
        """Register an instance of a task class (or the class), under its ``name``."""
        if isinstance(task, type):
            task = task()
        if not task.name:
            task.name = self.gen_task_name(type(task).__name__, type(task).__module__)
        self.tasks[task.name] = task
        return self._adopt(task, options)

    def gen_task_name(self, name: str, module: str) -> str:
        """The name of a task that was given none."""
        return gen_task_name(self, name, module)

    @property
    def tasks(self) -> Any:
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
            pending, self._pending = self._pending, deque()
            for task in pending:
                self._rebase(task)
                self._register(task)
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
        if self._task_base is None:
            self._task_base = task_class(self, symbol_by_name(self.task_cls))
        return self._task_base

    @Task.setter
    def Task(self, value: Any) -> None:
        self._task_base = value

    def create_task_cls(self) -> Any:
        """A new base class of this app's tasks."""
        return task_class(self, symbol_by_name(self.task_cls))

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
    ) -> Any:
        """Send a task by its name, which this process need not know.

        Takes what :meth:`Task.apply_async` takes; gives an AsyncResult.

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
        # None takes a task's own limit away, silence leaves it
        limits = {"expires": expires, "time_limit": time_limit, "soft_time_limit": soft_time_limit}
        call.update((key, value) for key, value in limits.items() if value is not _UNSET)
        return send_by_name(self, name, args, kwargs, {**options, **call})

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
        """Whether the broker is a node."""
        from zerocelery.app.client import is_node
        from zerocelery.app.utils import broker_url

        return is_node(broker_url(self.conf))

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

    @control.setter
    def control(self, value: Any) -> None:
        self._made["control"] = value

    def _once(self, name: str, path: Any) -> Any:
        found = self._made.get(name)
        if found is None:
            found = self._made[name] = self.instantiate(path, self)
        return found

    @staticmethod
    def instantiate(path: Any, *args: Any, **kwargs: Any) -> Any:
        """An instance of the class at a path."""
        if isinstance(path, str) and path.startswith("celery."):
            path = f"zero{path}"
        return symbol_by_name(path)(*args, **kwargs)

    def select_queues(self, queues: Any = None) -> Any:
        """Let workers of this process consume from these queues only."""
        return self.amqp.queues.select(queues)

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection to consume with."""
        return self._connection(url or self.conf["broker_read_url"], **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection to publish with."""
        return self._connection(url or self.conf["broker_write_url"], **kwargs)

    def connection(self, hostname: str | None = None, **kwargs: Any) -> Any:
        """A kombu connection to the broker; connected when it is used."""
        return self.connection_for_write(hostname, **kwargs)

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
        return self.amqp.Connection(
            url or conf["broker_url"],
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
    def producer_pool(self) -> Any:
        """Producers to be had for a while."""
        return self.amqp.producer_pool

    def connection_or_acquire(self, connection: Any = None, pool: bool = True, *_: Any, **__: Any) -> Any:
        """This connection, or else one from the pool: a context manager."""
        return _given_or(connection, lambda: self.pool.acquire(block=True) if pool else self.connection_for_write())

    default_connection = connection_or_acquire

    def producer_or_acquire(self, producer: Any = None) -> Any:
        """This producer, or else one from the pool: a context manager."""
        return _given_or(producer, lambda: self.producer_pool.acquire(block=True))

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
    def AsyncResult(self) -> Any:
        """Result class of this app: ``app.AsyncResult(task_id)``."""
        return self._bound("zerocelery.result:AsyncResult")

    @property
    def ResultSet(self) -> Any:
        """Class of sets of this app's results."""
        return self._bound("zerocelery.result:ResultSet")

    @property
    def GroupResult(self) -> Any:
        """Result class of this app's groups."""
        return self._bound("zerocelery.result:GroupResult")

    def _bound(self, path: str) -> Any:
        """A class of ours whose ``app`` is this one."""
        found = self._made.get(path)
        if found is None:
            found = self._made[path] = self.subclass_with_self(path)
        return found

    def subclass_with_self(
        self, Class: Any, name: str | None = None, attribute: str = "app", keep_reduce: bool = True, **attributes: Any
    ) -> Any:
        """A subclass whose attribute is this app."""
        base = symbol_by_name(Class)
        own = {attribute: self, "__module__": base.__module__, "__doc__": base.__doc__, **attributes}
        return type(name or base.__name__, (base,), own)

    def strategy(self, *, hostname: str | None = None) -> AppStrategy:
        """What a worker of this app does with a task: an engine's strategy.

        Arguments:
            hostname: the worker's name.
        """
        from zerocelery.app.trace import AppStrategy

        return AppStrategy(self, hostname=hostname)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
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
        self._conf.clear()
        self._conf.update(values)

    def _changed(self) -> None:
        self.epoch += 1

    def _load_config(self) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
        if isinstance(self.on_configure, Signal):
            self.on_configure.send(sender=self)
        else:
            self.on_configure()
        loader = self.loader
        if self._config_source:
            loader.config_from_object(self._config_source, silent=self._config_source_silent)
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
            return self._conf.finalize()
        return None

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> Any:
        """Read settings from the module that an environment variable names."""
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(
                f"the environment variable {variable_name!r} is not set, and so there is no configuration: "
                "let it name a module"
            )
        return self.config_from_object(module, silent=silent, force=force)

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
            return self._autodiscover(packages, related_name)
        from zerocelery import signals

        signals.import_modules.connect(
            lambda **kwargs: self._autodiscover(packages, related_name), sender=self, weak=False
        )
        return None

    def _autodiscover(self, packages: Any, related_name: str | None) -> Any:
        if packages is None:
            packages = [name for fixup in self._fixups for name in getattr(fixup, "autodiscover_tasks", list)()]
        elif callable(packages):
            packages = packages()
        return self.loader.autodiscover_tasks(packages, related_name)

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
        return str(self.conf["timezone"] or "UTC").upper() == "UTC" if self.conf["enable_utc"] else False

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
        import platform

        from zerocelery import __version__

        software = f"software -> zerocelery:{__version__} py:{platform.python_version()}"
        where = f"platform -> system:{platform.system()} arch:{platform.machine()}"
        return f"\n{software}\n{where}\n{self.conf.humanize()}\n"

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
        return _rebuild, (type(self), self.__reduce_keys__())

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


@contextlib.contextmanager
def _given_or(given: Any, make: Callable[[], Any]) -> Iterator[Any]:
    """What is given is somebody else's; what is made is let go."""
    if given is not None:
        yield given
        return
    with make() as made:
        yield made


def _rebuild(cls: type[Celery], keywords: dict[str, Any]) -> Celery:
    return cls(set_as_current=False, **keywords)


def _is_redefinition(known: Any, task: Any) -> bool:
    """Whether a task is a newer version of another: a cell of a notebook run again, a module reloaded."""
    old, new = known._decorated_fun, task._decorated_fun
    if old is None or new is None:
        return False
    if (old.__module__, old.__qualname__) != (new.__module__, new.__qualname__):
        return False
    if new.__module__ == "__main__":
        return True
    return getattr(old, "__globals__", 0) is getattr(new, "__globals__", 1) and "<locals>" not in new.__qualname__
