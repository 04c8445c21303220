"""Results as files of a directory, which may be shared between machines."""

from __future__ import annotations

import os
import time
from typing import Any

from zerocelery._ids import uuid
from zerocelery.backends.base import KeyValueStoreBackend, ensure_bytes
from zerocelery.exceptions import ImproperlyConfigured

__all__ = ("FilesystemBackend",)

E_NO_PATH_SET = "You need to configure a path for the file-system backend"
E_PATH_NON_CONFORMING_SCHEME = "A path for the file-system backend should conform to the file URI scheme"
E_PATH_INVALID = "The configured path for the file-system backend does not work correctly"


class FilesystemBackend(KeyValueStoreBackend):
    """Results as files: ``file:///a/directory``.

    Raises:
        ImproperlyConfigured: the directory is not named, or can't be written.
    """

    supports_result_compression = True

    def __init__(self, url: str | None = None, *args: Any, open: Any = open, **kwargs: Any) -> None:
        super().__init__(*args, url=url, **kwargs)
        self.path = os.fsencode(_path_of(url))
        self.open = open
        self._check()

    def _check(self) -> None:
        """Write, read and remove a file, so that what is wrong is known now and not with the first result."""
        key = ensure_bytes(f"celery-check-{uuid()}")
        try:
            self._set_with_state(key, b"check", "SUCCESS")
            found = self.get(key)
            self.delete(key)
        except OSError as error:
            raise ImproperlyConfigured(f"{E_PATH_INVALID}: {error}") from error
        if found != b"check":
            raise ImproperlyConfigured(E_PATH_INVALID)

    def _file(self, key: Any) -> bytes:
        return os.path.join(self.path, ensure_bytes(key))

    def get(self, key: Any) -> Any:
        try:
            with self.open(self._file(key), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def mget(self, keys: Any) -> Any:
        return [self.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> Any:
        # a reader sees the whole of the old document or the whole of the new one
        part = self._file(b".".join([b"", ensure_bytes(key), ensure_bytes(uuid())]))
        with self.open(part, "wb") as file:
            file.write(ensure_bytes(value))
        os.replace(part, self._file(key))

    def delete(self, key: Any) -> Any:
        try:
            os.unlink(self._file(key))
        except FileNotFoundError:
            return None

    def cleanup(self) -> None:
        """Remove results that are older than ``result_expires``."""
        if not self.expires:
            return
        oldest = time.time() - self.expires
        prefixes = (self.task_keyprefix, self.group_keyprefix, self.chord_keyprefix)
        for entry in os.scandir(self.path):
            if entry.name.startswith(prefixes) and entry.stat().st_mtime < oldest:
                os.unlink(entry.path)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return _rebuild, (type(self), self.app, self.url, self.serializer)


def _rebuild(kind: Any, app: Any, url: str, serializer: str) -> FilesystemBackend:
    return kind(url=url, app=app, serializer=serializer)  # type: ignore[no-any-return]


def _path_of(url: str | None) -> str:
    if not url:
        raise ImproperlyConfigured(E_NO_PATH_SET)
    if url.startswith("file://localhost/"):
        return url[len("file://localhost") :]
    if url.startswith("file://"):
        return url[len("file://") :]
    raise ImproperlyConfigured(E_PATH_NON_CONFORMING_SCHEME)
