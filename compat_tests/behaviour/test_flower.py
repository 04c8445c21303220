"""Flower, unmodified: it shows workers and tasks, and what is asked of it reaches them.

Its pages are looked at in a browser: Debian's ``chromium`` and ``chromium-driver``. ``FLOWER_SCREENSHOTS=directory``
has it leave a picture of each page there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.conftest import PATIENCE, Sandbox, wait_until

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("flower") is None,
        reason="Flower is not installed: pip install --no-deps 'flower==2.*'",
    ),
    pytest.mark.timeout(120),
]

PROJECT = """
import time
from zerocelery import Celery

app = Celery("proj")
app.conf.worker_pool_restarts = True

@app.task
def add(x, y):
    return x + y

@app.task
def sleep(seconds):
    time.sleep(seconds)

@app.task
def fail():
    raise ValueError("boom")

@app.task(bind=True)
def again(self):
    raise self.retry(countdown=600, exc=OSError("not yet"))
"""

NAME = f"w1@{socket.gethostname()}"


class Flower:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What it answers; None where it doesn't (yet)."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=PATIENCE) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        return json.loads(text) if path.startswith("/api/") else text


@pytest.fixture
def flower(sandbox: Sandbox, running_worker: Callable[..., str]) -> Iterator[Flower]:
    """Flower beside a worker that sends events."""
    url = running_worker(PROJECT, "-c", "2", "-E", "-n", "w1@%h")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    program = str(Path(sys.executable).with_name("zerocelery-run"))
    process = sandbox.start(
        program, "flower", "-A", "proj", "-b", url, "--address=127.0.0.1", f"--port={port}",
        env={"FLOWER_UNAUTHENTICATED_API": "true"},
    )  # fmt: skip
    found = Flower(port)
    try:
        wait_until(lambda: found.ask("/api/workers?refresh=1"), timeout=60, what="a worker in Flower")
        yield found
    finally:
        print(sandbox.output(process))
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_it_shows_workers_and_tasks_and_can_apply_and_revoke(flower: Flower) -> None:
    workers = flower.ask("/api/workers?refresh=1")
    assert list(workers) == [NAME]
    assert {"proj.add", "proj.sleep"} <= set(workers[NAME]["registered"])
    assert workers[NAME]["stats"]["pool"]["max-concurrency"] == 2
    assert flower.ask("/api/task/apply/proj.add", {"args": [1, 2]})["result"] == 3
    task = flower.ask("/api/task/async-apply/proj.sleep", {"args": [60]})["task-id"]

    def state() -> str:
        return str((flower.ask(f"/api/task/info/{task}") or {}).get("state"))

    wait_until(lambda: state() == "STARTED", what="the start of the task")
    assert "Revoked" in flower.ask(f"/api/task/revoke/{task}?terminate=true", {})["message"]
    wait_until(lambda: state() == "REVOKED", what="its end")
    assert {found["name"] for found in flower.ask("/api/tasks").values()} == {"proj.add", "proj.sleep"}
    assert NAME in flower.ask("/workers")


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Browser:
    """Flower's pages, as somebody sees and clicks them."""

    def __init__(self, driver: Any, port: int) -> None:
        self.driver = driver
        self.base = f"http://127.0.0.1:{port}"

    def open(self, path: str) -> None:
        self.driver.get(self.base + path)

    def text(self, selector: str = "body") -> str:
        """What can be read there; "" where there is nothing, or it is just being replaced."""
        from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

        try:
            return " ".join(str(self.driver.find_element("css selector", selector).text).split())
        except (NoSuchElementException, StaleElementReferenceException):
            return ""

    def wait_for(self, text: str, selector: str = "body") -> None:
        try:
            wait_until(lambda: text in self.text(selector))
        except AssertionError:
            pytest.fail(f"no {text!r} in {selector}, which is: {self.text(selector)}")

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def follow(self, link: str) -> None:
        """Click on the link of this text."""
        self.driver.find_element("link text", link).click()

    def write(self, selector: str, text: str) -> None:
        field = self.driver.find_element("css selector", selector)
        field.clear()
        field.send_keys(text)

    def told(self, text: str) -> None:
        """Wait until the page says that something was done; the saying is then put away."""
        self.wait_for(text, "#toast-container")
        self.driver.execute_script("document.querySelector('#toast-container').replaceChildren()")

    def tab(self, name: str) -> str:
        """Open a tab of a worker's page, and read it."""
        self.click(f"#worker-tab-{name}")
        wait_until(lambda: self.text(f"#tab-{name}"), what=f"the tab {name}")
        self.picture(f"worker-{name}")
        return self.text(f"#tab-{name}")

    def picture(self, name: str) -> None:
        """Leave a picture for people, where one is wanted."""
        directory = os.environ.get("FLOWER_SCREENSHOTS")
        if directory:
            self.driver.save_screenshot(f"{directory}/{name}.png")


