"""A Django project and a Flask app as their documentation lays them out, and signed messages between two programs."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.conftest import Sandbox

# ── Django ───────────────────────────────────────────────────────────────────────────────────────────────────────────

DJANGO = {
    "manage.py": """
        import os
        import sys

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
        from django.core.management import execute_from_command_line

        execute_from_command_line(sys.argv)
    """,
    "shop/__init__.py": """
        from .celery import app as celery_app

        __all__ = ("celery_app",)
    """,
    "shop/celery.py": """
        import os

        from zerocelery import Celery

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
        app = Celery("shop")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        app.autodiscover_tasks()

        @app.task(bind=True)
        def debug_task(self):
            return f"Request: {self.request.task}"
    """,
    "shop/settings.py": """
        from pathlib import Path

        SECRET_KEY = "only a test"
        USE_TZ = True
        TIME_ZONE = "Europe/Prague"
        INSTALLED_APPS = ["orders.apps.OrdersConfig"]
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3",
                                 "NAME": Path(__file__).parent.parent / "db.sqlite3"}}
        CELERY_BROKER_URL = "zmq://%(node)s"
        CELERY_TASK_TRACK_STARTED = True
        CELERY_TASK_TIME_LIMIT = 60
    """,
    "orders/__init__.py": "",
    "orders/apps.py": """
        from django.apps import AppConfig

        class OrdersConfig(AppConfig):
            name = "orders"
    """,
    "orders/models.py": """
        from django.db import models

        class Order(models.Model):
            title = models.CharField(max_length=50)
            paid = models.BooleanField(default=False)
    """,
    "orders/tasks.py": """
        from celery_name import shared_task

        from .models import Order

        @shared_task
        def count_orders():
            return Order.objects.count()

        @shared_task
        def pay(pk):
            return Order.objects.filter(pk=pk).update(paid=True)
    """,
    "celery_name.py": "from zerocelery import shared_task",
    "use.py": """
        import os

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
        import django

        django.setup()
        from django.db import transaction
        from orders.models import Order
        from orders.tasks import count_orders, pay
        from shop.celery import app, debug_task
        from zerocelery.signals import after_task_publish

        print(debug_task.delay().get(timeout=20))
        print("before:", count_orders.delay().get(timeout=20))

        sent = []
        after_task_publish.connect(lambda headers, **kwargs: sent.append(headers["id"]), weak=False)
        with transaction.atomic():
            order = Order.objects.create(title="a book")
            print("on commit:", pay.delay_on_commit(order.pk), len(sent))
        print("committed:", len(sent), app.AsyncResult(sent[0]).get(timeout=20))
        order.refresh_from_db()
        print("paid:", order.paid, "orders:", count_orders.apply_async().get(timeout=20))
        sent.clear()
        try:
            with transaction.atomic():
                pay.delay_on_commit(order.pk)
                raise RuntimeError
        except RuntimeError:
            print("rolled back:", len(sent))
        print(app.conf.task_track_started, app.conf.timezone, app.conf.task_time_limit)
        app.close()
    """,
}


def test_a_django_project(sandbox: Sandbox) -> None:
    pytest.importorskip("django")
    for name, source in DJANGO.items():
        (sandbox.home / name).parent.mkdir(exist_ok=True)
        sandbox.write(name, source.replace("%(node)s", str(sandbox.node_dir)))
    for command in (["makemigrations", "orders"], ["migrate"]):
        migrating = sandbox.python("manage.py", *command)
        assert migrating.wait(30) == 0, sandbox.output(migrating)

    worker = sandbox.python("-m", "zerocelery", "-A", "shop", "worker", "-c", "1")
    sandbox.wait_for_output(worker, "ready.")
    using = sandbox.python("use.py")
    code = using.wait(60)
    said = sandbox.output(using)
    worker.terminate()
    worker.wait(20)

    assert code == 0, said + sandbox.output(worker)
    assert said.splitlines() == [
        "Request: shop.celery.debug_task",
        "before: 0",
        "on commit: None 0",
        "committed: 1 1",
        "paid: True orders: 1",
        "rolled back: 0",
        "True Europe/Prague 60",
    ]


# ── Flask ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FLASK = {
    "site_app.py": """
        from flask import Flask, current_app, request

        from zerocelery import Celery, Task, shared_task
        from zerocelery.result import AsyncResult

        def celery_init_app(app: Flask) -> Celery:
            class FlaskTask(Task):
                def __call__(self, *args: object, **kwargs: object) -> object:
                    with app.app_context():
                        return self.run(*args, **kwargs)

            celery_app = Celery(app.name, task_cls=FlaskTask)
            celery_app.config_from_object(app.config["CELERY"])
            celery_app.set_default()
            app.extensions["celery"] = celery_app
            return celery_app

        @shared_task(ignore_result=False)
        def add_together(a: int, b: int) -> int:
            return a + b + current_app.config["OFFSET"]

        def create_app() -> Flask:
            app = Flask(__name__)
            app.config.from_mapping(
                OFFSET=1000,
                CELERY=dict(broker_url="zmq://%(node)s", result_backend="zmq://%(node)s", task_ignore_result=True),
            )
            app.config.from_prefixed_env()
            celery_init_app(app)

            @app.post("/add")
            def start_add() -> dict[str, object]:
                result = add_together.delay(request.form.get("a", type=int), request.form.get("b", type=int))
                return {"result_id": result.id}

            @app.get("/result/<id>")
            def task_result(id: str) -> dict[str, object]:
                result = AsyncResult(id)
                return {"ready": result.ready(), "successful": result.successful(),
                        "value": result.result if result.ready() else None}

            return app
    """,
    "make_celery.py": """
        from site_app import create_app

        flask_app = create_app()
        celery_app = flask_app.extensions["celery"]
    """,
    "use.py": """
        import time

        from site_app import create_app

        app = create_app()
        client = app.test_client()
        task_id = client.post("/add", data={"a": 1, "b": 2}).json["result_id"]
        deadline = time.monotonic() + 20
        while not (answer := client.get(f"/result/{task_id}").json)["ready"] and time.monotonic() < deadline:
            time.sleep(0.02)
        print(answer["successful"], answer["value"])
        app.extensions["celery"].close()
    """,
}


def test_a_flask_app(sandbox: Sandbox) -> None:
    pytest.importorskip("flask")
    for name, source in FLASK.items():
        sandbox.write(name, source.replace("%(node)s", str(sandbox.node_dir)))

    worker = sandbox.python("-m", "zerocelery", "-A", "make_celery", "worker", "-c", "1")
    sandbox.wait_for_output(worker, "ready.")
    using = sandbox.python("use.py")
    code = using.wait(60)
    worker.terminate()
    worker.wait(20)

    assert code == 0, sandbox.output(using)
    assert sandbox.output(using).splitlines() == ["True 1003"]


# ── signed messages ──────────────────────────────────────────────────────────────────────────────────────────────────


def certificate(home: Path, name: str) -> None:
    """Write a key and its certificate: ``name.key`` and ``name.pem``."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (home / f"{name}.key").write_bytes(key.private_bytes(pem, form, plain))
    (home / f"{name}.pem").write_bytes(signed.public_bytes(pem))


