"""Options that would lose times or make wrong ones are refused before anything is timed."""

from types import SimpleNamespace

import pytest

from maskbench.suite.refused_options import REFUSED, refuse_options
from tests.unit.pytest_process import CELLS, pytest_inline

GRID = ("--device=cpu", "--masks=causal", "--seq-lens=256", "--backends=sdpa")
OFF = {f"benchmark_{name}": False for name in ("only", "skip", "disable", "enable")}
DEFAULTS = {
    **OFF,
    "collectonly": False,
    "benchmark_cprofile": None,
    "resume": None,
    "benchmark_max_time": "1.0",
    "benchmark_timer": "time.perf_counter",
    "benchmark_group_by": "group",
    "benchmark_compare": None,
    "benchmark_compare_fail": [],
}


def config(**options):
    """A configuration with pytest-benchmark's defaults and `options`."""
    warnings = []
    return SimpleNamespace(
        option=SimpleNamespace(**{**DEFAULTS, **options}),
        warnings=warnings,
        issue_config_time_warning=lambda warning, stacklevel: warnings.append(str(warning)),
    )


GIVEN = [
    {"numprocesses": 2},
    {"numprocesses": "auto"},
    {"tx": ["2*popen"]},
    {"dist": "loadfile"},
    {"forked": True},
    {"boxed": True},
    {"workers": "auto"},
    {"tests_per_worker": "4"},
    {"use_mp": True},
    {"parallel_threads": 4},
    {"count": 2},
]


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_an_option_that_loses_times_is_refused(given):
    with pytest.raises(pytest.UsageError, match=r"^--?\w.*: .*(benchmark-skip|run pytest again)"):
        refuse_options(config(**given))
    for way in ("benchmark_skip", "benchmark_disable", "collectonly"):
        refuse_options(config(**given, **{way: True}))


def test_every_refused_option_is_tried():
    assert {r.attribute for r in REFUSED} == {name for given in GIVEN for name in given}


@pytest.mark.parametrize(
    "given", [{"numprocesses": 0, "dist": "no", "tx": []}, {"numprocesses": None}, {"count": 1}]
)
def test_an_option_that_does_nothing_is_accepted(given):
    refuse_options(config(**given))


def test_a_worker_of_xdist_does_not_refuse_again():
    worker = config(numprocesses=2, dist="load")
    worker.workerinput = {}
    refuse_options(worker)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "-inf"])
def test_a_time_limit_that_makes_no_sense_is_refused(seconds):
    with pytest.raises(pytest.UsageError, match=f"max-time: {seconds} is not a time above 0 s"):
        refuse_options(config(benchmark_max_time=seconds))


@pytest.mark.parametrize("timer", ["time.time", "time.process_time"])
def test_a_timer_that_does_not_time_the_cells_is_said(timer):
    given, default = config(benchmark_timer=timer), config()
    refuse_options(given)
    refuse_options(default)
    assert "--benchmark-timer does not change how maskbench's cells are timed" in given.warnings[0]
    assert not default.warnings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--benchmark-only", "--benchmark-skip"), "exclude each other"),
        (("--benchmark-max-time=0",), "--benchmark-max-time: 0"),
        (("--benchmark-max-time=nan",), "--benchmark-max-time: "),
        (("--benchmark-min-rounds=0",), "min-rounds"),
        (
            ("--benchmark-group-by=mask",),
            "--benchmark-group-by: 'mask' is none of group, name, func, fullname, fullfunc, param "
            "and param:NAME",
        ),
        (
            ("--benchmark-group-by=group,param:masks",),
            "--benchmark-group-by: test_forward[causal-sdpa-s256-b1h4d64-float32] has no parameter "
            "masks; it has backend, mask, q_len, seq_len",
        ),
        (
            ("--benchmark-compare-fail=median:5%",),
            "--benchmark-compare-fail: needs --benchmark-compare",
        ),
        (("--jobs", "9" * 5000), "is more than 2147483647"),
    ],
    ids=str,
)
def test_a_refused_option_is_one_line(arguments, message):
    text = pytest_inline("-q", *GRID, *arguments, CELLS[0], expect=4)
    assert message in text
    assert "Traceback" not in text


def test_a_timer_is_said_in_a_run():
    text = pytest_inline("-q", *GRID, "--benchmark-timer=time.time", CELLS[0])
    assert "--benchmark-timer does not change" in text
    assert "1 passed" in text


@pytest.mark.parametrize("option", ["--numprocesses=2", "--forked"])
def test_an_option_of_another_plugin_is_refused(option):
    plugin = ("-p", "tests.unit.parallel_options", option, *GRID, CELLS[0])
    text = pytest_inline("-q", *plugin, expect=4)
    assert "use --benchmark-skip to run only the tests with it" in text
    assert "Traceback" not in text
    pytest_inline("-q", *plugin, "--benchmark-skip", expect=5)  # no test is left
