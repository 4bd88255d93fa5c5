"""The page in a browser: hostile texts, several machines, one cell, trends and narrow windows."""

import copy
import csv
import itertools

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from maskbench.tuned_options import write_entry
from reports.__main__ import main
from tests.unit.browser import NARROW, WIDE, follow, opened, page_of, texts
from tests.unit.real_run import RUN, all_cells, few_cells, saved_as
from tests.unit.seeded_runs import CELL, other_gpu, save_night, save_nights
from tests.unit.tuned_entries import entry, found

MARKUP = "<img src=x onerror=alert(1)><b class=bad>\"'&amp;</script><script>bad=1</script>"
PARTS = ("", "#view=cells", "#view=run", "#view=trends", "#view=changes")


# --- texts of others ---------------------------------------------------------------------------


def hostile(run):
    """Markup, quotes, line breaks and control characters in every text of a run."""
    few_cells(run)
    for cell in all_cells(run):
        cell["mask"], cell["dtype"] = MARKUP, f"{MARKUP}\n\x1b[31m"
    bench, untimed = run["benchmarks"][0], run["maskbench"]["untimed"][0]
    bench["fullname"] = f"x::{MARKUP}\n[y]"
    bench["extra_info"] |= {"form": MARKUP, "backend": MARKUP, "throttle": [MARKUP]}
    bench["extra_info"]["error_of"] = MARKUP
    untimed |= {"reason": f"{MARKUP} {'long ' * 2000}\u202e\x00", "backend": f"-{MARKUP}"}
    run["machine_info"] |= {"device": "cuda", "gpu": MARKUP, "driver": MARKUP}
    run["commit_info"]["torch"] = MARKUP
    run["maskbench"]["seconds"] = {MARKUP: 1.5, "total": 2.0}


@pytest.mark.parametrize(
    "viewport", [{"width": 1280, "height": 800}, NARROW], ids=["wide", "narrow"]
)
def test_nothing_of_a_run_is_markup(viewport, browser, tmp_path):
    run = saved_as(tmp_path / "<b class=bad>'\".json", hostile)
    page_file = page_of(tmp_path, run, history=run.parent)
    assert "<img" not in page_file.read_text().partition("<main")[2].partition("<script")[0]
    with opened(browser, page_file, viewport=viewport) as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        mask = page.locator("table.fastest tbody th a")
        assert mask.inner_text() == MARKUP
        addresses = [
            *PARTS,
            mask.get_attribute("href"),
            page.locator("a.entry").first.get_attribute("href"),
        ]
        for address in addresses:
            follow(page, address)
            page.locator("[data-cell]").first.hover() if page.locator(
                "[data-cell]"
            ).count() else None
            assert page.locator("img, b.bad, main script").count() == 0, address
            assert page.evaluate("typeof bad") == "undefined"
            assert page.evaluate("document.scrollingElement.scrollWidth") <= viewport["width"], (
                address
            )
        assert MARKUP in page.title()


def test_a_reason_of_10000_characters_is_shown_and_the_csv_file_keeps_quotes(browser, tmp_path):
    run = saved_as(tmp_path / "run.json", hostile)
    with opened(browser, page_of(tmp_path, run), "#view=cells") as page:
        (reason,) = [text for text in texts(page, "td.note") if "long long" in text]
        assert len(reason) > 10_000
        assert "\\x00" in reason
        assert "\\u202e" in reason
        with page.expect_download() as download:
            page.click("text=Download CSV")
        download.value.save_as(tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["mask"] for row in rows} == {MARKUP}
    assert sum(row["backend"] == MARKUP for row in rows) == 1


def test_the_command_of_a_cell_quotes_its_names(browser, tmp_path):
    def parameters(run):
        few_cells(run)
        for cell in all_cells(run):
            cell["mask"] = "causal(x='$(touch bad)')"

    run = saved_as(tmp_path / "run.json", parameters)
    with opened(browser, page_of(tmp_path, run)) as page:
        page.click("a.entry >> nth=0")
        expect(page.locator("main h2")).to_have_text("causal(x='$(touch bad)')")
        command = page.locator("table.timing button").first.get_attribute("title")
    assert "--masks='causal(x='\\''$(touch bad)'\\'')'" in command


# --- which runs ---------------------------------------------------------------------------------


