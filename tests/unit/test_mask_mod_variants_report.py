"""`python -m reports mask_mod_variants`: the times of one mask with different mask_mods."""

import pytest

from maskbench.records import UnreadableRun
from reports.__main__ import main
from reports.generated import generated_part
from reports.mask_mod_variants import NAME, mask_mod_variants_report
from tests.unit.real_run import few_cells, saved_as

SECONDS = {"slow": {"forward": 6e-3, "backward": 2e-3}, "fast": {"forward": 2e-3, "backward": 4e-3}}


def variants(run):
    """The test data's causal cells as two variants of a mask_mod, with the times of `SECONDS`."""
    few_cells(run)
    names = dict(zip(("flex", "sdpa"), SECONDS, strict=True))
    kept = []
    for bench in run["benchmarks"]:
        cell = bench["extra_info"]
        name = names.get(cell["backend"])
        if name and cell["direction"] == "forward":
            for direction, seconds in SECONDS[name].items():
                fields = {"backend": name, "direction": f"spelling_{direction}", "interval": 0.01}
                stats = {**bench["stats"], "median": seconds}
                fullname = f"{bench['fullname']}-{name}-{direction}"
                info = {**cell, **fields}
                kept.append({**bench, "fullname": fullname, "stats": stats, "extra_info": info})
    run["benchmarks"], run["maskbench"]["untimed"] = kept, []


def without_backward(run):
    variants(run)
    run["benchmarks"] = [
        b for b in run["benchmarks"] if b["extra_info"]["direction"] == "spelling_forward"
    ]


def test_each_variant_has_its_times_and_those_over_the_fastest(tmp_path):
    text = mask_mod_variants_report([saved_as(tmp_path / "run.json", variants)]).markdown()
    lines = text.splitlines()
    assert lines[0].startswith("B1 H4 D64 float32, ")
    assert lines[-2:] == [
        "| causal | slow | 512 | 6 ms | 3.00 | 2 ms | 1.00 |",
        "| causal | fast | 512 | 2 ms | 1.00 | 4 ms | 2.00 |",
    ]


def test_a_cpu_has_no_backward(tmp_path):
    path = saved_as(tmp_path / "run.json", without_backward)
    assert (
        "| causal | fast | 512 | 2 ms | 1.00 |  |  |" in mask_mod_variants_report([path]).markdown()
    )


def test_programs_get_seconds(tmp_path):
    data = mask_mod_variants_report([saved_as(tmp_path / "run.json", variants)]).table()
    rows = data.set_index(["mask_mod", "direction"])["median_s"].to_dict()
    assert rows == {(name, d): s for name, times in SECONDS.items() for d, s in times.items()}


def test_a_run_without_variants_is_refused(tmp_path):
    path = saved_as(tmp_path / "run.json", few_cells)
    with pytest.raises(UnreadableRun, match=r"no mask_mod variant was timed.*tests/test_spelling"):
        mask_mod_variants_report([path])


def test_the_command_writes_between_the_markers(tmp_path):
    run, page = saved_as(tmp_path / "run.json", variants), tmp_path / "page.md"
    page.write_text(f"<!-- begin: {NAME} -->\n<!-- end: {NAME} -->\n")
    assert main(["mask_mod_variants", str(run), "-o", str(page)]) == 0
    assert generated_part(page, NAME) == mask_mod_variants_report([run]).markdown()
