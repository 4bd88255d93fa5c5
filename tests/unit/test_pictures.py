"""Every picture can be read at the width at which GitHub shows it, and no text covers another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from maskbench.backends.registry import BACKENDS
from masks import PATTERNS
from reports.__main__ import main
from reports.drawing import attention_cells, load_by_shape, overview_figures
from reports.plots import break_even, fastest, grid, mask, matrix, style, table, timing
from reports.plots.lengths import length_to_show
from reports.runs import load
from tests.unit.real_run import RUN, saved_as

H100 = Path("reports/runs/h100/grid.json.gz")
README_WIDTH = 830  # pixels of 1/96 inch, of GitHub's page
MIN_POINTS = 8
GREYS = ("dense", "sdpa_efficient", "sdpa_flash", "sdpa_math")


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def texts(figure: Figure) -> list[Text]:
    """The texts that are drawn. An axis keeps ticks that it does not draw."""
    figure.canvas.draw()
    found = [text for text in figure.findobj(Text) if text.get_text().strip()]
    of_ticks = {text for tick in figure.findobj(Tick) for text in tick.findobj(Text)}
    drawn = {text for axes in figure.axes for text in tick_labels(axes)}
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    shown = [text for text in found if text.get_visible() and text not in hidden]
    return [text for text in shown if text not in of_ticks or text in drawn]


def tick_labels(axes: Axes) -> Iterator[Text]:
    """The labels of the ticks that are in view."""
    for axis, place in ((axes.xaxis, 0), (axes.yaxis, 1)):
        low, high = sorted(axis.get_view_interval())
        for text in axis.get_ticklabels(which="both"):
            if low <= text.get_position()[place] <= high:
                yield text


def shown_points(figure: Figure) -> float:
    """The size of the smallest text in a README, in points."""
    figure.canvas.draw()  # lays it out
    width = figure.get_tightbbox().width + 2 * style.PADDING  # inches
    pixels = width * style.DPI
    shown = min(pixels, README_WIDTH) / pixels  # by how much the page reduces it
    smallest = min(text.get_fontsize() for text in texts(figure))
    return float(smallest * style.DPI / 96 * shown)


def covered(figure: Figure) -> list[str]:
    """The pairs of texts whose boxes overlap by more than a pixel."""
    boxes = [(text, text.get_window_extent()) for text in texts(figure)]
    return [
        f"{a.get_text()!r} and {b.get_text()!r}"
        for (a, one), (b, other) in combinations(boxes, 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]


def require_readable(figure: Figure) -> None:
    assert shown_points(figure) >= MIN_POINTS - 0.01
    assert not covered(figure)


def with_peaks_and_graphs(run: dict) -> None:
    """Add the fields of newer runs, and noise to every third cell."""
    for i, bench in enumerate(run["benchmarks"]):
        extra, median = bench["extra_info"], bench["stats"]["median"]
        bench["options"]["timer"] = "cuda_kernel_timer"
        extra |= {"gemm_tflops": 2 * extra["tflops"] + 0.1, "copy_gb_per_s": 50.0}
        extra |= {"graph_median_s": median, "graph_host_s": median * (1.2 if i % 2 else 0.1)}
        extra["interval"] = 0.09 if i % 3 == 0 else 0.01
        if i % 4 == 0:
            extra |= {"host_bound": True, "host_us": 3e6 * median, "throttle": ["power cap"]}


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = saved_as(tmp_path_factory.mktemp("newer") / "run.json", with_peaks_and_graphs)
    [(cells, _)] = load_by_shape([path], Path(), None)
    return cells


@pytest.fixture(scope="module")
def h100() -> pd.DataFrame:
    [(cells, _)] = load_by_shape([H100], Path(), None)
    return cells


@pytest.mark.parametrize("run", ["newer", "h100"])
def test_overviews_can_be_read(run: str, request: pytest.FixtureRequest) -> None:
    cells = request.getfixturevalue(run)
    if run == "h100":  # one length is enough, and takes seconds
        cells = cells[cells["seq_len"] == 1024]
    figures = overview_figures(cells)
    assert {name.rpartition("_")[0] for name in figures} >= {"fastest", "table_forward", "speedup"}
    for figure in figures.values():
        require_readable(figure)


def test_the_times_of_a_mask_can_be_read(newer: pd.DataFrame, h100: pd.DataFrame) -> None:
    for cells in (newer, h100):
        attention = attention_cells(cells)
        require_readable(timing.draw(attention[attention["mask"] == "causal"]))


def test_the_costs_of_compilation_can_be_read() -> None:
    costs = [H100.with_name(f"costs_{direction}.json.gz") for direction in ("forward", "backward")]
    [(cells, _)] = load_by_shape([H100, *costs], Path(), None)
    figure = break_even.draw(cells)
    assert figure is not None
    require_readable(figure)


def test_a_mask_can_be_read() -> None:
    for name in ("causal_padding", "neighborhood_3d", max(PATTERNS, key=len)):
        require_readable(mask.draw(name))


@pytest.mark.parametrize("command", ["compare", "history"])
def test_pictures_of_changes_can_be_read(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return path

    monkeypatch.setattr(style, "save", keep)
    folder = Path("reports/runs/releases_h100")
    names = ["2.13.0_1", "2.13.0_2", "2.14.1_1", "2.14.1_2"]
    files = [str(folder / f"{name}.json.gz") for name in names]
    if command == "compare":
        arguments = [*files[:2], "--new", *files[2:]]
    else:
        arguments = [str(folder), "-k", "global_local"]
    assert main([command, *arguments, "-o", str(tmp_path)]) == 0
    assert len(figures) == 2
    for figure in figures:
        require_readable(figure)


def test_a_table_with_many_long_names_can_be_read() -> None:
    rows, columns = (
        [f"{'long_name_' * 9}{i}" for i in range(3)],
        [f"backend_{i}" for i in range(30)],
    )
    entry = grid.Entry(["0.0123", "12.34×†‡", "±12%"], ["#FF0000", "#00FF00"])
    figure = grid.draw(rows, columns, lambda _y, _x: entry, "title", ["note " * 90])
    require_readable(figure)


def test_backends_that_were_not_timed_are_in_a_note(h100: pd.DataFrame) -> None:
    figure = table.draw(attention_cells(h100), 4096, "forward")
    assert figure is not None
    shown = [text.get_text() for text in texts(figure)]
    heads = {text.replace("\n", "") for text in shown}
    assert "sdpa_cudnn" in heads
    assert not {"dense", "sdpa_math"} & heads
    assert any(text.startswith("dense: skipped: holds S x S scores") for text in shown)
    assert "[1] unsupported: SDPA's FlashAttention takes no mask but is_causal" in shown


def test_ties_and_noise_are_shown(newer: pd.DataFrame) -> None:
    attention = attention_cells(newer).copy()
    here = (attention["mask"] == "causal") & (attention["seq_len"] == 512) & attention["is_timed"]
    attention.loc[here, ["median_s", "interval"]] = [0.1, 0.2]
    shown = [text.get_text() for text in texts(fastest.draw(attention, 512))]
    assert any("±20%" in text and " =" in text for text in shown)
    assert "pale grey, with ±: the interval of the fastest is over ±5%" in shown
    greyed = [t for t in texts(fastest.draw(attention, 512)) if "±20%" in t.get_text()]
    assert {text.get_color() for text in greyed} == {grid.NOISY_TEXT_COLOR}


def test_both_answers_and_graphs_are_columns_of_the_fastest(
    newer: pd.DataFrame, h100: pd.DataFrame
) -> None:
    def columns(cells: pd.DataFrame, seq_len: int) -> set[str]:
        shown = {t.get_text().replace("\n", " ") for t in texts(fastest.draw(cells, seq_len))}
        return {text for text in shown if text.startswith("fwd ")}

    assert columns(attention_cells(h100), 1024) == {
        "fwd on the device",
        "fwd as called from Python",
    }
    assert "fwd CUDA graph" in columns(attention_cells(newer), 512)


def test_a_bar_says_how_near_it_is_to_the_peak(newer: pd.DataFrame) -> None:
    attention = attention_cells(newer)
    figure = timing.draw(attention[attention["mask"] == "causal"])
    shown = [text.get_text() for text in texts(figure)]
    assert any("of the compute peak" in text for text in shown)
    assert sum("dotted: at the peak of the device" in text for text in shown) == 2


def test_a_wide_interval_and_a_long_text_stay_in_the_picture(newer: pd.DataFrame) -> None:
    attention = attention_cells(newer)
    causal = attention[attention["mask"] == "causal"].assign(interval=3.0)
    causal.loc[causal["backend"] == "sdpa", ["late_rounds", "host_bound", "two_modes"]] = [
        1000,
        True,
        True,
    ]
    figure = timing.draw(causal)
    require_readable(figure)
    assert any("host-bound, host late, two modes" in text.get_text() for text in texts(figure))
    assert all(axes.get_xlim()[0] == 0 for axes in figure.axes)


def test_on_a_cpu_times_are_wall_times() -> None:
    [(cells, _)] = load_by_shape([RUN], Path(), None)
    attention = attention_cells(cells)
    assert "fwd wall time" in {text.get_text() for text in texts(fastest.draw(attention, 512))}
    figure = table.draw(attention, 512, "forward")
    assert figure is not None
    assert "Wall time, forward, S = 512" in {text.get_text() for text in texts(figure)}


def test_colors_and_signs_are_explained_where_they_are_shown() -> None:
    """On a CPU FlexAttention has a forward only."""
    [(cells, _)] = load_by_shape([RUN], Path(), None)
    attention = attention_cells(cells)
    drawn = {
        "forward": table.draw(attention, 512, "forward"),
        "backward": table.draw(attention, 512, "backward"),
        "fastest": fastest.draw(attention[attention["direction"] == "backward"], 512),
        "timing": timing.draw(attention[attention["mask"] == "causal"]),
        "matrix": matrix.draw(attention),
    }
    shown = {
        name: [t.get_text() for t in texts(figure)] for name, figure in drawn.items() if figure
    }
    assert any("FlexAttention's" in text for text in shown["forward"])
    assert not any("FlexAttention's" in text for text in shown["backward"] + shown["fastest"])
    assert [text for text in shown["timing"] if text.startswith("ms")][-1] == "ms, median"
    assert "orange: timed in one direction" in shown["matrix"]
    without = matrix.draw(attention[attention["backend"] != "flex"])
    assert not any("orange" in text.get_text() for text in texts(without))


def test_the_length_that_is_shown_is_not_throttled(h100: pd.DataFrame) -> None:
    causal = h100[h100["mask"] == "causal"]
    assert length_to_show(causal) == 4096
    assert length_to_show(h100[h100["mask"] == "causal_sliding_window"]) == 16384


def test_the_greys_differ_in_lightness() -> None:
    def lightness(color: str) -> float:
        """L* of a grey, https://en.wikipedia.org/wiki/CIELAB_color_space."""
        value = to_rgb(color)[0]
        linear = value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        return float(116 * linear ** (1 / 3) - 16)

    steps = sorted(lightness(BACKENDS[name].color or "") for name in GREYS)
    assert np.diff(steps).min() > 15


def test_plots_says_how_many_cells_are_noisy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_as(tmp_path / "run.json", with_peaks_and_graphs)
    assert main(["plots", str(run), "-k", "causal-flex-s512", "-o", str(tmp_path)]) == 0
    noisy = load([run]).query("interval > 0.05 and fullname.str.contains('causal-flex-s512')")
    line = f"note: {len(noisy)} of 1 cells are noisy (95 % interval over ±5%): is the machine busy?"
    assert (line in capsys.readouterr().out) == (len(noisy) > 0)
