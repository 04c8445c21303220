"""Programs that are run under stock Celery and under zerocelery: what they find is to be the same.

Each program in ``programs/`` imports ``celery`` and prints what it finds. Run under stock Celery, on its in-memory
broker, that is measured and kept in ``side_by_side.json``; run under zerocelery it is compared with that. After a
change of a program, with the interpreter of the upstream suite, which has Celery installed:

    python -m compat_tests.behaviour.side_by_side --record

``DIFFERENCES`` lists what is meant to differ, with the reason.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORDED = HERE / "side_by_side.json"

Side = Literal["zerocelery", "celery"]

#: Path in the facts (with ``*``) → why it differs.
DIFFERENCES = {
    "messages/argsrepr*/properties/*": "Celery sends argsrepr and kwargsrepr as properties, too; nothing reads them",
    "messages/e*/properties/expiration": "milliseconds from now",
    "signals/reject/heard*": "Celery's worker tells of the failure after the pool's process has told the rest",
    "signals/reject/outcome*": "a rejected task has a traceback here",
    "events/retry*/fields/exception": "Celery tells the Retry, this the exception that it was for",
}


def programs() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in (HERE / "programs").glob("*.py") if path.stem not in ("__init__", "common"))


def stock_python() -> Path | None:
    """An interpreter that has stock Celery; None where there is none yet."""
    from compat_tests.upstream import fetch

    found = Path(os.environ.get("ZEROCELERY_STOCK_PYTHON") or fetch.cache() / "venv" / "bin" / "python")
    return found if found.exists() else None


def run(program: str, *, side: Side, broker: str, home: Path, timeout: float = 50) -> dict[str, Any]:
    """What a program finds.

    Arguments:
        broker: ``memory://`` or a node's address.
        home: where nodes live.
    """
    python = stock_python() if side == "celery" else Path(sys.executable)
    assert python is not None, "there is no stock Celery: run python -m compat_tests.upstream once"
    startup = [str(ROOT / "zerocelery" / "_startup")] if side == "zerocelery" else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*startup, str(ROOT)]),
        "PYTHONHASHSEED": "0",
        "ZEROCELERY_HOME": str(home),
        "SIDE_BROKER": broker,
        "SIDE_BACKEND": "cache+memory://" if broker == "memory://" else broker,
        "C_FORCE_ROOT": "1",
    }
    done = subprocess.run(
        [str(python), "-W", "ignore", "-m", f"compat_tests.behaviour.programs.{program}"],
        cwd=home, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("FACTS ")]
    assert told, f"{program} under {side} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    facts: dict[str, Any] = json.loads(told[0].removeprefix("FACTS "))
    return facts


def recorded() -> dict[str, Any]:
    """What stock Celery gave, by program."""
    found: dict[str, Any] = {}
    for path, fact in json.loads(RECORDED.read_text()).items():
        program, _, case = path.partition("/")
        found.setdefault(program, {})[case] = fact
    return found


def differences(program: str, celery: Any, ours: Any) -> dict[str, str]:
    """What differs and is not meant to, by path."""
    return {
        path: why
        for path, why in _compare(celery, ours, program)
        if not any(fnmatch.fnmatchcase(path, pattern) for pattern in DIFFERENCES)
    }


def _compare(celery: Any, ours: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(celery, dict) and isinstance(ours, dict):
        for key in sorted({*celery, *ours}):
            if key not in celery or key not in ours:
                yield f"{path}/{key}", f"only {'zerocelery' if key in ours else 'Celery'} has it"
            else:
                yield from _compare(celery[key], ours[key], f"{path}/{key}")
    elif isinstance(celery, list) and isinstance(ours, list) and len(celery) == len(ours):
        for place, (theirs, own) in enumerate(zip(celery, ours, strict=True)):
            yield from _compare(theirs, own, f"{path}[{place}]")
    elif celery != ours:
        yield path, f"Celery: {celery!r}; zerocelery: {ours!r}"


def main() -> None:
    """Measure stock Celery, and write it down."""
    import tempfile

    if "--record" not in sys.argv:
        sys.exit("say --record to measure stock Celery anew")
    with tempfile.TemporaryDirectory() as home:
        facts = {name: run(name, side="celery", broker="memory://", home=Path(home)) for name in programs()}
    lines = [
        f"  {json.dumps(case)}: {json.dumps(found, sort_keys=True)}"
        for case, found in sorted((f"{name}/{case}", found) for name in facts for case, found in facts[name].items())
    ]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(lines)} facts of {len(facts)} programs")


if __name__ == "__main__":
    main()
