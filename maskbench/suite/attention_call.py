"""The call that a cell times, and the check of its results and of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskbench.attention import Bind, BoundAttention
from maskbench.masks import Mask
from maskbench.reference import Comparison
from maskbench.suite.unchanged import Unchanged
from maskbench.suite.workload import CheckedInputs, Inputs, cached_inputs

NAMES = ("q", "k", "v")


class WrongResult(Exception):
    """A backend's result is further from the reference than its bound."""


@dataclass(frozen=True)
class TimedCall:
    """The forward of a bound call, or its backward with a fixed output.

    Parameters
    ----------
    run
        The function to be timed. Its first call includes compilation.
    results
        Maps the result of `run` to tensors by name: "out", and for a backward also "dq", "dk" and
        "dv". Each is [B, heads or kv_heads, S, head_dim].
    tensors
        What `run` reads and must not change, by name: the inputs in the library's layout, and
        for a backward the output and dout.
    """

    run: Callable[[], object]
    results: Callable[[Any], dict[str, Tensor]]
    tensors: dict[str, Tensor]

    @staticmethod
    def prepare(call: BoundAttention, dout: Tensor | None) -> TimedCall:
        """The forward without `dout`; with it, run the forward and return the backward."""
        tensors = {f"{n} (packed)": t for n, t in zip(NAMES, call.inputs, strict=True)}
        if dout is None:
            forward = call.forward
            return TimedCall(
                lambda: forward(*call.inputs), lambda out: {"out": call.unpack(out)}, tensors
            )
        out, packed_dout = call.forward(*call.inputs), call.pack(dout)

        def backward() -> tuple[Tensor, ...]:
            return torch.autograd.grad(out, call.inputs, packed_dout, retain_graph=True)

        def results(gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
            named = zip(("dq", "dk", "dv"), gradients, strict=True)
            return {"out": call.unpack(out), **{n: call.unpack(g) for n, g in named}}

        return TimedCall(backward, results, {**tensors, "out": out, "dout (packed)": packed_dout})


def bind_and_run(
    bind: Bind, mask: Mask, inputs: Inputs
) -> tuple[BoundAttention, TimedCall, object]:
    """Bind the backend and run it once, which compiles it.

    Returns the bound call, the timed call and its first result.
    """
    call = bind(mask, *inputs[:3])
    timed = TimedCall.prepare(call, inputs.dout)
    return call, timed, timed.run()


def run_attention(
    call: BoundAttention, dout: Tensor | None
) -> tuple[dict[str, Tensor], Callable[[], object]]:
    """Run `call` once; return its results (see `TimedCall.results`) and the function to time."""
    timed = TimedCall.prepare(call, dout)
    return timed.results(timed.run()), timed.run


def check_attention(
    call: BoundAttention, checked: CheckedInputs
) -> tuple[Comparison, Callable[[], object]]:
    """Compare one run of `call` with the reference; also return the function to be timed."""
    results, timed = run_attention(call, checked.inputs.dout)
    return checked.reference.compare(results), timed


def check_result(timed: TimedCall, result: object, checked: CheckedInputs, when: str) -> Comparison:
    """Check what `timed.run` returned, and that the inputs still are what they were.

    `when` says in which part of the cell the result was computed. Raises ChangedTensor or
    WrongResult.
    """
    checked.originals.require(when)
    comparison = checked.reference.compare(timed.results(result))
    require_within_tolerance(comparison, when)
    return comparison


@dataclass(frozen=True)
class CheckedCall:
    """A bound call whose first result was right.

    Parameters
    ----------
    bound
        What the backend's `bind` returned.
    timed
        Its forward, or its backward with a fixed output.
    checked
        The inputs with their reference.
    watched
        The other tensors that the call may only read.
    """

    bound: BoundAttention
    timed: TimedCall
    checked: CheckedInputs
    watched: Unchanged

    def check(self, result: object, when: str) -> None:
        """Check what `timed.run` returned in the part of the cell that `when` names.

        Raises ChangedTensor or WrongResult.
        """
        self.watched.require(when)
        check_result(self.timed, result, self.checked, when)


def require_within_tolerance(comparison: Comparison, when: str) -> None:
    """Raise WrongResult, with the error and its bound, if the result is wrong."""
    if not comparison.within_tolerance:
        raise WrongResult(
            f"{comparison.tensor} differs from the reference in {when}: "
            f"error {comparison.error:.3g}, bound {comparison.bound:.3g} ({comparison.checked})"
        )


def discard_changed_inputs(checked: CheckedInputs) -> None:
    """Let the next backend of the workload get new inputs if these were changed."""
    try:
        changed = checked.originals.changed()
    except RuntimeError:  # the device is lost: nothing on it can be read
        changed = ["all"]
    if changed:
        cached_inputs.cache_clear()
