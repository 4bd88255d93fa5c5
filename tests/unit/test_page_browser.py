"""The page of the committed grid of an H100 in a real browser, with the network off."""

import csv
import shlex

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import expect

from maskbench.backends.registry import BACKENDS
from reports.__main__ import main
from reports.drawing import attention_cells
from reports.ranking import Measure, winners
from reports.runs import load
from tests.unit.browser import NARROW, WIDE, follow, opened, texts
from tests.unit.pytest_process import pytest_run
from tests.unit.real_run import RUN
from tests.unit.test_page import GRID

PARTS = (
    "",
    "#mask=causal",
    "#view=cells",
    "#view=run",
    "#mask=causal_padding&by=called&unit=share",
)
WINNERS = """all => all.map(a => ({
    href: a.getAttribute("href"),
    names: [...a.querySelectorAll(".winner")].map(one => one.innerText.replace("=", "").trim()),
}))"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The page of the grid."""
    folder = tmp_path_factory.mktemp("grid")
    assert main(["page", str(GRID), "-o", str(folder)]) == 0
    return folder / "index.html"


@pytest.fixture
def page(browser, grid):
    with opened(browser, grid) as page:
        yield page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_part_has_an_error_makes_a_request_or_is_wider_than_the_window(
    viewport,
    scheme,
    browser,
    grid,
):
    with opened(browser, grid, viewport=viewport, scheme=scheme) as page:
        for address in PARTS:
            follow(page, address)
            assert page.locator("main h2").count() == 1
            width = page.evaluate("document.scrollingElement.scrollWidth")
            assert width <= viewport["width"], address


# --- the answer --------------------------------------------------------------------------------


def test_the_first_view_answers_without_scrolling(page):
    """What is fastest for sliding windows at 16K, backward? And why is a backend missing there?"""
    for mask in ("causal_sliding_window", "bidirectional_sliding_window"):
        entry = page.locator(f'a.entry[href*="mask={mask}&direction=backward&s=16384"]')
        assert "flash_attn_4" in entry.inner_text()
        assert "ms" in entry.inner_text()
        box = entry.bounding_box()
        assert box["y"] + box["height"] <= WIDE["height"]
        assert box["x"] + box["width"] <= WIDE["width"]
    entry.click()
    expect(page.locator("main h2")).to_have_text("bidirectional_sliding_window")
    untimed = page.locator("tr.untimed", has_text="sdpa_flash")
    assert "unsupported: SDPA's FlashAttention takes no mask" in untimed.inner_text()
    assert untimed.is_visible()


@pytest.mark.parametrize("measure", [Measure.DEVICE, Measure.CALLED], ids=["device", "called"])
def test_the_winners_are_those_of_the_ranking(page, measure):
    follow(page, "#by=called" if measure is Measure.CALLED else "")
    shown = {}
    for entry in page.eval_on_selector_all("a.entry", WINNERS):
        parts = dict(part.split("=") for part in entry["href"].lstrip("#").split("&"))
        shown[parts["mask"], parts["direction"], int(parts["s"])] = entry["names"]
    expected = winners(attention_cells(load([GRID])), measure)
    assert len(shown) == len(expected) == 138
    for _, row in expected.iterrows():
        first = shown[row["mask"], row["direction"], row["seq_len"]]
        tied = list(row["backends"])
        assert first[:3] == tied[:3]
        assert first[3:] == ([f"{len(tied) - 3} more"] if len(tied) > 3 else [])


# --- filters -----------------------------------------------------------------------------------


def first_entry(page):
    return page.locator('a.entry[href*="mask=causal&"]').inner_text()


