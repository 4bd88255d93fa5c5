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
from tests.ahead import SPENT, spent

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
    direction: str  # "forward", "backward", or what else is timed, such as "block_mask"

    @property
    def backward(self) -> bool:
        """Whether gradients are needed."""
        return self.direction.endswith("backward")

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


def inputs(mask: Mask, shape: Shape, dtype: str, device: str, backward: bool) -> list:
    """[q, k, v, dout], normal and random with a fixed seed; dout is None without backward."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(heads: int) -> torch.Tensor:
        size = (shape.batch, heads, mask.seq_len, shape.head_dim)
        return torch.randn(size, generator=draw, device=device, dtype=getattr(torch, dtype))

    q, k, v = (normal(n) for n in (shape.heads, shape.kv_heads, shape.kv_heads))
    dout = normal(shape.heads) if backward else None
    return [*(t.requires_grad_(backward) for t in (q, k, v)), dout]


def drawn(mask: Mask, shape: Shape, dtype: str, device: str, backward: bool) -> Tensors:
    """`inputs` with what they give by the reference."""
    given = inputs(mask, shape, dtype, device, backward)
    return Tensors(*given, Reference(mask, *given))


@lru_cache(maxsize=1)  # the backends of one problem follow each other
def tensors_of(problem: Problem) -> Tensors:
    """The same tensors for every backend."""
    shape, dtype = problem.shape, problem.dtype
    return drawn(problem.build(), shape, dtype, problem.device, problem.backward)


@lru_cache(maxsize=64)
def size_of(mask: str, seq_len: int, batch: int) -> dict[str, float]:
    """How much a mask leaves to do: exact pairs, and 128 x 128 blocks with any of them."""
    built = PATTERNS[mask](seq_len=seq_len, batch=batch)
    area = built.area(batch)
    partial, full = built.blocks("cpu", (128, 128))
    touched = (partial | full).float().mean().item()
    return {"area": area, "density": area / (batch * seq_len**2), "block_density": touched}


def run(call: backends.Call, dout: torch.Tensor | None) -> tuple[dict, Callable[[], object]]:
    """What one run gives, by name, as [B, heads, S, head_dim]; and what is to be timed.

    The first run: whatever the library compiles, it compiles here.
    """
    out = call.forward(*call.inputs)
    results = {"out": call.unpack(out)}
    if dout is None:
        return results, lambda: call.forward(*call.inputs)
    packed = call.pack(dout)

    def backward():
        return torch.autograd.grad(out, call.inputs, packed, retain_graph=True)

    names = ("dq", "dk", "dv")
    grads = {n: call.unpack(g) for n, g in zip(names, backward(), strict=True)}
    return results | grads, backward


def check(call: backends.Call, tensors: Tensors) -> tuple[Comparison, object]:
    """Compare one run of the call with the reference; returns also what is to be timed."""
    results, timed = run(call, tensors.dout)
    return tensors.reference.compare(results), timed


def time_call(benchmark, call: Callable[[], object], clock, config) -> dict[str, object]:
    """Time a call, on a card at work; what belongs beside the time."""
    if benchmark.enabled and not clock.warm:
        with spent("warm up"):
            clock.warm_up()
    with spent("time"):
        return measure.measure(benchmark, call, clock, config)


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


def bind_of(problem: Problem, name: str) -> backends.Bind:
    """The backend of that name, or FlexAttention's on another spelling of the mask."""
    if problem.direction.startswith("spelling"):
        from tests.spellings import SPELLINGS  # which are made of this module

        return SPELLINGS[problem.mask][name]
    return backends.load(name)


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
            bind = bind_of(self.problem, self.backend)
        except backends.Missing as said:
            self.leave("skipped", str(said))
        self.outcome.of(lambda: self._run(mask, bind))

    def _run(self, mask: Mask, bind: backends.Bind) -> None:
        with spent("check"):
            tensors = tensors_of(self.problem)
        before = SPENT["compile"]
        with spent("compile"):
            try:
                call = bind(mask, tensors.q, tensors.k, tensors.v)
            except backends.Unsupported as reason:
                self.leave("unsupported", str(reason))
            results, timed = run(call, tensors.dout)
        with spent("check"):
            compared = tensors.reference.compare(results)
            del results
            assert compared.right, (
                f"{compared.of} differs from the reference: error {compared.error:.3g}, "
                f"bound {compared.bound:.3g} ({compared.checked})"
            )
            self.benchmark.extra_info |= self._facts(call, compared)
            self.benchmark.extra_info["first_call_s"] = SPENT["compile"] - before
        measured = time_call(self.benchmark, timed, self.clock, self.config)
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
            "flops": flops * (BACKWARD_FLOPS if self.problem.backward else 1),
            "error": compared.error,
            "error_bound": compared.bound,
            "error_of": compared.of,
            "checked": compared.checked,
        }
