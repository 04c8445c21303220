"""What differs from one operating system to the next: signals, users, daemons, pid files, process titles."""

from __future__ import annotations

import atexit
import errno
import importlib
import math
import os
import platform as _platform
import signal as _signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import current_process
from multiprocessing import util as mputil
from types import ModuleType
from typing import Any

from zerocelery._billiard.compat import close_open_fds as _billiard_close_open_fds
from zerocelery.exceptions import SecurityError, SecurityWarning

grp: ModuleType | None
pwd: ModuleType | None
resource: ModuleType | None
try:
    import grp
    import pwd
    import resource
except ImportError:  # Windows has none of them
    grp = pwd = resource = None

_setproctitle: Any
try:
    _setproctitle = importlib.import_module("setproctitle")
except ImportError:
    _setproctitle = None

__all__ = (
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "SIGMAP",
    "SYSTEM",
    "DaemonContext",
    "IS_macOS",
    "LockFailed",
    "Pidfile",
    "check_privileges",
    "close_open_fds",
    "create_pidlock",
    "detached",
    "fd_by_path",
    "get_errno_name",
    "get_fdmax",
    "ignore_errno",
    "initgroups",
    "isatty",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "pyimplementation",
    "set_mp_process_title",
    "set_pdeathsig",
    "set_process_title",
    "setgid",
    "setgroups",
    "setuid",
    "signal_name",
    "signals",
)

SYSTEM = _platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

# How a process ends, as in sysexits.h; Windows lacks these names in os.
EX_OK = getattr(os, "EX_OK", 0)
EX_FAILURE = 1
EX_USAGE = getattr(os, "EX_USAGE", 64)
EX_UNAVAILABLE = getattr(os, "EX_UNAVAILABLE", 69)
EX_CANTCREAT = getattr(os, "EX_CANTCREAT", 73)

DAEMON_WORKDIR = "/"

#: Made by this process, or not at all.
PIDFILE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
PIDFILE_MODE = 0o644

PIDLOCKED = "The pid file {0} already exists: process {1} has it. Stop that one, or name another file."

ROOT_DISALLOWED = """\
A worker that takes pickled messages runs whatever code they carry, so it refuses to run as a superuser, or as a
member of a group that may become one. Take another user, with --uid and --gid, or leave pickle out of accept_content.
Who knows what that means and wants it all the same sets C_FORCE_ROOT=1 in the environment.

User information: uid={uid} euid={euid} gid={gid} egid={egid}
"""

ROOT_DISCOURAGED = """\
This worker runs as a superuser, or as a member of a group that may become one: what its tasks can be made to do, they
do with all rights. Take another user, with --uid and --gid.

User information: uid={uid} euid={euid} gid={gid} egid={egid}
"""

ASSUMING_ROOT = "This process's group has no entry in the system's list of groups: it is taken for a superuser's."

SIGNAMES = {name for name in dir(_signal) if name.startswith("SIG") and not name.startswith("SIG_")}
SIGMAP = {getattr(_signal, name): name for name in sorted(SIGNAMES)}

_ADMINISTRATORS = ("sudo", "wheel")


# ── terminals, implementations, errors ───────────────────────────────────────────────────────────────────────────────


def isatty(fh: Any) -> bool:
    """Whether a file is a terminal; what can't tell is none."""
    try:
        return fh.isatty()  # type: ignore[no-any-return]
    except AttributeError:
        return False


def pyimplementation() -> str:
    """The name of this Python implementation."""
    if hasattr(_platform, "python_implementation"):
        return _platform.python_implementation()
    if sys.platform.startswith("java"):
        return f"Jython {sys.platform}"
    version = getattr(sys, "pypy_version_info", None)
    if version is not None:
        text = ".".join(map(str, version[:3]))
        return f"PyPy {text}-{version[3]}" if len(version) > 3 and version[3] != "final" else f"PyPy {text}"
    return "CPython"


def get_errno_name(n: int | str) -> int:
    """The number of an error by its name; a number stays what it is."""
    return getattr(errno, n) if isinstance(n, str) else n


@contextmanager
def ignore_errno(*errnos: int | str, **kwargs: Any) -> Iterator[None]:
    """Pass over errors of the operating system with these numbers or names.

    Arguments:
        errnos: as in ``"ENOENT"`` or ``errno.ENOENT``.
        types: exceptions of these classes only.
    """
    passed = {get_errno_name(number) for number in errnos}
    types = kwargs.get("types") or (Exception,)
    try:
        yield
    except types as error:
        if getattr(error, "errno", None) not in passed:
            raise


