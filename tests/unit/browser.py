"""A headless Chromium for the tests of the page, with the network off."""

import shutil
from contextlib import contextmanager

import pytest

from reports.__main__ import main

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    """The browser that is installed. Playwright's own, which it would download, is not used."""
    playwright = pytest.importorskip("playwright.sync_api")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)}")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, path, address="", viewport=WIDE, scheme="light"):
    """The page, with its data shown. Fails for an error in the console and for any request."""
    context = browser.new_context(
        viewport=viewport, color_scheme=scheme, offline=True, accept_downloads=True
    )
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto(f"{path.as_uri()}{address}")
    page.wait_for_selector("main h2")
    yield page
    context.close()
    allowed = (f"{path.as_uri()}", "data:,", "blob:")
    assert [text for text in wrong if not text.startswith(allowed)] == []


def follow(page, address):
    """Go to another part of the same page."""
    page.evaluate(
        """async address => {
        const changed = new Promise(done => addEventListener("hashchange", done, { once: true }));
        const before = location.hash;
        location.hash = address;
        if (location.hash !== before) await changed;
    }""",
        address,
    )


def texts(page, selector):
    return page.eval_on_selector_all(selector, "all => all.map(one => one.innerText.trim())")


def page_of(tmp_path, *runs, history=None):
    """The page of these runs, as `python -m reports page` writes it."""
    more = ["--history", str(history)] if history else []
    assert main(["page", *map(str, runs), *more, "-o", str(tmp_path / "out")]) == 0
    return tmp_path / "out" / "index.html"
