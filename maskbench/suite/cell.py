"""A cell: one backend on one workload, checked on the tensors that are timed, then timed."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from maskbench.attention import Bind, BoundAttention, Unsupported
from maskbench.backends import registry
from maskbench.backends.flex import NO_BACKWARD_ON_CPU
from maskbench.masks import Mask
from maskbench.records import Outcome, Phase
from maskbench.reference import Comparison
from maskbench.suite.attention_call import (
    CheckedCall,
    bind_and_run,
    check_result,
    discard_changed_inputs,
)
from maskbench.suite.cache_repair import first_call
from maskbench.suite.cuda_graphs import time_graph
from maskbench.suite.device_errors import device_is_lost, out_of_memory
from maskbench.suite.mask_mod_variants import VARIANTS
from maskbench.suite.stages import STAGE_SECONDS, stage_timer
from maskbench.suite.tuned import BACKEND as TUNED
from maskbench.suite.tuned import bind_tuned, existing_file, missing_options_reason
from maskbench.suite.unchanged import Unchanged
from maskbench.suite.work import bytes_moved, flops, mask_work
from maskbench.suite.workload import CheckedInputs, Workload, cached_inputs
from maskbench.timing import runner
from maskbench.timing.clock import Clock
from maskbench.timing.roofline import measured_roofline

MAX_SEQ_LEN_WITH_SCORES = 2048  # for backends that hold S x S scores, unless named
TOO_LARGE = (
    f"holds S x S scores, by default up to S = {MAX_SEQ_LEN_WITH_SCORES}; "
    "name it in --backends to measure it"
)


def time_call(
    benchmark: BenchmarkFixture,
    call: Callable[[], object],
    clock: Clock,
    config: pytest.Config,
    check: Callable[[object], None],
) -> dict[str, object]:
    """Time `call` on a warm device; return the fields to save beside the time.

    `check` gets the result of the last round. If it raises, the cell has no time.
    """
    if benchmark.enabled and not clock.warm:
        with stage_timer("warm up"):
            clock.warm_up()
    with stage_timer("time"):
        measured: dict[str, object] = runner.measure(benchmark, call, clock, config, check)
        return measured


class CellStatus:
    """Records in `fields` why a cell on `device` was not timed."""

    def __init__(self, fields: dict[str, object], device: str) -> None:
        self.fields, self.device = fields, device

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
            if reason is None or device_is_lost(self.device):
                raise
        if reason is not None:  # outside the except block, whose traceback holds the tensors
            cached_inputs.cache_clear()
            gc.collect()
            self.skip(Outcome.OUT_OF_MEMORY, reason)


def get_bind(workload: Workload, name: str) -> Bind:
    """The backend's `bind`, or FlexAttention's with another mask_mod of the mask.

    Raises BackendUnavailable if the backend's library cannot be imported, or OptionsNotFound (a
    ValueError) if the options of `flex_tuned` have not been searched yet.
    """
    if workload.phase.is_mask_mod_variant:
        return VARIANTS[workload.mask][name]
    return bind_tuned(workload) if name == TUNED else registry.load(name)


def scores_too_large(workload: Workload, backend: str) -> bool:
    """Whether the backend would hold S x S scores for an S above its default limit."""
    spec = registry.BACKENDS.get(backend)
    holds_scores = spec is not None and spec.materializes_scores
    return holds_scores and workload.seq_len > MAX_SEQ_LEN_WITH_SCORES


def flex_lacks_backward(workload: Workload, variant: str) -> bool:
    """Whether the cell is FlexAttention's backward on a CPU, which torch does not have."""
    # FlexAttention also computes the mask_mod variants and the compilation benchmarks.
    is_flex = variant in ("flex", TUNED)
    uses_flex = is_flex or (variant not in registry.BACKENDS and workload.phase != Phase.BLOCK_MASK)
    return uses_flex and workload.device == "cpu" and workload.phase.needs_gradients


def known_skip_reason(workload: Workload, variant: str, backend_named: bool) -> str | None:
    """Why a cell will be skipped, as far as that is known before its backend is called."""
    spec = registry.BACKENDS.get(variant)
    if spec and workload.device not in spec.devices:
        return f"{variant} runs on {' and '.join(spec.devices)} only"
    if flex_lacks_backward(workload, variant):
        return NO_BACKWARD_ON_CPU
    try:
        workload.build_mask()
        if spec:
            registry.load(variant)
    except (ValueError, registry.BackendUnavailable) as error:
        return str(error)
    except Exception:  # of the user's mask: its cell fails with it
        return None
    if variant == TUNED and not workload.phase.is_search:
        return missing_options_reason(workload, backend_named)
    return TOO_LARGE if scores_too_large(workload, variant) and not backend_named else None


def will_be_skipped(workload: Workload, variant: str, backend_named: bool) -> bool:
    """Whether a cell is known to be skipped; a search also if its result exists."""
    if known_skip_reason(workload, variant, backend_named):
        return True
    return workload.phase.is_search and existing_file(workload) is not None


