"""`python -m reports releases`: what changed between releases, written between two markers."""

import json
import random
import re
from pathlib import Path

import pytest

from maskbench.records import UnreadableRun
from reports import generated, releases
from reports.__main__ import main

RUN = Path(__file__).parent / "data" / "cpu_run.json"
NOISE = 0.0005
WINDOW, PADDING = "global_local_sliding_window-flex-s512", "causal_padding-flex-s512"


def without_gpu(run):
    run["machine_info"] |= {"gpu": None, "device": "cpu"}


def of_another_model(run):
    run["machine_info"]["gpu"] = "another GPU"


def one_form(run):
    for bench in run["benchmarks"]:
        bench["extra_info"] |= {"form": "one", "formulation": "one"}


@pytest.fixture
def save(tmp_path):
    """A function that saves a run of the test data with SM cycles and seeded noise.

    `scale` has factors for the cycles of the cells whose names contain its keys. `change` edits
    the run's JSON.
    """

    def save_run(torch, process, scale=None, change=None, noise=NOISE):
        run, draw = json.loads(RUN.read_text()), random.Random(f"{torch} {process}")
        run["commit_info"] |= {"torch": torch, "cuda": "13.0", "cudnn": 92400, "triton": "3.8.0"}
        run["machine_info"] |= {"gpu": "a GPU", "device": "cuda", "driver": "580.1"}
        for place, bench in enumerate(run["benchmarks"]):
            cycles = 1e6 * (1 + place) * (1 + draw.uniform(-noise, noise))
            for part, factor in (scale or {}).items():
                cycles *= factor if part in bench["fullname"] else 1
            bench["extra_info"]["cycles"] = cycles
        if change:
            change(run)
        path = tmp_path / f"{torch}_{process}.json"
        path.write_text(json.dumps(run))
        return path

    return save_run


@pytest.fixture
def three(save):
    """Runs of a release and of its successors with the given scales, three processes of each."""

    def save_all(*scales, **options):
        versions = ("2.9.1+cu130", "2.10.0+cu130", "2.11.0+cu130")
        return [
            save(torch, process, scale, **options)
            for torch, scale in zip(versions, scales, strict=False)
            for process in (1, 2, 3)
        ]

    return save_all


def lines_of(report, title):
    """The lines of a table of the report, as lists of cells."""
    section = report.partition(f"### {title}\n")[2].partition("###")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def is_near(text, percent):
    """Whether a text such as "+30.0 ± 0.1 %" is about that change."""
    change, noise = map(float, re.fullmatch(r"([+-][\d.]+) ± ([\d.]+) %", text).groups())
    return abs(change - percent) < 0.2 and noise < 0.2


def test_nothing_changed(three):
    report = releases.releases_report(three({}, {})).markdown()
    assert "46 cells were timed in every release. 46 of them did not change." in report
    assert report.count("No cell.") == 2


def test_slower_and_faster_cells_are_told_with_their_release(three):
    slower, both = {WINDOW: 1.3}, {WINDOW: 1.3, PADDING: 0.9}
    report = releases.releases_report(three({}, slower, both)).markdown()
    (line,) = lines_of(report, "Slower")
    assert line[0] == "2.10.0"
    assert line[2:5] == ["global_local_sliding_window", "flex", "forward"]
    assert [is_near(text, 30) for text in line[-2:]] == [True, True]
    (line,) = lines_of(report, "Faster")
    assert line[0] == "2.11.0"
    assert line[2:5] == ["causal_padding", "flex", "forward"]
    assert [is_near(text, change) for text, change in zip(line[-2:], (0, -10), strict=True)]
    assert "44 of them did not change" in report


def test_releases_are_ordered_as_versions(three):
    """As texts, 2.10.0 comes before 2.9.1."""
    report = releases.releases_report(list(reversed(three({}, {}, {})))).markdown()
    names = re.findall(r"^\| (2\.[\d.]+) \|", report, re.MULTILINE)
    assert names == ["2.9.1", "2.10.0", "2.11.0"]


def test_a_cell_can_become_slower_and_then_faster(three):
    report = releases.releases_report(three({}, {WINDOW: 1.2}, {WINDOW: 1.0})).markdown()
    assert [line[0] for line in lines_of(report, "Slower")] == ["2.10.0"]
    assert [line[0] for line in lines_of(report, "Faster")] == ["2.11.0"]
    assert "45 of them did not change" in report


@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_small_changes_do_not_count(three, factor):
    report = releases.releases_report(three({}, {"-flex-": factor})).markdown()
    assert report.count("No cell.") == 2


def test_changes_within_the_noise_do_not_count(three):
    report = releases.releases_report(three({}, {"-flex-": 1.03}, noise=0.04)).markdown()
    assert report.count("No cell.") == 2


def test_masks_that_change_alike_share_a_line(three):
    alike = {"forward[causal-sdpa-s512": 1.5}
    alike |= {"forward[causal_padding-sdpa-s512": 1.14, "window-sdpa-s512": 1.145}
    report = releases.releases_report(three({}, alike, change=one_form)).markdown()
    lines = [line for line in lines_of(report, "Slower") if line[4] == "forward"]
    assert [line[2] for line in lines] == ["causal", "global_local_sliding_window, causal_padding"]
    assert re.fullmatch(r"\+1[34]\.\d to \+14\.\d %", lines[1][1])
    assert lines[1][6] == "B1 H4 D64 float32, S = 512"