def test_runs_of_two_machines_are_never_in_one_view(browser, save_run, tmp_path):
    def of_other_gpu(run):
        few_cells(run)
        other_gpu(run)

    runs = [save_run(0, change=few_cells), save_run(1, scale=[("", 3)], change=of_other_gpu)]
    with opened(browser, page_of(tmp_path, *runs)) as page:
        first = texts(page, "a.entry")
        assert "CPU, 2 threads" in page.locator("#setup").inner_text()
        page.select_option("#filter-setup", "1")
        assert "another GPU" in page.locator("#setup").inner_text()
        assert len(texts(page, "a.entry")) == len(first)
        assert texts(page, "a.entry") != first
        follow(page, "#view=cells&setup=1")
        assert page.locator("tbody tr").count() == 14
        follow(page, "#view=changes")
        assert "NOT COMPARABLE" in page.locator("main").inner_text()


def test_shapes_and_data_types_are_separate(browser, tmp_path):
    def second_shape(run):
        few_cells(run)
        for bench in copy.deepcopy(run["benchmarks"]):
            bench["fullname"] += "2"
            bench["extra_info"] |= {"batch": 8, "dtype": "bfloat16"}
            run["benchmarks"].append(bench)

    with opened(browser, page_of(tmp_path, saved_as(tmp_path / "r.json", second_shape))) as page:
        assert page.locator("a.entry").count() == 2
        page.select_option("#filter-shape", "B8 H4 D64")
        assert "B8 H4 D64 bfloat16" in page.locator("#setup").inner_text()
        assert page.locator("a.entry").count() == 2


def test_a_run_of_one_cell(browser, tmp_path):
    def one(run):
        run["benchmarks"], run["maskbench"]["untimed"] = run["benchmarks"][:1], []

    with opened(browser, page_of(tmp_path, saved_as(tmp_path / "run.json", one))) as page:
        assert page.locator("a.entry").count() == 1
        page.click("a.entry")
        expect(page.locator("table.timing tbody tr")).to_have_count(1)


def test_a_run_without_attention_cells_says_where_its_cells_are(browser, tmp_path):
    """Such as one of `-m soak`, `-m tune` or of block masks alone."""

    def soak(run):
        run["benchmarks"], run["maskbench"]["untimed"] = run["benchmarks"][:2], []
        for cell in all_cells(run):
            cell["direction"] = "soak_backward"

    with opened(browser, page_of(tmp_path, saved_as(tmp_path / "run.json", soak))) as page:
        message = page.locator("main p", has_text="has no forward or backward cell")
        assert message.count() == 1
        message.locator("a").click()
        expect(page.locator("table.cells tbody tr")).to_have_count(2)


def test_a_comparison_has_the_largest_change_first(browser, save_run, tmp_path):
    runs = [save_run(day, scale=scale, noise=0) for day, scale in ((0, ()), (1, [(CELL, 1.5)]))]
    with opened(browser, page_of(tmp_path, *runs), "#view=changes") as page:
        first = page.locator("tbody tr").first.inner_text()
        assert "SUSPECT slower" in first
        assert "+50.0 %" in first


def test_a_trend_has_its_step_its_torch_and_what_was_accepted(browser, save_run, tmp_path):
    save_nights(save_run, range(4), torch="2.9.0")
    folder = save_nights(save_run, range(4, 8), torch="2.10.0", scale=[(CELL, 1.4)])
    night = save_night(save_run, 8, torch="2.10.0", scale=[(CELL, 1.4)])
    accept = ["accept", *map(str, night), "--history", str(folder), "-k", CELL]
    assert main([*accept, "--because", "a <b>known</b> cost"]) == 0
    page_file = page_of(tmp_path, night[0], history=folder)
    with opened(browser, page_file, "#view=trends") as page:
        first = page.locator("tbody tr").first.inner_text()
        assert "STEP" in first
        assert "torch 2.9.0 to 2.10.0" in first
        assert "a <b>known</b> cost" in page.locator(".notes").inner_text()
        assert page.locator(".chart canvas").count() == 1
        page.click("tbody tr:nth-child(2) a")
        expect(page.locator("tbody tr:nth-child(2)")).to_have_class("wins")


