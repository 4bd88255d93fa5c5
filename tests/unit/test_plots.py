"""The parts of the pictures: backend styles, break-even points and single labels."""

from __future__ import annotations

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from maskbench.backends.registry import BACKENDS, BackendSpec
from reports.plots.break_even import break_even, draw
from reports.plots.labels import text_width
from reports.plots.lengths import length_to_show
from reports.plots.style import FREE_STYLES, BackendStyle, backend_styles, sorted_backends
from reports.plots.timing import flags

ORDER = [
    *("flex", "flex_flash", "flash_attn_4", "flash_attn", "xformers", "torch_varlen"),
    *("sdpa", "sdpa_cudnn", "sdpa_efficient", "sdpa_flash", "sdpa_math", "dense"),
]


@pytest.fixture(autouse=True)
def close_figures():
    """matplotlib warns of more than 20 open ones, and later tests draw more."""
    yield
    plt.close("all")


def test_backends_are_in_the_same_order_in_every_picture():
    assert sorted_backends(["retired", *reversed(ORDER), "a_plugin", "flex"]) == [
        *ORDER,
        *("a_plugin", "retired"),
    ]


def test_every_registered_style_is_distinct():
    styled = {name: s for name, s in BACKENDS.items() if s.color and s.marker}
    assert styled.keys() >= set(ORDER)
    styles = backend_styles(styled)
    assert all(styles[name] == BackendStyle(s.color, s.marker) for name, s in styled.items())
    assert len(set(styles.values())) == len({s.marker for s in styles.values()}) == len(styled)
    assert len({s.color for s in styles.values()}) == len(styled)
    assert not {s.marker for s in styles.values()} & {s.marker for s in FREE_STYLES}


def test_backends_without_a_style_get_a_free_one(monkeypatch):
    spec = BackendSpec("a_plugin", "a_module")
    monkeypatch.setitem(BACKENDS, "a_plugin", spec)
    styles = backend_styles(["retired", "flex", "a_plugin"])
    assert styles["flex"].color == BACKENDS["flex"].color
    assert [styles[name] for name in ("a_plugin", "retired")] == list(FREE_STYLES[:2])
    monkeypatch.setitem(BACKENDS, "a_plugin", replace(spec, color="#123456"))
    assert backend_styles(["a_plugin"])["a_plugin"] == BackendStyle("#123456", "1")


def test_there_may_be_more_backends_than_free_styles():
    names = [f"plugin_{i}" for i in range(len(FREE_STYLES) + 1)]
    styles = backend_styles(names)
    assert styles[names[-1]] == styles[names[0]] == FREE_STYLES[0]


def test_flags_name_what_limits_a_time():
    quiet = {"host_bound": False, "throttle": [], "late_rounds": 0, "rounds": 100}
    assert flags(pd.Series(quiet)) == ""
    loud = {"host_bound": True, "throttle": ["power"], "late_rounds": 11, "rounds": 100}
    modes = {"two_modes": True, "two_modes_by_clock": True}
    assert flags(pd.Series(loud | modes)) == " [host-bound, throttled, host late, two clocks]"
    assert flags(pd.Series(quiet | {"two_modes": True})) == " [two modes]"


def test_the_longest_length_is_one_with_flex_if_there_is_any():
    rows = [("flex", 512, True, []), ("sdpa", 1024, True, []), ("flex", 2048, False, [])]
    cells = pd.DataFrame(rows, columns=["backend", "seq_len", "is_timed", "throttle"])
    assert length_to_show(cells) == 512
    assert length_to_show(cells[1:]) == 1024
    assert length_to_show(cells[2:]) == 2048


def test_a_length_at_which_flex_was_throttled_is_the_last_choice():
    rows = [("flex", 512, True, []), ("flex", 1024, True, ["power cap"])]
    cells = pd.DataFrame(rows, columns=["backend", "seq_len", "is_timed", "throttle"])
    assert length_to_show(cells) == 512
    assert length_to_show(cells[1:]) == 1024


def cell(backend, direction, seconds, form="", formulation=""):
    workload = {"mask": "causal", "seq_len": 512, "batch": 1, "heads": 4, "kv_heads": 4}
    workload |= {
        "head_dim": 64,
        "v_head_dim": 64,
        "q_len": 4096,
        "dtype": "float32",
        "device": "a GPU",
        "torch": "2.13.0",
    }
    method = {"backend": backend, "direction": direction, "form": form, "formulation": formulation}
    return {**workload, **method, "median_s": seconds}


COSTS = [
    cell("flex", "compile_forward", 5.9, "cold cache"),
    cell("flex", "compile_forward", 0.2, "warm cache"),
    cell("flex", "compile_backward", 9.9, "cold cache"),
    cell("ours", "block_mask", 0.1),
    cell("flex", "forward", 0.010),
    cell("flex", "backward", 0.030),
]


def timed(rows):
    return pd.DataFrame(rows).assign(is_timed=True)


def break_even_by_work(*rivals):
    return break_even(timed([*COSTS, *rivals])).set_index("work")


def test_the_cost_is_divided_by_what_each_call_saves():
    rivals = (cell("sdpa", "forward", 0.012), cell("sdpa", "backward", 0.033))
    others = (
        cell("sdpa_math", "forward", 0.001, "dense bias", "dense_bias"),
        cell("flash_attn", "forward", 0.001, formulation="unpadded:dense_bias"),
        cell("dense", "forward", 0.001, "softmax(q @ k.T + bias) @ v", "dense"),
        cell("flash_attn_4", "forward", 0.001),
    )
    found = break_even_by_work(*rivals, *others)
    assert found.loc["inference", "calls"] == pytest.approx(6.0 / 0.002)
    assert found.loc["training", "calls"] == pytest.approx(10.0 / 0.005)
    assert set(found["rival"]) == {"sdpa"}
    assert draw(timed([*COSTS, *rivals])) is not None


def test_a_formulation_is_recognized_by_its_id_and_not_by_its_text():
    rival = cell("xformers", "forward", 0.011, form="no bias", formulation="full")
    assert break_even_by_work(rival).loc["inference", "rival"] == "xformers"


def test_a_slower_flex_never_breaks_even():
    found = break_even_by_work(cell("sdpa", "forward", 0.009))
    assert math.isinf(found.loc["inference", "calls"])


def test_a_block_mask_that_was_not_timed_costs_nothing():
    rows = [c for c in COSTS if c["direction"] != "block_mask"]
    rows.append(cell("sdpa", "forward", 0.012))
    found = break_even(timed(rows)).set_index("work")
    assert found.loc["inference", "cost_s"] == pytest.approx(5.9)
    label = draw(timed(rows)).axes[0].get_xlabel()
    assert label == "calls until a cold compilation is paid for"


def test_without_a_rival_there_is_no_number_of_calls():
    assert break_even_by_work()["calls"].isna().all()
    assert draw(timed(COSTS)) is not None
    assert draw(timed(COSTS[3:])) is None


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\u00a0"])
def test_a_text_without_outlines_has_a_width(text):
    """A saved run may have such a name. matplotlib's TextPath raises an AttributeError for it."""
    assert 0 <= text_width(text) < text_width("mask")
