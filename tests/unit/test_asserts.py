"""No correctness rests on `assert`: `python -O` removes it."""

import ast
from pathlib import Path

import pytest

from tests.unit.pytest_process import CELLS, pytest_run
from tests.unit.test_imports import ROOT, production_files

BENCHMARKS = sorted((ROOT / "tests").glob("test_*.py"))


@pytest.mark.parametrize("path", [*production_files(), *BENCHMARKS], ids=lambda p: p.stem)
def test_code_that_times_has_no_assert(path: Path):
    lines = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
    assert not lines, f"{path}: python -O removes the assert in lines {lines}; raise an exception"


@pytest.mark.slow
def test_a_wrong_backend_fails_with_optimized_python(monkeypatch):
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    grid = ("--device=cpu", "--masks=causal", "--seq-lens=256", "--backends=wrong,nan,transposed")
    text = pytest_run("-p", "tests.unit.broken_backends", "-q", *grid, CELLS[0], expect=1)
    assert "2 failed, 1 passed" in text
    assert text.count("WrongResult: out differs from the reference") >= 2
