"""Entries of found options for the tests."""

from __future__ import annotations

import torch

from maskbench.tuned_options import Found, Problem, TunedEntry

PROBLEM = Problem(
    mask="causal",
    direction="forward",
    seq_len=512,
    q_len=None,
    batch=1,
    heads=2,
    kv_heads=2,
    head_dim=16,
    v_head_dim=None,
    dtype="float32",
    device="cpu",
)


def found(gain: float = 1.25, block_size: tuple[int, int] = (128, 128), **options) -> Found:
    return Found(
        kernel_options=options, block_size=block_size, gain=gain, interval=0.004, seconds=0.002
    )


def entry(*options: Found, **fields) -> TunedEntry:
    """An entry of this torch for a GPU named "gpu"."""
    given = {
        "problem": PROBLEM,
        "gpu": "gpu",
        "torch": str(torch.__version__),
        "triton": None,
        "saved": "2026-01-01T00:00:00+00:00",
        "default_s": 0.0025,
        "found": list(options),
        "max_autotune_gain": 1.1,
        "max_autotune_problem": None,
        "tried": 20,
        "search_s": 12.0,
        "compile_s": 90.0,
        "dropped": [],
    }
    return TunedEntry(**{**given, **fields})