@dataclass(frozen=True)
class CheckedCell:
    """One backend on one workload, whose result is checked before anything is measured.

    Parameters
    ----------
    workload, backend
        What is computed, and the backend or mask_mod variant that computes it.
    backend_named
        Whether the user named the backend in --backends.
    benchmark
        pytest-benchmark's fixture.
    status
        Where the reason is recorded if the cell is not timed.
    """

    workload: Workload
    backend: str
    backend_named: bool
    benchmark: BenchmarkFixture
    status: CellStatus

    def check_and_measure(self, measure: Callable[[CheckedCall], dict[str, object]]) -> None:
        """Skip the cell if it cannot run, fail it if its result is wrong, else measure it.

        `measure` returns the fields to be saved. Raises WrongResult, or whatever the backend or
        `measure` raises.
        """
        if scores_too_large(self.workload, self.backend) and not self.backend_named:
            self.status.skip(Outcome.SKIPPED, TOO_LARGE)
        if self.backend == TUNED and flex_lacks_backward(self.workload, TUNED):
            self.status.skip(Outcome.UNSUPPORTED, NO_BACKWARD_ON_CPU)
        if self.backend == TUNED and (
            reason := missing_options_reason(self.workload, self.backend_named)
        ):
            self.status.skip(Outcome.SKIPPED, reason)
        try:
            mask = self.workload.build_mask()
            bind = get_bind(self.workload, self.backend)
        except (ValueError, registry.BackendUnavailable) as error:
            self.status.skip(Outcome.SKIPPED, str(error))
        self.status.run_guarding_oom(lambda: self._run(mask, bind, measure))

    def _run(
        self, mask: Mask, bind: Bind, measure: Callable[[CheckedCall], dict[str, object]]
    ) -> None:
        with stage_timer("check"):
            checked = cached_inputs(self.workload)
        try:
            call = self._first_call(mask, bind, checked)
            self.benchmark.extra_info |= measure(call)
        except BaseException:
            discard_changed_inputs(checked)  # the next backend needs the right ones
            raise

    def _first_call(self, mask: Mask, bind: Bind, checked: CheckedInputs) -> CheckedCall:
        before = STAGE_SECONDS["compile"]
        with stage_timer("compile"):
            inputs = checked.inputs.aliases()
            try:
                call, timed, result = first_call(lambda: bind_and_run(bind, mask, inputs))
            except Unsupported as reason:
                self.status.skip(Outcome.UNSUPPORTED, str(reason))
        with stage_timer("check"):
            comparison = check_result(timed, result, checked, "its first call")
            del result
            watched = Unchanged(checked.originals.without_aliases(timed.tensors))
            info = self.benchmark.extra_info
            info |= self.metadata(call, comparison)
            info["first_call_s"] = STAGE_SECONDS["compile"] - before
        return CheckedCall(call, timed, checked, watched)

    def metadata(self, call: BoundAttention, comparison: Comparison) -> dict[str, object]:
        """The fields that say what is timed and how well it agrees with the reference."""
        return {
            **self.workload.fields(),
            "backend": self.backend,
            "form": call.formulation.text,
            "formulation": call.formulation.id,
            **mask_work(self.workload).fields(),
            "flops": flops(self.workload),
            "bytes": bytes_moved(self.workload),
            **comparison.fields(),
        }


@dataclass(frozen=True)
class Cell(CheckedCell):
    """A cell that is timed.

    Parameters
    ----------
    clock, config
        The session's clock and pytest's configuration.
    """

    clock: Clock
    config: pytest.Config

    def check_and_time(self) -> None:
        """Skip the cell if it cannot run, fail it if its result is wrong, else time it.

        Raises WrongResult, or whatever the backend raises.
        """
        self.check_and_measure(self.time)

    def time(self, call: CheckedCall) -> dict[str, object]:
        """Time a call whose first result was right; return the fields to be saved."""

        def check_last_round(result: object) -> None:
            call.check(result, "the timed rounds")

        run = call.timed.run
        measured = time_call(self.benchmark, run, self.clock, self.config, check_last_round)
        if not measured:
            return {}  # with --benchmark-disable
        info = self.benchmark.extra_info
        median_s = statistics.median(runner.recorded_seconds(self.benchmark))
        with stage_timer("time"):
            graph = self._time_graph(call)
            limits = measured_roofline(self.clock, self.workload.device, self.workload.dtype)
        return {
            **measured,
            "tflops": info["flops"] / median_s / 1e12,
            "gb_per_s": info["bytes"] / median_s / 1e9,
            **graph,
            **limits._asdict(),
        }

    def _time_graph(self, call: CheckedCall) -> dict[str, object]:
        """The fields of the call as a CUDA graph, with --cuda-graphs."""
        if not self.config.getoption("cuda_graphs"):
            return {}
        return time_graph(call, self.clock, runner.max_round_seconds(self.config, self.clock))
