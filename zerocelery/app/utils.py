"""An app's settings, and apps by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping

from zerocelery.app.censor import filter_hidden_settings, sanitize_url
from zerocelery.app.defaults import DEFAULT_BROKER, DEFAULTS, TO_NEW, TO_OLD, find
from zerocelery.exceptions import ImproperlyConfigured
from zerocelery.utils.imports import qualname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zerocelery.app.base import Celery

__all__ = (
    "AppPickler",
    "Settings",
    "appstr",
    "bugreport",
    "filter_hidden_settings",
    "find_app",
    "sanitize_url",
)

_MISSING = object()

#: What the environment says beats everything else, assignments included.
_ENVIRONMENT = {
    "broker_url": "CELERY_BROKER_URL",
    "broker_read_url": "CELERY_BROKER_READ_URL",
    "broker_write_url": "CELERY_BROKER_WRITE_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
}

#: Where to look when a setting has no value of its own.
_FALLBACKS = {
    "broker_url": ("broker_host",),
    "broker_read_url": ("broker_url",),
    "broker_write_url": ("broker_url",),
    "task_default_exchange": ("task_default_queue",),
    "task_default_routing_key": ("task_default_queue",),
    "timezone": ("TIME_ZONE",),
}


def appstr(app: Celery) -> str:
    """The app in the repr of what belongs to it."""
    return f"{app.main or '__main__'} at {id(app):#x}"


class Settings(MutableMapping[str, "Any"]):
    """An app's settings: by attribute or by key, under today's names, the older ones or those with the prefix.

    What was set wins over what the configuration source says, that over ``add_defaults``, that over the table.

    Arguments:
        deprecated_settings: older names that were met.
        load: called before the first read; gives the source's mapping and the default mappings.
        changed: called after every change.
        prefix: the namespace of the source's names.
    """

    def __init__(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        deprecated_settings: set[str] | None = None,
        load: Callable[[], tuple[Mapping[str, Any], list[Mapping[str, Any]]]] | None = None,
        changed: Callable[[], None] | None = None,
        prefix: str | None = None,
    ) -> None:
        own = self.__dict__
        own["_load"] = load
        own["_changed"] = changed
        own["prefix"] = prefix
        own["source"] = {}
        own["added"] = []
        own["_defaults"] = {}
        own["deprecated_settings"] = deprecated_settings
        #: names as they were written, of what was set before the source was read
        own["_written"] = set(changes or ())
        #: what setdefault said before that
        own["_unless_set"] = {}
        own["changes"] = {self._today(key): value for key, value in (changes or {}).items()}

    # ── names ──

    def _today(self, key: str) -> str:
        """The setting's name of today."""
        if key in DEFAULTS:
            return key
        prefix = self.__dict__.get("prefix")
        if prefix:
            marker = prefix if prefix.endswith("_") else f"{prefix}_"
            if key.startswith(marker):
                rest = key[len(marker) :]
                name = rest.lower() if rest.isupper() else rest
                return TO_NEW.get(rest, name)
        return TO_NEW.get(key, key)

    def _prefixed(self, key: str) -> str | None:
        """For ``ONCE``, with the namespace CELERY: the name of what the source calls ``CELERY_ONCE``."""
        prefix = self.__dict__["prefix"]
        if not prefix or not key.isupper():
            return None
        return self._today(f"{prefix.rstrip('_')}_{key}")

    # ── loading ──

    def finalize(self) -> Settings:
        """Read the source now, unless that has happened."""
        own = self.__dict__
        load = own["_load"]
        if load is not None:
            own["_load"] = None
            try:
                source, added = load()
                self._take(source)
            except BaseException:
                own["_load"] = load
                raise
            own["added"].extend({self._today(k): v for k, v in layer.items()} for layer in added)
            for name, value in own["_unless_set"].items():
                if name not in own["source"]:
                    own["changes"].setdefault(name, value)
            own["_unless_set"].clear()
            told, own["_told"] = own.get("_told"), None
            if told is not None:
                told()
        return self

    def when_loaded(self, tell: Callable[[], Any]) -> None:
        """Call this when the coming load is done."""
        self.__dict__["_told"] = tell

    def reload(self, load: Callable[[], tuple[Mapping[str, Any], list[Mapping[str, Any]]]]) -> None:
        """Read the source anew at the next look."""
        self.__dict__["_load"] = load
        self._touch()

    def _take(self, source: Mapping[str, Any]) -> None:
        own = self.__dict__
        names = own["_written"] | set(source)
        if not own["prefix"]:
            _refuse_mixture(names)
        own["deprecated_settings"] = {key for key in names if key in TO_NEW}
        marker = f"{own['prefix'].rstrip('_')}_" if own["prefix"] else None
        # Of two that mean the same, the one with the prefix counts: the other may be somebody else's.
        ordered = sorted(source, key=lambda key: key.startswith(marker)) if marker else source
        own["source"] = {self._today(key): source[key] for key in ordered}

    def add_defaults(self, layer: Mapping[str, Any]) -> None:
        """Put a mapping between the source and the table."""
        self.__dict__["added"].insert(0, {self._today(key): value for key, value in layer.items()})
        self._touch()

    def _touch(self) -> None:
        changed = self.__dict__["_changed"]
        if changed is not None:
            changed()

    @property
    def defaults(self) -> list[Mapping[str, Any]]:
        """The mappings beneath the source, the table last."""
        return [*self.__dict__["added"], DEFAULTS]

    # ── reading ──

    def _layers(self) -> list[dict[str, Any]]:
        self.finalize()
        own = self.__dict__
        return [own["changes"], own["source"], *own["added"]]

    def _chosen(self, name: str) -> Any:
        """What somebody has set, or _MISSING."""
        for layer in self._layers():
            if name in layer:
                return layer[name]
        return _MISSING

    def __getitem__(self, key: str) -> Any:
        name = self._today(key)
        prefixed = self._prefixed(key)
        if prefixed is not None:
            value = self._chosen(prefixed)
            if value is not _MISSING:
                return value
        variable = _ENVIRONMENT.get(name)
        if variable is not None:
            said = os.environ.get(variable)
            if said:
                return said
        value = self._chosen(name)
        if value is _MISSING:
            value = self._default(name, key)
        if value is None:
            for other in _FALLBACKS.get(name, ()):
                value = self.get(other)
                if value is not None:
                    return value
        return value

    def _default(self, name: str, key: str) -> Any:
        defaults: dict[str, Any] = self.__dict__["_defaults"]
        if name in defaults:
            return defaults[name]
        if name not in DEFAULTS:
            raise KeyError(key)
        value = DEFAULTS[name]
        if isinstance(value, (dict, list)):
            # a dict that is changed in place belongs to this app
            value = defaults[name] = value.copy()
        return value

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {key!r}") from None

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        name = self._today(key)
        if name in DEFAULTS or self._chosen(name) is not _MISSING:
            return True
        prefixed = self._prefixed(key)
        return prefixed is not None and self._chosen(prefixed) is not _MISSING

    def __iter__(self) -> Iterator[str]:
        seen: dict[str, None] = {}
        for layer in (*self._layers(), DEFAULTS):
            seen.update(dict.fromkeys(layer))
        return iter(seen)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def first(self, *keys: str) -> Any:
        """The first of these settings that has a value."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def chosen(self, name: str) -> Any:
        """What somebody has set, under the setting's name of today; None where nobody has."""
        value = self._chosen(name)
        return None if value is _MISSING else value

    # ── writing ──

    def __setitem__(self, key: str, value: Any) -> None:
        own = self.__dict__
        name = self._today(key)
        own["changes"][name] = value
        if own["_load"] is not None:
            own["_written"].add(key)
        self._touch()
        watch = self.__dict__.get("_watches", {}).get(name)
        if watch is not None:
            watch()

    def watch(self, name: str, tell: Callable[[], Any]) -> None:
        """Call this after every change of a setting."""
        self.__dict__.setdefault("_watches", {})[name] = tell

    def __delitem__(self, key: str) -> None:
        del self.__dict__["changes"][self._today(key)]
        self._touch()

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Set it unless somebody has; gives what is set then. The source, where it isn't read yet, is left alone."""
        own = self.__dict__
        name = self._today(key)
        if own["_load"] is not None and name not in own["changes"]:
            return own["_unless_set"].setdefault(name, default)
        value = self._chosen(name)
        if value is not _MISSING:
            return value
        self[key] = default
        return default

    def clear(self) -> None:
        """Forget what was set by hand."""
        own = self.__dict__
        own["changes"].clear()
        own["_written"].clear()
        own["deprecated_settings"] = None
        self._touch()

    def replace(self, values: Mapping[str, Any]) -> None:
        """Let these be all that is set: the source is not read any more."""
        own = self.__dict__
        own.update(_load=None, source={}, added=[])
        self.clear()
        self.update(values)

    # ── showing ──

    def value_set_for(self, key: str) -> bool:
        """Whether somebody has set it."""
        return self._chosen(self._today(key)) is not _MISSING

    def without_defaults(self) -> Settings:
        """Only what somebody has set."""
        only = _Explicit()
        for layer in reversed(self._layers()):
            only.__dict__["changes"].update(layer)
        return only

    def find_option(self, name: str, namespace: str = "") -> Any:
        """Namespace, key and option of a setting that is named with or without its namespace."""
        return find(name, namespace)

    def get_by_parts(self, *parts: str) -> Any:
        """The setting whose name these are the parts of."""
        return self["_".join(part for part in parts if part)]

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """The value of the setting that find_option finds."""
        space, key, _ = self.find_option(name, namespace)
        return self.get_by_parts(space or "", key)

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """All settings as a dict, secrets starred out."""
        shown = self if with_defaults else self.without_defaults()
        pairs = {key: value for key, value in shown.items() if not key.startswith("_")}
        return filter_hidden_settings(pairs) if censored else pairs

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """All settings as text, one a line."""
        from pprint import pformat

        return "\n".join(
            f"{key}: {pformat(value, width=50)}" for key, value in self.table(with_defaults, censored).items()
        )

    def copy(self) -> Settings:
        """An independent copy, read already."""
        self.finalize()
        own = self.__dict__
        twin = Settings(own["changes"], prefix=own["prefix"], deprecated_settings=own["deprecated_settings"])
        twin.__dict__.update(source=dict(own["source"]), added=list(own["added"]))
        return twin

    __copy__ = copy

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__dict__['changes']!r}>"


