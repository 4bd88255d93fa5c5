"""The command-line options, and the run that they describe."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch

from maskbench.backends.registry import BACKENDS
from maskbench.suite.workload import Shape
from masks import PATTERNS


@dataclass(frozen=True)
class RunConfig:
    """The options, checked and completed with defaults."""

    device: str
    masks: list[str]
    backends: list[str]
    backends_named: bool  # whether --backends was given
    seq_lens: list[int]
    seq_lens_named: bool
    shape: Shape
    jobs: int
    dtype: str

    @property
    def default_seq_lens(self) -> list[int]:
        """The lengths for what depends little on the length: those given, else one."""
        return self.seq_lens if self.seq_lens_named else [DEFAULT_LENGTH[self.device]]


DTYPES = ("float16", "bfloat16", "float32")
DEFAULTS = {
    "cuda": {"batch": 8, "heads": 16, "head_dim": 64, "dtype": "float16"},
    "cpu": {"batch": 1, "heads": 4, "head_dim": 64, "dtype": "float32"},
}
SEQ_LENS = {"cuda": (1024, 4096, 16384), "cpu": (512, 1024, 2048)}
DEFAULT_LENGTH = {"cuda": 4096, "cpu": 512}  # of what is much the same at each


def add_options(parser) -> None:
    group = parser.getgroup("maskbench", "maskbench: attention masks, backends and shapes")

    def either(name: str) -> str:
        return ", ".join(f"{DEFAULTS[d][name]} on {d}" for d in DEFAULTS)

    def comma(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    with_scores = [s.name for s in BACKENDS.values() if s.materializes_scores]
    group.addoption("--device", help="cuda or cpu. Default: cuda where there is a GPU, else cpu.")
    group.addoption(
        "--masks", type=comma, help=f"Masks, comma-separated. Default: all: {', '.join(PATTERNS)}."
    )
    group.addoption(
        "--backends",
        type=comma,
        help=f"Backends, comma-separated. Default: all: {', '.join(BACKENDS)}; "
        f"{' and '.join(with_scores)} up to S = 2048 unless named.",
    )
    lengths = "; ".join(f"{','.join(map(str, SEQ_LENS[d]))} on {d}" for d in SEQ_LENS)
    group.addoption(
        "--seq-lens", type=comma, help=f"Sequence lengths, comma-separated. Default: {lengths}."
    )
    group.addoption("--batch", type=int, help=f"Batch size. Default: {either('batch')}.")
    group.addoption("--heads", type=int, help=f"Query heads. Default: {either('heads')}.")
    group.addoption(
        "--kv-heads", type=int, help="Key/value heads, a divisor of --heads. Default: as --heads."
    )
    group.addoption("--head-dim", type=int, help=f"Head dimension. Default: {either('head_dim')}.")
    group.addoption(
        "--jobs",
        type=int,
        help="Processes that compile before anything is timed. Default: a process a CPU, "
        "on a GPU 16 at most.",
    )
    group.addoption("--dtype", help=f"{', '.join(DTYPES)}. Default: {either('dtype')}.")


def validate_choices(option: str, asked: list[str] | None, valid) -> list[str]:
    unknown = [name for name in asked or () if name not in valid]
    if unknown:
        raise pytest.UsageError(
            f"{option}: unknown {', '.join(unknown)}; valid are {', '.join(valid)}"
        )
    if asked == []:
        raise pytest.UsageError(f"{option}: names nothing; valid are {', '.join(valid)}")
    return list(dict.fromkeys(asked or valid))


def device_of(asked: str | None) -> str:
    there = torch.cuda.is_available()
    (device,) = validate_choices(
        "--device", [asked or ("cuda" if there else "cpu")], ("cuda", "cpu")
    )
    if device == "cuda" and not there:
        raise pytest.UsageError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device; valid here: cpu"
        )
    return device


def positive_int(option: str, value) -> int:
    """A positive whole number, else a usage error."""
    if not str(value).isdecimal() or int(value) < 1:
        raise pytest.UsageError(f"{option}: {value} is not a whole number of 1 or more")
    return int(value)


def default_jobs(device: str) -> int:
    """The CPUs that this process may use; on a GPU 16 at most, as each job takes of its memory."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cpus, 16) if device == "cuda" else cpus


def parse_config(option) -> RunConfig:
    """Check and complete the options. Raises pytest.UsageError (exit status 4)."""
    device = device_of(option.device)
    default = DEFAULTS[device]

    def number(name: str, fallback: int) -> int:
        value = getattr(option, name)
        return positive_int(f"--{name.replace('_', '-')}", fallback if value is None else value)

    heads = number("heads", default["heads"])
    kv_heads = number("kv_heads", heads)
    if heads % kv_heads:
        raise pytest.UsageError(f"--kv-heads: {kv_heads} does not divide --heads {heads}")
    lengths = SEQ_LENS[device] if option.seq_lens is None else option.seq_lens
    if not lengths:
        raise pytest.UsageError("--seq-lens: names no length")
    return RunConfig(
        device=device,
        masks=validate_choices("--masks", option.masks, list(PATTERNS)),
        backends=validate_choices("--backends", option.backends, list(BACKENDS)),
        backends_named=option.backends is not None,
        seq_lens=list(dict.fromkeys(positive_int("--seq-lens", n) for n in lengths)),
        seq_lens_named=bool(option.seq_lens),
        shape=Shape(
            number("batch", default["batch"]),
            heads,
            kv_heads,
            number("head_dim", default["head_dim"]),
        ),
        jobs=number("jobs", default_jobs(device)),
        dtype=validate_choices("--dtype", [option.dtype or default["dtype"]], DTYPES)[0],
    )
