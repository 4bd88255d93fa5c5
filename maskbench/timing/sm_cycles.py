"""SM clock cycles that pass during a call, counted on the GPU itself.

NVML cannot give the SM clock during a call: read before and after, it gives the clock of an idle
GPU. On an H100 it reported 1980 MHz where attention ran at 1760 to 1920. Here a tiny kernel runs
before the first event of a round and another after the last. In each, every SM writes its cycle
counter and the time to memory.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray


@triton.jit
def stamp(out):  # type: ignore[no-untyped-def]  # a pointer in Triton: Python has no type for it
    """Write (SM, cycles of that SM, ns) of program i to out[3 * i : 3 * i + 3], as int64.

    cycles is the SM's %clock64 and ns is %globaltimer, both PTX special registers.
    """
    row = out + 3 * tl.program_id(0)
    sm = tl.inline_asm_elementwise(
        "mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )
    cycles = tl.inline_asm_elementwise(
        "mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    ns = tl.inline_asm_elementwise(
        "mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1
    )
    tl.store(row, sm.to(tl.int64))
    tl.store(row + 1, cycles)
    tl.store(row + 2, ns)


class SMCycleCounter:
    """Stamps around calls, of the last `capacity` rounds since `reset`."""

    def __init__(self, device: torch.device, capacity: int) -> None:
        self.sm_count = torch.cuda.get_device_properties(device).multi_processor_count
        self.device, self.stamps = device, torch.empty(0)
        self.reset(capacity)

    def reset(self, capacity: int) -> None:
        """Discard all rounds; keep the last `capacity` rounds from now on."""
        self.rounds, self.capacity = 0, capacity
        if capacity > len(self.stamps):
            shape = (capacity, 2, self.sm_count, 3)
            self.stamps = torch.zeros(shape, dtype=torch.int64, device=self.device)
            # Created once, so that no round creates a view.
            self.rows = self.stamps.flatten(0, 1).unbind()

    def begin(self) -> None:
        """Enqueue the stamp before a call on the current stream."""
        stamp[(self.sm_count,)](self.rows[2 * (self.rounds % self.capacity)], num_warps=1)

    def end(self) -> None:
        """Enqueue the stamp after a call, which ends the round."""
        stamp[(self.sm_count,)](self.rows[2 * (self.rounds % self.capacity) + 1], num_warps=1)
        self.rounds += 1

    def read(self) -> NDArray[np.int64]:
        """The stamps, [rounds, 2 (before, after), programs, 3 (SM, cycles, ns)].

        Waits for the device. The rounds are in order unless more than `capacity` have run.
        """
        return self.stamps[: min(self.rounds, self.capacity)].cpu().numpy()
