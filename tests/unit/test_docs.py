"""The documentation: its examples run as printed, its commands are accepted, its links resolve."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from masks import PATTERNS
from reports.__main__ import main
from tests.unit.pytest_process import ROOT, pytest_run, strict_json

MAX_README_LINES = 169
README, EXTENDING = ROOT / "README.md", ROOT / "docs" / "extending.md"
YOUR_MASK = ROOT / "docs" / "your-mask.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
WITHOUT_OLD_NAMES = [page for page in PAGES if page.name != "CHANGELOG.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE_COMMAND = re.compile(r"`((?:make|python -m)\s[^`]+)`")
FILE_NAME = re.compile(r"# (\w+)\.py\n")  # the first line of an example to save
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
PATH = re.compile(r"`((?:maskbench|reports|tests|docs)/[\w/.-]+)`")


class Block(NamedTuple):
    language: str
    text: str


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced_blocks(page: Path) -> list[Block]:
    return [Block(*match.groups()) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def text_without_fences(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


# --- commands ---


def commands_of(page: Path) -> list[list[str]]:
    """Every command of a page, as words: in shell blocks, indented blocks and running text."""
    lines = [ln for b in fenced_blocks(page) if b.language == "shell" for ln in b.text.splitlines()]
    text = text_without_fences(page)
    lines += [line.strip() for line in text.splitlines() if line.startswith("    ")]
    lines += INLINE_COMMAND.findall(text)
    optional = str.maketrans("[]", "  ")  # brackets around optional arguments
    found = (line.translate(optional) for line in lines if line.startswith(("make ", "python -m ")))
    return [shlex.split(line, comments=True) for line in found]


def commands(*start: str) -> list[list[str]]:
    """The distinct commands of all pages that begin with `start`, without `start`."""
    every = [words for page in PAGES for words in commands_of(page)]
    matching = [tuple(w[len(start) :]) for w in every if w[: len(start)] == list(start)]
    return [list(words) for words in dict.fromkeys(matching) if words]


def test_commands_are_found():
    """The tests below must not pass because a page has another style of code blocks."""
    assert ["bench"] in commands("make")
    assert ["--benchmark-skip"] in commands("python", "-m", "pytest")
    assert ["compare", "BASE", "NEW"] in commands("python", "-m", "reports")


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_targets_exist(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))
    for word in words:
        name, assigned, _ = word.partition("=")
        assert name in (variables if assigned else targets)


@pytest.mark.parametrize("words", commands("python", "-m", "reports"), ids=" ".join)
def test_report_commands_are_accepted(words, monkeypatch):
    """argparse raises SystemExit for wrong arguments; the command itself does not run."""

    class Accepted(BaseException):
        pass

    parse_args = ArgumentParser.parse_args

    def only_parse(parser, arguments):
        parse_args(parser, arguments)
        raise Accepted

    monkeypatch.setattr(ArgumentParser, "parse_args", only_parse)
    with pytest.raises(Accepted):
        main(words)


# In one process, because importing torch takes seconds.
COLLECT_EACH = """
import json, sys
import pytest
for command in json.load(sys.stdin):
    status = pytest.main([*command, "--collect-only", "-qq", "-p", "no:cacheprovider"])
    if status != 0:
        sys.exit(f"{' '.join(command)}: pytest exits with status {int(status)}")
