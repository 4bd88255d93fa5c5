"""The schema of a saved run: every field that the reports read, with its type and limits.

msgspec checks a file against these classes as it decodes it, in one pass. It skips all other
fields without making objects of them. A field of another type or out of its limits is an error
that names its place in the file.

- Format 3, written now: the block "maskbench" says what the run was to have and what it lacks.
- Format 2: each timed cell has `formulation`, an identifier of how it was computed.
- Format 1: `formulation` is derived from `form`, a text.
- Older files of format 1 also lack `interval` and `two_modes`. Their SM clock is in
  `spin_clock_mhz`, measured just before the calls, or in `sm_clock_mhz`, read from NVML.

UNSET stands for a field that a file does not have.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from maskbench.records import Outcome, Phase

Name = Annotated[str, Meta(max_length=200)]  # names are parts of titles, labels and file names
NodeId = Annotated[str, Meta(max_length=2000)]
Text = Annotated[str, Meta(max_length=100_000)]
Size = Annotated[int, Meta(ge=1, le=2**40)]
Count = Annotated[int, Meta(ge=0, le=2**62)]
Rounds = Annotated[int, Meta(ge=1, le=10**7)]
Number = Annotated[float, Meta(ge=0, le=1e30)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
TensorName = Literal["out", "dq", "dk", "dv"]
TensorErrors = dict[TensorName, Number]
SignedSeconds = Annotated[float, Meta(ge=-1e9, le=1e9)]  # the launch overhead is subtracted


class Cell(Struct, kw_only=True):
    """The fields that every cell has, timed or not."""

    mask: Name
    backend: Name
    direction: Phase
    seq_len: Size
    batch: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    dtype: Name
    q_len: Size | UnsetType = UNSET  # of the last queries; missing where it is seq_len
    v_head_dim: Size | UnsetType = UNSET  # missing where it is head_dim


class UntimedCell(Cell, kw_only=True):
    fullname: NodeId  # pytest's node id
    outcome: Outcome
    reason: Text  # why the cell was not timed


class TimedCell(Cell, kw_only=True):
    """The `extra_info` of a timed cell."""

    # What was computed.
    form: Text | None = None  # how it was computed, in words
    formulation: Text | None = None  # an identifier of the same; None where the cell has no form
    area: Count | UnsetType = UNSET  # attended pairs
    density: Number | UnsetType = UNSET  # share of all pairs
    block_density: Number | UnsetType = UNSET  # share of the blocks of 128 x 128
    flops: Number | UnsetType = UNSET
    tflops: Number | UnsetType = UNSET
    bytes: Number | UnsetType = UNSET  # the fewest that a call can move
    gb_per_s: Number | UnsetType = UNSET
    # How well it agrees with the reference.
    error: Number | UnsetType = UNSET
    error_bound: Number | UnsetType = UNSET
    error_of: Name | UnsetType = UNSET  # the tensor with that error
    checked: Name | UnsetType = UNSET
    errors: TensorErrors | UnsetType = UNSET  # of each tensor
    error_bounds: TensorErrors | UnsetType = UNSET
    dense_errors: TensorErrors | UnsetType = UNSET  # of dense attention in the same data type
    # How precise the time is.
    interval: Number | None = None  # half-width of the median's 95 % confidence interval, relative
    two_modes: bool | None = None
    two_modes_by_clock: bool | UnsetType = UNSET
    cycles: Number | UnsetType | None = UNSET  # SM cycles of a call, median
    cycles_interval: Number | UnsetType | None = UNSET  # as `interval`
    host_us: Number | UnsetType = UNSET  # host time of a call
    host_bound: bool
    late_rounds: Count  # in which the device waited for the host
    throttle: list[Name]
    call_clock_mhz: Number | UnsetType | None = UNSET
    spin_clock_mhz: Number | UnsetType | None = UNSET
    sm_clock_mhz: list[Number | None] | UnsetType | None = UNSET
    peak_memory_bytes: Count | UnsetType | None = UNSET
    # What the device can do, measured in the same process.
    gemm_tflops: Number | UnsetType = UNSET  # of a large matrix product in the cell's data type
    copy_gb_per_s: Number | UnsetType = UNSET  # read and written by a large copy
    # Only with --cuda-graphs.
    graph_median_s: Seconds | UnsetType = UNSET  # device time of a replay
    graph_host_s: Seconds | UnsetType = UNSET  # host time to launch a replay
    graph_reason: Text | UnsetType = UNSET  # why there is no graph
    # What the first call cost.
    first_call_s: Seconds | UnsetType = UNSET
    cache: Name | UnsetType = UNSET  # of a compilation: "cold" or "warm"
    # Only in soak cells.
    soak_launches: Count | UnsetType = UNSET
    soak_distinct: Count | UnsetType = UNSET  # gradients that differ in at least one bit
    soak_worst_difference: Number | UnsetType = UNSET  # of a launch from the first, relative
    deterministic: bool | UnsetType = UNSET  # whether all launches gave the same bits
    # Only in fidelity cells, which are also timed under the profiler.
    events_s: SignedSeconds | UnsetType = UNSET
    cupti_s: Seconds | UnsetType = UNSET
    watched_cycles: Number | UnsetType = UNSET
    watched_launch_s: SignedSeconds | UnsetType = UNSET


def require_readable(fields: object) -> None:
    """Check the `extra_info` of a timed cell, as the file will have it, as a reader will.

    Raises
    ------
    ValueError
        If the reports would refuse the file for one of the fields.
    """
    try:
        msgspec.convert(fields, TimedCell)
    except msgspec.ValidationError as error:
        raise ValueError(f"a measured field is invalid: {error}") from error


class Stats(Struct):
    """pytest-benchmark's statistics of the rounds, in seconds."""

    median: SignedSeconds
    min: SignedSeconds
    iqr: Seconds
    rounds: Rounds
    data: Raw | UnsetType = UNSET  # of each round; decoded only once their number is known


