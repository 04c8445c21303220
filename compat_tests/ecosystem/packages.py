"""Which packages, in which version, and how their own tests are run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CELERY = "5.7.0"


@dataclass(frozen=True)
class Package:
    """One package whose own tests are to pass."""

    name: str
    version: str
    #: Where its tests are, if its source distribution has none: a repository, at the tag of the version.
    repository: str | None = None
    tag: str | None = None
    #: What its tests import, beside itself and pytest.
    requirements: tuple[str, ...] = ()
    #: The folder of its source in which pytest starts.
    folder: str = "."
    pytest: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Whether the tests empty a Redis: they get one of their own, whose URL this variable of the environment has.
    redis: str | None = None
    #: How it is installed, where not by its name and version.
    install: tuple[str, ...] | None = None
    #: Whether it says of itself that it is for older Celerys only, and so is installed without what it asks for.
    behind: bool = False


PACKAGES = (
    Package(
        "sentry-sdk",
        "2.75.0",
        requirements=(
            "pytest<9", "pytest-forked", "pytest-localserver", "pytest-asyncio", "jsonschema", "werkzeug",
            "executing", "asttokens", "redis", "pyyaml", "requests", "responses", "httpcore[http2]", "setuptools<80",
        ),
        pytest=("-o", "addopts=", "tests/integrations/celery"),
    ),
    Package(
        "django-celery-beat",
        "2.9.0",
        requirements=("pytest<9", "pytest-django<5", "ephem", "django<6"),
        pytest=("t",),
    ),
    Package(
        "django-celery-results",
        "2.6.0",
        requirements=("pytest<9", "pytest-django", "pytest-benchmark", "pytz", "django<6"),
        pytest=("t",),
    ),
    Package(
        "opentelemetry-instrumentation-celery",
        "0.66b1",
        requirements=("opentelemetry-test-utils==0.66b1", "opentelemetry-sdk"),
        pytest=("tests",),
    ),
    Package(
        "newrelic",
        "13.5.0",
        repository="https://github.com/newrelic/newrelic-python-agent",
        tag="v13.5.0",
        requirements=("webtest", "requests"),
        folder="tests/application_celery",
        pytest=("-p", "celery.contrib.pytest"),
        environment={"PYTHONPATH": "..", "NEW_RELIC_HOST": "staging-collector.newrelic.com"},
    ),
    Package(
        "elastic-apm",
        "6.26.2",
        repository="https://github.com/elastic/apm-agent-python",
        tag="v6.26.2",
        requirements=(
            "pytest<9", "mock", "flask", "blinker", "django<6", "pytest-django", "pytest-localserver", "werkzeug",
            "jsonschema", "pytz", "requests", "pytest-random-order", "structlog", "logbook", "psutil", "pytest-mock",
        ),
        pytest=("-o", "addopts=", "-m", "celery", "tests/contrib/django", "tests/contrib/celery"),
    ),
    Package(
        "celery-redbeat",
        "2.4.2",
        requirements=("fakeredis[lua]", "pytz", "python-dateutil"),
        pytest=("tests",),
    ),
    Package(
        "celery-once",
        "3.0.1",
        repository="https://github.com/cameronmaske/celery-once",
        tag="3.0.0",
        requirements=("pytest-mock", "fakeredis", "mock", "flask", "redis"),
        pytest=("-o", "addopts=", "--ignore=tests/unit/test_tasks.py", "tests"),
    ),
    Package(
        "celery-singleton",
        "0.3.1",
        repository="https://github.com/steinitzu/celery-singleton",
        tag="0.3.1",
        requirements=("redis",),
        pytest=("-o", "addopts=", "-p", "celery.contrib.pytest", "tests"),
        redis="CELERY_SINGLETON_TEST_REDIS_URL",
    ),
    Package(
        "celery-batches",
        "0.11",
        repository="https://github.com/clokep/celery-batches",
        tag="v0.11",
        pytest=("-p", "celery.contrib.pytest", "t"),
        behind=True,
    ),
    Package(
        "celery-exporter",
        "0.12.2",
        repository="https://github.com/danihodovic/celery-exporter",
        tag="v0.12.2",
        requirements=(
            "prometheus-client", "click", "pretty-errors", "loguru", "redis", "flask", "waitress", "arrow", "timy",
            "requests", "pytest-mock",
        ),
        install=(),
        pytest=("-o", "addopts=", "-p", "celery.contrib.pytest", "--broker=memory", "src"),
    ),
    Package(
        "django-structlog",
        "10.1.0",
        repository="https://github.com/jrobichaud/django-structlog",
        tag="10.1.0",
        requirements=(
            "django<6", "pytest-django", "colorama", "django-environ", "django-redis", "django-extensions",
            "factory-boy", "pytest-cov", "redis", "psycopg[binary]", "django-crispy-forms", "crispy-bootstrap5",
            "django-allauth", "djangorestframework",
        ),
        pytest=("test_app/tests/celery",),
    ),
)  # fmt: skip
