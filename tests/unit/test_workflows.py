"""The workflows: least permissions, pinned actions, folders of the job, no text that is run."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
MAY_WRITE = {"comment": ["pull-requests"], "pages": ["pages", "id-token"]}
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
def test_a_workflow_may_only_read_and_two_jobs_may_write_what_they_are_for(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        if name in MAY_WRITE:  # checks out nothing and runs nothing of the repository
            assert job["permissions"] == dict.fromkeys(MAY_WRITE[name], "write")
            assert not any("checkout" in step.get("uses", "") for step in job["steps"])
        else:
            assert "permissions" not in job


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


def in_job_folder(tmp_path, script, programs, **variables):
    """Run a script of a step in a folder with stand-ins that record their arguments."""
    for name, body in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$@" >> arguments\n{body}\n')
        path.chmod(0o755)
    files = {"GITHUB_STEP_SUMMARY": "summary", "GITHUB_OUTPUT": "output", "RUNS": "runs"}
    environment = {**os.environ, "ACCEPTANCES": "accepted.json", **files, **variables}
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)


@pytest.mark.parametrize("status", [0, 1])
def test_the_gate_judges_all_runs_of_the_night(tmp_path, status):
    for folder in ("tonight", "runs"):
        (tmp_path / folder).mkdir()
    for number in (1, 2, 3):
        (tmp_path / "tonight" / f"x_{number}.json").write_text("" if number == 2 else "{}")
    (tmp_path / "runs" / "old.json").write_text("{}")
    in_job_folder(tmp_path, script_of("Gate"), {".venv/bin/python": f"exit {status}"})
    arguments = (tmp_path / "arguments").read_text()
    assert arguments == (
        "-m reports gate tonight/x_1.json tonight/x_3.json --history runs"
        " --acceptances accepted.json -o verdict\n"
    )
    assert (tmp_path / "output").read_text() == f"status={status}\n"


def test_a_night_without_runs_fails(tmp_path):
    (tmp_path / "tonight").mkdir()
    in_job_folder(tmp_path, script_of("Gate"), {})
    assert (tmp_path / "output").read_text() == "status=2\n"
    assert "saved a file" in (tmp_path / "summary").read_text()


@pytest.mark.parametrize("earlier", ["", "77"])
def test_a_pull_request_gets_one_comment(tmp_path, earlier):
    (tmp_path / "verdict").mkdir()
    (tmp_path / "verdict" / "comment.md").write_text("<!-- maskbench -->\ntext\n")
    gh = f'case "$*" in *--paginate*) echo "{earlier}";; esac'
    in_job_folder(
        tmp_path,
        script_of("Comment on the pull request, or renew the comment"),
        {"bin/gh": gh},
        GITHUB_REPOSITORY="a/b",
        GITHUB_SERVER_URL="https://example.org",
        GITHUB_RUN_ID="7",
        PULL_REQUEST="5",
    )
    last = (tmp_path / "arguments").read_text().splitlines()[-1]
    assert last == (
        "api -X PATCH repos/a/b/issues/comments/77 -F body=@comment.md"
        if earlier
        else "api -X POST repos/a/b/issues/5/comments -F body=@comment.md"
    )
    text = (tmp_path / "comment.md").read_text()
    assert text.startswith("<!-- maskbench -->\ntext\n")
    assert "](https://example.org/a/b/actions/runs/7)" in text


@pytest.mark.parametrize("stored", [True, False])
def test_the_page_has_the_runs_of_the_night_the_history_and_the_badge(tmp_path, stored):
    for folder in ("tonight", "runs", "verdict", "site"):
        (tmp_path / folder).mkdir()
    for number in (1, 2):
        (tmp_path / "tonight" / f"x_{number}.json").write_text("" if number == 2 else "{}")
    if stored:
        (tmp_path / "runs" / "old.json").write_text("{}")
    (tmp_path / "verdict" / "badge.json").write_text("{}")
    in_job_folder(tmp_path, script_of("Page"), {".venv/bin/python": ""})
    history = " --history runs" if stored else ""
    assert (tmp_path / "arguments").read_text() == (
        f"-m reports page tonight/x_1.json{history} --acceptances accepted.json -o site\n"
    )
    assert (tmp_path / "site" / "badge.json").exists()


def test_pages_are_published_only_where_they_are_switched_on():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())
    condition = workflow["jobs"]["pages"]["if"]
    assert "vars.MASKBENCH_PAGES == 'true'" in condition
    assert "!inputs.pull_request" in condition


def test_a_pull_request_is_not_stored():
    found = steps(ROOT / ".github" / "workflows" / "nightly.yml")
    (store,) = [step for step in found if step.get("name") == "Store the runs"]
    assert "!inputs.pull_request" in store["if"]
