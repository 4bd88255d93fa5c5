"""Soak: one backward is launched many times, and each launch must give the gradients of the first.

A kernel with a race computes right gradients in most launches. Checks of a single launch miss it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from maskbench.reference import row_scale
from maskbench.suite.attention_call import CheckedCall, WrongResult
from maskbench.suite.cell import CheckedCell
from maskbench.suite.stages import stage_timer
from maskbench.suite.unchanged import bits

LAUNCHES = {"cuda": 2000, "cpu": 200}
GRADIENTS = ("dq", "dk", "dv")


class LaunchComparison:
    """Compares the gradients of each launch with those of the first. `add` never synchronizes.

    Parameters
    ----------
    first
        The gradients of the first launch by name, [B, heads or kv_heads, S, head_dim] each.
    launches
        The number of launches, with the first.
    """

    def __init__(self, first: dict[str, Tensor], launches: int) -> None:
        self.first = {name: first[name].detach().float() for name in GRADIENTS}
        self.scales = {name: row_scale(tensor) for name, tensor in self.first.items()}
        self.weights = {name: _hash_weights(tensor) for name, tensor in self.first.items()}
        device = self.first["dq"].device
        # [launches, 3]; the first launch differs from itself by 0.
        self.differences = torch.zeros(launches, len(GRADIENTS), device=device)
        self.hashes = torch.zeros(launches, len(GRADIENTS), dtype=torch.int64, device=device)
        self.count = 0

    def add(self, gradients: dict[str, Tensor]) -> None:
        """Compare the gradients of the next launch with those of the first."""
        for column, name in enumerate(GRADIENTS):
            gradient = gradients[name].detach()
            difference = (gradient.float() - self.first[name]).norm(dim=-1) / self.scales[name]
            self.differences[self.count, column] = difference.amax()
            hashed = (bits(gradient.contiguous()) * self.weights[name]).sum()
            self.hashes[self.count, column] = hashed
        self.count += 1

    def require_within(self, bounds: dict[str, float]) -> None:
        """Raise WrongResult if a launch differs from the first by more than the bound of errors.

        Two results with the error of dense attention differ by at most twice that error.
        """
        found = self.differences.cpu()
        wrong = ~(found <= torch.tensor([bounds[name] for name in GRADIENTS]))  # True for NaN
        launches = wrong.any(dim=1).nonzero().flatten().tolist()
        if launches:
            row = launches[0]
            column = int(wrong[row].int().argmax())
            name = GRADIENTS[column]
            raise WrongResult(
                f"{len(launches)} of {self.count} launches gave wrong gradients: {name} of launch "
                f"{row + 1} differs from the first launch by {found[row, column]:.3g}, "
                f"bound {bounds[name]:.3g}"
            )

    def fields(self) -> dict[str, object]:
        """The fields of a saved cell."""
        distinct = len({tuple(row) for row in self.hashes.tolist()})
        return {
            "soak_launches": self.count,
            "soak_distinct": distinct,
            "soak_worst_difference": float(self.differences.max()),
            "deterministic": distinct == 1,
        }


def _hash_weights(tensor: Tensor) -> Tensor:
    """Random odd 64-bit integers of the tensor's shape, the same in each run.

    The hash of a gradient is the sum of its elements' bits times these, modulo 2**64. A change of a
    single element always changes the sum, as odd numbers have an inverse.
    """
    generator = torch.Generator(tensor.device).manual_seed(0)
    limit = torch.iinfo(torch.int64)
    weights = torch.randint(
        limit.min, limit.max, tensor.shape, generator=generator, device=tensor.device
    )
    return weights | 1


def run_soak(cell: CheckedCell) -> None:
    """Launch the backward of a cell many times. Its time is the wall time of all launches.

    Raises
    ------
    WrongResult
        If the gradients of a launch are wrong.
    """
    cell.check_and_measure(lambda call: _launch_repeatedly(cell, call))


def _launch_repeatedly(cell: CheckedCell, call: CheckedCall) -> dict[str, object]:
    launches = LAUNCHES[cell.workload.device]

    def launch_all() -> LaunchComparison:
        result = call.timed.run()
        call.check(result, "the first launch")
        comparison = LaunchComparison(call.timed.results(result), launches)
        comparison.add(call.timed.results(result))
        for _ in range(launches - 1):
            result = call.timed.run()
            comparison.add(call.timed.results(result))
        comparison.require_within(call.checked.reference.bounds)
        call.check(result, "the last launch")
        return comparison

    with stage_timer("time"):
        pedantic = cell.benchmark.pedantic
        comparison = cast(LaunchComparison, pedantic(launch_all))  # type: ignore[no-untyped-call]
    return {
        **comparison.fields(),
        # These describe device time; the time of a soak is wall time.
        "host_bound": False,
        "late_rounds": 0,
        "throttle": [],
    }
