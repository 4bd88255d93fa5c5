"""A cell: one mask, backend, shape and direction, checked on its own tensors, then timed."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache

import pytest
import torch

import backends
import measure
from backends.reference import Comparison, Reference
from masks import PATTERNS, Mask

LARGEST_DEFAULT_WITH_SCORES = 2048
BACKWARD_FLOPS = 2.5  # of the forward's, one rule for all


@dataclass(frozen=True)
class Shape:
    """Everything of a problem but its mask, length and data type; str() is as in node ids."""

    batch: int
    heads: int
    kv_heads: int
    head_dim: int

    def __str__(self):
        grouped = f"kv{self.kv_heads}" if self.kv_heads != self.heads else ""
        return f"b{self.batch}h{self.heads}{grouped}d{self.head_dim}"


@dataclass(frozen=True)
class Problem:
    """What is to be computed, whoever computes it."""

    mask: str
    seq_len: int
    shape: Shape
    dtype: str
    device: str
    direction: str  # "forward", "backward" or "block_mask", its construction

    def fields(self) -> dict[str, object]:
        own = {"mask": self.mask, "direction": self.direction, "seq_len": self.seq_len}
        return {**own, **asdict(self.shape), "dtype": self.dtype}

    def build(self) -> Mask:
        return PATTERNS[self.mask](seq_len=self.seq_len, batch=self.shape.batch)


@dataclass(frozen=True)
class Tensors:
    """q, k, v, and dout for the backward, with what they give by the reference."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    dout: torch.Tensor | None
    reference: Reference


def drawn(mask: Mask, shape: Shape, dtype: str, device: str, backward: bool) -> Tensors:
    """Normal random tensors for a mask, with a fixed seed."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(heads: int) -> torch.Tensor:
        size = (shape.batch, heads, mask.seq_len, shape.head_dim)
        return torch.randn(size, generator=draw, device=device, dtype=getattr(torch, dtype))

    q, k, v = (normal(n) for n in (shape.heads, shape.kv_heads, shape.kv_heads))
    dout = normal(shape.heads) if backward else None
    reference = Reference(mask, q, k, v, dout)
    return Tensors(*(t.requires_grad_(backward) for t in (q, k, v)), dout, reference)


@lru_cache(maxsize=1)  # the backends of one problem follow each other
def tensors_of(problem: Problem) -> Tensors:
    """The same tensors for every backend."""
    backward = problem.direction == "backward"
    return drawn(problem.build(), problem.shape, problem.dtype, problem.device, backward)


@lru_cache(maxsize=64)
def size_of(mask: str, seq_len: int, batch: int) -> dict[str, float]:
    """How much a mask leaves to do: exact pairs, and 128 x 128 blocks with any of them."""
    built = PATTERNS[mask](seq_len=seq_len, batch=batch)
    area = built.area(batch)
    partial, full = built.blocks("cpu", (128, 128))
    touched = (partial | full).float().mean().item()
    return {"area": area, "density": area / (batch * seq_len**2), "block_density": touched}


def check(call: backends.Call, tensors: Tensors) -> tuple[Comparison, object]:
    """Compare one run of the call with the reference; returns also what is to be timed."""
    out = call.forward(*call.inputs)
    results = {"out": call.unpack(out)}
    if tensors.dout is None:
        return tensors.reference.compare(results), lambda: call.forward(*call.inputs)
    dout = call.pack(tensors.dout)

    def backward():
        return torch.autograd.grad(out, call.inputs, dout, retain_graph=True)

    names = ("dq", "dk", "dv")
    results |= {n: call.unpack(g) for n, g in zip(names, backward(), strict=True)}
    return tensors.reference.compare(results), backward


def out_of_memory(error: Exception) -> str | None:
    """What was asked for, in torch's words; None where the error is another one."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return text.split(" GPU ")[0].strip()
    if "you tried to allocate" in text:  # a CPU says so in a plain RuntimeError
        return text[text.index("you tried") :].splitlines()[0]
    told = re.search(r"out of memory|ALLOC_FAILED", text)  # CUDA's own and cuBLAS's errors
    return text.split("\n")[0] if told or isinstance(error, MemoryError) else None


class Outcome:
    """What became of a cell that is not timed, kept in `fields` for the saved file."""

    def __init__(self, fields: dict[str, object]):
        self.fields = fields

    def leave(self, outcome: str, reason: str):
        """Skip the cell and keep why."""
        self.fields |= {"outcome": outcome, "reason": reason}
        pytest.skip(f"{outcome}: {reason}")

    def of(self, work: Callable[[], None]) -> None:
        """Do the work; where memory runs out, leave with what was asked for."""
        memory = None
        try:
            work()
        except (RuntimeError, MemoryError) as error:
            memory = out_of_memory(error)
            if memory is None:
                raise
        if memory is not None:  # outside the except, whose traceback holds the tensors
            tensors_of.cache_clear()
            gc.collect()
            self.leave("out of memory", memory or "MemoryError")


class Cell:
    """One cell, with all that is needed to run it."""

    def __init__(self, problem, backend, asked_by_name, benchmark, clock, config, outcome):
        self.problem, self.backend, self.asked_by_name = problem, backend, asked_by_name
        self.benchmark, self.clock, self.config = benchmark, clock, config
        self.outcome, self.leave = outcome, outcome.leave

    def check_and_time(self) -> None:
        """Skips where the cell cannot be, fails where it is wrong, else times it."""
        if (
            self.backend in backends.HOLDS_SCORES
            and self.problem.seq_len > LARGEST_DEFAULT_WITH_SCORES
            and not self.asked_by_name
        ):
            reason = f"holds S x S scores, by default up to S = {LARGEST_DEFAULT_WITH_SCORES}"
            self.leave("skipped", f"{reason}; name it in --backends to measure it")
        try:
            mask = self.problem.build()
        except ValueError as error:
            self.leave("skipped", str(error))
        try:
            bind = backends.load(self.backend)
        except backends.Missing as said:
            self.leave("skipped", str(said))
        self.outcome.of(lambda: self._run(mask, bind))

    def _run(self, mask: Mask, bind: backends.Bind) -> None:
        tensors = tensors_of(self.problem)
        try:
            call = bind(mask, tensors.q, tensors.k, tensors.v)
        except backends.Unsupported as reason:
            self.leave("unsupported", str(reason))
        compared, timed = check(call, tensors)
        assert compared.right, (
            f"{compared.of} differs from the reference: error {compared.error:.3g}, "
            f"bound {compared.bound:.3g} ({compared.checked})"
        )
        self.benchmark.extra_info |= self._facts(call, compared)
        measured = measure.measure(self.benchmark, timed, self.clock, self.config)
        self.benchmark.extra_info |= measured
        if measured:
            flops = self.benchmark.extra_info["flops"]
            median = self.benchmark.stats["median"]
            self.benchmark.extra_info["tflops"] = flops / median / 1e12

    def _facts(self, call: backends.Call, compared: Comparison) -> dict[str, object]:
        shape = self.problem.shape
        size = size_of(self.problem.mask, self.problem.seq_len, shape.batch)
        flops = 4 * size["area"] * shape.heads * shape.head_dim
        return {
            **self.problem.fields(),
            "backend": self.backend,
            "form": call.form,
            **size,
            "flops": flops * (BACKWARD_FLOPS if self.problem.direction == "backward" else 1),
            "error": compared.error,
            "error_bound": compared.bound,
            "error_of": compared.of,
            "checked": compared.checked,
        }
