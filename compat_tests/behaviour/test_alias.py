"""``import celery`` gives zerocelery: in this process, under tools that listen for it, and in child processes.

Each program runs in a process of its own, for there is no way back from an alias.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from compat_tests.conftest import Sandbox

RUN = (sys.executable, "-m", "zerocelery.bin.run")

INSTALL = "import zerocelery; zerocelery.install_as_celery()\n"


def program(box: Sandbox, source: str) -> str:
    """Run a program that begins with the alias; what it printed."""
    return box.run(INSTALL + textwrap.dedent(source)).strip()


def command(box: Sandbox, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Run ``zerocelery-run`` to its end; what it printed."""
    process = box.start(*RUN, *arguments, env=env)
    code = process.wait(20)
    assert code == 0, f"exit status {code}:\n{box.output(process)}"
    return box.output(process).strip()


@pytest.fixture
def real_celery(sandbox: Sandbox) -> Path:
    """Something that looks like an installed Celery, first on the path."""
    package = sandbox.home / "celery"
    (package / "app").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '4.4.7'\nstranger = True\n")
    (package / "app" / "__init__.py").write_text("stranger = True\n")
    (package / "stranger.py").write_text("")
    metadata = sandbox.home / "celery-4.4.7.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: celery\nVersion: 4.4.7\n")
    return package


# ── the same modules ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_module_is_the_same_object_by_both_names(sandbox: Sandbox) -> None:
    assert (
        program(
            sandbox,
            """
            import sys
            import celery.app.base, celery.result, celery.utils.log
            import zerocelery.app.base, zerocelery.states
            from celery import states
            for name in ("app.base", "result", "utils.log", "states", "app", "utils"):
                ours = sys.modules[f"zerocelery.{name}"]
                assert sys.modules[f"celery.{name}"] is ours, name
            assert celery.app.base is zerocelery.app.base
            assert states is zerocelery.states
            assert celery.app.base.Celery is celery.Celery is zerocelery.Celery
            print("same")
            """,
        )
        == "same"
    )


def test_a_module_of_ours_is_entered_under_both_names_whoever_imports_it(sandbox: Sandbox) -> None:
    assert (
        program(
            sandbox,
            """
            import sys
            import zerocelery.app.trace
            print(sys.modules["celery.app.trace"] is zerocelery.app.trace)
            """,
        )
        == "True"
    )


def test_the_top_module_tells_celerys_version_and_ours_keeps_its_own(sandbox: Sandbox) -> None:
    assert program(
        sandbox,
        """
        import celery
        from zerocelery import __version__
        print(celery.__version__, celery.VERSION[:3], celery.version_info.major)
        print(celery.VERSION_BANNER == f"5.7.0 ({celery.SERIES})")
        print(zerocelery.__version__ == __version__ != celery.__version__, hasattr(zerocelery, "VERSION"))
        celery.VERSION = (0, 3, 0)
        print(celery.VERSION, celery.__name__, celery.__spec__.name)
        """,
    ).splitlines() == ["5.7.0 (5, 7, 0) 5", "True", "True False", "(0, 3, 0) celery celery"]


def test_what_is_set_on_the_top_module_is_set_for_both(sandbox: Sandbox) -> None:
    assert (
        program(
            sandbox,
            """
            from unittest.mock import patch
            import celery
            with patch("celery.current_app", "mine"):
                assert celery.current_app == zerocelery.current_app == "mine"
            assert celery.current_app is zerocelery.current_app
            celery.added = 1
            assert zerocelery.added == 1
            del celery.added
            assert not hasattr(celery, "added") and not hasattr(zerocelery, "added")
            print("both")
            """,
        )
        == "both"
    )


def test_what_is_not_there_is_a_plain_import_error_with_the_name_asked_for(sandbox: Sandbox) -> None:
    assert program(
        sandbox,
        """
        for line in ("import celery.nonsense", "from celery import nonsense", "import celery.app.nonsense"):
            try:
                exec(line)
            except ImportError as error:
                print(type(error).__name__, error.name)
        """,
    ).splitlines() == [
        "ModuleNotFoundError celery.nonsense",
        "ImportError celery",
        "ModuleNotFoundError celery.app.nonsense",
    ]