# ── file descriptors ─────────────────────────────────────────────────────────────────────────────────────────────────

#: Lists the descriptors of the process that reads it.
_FD_DIR = "/proc/self/fd" if SYSTEM == "Linux" else "/dev/fd"


def get_fdmax(default: Any = None) -> Any:
    """One above the highest descriptor that this process may have; the default where there is no limit."""
    try:
        return os.sysconf("SC_OPEN_MAX")
    except (KeyError, ValueError, OSError):
        pass
    if resource is None:
        return default
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return default if limit == resource.RLIM_INFINITY else limit


def _dev_fd_is_fdescfs() -> bool:
    """Whether /dev/fd is a file system of its own; as a plain directory it has no more than 0, 1 and 2."""
    try:
        return os.stat("/dev/fd").st_dev != os.stat("/dev").st_dev
    except OSError:
        return False


def _open_fds() -> list[int] | None:
    """The open descriptors; None where the system can't list them."""
    if SYSTEM not in ("Linux", "Darwin") and not _dev_fd_is_fdescfs():
        return None
    try:
        return sorted(int(name) for name in os.listdir(_FD_DIR))
    except (OSError, ValueError):
        return None


def _file_number(file: Any) -> int | None:
    if file is None or isinstance(file, int):
        return file
    try:
        return file.fileno()  # type: ignore[no-any-return]
    except (AttributeError, OSError, ValueError):  # a file in memory has none
        return None


def fd_by_path(paths: Iterable[str]) -> list[int]:
    """The open descriptors of files that have one of these paths now."""
    wanted = set()
    for path in paths:
        try:
            probe = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            wanted.add(_identity(probe))
        finally:
            os.close(probe)
    listed = _open_fds() if wanted else []
    candidates = range(get_fdmax(2048)) if listed is None else listed
    return [fd for fd in candidates if _identity(fd) in wanted]


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def close_open_fds(keep: Iterable[Any] | None = None) -> None:
    """Close every descriptor but these, given as numbers or files."""
    listed = _open_fds()
    if listed is None:
        _billiard_close_open_fds(keep)
        return
    kept = {_file_number(file) for file in keep or ()}
    for fd in listed:
        if fd not in kept:
            with ignore_errno("EBADF"):
                os.close(fd)


# ── pid files ────────────────────────────────────────────────────────────────────────────────────────────────────────


class LockFailed(Exception):
    """A pid file is another's, or can't be written."""


