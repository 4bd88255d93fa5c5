"""The final comparison: the fastest options are checked, then timed again in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from maskbench.attention import BoundAttention
from maskbench.masks import Mask
from maskbench.reference import Comparison
from maskbench.suite.attention_call import TimedCall, bind_and_run, check_result
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.error_text import describe_error
from maskbench.suite.tuning.alternating_rounds import Gain, by_median, gain, time_alternately
from maskbench.suite.tuning.screening import bind_with
from maskbench.suite.workload import CheckedInputs
from maskbench.timing.clock import Clock
from maskbench.tuned_options import DEFAULT_OPTIONS, Dropped, FlexOptions, Found

MAX_CANDIDATES = 4  # beside the default and torch's own search: torch.compile keeps 8 calls
MAX_COMPILED = 6  # some may fail or be wrong
FINAL_S = 1.0  # wall time of the rounds
DRAIN_S = 0.1  # for the kernels that paused workers have launched


class CheckedCandidate(NamedTuple):
    """Options that were compiled and checked. `options` None is torch's own search."""

    options: FlexOptions | None
    call: BoundAttention
    timed: TimedCall
    comparison: Comparison


@dataclass
class FinalComparison:
    """The final comparison of one problem.

    Parameters
    ----------
    mask, checked, clock
        The mask, the inputs with their reference, and the warm clock.
    paused
        A context in which nothing else uses the device.
    feed_workers
        Called after each compilation. It gives the workers their next tasks.
    dropped
        The options that failed here, with the reason.
    """

    mask: Mask
    checked: CheckedInputs
    clock: Clock
    paused: Callable[[], AbstractContextManager[None]]
    feed_workers: Callable[[], None]
    dropped: list[Dropped] = field(default_factory=list)

    def compile_and_check(self, options: FlexOptions | None) -> CheckedCandidate:
        """Compile options and check their result. Raises WrongResult, or what torch raises."""
        inputs = self.checked.inputs.aliases()
        call, timed, result = bind_and_run(bind_with(options), self.mask, inputs)
        comparison = check_result(timed, result, self.checked, "its first call")
        return CheckedCandidate(options, call, timed, comparison)

    def compile_and_check_all(self, ranking: Sequence[FlexOptions]) -> list[CheckedCandidate]:
        """Compile and check up to `MAX_CANDIDATES` options. Those that fail go to `dropped`.

        FlashAttention-4's kernel is the first, then the fastest options follow.
        """
        flash = [option for option in ranking if option.uses_flash]
        order = list(dict.fromkeys([*flash[:1], *ranking]))[:MAX_COMPILED]
        found: list[CheckedCandidate] = []
        for options in order:
            if len(found) == MAX_CANDIDATES:
                break
            if candidate := self._compile_or_drop(options):
                found.append(candidate)
            self.feed_workers()
        return found

    def _compile_or_drop(self, options: FlexOptions) -> CheckedCandidate | None:
        try:
            return self.compile_and_check(options)
        except Exception as error:  # of torch, Triton, CuTe or the check
            if device_is_lost(self.checked.inputs.q.device.type):
                raise
            self.dropped.append(Dropped(str(options), describe_error(error)))
            return None

    def time_all(
        self,
        default: CheckedCandidate,
        others: Sequence[CheckedCandidate],
        autotuned: CheckedCandidate | None,
    ) -> ComparisonResult:
        """Time the candidates against the default while nothing else uses the device."""
        candidates = [default, *others, *([autotuned] if autotuned else [])]
        calls = {candidate.options: candidate.timed.run for candidate in candidates}
        with self.paused():
            if self.checked.inputs.q.is_cuda:
                time.sleep(DRAIN_S)
                torch.cuda.synchronize()
            seconds = time_alternately(calls, self.clock, FINAL_S)
        default_s = seconds[DEFAULT_OPTIONS]
        gains = {option: gain(default_s, own) for option, own in seconds.items()}
        better = [o for o in by_median(seconds) if o is not None and gains[o].is_significant]
        best = better[:1]
        if best and best[0].uses_flash:  # for an environment without FlashAttention-4
            best += [option for option in better if not option.uses_flash][:1]
        found = [
            Found(
                kernel_options=option.kernel_options,
                block_size=option.block_size,
                gain=gains[option].value,
                interval=gains[option].interval,
                seconds=statistics.median(seconds[option]),
            )
            for option in best
        ]
        chosen = best[0] if best else DEFAULT_OPTIONS
        return ComparisonResult(
            fastest=next(c for c in candidates if c.options == chosen),
            found=found,
            default_s=statistics.median(default_s),
            autotune=gains.get(None),
        )


class ComparisonResult(NamedTuple):
    """The fastest candidate, the options that are saved, and the median times.

    `fastest` is the default if no options are significantly faster. `autotune` is the gain of
    torch's own search.
    """

    fastest: CheckedCandidate
    found: list[Found]
    default_s: float
    autotune: Gain | None
