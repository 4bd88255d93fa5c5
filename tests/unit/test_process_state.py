"""What a cell may not leave behind: settings are restored, and the culprit fails with its name."""

import gc
import json
import locale
import os
import random
import re
import signal
import warnings

import numpy as np
import pytest
import torch

from maskbench.suite.process_state import (
    ProcessState,
    restored_after_import,
    same_random_state,
)
from maskbench.suite.torch_settings import set_inference_mode
from tests.unit.leaking_backends import LEAKS, deleted_folder
from tests.unit.pytest_process import CELLS, ROOT, pytest_run

cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
CHANGES = {
    "number of threads": LEAKS["threads"],
    "default dtype": LEAKS["dtype"],
    "default device": LEAKS["default_device"],
    "inference mode": lambda: set_inference_mode(True),
    "gradients": LEAKS["grad"],
    "autocast of cpu": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast of cuda": lambda: torch.set_autocast_enabled("cuda", True),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic algorithms": LEAKS["deterministic"],
    "filling of uninitialized memory": lambda: setattr(
        torch.utils.deterministic, "fill_uninitialized_memory", False
    ),
    "flushing of denormals": lambda: torch.set_flush_denormal(True),
    "float32 matmul precision": LEAKS["precision"],
    "torch.backends.cuda.matmul.fp32_precision": lambda: setattr(
        cuda.matmul, "fp32_precision", "tf32"
    ),
    "torch.backends.mkldnn.matmul.fp32_precision": lambda: setattr(
        torch.backends.mkldnn.matmul, "fp32_precision", "bf16"
    ),
    "torch.backends.fp32_precision": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "torch.backends.cudnn.conv.fp32_precision": lambda: setattr(cudnn, "allow_tf32", False),
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": lambda: setattr(
        cuda.matmul, "allow_fp16_reduced_precision_reduction", False
    ),
    "torch.backends.cudnn.benchmark": lambda: setattr(cudnn, "benchmark", True),
    "torch.backends.cudnn.enabled": lambda: setattr(cudnn, "enabled", False),
    "flash SDPA": lambda: cuda.enable_flash_sdp(False),
    "math SDPA": lambda: cuda.enable_math_sdp(False),
    "cuDNN SDPA": lambda: cuda.enable_cudnn_sdp(False),
    "reduced precision of math SDPA": lambda: cuda.allow_fp16_bf16_reduction_math_sdp(True),
    "garbage collection": gc.disable,
    "locale": lambda: locale.setlocale(locale.LC_NUMERIC, other_locale()),
    "current folder": lambda: os.chdir("/"),
    "a folder that was deleted": deleted_folder,
    "handler of SIGINT": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "handler of SIGTERM": lambda: signal.signal(signal.SIGTERM, lambda *_: None),
    "environment variable PATH": lambda: os.environ.update(PATH="/nowhere"),
    "environment variable HOME": lambda: os.environ.pop("HOME"),
}


def other_locale():
    now = locale.setlocale(locale.LC_NUMERIC)
    return "C" if now != "C" else "C.UTF-8"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_undone(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home")
    before = ProcessState.capture()
    assert not before.changes()
    try:
        CHANGES[name]()
        assert any(name in change for change in before.changes()), before.changes()
    finally:
        before.restore()
    assert not before.changes()


def test_new_environment_variables_are_removed_without_a_failure():
    before = ProcessState.capture()
    os.environ["MASKBENCH_TEST"] = "1"
    assert not before.changes()
    before.restore()
    assert "MASKBENCH_TEST" not in os.environ


def test_random_state_and_warning_filters_are_restored():
    def draw():
        return random.random(), np.random.random(), torch.rand(()).item()

    filters = list(warnings.filters)
    with same_random_state():
        first = draw()
        torch.manual_seed(7)
        warnings.simplefilter("ignore")
    assert warnings.filters == filters
    with same_random_state():
        assert draw() == first


def test_an_import_keeps_its_environment_variables_alone():
    try:
        with restored_after_import():
            os.environ["MASKBENCH_TEST"] = "1"
            torch.set_default_dtype(torch.float64)
        assert os.environ["MASKBENCH_TEST"] == "1"
        assert torch.get_default_dtype() == torch.float32
    finally:
        os.environ.pop("MASKBENCH_TEST")


OWN_TESTS = """
import os, pytest, torch

@pytest.fixture
def fails_when_torn_down():
    yield
    raise RuntimeError("the teardown failed")

def test_teardown_fails(benchmark, fails_when_torn_down):
    benchmark(lambda: None)

def test_assertion_after_timing(benchmark):
    benchmark(lambda: None)
    raise AssertionError("wrong")

def test_setting_is_changed(benchmark):
    benchmark(lambda: torch.set_num_threads(torch.get_num_threads() + 1))

def test_environment_with_monkeypatch(benchmark, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    benchmark(lambda: None)

def test_right(benchmark):
    assert os.environ["PATH"] != "/nowhere"
    benchmark(lambda: None)

def test_interrupt(benchmark):
    calls = iter(range(100))
    def call():
        if next(calls) == 50:
            raise KeyboardInterrupt
    benchmark.pedantic(call, rounds=100)
"""


@pytest.mark.slow
def test_cells_and_tests_of_users(tmp_path):
    own, path = tmp_path / "test_own.py", tmp_path / "run.json"
    own.write_text(OWN_TESTS)
    names = ",".join(n for leak in LEAKS for n in (leak, f"right_{leak}"))
    grid = ("--device=cpu", "--masks=causal", "--seq-lens=256")
    options = (f"--rootdir={ROOT}", "--benchmark-max-time=0.01", f"--benchmark-json={path}")
    plugin = ("-p", "tests.unit.leaking_backends", f"--backends={names},draws,sets_new")
    text = pytest_run(*plugin, *grid, *options, CELLS[0], own, expect=2)
    table = text[text.rindex("Legend:") - 8000 :] if "Legend:" in text else text
    table = "\n".join(line for line in table.splitlines() if re.match(r"test_\w+.* \d", line))
    assert "test_right" in table
    for name in ("teardown_fails", "assertion_after_timing", "setting_is_changed", "interrupt"):
        assert f"test_{name} " not in table
    run = json.loads(path.read_text())
    failed = {c["backend"]: c["reason"] for c in run["maskbench"]["untimed"]}
    assert failed.keys() == LEAKS.keys(), text
    assert all("ProcessStateChanged: the cell changed" in reason for reason in failed.values())
    timed = {b["extra_info"].get("backend", b["name"]) for b in run["benchmarks"]}
    right = {"draws", "sets_new", *(f"right_{leak}" for leak in LEAKS)}
    assert timed == right | {"test_environment_with_monkeypatch", "test_right"}