SIGNED = """
import sys
from zerocelery import Celery

app = Celery("proj", broker="zmq://{node}")
app.conf.update(
    task_serializer="auth", result_serializer="json", accept_content=["auth"], result_accept_content=["json"],
    security_key="{home}/{who}.key", security_certificate="{home}/{who}.pem", security_cert_store="{home}/known/*.pem",
)
app.setup_security()

@app.task
def add(x, y):
    return x + y
"""


def test_a_worker_reads_only_what_somebody_it_knows_has_signed(
    sandbox: Sandbox, running_worker: Callable[..., str]
) -> None:
    pytest.importorskip("cryptography")
    (sandbox.home / "known").mkdir()
    for who in ("worker", "friend", "stranger"):
        certificate(sandbox.home, who)
    (sandbox.home / "known" / "friend.pem").write_bytes((sandbox.home / "friend.pem").read_bytes())
    settings = {"node": sandbox.node_dir, "home": sandbox.home}
    running_worker(SIGNED.format(**settings, who="worker"), "-c", "1")
    ask = """
        from {module} import app, add
        try:
            print(add.delay(1, 2).get(timeout=20))
        except Exception as error:
            print(type(error).__name__)
        app.close()
    """
    for who in ("friend", "stranger"):
        sandbox.write(f"{who}.py", SIGNED.format(**settings, who=who).replace('Celery("proj"', f'Celery("{who}"'))
    for who in ("friend", "stranger"):
        text = (sandbox.home / f"{who}.py").read_text().replace("@app.task", '@app.task(name="proj.add")')
        (sandbox.home / f"{who}.py").write_text(text)

    assert sandbox.run(ask.format(module="friend")).strip() == "3"
    assert sandbox.run(ask.format(module="stranger")).strip() in ("SecurityError", "ContentDisallowed", "DecodeError")