RECORD_TEXTS = """() => {
    window.drawn = [];
    const draw = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        const at = this.getTransform(), width = this.measureText(text).width;
        const shift = { center: width / 2, right: width, end: width }[this.textAlign] ?? 0;
        if (!at.b) window.drawn.push({ text, left: at.e + x - shift, width, y: at.f + y });
        draw.call(this, text, x, y);
    };
}"""


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_labels_of_a_trend_do_not_collide(viewport, browser, save_run, tmp_path):
    """Each night has a torch of its own, and one that slows a cell is named before others."""
    nights = [f"2.15.0.dev202611{day:02}+cu130" for day in range(10, 22)]
    for day, torch in enumerate(nights):
        scale = [(CELL, 1.4)] if day >= 7 else ()
        folder = save_nights(save_run, [day], torch=torch, scale=scale)
    page_file = page_of(tmp_path, next(iter(folder.iterdir())), history=folder)
    with opened(browser, page_file, viewport=viewport) as page:
        page.evaluate(RECORD_TEXTS)
        follow(page, "#view=trends")
        expect(page.locator(".chart canvas")).to_have_count(1)
        page.wait_for_function("drawn.length > 3")
        drawn = page.evaluate("drawn")
        window = page.evaluate("document.querySelector('.chart').clientWidth * devicePixelRatio")
    assert nights[7][:24] in {one["text"] for one in drawn}
    rows = sorted(drawn, key=lambda one: (one["y"], one["left"]))
    for one, other in itertools.pairwise(rows):
        if one["y"] == other["y"]:
            assert one["left"] + one["width"] < other["left"], (one, other)
    assert all(one["left"] >= 0 and one["left"] + one["width"] <= window for one in drawn)


def test_rows_stay_low_in_a_narrow_window(browser, save_run, tmp_path):
    """The table of changes scrolls sideways: its columns are not a letter wide."""

    def long_name(run):
        few_cells(run)
        for cell in all_cells(run):
            cell["mask"] = "bidirectional_dilated_sliding_window"

    runs = [
        save_run(day, scale=scale, noise=0, change=long_name)
        for day, scale in ((0, ()), (1, [("flex", 1.5)]))
    ]
    page_file = page_of(tmp_path, *runs, history=runs[0].parent)
    with opened(browser, page_file, viewport=NARROW) as page:
        for address in ("#view=changes", "#view=trends"):
            follow(page, address)
            rows = page.locator("tbody tr")
            assert rows.count() > 1
            assert max(row.bounding_box()["height"] for row in rows.all()) < 100, address


def test_names_of_masks_break_at_underscores(browser, tmp_path):
    def renamed(run):
        for cell in all_cells(run):
            cell["mask"] = cell["mask"].replace("causal_padding", "neighborhood_3d")

    page_file = page_of(tmp_path, saved_as(tmp_path / "run.json", renamed))
    with opened(browser, page_file, viewport=NARROW) as page:
        lines = page.evaluate("""() => {
            const found = {},
                links = [...document.querySelectorAll("table.fastest tbody th a")],
                link = links.find((one) => one.textContent === "neighborhood_3d");
            for (const node of link.childNodes) {
                for (let i = 0; i < (node.length ?? 0); i++) {
                    const range = document.createRange();
                    range.setStart(node, i);
                    range.setEnd(node, i + 1);
                    const top = Math.round(range.getBoundingClientRect().top);
                    found[top] = (found[top] ?? "") + node.data[i];
                }
            }
            return Object.values(found);
        }""")
    assert lines in (["neighborhood_", "3d"], ["neighborhood_3d"])


def test_a_mask_has_the_options_that_were_found(browser, tmp_path, monkeypatch):
    folder = tmp_path / "tuned"
    write_entry(entry(found(gain=1.25, fwd_BLOCK_M=64)), folder)
    monkeypatch.setattr("reports.page.kernel_options.FOLDER", folder)
    with opened(browser, page_of(tmp_path, RUN), "#mask=causal") as page:
        summary = page.locator("summary", has_text="fwd_BLOCK_M=64 (1.25")
        summary.click()
        assert (
            "kernel_options={'fwd_BLOCK_M': 64}" in page.locator("details[open] pre").inner_text()
        )
        follow(page, "#mask=causal_padding")
        assert page.locator("summary", has_text="BLOCK_M").count() == 0
