"""The commands `plots` and `matrix` on a small saved run, and on files that are not runs.

The run, tests/unit/data/cpu_run.json, was saved on a CPU.
"""

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from maskbench.records import FORMAT
from reports import runs
from reports.__main__ import main
from reports.plots import matrix
from reports.plots.labels import milliseconds
from tests.unit.real_run import RUN, few_cells

ROOT = Path(__file__).parents[2]
MASKS = ["causal", "global_local_sliding_window", "causal_padding"]
OVERVIEWS = [
    *("matrix.png", "speedup_forward.png", "fastest_s512.png", "fastest_s1024.png"),
    *(f"table_{d}_s{n}.png" for d in ("forward", "backward") for n in (512, 1024)),
]


@pytest.fixture
def saved():
    return json.loads(RUN.read_text())


def write(path, run):
    """Save a run, or any text, and return the path."""
    path.write_text(run if isinstance(run, str) else json.dumps(run))
    return path


def test_the_table_has_one_row_for_each_cell(saved):
    cells = runs.load([RUN])
    timed, untimed = len(saved["benchmarks"]), len(saved["maskbench"]["untimed"])
    assert (cells["is_timed"].sum(), len(cells)) == (timed, timed + untimed)
    assert len(cells) == 3 * 2 * 7 * 2
    bench = saved["benchmarks"][0]
    row = cells.set_index("fullname").loc[bench["fullname"]]
    assert row["median_s"] == bench["stats"]["median"]
    assert row["backend"] == bench["extra_info"]["backend"]
    flex = cells[(cells["backend"] == "flex") & (cells["direction"] == "backward")]
    assert set(flex["reason"]) == {"FlexAttention does not support backward on CPU."}


def test_the_parts_of_a_run_are_joined(tmp_path, saved):
    half = len(saved["benchmarks"]) // 2
    first = {**saved, "benchmarks": saved["benchmarks"][:half]}
    second = {**saved, "benchmarks": saved["benchmarks"][half:]}
    paths = [write(tmp_path / f"{i}.json", part) for i, part in enumerate((first, second))]
    together, whole = runs.load(paths), runs.load([RUN])
    columns = ["fullname", "median_s", "outcome"]
    by_name = together[columns].sort_values("fullname", ignore_index=True)
    assert by_name.equals(whole[columns].sort_values("fullname", ignore_index=True))


def test_cells_are_in_the_order_of_the_files_and_not_of_their_dates(tmp_path, saved):
    newer = write(tmp_path / "newer.json", {**saved, "datetime": "2999-01-01T00:00:00+00:00"})
    text = re.sub(r"\bb1h4d64\b", "b9h4d64", RUN.read_text())
    older = write(tmp_path / "older.json", text)
    causal = runs.load([newer, older]).query("mask == 'causal' and seq_len == 512")
    is_older = causal["fullname"].str.contains("b9h4d64").tolist()
    assert is_older == sorted(is_older)


def test_timed_cells_and_newer_cells_replace_the_others(tmp_path, saved):
    later = json.loads(json.dumps({**saved, "datetime": "2999-01-01T00:00:00+00:00"}))
    name = saved["benchmarks"][0]["fullname"]
    later["benchmarks"] = later["benchmarks"][:1]
    later["benchmarks"][0]["stats"]["median"] = 123.0
    other = saved["benchmarks"][1]
    lost = {**other["extra_info"], "fullname": other["fullname"], "outcome": "failed"}
    later["maskbench"]["untimed"] = [{**lost, "reason": "it broke"}]
    path = write(tmp_path / "later.json", later)
    for order in ([RUN, path], [path, RUN]):
        cells = runs.load(order).set_index("fullname")
        assert cells.loc[name, "median_s"] == 123.0
        assert cells.loc[other["fullname"], "outcome"] == "timed"


def test_plots_draws_every_mask_and_the_overviews(tmp_path, capsys):
    assert main(["plots", str(RUN), "-o", str(tmp_path / "out")]) == 0
    drawn = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    each = [f"{mask}/{name}" for mask in MASKS for name in ("mask.png", "timing.png")]
    # FlexAttention has no backward on a CPU, so there is no speed-up of it
    assert drawn == sorted(each + OVERVIEWS)
    for path in (tmp_path / "out").rglob("*.png"):
        assert path.stat().st_size < 150_000
        with Image.open(path) as picture:
            assert min(picture.size) > 250
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 2
    assert f"14 pictures of {RUN} are in {tmp_path / 'out'}/" in capsys.readouterr().out


