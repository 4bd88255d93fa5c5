"""A run goes on without standard streams, and after the reader of its output has left."""

import os
import subprocess
import sys

import pytest

from tests.unit.pytest_process import CELLS, PYTEST_PROGRAM, ROOT, strict_json

CLOSED = """
import os, subprocess, sys
from pathlib import Path
from maskbench.supervision.streams import keep_streams_usable
keep_streams_usable()
numbers = os.pipe()
print("to nobody", flush=True)
print("to nobody", file=sys.stderr, flush=True)
child = subprocess.run([sys.executable, "-c", "print('to nobody', flush=True)"])
Path(sys.argv[1]).write_text(f"{min(numbers) > 2} {child.returncode} {sys.stdin.read()!r}")
"""
READER_LEFT = """
import sys
from pathlib import Path
from maskbench.supervision.streams import keep_streams_usable
held = sys.stdout
keep_streams_usable()
for number in range(10_000):
    print(number)
    print(number, file=held, flush=True)
Path(sys.argv[1]).write_text(held.encoding)
"""


def close_streams():
    os.closerange(0, 3)


def without_reader(command, **options):
    """Run a command whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(command, cwd=ROOT, stdout=writer, timeout=60, **options)
    finally:
        os.close(writer)


def test_closed_streams_lead_nowhere(tmp_path):
    result = tmp_path / "result"
    command = [sys.executable, "-c", CLOSED, str(result)]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=close_streams, timeout=60)
    assert done.returncode == 0
    assert result.read_text() == "True 0 ''"


@pytest.mark.parametrize("has_stderr", [True, False])
def test_a_process_outlives_the_reader_of_its_output(has_stderr, tmp_path):
    result = tmp_path / "result"
    stderr = subprocess.PIPE if has_stderr else subprocess.STDOUT
    done = without_reader([sys.executable, "-c", READER_LEFT, str(result)], stderr=stderr)
    assert done.returncode == 0
    assert result.read_text() == "utf-8"
    if has_stderr:
        said = b"maskbench: the output cannot be written (Broken pipe); the run goes on"
        assert done.stderr.strip() == said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is always full")
def test_a_log_on_a_full_disk_does_not_end_the_process(tmp_path):
    result = tmp_path / "result"
    command = [sys.executable, "-c", READER_LEFT, str(result)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 0
    assert "(No space left on device); the run goes on" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("capture", ["--capture=fd", "--capture=no"])
@pytest.mark.parametrize("way", ["closed", "without reader"])
def test_a_run_whose_output_is_lost_is_saved(way, capture, tmp_path):
    target = tmp_path / "run.json"
    grid = ("--device=cpu", "--masks=causal", "--seq-lens=256", "--backends=sdpa", CELLS[0])
    options = (f"--benchmark-storage=file://{tmp_path}", f"--benchmark-json={target}", capture)
    command = [*PYTEST_PROGRAM, "--benchmark-only", "--benchmark-max-time=0.01", *grid, *options]
    if way == "closed":
        done = subprocess.run(command, cwd=ROOT, preexec_fn=close_streams, timeout=60)
    else:
        done = without_reader(command, stderr=subprocess.STDOUT)
    # With its capturing, pytest itself fails to flush a closed stdout after all is done.
    assert done.returncode == (1 if (way, capture) == ("closed", "--capture=fd") else 0)
    assert len(strict_json(target)["benchmarks"]) == 1
    assert not list((tmp_path / "journals").iterdir())