def test_a_line_names_many_masks_by_those_that_it_lacks(three, monkeypatch):
    monkeypatch.setattr(releases, "MAX_NAMES", 1)
    report = releases.releases_report(three({}, {"-sdpa-s512": 1.2}, change=one_form)).markdown()
    assert {line[2] for line in lines_of(report, "Slower")} == {"all 3 masks of this form"}
    two = {"causal-sdpa-s512": 1.2, "padding-sdpa-s512": 1.2}
    report = releases.releases_report(three({}, two, change=one_form)).markdown()
    expected = "2 masks of this form, all but global_local_sliding_window"
    assert {line[2] for line in lines_of(report, "Slower")} == {expected}


def test_sizes_of_changes_order_the_lines(three):
    report = releases.releases_report(
        three({}, {WINDOW: 0.7, PADDING: 0.8, "-dense-": 0.6})
    ).markdown()
    sizes = [float(re.findall(r"[\d.]+", line[1])[-1]) for line in lines_of(report, "Faster")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) >= 3


def test_the_software_of_each_release_is_told(three):
    report = releases.releases_report(three({}, {})).markdown()
    assert "| 2.9.1 | 2.9.1+cu130 | 13.0 | 9.24.0 | 3.8.0 | 3 |" in report
    assert "a GPU (one card), driver 580.1" in report


@pytest.mark.parametrize(
    ("number", "version"),
    [(92400, "9.24.0"), (91002, "9.10.2"), (8902, "8.9.2"), ("9.1", "9.1"), (None, "none")],
)
def test_cudnn_versions(number, version):
    assert releases.cudnn_version(number) == version


def test_builds_of_one_version_are_told_apart(save):
    builds = ("2.9.1+cu128", "2.9.1+cu130")
    names = releases.read_releases([save(torch, n) for torch in builds for n in (1, 2)])
    assert list(names) == list(builds)


def test_a_cell_computed_in_another_way_is_left_out(save):
    def other_form(run):
        run["benchmarks"][0]["extra_info"]["formulation"] = "another"

    paths = [save("2.9.1", n) for n in (1, 2)] + [
        save("2.10.0", n, None, other_form) for n in (1, 2)
    ]
    report = releases.releases_report(paths).markdown()
    assert "45 cells were timed in every release" in report
    assert "1 more cells are not in every release or not comparable" in report


def test_a_cell_that_a_release_lacks_is_left_out(save):
    def one_less(run):
        del run["benchmarks"][0]

    paths = [save("2.9.1", n) for n in (1, 2)] + [save("2.10.0", n, None, one_less) for n in (1, 2)]
    assert "45 cells were timed in every release" in releases.releases_report(paths).markdown()


def test_wrong_runs_are_refused(save):
    first = [save("2.9.1", n) for n in (1, 2)]
    with pytest.raises(UnreadableRun, match="at least two releases"):
        releases.releases_report(first)
    with pytest.raises(UnreadableRun, match=r"torch 2\.10\.0 has 1 run; give 2 or more"):
        releases.releases_report([*first, save("2.10.0", 1)])
    with pytest.raises(UnreadableRun, match="not of one model of GPU: a GPU, another GPU"):
        releases.releases_report([*first, save("2.10.0", 1, None, of_another_model)])
    with pytest.raises(UnreadableRun, match="is of a CPU"):
        releases.releases_report([*first, save("2.10.0", 1, None, without_gpu)])
    with pytest.raises(UnreadableRun, match="'main' is no version of torch"):
        releases.releases_report([*first, save("main", 1)])


def test_runs_without_cycles_are_refused(save):
    def no_cycles(run):
        for bench in run["benchmarks"]:
            bench["extra_info"]["cycles"] = None

    paths = [save(torch, n, None, no_cycles) for torch in ("2.9.1", "2.10.0") for n in (1, 2)]
    with pytest.raises(UnreadableRun, match="no cell can be compared"):
        releases.releases_report(paths)


# --- the document ---

DOCUMENT = "# Title\n\nbefore\n\n<!-- begin: x -->\nold\n<!-- end: x -->\n\nafter\r\n"


def test_the_prose_around_the_markers_is_kept(tmp_path):
    path = tmp_path / "page.md"
    path.write_bytes(DOCUMENT.encode())
    for _ in range(2):  # the second time changes nothing
        generated.replace_generated(path, "x", "new\n")
        expected = DOCUMENT.replace("\nold\n", "\n\nnew\n\n")
        assert path.read_bytes().decode() == expected
    assert generated.generated_part(path, "x") == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["page.md"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no markers", "must have the markers"),
        ("<!-- begin: x -->", "must have the markers"),
        ("<!-- begin: x --><!-- end: x --><!-- end: x -->", "once each"),
        ("<!-- end: x --><!-- begin: x -->", "before"),
        ("<!-- begin: y --><!-- end: y -->", "'<!-- begin: x -->'"),
    ],
)
def test_wrong_markers_are_refused(tmp_path, text, message):
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(UnreadableRun, match=message):
        generated.replace_generated(path, "x", "new")
    assert path.read_text() == text


def test_a_document_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "page.md"
    path.write_bytes(b"\xff<!-- begin: x --><!-- end: x -->")
    with pytest.raises(UnreadableRun, match="UTF-8"):
        generated.replace_generated(path, "x", "new")


def test_the_command_writes_the_document(three, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("text\n<!-- begin: reports releases -->\n<!-- end: reports releases -->\n")
    runs = [str(path) for path in three({}, {WINDOW: 1.3})]
    assert main(["releases", *runs, "-o", str(page)]) == 0
    assert "global_local_sliding_window" in page.read_text()
    assert page.read_text().startswith("text\n")
    assert main(["releases", *runs, "-o", str(tmp_path / "missing.md")]) == 2
    assert "missing.md" in capsys.readouterr().err
