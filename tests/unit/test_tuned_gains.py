"""`python -m reports tuned_gains`: `flex_tuned` against `flex` and the fastest other backend."""

from __future__ import annotations

import pandas as pd
import pytest

from maskbench.attention import BoundAttention, Formulation
from maskbench.backends import flex, flex_tuned
from maskbench.masks import Causal, Full
from reports.tuned_forms import found_elsewhere, options_kind
from reports.tuned_gains import load_by_setup
from reports.tuned_gains_table import NAME, gains_report, gains_table
from tests.unit.real_run import saved_as
from tests.unit.tuned_entries import entry, found
from tests.unit.tuned_runs import (
    DEFAULT,
    FLASH,
    FORM,
    forward_cell,
    only_gain,
    with_batch_of_two,
    with_tuned,
)

MARKERS = f"before\n<!-- begin: {NAME} -->\n<!-- end: {NAME} -->\nafter\n"
THREE = {"causal": 1.25, "global_local_sliding_window": 0.98, "causal_padding": 4.0}


# --- the figures ---


def test_the_gain_is_the_time_of_flex_over_that_of_flex_tuned(tmp_path):
    row = only_gain(tmp_path, 1.25)
    assert (row["flex_s"], row["tuned_s"]) == pytest.approx((4e-3, 3.2e-3))
    assert row["gain"] == pytest.approx(1.25)
    assert row["gain_interval"] == pytest.approx(0.005)  # of 0.3 % and 0.4 %
    assert pd.isna(row["gain_in_cycles"])


def test_the_peer_is_the_fastest_of_all_other_backends(tmp_path):
    row = only_gain(tmp_path, 1.25)
    assert row["fastest_peer"] == "sdpa"
    assert row["over_peer"] == pytest.approx(3.2e-3 / 1.1596404997362697e-3)
    assert row["standing"] == "behind"


@pytest.mark.parametrize(
    ("peer_ms", "standing"),
    [(3.0, "behind"), (3.19, "tie"), (3.21, "tie"), (3.4, "ahead")],
)
def test_overlapping_intervals_are_a_tie(peer_ms, standing, tmp_path):
    def change(run):
        run["benchmarks"] = [b for b in run["benchmarks"] if b["extra_info"]["backend"] != "dense"]
        for bench in run["benchmarks"]:
            if not bench["extra_info"]["backend"].startswith("flex"):
                bench["stats"]["median"] = 9.0
        forward_cell(run, "sdpa")["stats"]["median"] = peer_ms / 1e3
        forward_cell(run, "sdpa")["extra_info"]["interval"] = 0.001

    row = only_gain(tmp_path, 1.25, change=change)
    assert (row["fastest_peer"], row["standing"]) == ("sdpa", standing)


def test_the_same_kernel_is_neither_ahead_nor_behind(tmp_path):
    def change(run):
        bench = forward_cell(run, "sdpa")
        bench["extra_info"]["backend"] = "flex_flash"
        bench["fullname"] = bench["fullname"].replace("sdpa", "flex_flash")
        bench["stats"]["median"] = 1e-4  # the fastest

    row = only_gain(tmp_path, 1.25, FLASH, change=change)
    assert (row["fastest_peer"], row["standing"]) == ("flex_flash", "same kernel")


def test_cycles_are_compared_where_they_were_measured(tmp_path):
    def change(run):
        forward_cell(run, "flex")["extra_info"]["cycles"] = 3e6
        forward_cell(run, "flex_tuned")["extra_info"]["cycles"] = 2e6

    assert only_gain(tmp_path, change=change)["gain_in_cycles"] == pytest.approx(1.5)


def test_each_gpu_torch_and_shape_is_a_table_of_its_own(tmp_path):
    def on_a_gpu(run):
        run["machine_info"] |= {"gpu": "a GPU", "device": "cuda"}

    paths = [
        saved_as(tmp_path / f"{place}.json", with_tuned(change=change))
        for place, change in enumerate((None, on_a_gpu, with_batch_of_two))
    ]
    report = gains_report(load_by_setup(paths)).markdown()
    titles = [line for line in report.splitlines() if line.startswith("### ")]
    assert [title.partition(" float32")[0] for title in titles] == [
        "### CPU, 2 threads: B1 H4 D64",
        "### CPU, 2 threads: B2 H4 D64",
        "### a GPU: B1 H4 D64",
    ]
    assert "(cells compared: 3)" in report


# --- what flex_tuned replays ---


@pytest.mark.parametrize("mask", [Causal(seq_len=512), Full(seq_len=512)])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ([found(BACKEND="FLASH")], "FLASH"),
        ([found(fwd_BLOCK_M=64)], "own"),
        ([found(block_size=(64, 64), fwd_BLOCK_M=64)], "own"),
        ([], "default"),
    ],
)
def test_the_kind_of_options_is_read_from_what_flex_tuned_saves(mask, options, kind, monkeypatch):
    def compile_with_options(options, mask, q, k, v):
        block_mask = None if isinstance(mask, Full) else mask.block_mask("cpu", options.block_size)
        formulation = flex._formulation(block_mask, options.kernel_options)
        return BoundAttention(formulation, (), lambda: None)

    monkeypatch.setattr(flex_tuned, "compile_with_options", compile_with_options)
    saved = flex_tuned.replay(entry(*options), "gpu")(mask, None, None, None).formulation
    assert options_kind(saved.id) == kind
    assert found_elsewhere(saved.text) == ""


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        ("found with torch 2.8.0 on A100", "found with torch 2.8.0 on A100"),
        ("default is best, found on A100", "found on A100"),
        ("the found ones do not work here", "the found ones do not work here"),
        ("the found ones do not work here, found on A100",) * 2,
        ("default is best", ""),
    ],
)
def test_options_of_another_torch_or_gpu_are_said_to_be(note, shown, tmp_path):
    call = BoundAttention(Formulation(DEFAULT, FORM), (), lambda: None)
    form = flex_tuned._with_note(call, note).formulation.text
    assert found_elsewhere(form) == shown
    row = only_gain(tmp_path, form=form, formulation=DEFAULT)
    (options,) = gains_table(row.to_frame().T)["options"]
    assert options == ", ".join(filter(None, ("default", shown)))
