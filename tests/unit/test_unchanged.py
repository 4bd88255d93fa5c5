"""A backend that changes its inputs fails itself, and the next one gets the right inputs."""

import json

import pytest
import torch

from maskbench.suite.unchanged import ChangedTensor, Unchanged
from tests.unit import changing_backends
from tests.unit.pytest_process import CELLS, pytest_inline

FORWARD = {
    "halves_q": "ChangedTensor: the backend changed q in place in its first call",
    "halves_q_later": "ChangedTensor: the backend changed q in place in the timed rounds",
    "changes_k": "ChangedTensor: the backend changed k in place in the timed rounds",
    "changes_v": "ChangedTensor: the backend changed v in place in its first call",
    "changes_packed": "ChangedTensor: the backend changed k (packed) in place in the timed rounds",
    "wrong_later": "WrongResult: out differs from the reference in the timed rounds",
    "nan_later": "WrongResult: out differs from the reference in the timed rounds",
}
BACKWARD = {
    "in_backward": "ChangedTensor: the backend changed v in place in its first call",
    "changes_dout": "ChangedTensor: the backend changed dout in place in its first call",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run in which every wrong backend is followed by a right one."""
    path = tmp_path_factory.mktemp("changed") / "run.json"
    names = ",".join([n for wrong in (*FORWARD, *BACKWARD) for n in (wrong, f"right_{wrong}")])
    grid = ("--device=cpu", "--masks=causal", "--seq-lens=256", f"--backends={names}")
    options = ("-q", "--tb=line", "--benchmark-max-time=0.01", f"--benchmark-json={path}")
    pytest_inline(*options, *grid, *CELLS, expect=1, plugins=[changing_backends])
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("direction", "backend", "reason"),
    [
        *(("forward", *item) for item in FORWARD.items()),
        *(("backward", *item) for item in BACKWARD.items()),
    ],
)
def test_the_culprit_fails_and_the_next_is_right(direction, backend, reason, saved):
    def of(cells, name):
        wanted = {"backend": name, "direction": direction}
        return [c for c in cells if wanted.items() <= c.get("extra_info", c).items()]

    (record,) = of(saved["maskbench"]["untimed"], backend)
    assert record["outcome"] == "failed"
    assert record["reason"].startswith(reason)
    assert not of(saved["benchmarks"], backend)
    assert of(saved["benchmarks"], f"right_{backend}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_bit_counts(dtype):
    tensor = torch.tensor([0.0, torch.nan, 1.0], dtype=dtype)
    strided = torch.zeros(2, 3, 4, dtype=dtype).transpose(1, 2)
    watched = Unchanged({"a": tensor, "b": strided})
    watched.require("a test")
    tensor[0] = -0.0
    assert watched.changed() == ["a"]
    strided[1, 1, 1] = 1
    with pytest.raises(ChangedTensor, match="changed a, b in place in a test"):
        watched.require("a test")
