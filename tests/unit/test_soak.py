"""A soak finds the launch that is wrong, and reports what differs only by rounding."""

import math

import pytest
import torch

from maskbench.suite import soak
from maskbench.suite.attention_call import WrongResult
from maskbench.suite.soak import GRADIENTS, LaunchComparison
from reports.runs import load
from tests.unit.pytest_process import run_inline, strict_json

BOUNDS = dict.fromkeys(GRADIENTS, 1e-2)


def gradients(dtype=torch.float16):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 3, 8, 4, generator=generator).to(dtype) for name in GRADIENTS}


def changed(name, index, value):
    """The same gradients with one element of the tensor `name` set to `value`."""
    found = gradients()
    found[name].view(-1)[index] = value
    return found


def compared(*launches):
    comparison = LaunchComparison(launches[0], len(launches))
    for launch in launches:
        comparison.add(launch)
    return comparison


def test_equal_launches_are_deterministic():
    comparison = compared(*[gradients() for _ in range(5)])
    comparison.require_within(BOUNDS)
    assert comparison.fields() == {
        "soak_launches": 5,
        "soak_distinct": 1,
        "soak_worst_difference": 0.0,
        "deterministic": True,
    }


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("index", [0, 100, 191])
def test_one_changed_bit_is_another_gradient(name, index):
    value = gradients()[name].view(-1)[index]
    other = changed(name, index, torch.nextafter(value.float(), value.float() + 1).to(value.dtype))
    if torch.equal(other[name], gradients()[name]):  # float16 has fewer values than float32
        other[name].view(torch.int16).view(-1)[index] ^= 1
    comparison = compared(gradients(), other, gradients(), other)
    comparison.require_within(BOUNDS)
    fields = comparison.fields()
    assert (fields["soak_distinct"], fields["deterministic"]) == (2, False)
    assert 0 < fields["soak_worst_difference"] < 1e-2


def test_negative_zero_has_other_bits():
    comparison = compared(changed("dk", 5, 0.0), changed("dk", 5, -0.0))
    assert (comparison.fields()["soak_distinct"], comparison.fields()["soak_worst_difference"]) == (
        2,
        0.0,
    )


@pytest.mark.parametrize("value", [100.0, math.nan, math.inf])
def test_a_wrong_launch_is_named(value):
    comparison = compared(*[gradients()] * 3, changed("dk", 50, value), gradients())
    with pytest.raises(
        WrongResult, match=r"^1 of 5 launches gave wrong gradients: dk of launch 4 differs .* 0.01$"
    ):
        comparison.require_within(BOUNDS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A soak of 20 launches of steady and unsteady backends: (JSON of the run, its path)."""
    path = tmp_path_factory.mktemp("soak") / "run.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soak, "LAUNCHES", {"cpu": 20})
        status, text = run_inline(
            *("-p", "tests.unit.unsteady_backends", "-m", "soak", "--benchmark-only"),
            *("--device=cpu", "--masks=causal", "--seq-lens=32", "--tb=line"),
            *("--backends=dense,unsteady,racy,sdpa_cudnn", f"--benchmark-json={path}"),
        )
    assert status == 1, text
    return strict_json(path), path


def test_soaked_cells_say_what_was_seen(run):
    saved = {bench["extra_info"]["backend"]: bench["extra_info"] for bench in run[0]["benchmarks"]}
    assert saved.keys() == {"dense", "unsteady"}
    for name, distinct in (("dense", 1), ("unsteady", 2)):
        info = saved[name]
        assert info["direction"] == "soak_backward"
        assert (info["soak_launches"], info["soak_distinct"]) == (20, distinct)
        assert info["deterministic"] == (distinct == 1)
        assert (info["soak_worst_difference"] > 0) == (distinct > 1)
        assert info["errors"].keys() == info["error_bounds"].keys() == {"out", "dq", "dk", "dv"}
    assert run[0]["benchmarks"][0]["options"]["timer"] == "perf_counter"
    assert run[0]["benchmarks"][0]["stats"]["rounds"] == 1


def test_a_wrong_launch_fails_the_cell_that_its_first_call_did_not(run):
    untimed = {cell["backend"]: cell for cell in run[0]["maskbench"]["untimed"]}
    assert untimed.keys() == {"racy", "sdpa_cudnn"}
    assert untimed["racy"]["outcome"] == "failed"
    assert "1 of 20 launches gave wrong gradients: dv of launch" in untimed["racy"]["reason"]
    assert untimed["sdpa_cudnn"]["outcome"] == "unsupported"


def test_the_reports_read_a_soak(run):
    cells = load([run[1]])
    assert set(cells["direction"]) == {"soak_backward"}


def test_a_soak_runs_only_if_its_marker_is_chosen():
    grid = ("--device=cpu", "--masks=causal", "--backends=sdpa", "--collect-only", "-q")
    _, text = run_inline(*grid, "tests/test_soak.py", "tests/test_forward.py")
    assert "test_soak" not in text
    assert "test_forward" in text
