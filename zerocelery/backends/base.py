"""The base of result backends."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from zerocelery.app.base import Celery

__all__ = ("DisabledBackend",)


class DisabledBackend:
    """No results are kept: asking for one is an error."""

    supports_native_join = False
    persistent = False

    def __init__(self, app: Celery, url: str | None = None, **kwargs: Any) -> None:
        self.app = app
        self.url = url

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def process_cleanup(self) -> None:
        """There is nothing to clean up."""

    def as_uri(self, include_password: bool = True) -> str:
        return "disabled://"

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("No result backend is configured: result_backend is 'disabled'.")

    get_state = get_status = get_result = get_traceback = get_children = _is_disabled
    get_task_meta = wait_for_pending = forget = exists = _is_disabled