def test_modules_of_old_answer_for_the_current_app(sandbox: Sandbox) -> None:
    assert program(
        sandbox,
        """
        import celery
        from celery import registry
        import celery.registry, celery.execute, celery.log, celery.messaging
        app = celery.Celery("old")
        @app.task(name="old.task")
        def task(): pass
        assert registry is celery.registry
        print(registry.tasks["old.task"].name, celery.execute.send_task.__self__ == app, celery.registry.__name__)
        """,
    ) == ("old.task True celery.registry")


def test_a_pickle_that_names_celery_loads_ours(sandbox: Sandbox) -> None:
    assert (
        program(
            sandbox,
            """
            import pickle
            from zerocelery.exceptions import Retry
            written = b"ccelery.exceptions\\nRetry\\n(S'later'\\ntR."
            loaded = pickle.loads(written)
            print(type(loaded) is Retry, loaded)
            """,
        )
        == "True later"
    )


def test_a_module_can_be_reloaded_and_taken_out_of_sys_modules(sandbox: Sandbox) -> None:
    assert (
        program(
            sandbox,
            """
            import importlib, sys
            import celery, celery.states
            assert importlib.reload(celery) is celery
            assert importlib.reload(celery.states) is sys.modules["zerocelery.states"]
            del sys.modules["celery.states"]
            assert importlib.import_module("celery.states") is sys.modules["zerocelery.states"]
            print("reloaded")
            """,
        )
        == "reloaded"
    )


def test_source_and_resources_are_found_by_the_alias(sandbox: Sandbox) -> None:
    assert (
        program(
            sandbox,
            """
            import inspect, importlib.resources, importlib.util, pkgutil
            import celery, celery.states
            assert "SUCCESS" in inspect.getsource(celery.states)
            assert (importlib.resources.files("celery") / "py.typed").is_file()
            assert importlib.util.find_spec("celery.bin.celery").origin.endswith("zerocelery/bin/celery.py")
            assert "app" in {found.name for found in pkgutil.iter_modules(celery.__path__)}
            print("found")
            """,
        )
        == "found"
    )


# ── beside a Celery ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_wins_over_an_installed_celery(sandbox: Sandbox, real_celery: Path) -> None:
    assert (
        program(
            sandbox,
            """
            import importlib.metadata
            import celery, celery.app
            assert not hasattr(celery, "stranger") and not hasattr(celery.app, "stranger")
            try:
                import celery.stranger
            except ModuleNotFoundError:
                print(celery.__version__, importlib.metadata.version("celery"))
            """,
        )
        == "5.7.0 4.4.7"
    )


def test_a_finder_that_comes_later_and_goes_by_files_does_not_bring_the_other_celery(
    sandbox: Sandbox, real_celery: Path
) -> None:
    # as pytest's assertion rewriter does for packages whose plugins it knows
    assert (
        program(
            sandbox,
            """
            import sys
            from importlib.machinery import PathFinder
            class ByFile:
                def find_spec(self, name, path=None, target=None):
                    return PathFinder.find_spec(name, path) if name.startswith("celery") else None
            sys.meta_path.insert(0, ByFile())
            import colorsys  # any import at all
            import celery.app.registry, celery.app
            print(celery.app.registry is sys.modules["zerocelery.app.registry"])
            """,
        )
        == "True"
    )


def test_it_refuses_where_another_celery_is_imported_already(sandbox: Sandbox, real_celery: Path) -> None:
    told = sandbox.run(
        """
        import celery, zerocelery
        try:
            zerocelery.install_as_celery()
        except RuntimeError as error:
            print(error)
        """
    )
    assert "celery is imported already, from" in told
    assert "zerocelery-run" in told


def test_installing_it_twice_changes_nothing(sandbox: Sandbox) -> None:
    assert (
        program(
            sandbox,
            """
            import sys
            before = list(sys.meta_path)
            zerocelery.install_as_celery()
            print(sys.meta_path == before)
            """,
        )
        == "True"
    )


def test_where_no_celery_is_installed_its_version_is_answered(sandbox: Sandbox) -> None:
    assert program(
        sandbox,
        """
            import importlib.metadata as metadata
            found = metadata.distribution("celery")
            print(metadata.version("celery"), found.metadata["Name"], found.files, found.requires)
            assert "celery" in {each.metadata["Name"] for each in metadata.distributions()}
            try:
                metadata.version("no-such-distribution")
            except metadata.PackageNotFoundError:
                print("none")
            """,
    ).splitlines() == ["5.7.0 celery None None", "none"]


