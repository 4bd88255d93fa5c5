"""Compiling ahead: in workers, with progress, and losing nothing where one of them dies."""

import json
import multiprocessing
import os

import pytest

from maskbench.backends import dense, registry
from maskbench.suite import precompile
from maskbench.suite.workload import Shape, Workload
from tests.unit import pytest_process

PROBLEM = Workload("causal", 256, Shape(1, 2, 2, 16), "float32", "cpu", "forward")


def dying(mask, q, k, v):
    """Right in the timing process; kills every other one."""
    if multiprocessing.parent_process() is not None:
        os._exit(7)
    return dense.bind(mask, q, k, v)


class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def raising(mask, q, k, v):
    raise Unsendable("said", "once")


def hanging(mask, q, k, v):
    import time

    time.sleep(60)


BACKENDS = {"dying": dying, "raising": raising, "hanging": hanging}


def pytest_load_initial_conftests():
    """As a plugin (-p tests.unit.test_precompile): a backend that kills its worker."""
    registry.register(registry.BackendSpec("dying", __name__, compiles=True))


@pytest.fixture
def odd_backends(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    for name in BACKENDS:
        monkeypatch.setitem(registry.BACKENDS, name, __name__)
    monkeypatch.setattr(precompile, "STUCK", 6)
    yield
    registry._import_backend.cache_clear()


def test_a_worker_that_fails_takes_no_other_cell_with_it(odd_backends, capsys):
    names = ("raising", "dying", "dense", "hanging", "dense")
    left = precompile.precompile_cells([(PROBLEM, name) for name in names], 2)
    assert sorted(left) == [
        "causal dying forward S=256: its worker died (exit code 7)",
        "causal hanging forward S=256: its worker took more than 6 s",
    ]
    assert "compiling ahead: 100%" in capsys.readouterr().err


def test_what_was_compiled_once_starts_no_worker_again(odd_backends, monkeypatch, capsys):
    cells = [(PROBLEM, "dense"), (PROBLEM, "dying")]
    assert len(precompile.precompile_cells(cells, 2)) == 1
    again = []
    monkeypatch.setattr(
        precompile, "compile_in_workers", lambda cells, *more: again.extend(cells) or []
    )
    precompile.precompile_cells(cells, 2)
    assert again == [(PROBLEM, "dying")], "whose worker died"
    assert "50%" in capsys.readouterr().err
    monkeypatch.setattr(precompile, "surroundings", lambda: "another torch")
    precompile.precompile_cells(cells, 2)
    assert again[1:] == cells


def test_another_environments_torch_is_compiled_for_anew(odd_backends, monkeypatch):
    precompile.environment_fingerprint.cache_clear()
    here = precompile.stamp_path(PROBLEM, "dense")
    monkeypatch.setattr("torch.__file__", "/elsewhere/torch/__init__.py")
    precompile.environment_fingerprint.cache_clear()
    elsewhere = precompile.stamp_path(PROBLEM, "dense")
    precompile.environment_fingerprint.cache_clear()
    assert here != elsewhere


def test_what_a_cell_raises_is_sent_as_text(odd_backends):
    assert precompile.compile_cell(PROBLEM, "raising") == "Unsendable: said"
    assert precompile.compile_cell(PROBLEM, "dense") is None


def test_a_dead_workers_cell_is_compiled_where_it_is_timed(tmp_path):
    path = tmp_path / "run.json"
    text = pytest_process.pytest_run(
        *(
            "-p",
            "tests.unit.test_precompile",
            "--backends",
            "dying,sdpa",
            "--device",
            "cpu",
            "--jobs",
            1,
        ),
        *("--masks", "causal", "--seq-lens", 256, "--benchmark-max-time=0.01"),
        *(f"--benchmark-json={path}", "tests/test_forward.py"),
    )
    said = "compiled in the timing process: causal dying forward S=256: its worker died"
    assert f"maskbench: {said} (exit code 7)" in text
    assert "maskbench: where the time went" in text
    saved = json.loads(path.read_text())
    assert [b["extra_info"]["backend"] for b in saved["benchmarks"]] == ["sdpa", "dying"][::-1]
    seconds = saved["maskbench"]["seconds"]
    assert {"compile ahead", "compile", "check", "time", "other", "total"} == seconds.keys()
    parts = sum(s for what, s in seconds.items() if what != "total")
    assert parts == pytest.approx(seconds["total"])


def test_a_cache_that_cannot_be_written_is_a_usage_error(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "below"))
    few = ("--masks", "causal", "--seq-lens", 256, "--device", "cpu", "tests/test_forward.py")
    text = pytest_process.pytest_run(*few, "--backends", "flex", expect=4)
    assert f"TRITON_CACHE_DIR: {file / 'below'} cannot be written: Not a directory" in text
    assert "Traceback" not in text
    pytest_process.pytest_run(*few, "--backends", "sdpa", "--benchmark-disable")  # compiles nothing


def test_a_test_file_that_cannot_be_read_is_told_before_minutes_of_compiling(tmp_path):
    broken = tmp_path / "test_broken.py"
    broken.write_text("import no_such_module")
    few = ("--backends", "flex", "--masks", "causal", "--seq-lens", 256, "--device", "cpu")
    text = pytest_process.pytest_run(*few, "tests/test_forward.py", broken, expect=2)
    assert "No module named 'no_such_module'" in text
    assert "compiling ahead" not in text


def test_the_timing_process_compiles_nothing_anew(tmp_path, monkeypatch):
    """What workers compiled is found by the same keys, which hold torch's settings of precision."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    assert precompile.precompile_cells([(PROBLEM, "flex")], 1) == []
    compiled = sorted(cache.rglob("*"))
    few = ("--masks", "causal", "--backends", "flex", "--seq-lens", 256, "--device", "cpu")
    few = (*few, "--heads", 2, "--head-dim", 16, "tests/test_forward.py")
    text = pytest_process.pytest_run("--benchmark-only", *few)
    assert "1/1" in text, "as the worker's stamp says"
    assert sorted(cache.rglob("*")) == compiled