class _Explicit(Settings):
    """Settings without the table."""

    def _default(self, name: str, key: str) -> Any:
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._chosen(self._today(key)) is not _MISSING

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["changes"])


def _refuse_mixture(source: set[str]) -> None:
    """Today's names or the older ones, but not both: one of the two is a mistake that nobody would see."""
    new = {key for key in source if key in DEFAULTS}
    old = {key for key in source if key in TO_NEW}
    if not new or not old:
        return
    into_old = len(old) > len(new)
    left, rename, style = (new, TO_OLD, "old") if into_old else (old, TO_NEW, "new")
    really = sorted(key for key in left if rename.get(key, key) not in source)
    if really:
        renames = "\n".join(f"{key:<36} -> {rename.get(key, key)}" for key in really)
        raise ImproperlyConfigured(
            f"the configuration mixes old and new setting names; most of it uses the {style} ones, so rename:\n\n"
            f"{renames}\n"
        )


def broker_url(conf: Settings) -> str:
    """Where tasks are sent: the node of this user unless a setting says otherwise."""
    url = conf["broker_write_url"]
    if isinstance(url, (list, tuple)):
        url = url[0] if url else None
    return str(url or DEFAULT_BROKER)


def find_app(app: Any, symbol_by_name: Any = None, imp: Any = None) -> Celery:
    """The app that ``-A`` means: ``module``, ``module:name``, ``package`` (then its ``celery`` module) or an app."""
    from zerocelery.app.base import Celery
    from zerocelery.utils.imports import import_from_cwd
    from zerocelery.utils.imports import symbol_by_name as by_name

    if isinstance(app, Celery):
        return app
    load = imp or import_from_cwd
    found = (symbol_by_name or by_name)(app, imp=load)
    if isinstance(found, Celery):
        return found
    if not hasattr(found, "__path__") and not hasattr(found, "__file__"):
        raise AttributeError(f"{app} is no Celery app")
    return _app_in_module(found, str(app), load)


