"""Beat sends what is due, when it is due, to the node; and remembers over a restart what ran."""

from __future__ import annotations

import contextlib
import errno
import shelve
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_until
from zerocelery import Celery
from zerocelery.beat import BeatLazyFunc, PersistentScheduler, ScheduleEntry, Scheduler, Service
from zerocelery.schedules import crontab, schedule

PROJECT = """
from pathlib import Path
from zerocelery import Celery

app = Celery("proj")
HOME = Path(__file__).parent

@app.task(bind=True)
def note(self, text):
    with (HOME / "notes").open("a") as file:
        file.write(f"{text} {self.request.headers or {}}\\n")

@app.on_after_configure.connect
def periodic(sender, **kwargs):
    sender.add_periodic_task(0.1, note.s("often"), name="often")
    sender.add_periodic_task(3600, note.s("seldom"), name="seldom")
"""


class Clock:
    """The time, as a test says it is."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, 0, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now


class Noting(Scheduler):
    """Notes what it would send."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[tuple[Any, ...]] = []
        super().__init__(*args, **kwargs)

    def send_task(self, *args: Any, **kwargs: Any) -> None:
        self.sent.append((*args, kwargs))


@pytest.fixture
def app() -> Iterator[Celery]:
    with Celery("beat", set_as_current=False) as app:
        app.conf.result_expires = None
        yield app


def run_until_idle(scheduler: Scheduler) -> float:
    """Send all that is due; gives the seconds until something is."""
    for _ in range(100):
        wait = scheduler.tick()
        if wait > 0:
            return wait
    raise AssertionError("the scheduler finds no end")


def test_each_entry_is_sent_when_it_is_due_and_not_before(app: Celery) -> None:
    clock = Clock()
    scheduler = Noting(app)
    scheduler.add(name="a", task="a", schedule=schedule(10, nowfun=clock, app=app))
    scheduler.add(name="b", task="b", schedule=schedule(25, nowfun=clock, app=app))
    for _ in range(100):
        clock.now += timedelta(seconds=1)
        run_until_idle(scheduler)
    assert [name for name, *_ in scheduler.sent].count("a") == 10
    assert [name for name, *_ in scheduler.sent].count("b") == 4


def test_beat_says_how_long_nothing_is_due(app: Celery) -> None:
    clock = Clock()
    scheduler = Noting(app)
    scheduler.add(name="a", task="a", schedule=crontab(minute=2, nowfun=clock, app=app))
    assert run_until_idle(scheduler) == pytest.approx(120, abs=0.1)
    assert scheduler.max_interval == 300


def test_a_run_that_was_missed_is_sent_once(app: Celery) -> None:
    clock = Clock()
    scheduler = Noting(app)
    scheduler.add(
        name="a", task="a", schedule=schedule(10, nowfun=clock, app=app), last_run_at=clock.now - timedelta(days=1)
    )
    run_until_idle(scheduler)
    assert len(scheduler.sent) == 1


def test_arguments_may_be_computed_when_they_are_sent(app: Celery) -> None:
    scheduler = Noting(app)
    entry = scheduler.add(name="a", task="a", schedule=10, args=(BeatLazyFunc(max, 3, 4),), options={"queue": "q"})
    scheduler.apply_entry(entry)
    (_, args, kwargs, options) = scheduler.sent[0]
    assert (args, kwargs) == ([4], {})
    assert options["queue"] == "q"
    assert options["headers"] == {"celery_beat_task": True}


def test_an_entry_whose_schedule_raises_does_not_keep_others_from_running(app: Celery) -> None:
    class Broken(schedule):
        def is_due(self, last_run_at: datetime) -> Any:
            raise RuntimeError("no idea")

    clock = Clock()
    scheduler = Noting(app)
    scheduler.add(name="broken", task="broken", schedule=Broken(1, app=app))
    scheduler.add(name="a", task="a", schedule=schedule(1, nowfun=clock, app=app))
    clock.now += timedelta(seconds=2)
    run_until_idle(scheduler)
    assert [name for name, *_ in scheduler.sent] == ["a"]


def test_what_ran_is_remembered_and_what_was_taken_out_of_the_settings_is_forgotten(
    app: Celery, tmp_path: Path
) -> None:
    file = str(tmp_path / "schedule")
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 10}, "b": {"task": "b", "schedule": 10}}
    first = PersistentScheduler(app, schedule_filename=file)
    first.reserve(first.schedule["a"])
    first.close()
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 20}}
    second = PersistentScheduler(app, schedule_filename=file)
    assert list(second.schedule) == ["a"]
    entry: ScheduleEntry = second.schedule["a"]
    assert (entry.total_run_count, entry.schedule) == (1, schedule(20))
    second.close()


def test_a_file_that_is_no_schedule_is_made_anew(app: Celery, tmp_path: Path) -> None:
    file = tmp_path / "schedule"
    for suffix in PersistentScheduler.known_suffixes:
        file.with_name(f"schedule{suffix}").write_bytes(b"\x00not a database")
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 10}}
    scheduler = PersistentScheduler(app, schedule_filename=str(file))
    assert list(scheduler.schedule) == ["a"]
    scheduler.close()


