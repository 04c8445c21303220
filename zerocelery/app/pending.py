"""Settings that are written before anybody reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ("PendingConfiguration",)


class PendingConfiguration(MutableMapping[str, "Any"]):
    """Keeps what is set; the settings themselves are made when one is read.

    An app's own ``conf`` needs none: it reads its source at the first look by itself.

    Arguments:
        conf: where to keep what is set.
        callback: makes the settings, once.
    """

    def __init__(self, conf: MutableMapping[str, Any], callback: Callable[[], MutableMapping[str, Any]]) -> None:
        object.__setattr__(self, "_set", conf)
        object.__setattr__(self, "callback", callback)
        object.__setattr__(self, "_made", None)

    @property
    def data(self) -> MutableMapping[str, Any]:
        """The settings."""
        if self._made is None:
            object.__setattr__(self, "_made", self.callback())
        return self._made  # type: ignore[no-any-return]

    def _target(self) -> MutableMapping[str, Any]:
        """Where to write: what is made already, or what it will be made of."""
        return self._set if self._made is None else self._made  # type: ignore[no-any-return]

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._target()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._target()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no setting {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def clear(self) -> None:
        """Forget what was set."""
        self._target().clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several."""
        self._target().update(*args, **kwargs)

    def setdefault(self, *args: Any, **kwargs: Any) -> Any:
        """Set one that is not there."""
        return self._target().setdefault(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self.data)