class Pidfile:
    """A file with the pid of the one process that runs; a context that has it for as long as it lasts.

    Arguments:
        path: of the file.
    """

    path: str | None = None

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def acquire(self) -> Pidfile:
        """Write this process's pid.

        Raises:
            LockFailed: the file is there already, or can't be written.
        """
        try:
            self.write_pid()
        except OSError as error:
            raise LockFailed(f"the pid file {self.path} can't be written: {error}") from error
        return self

    __enter__ = acquire

    def release(self, *args: Any) -> None:
        """Remove the file."""
        self.remove()

    __exit__ = release

    def is_locked(self) -> bool:
        """Whether there is such a file."""
        return os.path.exists(self._path)

    @property
    def _path(self) -> str:
        return self.path or ""

    def read_pid(self) -> int | None:
        """The pid in the file; None where there is no file.

        Raises:
            ValueError: what is in the file is no pid.
        """
        with ignore_errno("ENOENT"):
            with open(self._path) as file:
                text = file.readline()
            if not text.endswith("\n"):
                raise ValueError(f"the pid file {self.path} is not complete: {text!r}")
            try:
                return int(text.strip())
            except ValueError:
                raise ValueError(f"there is no pid in the pid file {self.path}, but {text.strip()!r}") from None
        return None

    def remove(self) -> None:
        """Remove the file, where it is there and may be removed."""
        with ignore_errno("ENOENT", "EACCES"):
            os.unlink(self._path)

    def remove_if_stale(self) -> bool:
        """Remove a file whose process is gone, and tell whether the way is free."""
        try:
            pid = self.read_pid()
        except ValueError as error:
            sys.stderr.write(f"{error}: it is removed\n")
            self.remove()
            return True
        if not pid or pid == os.getpid() or not self._is_running(pid):
            self.remove()
            return True
        return False

    def _is_running(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except OSError as error:
            # One that may not be signalled is another user's: it got the number of a process that is gone.
            if error.errno in (errno.ESRCH, errno.EPERM):
                sys.stderr.write(f"the pid file {self.path} is of process {pid}, which is gone: it is removed\n")
                return False
        return True

    def write_pid(self) -> None:
        """Write this process's pid into a new file, and read it back.

        Raises:
            OSError: there is such a file, or it can't be written.
            LockFailed: what was read is not what was written.
        """
        text = f"{os.getpid()}\n"
        fd = os.open(self._path, PIDFILE_FLAGS, PIDFILE_MODE)
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        with open(self._path) as file:
            if file.read() != text:
                raise LockFailed(f"the pid file {self.path} was written by two processes at a time")


PIDFile = Pidfile


def create_pidlock(pidfile: str) -> Pidfile:
    """Write a pid file, which is removed at this process's exit.

    Raises:
        SystemExit: another process that still runs has it.
    """
    lock = _create_pidlock(pidfile)
    atexit.register(lock.release)
    return lock


def _create_pidlock(pidfile: str) -> Pidfile:
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        sys.stderr.write(f"{PIDLOCKED.format(pidfile, lock.read_pid())}\n")
        raise SystemExit(EX_CANTCREAT)
    lock.acquire()
    return lock


# ── daemons ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class DaemonContext:
    """A context that goes on in a process without terminal, session or open files; the one before it ends.

    Arguments:
        workdir: where to go, ``/`` unless given.
        umask: a number, or its digits (octal with a leading 0).
        fake: stay in this process, for a look at what would happen.
        after_chdir: called when the new process has gone there, and still has its files.
        after_forkers: run what multiprocessing keeps for children.
    """

    _is_open = False

    def __init__(
        self,
        pidfile: str | None = None,
        workdir: str | None = None,
        umask: int | str | None = None,
        fake: bool = False,
        after_chdir: Callable[[], object] | None = None,
        after_forkers: bool = True,
        **kwargs: Any,
    ) -> None:
        if isinstance(umask, str):
            umask = int(umask, 8 if umask.startswith("0") else 10)
        self.pidfile = pidfile
        self.workdir = workdir or DAEMON_WORKDIR
        self.umask = umask
        self.fake = fake
        self.after_chdir = after_chdir
        self.after_forkers = after_forkers
        self.stdfds: Any = (sys.stdin, sys.stdout, sys.stderr)

    def redirect_to_null(self, fd: int | None) -> None:
        """Let a descriptor lead nowhere."""
        if fd is not None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, fd)

    def open(self) -> None:
        """Become the daemon; a second call changes nothing."""
        if self._is_open:
            return
        if not self.fake:
            self._detach()
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if self.after_chdir is not None:
            self.after_chdir()
        if not self.fake:
            self._drop_files()
        self._is_open = True

    def _detach(self) -> DaemonContext:
        # The first child is no leader of its group, so it may found a session; the second one is no leader of the
        # session, so it can never get a terminal.
        if os.fork() == 0:
            os.setsid()
            if os.fork() > 0:
                os._exit(0)
        else:
            os._exit(0)
        return self

    def _drop_files(self) -> None:
        close_open_fds([*self.stdfds, *fd_by_path(["/dev/urandom"])])
        for file in self.stdfds:
            self.redirect_to_null(_file_number(file))
        if self.after_forkers and mputil is not None:
            mputil._run_after_forkers()  # type: ignore[attr-defined]

    def close(self, *args: Any) -> None:
        """Nothing to undo, but that the context may be opened again."""
        self._is_open = False

    __exit__ = close

    def __enter__(self) -> DaemonContext:
        self.open()
        return self


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: int | str | None = None,
    gid: int | str | None = None,
    umask: int | str = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """A context that goes on as a daemon, as another user where asked.

    Arguments:
        logfile, pidfile: tried before the terminal is left, so that errors are seen.
        uid, gid: of whom; needs root.
        umask: as in :class:`DaemonContext`.
        workdir: this directory unless given.

    Raises:
        RuntimeError: this system has no daemons.
        SecurityError: the rights could not be given up.
    """
    if not resource:
        raise RuntimeError("This platform does not support detach.")
    signals.reset("SIGCLD")  # an ignored one would be passed on, and then no child of the daemon could be waited for
    maybe_drop_privileges(uid=uid, gid=gid)

    def try_files() -> None:
        if logfile:
            open(logfile, "a").close()
        if pidfile:
            _create_pidlock(pidfile)

    return DaemonContext(
        umask=umask, workdir=os.getcwd() if workdir is None else workdir, fake=fake, after_chdir=try_files
    )


