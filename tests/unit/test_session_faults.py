"""What fails outside of a cell fails the cells, with the reason, and not the session."""

import importlib

import pytest

from maskbench.backends import registry
from maskbench.suite import precompile, session_clock
from maskbench.suite.workload import Workload
from tests.unit.pytest_process import pytest_inline

FEW = ("--masks", "causal", "--seq-lens", 256, "--device", "cpu", "tests/test_forward.py")
FAULTS = [
    PermissionError(13, "Permission denied", "/triton/ptxas"),
    FileNotFoundError(2, "No such file or directory", "nvcc"),
    RuntimeError("Triton: 0 active drivers"),
    ImportError("triton/_C/libtriton.so: undefined symbol"),
]


def kind(error):
    return type(error).__name__


@pytest.mark.parametrize("error", FAULTS, ids=kind)
def test_without_a_clock_the_cells_fail_with_the_reason(monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(session_clock, "make_clock", refuse)
    text = pytest_inline(*FEW, "--backends", "sdpa,dense", "--benchmark-only", expect=1)
    assert "INTERNALERROR" not in text
    assert f"the clock of the GPU cannot be made: {kind(error)}" in text
    assert "2 failed" in text


@pytest.mark.parametrize("error", [*FAULTS, SystemExit(1)], ids=kind)
def test_a_library_that_raises_when_it_is_imported_is_missing(monkeypatch, error):
    import_module = importlib.import_module

    def refuse(name, *rest):
        if name == "maskbench.backends.xformers":
            raise error
        return import_module(name, *rest)

    registry._import_backend.cache_clear()
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(registry.BackendUnavailable, match=kind(error)):
        registry.load("xformers")
    registry._import_backend.cache_clear()


@pytest.mark.parametrize("error", [TypeError("bad mask"), RuntimeError("x"), ZeroDivisionError()])
def test_a_mask_that_cannot_be_built_is_left_to_its_cell(monkeypatch, error):
    def refuse(self):
        raise error

    monkeypatch.setattr(Workload, "build_mask", refuse)
    text = pytest_inline(*FEW, "--backends", "flex", "--benchmark-only", expect=1)
    assert "INTERNALERROR" not in text
    assert kind(error) in text


def test_a_stamp_that_cannot_be_named_is_left_to_the_cell(monkeypatch):
    def refuse(*_):
        raise ModuleNotFoundError("No module named 'plugin'")

    monkeypatch.setattr(precompile, "stamp_path", refuse)
    assert not precompile.is_compiled(precompile.CompileTask(None, None, "flex"))
