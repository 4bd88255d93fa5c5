"""SM clock cycles that pass during a call, counted on the card itself; for measure.py.

NVML's clock is a moving set point: on an H100 it said 1980 MHz while attention ran at 1760 to
1920. Here a tiny kernel before a round's first event and one after its last have each SM write
down its cycle counter and the time of day.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

ROUNDS = 1000  # that are kept, from the last `reset` on: more write over the first


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


class Cycles:
    """Stamps around calls: `begin` and `end` put one each on the current stream."""

    def __init__(self, device: torch.device):
        self.sms = torch.cuda.get_device_properties(device).multi_processor_count
        kept = (ROUNDS, 2, self.sms, 3)
        self.stamps = torch.zeros(kept, dtype=torch.int64, device=device)
        self.rows = self.stamps.flatten(0, 1).unbind()
        self.rounds = 0

    def reset(self) -> None:
        self.rounds = 0

    def begin(self) -> None:
        stamp[(self.sms,)](self.rows[2 * (self.rounds % ROUNDS)], num_warps=1)

    def end(self) -> None:
        stamp[(self.sms,)](self.rows[2 * (self.rounds % ROUNDS) + 1], num_warps=1)
        self.rounds += 1

    def hz(self) -> list[float]:
        """Of each round the SM clock from stamp to stamp, the median over the SMs; or NaN."""
        return rates(self.stamps[: min(self.rounds, ROUNDS)].cpu().numpy())


def rates(stamps: np.ndarray) -> list[float]:
    """Cycles a second; `stamps` is [rounds, 2, programs, 3] of (SM, its cycles, ns).

    The programs of a stamp run on any SM each, as a rule on one of their own: NaN for a round in
    which the two stamps are of different SMs.
    """
    order = stamps[..., 0].argsort(axis=-1, kind="stable")
    ordered = np.take_along_axis(stamps, order[..., None], axis=-2)
    begin, end = ordered[:, 0], ordered[:, 1]
    same = (begin[..., 0] == end[..., 0]).all(axis=-1)
    passed = end - begin
    hz = np.median(passed[..., 1] / passed[..., 2].clip(min=1), axis=-1) * 1e9
    return list(np.where(same, hz, np.nan))