# ── users ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_uid(uid: int | str) -> int:
    """A user's number, from it or from the name.

    Raises:
        KeyError: there is no such user.
    """
    try:
        return int(uid)
    except ValueError:
        pass
    try:
        return pwd.getpwnam(uid).pw_uid  # type: ignore[union-attr,no-any-return]
    except (AttributeError, KeyError):
        raise KeyError(f"there is no user {uid!r} on this machine") from None


def parse_gid(gid: int | str) -> int:
    """A group's number, from it or from the name.

    Raises:
        KeyError: there is no such group.
    """
    try:
        return int(gid)
    except ValueError:
        pass
    try:
        return grp.getgrnam(gid).gr_gid  # type: ignore[union-attr,no-any-return]
    except (AttributeError, KeyError):
        raise KeyError(f"there is no group {gid!r} on this machine") from None


def _setgroups_hack(groups: list[int]) -> None:
    """Set as many of the groups as the system takes; it may tell its limit only by refusing."""
    groups = list(groups)
    while True:
        try:
            os.setgroups(groups)
            return
        except ValueError:
            if not groups:
                raise
        except OSError as error:
            if error.errno != errno.EINVAL or not groups:
                raise
        groups.pop()


def setgroups(groups: list[int]) -> None:
    """Let this process be in these groups only, as far as the system's limit of their number goes."""
    try:
        most = os.sysconf("SC_NGROUPS_MAX")
    except (ValueError, OSError):
        most = None
    try:
        _setgroups_hack(groups[:most])
    except OSError as error:
        # Who may not change them may still have no other than these.
        if error.errno != errno.EPERM or not set(os.getgroups()) <= set(groups):
            raise


def initgroups(uid: int, gid: int) -> None:
    """Let this process be in the groups of a user."""
    if not pwd or not grp:
        return
    name = pwd.getpwuid(uid)[0]
    if hasattr(os, "initgroups"):
        os.initgroups(name, gid)
    else:
        setgroups([group.gr_gid for group in grp.getgrall() if name in group.gr_mem])


def setgid(gid: int | str) -> None:
    """Let this process have a group."""
    os.setgid(parse_gid(gid))


def setuid(uid: int | str) -> None:
    """Let this process be a user's."""
    os.setuid(parse_uid(uid))


def maybe_drop_privileges(uid: int | str | None = None, gid: int | str | None = None) -> None:
    """Become this user, with this group, or with the user's own.

    Raises:
        SecurityError: the rights of root are still there.
    """
    if sys.platform == "win32":
        return
    if os.geteuid() and not os.getuid():
        raise SecurityError("root's rights are only set aside here, not given up: start as root, or as the user")
    user = parse_uid(uid) if uid else None
    group = parse_gid(gid) if gid else None
    if user:
        _setuid(user, group)
    elif group:
        setgid(group)
    if user and not os.getuid() and not os.geteuid():
        raise SecurityError(f"this process is still root's after it became user {uid}")
    if group and not os.getgid() and not os.getegid():
        raise SecurityError(f"this process still has root's group after it became one of group {gid}")


def _setuid(uid: int, gid: int | None) -> None:
    if not gid and pwd:
        gid = int(pwd.getpwuid(uid).pw_gid)
    # Groups first: who is no longer root may not change them.
    setgid(gid or 0)
    initgroups(uid, gid or 0)
    setuid(uid)
    try:
        setuid(0)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        raise SecurityError("after it gave up root's rights, this process could take them back")


def check_privileges(accept_content: Iterable[str]) -> None:
    """Warn of a worker with root's rights, and refuse one that takes pickled messages besides.

    Raises:
        SecurityError: it takes pickle, and ``C_FORCE_ROOT`` is not set.
    """
    if grp is None or pwd is None or not hasattr(os, "fchown"):
        return
    try:
        ids = {"uid": os.getuid(), "euid": os.geteuid(), "gid": os.getgid(), "egid": os.getegid()}
    except AttributeError:
        raise SecurityError("suspicious platform, contact support") from None
    takes_pickle = not {"pickle", "application/group-python-serialize"}.isdisjoint(accept_content)
    if _is_privileged(grp, ids):
        _warn_or_raise_security_error(ids["egid"], ids["euid"], ids["gid"], ids["uid"], takes_pickle)


