"""The page of runs without a browser: its data, the code of masks, and what it refuses."""

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
import torch

from maskbench.backends.registry import BACKENDS
from masks import PATTERNS
from reports.__main__ import main
from reports.page.build import LIBRARY, LICENSE, SCRIPTS, STYLES, asset, page_html
from reports.page.data import page_data
from reports.page.mask_facts import mask_code, parameters_of
from reports.page.mask_mod_source import NotStandalone, mask_mod_source
from reports.runs import load
from tests.unit.pytest_process import ROOT
from tests.unit.real_run import RUN, few_cells, saved_as
from tests.unit.seeded_runs import on_gpu

GRID = ROOT / "reports" / "runs" / "h100" / "grid.json.gz"
OWN_SCRIPTS = [name for name in SCRIPTS if name.startswith("script/")]


def data_in(html):
    """The data of a page, as a browser reads it."""
    (packed,) = re.findall(r'id="data">([A-Za-z0-9+/=]*)</script>', html)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


# --- one file ----------------------------------------------------------------------------------


def test_the_page_of_a_grid_is_one_small_file(tmp_path, capsys):
    assert main(["page", str(GRID), "-o", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    html = (tmp_path / "index.html").read_text()
    assert len(html) < 3_000_000
    assert str(tmp_path / "index.html") in capsys.readouterr().out
    data = data_in(html)
    assert len(data["cells"]["device"]) == len(load([GRID]))
    assert data["setups"][0]["device"] == "NVIDIA H100 80GB HBM3"


def test_options_that_cannot_be_read_do_not_end_the_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "a_gpu" / "folder.json").mkdir(parents=True)
    monkeypatch.setattr("reports.page.kernel_options.FOLDER", tmp_path)
    assert main(["page", str(RUN), "-o", str(tmp_path / "page")]) == 0
    assert "folder.json: cannot be read" in capsys.readouterr().err


def test_the_same_runs_give_the_same_page():
    assert page_html(page_data([RUN])) == page_html(page_data([RUN]))


def test_the_policy_allows_only_the_scripts_of_the_page():
    html = page_html(page_data([RUN]))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; script-src &#39;sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"\bsrc=|@import|url\(", html.partition("<script")[0])
    assert "http" not in policy


@pytest.mark.parametrize("name", OWN_SCRIPTS)
def test_no_script_makes_markup_or_code_from_text(name):
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|fetch\("
    )
    assert not re.search(forbidden, asset(name))


def test_every_script_and_style_is_in_the_page():
    folder = ROOT / "reports" / "page"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.js")}
    assert files == {LIBRARY, *SCRIPTS}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.css")} == set(STYLES)


def test_a_file_that_is_no_page_is_not_replaced(tmp_path, capsys):
    mine = tmp_path / "index.html"
    mine.write_text("my own page")
    assert main(["page", str(RUN), "-o", str(tmp_path)]) == 2
    assert f"{mine}: is not a page of maskbench" in capsys.readouterr().err
    assert mine.read_text() == "my own page"
    mine.unlink()
    assert main(["page", str(RUN), "-o", str(tmp_path)]) == 0
    assert main(["page", str(RUN), "-o", str(tmp_path)]) == 0


def test_the_committed_page_is_of_this_code():
    html = (ROOT / "docs" / "index.html").read_text()
    old = [name for name in (LIBRARY, *SCRIPTS, *STYLES) if asset(name) not in html]
    assert not old, "run `make page`"
    assert data_in(html)["trends"]


def test_the_licence_of_the_library_is_in_the_page():
    assert "The MIT License" in asset(LICENSE)
    assert asset(LICENSE) in page_html(page_data([RUN]))


# --- what is refused ---------------------------------------------------------------------------


def test_a_run_without_times_is_refused(tmp_path, capsys):
    def without_times(run):
        run["benchmarks"] = []

    run = saved_as(tmp_path / "run.json", without_times)
    assert main(["page", str(run), "-o", str(tmp_path / "out")]) == 2
    assert "nothing was timed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_of_10000_characters_is_refused(tmp_path, capsys):
    def long_name(run):
        run["benchmarks"][0]["extra_info"]["mask"] = "x" * 10_000

    run = saved_as(tmp_path / "run.json", long_name)
    assert main(["page", str(run), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert str(run) in error
    assert "length <= 200" in error


def test_a_folder_that_is_no_history_is_refused(tmp_path, capsys):
    arguments = ["page", str(RUN), "--history", str(tmp_path / "none"), "-o", str(tmp_path)]
    assert main(arguments) == 2
    assert "is no folder" in capsys.readouterr().err


# --- which runs are grouped --------------------------------------------------------------------


def test_runs_of_two_versions_of_torch_are_separate_and_compared(save_run):
    runs = [save_run(0), save_run(1, change=lambda run: run["commit_info"].update(torch="9.9"))]
    data = page_data(runs)
    assert [setup["torch"] for setup in data["setups"]] == ["2.13.0+cpu", "9.9"]
    setups = data["cells"]["setup"]
    assert setups.count(0) == setups.count(1) == 84
    changes = [abs(change) for change in data["comparison"]["cells"]["change"]]
    assert len(changes) == 46
    assert data["comparison"]["notes"]


def test_machines_whose_times_are_not_comparable_are_separate(save_run):
    def limited(watts, card):
        def change(run):
            on_gpu(card)(run)
            run["machine_info"]["power_limit_w"] = watts

        return change

    runs = [save_run(day, change=limited(700, f"GPU-{day}")) for day in (0, 1)]
    data = page_data([*runs, save_run(2, change=limited(350, "GPU-2"))])
    names = [setup["name"] for setup in data["setups"]]
    assert names == ["a GPU (700 W), torch 2.13.0+cpu", "a GPU (350 W), torch 2.13.0+cpu"]
    assert "the cells were timed on 2 GPUs of this model" in data["setups"][0]["notes"]
    assert data["comparison"] is None


def test_the_largest_change_is_first(save_run):
    slower = "causal-flex-s512"
    data = page_data([save_run(0, noise=0), save_run(1, scale=[(slower, 2)], noise=0)])
    names = data["comparison"]["cells"]["name"]
    assert slower in names["t"][names["i"][0]]
    assert data["comparison"]["cells"]["change"][0] == pytest.approx(1)


def test_runs_of_which_no_cell_is_comparable_say_so(save_run):
    def in_another_way(run):
        for bench in run["benchmarks"]:
            bench["extra_info"]["formulation"] = "another"

    data = page_data([save_run(0), save_run(1, change=in_another_way)])
    assert "no comparable cell in common" in data["comparison"]["problem"]


def test_parts_of_one_run_are_not_compared(tmp_path):
    def only(mask):
        return lambda run: few_cells(run, (mask,))

    runs = [
        saved_as(tmp_path / f"{mask}.json", only(mask)) for mask in ("causal", "causal_padding")
    ]
    data = page_data(runs)
    assert data["comparison"] is None
    assert len(data["setups"]) == 1
    assert set(data["cells"]["mask"]["t"]) == {"causal", "causal_padding"}


def test_a_history_of_many_times_shows_the_newest_runs(save_run, history, monkeypatch):
    monkeypatch.setattr("reports.page.changes.MAX_TIMES", 46 * 4)
    data = page_data([save_run(0)], history)
    assert data["trends"]["notes"][-1] == "the newest 4 of 10 runs are shown"
    assert data["trends"]["series"][0]["at"] == [0, 1, 2, 3]
    assert [date[:10] for date in data["trends"]["runs"]["saved"]][-1] == "2026-01-10"


# --- cells -------------------------------------------------------------------------------------


def test_fields_that_only_newer_runs_have_are_shown(tmp_path):
    def newer(run):
        run["benchmarks"][0]["extra_info"] |= {
            "errors": {"out": 0.00042, "dq": 0.001},
            "error_bounds": {"out": 0.0058, "dq": 0.006},
            "soak_launches": 2000,
            "soak_distinct": 3,
            "soak_worst_difference": 0.0001,
            "deterministic": False,
            "graph_median_s": 1e-3,
            "graph_host_s": 1e-5,
            "gemm_tflops": 2.0,
        }
        run["commit_info"]["xformers"] = "0.0.35"

    run = saved_as(tmp_path / "run.json", newer)
    data = page_data([run])
    cells = data["cells"]
    (at,) = [i for i, value in enumerate(cells["graph"]) if value is not None]
    assert (
        cells["errors"]["t"][cells["errors"]["i"][at]] == "out 0.00042 of 0.0058, dq 0.001 of 0.006"
    )
    soak = "3 different gradients in 2000 launches; largest difference 0.0001"
    assert cells["soak"]["t"][cells["soak"]["i"][at]] == soak
    assert cells["graph"][at] == 1e-3
    assert cells["share"][at] > 0
    assert data["setups"][0]["runs"][0]["facts"]["xFormers"] == "0.0.35"


# --- masks -------------------------------------------------------------------------------------


def evaluated(code, batch, heads, seq_len):
    """The dense mask of the function that the code defines."""
    names = {}
    exec(code.replace('device = "cuda"', 'device = "cpu"'), names)
    index = [torch.arange(size, dtype=torch.int32) for size in (batch, heads, seq_len, seq_len)]
    grid = torch.meshgrid(*index, indexing="ij")
    return names["mask_mod"](*grid)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_code_of_a_mask_is_its_mask_mod(name):
    batch, heads, seq_len = 2, 2, 256
    mask = PATTERNS[name](seq_len=seq_len, batch=batch, heads=heads)
    try:
        code = mask_mod_source(mask.mask_mod("cpu"))
    except NotStandalone:
        assert name in ("neighborhood_2d", "neighborhood_3d", "block_sparse", "image_in_causal")
        return
    expected = mask.dense("cpu").expand(batch, heads, seq_len, seq_len)
    assert evaluated(code, batch, heads, seq_len).equal(expected)


def test_the_code_has_the_parameters_of_the_mask():
    cells = load([RUN]).assign(mask="causal_sliding_window(left=7)")
    code = mask_code("causal_sliding_window(left=7)", "causal_sliding_window", cells)
    assert "left = 7\n" in code["code"]


@pytest.mark.parametrize(
    "name",
    ["causal(", "causal(__import__('os'))", "causal(x=open)", "causal(left=1)", "causal(((((("],
)
def test_parameters_of_a_saved_name_are_never_run(name):
    cells = load([RUN]).assign(mask=name)
    assert mask_code(name, "causal", cells) == {}


def test_no_mask_of_a_huge_length_is_built():
    cells = load([RUN]).assign(seq_len=2**40)
    assert mask_code("causal", "causal", cells) == {}


def test_parameters_are_read_from_names():
    assert parameters_of("x(left=1023, shape=(8, 8))") == {"left": 1023, "shape": (8, 8)}
    assert parameters_of("x") == {}


def test_package_data_has_all_files():
    text = Path(ROOT / "pyproject.toml").read_text()
    assert '"reports.page" = ["*.j2", "*.css", "script/*.js", "vendor/*"]' in text


def test_the_page_draws_the_marker_of_each_backend():
    """Two backends had the same dash, because the page had no outline of their markers."""
    outlines = re.findall(r'^  "?([^\s":]+)"?: "M', asset("script/markers.js"), re.M)
    assert {spec.marker for spec in BACKENDS.values()} <= set(outlines)