def test_matrix_has_a_formulation_or_a_reason_for_each_cell(tmp_path, capsys):
    assert main(["matrix", str(RUN), "-o", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    blocks = dict(block.split("\n", 1) for block in output.split("\n\n")[1:-1])
    assert list(blocks) == MASKS
    for block in blocks.values():
        entries = dict(line.split(maxsplit=1) for line in block.splitlines())
        assert len(entries) == 7
        assert all(entries.values())
        assert "does not support backward on CPU" in entries["flex"]
        assert entries["flex"].startswith("fwd block_mask 128x128; bwd unsupported: ")
        assert entries["sdpa_cudnn"].startswith("unsupported: SDPA's CUDNN_ATTENTION kernel needs")
    assert "  sdpa_flash      is_causal=True" in blocks["causal"]
    assert (tmp_path / "matrix.png").stat().st_size > 10_000


def test_a_formulation_that_depends_on_the_length_is_shown_with_its_lengths():
    cells = runs.load([RUN])
    cells = cells[(cells["mask"] == "causal") & (cells["backend"] == "sdpa")].copy()
    lengths = sorted(cells["seq_len"].unique())
    assert matrix.entry(cells) == "is_causal=True"
    cells.loc[(cells["direction"] == "forward") & (cells["seq_len"] == lengths[-1]), "form"] = "2"
    shorter = "/".join(map(str, lengths[:-1]))
    expected = f"fwd S={shorter} is_causal=True, S={lengths[-1]} 2; bwd is_causal=True"
    assert matrix.entry(cells) == expected


def test_a_cell_that_was_not_in_the_run_is_named_as_such():
    cells = runs.load([RUN])
    cells = cells[(cells["mask"] != "causal") | (cells["backend"] != "dense")]
    assert matrix.entries(cells)["causal", "dense"] == "not in this run"


def test_plots_draws_the_times_of_a_mask_that_no_longer_exists(tmp_path, saved):
    few_cells(saved, masks=("causal_padding",))
    text = json.dumps(saved).replace("causal_padding", "retired_mask")
    run = write(tmp_path / "old.json", text)
    assert main(["plots", str(run), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "retired_mask" / "timing.png").exists()
    assert not (tmp_path / "out" / "retired_mask" / "mask.png").exists()


def test_each_shape_gets_its_own_folder(tmp_path, saved):
    few_cells(saved)
    other = json.loads(json.dumps(saved))
    for cell in [b["extra_info"] for b in other["benchmarks"]] + other["maskbench"]["untimed"]:
        cell["batch"] = 2
    for cell in [*other["benchmarks"], *other["maskbench"]["untimed"]]:
        cell["fullname"] = cell["fullname"].replace("-b1h", "-b2h")
    path = write(tmp_path / "other.json", other)
    one = write(tmp_path / "one.json", saved)
    assert main(["plots", str(one), str(path), "-o", str(tmp_path / "out")]) == 0
    folders = {p.name for p in (tmp_path / "out").iterdir()}
    assert folders == {"B1_H4_D64_float32", "B2_H4_D64_float32"}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"),
        ("2026-01-01T23:00:00+09:00", "2026-01-01T15:00:00+00:00"),
        ("2026-01-01T14:00:00", "2026-01-01T10:00:00-05:00"),
        ("2026-01-01T14:00:00Z", "2026-01-01T14:00:00.500000+00:00"),
    ],
    ids=["days", "zones", "no zone", "fractions"],
)
def test_newest_goes_by_what_the_run_says_and_not_by_its_file(older, newer, tmp_path):
    (tmp_path / "device" / "Linux").mkdir(parents=True)
    paths = {
        date: write(tmp_path / "device" / "Linux" / name, {"datetime": date})
        for date, name in ((older, "10000_b.json"), (newer, "0001_a.json"))
    }
    os.utime(paths[newer], (1, 1))  # as after a copy
    os.utime(paths[older], (2, 2))
    assert runs.newest(tmp_path) == paths[newer]


def test_of_runs_with_one_date_the_highest_number_is_the_newest(tmp_path, capsys):
    date = {"datetime": "2026-01-01T00:00:00+00:00"}
    for number in ("9999", "10000", "0001"):
        write(tmp_path / f"{number}_run.json", date)
    write(tmp_path / "10001_run.json", "{")
    assert runs.newest(tmp_path) == tmp_path / "10000_run.json"
    assert f"left out: {tmp_path / '10001_run.json'}: is not JSON" in capsys.readouterr().err


EMPTY = {"format": FORMAT, "untimed": []}
BAD = {
    "empty": ("", "is empty"),
    "truncated": (RUN.read_text()[:2000], "is not JSON or is truncated"),
    "not JSON": ("mask,ms\ncausal,1.0\n", "is not JSON or is truncated"),
    "a list": ("[1, 2]", "is not as this suite saves runs: Expected object, got array"),
    "another suite": ('{"benchmarks": [{"name": "x"}]}', "but not from this suite"),
    "unknown format": ('{"benchmarks": [], "maskbench": {"format": 99}}', "has format 99"),
    "no benchmarks": (
        json.dumps({**json.loads(RUN.read_text()), "benchmarks": []}),
        "has no benchmarks: nothing was timed in that run; ",
    ),
    "nothing at all": (
        json.dumps({**json.loads(RUN.read_text()), "benchmarks": [], "maskbench": EMPTY}),
        "has no benchmarks: nothing was timed",
    ),
    "half a run": (
        '{"benchmarks": [{"name": "x"}], "maskbench": {"format": 1, "untimed": []}}',
        "is not as this suite saves runs",
    ),
    "a cell without its flags": (
        RUN.read_text().replace('"host_bound"', '"host_bond"'),
        "missing required field host_bound",
    ),
    "a median that is no number": (
        re.sub(r'"median": [^,]+', '"median": "fast"', RUN.read_text()),
        "is not as this suite saves runs",
    ),
    "a median of 0": (re.sub(r'"median": [^,]+', '"median": 0.0', RUN.read_text()), "above 0"),
    "binary": (b"\x89PNG\xff\xfe", "codec can't decode"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_one_line_and_exit_status_2(name, tmp_path, capsys):
    content, message = BAD[name]
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["plots", str(path), "-o", str(tmp_path / "out")]) == 2
    output = capsys.readouterr().err
    assert output.startswith(f"reports: {path}: ")
    assert message in output
    assert output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_file_or_an_empty_storage_gives_exit_status_2(tmp_path, capsys, monkeypatch):
    assert main(["plots", str(tmp_path / "none.json")]) == 2
    output = capsys.readouterr().err
    assert output == f"reports: {tmp_path / 'none.json'}: No such file or directory\n"
    monkeypatch.chdir(tmp_path)
    assert main(["plots"]) == 2
    assert "no saved run; make one with `pytest" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plots", "page", "ranking", "gate"])
def test_a_run_without_times_says_why_most_cells_have_none(command, tmp_path, saved, capsys):
    cells = saved["maskbench"]["untimed"]
    frequent = {**cells[0], "outcome": "failed", "reason": "RuntimeError: no kernel"}
    untimed = [{**frequent, "fullname": f"x[{n}]"} for n in range(len(cells))]
    run = {**saved, "benchmarks": [], "maskbench": {**saved["maskbench"], "untimed": untimed}}
    assert main([command, str(write(tmp_path / "run.json", run))]) == 2
    reason = f"; {len(cells)} of {len(cells)} cells are failed: RuntimeError: no kernel\n"
    assert capsys.readouterr().err.endswith(f"nothing was timed in that run{reason}")


def test_a_run_without_attention_cells_asks_for_another(tmp_path, saved, capsys):
    for bench in saved["benchmarks"]:
        bench["extra_info"]["direction"] = "soak_backward"
    run = {**saved, "maskbench": {**saved["maskbench"], "untimed": []}}
    assert main(["ranking", str(write(tmp_path / "run.json", run))]) == 2
    output = capsys.readouterr().err
    assert output.endswith("has no forward or backward cell; name a run that has some\n")


def test_parts_from_two_devices_are_rejected(tmp_path, saved, capsys):
    other = write(tmp_path / "o.json", {**saved, "machine_info": {"gpu": "NVIDIA H100"}})
    assert main(["plots", str(RUN), str(other)]) == 2
    output = capsys.readouterr().err
    assert "not parts of one run: device is CPU, 2 threads, NVIDIA H100" in output


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    blocked = write(tmp_path / "file", "")
    assert main(["plots", str(RUN), "-o", str(blocked)]) == 2
    assert str(blocked) in capsys.readouterr().err


def test_an_unknown_command_gives_exit_status_2(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["paint"])
    assert ending.value.code == 2
    assert "invalid choice: 'paint'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.733e-5, "0.0373 ms"), (0.00207, "2.07 ms"), (0.1302, "130 ms"), (1.5, "1,500 ms")],
)
def test_milliseconds_has_three_significant_digits(seconds, text):
    assert milliseconds(seconds) == text
