"""Rankings: ties, both times that a user may wait for, noise and the share of the peak."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskbench.reading import read_run
from reports.ranking import (
    HOST_INTERVAL,
    NOISY_ABOVE,
    PROBLEM,
    Measure,
    attention_times,
    is_noisy,
    peak_shares,
    rank_cells,
    winners,
)
from reports.runs import cells_table, load
from tests.unit.real_run import saved_as

SHAPE = {"batch": 1, "heads": 4, "kv_heads": 4, "head_dim": 64, "v_head_dim": 64}


def cell(backend, device_ms, interval=0.01, host_ms=0.0, mask="causal", **more):
    return {
        "mask": mask,
        "direction": "forward",
        **{"seq_len": 512, "q_len": 512, "dtype": "float16", "backend": backend},
        **SHAPE,
        "is_timed": True,
        "median_s": device_ms / 1e3,
        "interval": interval,
        "host_us": host_ms * 1e3,
        "host_bound": host_ms > device_ms,
        **more,
    }


def untimed(backend, **more):
    no_time = {"is_timed": False, "median_s": np.nan, "interval": np.nan, "host_bound": np.nan}
    return cell(backend, 1.0, **(no_time | {"host_us": np.nan} | more))


def winning(rows, measure=Measure.DEVICE):
    """The winning backends of each problem."""
    return list(winners(pd.DataFrame(rows), measure)["backends"])


def test_the_fastest_backend_wins_alone_if_no_interval_reaches_its():
    assert winning([cell("flex", 1.03), cell("sdpa", 1.0), cell("dense", 9.0)]) == [("sdpa",)]


def test_backends_whose_intervals_overlap_are_tied_in_the_order_of_their_times():
    rows = [cell("flex", 1.015), cell("sdpa", 1.0), cell("flash_attn", 1.01)]
    assert winning(rows) == [("sdpa", "flash_attn", "flex")]


def test_a_tie_is_with_the_fastest_only():
    """b ties with a, and c with b. c does not tie with a."""
    rows = [cell("a", 1.0), cell("b", 1.015), cell("c", 1.03)]
    assert winning(rows) == [("a", "b")]


def test_a_wide_interval_ties_with_a_faster_cell():
    assert winning([cell("flex", 1.2, interval=0.3), cell("sdpa", 1.0)]) == [("sdpa", "flex")]
    assert winning([cell("flex", 1.2), cell("sdpa", 1.0, interval=0.3)]) == [("sdpa", "flex")]


def test_each_problem_has_a_winner_of_its_own():
    rows = [
        cell("flex", 1.0),
        cell("sdpa", 2.0),
        cell("flex", 2.0, direction="backward"),
        cell("sdpa", 1.0, direction="backward"),
        cell("flex", 4.0, q_len=1),
        cell("flex", 5.0, mask="full"),
        cell("sdpa", 0.1, direction="block_mask"),
        untimed("sdpa", mask="full"),
        untimed("sdpa", mask="prefix_lm"),
    ]
    assert winning(rows) == [("flex",), ("flex",), ("sdpa",), ("flex",)]
    assert not winners(pd.DataFrame(rows), Measure.DEVICE)[PROBLEM].duplicated().any()


def test_host_bound_backends_are_ranked_by_their_host_time():
    rows = [cell("flash_attn_4", 0.045, host_ms=0.93), cell("sdpa", 0.2, host_ms=0.1)]
    assert winning(rows) == [("flash_attn_4",)]
    assert winning(rows, Measure.CALLED) == [("sdpa",)]
    times = attention_times(pd.DataFrame(rows), Measure.CALLED)
    assert list(times["seconds"]) == pytest.approx([0.93e-3, 0.2e-3])
    assert list(times["interval"]) == pytest.approx([HOST_INTERVAL, 0.01])


def test_host_times_within_a_factor_of_two_are_tied():
    def called(other_ms):
        rows = [cell("flex", 0.01, host_ms=1.0), cell("sdpa", 0.01, host_ms=other_ms)]
        return winning(rows, Measure.CALLED)

    assert called(1.9) == [("flex", "sdpa")]
    assert called(2.1) == [("flex",)]


def test_a_wall_time_on_a_cpu_has_the_host_time_in_it():
    rows = pd.DataFrame([cell("flex", 1.0, host_us=1050.0, host_bound=False)])
    device, called = (attention_times(rows, m) for m in (Measure.DEVICE, Measure.CALLED))
    assert device.equals(called)


def test_a_graph_is_ranked_by_the_longer_of_its_two_times():
    rows = [
        cell("flex", 0.04, host_ms=0.9, graph_median_s=0.05e-3, graph_host_s=0.01e-3),
        cell("sdpa", 0.03, host_ms=0.9, graph_median_s=0.03e-3, graph_host_s=0.20e-3),
        cell("dense", 0.01),
    ]
    ranked = rank_cells(pd.DataFrame(rows), Measure.GRAPH)
    assert list(ranked["backend"]) == ["flex", "sdpa"]
    assert list(ranked["seconds"]) == pytest.approx([0.05e-3, 0.20e-3])


def test_a_run_without_graphs_has_no_ranking_of_them():
    assert rank_cells(pd.DataFrame([cell("flex", 1.0)]), Measure.GRAPH).empty
    assert winners(pd.DataFrame([cell("flex", 1.0)]), Measure.GRAPH).empty


def test_a_cell_is_noisy_above_the_limit():
    rows = [cell("a", 1.0, interval=NOISY_ABOVE), cell("b", 1.0, interval=0.051), untimed("c")]
    assert list(is_noisy(pd.DataFrame(rows))) == [False, True, False]


def test_the_time_over_flex_is_by_the_same_measure():
    rows = [cell("flex", 0.1, host_ms=0.5), cell("sdpa", 0.2), cell("sdpa", 1.0, mask="full")]
    device = rank_cells(pd.DataFrame(rows), Measure.DEVICE).set_index(["mask", "backend"])
    assert device["over_flex"]["causal", "sdpa"] == pytest.approx(2.0)
    called = rank_cells(pd.DataFrame(rows), Measure.CALLED).set_index(["mask", "backend"])
    assert called["over_flex"]["causal", "sdpa"] == pytest.approx(0.4)
    assert np.isnan(called["over_flex"]["full", "sdpa"])


def test_the_share_of_the_peak_is_that_of_the_nearer_limit():
    peaks = {"gemm_tflops": 800.0, "copy_gb_per_s": 3000.0}
    rows = [
        cell("flex", 1.0, tflops=400.0, gb_per_s=300.0, **peaks),
        cell("sdpa", 1.0, tflops=40.0, gb_per_s=2400.0, **peaks),
        cell("dense", 1.0, tflops=40.0, gb_per_s=2400.0),
        cell("xformers", 1.0, tflops=80.0, gemm_tflops=800.0, gb_per_s=2400.0),
    ]
    found = peak_shares(pd.DataFrame(rows))
    assert list(found["peak_share"]) == pytest.approx([0.5, 0.8, np.nan, 0.1], nan_ok=True)
    assert list(found["peak_limit"]) == ["compute", "memory", "", "compute"]


def test_no_cell_is_above_the_peak_of_computing(tmp_path):
    """The matrix product of a process was slow, because the machine was busy at that moment."""

    def busy(run):
        for i, bench in enumerate(run["benchmarks"]):
            bench["extra_info"] |= {"gemm_tflops": 0.02, "copy_gb_per_s": 1e6, "tflops": 0.01}
            bench["extra_info"] |= {"tflops": 0.16} if i == 3 else {}

    cells = load([saved_as(tmp_path / "run.json", busy)])
    shares = peak_shares(cells[cells["is_timed"]])["peak_share"]
    assert sorted(set(shares)) == pytest.approx([0.01 / 0.16, 1.0])


def test_an_older_run_has_no_peak():
    found = peak_shares(pd.DataFrame([cell("flex", 1.0)]))
    assert found["peak_share"].isna().all()
    assert list(found["peak_limit"]) == [""]


def test_a_saved_run_has_a_winner_for_every_timed_problem():
    cells = load([Path("reports/runs/h100/grid.json.gz")])
    timed = cells[cells["is_timed"] & cells["direction"].isin(["forward", "backward"])]
    for measure in (Measure.DEVICE, Measure.CALLED):
        found = winners(cells, measure)
        assert len(found) == len(timed.drop_duplicates(PROBLEM))
        names = zip(found["backend"], found["backends"], strict=True)
        assert all(backend == backends[0] for backend, backends in names)
    assert rank_cells(cells, Measure.GRAPH).empty


def test_the_interval_of_host_times_is_that_of_the_committed_runs():
    """The bound that `HOST_INTERVAL` is derived from, over the processes with many cells."""
    files = Path("reports/runs/repeats").glob("*.json.gz")
    tables = [cells_table(read_run(path)) for path in files if path.stat().st_size > 100_000]
    assert len(tables) > 4
    times = pd.concat([table.set_index("fullname")["host_us"] for table in tables], axis=1)
    logs = np.log(times).dropna()
    logs = logs.sub(logs.mean(axis=1), axis=0)
    shuffled = logs.sample(frac=1, random_state=0).to_numpy()
    ratios = np.exp(np.abs(logs.to_numpy() - shuffled))
    assert 1.9 < np.quantile(ratios, 0.95) < 2.1
    overlapping = (1 + HOST_INTERVAL) / (1 - HOST_INTERVAL)
    assert overlapping == pytest.approx(2.0)
