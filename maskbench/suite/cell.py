"""A cell: one backend on one workload, checked on the tensors that are timed, then timed."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from maskbench.attention import Bind, BoundAttention, Unsupported
from maskbench.backends import registry
from maskbench.masks import Mask
from maskbench.records import Outcome, Phase
from maskbench.reference import Comparison
from maskbench.suite.cache_repair import first_call
from maskbench.suite.mask_mod_variants import VARIANTS
from maskbench.suite.stages import STAGE_SECONDS, stage_timer
from maskbench.suite.workload import CheckedInputs, Inputs, Workload, cached_inputs, mask_statistics
from maskbench.timing import runner
from maskbench.timing.clock import Clock

MAX_SEQ_LEN_WITH_SCORES = 2048  # for backends that hold S x S scores, unless named
BACKWARD_FLOPS = 2.5  # relative to the forward: five matrix products (one is recomputed) to two


class WrongResult(Exception):
    """A backend's result is further from the reference than its bound."""


def run_attention(
    call: BoundAttention, dout: Tensor | None
) -> tuple[dict[str, Tensor], Callable[[], object]]:
    """Run `call` once; return its results and the function to be timed.

    The results are "out", and with `dout` also "dq", "dk" and "dv", each
    [B, heads or kv_heads, S, head_dim]. This is the first call, so it includes compilation.
    """
    out = call.forward(*call.inputs)
    results = {"out": call.unpack(out)}
    if dout is None:
        return results, lambda: call.forward(*call.inputs)
    packed_dout = call.pack(dout)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, call.inputs, packed_dout, retain_graph=True)

    names = ("dq", "dk", "dv")
    gradients = {n: call.unpack(g) for n, g in zip(names, backward(), strict=True)}
    return results | gradients, backward


def bind_and_run(
    bind: Bind, mask: Mask, inputs: Inputs
) -> tuple[BoundAttention, tuple[dict[str, Tensor], Callable[[], object]]]:
    """The bound call, and what `run_attention` returns for it."""
    call = bind(mask, *inputs[:3])
    return call, run_attention(call, inputs.dout)


def check_attention(
    call: BoundAttention, checked: CheckedInputs
) -> tuple[Comparison, Callable[[], object]]:
    """Compare one run of `call` with the reference; also return the function to be timed."""
    results, timed = run_attention(call, checked.inputs.dout)
    return checked.reference.compare(results), timed


def time_call(
    benchmark: BenchmarkFixture, call: Callable[[], object], clock: Clock, config: pytest.Config
) -> dict[str, object]:
    """Time `call` on a warm device; return the fields to save beside the time."""
    if benchmark.enabled and not clock.warm:
        with stage_timer("warm up"):
            clock.warm_up()
    with stage_timer("time"):
        measured: dict[str, object] = runner.measure(benchmark, call, clock, config)
        return measured