def _is_privileged(groups: ModuleType, ids: Mapping[str, int]) -> bool:
    try:
        names = {groups.getgrgid(ids["gid"])[0], groups.getgrgid(ids["egid"])[0]}
    except KeyError:
        warnings.warn(SecurityWarning(ASSUMING_ROOT), stacklevel=3)
        return True
    return not names.isdisjoint(_ADMINISTRATORS) or not all(ids.values())


def _warn_or_raise_security_error(egid: int, euid: int, gid: int, uid: int, pickle_or_serialize: bool) -> None:
    who = {"uid": uid, "euid": euid, "gid": gid, "egid": egid}
    if pickle_or_serialize and not os.environ.get("C_FORCE_ROOT"):
        raise SecurityError(ROOT_DISALLOWED.format(**who))
    warnings.warn(SecurityWarning(ROOT_DISCOURAGED.format(**who)), stacklevel=4)


# ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_Handler = Any


class Signals:
    """The handlers of signals by name, with or without ``SIG``: read, set, reset and ignored.

    A handler that can't be set here (a signal of another system, a thread that isn't the main one) is passed over.
    """

    ignored = _signal.SIG_IGN
    default = _signal.SIG_DFL

    def arm_alarm(self, seconds: float) -> None:
        """Send SIGALRM to this process after so many seconds."""
        if hasattr(_signal, "setitimer"):
            _signal.setitimer(_signal.ITIMER_REAL, seconds)
        else:
            _signal.alarm(math.ceil(seconds))

    def reset_alarm(self) -> None:
        """Send no SIGALRM."""
        _signal.alarm(0)

    def supported(self, name: str) -> bool:
        """Whether this system has a signal."""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def signum(self, name: Any) -> int:
        """A signal's number.

        Raises:
            TypeError: it is no name of a signal.
            AttributeError: this system has none of that name.
        """
        if isinstance(name, int):
            return name
        if not isinstance(name, str) or not name.isupper():
            raise TypeError(f"the name of a signal is wanted, as in TERM or SIGTERM, and not {name!r}")
        return getattr(_signal, name if name.startswith("SIG") else f"SIG{name}")  # type: ignore[no-any-return]

    def reset(self, *signal_names: str) -> None:
        """Let signals do again what they do by default."""
        self.update((name, self.default) for name in signal_names)

    def ignore(self, *names: str) -> None:
        """Pass over signals."""
        self.update((name, self.ignored) for name in names)

    def __getitem__(self, name: int | str) -> _Handler:
        return _signal.getsignal(self.signum(name))

    def __setitem__(self, name: int | str, handler: _Handler) -> None:
        try:
            _signal.signal(self.signum(name), handler)
        except (AttributeError, ValueError):
            pass

    def update(
        self, _d_: Mapping[str, _Handler] | Iterable[tuple[str, _Handler]] | None = None, **sigmap: _Handler
    ) -> None:
        """Set several handlers."""
        for name, handler in {**dict(_d_ or {}), **sigmap}.items():
            self[name] = handler


signals = Signals()
get_signal = signals.signum
install_signal_handler = signals.__setitem__
reset_signal = signals.reset
ignore_signal = signals.ignore


def signal_name(signum: int) -> str:
    """A signal's name without ``SIG``."""
    return SIGMAP[signum][3:]


def set_pdeathsig(name: int | str) -> None:
    """Send this process a signal when its parent ends; where the system has no such thing, nothing."""
    _set_pdeathsig(signals.signum(name))


def _set_pdeathsig(signum: int) -> None:
    if SYSTEM != "Linux":
        return
    import ctypes

    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(1, signum, 0, 0, 0)  # 1: PR_SET_PDEATHSIG


# ── titles ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def strargv(argv: list[str]) -> str:
    """A program's arguments, without the program; for ``manage.py``, without the command as well."""
    return " ".join(argv[2 if "manage" in argv[0] else 1 :])


def set_process_title(progname: str, info: str | None = None) -> str:
    """Let ``ps`` show this process by another name, where setproctitle is installed; returns the name."""
    title = f"[{progname}] {info}" if info else f"[{progname}]"
    if _setproctitle is not None:
        _setproctitle.setproctitle(title)
    return title


def set_mp_process_title(progname: str, info: str | None = None, hostname: str | None = None) -> str:
    """The same, with the name that multiprocessing has for this process, and a worker's."""
    if os.environ.get("NOSETPS"):
        return ""
    host = f": {hostname}" if hostname else ""
    return set_process_title(f"{progname}{host}:{current_process().name}", info=info)
