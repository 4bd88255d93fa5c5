"""Runs of the suite: the outcomes of cells, and the saved fields."""

import re
from types import SimpleNamespace

import pytest
import torch

from maskbench.suite.device_errors import out_of_memory
from masks import PATTERNS
from reports.runs import UnreadableRun, load
from tests.unit.broken_backends import NAMES as BROKEN
from tests.unit.pytest_process import (
    CELLS,
    pytest_inline,
    pytest_on_terminal,
    pytest_run,
    strict_json,
)

# --- outcomes ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run with correct, unsupported, skipped, missing, failing and greedy cells.

    Seven tokens are too few for the five documents of multi_document_causal. Causal exists at any
    length, and is timed at 256 only.
    """
    path = tmp_path_factory.mktemp("run") / "run.json"
    grid = ("--device", "cpu", "--masks", "causal,multi_document_causal", "--seq-lens", "256,7")
    names = ("dense", "flex", "sdpa", "sdpa_flash", "sdpa_cudnn", *BROKEN)
    text = pytest_run(
        *("-p", "tests.unit.broken_backends", "--benchmark-only", f"--benchmark-json={path}"),
        *("--benchmark-max-time=0.02", "--tb=line", *grid, "--batch", 2),
        *("--backends", ",".join(names)),
        *("-k", "not torch_compiled and not ([causal- and s7-)"),
        *(*CELLS, "tests/test_block_mask.py"),
        expect=1,
    )
    return SimpleNamespace(text=text, saved=strict_json(path))


def outcomes(run, direction="forward", mask="causal", seq_len=256):
    chosen = {}
    for cell in run.saved["maskbench"]["untimed"]:
        if (cell["direction"], cell["mask"], cell["seq_len"]) == (direction, mask, seq_len):
            chosen[cell["backend"]] = (cell["outcome"], cell["reason"])
    return chosen


def timed(run, direction="forward", mask="causal"):
    cells = [bench["extra_info"] for bench in run.saved["benchmarks"]]
    return {c["backend"] for c in cells if (c["direction"], c["mask"]) == (direction, mask)}


def test_a_cell_that_fails_its_check_has_no_warning_that_it_was_not_timed(run):
    assert "was not used" not in run.text


def test_correct_cells_are_timed_although_others_fail(run):
    expected = {"dense", "flex", "sdpa", "sdpa_flash", "transposed"}
    assert timed(run) == expected, outcomes(run)
    assert timed(run, "backward") == {"dense", "sdpa", "sdpa_flash", "transposed"}
    assert timed(run, mask="multi_document_causal") == {"dense", "flex", "sdpa", "transposed"}


def test_a_wrong_backend_fails_and_has_no_time(run):
    for direction in ("forward", "backward"):
        for backend in ("wrong", "nan"):
            cell_status, reason = outcomes(run, direction)[backend]
            assert cell_status == "failed"
            assert "differs from the reference in its first call: error" in reason
    assert "nan" in outcomes(run)["nan"][1]


def test_an_exception_fails_its_cell_with_the_reason(run):
    assert outcomes(run)["raising"] == ("failed", "RuntimeError: this library broke")


def test_the_eager_fallback_of_flex_attention_fails_its_cell(run):
    cell_status, reason = outcomes(run)["eager_flex"]
    assert cell_status == "failed"
    assert "FlexAttention fell back to eager" in reason


def test_out_of_memory_reports_the_requested_size_and_the_next_cell_runs(run):
    cell_status, reason = outcomes(run)["greedy"]
    assert cell_status == "out of memory"
    assert "tried to allocate" in reason
    assert str(4 * 2**50) in reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 32.00 GiB. GPU 0 has a total capacity of 80"
            ),
            "CUDA out of memory. Tried to allocate 32.00 GiB.",
        ),
        (RuntimeError("CUDA error: out of memory\nmore"), "CUDA error: out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), "CUDA error: CUBLAS_STATUS"),
        (MemoryError(), ""),
        (RuntimeError("shape mismatch"), None),
    ],
)
def test_every_kind_of_out_of_memory_is_recognized(error, reason):
    found = out_of_memory(error)
    assert found is reason is None or found.startswith(reason)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two runs of one grid: one whose cells are all unsupported, and one on a terminal."""
    folder = tmp_path_factory.mktemp("parts")
    grid = ("--device", "cpu", "--masks", "causal", "--seq-lens", 256, "--benchmark-only")
    paths = folder / "untimed.json", folder / "timed.json"
    silent = pytest_inline(
        *("-p", "no:terminal", *grid, "--masks", "prefix_lm", "--backends", "sdpa_flash"),
        *(f"--benchmark-json={paths[0]}", *CELLS),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as in the other part
        drawn = pytest_on_terminal(
            *(*grid, "--backends", "sdpa,sdpa_cudnn", "--benchmark-max-time=0.01"),
            *(f"--benchmark-json={paths[1]}", *CELLS),
        )
    return SimpleNamespace(paths=paths, silent=silent, drawn=drawn)


def test_where_nothing_is_timed_the_reasons_are_saved(parts):
    untimed = strict_json(parts.paths[0])["maskbench"]["untimed"]
    assert [cell["outcome"] for cell in untimed] == ["unsupported"] * 2
    with pytest.raises(UnreadableRun, match="nothing was timed in that run"):
        load([parts.paths[0]])
    # With the rest of the grid, the reasons are read as well.
    assert set(load(list(parts.paths))["outcome"]) == {"unsupported", "timed"}


def test_a_run_without_a_terminal_plugin_reports_no_progress(parts):
    assert "maskbench: " not in parts.silent


def test_a_terminal_has_a_bar_in_place_of_dots(parts):
    assert "maskbench: 2 cells to time (2 more will be skipped); about 1 s" in parts.drawn
    first, second = (
        rf"maskbench: {done} of 4 cells \|[^|]*\| causal {backend} forward S=256, {timed} timed"
        for done, backend, timed in ((0, "sdpa", 0), (1, "sdpa_cudnn", 1))
    )
    assert re.search(first + r", about \d+ s left", parts.drawn)
    assert re.search(second + r", about \d+ s left", parts.drawn)
    files = [line for line in parts.drawn.splitlines() if "tests/test_" in line]
    assert not any(re.search(r"py [.s]", line) for line in files)
    assert "2 passed" in parts.drawn
    assert "2 skipped" in parts.drawn


def test_a_missing_package_is_skipped_with_the_import_error(run):
    message = "ModuleNotFoundError: No module named 'a_library_that_is_not_installed'"
    assert outcomes(run)["absent"] == ("skipped", message)
    assert f"absent ({message})" in run.text.split("missing: ")[1]


def test_an_unsupported_cell_is_saved_with_the_reason(run):
    assert outcomes(run)["sdpa_cudnn"] == (
        "unsupported",
        "SDPA's CUDNN_ATTENTION kernel needs CUDA",
    )
    assert outcomes(run, "backward")["flex"] == (
        "unsupported",
        "FlexAttention does not support backward on CPU.",
    )
    documents = outcomes(run, mask="multi_document_causal")
    assert documents["sdpa_flash"][1] == "SDPA's FlashAttention takes no mask but is_causal"


def test_a_length_without_the_mask_is_skipped_with_the_reason(run):
    expected = ("skipped", "seq_len is 7, must be at least 8 for this mask")
    too_short = {"mask": "multi_document_causal", "seq_len": 7}
    assert outcomes(run, **too_short)["sdpa"] == expected
    assert outcomes(run, "block_mask", **too_short) == {"ours": expected, "torch_eager": expected}
    assert timed(run, "block_mask") == {"ours", "torch_eager"}


def test_every_cell_is_timed_or_has_its_outcome(run):
    untimed = {cell["fullname"] for cell in run.saved["maskbench"]["untimed"]}
    names = {bench["fullname"] for bench in run.saved["benchmarks"]}
    assert not untimed & names
    workloads = 3  # causal at 256, and multi_document_causal at 256 and 7
    attention, construction = workloads * 2 * (5 + len(BROKEN)), workloads * 2
    assert len(untimed) + len(names) == attention + construction


FIELDS = {
    *("mask", "backend", "form", "formulation"),
    *("direction", "batch", "heads", "kv_heads", "seq_len"),
    *("head_dim", "dtype", "area", "density", "block_density", "flops", "tflops"),
    *("bytes", "gb_per_s"),
    *("peak_memory_bytes", "host_us", "host_bound", "late_rounds", "interval", "two_modes"),
    *("error", "error_bound", "error_of", "checked", "sm_clock_mhz", "throttle"),
    *("call_clock_mhz", "cycles", "cycles_interval", "two_modes_by_clock"),
}

ATTENTION_FIELDS = {
    *("first_call_s", "errors", "error_bounds", "dense_errors"),
    *("gemm_tflops", "copy_gb_per_s"),
}


def test_cells_of_one_workload_are_a_group(run):
    for bench in run.saved["benchmarks"]:
        info = bench["extra_info"]
        assert bench["group"] == f"{info['mask']} {info['direction']} {info['seq_len']}"
        assert bench["options"]["timer"] == "perf_counter"


def test_saved_fields(run):
    for bench in run.saved["benchmarks"]:
        info = bench["extra_info"]
        own = set() if info["direction"] == "block_mask" else ATTENTION_FIELDS
        assert info.keys() == FIELDS | own
        assert info["error"] <= info["error_bound"]
        tensors = {"forward": {"out"}, "backward": {"out", "dq", "dk", "dv"}, "block_mask": set()}
        for field in ("errors", "error_bounds", "dense_errors"):
            assert {*info.get(field, ())} == tensors[info["direction"]]
        for name, error in info.get("errors", {}).items():
            assert error <= info["error_bounds"][name]
        area = PATTERNS[info["mask"]](seq_len=256, batch=2).area(2)
        assert info["area"] == area
        factor = {"forward": 4, "backward": 10, "block_mask": 0}[info["direction"]]
        assert info["flops"] == factor * area * 4 * 64
        tflops = info["flops"] / bench["stats"]["median"] / 1e12
        assert info["tflops"] == pytest.approx(tflops)
        assert len(bench["stats"]["data"]) == bench["stats"]["rounds"] >= 6
    assert run.saved["machine_info"]["device"] == "cpu"
    commit = run.saved["commit_info"]
    assert commit["torch"] == torch.__version__
    assert {"torch_git", "cuda", "cudnn", "triton", "xformers", "flash_attn"} <= commit.keys()


def test_the_header_names_device_torch_and_backends(run):
    line = next(row for row in run.text.splitlines() if row.startswith("maskbench: device"))
    assert f"torch {torch.__version__}" in line
    assert "backends found: dense, flex, sdpa, sdpa_flash" in line
    assert "cells that were not timed" in run.text
    assert "unsupported: FlexAttention does not support backward on CPU." in run.text


@pytest.mark.slow
def test_backends_with_large_scores_run_only_if_named(tmp_path):
    path = tmp_path / "run.json"
    grid = ("--device", "cpu", "--masks", "full", "--seq-lens", "256,4096", "--heads", 1)
    only = ("-k", "256 and sdpa_math or 4096 and (dense or sdpa_math)")
    quick = ("--benchmark-only", f"--benchmark-json={path}", "--benchmark-max-time=0.01")
    text = pytest_run(*quick, *grid, *only, CELLS[0], "-rs")
    reason = "skipped: holds S x S scores, by default up to S = 2048; name it in --backends"
    assert reason in text
    untimed = [cell["backend"] for cell in strict_json(path)["maskbench"]["untimed"]]
    assert sorted(untimed) == ["dense", "sdpa_math"]
