"""Each generated part of the documents is what the command above it writes."""

import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest

from reports.__main__ import main
from reports.generated import generated_part

ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"<!-- begin: (reports (\w+)) -->")
# Its command takes minutes; test_gate_accuracy.py tests what it computes.
SLOW = {"gate_accuracy"}
PARTS = [
    pytest.param(page, *found.groups(), id=found[2])
    for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "reports" / "validation.md")
    for found in MARKER.finditer(page.read_text())
    if found[2] not in SLOW
]


def arguments_of(page, command):
    """The arguments of a command in the page's text, with the files that its patterns match."""
    (line,) = re.findall(rf"^python -m (reports {command}\b[^#\n]*)", page.read_text(), re.M)
    _, name, *rest = shlex.split(line)
    names = [sorted(glob.glob(text, root_dir=ROOT)) or [text] for text in rest]
    return [name, *(text for found in names for text in found)]


@pytest.mark.parametrize(("page", "marker", "command"), PARTS)
def test_the_committed_part_is_what_the_command_writes(
    page, marker, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    copy = shutil.copy(page, tmp_path / page.name)
    *arguments, option, path = arguments_of(page, command)
    assert (option, path) == ("-o", str(page.relative_to(ROOT)))
    assert main([*arguments, "-o", str(copy)]) == 0
    assert generated_part(Path(copy), marker) == generated_part(page, marker)


def test_the_documents_have_generated_parts():
    names = {"accuracy", "decode", "kernel_options", "mask_mod_variants", "published", "ranking"}
    assert {part.id for part in PARTS} >= {*names, "releases", "validation"}
