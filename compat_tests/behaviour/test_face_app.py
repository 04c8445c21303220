"""The app: settings, tasks, names, laziness."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from zerocelery import Celery, Task, current_app, shared_task
from zerocelery.app.base import PendingConfiguration
from zerocelery.app.defaults import OPTIONS
from zerocelery.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("mine", set_as_current=False) as app:
        yield app


# settings


def test_every_setting_has_a_default_a_type_and_a_meaning(app: Celery) -> None:
    assert len(OPTIONS) >= 207
    for option in OPTIONS.values():
        assert option.doc
        assert option.type in {"string", "int", "float", "bool", "any", "dict", "tuple", "list", "bytes"}
        assert app.conf[option.name] == option.default or option.name in {
            "task_default_exchange",
            "task_default_routing_key",
        }


def test_settings_by_attribute_by_key_and_by_older_name(app: Celery) -> None:
    app.conf.finalize()
    app.conf.task_serializer = "yaml"
    app.conf["CELERY_RESULT_SERIALIZER"] = "pickle"
    app.conf.update(task_acks_late=True, my_own=1)

    assert app.conf["task_serializer"] == app.conf.CELERY_TASK_SERIALIZER == "yaml"
    assert app.conf.result_serializer == "pickle"
    assert app.conf.CELERY_ACKS_LATE is True
    assert app.conf.my_own == 1
    assert "task_routes" in app.conf
    assert "nonsense" not in app.conf
    with pytest.raises(AttributeError):
        _ = app.conf.nonsense
    assert app.conf.get("nonsense", 5) == 5


def test_new_and_old_names_together_are_refused_before_the_settings_are_read(app: Celery) -> None:
    app.conf.task_serializer = "yaml"
    app.conf.CELERY_RESULT_SERIALIZER = "pickle"

    with pytest.raises(ImproperlyConfigured, match=r"CELERY_RESULT_SERIALIZER +-> result_serializer"):
        _ = app.conf.task_serializer


def test_settings_from_a_module_with_a_namespace(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("face_settings")
    module.CELERY_TASK_SERIALIZER = "yaml"  # type: ignore[attr-defined]
    module.CELERY_BROKER_URL = "zmq:///from/module"  # type: ignore[attr-defined]
    module.DEBUG = True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "face_settings", module)
    app.config_from_object("face_settings", namespace="CELERY")

    assert app.conf.task_serializer == "yaml"
    assert app.conf.broker_url == "zmq:///from/module"


def test_what_is_set_wins_over_the_source_and_that_over_defaults(app: Celery) -> None:
    app.add_defaults({"task_serializer": "msgpack", "result_serializer": "msgpack", "event_serializer": "msgpack"})
    app.config_from_object({"task_serializer": "yaml", "result_serializer": "yaml"})
    app.conf.update(task_serializer="pickle")

    assert (app.conf.task_serializer, app.conf.result_serializer, app.conf.event_serializer) == (
        "pickle",
        "yaml",
        "msgpack",
    )


def test_old_and_new_names_in_one_source_are_refused(app: Celery) -> None:
    app.config_from_object({"task_serializer": "yaml", "task_routes": {}, "CELERY_RESULT_SERIALIZER": "yaml"})

    with pytest.raises(ImproperlyConfigured, match=r"CELERY_RESULT_SERIALIZER +-> result_serializer"):
        _ = app.conf.task_serializer


def test_the_environment_beats_everything(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.broker_url = "zmq:///a"
    monkeypatch.setenv("CELERY_BROKER_URL", "zmq:///b")

    assert app.conf.broker_url == "zmq:///b"


def test_a_dict_setting_belongs_to_its_app(app: Celery) -> None:
    app.conf.beat_schedule["x"] = {}

    assert Celery(set_as_current=False).conf.beat_schedule == {}


def test_settings_are_read_at_the_first_look_and_people_are_told() -> None:
    app = Celery(set_as_current=False)
    told = []
    app.on_configure.connect(lambda **kwargs: told.append("configure"), weak=False)
    app.on_after_configure.connect(lambda **kwargs: told.append("after"), weak=False)
    app.config_from_object(lambda: None)

    assert told == []
    _ = app.conf.task_serializer
    _ = app.conf.task_serializer
    assert told == ["configure", "after"]


def test_a_backend_that_nobody_knows_says_so() -> None:
    with pytest.raises(ImportError, match="nosuch"):  # what Celery raises
        _ = Celery(backend="nosuch://user:secret@host", set_as_current=False).backend


# tasks


def test_a_task_is_a_function_and_more(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        """Adds."""
        return x + y

    assert add(1, 2) == 3
    assert isinstance(add, Task)
    assert add.name == f"{__name__}.add"
    assert add.__doc__ == "Adds."
    assert add.__name__ == "add"
    assert add.__wrapped__(1, 2) == 3
    assert app.tasks[add.name] is add
    assert add.app is app
    assert add.max_retries == 3
    assert add.default_retry_delay == 180
    assert add.ignore_result is False
    assert add.request.called_directly
    assert pickle.dumps(add)


def test_options_become_attributes_and_settings_are_their_defaults(app: Celery) -> None:
    app.conf.update(task_acks_late=True, task_time_limit=30)

    @app.task(bind=True, name="n", max_retries=None, serializer="yaml", acks_late=None, custom="mine")
    def task(self: Any) -> Any:
        return self

    assert task() is task
    assert task.name == "n"
    assert task.max_retries is None
    assert task.serializer == "yaml"
    assert task.acks_late is True
    assert task.time_limit == 30
    assert task.custom == "mine"  # type: ignore[attr-defined]


def test_tasks_are_registered_when_somebody_looks(app: Celery) -> None:
    @app.task
    def lazy() -> None: ...

    @app.task(lazy=False)
    def eager() -> None: ...

    told = []
    app.on_after_finalize.connect(lambda **kwargs: told.append(True), weak=False)

    assert not app.finalized
    assert lazy.name in app.tasks
    assert app.finalized
    assert told == [True]
    with pytest.raises(NotRegistered):
        app.tasks["unknown"]


def test_an_app_that_may_not_finalise_itself() -> None:
    app = Celery(set_as_current=False, autofinalize=False)

    with pytest.raises(RuntimeError, match="Contract breach"):
        _ = app.tasks


def test_the_base_class_set_after_tasks_were_defined(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    class Base(app.Task):  # type: ignore[misc,name-defined]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ("based", self.run(*args, **kwargs))

    app.Task = Base

    assert isinstance(app.tasks[add.name], Base)
    assert add(1, 2) == ("based", 3)


def test_two_functions_under_one_name_are_warned_about(app: Celery) -> None:
    app.task(lambda: 1, name="twice", lazy=False)
    with pytest.warns(DuplicateTaskNameWarning, match="twice"):
        app.task(lambda: 2, name="twice", lazy=False)

    assert app.tasks["twice"]() == 1


def test_a_nameless_lambda_is_refused_at_once(app: Celery) -> None:
    with pytest.raises(SyntaxError):
        app.task(lambda: 1)


def test_shared_tasks_are_every_apps() -> None:
    before = Celery("before", set_as_current=False)
    before.finalize()

    @shared_task(name="face.shared")
    def shared(x: int) -> int:
        """Doubles."""
        return x * 2

    after = Celery("after", set_as_current=False)

    assert before.tasks["face.shared"](2) == after.tasks["face.shared"](2) == shared(2) == 4
    assert before.tasks["face.shared"] is not after.tasks["face.shared"]
    assert shared.__doc__ == "Doubles."
    assert shared.app == current_app


def test_including_modules(app: Celery, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "face_included.py").write_text("loaded = True\n")
    package = tmp_path / "face_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tasks.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    app.conf.include = ["face_included"]
    app.autodiscover_tasks(["face_package"])

    assert "face_included" not in sys.modules
    app.loader.import_default_modules()
    assert {"face_included", "face_package.tasks"} <= set(sys.modules)


def test_an_app_goes_through_pickle(app: Celery) -> None:
    app.conf.task_serializer = "yaml"
    twin = pickle.loads(pickle.dumps(app))

    assert (twin.main, twin.conf.task_serializer) == ("mine", "yaml")


def test_importing_an_app_imports_none_of_the_big_libraries() -> None:
    source = (
        "import sys\nfrom zerocelery import Celery\napp = Celery('x')\n@app.task\ndef f(): ...\n"
        "print(sorted({'zmq', 'msgspec', 'kombu', 'asyncio', 'logging', 'typing', 'inspect'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-S", "-c", source], capture_output=True, text=True, check=True)

    assert process.stdout.strip() == "[]"


# eager


def test_apply_runs_here(app: Celery) -> None:
    @app.task(bind=True)
    def add(self: Any, x: int, y: int) -> Any:
        return [x + y, self.request.is_eager, self.request.id]

    result = add.apply((1, 2), task_id="mine")

    assert result.get() == [3, True, "mine"]
    assert result.state == "SUCCESS"
    assert result.ready()


def test_eager_failures_and_retries(app: Celery) -> None:
    @app.task(bind=True, max_retries=2)
    def flaky(self: Any, wanted: int) -> int:
        if self.request.retries < wanted:
            raise self.retry(exc=ValueError("again"))
        return int(self.request.retries)

    assert flaky.apply((2,)).get() == 2
    failed = flaky.apply((9,))
    assert failed.state == "FAILURE"
    assert "ValueError: again" in failed.traceback
    with pytest.raises(ValueError, match="again"):
        failed.get()
    with pytest.raises(ValueError, match="again"):
        flaky.apply((9,), throw=True)


def test_always_eager(app: Celery) -> None:
    app.conf.update(task_always_eager=True)

    @app.task
    def kind(x: Any) -> str:
        return type(x).__name__

    assert kind.delay((1, 2)).get() == "list"
    app.conf.task_always_eager = False
    assert app.conf.task_always_eager is False


def test_retry_called_directly_raises_the_cause(app: Celery) -> None:
    @app.task(bind=True)
    def task(self: Any) -> None:
        raise self.retry(exc=KeyError("direct"))

    with pytest.raises(KeyError, match="direct"):
        task()


# signatures


def test_signatures_are_dicts_that_can_be_called(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    sig = add.s(2)

    assert sig == {
        "task": add.name,
        "args": (2,),
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    assert sig(1) == 3
    assert sig.clone((1,)).args == (1, 2)
    assert add.si(1, 2).clone((9,)).args == (1, 2)
    assert sig.set(countdown=5).options == {"countdown": 5}
    assert add.s(2).apply((1,)).get() == 3
    assert sig.link(add.s(1)) in sig.options["link"]
    assert repr(add.s(1, y=2)) == f"{add.name}(1, y=2)"


def test_pending_settings_are_made_when_one_is_read() -> None:
    made: list[int] = []
    kept: dict[str, Any] = {}

    def make() -> dict[str, Any]:
        made.append(1)
        return {"broker_url": "zmq://", **kept}

    conf = PendingConfiguration(kept, make)
    conf.task_serializer = "json"
    conf["timezone"] = "UTC"
    conf.update(enable_utc=True)
    assert made == []
    assert (conf.broker_url, conf.task_serializer, conf["timezone"]) == ("zmq://", "json", "UTC")
    conf.timezone = "Europe/Oslo"
    assert conf["timezone"] == "Europe/Oslo"
    assert made == [1]
    with pytest.raises(AttributeError, match="no setting 'nothing'"):
        conf.nothing  # noqa: B018


class Kept:
    """Pickled as what an attribute of its app makes."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __reduce_args__(self) -> tuple[int]:
        return (self.number,)


class KeepingApp(Celery):
    @property
    def kept(self) -> type[Kept]:
        made: type[Kept] = self.subclass_with_self(Kept, reverse="kept")
        return made


def test_an_object_of_an_app_is_pickled_as_what_its_app_has() -> None:
    with KeepingApp("keeps", set_as_current=False) as app:
        found = pickle.loads(pickle.dumps(app.kept(3)))
    assert (found.number, found.app.main, isinstance(found, Kept)) == (3, "keeps", True)


def test_apps_that_share_their_tasks_are_not_warned_of_the_built_in_ones(recwarn: pytest.WarningsRecorder) -> None:
    first = Celery("first", set_as_current=False)
    second = Celery("second", set_as_current=False, tasks=first.tasks)
    second.finalize()

    assert second.tasks is first.tasks
    assert not recwarn.list
    first.close()
    second.close()