"""


@pytest.mark.slow
def test_pytest_commands_are_accepted(example_folder, tmp_path):
    """Each command finds at least one test (status 0), and none writes into the checkout."""
    found: list[list[str]] = []
    for words in commands("python", "-m", "pytest"):
        if "--help" in words:
            continue
        here = [re.sub("json=.*", f"json={tmp_path}/run.json", word) for word in words]
        if "cuda" in here and not torch.cuda.is_available():
            here = [word for word in here if word not in ("--device", "cuda")]
        here = [word.replace("my_masks.py", f"{example_folder}/my_masks.py") for word in here]
        here.append(f"--benchmark-storage=file://{tmp_path}")
        if not any(word.startswith("tests/") for word in here):
            # Importing all tests takes seconds: the benchmarks, or one file of tests, will do.
            skips = "--benchmark-skip" in here
            here.append("tests/unit/test_imports.py" if skips else "--ignore=tests/unit")
        if here not in found:
            found.append(here)
    done = subprocess.run(
        [sys.executable, "-c", COLLECT_EACH],
        input=json.dumps(found),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{example_folder}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


# --- examples ---


def python_blocks(page: Path) -> list[str]:
    return [block.text for block in fenced_blocks(page) if block.language == "python"]


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory) -> Path:
    """A folder with the modules of docs/, saved under their names."""
    folder = tmp_path_factory.mktemp("examples")
    for source in python_blocks(EXTENDING) + python_blocks(YOUR_MASK):
        name = FILE_NAME.match(source)
        assert name, f"this example has no file name:\n{source}"
        (folder / f"{name[1]}.py").write_text(source, encoding="utf-8")
    return folder


def test_readme_has_one_of_the_masks_of_the_page():
    """The run below then also tests the example in README. The docstring may differ."""
    (in_readme,) = python_blocks(README)
    in_page = ast.parse(python_blocks(YOUR_MASK)[0]).body
    (function,) = ast.parse(in_readme).body
    assert isinstance(function, ast.FunctionDef)
    del function.body[0]
    assert ast.dump(function) in map(ast.dump, in_page)


def test_examples_of_own_masks_run(example_folder, tmp_path):
    saved = tmp_path / "run.json"
    names = ("sinks", "turns(length=100)", "Chunks")
    masks = ",".join(f"my_masks.py:{name}" for name in names)
    pytest_run(
        *("-c", ROOT / "pytest.ini", "--benchmark-only", "--device", "cpu", "--masks", masks),
        *("--seq-lens", 300, "--backends", "dense,sdpa", "--benchmark-max-time=0.01"),
        *(f"--benchmark-json={saved}", ROOT / "tests" / "test_forward.py"),
        cwd=example_folder,
    )
    run = strict_json(saved)
    assert {b["extra_info"]["mask"] for b in run["benchmarks"]} == {f"my_masks.{n}" for n in names}
    assert run["maskbench"]["untimed"] == []


def test_mask_and_backend_examples_run(example_folder, tmp_path):
    saved = tmp_path / "run.json"
    grid = ("--device", "cpu", "--masks", "chunks", "--seq-lens", "256", "--kv-heads", "2")
    pytest_run(
        *("-c", ROOT / "pytest.ini", "-p", "my_plugin", "-p", "my_backend", "--benchmark-only"),
        *(*grid, "--backends", "dense,sdpa,folded", "--benchmark-max-time=0.01"),
        f"--benchmark-json={saved}",
        *(ROOT / "tests" / f"test_{direction}.py" for direction in ("forward", "backward")),
        cwd=example_folder,
    )
    run = strict_json(saved)
    cells = {(b["extra_info"]["backend"], b["extra_info"]["direction"]) for b in run["benchmarks"]}
    backends, directions = ("dense", "sdpa", "folded"), ("forward", "backward")
    assert cells == {(b, d) for b in backends for d in directions}
    assert {b["extra_info"]["mask"] for b in run["benchmarks"]} == {"chunks"}
    assert run["maskbench"]["untimed"] == []


# --- links and paths ---


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text_without_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_resolve(page):
    targets = ["".join(pair) for pair in LINK.findall(text_without_fences(page))]
    for target in targets:
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page_id(page)} links to {target}"
        assert other.is_relative_to(ROOT)
        if anchor:
            assert anchor in heading_anchors(other), f"{page_id(page)} links to {target}"


@pytest.mark.parametrize("page", WITHOUT_OLD_NAMES, ids=page_id)
def test_named_paths_exist(page):
    for path in PATH.findall(text_without_fences(page)):
        assert (ROOT / path).exists(), f"{page_id(page)} names {path}"


def test_every_page_is_linked_from_readme():
    linked = {first for first, _ in LINK.findall(README.read_text(encoding="utf-8"))}
    pages = {page_id(page) for page in PAGES if page != README}
    assert pages <= {target.partition("#")[0] for target in linked}


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_the_page_of_forms_has_every_mask_as_it_describes_itself():
    text = (ROOT / "docs" / "forms.md").read_text(encoding="utf-8")
    for name, family in PATTERNS.items():
        assert f"| `{name}` | {family.description} | [source]({family.source}) |" in text