class Options(Struct):
    timer: Name


class Benchmark(Struct):
    fullname: NodeId
    extra_info: TimedCell
    stats: Stats
    options: Options


class Suite(Struct, kw_only=True):
    """The block "maskbench" of a saved file."""

    format: int
    untimed: list[UntimedCell]
    seconds: dict[str, Seconds] | None = None  # by stage, and "total"
    jobs: Count | None = None  # compiling processes
    shared_device: bool = False  # another run used it at the same time
    launch_us: float | None = None  # launch overhead that was subtracted
    slower: Text | None = None  # how the code was made slower on purpose
    planned: Count | None = None  # cells that the run was to have
    not_run: list[NodeId] = []  # cells that have neither a time nor an outcome
    interrupted: Text | None = None  # why the run ended early
    pieces: Count = 1  # processes, one after another, in which the run was made


class Cpu(Struct):
    brand_raw: Name | None = None


class Machine(Struct, kw_only=True):
    device: Name | None = None
    gpu: Name | None = None
    gpu_uuid: Name | None = None
    gpu_count: Count | None = None
    compute_capability: Name | None = None
    gpu_memory_bytes: Count | None = None
    power_limit_w: Number | None = None
    driver: Name | None = None
    torch_threads: Count | None = None
    cpu: Cpu | None = None


class Software(Struct, kw_only=True):
    torch: Name
    cuda: Name | None = None
    cudnn: Count | Name | None = None
    triton: Name | None = None
    xformers: Name | None = None
    flash_attn: Name | None = None
    flash_attn_4: Name | None = None


class RunFile(Struct):
    """A whole saved file."""

    datetime: Name
    machine_info: Machine
    commit_info: Software
    benchmarks: list[Benchmark]
    maskbench: Suite


class FileHead(Struct):
    """What tells a saved run from other JSON, and its format."""

    benchmarks: Raw | UnsetType = UNSET
    maskbench: Raw | UnsetType = UNSET
    verdict: Raw | UnsetType = UNSET  # compare, history and gate write it


class FormatHead(Struct):
    format: int | str | float | None = None


class DateHead(Struct):
    datetime: Name