@pytest.fixture
def browser(flower: Flower, tmp_path: Path) -> Iterator[Browser]:
    """Chromium, with no window."""
    if importlib.util.find_spec("selenium") is None:
        pytest.skip("Selenium is not installed: pip install selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("there is no chromium with its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    # As root (in a container) chromium starts without its sandbox only; /dev/shm may be small there.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path}/chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as started:  # which quits at the end
        yield Browser(started, flower.port)


def test_its_pages_show_a_worker_and_its_tasks_and_their_buttons_work(
    flower: Flower, browser: Browser, sandbox: Sandbox
) -> None:
    def send(task: str, *args: Any) -> str:
        return str(flower.ask(f"/api/task/async-apply/proj.{task}", {"args": args})["task-id"])

    added, failed, retried, slept = send("add", 20, 22), send("fail"), send("again"), send("sleep", 600)
    later = flower.ask("/api/task/async-apply/proj.add", {"args": [1, 1], "countdown": 3600})["task-id"]

    # All workers: how many tasks each runs and has run.
    browser.open("/")
    browser.wait_for(f"{NAME} Online 1 4 1 1", "#workers-table")
    browser.picture("workers")

    # One worker: what it is made of.
    browser.follow(NAME)
    pool = browser.tab("pool")
    for told in ("Implementation", "prefork:TaskPool", "Max concurrency 2", "Worker PID", "Prefetch Count 8"):
        assert told in pool, pool
    broker = browser.tab("broker")
    assert f"Hostname {sandbox.url}" in broker
    assert "Transport zmq" in broker
    assert "celery False True celery False" in browser.tab("queues")
    tasks = browser.tab("tasks")
    for told in ("proj.add 1", "proj.fail 1", f"proj.sleep {slept} True", "(600,)", later):
        assert told in tasks, tasks
    assert "proj.again" in browser.tab("limits")
    assert sandbox.url in browser.tab("config")
    assert "maxrss" in browser.tab("system")
    assert "uptime" in browser.tab("other")

    # It grows, takes up a queue and a limit.
    browser.tab("pool")
    browser.click("#worker-pool-grow")
    browser.told("Growing")
    browser.tab("limits")
    browser.driver.find_element("css selector", "#limits-table input[aria-label='Rate limit for proj.add']").send_keys(
        "5"
    )
    browser.click("[id='task-rate-limit-proj.add']")
    browser.told("rate limit")
    browser.tab("queues")
    browser.write("#add-consumer-name", "extra")
    browser.click("#worker-add-consumer")
    browser.told("extra")
    wait_until(lambda: flower.ask(f"/api/workers?refresh=1&workername={NAME}"), what="a fresh look")
    browser.driver.refresh()
    assert "Max concurrency 3" in browser.tab("pool")
    assert "extra" in browser.tab("queues")
    assert "proj.add [rate_limit=5]" in browser.tab("limits")

    # All tasks.
    browser.open("/tasks")
    browser.wait_for(added, "#tasks-table")
    shown = browser.text("#tasks-table")
    for task, name, state in (
        (added, "add", "SUCCESS"), (failed, "fail", "FAILURE"), (retried, "again", "RETRY"), (slept, "sleep", "STARTED")
    ):  # fmt: skip
        assert f"proj.{name} {task} {state}" in shown, shown
    browser.picture("tasks")

    # One task, of each kind.
    browser.follow(added)
    browser.wait_for("SUCCESS")
    page = browser.text()
    browser.picture("task")
    for told in ("proj.add", "(20, 22)", "42", "Runtime", NAME):
        assert told in page, page
    browser.open(f"/task/{failed}")
    browser.wait_for("ValueError: boom")
    browser.picture("task-failed")

    # One that runs is ended, one that waits for its next try is revoked, by the buttons of their pages.
    for task, button in ((slept, "#task-terminate"), (retried, "#task-revoke")):
        browser.open(f"/task/{task}")
        browser.click(button)
        browser.told("Revoked")

        def revoked(task: str = task) -> bool:
            browser.open(f"/task/{task}")
            return "REVOKED" in browser.text()

        wait_until(revoked, what=f"the end of {task}")

    # The worker is sent home.
    browser.open(f"/worker/{NAME}")
    browser.click("#worker-group")
    browser.click("#worker-shutdown")
    browser.told("Shutting down")
    wait_until(lambda: sandbox.processes[0].poll() is not None, what="the worker's end")
    browser.open("/")
    browser.wait_for("Offline", "#workers-table")
    assert [entry for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"] == []
