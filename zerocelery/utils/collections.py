"""Collections: mappings as objects, objects as mappings, buffers of bounded size."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from queue import Empty
from typing import Any

from zerocelery.utils.limited import LimitedSet
from zerocelery.utils.text import match_case

__all__ = (
    "AttributeDict",
    "AttributeDictMixin",
    "BufferMap",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "Evictable",
    "LimitedSet",
    "Messagebuffer",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
)


def force_mapping(m: Any) -> Any:
    """A mapping as it is; of any other object, one of its attributes."""
    from kombu.utils.functional import maybe_evaluate

    found = maybe_evaluate(m)  # type: ignore[no-untyped-call]
    return found if isinstance(found, Mapping) else DictAttribute(found)


def lpmerge(L: dict[Any, Any], R: Mapping[Any, Any]) -> dict[Any, Any]:
    """Put into the left what is not None in the right; gives the left."""
    L.update({key: value for key, value in R.items() if value is not None})
    return L


class AttributeDictMixin:
    """Items are attributes, too."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[str, Any], AttributeDictMixin):
    """A dict whose items are attributes, too."""


class DictAttribute:
    """An object's attributes as a mapping."""

    obj: Any = None

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and hasattr(self.obj, key)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or the default."""
        return getattr(self.obj, key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The attribute, which is set to the default if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def keys(self) -> Iterator[str]:
        """Names of the attributes."""
        return iter(self)

    def values(self) -> Iterator[Any]:
        """The attributes."""
        return (getattr(self.obj, key) for key in self)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and attributes."""
        return ((key, getattr(self.obj, key)) for key in self)

    iterkeys, itervalues, iteritems = keys, values, items


MutableMapping.register(DictAttribute)


class ChainMap(MutableMapping[str, Any]):
    """Mappings, of which the first that has a key answers; changes go to the first."""

    key_t: Callable[[str], str] | None = None
    changes: Any = None
    defaults: Any = None
    maps: Any = None
    _observers: Any = ()

    def __init__(self, *maps: Any, **kwargs: Any) -> None:
        all_maps = list(maps or [{}])
        self.__dict__.update(
            key_t=kwargs.get("key_t"), maps=all_maps, changes=all_maps[0], defaults=all_maps[1:], _observers=[]
        )

    def add_defaults(self, d: Any) -> None:
        """Put a mapping, or an object, right behind the changes."""
        layer = force_mapping(d)
        self.defaults.insert(0, layer)
        self.maps.insert(1, layer)

    def _key(self, key: str) -> str:
        return self.key_t(key) if self.key_t is not None else key

    def __missing__(self, key: str) -> Any:
        raise KeyError(key)

    def __getitem__(self, key: str) -> Any:
        name = self._key(key)
        for layer in self.maps:
            try:
                return layer[name]
            except KeyError:
                continue
        return self.__missing__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __delitem__(self, key: str) -> None:
        try:
            del self.changes[self._key(key)]
        except KeyError:
            raise KeyError(f"Key not found in first mapping: {key!r}") from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and any(self._key(key) in layer for layer in self.maps)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key for layer in reversed(self.maps) for key in layer))

    def __len__(self) -> int:
        return len(set().union(*self.maps))

    def __bool__(self) -> bool:
        return any(self.maps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.maps))})"

    def clear(self) -> None:
        """Take back all changes."""
        self.changes.clear()

    def pop(self, key: str, *default: Any) -> Any:
        """Take back a change; gives it."""
        try:
            return self.changes.pop(self._key(key), *default)
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def get(self, key: str, default: Any = None) -> Any:
        """What the first mapping has that has the key, or the default."""
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """What is there, or else the default, which is set."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change, and tell those who asked for it."""
        given = [dict(arg) for arg in args]  # which may be iterators
        self.changes.update(*given, **kwargs)
        for observer in self._observers:
            observer(*given, **kwargs)

    def bind_to(self, callback: Callable[..., object]) -> None:
        """Call this with what is updated, from now on."""
        self._observers.append(callback)

    @classmethod
    def fromkeys(cls, iterable: Iterable[str], *args: Any) -> ChainMap:
        """Keys with the same value."""
        return cls(dict.fromkeys(iterable, *args))

    def copy(self) -> ChainMap:
        """Another with its own changes, on the same defaults."""
        made = type(self)(self.maps[0].copy(), *self.maps[1:])
        made.__dict__["key_t"] = self.key_t
        return made

    __copy__ = copy


