"""Functions that travel: what is importable stays, what is not is packed, and packed anew when it has changed."""

from __future__ import annotations

import functools
import math
import os.path
import platform
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import msgspec
import pytest

from compat_tests.engine import system as a_module
from zerocelery.engine import callables
from zerocelery.engine.callables import Shipped, importable, load, pack
from zerocelery.engine.errors import CallableError


@pytest.fixture
def notebook() -> Iterator[Callable[..., Any]]:
    """``notebook(source)``: run a cell of a notebook, and get its names; nobody else can import them."""
    module = types.ModuleType("__main__")
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module

    def run(source: str) -> Any:
        exec(source, module.__dict__)
        return types.SimpleNamespace(**module.__dict__)

    yield run
    sys.modules["__main__"] = before


# ── packing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_packed_function_is_a_function_again(notebook: Callable[..., Any]) -> None:
    digest, blob = pack(notebook("def double(x): return 2 * x").double)
    assert load(blob)(21) == 42
    assert len(digest) == 64
    assert pack(load(blob))[0] == pack(load(blob))[0]


def test_two_versions_have_two_digests(notebook: Callable[..., Any]) -> None:
    one = pack(notebook("def f(): return 1").f)[0]
    assert one != pack(notebook("def f(): return 2").f)[0]


def test_what_can_not_be_packed_is_named(notebook: Callable[..., Any]) -> None:
    lock = threading.Lock()

    def locked() -> object:
        return lock

    with pytest.raises(CallableError, match=r"locked can't be sent .*can't be pickled: .*[Ll]ock.* inside the task"):
        pack(locked)


def test_what_has_no_name_can_be_packed_too() -> None:
    assert load(pack(functools.partial(max, 3))[1])(2) == 3


@pytest.mark.parametrize("blob", [b"", b"\xc1", b"no function", msgspec.msgpack.encode([1, "only"])])
def test_bytes_that_are_no_function_are_refused_with_a_sentence(blob: bytes) -> None:
    with pytest.raises(CallableError, match="these bytes are no packed function"):
        load(blob)


def test_another_pythons_function_is_refused_with_a_sentence_and_not_loaded() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("it was loaded",)

    blob = msgspec.msgpack.encode(
        callables._Packed(1, "CPython 2.7", "1.0", "old_function", cloudpickle.dumps(Bomb()))
    )  # fmt: skip
    here = f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(CallableError) as caught:
        load(blob)
    for part in ("old_function was sent by CPython 2.7 (cloudpickle 1.0)", f"this worker runs {here}", "Run both on"):
        assert part in str(caught.value)


def test_a_function_that_needs_what_is_not_here_says_what() -> None:
    blob = msgspec.msgpack.encode(
        callables._Packed(1, callables._python(), cloudpickle.__version__, "f", b"cno_such_module\nf\n.")
    )
    with pytest.raises(CallableError, match=r"f \(from .*\) can't be loaded here: ModuleNotFoundError: .*no_such"):
        load(blob)


# ── what need not travel ─────────────────────────────────────────────────────────────────────────────────────────────


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@wrapped
def decorated() -> None: ...


class Holder:
    @staticmethod
    def method() -> None: ...


def replaced() -> None: ...


the_former = replaced


def replaced() -> None: ...  # type: ignore[no-redef]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (a_module.task, True),
        (os.path.join, True),
        (math.sqrt, True),  # from a file
        (len, True),  # built in
        (sys.intern, True),
        (Holder.method, True),
        (decorated, True),
        (decorated.__wrapped__, True),  # type: ignore[attr-defined]  # what a decorator has replaced by a wrapper
        (replaced, True),
        (the_former, False),
        (lambda: None, False),
        (functools.partial(len), False),
    ],
    ids=lambda value: getattr(value, "__qualname__", None) or str(value),
)
def test_what_another_process_can_import_need_not_travel(function: Callable[..., Any], expected: bool) -> None:
    assert importable(function) is expected


def test_a_notebooks_functions_and_inner_ones_have_to_travel(notebook: Callable[..., Any]) -> None:
    cell = notebook("def f(): ...\ndef outer():\n def inner(): ...\n return inner")
    assert not importable(cell.f)
    assert not importable(cell.outer())


def test_a_module_that_is_nowhere_can_not_be_imported() -> None:
    module = types.ModuleType("made_up")
    exec("def f(): ...", module.__dict__)
    assert not importable(module.f)
    sys.modules["made_up"] = module
    try:
        assert not importable(module.f)
        module.__spec__ = None
        assert not importable(module.f)
    finally:
        del sys.modules["made_up"]


# ── packed anew ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_has_not_changed_is_packed_once(notebook: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Shipped(notebook("base = 1\ndef f(): return base").f)
    first = shipped.current()
    monkeypatch.setattr(callables, "pack", lambda _: pytest.fail("packed again"))
    assert shipped.current() is first


CHANGES = {
    "a value": ("base = 1\ndef f(): return base", "base = 2"),
    "a value that was missing": ("def f(): return base", "base = 2"),
    "a helper": ("def helper(): return 1\ndef f(): return helper()", "def helper(): return 2"),
    "a helper of a helper": (
        "def deep(): return 1\ndef helper(): return deep()\ndef f(): return helper()", "def deep(): return 2",
    ),
    "in a nested function": ("base = 1\ndef f():\n def g(): return base\n return g()", "base = 2"),
    "in a comprehension": ("base = 1\ndef f(): return [base for _ in range(1)][0]", "base = 2"),
    "in a closure": (
        "base = 1\ndef make():\n def g(): return base\n def f(): return g()\n return f\nf = make()", "base = 2",
    ),
    "of a recursive function": ("base = 1\ndef f(n=0): return base if n else f(1)", "base = 2"),
    "of two that call each other": (
        "base = 1\ndef g(n): return f(n)\ndef f(n=0): return base if n else g(1)", "base = 2",
    ),
    "under a decorator": (
        "import functools\nbase = 1\ndef deco(g):\n @functools.wraps(g)\n def w(): return g()\n return w\n"
        "@deco\ndef f(): return base", "base = 2",
    ),
    "of a decorated helper": (
        "import functools\nbase = 1\ndef deco(g):\n @functools.wraps(g)\n def w(): return g()\n return w\n"
        "@deco\ndef helper(): return base\ndef f(): return helper()", "base = 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_it_is_packed_anew_when_a_name_that_it_refers_to_is_bound_anew(notebook: Callable[..., Any], what: str) -> None:
    before, change = CHANGES[what]
    shipped = Shipped(notebook(before).f)
    digest, _ = shipped.current()
    assert shipped.current()[0] == digest
    notebook(change)
    again, blob = shipped.current()
    assert again != digest
    assert load(blob)() == 2
    assert shipped.current()[0] == again


def test_a_name_in_a_closure_that_is_not_bound_yet_is_no_hindrance() -> None:
    def make() -> Callable[[], Any]:
        def f() -> Any:
            return late

        if f is None:
            late = 1
        return f

    assert list(callables._contents(make())) == []  # type: ignore[arg-type]
    assert [name for _, name, _ in callables._references(make())] == []


def test_what_is_no_function_refers_to_nothing() -> None:
    shipped = Shipped(functools.partial(max, 3))
    assert load(shipped.current()[1])(1) == 3
    assert shipped.current() is shipped.current()
