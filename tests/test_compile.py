"""What a user waits for before FlexAttention's first call: its compilation, in wall time.

Cold: nothing on disk, as on a new machine. Warm: compiled by an earlier process, so traced,
looked up and loaded. Python and the compiler themselves have been started before. The backward's
cells hold the forward of training and the backward, from binding to the first gradients.
"""

from contextlib import suppress

import pytest
import torch

import backends
from masks import Full
from tests.ahead import FOLDERS, spent
from tests.cells import inputs, run, size_of

CACHES = {"cold": 1, "warm": 3}  # and how many rounds
pytestmark = pytest.mark.compile


def compile_once(mask, q, k, v, dout):
    run(backends.load("flex")(mask, q, k, v), dout)
    if q.is_cuda:
        torch.cuda.synchronize()


@pytest.fixture(scope="module")
def compiler(device):
    """Starts the compiler: its first kernel takes seconds more than the next."""
    plain = torch.randn(1, 1, 256, 64, device=device)
    with suppress(backends.Unsupported):  # each cell will say it
        compile_once(Full(seq_len=256), plain, plain, plain, None)


def compile_and_time(problem, cache, benchmark, outcome, monkeypatch, tmp_path_factory):
    try:
        mask = problem.build()
    except ValueError as error:
        outcome.leave("skipped", str(error))
    shape = problem.shape
    given = inputs(mask, shape, problem.dtype, problem.device, problem.backward)

    def fresh():
        if cache == "cold":
            for name in FOLDERS:
                monkeypatch.setenv(name, str(tmp_path_factory.mktemp("cache")))

    def time():
        if cache == "warm":
            compile_once(mask, *given)
        benchmark.extra_info |= {
            **problem.fields(),
            **size_of(problem.mask, problem.seq_len, shape.batch),
            **{"backend": "flex", "form": f"{cache} cache", "cache": cache},
            **{"host_bound": False, "late_rounds": 0, "throttle": []},  # wall time: of no device
        }
        try:
            benchmark.pedantic(compile_once, args=(mask, *given), setup=fresh, rounds=CACHES[cache])
        except BaseException:
            benchmark.has_error = True  # pytest-benchmark then saves the other cells
            raise

    try:
        with spent("compile"):
            outcome.of(time)
    except backends.Unsupported as reason:
        outcome.leave("unsupported", str(reason))


def test_compile_forward(
    cache, problem, benchmark, outcome, compiler, monkeypatch, tmp_path_factory
):
    compile_and_time(problem, cache, benchmark, outcome, monkeypatch, tmp_path_factory)


def test_compile_backward(
    cache, problem, benchmark, outcome, compiler, monkeypatch, tmp_path_factory
):
    compile_and_time(problem, cache, benchmark, outcome, monkeypatch, tmp_path_factory)