def test_a_file_that_another_process_uses_is_left_alone(app: Celery, tmp_path: Path) -> None:
    file = tmp_path / "schedule"
    file.write_text("another's")

    class Locked(PersistentScheduler):
        class persistence:
            @staticmethod
            def open(*args: Any, **kwargs: Any) -> Any:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with pytest.raises(BlockingIOError):
        Locked(app, schedule_filename=str(file))
    assert file.read_text() == "another's"


def test_what_ran_is_forgotten_where_the_times_mean_something_else(
    app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = str(tmp_path / "schedule")
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 10}}
    first = PersistentScheduler(app, schedule_filename=file)
    first.reserve(first.schedule["a"])
    first.close()
    app.conf.timezone = "Europe/Oslo"
    second = PersistentScheduler(app, schedule_filename=file)
    assert second.schedule["a"].total_run_count == 0
    assert "of another tz" in caplog.text
    second.close()
    second.close()  # once more is fine


def test_entries_that_cannot_be_read_are_begun_anew(
    app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = str(tmp_path / "schedule")
    app.conf.beat_schedule = {"a": {"task": "a", "schedule": 10}}
    PersistentScheduler(app, schedule_filename=file).close()
    with shelve.open(file) as store:
        cast("Any", store).dict[b"entries"] = b"no pickle"
    scheduler = PersistentScheduler(app, schedule_filename=file)
    assert list(scheduler.schedule) == ["a"]
    assert "can't be read" in caplog.text
    scheduler.close()


def test_a_beat_that_is_stuck_does_not_answer() -> None:
    stuck, go_on = threading.Event(), threading.Event()

    class MayGetStuck(Scheduler):
        def tick(self) -> float:
            if stuck.is_set():
                go_on.wait(PATIENCE)
            return 0.05

    with Celery("asked", broker="memory://", set_as_current=False) as app:
        app.conf.result_expires = None
        app.conf.beat_remote_control_max_tick_age = 0.5
        service = Service(app, scheduler_cls=MayGetStuck, remote_control=True, hostname="beat@h")
        thread = threading.Thread(target=service.start)
        thread.start()

        def answers() -> list[Any]:
            # Longer than the second after which a thread at memory:// looks again: an answer that comes too late is the
            # one that the next ping gets, and takes for none.
            found: list[Any] = app.control.ping(destination=["beat@h"], timeout=2.0)
            return found

        try:
            wait_until(lambda: answers() == [{"beat@h": {"ok": "pong"}}], what="an answer")
            assert app.control.ping(destination=["another@h"], timeout=0.1) == []
            assert app.control.inspect(destination=["beat@h"], timeout=0.1).stats() is None, "it knows but one command"
            stuck.set()
            wait_until(lambda: answers() == [], what="silence")
        finally:
            go_on.set()
            service.stop()
            thread.join(PATIENCE)
        assert not thread.is_alive()


def notes(sandbox: Sandbox) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return (sandbox.home / "notes").read_text().splitlines()
    return []


def beat(sandbox: Sandbox, *options: str) -> Any:
    return sandbox.python("-m", "zerocelery", "-A", "proj", "beat", "-l", "DEBUG", *options)


def test_the_command_sends_to_the_node_and_stores_what_ran_when_it_is_told_to_end(sandbox: Sandbox) -> None:
    sandbox.write("proj.py", PROJECT)
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-c", "1")
    process = beat(sandbox, "-s", "ran", "--pidfile", "beat.pid")
    wait_until(lambda: len(notes(sandbox)) >= 3, what="three periodic runs")
    assert {note.split()[0] for note in notes(sandbox)} == {"often"}
    second = beat(sandbox, "-s", "other", "--pidfile", "beat.pid")
    assert second.wait(PATIENCE) == 2
    assert "beat.pid is there already" in sandbox.output(second)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, sandbox.output(process)
    assert not (sandbox.home / "beat.pid").exists()
    with shelve.open(str(sandbox.home / "ran")) as store:
        assert store["entries"]["often"].total_run_count >= 3
        assert store["entries"]["seldom"].total_run_count == 0
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0, sandbox.output(worker)


def test_a_program_runs_beat_by_itself(sandbox: Sandbox) -> None:
    sandbox.write("proj.py", PROJECT)
    worker = sandbox.python("-m", "zerocelery", "-A", "proj", "worker", "-c", "1")
    process = sandbox.script(
        "from proj import app\napp.Beat(schedule='ran', pidfile='beat.pid', loglevel='INFO').run()\n"
    )
    wait_until(lambda: len(notes(sandbox)) >= 2, what="two periodic runs")
    output = sandbox.output(process)
    assert "celery beat is starting." in output
    assert "    . db -> ran" in output
    assert (sandbox.home / "beat.pid").read_text() == f"{process.pid}\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, sandbox.output(process)
    assert not (sandbox.home / "beat.pid").exists()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0, sandbox.output(worker)


def test_a_scheduler_that_is_not_there_is_named(sandbox: Sandbox) -> None:
    sandbox.write("proj.py", PROJECT)
    process = beat(sandbox, "-S", "nowhere:Scheduler")
    assert process.wait(PATIENCE) == 2
    assert "there is no scheduler 'nowhere:Scheduler'" in sandbox.output(process)