# ── tools that listen for imports ────────────────────────────────────────────────────────────────────────────────────

HOOKS = '''
import importlib.util, sys, threading

class Loader:
    """As wrapt, newrelic and ddtrace do: the real loader, then whoever waits for the module."""
    def __init__(self, loader, hooks):
        self.loader, self.hooks = loader, hooks
    def create_module(self, spec):
        return self.loader.create_module(spec)
    def exec_module(self, module):
        self.loader.exec_module(module)
        self.hooks[module.__name__](module)

class Hooks:
    def __init__(self, **hooks):
        self.hooks = {name.replace("__", "."): hook for name, hook in hooks.items()}
        self.busy = set()
    def find_spec(self, name, path=None, target=None):
        if name not in self.hooks or name in self.busy:
            return None
        self.busy.add(name)
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None:
                spec.loader = Loader(spec.loader, self.hooks)
            return spec
        finally:
            self.busy.discard(name)

heard = []
def hook(tool):
    return lambda module: heard.append((tool, module.__name__))
def wrap(module):
    original = module.build_tracer
    module.build_tracer = lambda *args, **kwargs: original(*args, **kwargs)
    module.build_tracer.wrapped = True
    heard.append(("wrap", module.__name__))
'''


@pytest.mark.parametrize("order", ["before", "after"])
def test_hooks_on_celerys_names_fire_wherever_their_finder_stands(sandbox: Sandbox, order: str) -> None:
    hooks = 'sys.meta_path.insert(0, Hooks(celery=hook("a"), celery__app__trace=wrap))\n'
    more = 'sys.meta_path.insert(0, Hooks(celery=hook("b"), celery__app__trace=hook("b")))\n'
    listening = HOOKS + (hooks + more if order == "before" else hooks)
    after = "" if order == "before" else more
    told = sandbox.run(
        listening
        + INSTALL
        + after
        + textwrap.dedent(
            """
            import zerocelery.app.trace  # as our worker does: nobody says celery.app.trace
            import celery.app.trace
            assert celery.app.trace is sys.modules["zerocelery.app.trace"]
            assert zerocelery.app.trace.build_tracer.wrapped
            print(sorted(heard))
            """
        )
    ).strip()
    expected = [("b", "celery.app.trace"), ("wrap", "celery.app.trace"), ("a", "celery")]
    if order == "before":
        expected.append(("b", "celery"))
    assert told == str(sorted(expected))


# ── billiard ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_billiard_is_not_installed_its_names_are_ours(sandbox: Sandbox) -> None:
    if _installed("billiard"):
        pytest.skip("billiard is installed here")
    assert (
        program(
            sandbox,
            """
            import pickle
            import billiard, billiard.pool
            from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
            from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, Terminated, WorkerLostError
            from zerocelery import exceptions
            assert WorkerLostError is exceptions.WorkerLostError is billiard.WorkerLostError
            assert (SoftTimeLimitExceeded, TimeLimitExceeded, Terminated) == (
                exceptions.SoftTimeLimitExceeded, exceptions.TimeLimitExceeded, exceptions.Terminated)
            assert callable(billiard.pool.Worker.workloop)
            try:
                raise KeyError("foo")
            except KeyError as error:
                info = ExceptionInfo()
                packed = pickle.dumps(ExceptionWithTraceback(error, error.__traceback__))
            assert info.type is KeyError and "KeyError" in info.traceback
            again = pickle.loads(packed)
            assert isinstance(again, KeyError) and "KeyError" in str(again.__cause__)
            assert pickle.loads(pickle.dumps(info)).traceback == info.traceback
            print(billiard.VERSION, billiard.process.current_process().name)
            """,
        )
        == "(4, 3, 2, '') MainProcess"
    )