def _app_in_module(module: Any, name: str, load: Callable[..., Any]) -> Celery:
    from zerocelery.app.base import Celery

    for attribute in ("app", "celery"):
        candidate = getattr(module, attribute, None)
        if isinstance(candidate, Celery):
            return candidate
    if getattr(module, "__path__", None):
        try:
            return find_app(f"{name}.celery", imp=load)
        except ModuleNotFoundError as error:
            if error.name != f"{name}.celery":
                raise
    for candidate in vars(module).values():
        if isinstance(candidate, Celery):
            return candidate
    raise AttributeError(f"module {name!r} has no attribute 'celery': there is no Celery app in it")


def _old_key_to_new(key: str) -> str:
    """A setting's name of today; for code that gives these to a ConfigurationView."""
    return TO_NEW.get(key, key)


def _new_key_to_old(key: str) -> str:
    """A setting's name of old."""
    return TO_OLD.get(key, key)


def bugreport(app: Celery) -> str:
    """What to put into a bug report about this app: versions, platform, transport and settings without secrets."""
    import platform
    from importlib import metadata

    import kombu

    from zerocelery import __version__
    from zerocelery._alias import CELERY_LEVEL

    conf = app.conf
    try:
        connection = app.connection()
        transport = connection.transport.driver_name
        driver = f"{transport}:{connection.transport.driver_version()}"
        if connection.transport_cls == "zmq":
            transport, driver = "zmq", ""  # its library is named in any case
    except Exception:
        # a broker that can't be had is no reason to have no report
        transport, driver = broker_url(conf).partition("://")[0], ""
    results = conf["result_backend"] or (broker_url(conf) if transport == "zmq" else "disabled")
    ours = f"celery:{CELERY_LEVEL} (zerocelery {__version__})"
    versions = f"{ours} kombu:{kombu.__version__} py:{platform.python_version()}"
    libraries = f"pyzmq:{metadata.version('pyzmq')} {driver}".rstrip()
    return (
        f"\nsoftware -> {versions}\n            {libraries}\n"
        f"platform -> system:{platform.system()} arch:{', '.join(part for part in platform.architecture() if part)}\n"
        f"            kernel version:{platform.release()} imp:{platform.python_implementation()}\n"
        f"loader   -> {qualname(type(app.loader))}\n"
        f"settings -> transport:{transport} results:{sanitize_url(results)}\n\n"
        f"{conf.humanize()}\n"
    )


