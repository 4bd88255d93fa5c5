"""The page in a browser: 20,000 cells make a small page that opens and filters at once."""

import json
import time

import pytest

pytest.importorskip("playwright.sync_api")

from tests.unit.browser import follow, opened, page_of
from tests.unit.real_run import TEXT

MAX_OPENING_S, MAX_FILTER_MS = 3, 200  # of 20,000 cells


@pytest.fixture(scope="module")
def large_page(tmp_path_factory):
    """A page of 20,000 cells: 50 masks, 20 backends, 10 lengths, both directions."""
    folder = tmp_path_factory.mktemp("large")
    run = json.loads(TEXT)
    bench = run["benchmarks"][0]
    run["maskbench"]["untimed"], run["benchmarks"] = [], []
    for number in range(20_000):
        length, rest = number % 10, number // 10
        fields = {"mask": f"mask_{rest % 50}", "backend": f"backend_{rest // 50 % 20}"}
        fields |= {
            "direction": ("forward", "backward")[rest // 1000],
            "seq_len": 512 * (length + 1),
        }
        stats = bench["stats"] | {"median": 1e-4 * (1 + number * 7919 % 1000)}
        info = bench["extra_info"] | fields
        run["benchmarks"].append(
            bench | {"fullname": f"t::{fields}", "extra_info": info, "stats": stats}
        )
    (folder / "run.json").write_text(json.dumps(run))
    return page_of(folder, folder / "run.json")


def test_many_cells_make_a_small_page(large_page, browser):
    assert large_page.stat().st_size < 3_000_000
    with opened(browser, large_page) as page:
        assert page.locator("a.entry").count() == 1000
        follow(page, "#view=cells")
        assert "20,000 cells" in page.locator(".tools").inner_text()
        assert page.locator("tbody tr").count() == 100
        page.click("text=Show 100 more rows")
        assert page.locator("tbody tr").count() == 200


def test_many_cells_open_and_filter_at_once(large_page, browser, record_property):
    """The fastest of three tries: a busy machine must not fail it, and the bounds are wide."""
    opening, filtering = [], []
    choose = """([name, value]) => {
        const select = document.getElementById(`filter-${name}`), start = performance.now();
        select.value = value;
        select.dispatchEvent(new Event("change"));
        document.body.getBoundingClientRect();
        return performance.now() - start;
    }"""
    for _ in range(3):
        start = time.perf_counter()
        with opened(browser, large_page) as page:
            opening.append(time.perf_counter() - start)
            steps = [("direction", "backward"), ("s", "2048"), ("s", ""), ("unit", "tflops")]
            slowest = max(page.evaluate(choose, step) for step in steps)
            follow(page, "#view=cells")
            steps = [("mask", "mask_7"), ("mask", ""), ("direction", "forward")]
            filtering.append(max(slowest, *(page.evaluate(choose, step) for step in steps)))
    record_property("opening_s", min(opening))
    record_property("filtering_ms", min(filtering))
    print(f"{min(opening):.2f} s to open, {min(filtering):.0f} ms to filter")
    assert min(opening) < MAX_OPENING_S
    assert min(filtering) < MAX_FILTER_MS