@pytest.mark.parametrize("first", ["billiard", "zerocelery"])
def test_where_billiard_is_installed_its_exceptions_become_ours(sandbox: Sandbox, first: str) -> None:
    package = sandbox.home / "billiard"
    package.mkdir()
    (package / "__init__.py").write_text("from .exceptions import WorkerLostError\nreal = True\n")
    (package / "exceptions.py").write_text(
        "\n".join(
            f"class {name}(Exception): pass"
            for name in ("SoftTimeLimitExceeded", "Terminated", "TimeLimitExceeded", "WorkerLostError", "CoroStop")
        )
    )
    (package / "einfo.py").write_text("class ExceptionInfo: pass\nclass ExceptionWithTraceback(Exception): pass\n")
    lines = [INSTALL, "import billiard.exceptions\n"]
    told = sandbox.run(
        "".join(lines if first == "zerocelery" else lines[::-1])
        + textwrap.dedent(
            """
            import billiard, billiard.einfo
            from zerocelery import exceptions
            from zerocelery.app.einfo import ExceptionInfo
            assert billiard.real
            assert billiard.exceptions.WorkerLostError is exceptions.WorkerLostError is billiard.WorkerLostError
            assert billiard.exceptions.CoroStop.__module__ == "billiard.exceptions"
            assert billiard.einfo.ExceptionInfo is ExceptionInfo
            print(billiard.__spec__.loader.__class__.__name__)
            """
        )
    )
    assert told.strip() == "SourceFileLoader"


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


# ── zerocelery-run ───────────────────────────────────────────────────────────────────────────────────────────────────

TELL = "import celery, sys; print(celery.__version__, type(celery).__name__, *sys.argv[1:])\n"


def test_run_starts_a_script_a_module_and_a_command(sandbox: Sandbox) -> None:
    sandbox.write("tell.py", TELL)
    path = sandbox.write("tell-it", f"#!{sys.executable}\n{TELL}")
    path.chmod(0o755)
    expected = "5.7.0 AliasModule a --b -c"
    assert command(sandbox, "tell.py", "a", "--b", "-c") == expected
    assert command(sandbox, "-m", "tell", "a", "--b", "-c") == expected
    assert command(sandbox, str(path), "a", "--b", "-c") == expected
    assert command(sandbox, "tell-it", "a", "--b", "-c", env={"PATH": str(sandbox.home)}) == expected


def test_run_reaches_child_processes_and_wins_over_an_installed_celery_there(
    sandbox: Sandbox, real_celery: Path
) -> None:
    sandbox.write("tell.py", TELL)
    sandbox.write(
        "parent.py",
        """
        import multiprocessing, subprocess, sys

        def child():
            import celery
            print(celery.__version__, flush=True)

        if __name__ == "__main__":
            subprocess.run([sys.executable, "tell.py", "child"], check=True)
            process = multiprocessing.get_context("spawn").Process(target=child)
            process.start()
            process.join()
        """,
    )
    assert command(sandbox, "parent.py").splitlines() == ["5.7.0 AliasModule child", "5.7.0"]


def test_run_celery_is_our_own_command_line(sandbox: Sandbox, real_celery: Path) -> None:
    assert command(sandbox, "celery", "--version").startswith("zerocelery ")
    assert "Start a worker" in command(sandbox, "-m", "celery", "--help")


def test_run_lets_the_sitecustomize_run_that_was_there(sandbox: Sandbox) -> None:
    other = sandbox.home / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import sys\nsys.customised = 'celery' in sys.modules\n")
    sandbox.write(
        "ask.py",
        """
        import sys, sitecustomize
        print(sys.customised, sitecustomize.__file__.endswith("other/sitecustomize.py"))
        """,
    )
    assert command(sandbox, "ask.py", env={"PYTHONPATH": f"{other}:{Path(__file__).parents[2]}"}) == "True True"


def test_run_keeps_exit_code_and_environment(sandbox: Sandbox) -> None:
    sandbox.write("leave.py", "import os, sys; print(os.environ['MARK']); sys.exit(7)")
    process = sandbox.start(*RUN, "leave.py", env={"MARK": "kept"})
    assert process.wait(20) == 7
    assert sandbox.output(process).strip() == "kept"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "Usage: zerocelery-run CMD"),
        (("-m",), 2, "-m needs a module's name"),
        (("--nonsense",), 2, "there is no option --nonsense"),
        (("no-such-command",), 127, "there is no command 'no-such-command'"),
        (("./no-such-file",), 127, "there is no ./no-such-file"),
        (("./plain.txt",), 126, "may not be executed"),
    ],
)
def test_run_says_in_a_sentence_what_it_cannot_start(
    sandbox: Sandbox, arguments: tuple[str, ...], code: int, told: str
) -> None:
    sandbox.write("plain.txt", "")
    process = sandbox.start(*RUN, *arguments)
    assert process.wait(20) == code
    assert told in sandbox.output(process)
    assert "Traceback" not in sandbox.output(process)
