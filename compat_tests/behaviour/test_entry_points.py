"""What an installed package offers by Celery's entry points is honoured: backends, schedulers and commands."""

from __future__ import annotations

import json

from compat_tests.conftest import PATIENCE, Sandbox, wait_until, worker_process

PLUGIN = """
import json, pathlib

import click

from zerocelery.backends.base import KeyValueStoreBackend
from zerocelery.beat import Scheduler


class Shelf(KeyValueStoreBackend):
    '''Results as files in the directory that the URL names.'''

    def __init__(self, *args, url=None, **options):
        super().__init__(*args, url=url, **options)
        self.place = pathlib.Path(url.partition("://")[2])

    def get(self, key):
        try:
            return (self.place / self.key_t(key).decode()).read_bytes()
        except FileNotFoundError:
            return None

    def set(self, key, value):
        path = self.place / self.key_t(key).decode()
        path.with_suffix(".new").write_text(value if isinstance(value, str) else value.decode())
        path.with_suffix(".new").rename(path)

    def delete(self, key):
        (self.place / self.key_t(key).decode()).unlink(missing_ok=True)


class Eager(Scheduler):
    '''Sends one task of its own as soon as it is set up.'''

    def setup_schedule(self):
        self.update_from_dict({"mine": {"task": "proj.add", "args": (20, 22), "schedule": 3600.0,
                                        "options": {"task_id": "sent-by-the-plugin", "countdown": 0}}})
        next(iter(self.schedule.values())).last_run_at = self.app.now().replace(year=2001)


@click.command()
@click.argument("whom")
def greet(whom):
    click.echo(f"hello, {whom}")
"""

TASKS = """
from zerocelery import Celery

app = Celery("proj", broker={broker!r}, backend={backend!r})

@app.task
def add(x, y):
    return x + y
"""


def install(box: Sandbox) -> None:
    """Put the plugin where an installed distribution would be: beside its metadata, on the path of all processes."""
    box.write("shelf_plugin.py", PLUGIN)
    info = box.home / "shelf_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[celery.result_backends]\nshelf = shelf_plugin:Shelf\n"
        "[celery.beat_schedulers]\nimpatient = shelf_plugin:Eager\n"
        "[celery.commands]\ngreet = shelf_plugin:greet\n"
    )


def test_backends_schedulers_and_commands_of_an_installed_package(sandbox: Sandbox) -> None:
    install(sandbox)
    shelf = sandbox.home / "results"
    shelf.mkdir()
    source = TASKS.format(broker=sandbox.url, backend=f"shelf://{shelf}")
    command = ["-m", "zerocelery", "-A", "proj"]
    with worker_process(sandbox, source, "-c", "1"):
        # the backend: worker and client find it by the URL's scheme
        told = sandbox.run("import proj; r = proj.add.delay(1, 2); print(r.get(timeout=15), type(r.backend).__name__)")
        assert told.split() == ["3", "Shelf"]

        # the scheduler: by its short name
        beat = sandbox.python(*command, "beat", "-S", "impatient", "-l", "INFO")
        kept = shelf / "celery-task-meta-sent-by-the-plugin"
        wait_until(kept.exists, what="the result of what the scheduler has sent")
        assert json.loads(kept.read_text())["result"] == 42
        beat.terminate()
        assert beat.wait(PATIENCE) == 0

    # the command: it is listed, and called
    greeting, listing = sandbox.python(*command, "greet", "world"), sandbox.python(*command, "--help")
    assert (greeting.wait(PATIENCE), listing.wait(PATIENCE)) == (0, 0)
    assert sandbox.output(greeting) == "hello, world\n"
    assert "greet" in sandbox.output(listing)