class ConfigurationView(ChainMap, AttributeDictMixin):
    """Settings: changes, and defaults beneath; items are attributes, too.

    Arguments:
        keys: functions that give another name for a key, which is looked for too.
        prefix: what may stand before a key.
    """

    def __init__(
        self,
        changes: Any,
        defaults: list[Any] | None = None,
        keys: Iterable[Callable[[str], str]] | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(changes, *(defaults or ()))
        self.__dict__.update(
            prefix=f"{prefix.rstrip('_')}_" if prefix else prefix, _keys=tuple(keys or ()), changes=changes
        )

    def copy(self) -> ConfigurationView:
        """Another with its own changes, on the same defaults."""
        made = type(self)(self.changes.copy(), list(self.defaults), keys=self._keys, prefix=self.prefix)
        made.__dict__["key_t"] = self.key_t
        return made

    __copy__ = copy

    def _to_keys(self, key: str) -> list[str]:
        """All names of a key."""
        given = self._key(key)
        with_prefix = []
        if self.prefix and not given.startswith(self.prefix):
            with_prefix = [match_case(f"{self.prefix}{given}", self.prefix)]
        names = [*with_prefix, given]
        others = [other(name) for name in names for other in self._keys]
        return list(dict.fromkeys([given, *with_prefix, *others]))

    def __getitem__(self, key: str) -> Any:
        names = self._to_keys(key)
        for layer in self.maps:
            for name in names:
                if name in layer:
                    return layer[name]
        if len(names) > 1 and self.prefix:
            raise KeyError(f"Key not found: {key!r} (with prefix: {self.prefix + key!r})")
        return self.__missing__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and any(name in layer for layer in self.maps for name in self._to_keys(key))

    def first(self, *keys: str) -> Any:
        """What is set of the first of these keys that has something."""
        return next((value for value in map(self.get, keys) if value is not None), None)

    def get(self, key: str, default: Any = None) -> Any:
        """What is set, or the default."""
        try:
            return self[key]
        except KeyError:
            return default

    def swap_with(self, other: ConfigurationView) -> None:
        """Become the other."""
        names = ("changes", "defaults", "key_t", "prefix", "maps", "_keys")
        self.__dict__.update({name: other.__dict__[name] for name in names})


class Evictable:
    """Something that can let go of its oldest items."""

    Empty = Empty

    def evict(self) -> None:
        """Let go of what is too much."""
        while self._evictcount > 0:
            try:
                self._pop_to_evict()
            except IndexError:
                raise self.Empty from None

    def _pop_to_evict(self) -> Any:
        raise NotImplementedError

    @property
    def _evictcount(self) -> int:
        raise NotImplementedError


class Messagebuffer(Evictable):
    """Items in order, of which the oldest go when there are more than ``maxsize``."""

    def __init__(self, maxsize: int | None, iterable: Iterable[Any] | None = None, deque: Any = deque) -> None:
        self.maxsize = maxsize
        self.data: Any = deque(iterable or ())

    def put(self, item: Any) -> None:
        """Add an item."""
        self.data.append(item)
        if self._evictcount > 0:
            self._pop_to_evict()

    def extend(self, it: Iterable[Any]) -> None:
        """Add items; what is too much by then goes at the next :meth:`evict`, and a bit at once."""
        items = list(it)
        self.data.extend(items)
        for _ in range(min(max(self._evictcount, 0), _EVICTED_AT_ONCE)):
            self._pop_to_evict()

    def take(self, *default: Any) -> Any:
        """Take the oldest item out.

        Raises:
            Empty: there is none, and no default.
        """
        try:
            return self.data.popleft()
        except IndexError:
            if default:
                return default[0]
            raise self.Empty from None

    def _pop_to_evict(self) -> Any:
        return self.take()

    @property
    def _evictcount(self) -> int:
        return len(self.data) - self.maxsize if self.maxsize else 0

    def __iter__(self) -> Iterator[Any]:
        while self.data:
            yield self.data.popleft()

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: object) -> bool:
        return item in self.data

    def __reversed__(self) -> Iterator[Any]:
        return iter(reversed(self.data))

    def __getitem__(self, index: int) -> Any:
        return self.data[index]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}/{self.maxsize}>"


#: How many items an addition of many lets go at most, so that it takes no longer than that.
_EVICTED_AT_ONCE = 100


class BufferMap(OrderedDict[Any, Any], Evictable):
    """Buffers by key, that hold no more than ``maxsize`` together; what goes is of the key longest not used.

    Arguments:
        bufmaxsize: how much one buffer holds.
    """

    Buffer = Messagebuffer
    maxsize: int | None = None
    total = 0
    bufmaxsize: int | None = None

    def __init__(self, maxsize: int | None, iterable: Any = None, bufmaxsize: int | None = 1000) -> None:
        super().__init__()
        self.maxsize = maxsize
        self.bufmaxsize = bufmaxsize
        if iterable:
            for key, items in dict(iterable).items():
                self[key] = self.Buffer(bufmaxsize, items)
        self.total = sum(len(buffer) for buffer in self.values())
        self.evict()

    def put(self, key: Any, item: Any) -> None:
        """Add an item to a key's buffer."""
        self.extend(key, [item])

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        """Add items to a key's buffer."""
        buffer = self.get(key)
        if buffer is None:
            buffer = self[key] = self.Buffer(self.bufmaxsize)
        before = len(buffer)
        buffer.extend(it)
        buffer.evict()
        self.total += len(buffer) - before
        self.move_to_end(key)
        self.evict()

    def take(self, key: Any, *default: Any) -> Any:
        """Take the oldest item out of a key's buffer.

        Raises:
            Empty: there is none, and no default.
        """
        buffer = self.get(key)
        if not buffer:
            if default:
                return default[0]
            raise self.Empty
        item = buffer.take()
        self.total -= 1
        if buffer:
            self.move_to_end(key)
        else:
            del self[key]
        return item

    def _LRUpop(self, *default: Any) -> Any:
        """Take the oldest item out of the buffer that was longest not used."""
        return self.take(next(iter(self)), *default)

    def _pop_to_evict(self) -> Any:
        for key in list(self):
            if self[key]:
                return self.take(key)
            del self[key]
        raise IndexError

    @property
    def _evictcount(self) -> int:
        return self.total - self.maxsize if self.maxsize else 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.total}/{self.maxsize}>"