def out_of_memory(error: Exception) -> str | None:
    """The size that was requested, in torch's words; None if the error is another one."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return text.split(" GPU ")[0].strip()
    if "you tried to allocate" in text:  # on a CPU torch raises a plain RuntimeError
        return text[text.index("you tried") :].splitlines()[0]
    is_cuda = re.search(r"out of memory|ALLOC_FAILED", text)  # errors of CUDA and cuBLAS
    return text.split("\n")[0] if is_cuda or isinstance(error, MemoryError) else None


class CellStatus:
    """Records in `fields` why a cell was not timed."""

    def __init__(self, fields: dict[str, object]) -> None:
        self.fields = fields

    def skip(self, outcome: Outcome, reason: str) -> NoReturn:
        """Skip the test and record the reason."""
        self.fields |= {"outcome": outcome.value, "reason": reason}
        pytest.skip(f"{outcome}: {reason}")

    def run_guarding_oom(self, work: Callable[[], None]) -> None:
        """Run `work`; if memory runs out, free the inputs and skip with the requested size."""
        reason = None
        try:
            work()
        except (RuntimeError, MemoryError) as error:
            reason = out_of_memory(error)
            if reason is None:
                raise
        if reason is not None:  # outside the except block, whose traceback holds the tensors
            cached_inputs.cache_clear()
            gc.collect()
            self.skip(Outcome.OUT_OF_MEMORY, reason or "MemoryError")


def get_bind(workload: Workload, name: str) -> Bind:
    """The backend's `bind`, or FlexAttention's with another mask_mod of the mask.

    Raises BackendUnavailable if the backend's library cannot be imported.
    """
    if workload.phase.is_mask_mod_variant:
        return VARIANTS[workload.mask][name]
    return registry.load(name)


def scores_too_large(workload: Workload, backend: str) -> bool:
    """Whether the backend would hold S x S scores for an S above its default limit."""
    spec = registry.BACKENDS.get(backend)
    holds_scores = spec is not None and spec.materializes_scores
    return holds_scores and workload.seq_len > MAX_SEQ_LEN_WITH_SCORES


def is_known_to_be_skipped(workload: Workload, variant: str, backend_named: bool) -> bool:
    """Whether a cell will be skipped, as far as that is known before its backend is called."""
    spec = registry.BACKENDS.get(variant)
    if spec and workload.device not in spec.devices:
        return True
    # FlexAttention also computes the mask_mod variants and the compilation benchmarks.
    uses_flex = variant == "flex" or (spec is None and workload.phase != Phase.BLOCK_MASK)
    if uses_flex and workload.device == "cpu" and workload.phase.needs_gradients:
        return True
    try:
        workload.build_mask()
        if spec:
            registry.load(variant)
    except (ValueError, registry.BackendUnavailable):
        return True
    except Exception:  # of the user's mask: its cell fails with it
        return False
    return scores_too_large(workload, variant) and not backend_named


@dataclass(frozen=True)
class Cell:
    """One backend on one workload, with what pytest knows about it.

    Parameters
    ----------
    workload, backend
        What is computed, and the backend or mask_mod variant that computes it.
    backend_named
        Whether the user named the backend in --backends.
    benchmark, clock, config
        pytest-benchmark's fixture, the session's clock and pytest's configuration.
    status
        Where the reason is recorded if the cell is not timed.
    """

    workload: Workload
    backend: str
    backend_named: bool
    benchmark: BenchmarkFixture
    clock: Clock
    config: pytest.Config
    status: CellStatus

    def check_and_time(self) -> None:
        """Skip the cell if it cannot run, fail it if its result is wrong, else time it.

        Raises WrongResult, or whatever the backend raises.
        """
        if scores_too_large(self.workload, self.backend) and not self.backend_named:
            reason = f"holds S x S scores, by default up to S = {MAX_SEQ_LEN_WITH_SCORES}"
            self.status.skip(Outcome.SKIPPED, f"{reason}; name it in --backends to measure it")
        try:
            mask = self.workload.build_mask()
            bind = get_bind(self.workload, self.backend)
        except (ValueError, registry.BackendUnavailable) as error:
            self.status.skip(Outcome.SKIPPED, str(error))
        self.status.run_guarding_oom(lambda: self._run(mask, bind))

    def _run(self, mask: Mask, bind: Bind) -> None:
        with stage_timer("check"):
            checked = cached_inputs(self.workload)
        before = STAGE_SECONDS["compile"]
        with stage_timer("compile"):
            try:
                call, (results, timed) = first_call(
                    lambda: bind_and_run(bind, mask, checked.inputs)
                )
            except Unsupported as reason:
                self.status.skip(Outcome.UNSUPPORTED, str(reason))
        with stage_timer("check"):
            comparison = checked.reference.compare(results)
            del results
            if not comparison.within_tolerance:
                raise WrongResult(
                    f"{comparison.tensor} differs from the reference: "
                    f"error {comparison.error:.3g}, "
                    f"bound {comparison.bound:.3g} ({comparison.checked})"
                )
            info = self.benchmark.extra_info
            info |= self._metadata(call, comparison)
            info["first_call_s"] = STAGE_SECONDS["compile"] - before
        measured = time_call(self.benchmark, timed, self.clock, self.config)
        info |= measured
        if measured:
            assert self.benchmark.stats is not None
            info["tflops"] = info["flops"] / self.benchmark.stats["median"] / 1e12

    def _metadata(self, call: BoundAttention, comparison: Comparison) -> dict[str, object]:
        shape = self.workload.shape
        statistics = mask_statistics(self.workload.mask, self.workload.seq_len, shape.batch)
        flops = 4 * statistics["area"] * shape.heads * shape.head_dim
        return {
            **self.workload.fields(),
            "backend": self.backend,
            "form": call.formulation.text,
            "formulation": call.formulation.id,
            **statistics,
            "flops": flops * (BACKWARD_FLOPS if self.workload.phase.needs_gradients else 1),
            "error": comparison.error,
            "error_bound": comparison.bound,
            "error_of": comparison.tensor,
            "checked": comparison.checked,
        }
