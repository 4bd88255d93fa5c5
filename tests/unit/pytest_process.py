"""pytest on the suite, in a process of its own, and what it saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CELLS = ("tests/test_forward.py", "tests/test_backward.py")


def pytest_run(*arguments, expect=0, cwd=ROOT):
    """Run pytest on the suite in a process of its own; returns stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    text = done.stdout + done.stderr
    assert done.returncode == expect, text
    return text


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} in {path}: finite numbers only")

    return json.loads(Path(path).read_text(), parse_constant=refuse)
