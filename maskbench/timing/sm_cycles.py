"""SM clock cycles that pass during a call, counted on the card itself; for clocks.py.

NVML tells the clock of an idle card, before and after: on an H100 it said 1980 MHz where
attention ran at 1760 to 1920. Here a tiny kernel before a round's first event and one after its
last have each SM write down its cycle counter and the time of day.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl


@triton.jit
def stamp(out):
    """out[3 i], out[3 i + 1], out[3 i + 2] for program i: its SM, that SM's cycles, ns."""
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
    """Stamps around calls, kept for the last `kept` rounds since `reset`."""

    def __init__(self, device: torch.device, capacity: int):
        self.sms = torch.cuda.get_device_properties(device).multi_processor_count
        self.device, self.stamps = device, torch.empty(0)
        self.reset(capacity)

    def reset(self, capacity: int) -> None:
        """Forget all rounds, and keep so many from now on."""
        self.rounds, self.capacity = 0, capacity
        if capacity > len(self.stamps):
            size = (capacity, 2, self.sms, 3)
            self.stamps = torch.zeros(size, dtype=torch.int64, device=self.device)
            self.rows = self.stamps.flatten(0, 1).unbind()

    def begin(self) -> None:
        """Put a stamp on the current stream: a call follows."""
        stamp[(self.sms,)](self.rows[2 * (self.rounds % self.capacity)], num_warps=1)

    def end(self) -> None:
        """Put the second stamp of the round there: the call is over."""
        stamp[(self.sms,)](self.rows[2 * (self.rounds % self.capacity) + 1], num_warps=1)
        self.rounds += 1

    def read(self) -> np.ndarray:
        """[rounds, begin and end, programs, (SM, its cycles, ns)]; waits for the device."""
        return self.stamps[: min(self.rounds, self.capacity)].cpu().numpy()