def test_filters_change_what_is_shown_and_the_address(page):
    page.select_option("#filter-direction", "backward")
    page.select_option("#filter-s", "4096")
    assert page.locator("a.entry").count() == 23
    page.select_option("#filter-unit", "tflops")
    assert "TF/s" in first_entry(page)
    page.click("summary:has-text('backends')")
    page.click(".menu button:has-text('none')")
    assert page.locator("a.entry").count() == 0
    page.check(".menu label:has-text('xformers') input")
    page.check(".menu label:has-text('torch_varlen') input")
    page.keyboard.press("Escape")
    names = {name for text in texts(page, "a.entry .winners") for name in text.split(" = ")}
    assert names <= {"xformers", "torch_varlen"}
    assert "×" in first_entry(page)  # of FlexAttention's time, although it is not shown
    address = page.evaluate("location.hash")
    assert address == "#backend=xformers%2Btorch_varlen&direction=backward&s=4096&unit=tflops"
    page.click("text=Reset")
    assert page.locator("a.entry").count() == 138


@pytest.mark.parametrize("unit", ["ms", "tflops", "cycles", "flex"])
def test_a_value_is_that_of_the_run(page, unit):
    cells = load([GRID])
    of_problem = cells[(cells["mask"] == "causal") & (cells["seq_len"] == 4096)]
    of_problem = of_problem[of_problem["direction"] == "backward"].set_index("backend")
    expected = {
        "ms": of_problem["median_s"] * 1e3,
        "tflops": of_problem["tflops"],
        "cycles": of_problem["cycles"] / 1e3,
        "flex": of_problem["median_s"] / of_problem["median_s"]["flex"],
    }[unit]
    follow(page, f"#mask=causal&direction=backward&s=4096&unit={unit}")
    rows = page.locator("table.timing tbody tr:not(.untimed)")
    assert rows.count() == of_problem["is_timed"].sum()
    for text in rows.all_inner_texts():
        name, value = text.split()[:2]
        assert float(value.strip("~†‡").replace(",", "")) == pytest.approx(
            expected[name], rel=0.006
        )


def test_a_link_points_at_a_mask_and_a_unit(browser, grid):
    with opened(browser, grid, "#mask=causal&unit=tflops") as page:
        assert page.locator("main h2").inner_text() == "causal"
        assert page.locator("#filter-unit").input_value() == "tflops"
        page.click("text=← all masks")
        expect(page.locator("main h2")).to_have_text("Fastest exact backend on the device")
        page.go_back()
        expect(page.locator("main h2")).to_have_text("causal")
        assert page.evaluate("document.activeElement.tagName") == "H2"


@pytest.mark.parametrize(
    "address",
    [
        "#mask=no_such_mask",
        "#unit=x&by=x&view=x&setup=9",
        "#mask=%",
        "#__proto__=1",
        "#view=trends",
    ],
)
def test_an_address_of_nothing_is_no_error(browser, grid, address):
    with opened(browser, grid, address) as page:
        assert page.locator("main h2").count() == 1


# --- facts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["hover", "focus"])
def test_the_facts_of_a_cell_are_in_a_tip(page, how):
    getattr(page.locator("a.entry").first, how)()
    tip = page.locator("#tip")
    for text in (
        "median",
        "rounds",
        "error",
        "bound",
        "SM clock",
        "peak memory",
        "128 of 128 heads",
    ):
        assert text in tip.inner_text()
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["y"] + box["height"] <= WIDE["height"]
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_in_a_narrow_window_a_tip_leaves_the_next_rows_visible(browser, grid):
    with opened(browser, grid, "#view=cells", viewport=NARROW) as page:
        rows = page.locator("tbody tr")
        middle = NARROW["height"] / 2
        for number in (0, 3, 12, 20):
            cell = rows.nth(number).locator("[data-cell], :scope[data-cell]").first
            cell.scroll_into_view_if_needed()
            cell.hover()
            tip, own = page.locator("#tip").bounding_box(), cell.bounding_box()
            is_below = own["y"] + own["height"] / 2 < middle
            if is_below:
                following = rows.nth(number + 1).bounding_box()
                assert tip["y"] >= following["y"] + following["height"]
            else:
                assert tip["y"] + tip["height"] <= rows.nth(number - 1).bounding_box()["y"]


