"""The estimates of the time left, which `ProgressReporter` shows."""

from types import SimpleNamespace

import pytest

from maskbench.records import Phase
from maskbench.suite.cell import known_skip_reason
from maskbench.suite.collection import CellKey
from maskbench.suite.option_parsing import parse_config
from maskbench.suite.progress import ProgressReporter, format_duration
from maskbench.suite.workload import Shape, Workload
from tests.unit.test_options import options


def workload(phase: Phase = Phase.FORWARD, seq_len: int = 256, mask: str = "causal") -> Workload:
    return Workload(mask, seq_len, Shape(1, 2, 2, 16), "float32", "cpu", phase)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "about 1 s"), (42.4, "about 42 s"), (200, "about 3 min"), (9000, "about 2.5 h")],
)
def test_durations_are_rounded(seconds, text):
    assert format_duration(seconds) == text


def test_the_time_left_is_estimated_from_cells_of_the_same_backend():
    terminal = SimpleNamespace(config=SimpleNamespace(get_verbosity=lambda: 0), isatty=False)
    progress = ProgressReporter(terminal, parse_config(options()), lambda item: False)
    progress.pending = {
        str(i): CellKey(workload(), name) for i, name in enumerate(("flex", "flex", "sdpa"))
    }
    assert progress.time_left() == 3 * 0.5, "nothing has been timed yet"
    progress.seconds["flex"] = [2.0, 4.0]
    assert progress.time_left() == 3 * 3.0, "sdpa as long as any"
    progress.seconds["sdpa"] = [0.5]
    assert progress.time_left() == 3.0 + 3.0 + 0.5


def progress_of(pending, skipped=()):
    terminal = SimpleNamespace(config=SimpleNamespace(get_verbosity=lambda: 0), isatty=False)
    progress = ProgressReporter(terminal, parse_config(options()), lambda item: False)
    progress.pending = {str(i): key for i, key in enumerate(pending)}
    progress.untimed = {str(i) for i in skipped}
    return progress


def test_a_search_takes_longer_than_a_cell():
    searches = [CellKey(workload(Phase.TUNE_FORWARD), "flex_tuned")] * 3
    assert progress_of(searches).time_left() == 3 * 20


def test_cells_that_will_be_skipped_take_no_time():
    keys = [CellKey(workload(), name) for name in ("sdpa", "sdpa", "sdpa_cudnn")]
    progress = progress_of(keys, skipped=[2])
    assert progress.time_left() == 2 * 0.5
    progress.seconds["sdpa"] = [4.0]
    assert progress.time_left() == 2 * 4.0


@pytest.mark.parametrize(
    ("cell", "variant", "skipped"),
    [
        (workload(), "sdpa", False),
        (workload(), "sdpa_cudnn", True),
        (workload(seq_len=7), "sdpa", False),
        (workload(seq_len=7, mask="multi_document_causal"), "sdpa", True),
        (workload(Phase.BACKWARD), "sdpa", False),
        (workload(Phase.BACKWARD), "flex", True),
        (workload(Phase.VARIANT_FORWARD), "tiles", False),
        (workload(Phase.VARIANT_BACKWARD), "tiles", True),
        (workload(Phase.COMPILE_BACKWARD), "cold", True),
        (workload(Phase.BLOCK_MASK), "ours", False),
        (workload(seq_len=4096), "dense", True),
    ],
)
def test_cells_that_will_be_skipped_are_not_in_the_estimate(cell, variant, skipped):
    assert (known_skip_reason(cell, variant, backend_named=False) is not None) is skipped
    if (cell.seq_len, variant) == (4096, "dense"):
        assert not known_skip_reason(cell, variant, backend_named=True)
