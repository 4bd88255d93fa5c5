"""The contest of the options that screening found: checked, then timed precisely in one process."""

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
from maskbench.suite.tuning.race import Gain, alternate, fastest, gain
from maskbench.suite.tuning.screening import bind_with
from maskbench.suite.workload import CheckedInputs
from maskbench.timing.clock import Clock
from maskbench.tuned_options import DEFAULT_OPTIONS, Dropped, FlexOptions, Found

MAX_CONTENDERS = 4  # beside the default and torch's own search: torch.compile keeps 8 calls
MAX_TRIED = 6  # of which some may be wrong
FINAL_S = 1.0  # wall time of the rounds
SETTLE_S = 0.1  # for what paused workers have launched on the GPU


class Contender(NamedTuple):
    """Options that were compiled and checked. `options` None is torch's own search."""

    options: FlexOptions | None
    call: BoundAttention
    timed: TimedCall
    comparison: Comparison


@dataclass
class Contest:
    """The contest of one problem.

    Parameters
    ----------
    mask, checked, clock
        The mask, the inputs with their reference, and the warm clock.
    paused
        A context in which nothing else uses the device.
    meanwhile
        Called after each preparation: the workers get their next tasks.
    dropped
        The options that failed here, with the reason.
    """

    mask: Mask
    checked: CheckedInputs
    clock: Clock
    paused: Callable[[], AbstractContextManager[None]]
    meanwhile: Callable[[], None]
    dropped: list[Dropped] = field(default_factory=list)

    def prepare(self, options: FlexOptions | None) -> Contender:
        """Compile options and check their result. Raises WrongResult, or what torch raises."""
        inputs = self.checked.inputs.aliases()
        call, timed, result = bind_and_run(bind_with(options), self.mask, inputs)
        comparison = check_result(timed, result, self.checked, "its first call")
        return Contender(options, call, timed, comparison)

    def prepare_all(self, ranking: Sequence[FlexOptions]) -> list[Contender]:
        """The contenders among the options. Failures go to `dropped`.

        FlashAttention-4's kernel has a place, then the fastest ones have.
        """
        flash = [option for option in ranking if option.uses_flash]
        order = list(dict.fromkeys([*flash[:1], *ranking]))[:MAX_TRIED]
        found: list[Contender] = []
        for options in order:
            if len(found) == MAX_CONTENDERS:
                break
            if contender := self._prepare_or_drop(options):
                found.append(contender)
            self.meanwhile()
        return found

    def _prepare_or_drop(self, options: FlexOptions) -> Contender | None:
        try:
            return self.prepare(options)
        except Exception as error:  # of torch, Triton, CuTe or the check
            if device_is_lost(self.checked.inputs.q.device.type):
                raise
            self.dropped.append(Dropped(str(options), describe_error(error)))
            return None

    def final(
        self, default: Contender, others: Sequence[Contender], autotuned: Contender | None
    ) -> Result:
        """Time the contenders against the default while nothing else uses the device."""
        contenders = [default, *others, *([autotuned] if autotuned else [])]
        calls = {contender.options: contender.timed.run for contender in contenders}
        with self.paused():
            if self.checked.inputs.q.is_cuda:
                time.sleep(SETTLE_S)
                torch.cuda.synchronize()
            seconds = alternate(calls, self.clock, FINAL_S)
        default_s = seconds[DEFAULT_OPTIONS]
        gains = {option: gain(default_s, own) for option, own in seconds.items()}
        better = [o for o in fastest(seconds) if o is not None and gains[o].is_beyond_noise]
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
        winner = best[0] if best else DEFAULT_OPTIONS
        return Result(
            winner=next(c for c in contenders if c.options == winner),
            found=found,
            default_s=statistics.median(default_s),
            autotune=gains.get(None),
        )


class Result(NamedTuple):
    """The winner (the default if nothing beats it), what is kept, and the default's time."""

    winner: Contender
    found: list[Found]
    default_s: float
    autotune: Gain | None
