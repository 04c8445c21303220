"""Running a command in the background, as another user, with a pid file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from zerocelery.bin.base import CommandError, pid_file


@contextlib.contextmanager
def in_background(
    *,
    detach: bool,
    logfile: str | None,
    pidfile: str | None,
    uid: str | int | None,
    gid: str | int | None,
    umask: str | int | None,
    workdir: str | None,
    executable: str | None = None,
    what: str,
) -> Iterator[None]:
    """The block runs in the background where that is asked for, as that user, and with that pid file.

    The caller's process ends here in that case; what goes wrong before is said by it.

    Arguments:
        executable: taken for Celery's sake: a process that goes into the background by itself stays the Python it is.
        what: what runs, for messages.
    """
    from zerocelery.platforms import detached, maybe_drop_privileges

    with contextlib.ExitStack() as stack:
        if detach:
            with pid_file(pidfile, what=what):
                pass  # what is wrong with it is said here, where somebody reads it
            stack.enter_context(detached(logfile, None, uid, gid, _mask(umask), workdir))
        elif uid is not None or gid is not None:
            maybe_drop_privileges(uid=uid, gid=gid)
        stack.enter_context(pid_file(pidfile, what=what))
        yield


def _mask(umask: str | int | None) -> int:
    """A umask as a number: on the command line it is written in octal, in settings it is one."""
    if umask is None or isinstance(umask, int):
        return umask or 0
    try:
        return int(umask, 8)
    except ValueError as error:
        raise CommandError(f"--umask {umask!r} is no octal number, as in 022") from error
