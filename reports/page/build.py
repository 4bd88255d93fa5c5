"""Puts the data, the scripts and the style into one HTML file."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from reports.output_files import write_whole
from reports.page.data import page_data

FILE = "index.html"
TITLE = "maskbench: "  # and the name of the first run
LIBRARY, LICENSE = "vendor/uPlot.iife.min.js", "vendor/uPlot.LICENSE"
# They become one module, in this order. A page from a disk cannot load others.
SCRIPTS = (
    *("script/elements.js", "script/data.js", "script/state.js", "script/ranking.js"),
    *("script/units.js", "script/markers.js", "script/facts.js", "script/charts.js"),
    *("script/filters.js", "script/fastest.js", "script/mask.js", "script/cells.js"),
    *("script/changes.js", "script/trends.js", "script/run.js", "script/main.js"),
)
STYLES = ("vendor/uPlot.min.css", "page.css")


def write_page(
    runs: list[Path], history: Path | None, acceptances: Path | None, folder: Path
) -> Path:
    """Write the page of these runs into a folder, and return its path. An older page is replaced.

    Parameters
    ----------
    runs, history, acceptances
        As for `page_data`.
    folder
        Where `FILE` is written.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, or nothing was timed.
    FileExistsError
        If the folder has a `FILE` that is something else.
    """
    path = folder / FILE
    if path.is_file() and f"<title>{TITLE}".encode() not in path.read_bytes():
        text = "is not a page of maskbench and is not replaced; choose another folder with -o"
        raise FileExistsError(errno.EEXIST, text, str(path))
    return write_whole(path, page_html(page_data(runs, history, acceptances)))


def page_html(data: dict[str, Any]) -> str:
    """The page as text.

    The data is compressed JSON in base64: it is small, and no text in it can end the element that
    it is in. The page's policy allows these scripts only, and no request.
    """
    library = f"/*\n{asset(LICENSE)}*/\n{asset(LIBRARY)}"
    script = "\n".join(asset(name) for name in SCRIPTS)
    style = "\n".join(asset(name) for name in STYLES)
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    packed = gzip.compress(text.encode("utf-8", "surrogatepass"), 9, mtime=0)
    first = data["setups"][0]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(asset("page.html.j2")).render(
        title=f"{TITLE}{first['name']}",
        script=Markup(script),
        style=Markup(style),
        library=Markup(library),
        script_hashes=f"'{policy_hash(library)}' '{policy_hash(script)}'",
        style_hash=f"'{policy_hash(style)}'",
        data=base64.b64encode(packed).decode("ascii"),
    )


def policy_hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


@cache
def asset(name: str) -> str:
    """A file of this package as text."""
    return files("reports.page").joinpath(name).read_text(encoding="utf-8")
