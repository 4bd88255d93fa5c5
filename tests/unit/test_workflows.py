"""The workflows: least permissions, pinned actions, folders of the job, no text that is run."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
SCRIPTS = [*WORKFLOWS, ROOT / "Makefile", ROOT / ".ci" / "run"]


def steps(path):
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def script_of(name):
    """The script of a step of the nightly workflow."""
    found = steps(ROOT / ".github" / "workflows" / "nightly.yml")
    (script,) = [step["run"] for step in found if step.get("name") == name]
    return script


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_the_repository(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_the_version_beside_it(path):
    lines = [line for line in path.read_text().splitlines() if re.search(r"\buses:", line)]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_checkout_keeps_no_credentials(path):
    checkouts = [step for step in steps(path) if "actions/checkout@" in step.get("uses", "")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_script_has_an_expression_in_it(path):
    """The shell would run what an expression puts there; a variable of `env` is only text."""
    for step in steps(path):
        script = step.get("run", "")
        expressions = re.findall(r"\$\{\{(.*?)\}\}", script)
        assert not expressions, script


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_fixed_name_in_a_shared_temporary_folder(path):
    assert not re.search(r"(?<![\w.])/(var/)?tmp\b|/dev/shm", path.read_text())


@pytest.mark.parametrize(
    ("confirming_run", "text", "status"),
    [
        ("saves a file", "--confirm tonight/x_4.json", 0),
        ("saves an empty file", "The confirming run saved no file", 2),
        ("saves none", "The confirming run saved no file", 2),
    ],
)
def test_the_gate_names_a_confirming_run_only_if_it_saved_a_file(
    tmp_path, confirming_run, text, status
):
    """The step's own script, with a stand-in for Python that records its arguments."""
    for folder in ("tonight", "runs", ".venv/bin", "verdict"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tonight" / "x_3.json").write_text("{}")
    (tmp_path / "runs" / "old.json").write_text("{}")
    (tmp_path / "verdict" / "verdict.json").write_text('{"status": "SLOW"}')
    contents = {"saves a file": "echo '{}'", "saves an empty file": "true"}.get(confirming_run)
    save = f"{contents} > tonight/x_4.json" if contents else "true"
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> arguments\nif [ "$2" = pytest ]; then {save}; fi\n')
    python.chmod(0o755)
    files = {"GITHUB_STEP_SUMMARY": "summary", "GITHUB_OUTPUT": "output", "RUNS": "runs"}
    environment = {**os.environ, "GRID": "", **files}
    subprocess.run(
        ["bash", "-e", "-c", script_of("Gate")], cwd=tmp_path, env=environment, check=True
    )
    written = [tmp_path / "arguments", tmp_path / "summary"]
    assert text in "".join(file.read_text() for file in written if file.exists())
    assert "--confirm  " not in (tmp_path / "arguments").read_text()
    assert (tmp_path / "output").read_text() == f"status={status}\n"


def test_the_gate_needs_the_last_run(tmp_path):
    (tmp_path / "tonight").mkdir()
    files = {"GITHUB_STEP_SUMMARY": "summary", "GITHUB_OUTPUT": "output", "RUNS": "runs"}
    environment = {**os.environ, **files}
    subprocess.run(
        ["bash", "-e", "-c", script_of("Gate")], cwd=tmp_path, env=environment, check=True
    )
    assert (tmp_path / "output").read_text() == "status=2\n"
    assert "saved no file" in (tmp_path / "summary").read_text()
