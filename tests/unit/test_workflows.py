"""The workflows: least permissions, pinned actions, folders of the job, no text that is run."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from reports import writers
from reports.verdict import Verdict

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
MAY_WRITE = {"comment": ["pull-requests"], "pages": ["pages", "id-token"]}
SCRIPTS = [*WORKFLOWS, ROOT / "Makefile", ROOT / ".ci" / "run"]
NIGHTLY = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())


def steps(path):
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def nightly_step(job, name):
    """A step of the nightly workflow: that of this name, or the one that uses this action."""
    found = NIGHTLY["jobs"][job]["steps"]
    (step,) = [s for s in found if s.get("name") == name or s.get("uses", "").startswith(name)]
    return step


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
def test_actions_run_on_node_24(path):
    """GitHub's runners have no Node 20 any more. These are the first releases without it."""
    first = {
        "checkout": 5,
        "setup-python": 6,
        "upload-artifact": 6,
        "download-artifact": 7,
        "upload-pages-artifact": 5,  # which uses an upload-artifact
        "deploy-pages": 5,
    }
    for action, major in re.findall(r"uses: actions/([\w-]+)@\w+  # v(\d+)", path.read_text()):
        assert int(major) >= first[action], action


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
    environment = {**os.environ, "ACCEPTANCES": "accepted.json", "STORES": "true"}
    environment |= {**files, **variables}
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
    in_job_folder(
        tmp_path, nightly_step("gate", "Gate")["run"], {".venv/bin/python": f"exit {status}"}
    )
    arguments = (tmp_path / "arguments").read_text()
    assert arguments == (
        "-m reports gate tonight/x_1.json tonight/x_3.json --history runs"
        " --acceptances accepted.json -o verdict\n"
    )
    assert (tmp_path / "output").read_text() == f"status={status}\n"


def test_a_night_without_runs_fails(tmp_path):
    (tmp_path / "tonight").mkdir()
    in_job_folder(tmp_path, nightly_step("gate", "Gate")["run"], {})
    assert (tmp_path / "output").read_text() == "status=2\n"
    assert "saved a file" in (tmp_path / "summary").read_text()


@pytest.mark.parametrize("author", ["github-actions[bot]", "somebody", None])
def test_a_pull_request_gets_one_comment(tmp_path, author):
    """The job's own comment is renewed. Others can write the marker, and edit what they wrote."""
    if shutil.which("jq") is None:
        pytest.skip("no jq, whose language gh's --jq is")
    (tmp_path / "verdict").mkdir()
    (tmp_path / "verdict" / "comment.md").write_text("<!-- maskbench -->\ntext\n")
    comments = [{"id": 76, "body": "text", "user": {"login": "github-actions[bot]"}}]
    if author:
        comments.append({"id": 77, "body": "<!-- maskbench -->\nold", "user": {"login": author}})
    (tmp_path / "comments.json").write_text(json.dumps(comments))
    in_job_folder(
        tmp_path,
        nightly_step("comment", "Comment on the pull request, or renew the comment")["run"],
        {"bin/gh": 'case "$*" in *--paginate*) jq -r "$5" comments.json;; esac'},
        GITHUB_REPOSITORY="a/b",
        GITHUB_SERVER_URL="https://example.org",
        GITHUB_RUN_ID="7",
        PULL_REQUEST="5",
    )
    last = (tmp_path / "arguments").read_text().splitlines()[-1]
    assert last == (
        "api -X PATCH repos/a/b/issues/comments/77 -F body=@comment.md"
        if author == "github-actions[bot]"
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
    (tmp_path / "verdict" / "badge.json").write_text('{"message": "no regression"}')
    in_job_folder(tmp_path, nightly_step("gate", "Page")["run"], {".venv/bin/python": ""})
    history = " --history runs" if stored else ""
    assert (tmp_path / "arguments").read_text() == (
        f"-m reports page tonight/x_1.json{history} --acceptances accepted.json -o site\n"
    )
    assert json.loads((tmp_path / "site" / "badge.json").read_text())["message"] == "no regression"
    assert (tmp_path / "output").read_text() == "page=true\n"


def test_a_night_without_a_verdict_has_a_badge_that_says_so(tmp_path):
    """The first night, and one that the gate refuses. A badge without its file is an error."""
    for folder in ("tonight", "site"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tonight" / "x_1.json").write_text("{}")
    in_job_folder(tmp_path, nightly_step("gate", "Page")["run"], {".venv/bin/python": ""})
    badge = json.loads((tmp_path / "site" / "badge.json").read_text())
    assert badge["message"] == "no verdict"
    assert badge.keys() == writers.badge(Verdict(pd.DataFrame(), "", 0)).keys()


def test_a_gate_without_a_verdict_says_where_the_reason_is(tmp_path):
    for folder in ("tonight", "runs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x_1.json").write_text("{}")
    script = nightly_step("gate", "Gate")["run"]
    in_job_folder(tmp_path, script, {".venv/bin/python": "exit 2"})
    assert "no verdict" in (tmp_path / "summary").read_text()


def test_a_job_without_runs_has_no_page_to_publish(tmp_path):
    (tmp_path / "tonight").mkdir()
    in_job_folder(tmp_path, nightly_step("gate", "Page")["run"], {})
    assert not (tmp_path / "output").exists()
    assert NIGHTLY["jobs"]["gate"]["outputs"]["page"] == "${{ steps.page.outputs.page }}"
    assert nightly_step("gate", "Page")["id"] == "page"


def test_pages_are_published_only_where_they_are_switched_on():
    condition = NIGHTLY["jobs"]["pages"]["if"]
    assert "vars.MASKBENCH_PAGES == 'true'" in condition
    assert "needs.gate.outputs.page == 'true'" in condition


def test_a_pull_request_or_another_branch_is_neither_stored_nor_published(tmp_path):
    stores = NIGHTLY["jobs"]["gate"]["env"]["STORES"]
    assert "!inputs.pull_request" in stores
    assert "github.ref_name == github.event.repository.default_branch" in stores
    assert "github.event_name == 'schedule'" in stores  # such an event has no repository
    assert "env.STORES == 'true'" in nightly_step("gate", "Store the runs")["if"]
    for folder in ("tonight", "site"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tonight" / "x_1.json").write_text("{}")
    script = nightly_step("gate", "Page")["run"]
    in_job_folder(tmp_path, script, {".venv/bin/python": ""}, STORES="false")
    assert (tmp_path / "output").read_text() == "page=false\n"


def test_a_failed_job_is_commented_on():
    """A job that fails before its runs has no artifact, and that must not end the comment."""
    assert nightly_step("comment", "actions/download-artifact")["continue-on-error"] is True


def test_a_waiting_night_is_not_replaced_by_a_pull_request():
    """Of a group's jobs that wait, GitHub keeps the newest only."""
    assert "inputs.pull_request" in NIGHTLY["concurrency"]["group"]


def test_a_failure_within_a_pipe_ends_a_step():
    assert NIGHTLY["defaults"]["run"]["shell"] == "bash"  # with pipefail; without it, bash -e
