"""The tables of reports/validation.md."""

import json
import math

import pytest

from maskbench.reading import read_run
from reports import timing_accuracy, validation
from reports.__main__ import main
from reports.generated import generated_part
from tests.unit.real_run import RUN


@pytest.fixture
def saved(tmp_path):
    """A function that saves a copy of the test data; `change` edits each of its benchmarks."""

    def save(name, change, **about):
        run = json.loads(RUN.read_text())
        run["maskbench"] |= about
        for bench in run["benchmarks"]:
            change(bench)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(run))
        return path

    return save


def cells_of(path):
    return validation.timed_cells(read_run(path))


def scaled(factor):
    def change(bench):
        bench["stats"]["median"] = factor
        bench["extra_info"]["two_modes"] = False

    return change


def test_cells_that_repeat_within_one_percent_are_counted(saved):
    near = [saved(f"near{i}", scaled(1e-3 * (1 + 0.004 * i))) for i in range(3)]
    assert "| 100 % |" in timing_accuracy.repeatability([cells_of(p) for p in near]).markdown()
    far = [*near, saved("far", scaled(1.02e-3))]
    text = timing_accuracy.repeatability([cells_of(p) for p in far]).markdown()
    assert "| 95 % | 0 % |" in text
    assert "| cell | far | near0 | near1 | near2 |" in text


def test_short_cells_are_judged_in_microseconds(saved):
    runs = [cells_of(saved(f"r{i}", scaled(20e-6 + i * 0.9e-6))) for i in range(2)]
    assert "| 95 % | 100 % |" in timing_accuracy.repeatability(runs).markdown(), "4.5 %, but 0.9 us"


def test_times_that_follow_the_clock_repeat_in_cycles(saved):
    def at(mhz):
        def change(bench):
            scaled(1.8 / mhz)(bench)
            bench["extra_info"]["call_clock_mhz"] = mhz

        return change

    clocks = (1800.0, 1850.0, 1790.0)
    runs = [cells_of(saved(f"r{i}", at(mhz))) for i, mhz in enumerate(clocks)]
    text = timing_accuracy.repeatability(runs).markdown()
    assert "| cells with a range within 1 % (below 50 us: 1 us) | 95 % | 0 % |" in text
    assert "| correlation of that clock and time |  | -1.00 |" in text
    assert "time x clock |  | 100 % |" in text


def test_saved_cycles_are_used_instead_of_time_by_clock(saved):
    def at(mhz, cycles):
        def change(bench):
            scaled(1.8 / mhz)(bench)
            bench["extra_info"] |= {"call_clock_mhz": mhz, "cycles": cycles}

        return change

    def report(*cycles):
        clocks_and_cycles = zip((1800.0, 1850.0, 1790.0), cycles, strict=True)
        runs = [cells_of(saved(f"r{i}", at(*pair))) for i, pair in enumerate(clocks_and_cycles)]
        return timing_accuracy.repeatability(runs).markdown()

    text = report(1.8e6, 1.801e6, 1.79e6)
    assert "in cycles |  | 100 % |" in text
    assert "of the others, in cycles |  | none |" in text
    text = report(1.8e6, 1.9e6, 1.79e6)
    assert "in cycles |  | 0 % |" in text
    assert "-s512-b1h4d64-float32] 6.1%" in text


def test_too_few_rounds_miss_the_target(saved):
    def change(bench):
        bench["stats"] |= {"median": 1.0, "data": [1 + 0.012 * math.sin(i) for i in range(64)]}
        bench["stats"]["rounds"] = 64
        bench["extra_info"] |= {"interval": 0.006, "cycles_interval": 0.004, "two_modes": False}

    text = timing_accuracy.rounds(cells_of(saved("r", change))).markdown()
    assert "| all | 0 % | 64 |" in text
    assert "| all, in cycles | 100 % | 64 |" in text
    assert "| the first 1/4 | 0 % | 16 |" in text
    uncounted = cells_of(saved("r", change)).assign(cycles_interval=None)
    assert "in cycles" not in timing_accuracy.rounds(uncounted).markdown()


def fidelity_of(saved, change):
    def cells(bench):
        median, flex = bench["stats"]["median"], bench["extra_info"]["backend"] == "flex"
        bench["extra_info"] |= {"direction": "fidelity_forward", "cycles": 1.0e6}
        bench["extra_info"] |= {"watched_cycles": 1.0e6, "cupti_s": median, "events_s": median}
        change(bench["extra_info"], flex)

    return timing_accuracy.fidelity(cells_of(saved("r", cells))).markdown()