def test_the_backends_menu_has_backends_only(browser, tmp_path):
    paths = [str(GRID.with_name(f"costs_{name}.json.gz")) for name in ("forward", "backward")]
    paths.append("reports/runs/validation/grid_cold.json.gz")
    assert main(["page", *paths, "-o", str(tmp_path)]) == 0
    with opened(browser, tmp_path / "index.html", "#view=cells") as page:
        page.click("summary:has-text('backends')")
        names = {name.strip() for name in texts(page, ".menu label")}
        assert {"flex", "sdpa", "flash_attn_4"} <= names <= set(BACKENDS)
        page.keyboard.press("Escape")
        page.fill("input[type=search]", "block_mask torch_compiled")
        assert page.locator("tbody tr").count() > 0


def test_a_point_of_a_chart_has_a_tip(page):
    follow(page, "#mask=causal&direction=forward")
    chart = page.locator(".chart .u-over")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    for step in range(60):  # along the left edge, where S is 1024
        page.mouse.move(box["x"] + 0.045 * box["width"], box["y"] + box["height"] * step / 60)
        if page.locator("#tip").is_visible():
            break
    assert "causal" in page.locator("#tip strong").inner_text()


def test_the_table_sorts_by_any_column_and_keeps_the_focus(page):
    follow(page, "#view=cells&direction=forward")
    page.focus('[data-sort="ms"]')
    for sign, state in ((1, "ascending"), (-1, "descending")):
        page.keyboard.press("Enter")
        page.wait_for_selector(f'th[aria-sort="{state}"]')
        times = [float(text.replace(",", "")) for text in texts(page, "tbody td:nth-child(5)")]
        assert times == sorted(times, key=lambda value: sign * value)
        assert len(times) == 100
    page.keyboard.press("Enter")
    assert page.locator('th[aria-sort="ascending"], th[aria-sort="descending"]').count() == 0


def test_the_table_is_searched_by_all_words(page):
    follow(page, "#view=cells")
    page.fill("input[type=search]", "XFORMERS 16384 local")
    rows = texts(page, "tbody tr")
    assert rows
    assert all("xformers" in row and "16,384" in row for row in rows)
    assert "find=XFORMERS%2016384%20local" in page.evaluate("location.hash")
    page.fill("input[type=search]", "no such cell")
    assert page.locator("tbody tr").count() == 0
    assert "0 cells" in page.locator(".tools").inner_text()


def test_the_csv_file_has_the_cells_that_are_shown(page, tmp_path):
    follow(page, "#view=cells&mask=causal")
    with page.expect_download() as download:
        page.click("text=Download CSV")
    path = tmp_path / download.value.suggested_filename
    assert path.name == "maskbench.csv"
    download.value.save_as(path)
    with path.open(newline="") as file:
        rows = {row["fullname"]: row for row in csv.DictReader(file)}
    cells = load([GRID])
    cells = cells[cells["mask"] == "causal"].set_index("fullname")
    assert rows.keys() == set(cells.index)
    for name, row in rows.items():
        cell = cells.loc[name]
        assert row["outcome"] == cell["outcome"]
        if cell["is_timed"]:
            assert float(row["median_s"]) == pytest.approx(cell["median_s"], rel=1e-4)
        else:
            assert (row["median_s"], row["reason"]) == ("", cell["reason"])


def test_the_command_times_the_cell(browser, tmp_path):
    assert main(["page", str(RUN), "-o", str(tmp_path)]) == 0
    with opened(browser, tmp_path / "index.html", "#mask=causal&s=512&direction=forward") as page:
        row = page.locator("table.timing tbody tr", has_text="block_mask").first
        command = row.locator("button").get_attribute("title")
    python, dash, module, *arguments = shlex.split(command)
    assert (python, dash, module) == ("python", "-m", "pytest")
    output = pytest_run(*arguments, "--device=cpu", "--collect-only", "-q")
    assert "tests/test_forward.py::test_forward[causal-flex-s512-b1h4d64-float32]" in str(output)