class AppPickler:
    """Takes apart and makes apps whose class has ``__reduce_args__``."""

    def __call__(self, cls: Any, *args: Any) -> Any:
        keywords = self.build_kwargs(*args)
        app = self.construct(cls, **keywords)
        self.prepare(app, **keywords)
        return app

    def prepare(self, app: Celery, **kwargs: Any) -> None:
        """Called with the app that was made."""
        app.conf.update(kwargs["changes"])

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        """The constructor's keywords for what ``__reduce_args__`` gave."""
        return self.build_standard_kwargs(*args)

    def build_standard_kwargs(
        self, main: Any, changes: Any, loader: Any, backend: Any, amqp: Any, events: Any, log: Any, control: Any,
        accept_magic_kwargs: Any, config_source: Any = None, config_source_silent: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """The same, of the arguments that Celery's own apps have."""
        return {
            "main": main, "loader": loader, "backend": backend, "amqp": amqp, "changes": changes, "events": events,
            "log": log, "control": control, "set_as_current": False, "config_source": config_source,
            "config_source_silent": config_source_silent,
        }  # fmt: skip

    def construct(self, cls: Any, **kwargs: Any) -> Any:
        """The app."""
        return cls(**kwargs)


def _unpickle_app(cls: Any, pickler: Any, *args: Any) -> Any:
    """An app of what ``__reduce_args__`` gave."""
    return pickler()(cls, *args)


def _unpickle_app_v2(cls: Any, kwargs: dict[str, Any]) -> Any:
    """An app of what ``__reduce_keys__`` gave."""
    return cls(**{**kwargs, "set_as_current": False})