def test_fidelity_marks_cells_outside_of_the_bound(saved):
    def change(fields, flex):
        fields["cupti_s"] = fields["events_s"] / (1.02 if flex else 1.005)

    text = fidelity_of(saved, change)
    assert "+2.00 | no |" in text
    assert "+0.50 | yes |" in text


def test_fidelity_counts_calls_that_are_slower_under_the_profiler(saved):
    def change(fields, flex):
        fields["watched_cycles"] = 1.014e6 if flex else 0.98e6

    text = fidelity_of(saved, change)
    assert "+0.00 | yes | +1.40 |" in text
    flex = sum("| flex |" in line for line in text.splitlines())
    assert f" {flex} take longer than calls without the profiler" in text


def test_fidelity_of_calls_that_cupti_did_not_time_is_refused(saved, capsys):
    def change(bench):
        bench["extra_info"] |= {"direction": "fidelity_forward", "events_s": 1e-3, "cupti_s": 1e-3}

    old = saved("old", change)
    assert main(["validation", str(old)]) == 2
    stderr = capsys.readouterr().err
    assert f"{old}: its calls were not those that CUPTI timed" in stderr
    assert "Traceback" not in stderr


def test_stage_times_have_a_row_per_run(saved):
    seconds = {"warm up": 1.0, "compile ahead": 9.0, "time": 19.5, "other": 0.5, "total": 30.0}
    path = saved("cold", lambda bench: None, seconds=seconds, jobs=16)
    count = len(json.loads(path.read_text())["benchmarks"])
    row = f"| cold | {count} | 16 | 1 | 9 | 0 | 0 | 20 | 0 | 30 | {2 * count} |"
    assert row in validation.stage_times([read_run(path)]).markdown()


def test_the_command_writes_what_it_prints(saved, tmp_path, capsys):
    runs = [str(saved(f"r{i}", scaled(1e-3))) for i in range(2)]
    page = tmp_path / "page.md"
    page.write_text(f"<!-- begin: {validation.NAME} -->\n<!-- end: {validation.NAME} -->\n")
    assert main(["validation", *runs, "-o", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    text = generated_part(page, validation.NAME)
    assert "Not in these runs: Fidelity" in text
    assert "## Repeatability" in text
    assert main(["validation", *runs, "--format", "markdown"]) == 0
    assert capsys.readouterr().out.strip() == text


def test_repeats_are_of_one_gpu_and_exclude_slower_code(saved):
    paths = [saved(f"a{i}", scaled(1e-3 * (1 + i / 500))) for i in range(3)]
    paths += [saved("b", scaled(2e-3)), saved("slow", scaled(3e-3), slower="by a table")]
    run = json.loads(paths[3].read_text())
    run["machine_info"]["gpu_uuid"] = "another"
    paths[3].write_text(json.dumps(run))
    text = validation.validation_report(paths).markdown()
    assert f"| 60 or more, 5 | {len(run['benchmarks'])}, 3 |" in text
    assert "| 95 % | 100 % |" in text


def test_repeatability_takes_the_most_processes_and_rounds_the_widest_grid(saved):
    """Cold and warm runs of the whole grid are newer and wider than the repeated runs."""

    def change(bench):
        scaled(1e-3)(bench)
        bench["stats"] |= {"data": [1e-3] * 8, "rounds": 8}

    paths = [saved(f"same{i}", change) for i in range(3)]
    for path in paths:
        run = json.loads(path.read_text())
        count = len(run["benchmarks"])
        run["benchmarks"] = run["benchmarks"][: count // 2]
        path.write_text(json.dumps(run | {"datetime": "2020-01-01T00:00:00+00:00"}))
    text = validation.validation_report(
        [*paths, *(saved(name, change) for name in ("cold", "warm"))]
    ).markdown()
    assert f"| 60 or more, 5 | {count // 2}, 3 |" in text
    assert f"for 90 % of the cells. {2 * count} cells." in text


def test_a_run_without_times_is_refused(saved, tmp_path, capsys):
    run = json.loads(RUN.read_text()) | {"benchmarks": []}
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(run))
    assert main(["validation", str(path)]) == 2
    assert "nothing was timed" in capsys.readouterr().err
