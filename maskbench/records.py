"""The schema of saved runs: every field that the suite writes and the reports read.

A saved run is pytest-benchmark's JSON. The suite adds fields to `machine_info`, `commit_info` and
each benchmark's `extra_info`, and a block named "maskbench". `read_run` checks a file and returns
it as a `SavedRun`, whichever format it has:

- Format 3, written now: `planned`, `not_run`, `interrupted` and `pieces` say whether it is whole.
- Format 2: each timed cell has `formulation`, an identifier of how it was computed.
- Format 1: `formulation` is derived from `form`, a text.
- Older files of format 1 also lack `interval` and `two_modes`. Their SM clock is in
  `spin_clock_mhz`, measured just before the calls, or in `sm_clock_mhz`, read from NVML.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, TypedDict, cast

from maskbench.legacy_formulations import legacy_formulation

FORMAT = 3  # of the files that are written
READABLE_FORMATS = (1, 2, 3)


class UnreadableRun(Exception):
    """A saved run that cannot be used. The message names the file and the reason, in one line."""


class TextEnum(str, Enum):
    """An enum whose members are, and print as, the strings in the saved files."""

    __str__ = str.__str__


class Phase(TextEnum):
    """What a cell times. Saved as `direction`."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BLOCK_MASK = "block_mask"
    VARIANT_FORWARD = "spelling_forward"
    VARIANT_BACKWARD = "spelling_backward"
    COMPILE_FORWARD = "compile_forward"
    COMPILE_BACKWARD = "compile_backward"
    FIDELITY_FORWARD = "fidelity_forward"
    FIDELITY_BACKWARD = "fidelity_backward"

    @property
    def needs_gradients(self) -> bool:
        return self.value.endswith("backward")

    @property
    def is_mask_mod_variant(self) -> bool:
        return self.value.startswith("spelling_")

    @property
    def is_fidelity(self) -> bool:
        return self.value.startswith("fidelity_")


class Outcome(TextEnum):
    """How a cell ended."""

    TIMED = "timed"
    SKIPPED = "skipped"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out of memory"
    FAILED = "failed"
    CRASHED = "crashed"  # its process died
    TIMED_OUT = "timed out"

    @property
    def is_failure(self) -> bool:
        """Whether the cell could run and did not end well."""
        return self in (Outcome.FAILED, Outcome.CRASHED, Outcome.TIMED_OUT)


class CellFields(TypedDict):
    """The fields that every cell has, timed or not."""

    fullname: str  # pytest's node id
    mask: str
    backend: str
    direction: Phase
    seq_len: int
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    outcome: Outcome
    reason: str  # why the cell was not timed; empty if it was


class CellRecord(CellFields, total=False):
    """A cell as it is read. Only timed cells have the fields below, and some lack a few of them."""

    # From pytest-benchmark's statistics.
    median_s: float
    min_s: float
    iqr_s: float
    rounds: int
    data: list[float]  # seconds of each round, if they were saved
    timer: str
    # What was computed.
    form: str  # how it was computed, in words
    formulation: str | None  # an identifier of the same; None where the cell has no form
    area: int  # attended pairs
    density: float  # share of all pairs
    block_density: float  # share of the blocks of 128 x 128
    flops: float
    tflops: float
    # How well it agrees with the reference.
    error: float
    error_bound: float
    error_of: str  # the tensor with that error
    checked: str
    # How precise the time is.
    interval: float  # half-width of the median's 95 % confidence interval, relative; 0 if unknown
    two_modes: bool
    two_modes_by_clock: bool
    cycles: float | None  # SM cycles of a call, median
    cycles_interval: float | None  # as `interval`
    host_us: float  # host time of a call
    host_bound: bool
    late_rounds: int  # in which the device waited for the host
    throttle: list[str]
    clock_mhz: float  # SM clock, from the most exact of the three below; NaN if unknown
    call_clock_mhz: float | None
    spin_clock_mhz: float | None
    sm_clock_mhz: list[int | None]
    peak_memory_bytes: int | None
    # What the first call cost.
    first_call_s: float
    cache: str  # of a compilation: "cold" or "warm"
    # Only in fidelity cells, which are also timed under the profiler.
    events_s: float
    cupti_s: float
    watched_cycles: float
    watched_launch_s: float


class SuiteRecord(TypedDict, total=False):
    """The block "maskbench" of a saved file."""

    format: int
    untimed: list[dict[str, Any]]  # a cell each, with its outcome and reason
    seconds: dict[str, float]  # by stage, and "total"
    jobs: int  # compiling processes
    launch_us: float  # launch overhead that was subtracted
    slower: str  # how the code was made slower on purpose
    planned: int  # cells that the run was to have
    not_run: list[str]  # node ids of those without a time or an outcome
    interrupted: str | None  # why the run ended early
    pieces: int  # processes, one after another, in which the run was made
    shared_device: bool  # whether another run used the device at the same time


@dataclass(frozen=True)
class SavedRun:
    """One saved file, checked."""

    path: Path
    saved: str  # ISO date and time
    torch: str
    device: str  # the GPU's name, or the CPU with its number of threads
    machine_info: dict[str, Any]
    commit_info: dict[str, Any]
    suite: SuiteRecord
    cells: list[CellRecord]  # timed ones first

    @property
    def timed(self) -> list[CellRecord]:
        return [cell for cell in self.cells if cell["outcome"] is Outcome.TIMED]


def read_run(path: Path) -> SavedRun:
    """Read one saved file. A file whose name ends in .gz is decompressed.

    Raises
    ------
    UnreadableRun
        If the file cannot be read, was not saved by this suite, or lacks fields.
    """
    run = _read_json(path)
    try:
        machine, commit = run["machine_info"], run["commit_info"]
        return SavedRun(
            path=path,
            saved=datetime.fromisoformat(run["datetime"]).isoformat(),
            torch=str(commit["torch"]),
            device=machine.get("gpu") or f"CPU, {machine.get('torch_threads')} threads",
            machine_info=machine,
            commit_info=commit,
            suite=run["maskbench"],
            cells=[
                *(_validated(_timed_fields(bench), path) for bench in run["benchmarks"]),
                *(_validated(dict(cell), path) for cell in run["maskbench"]["untimed"]),
            ],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableRun(f"{path}: is not as this suite saves runs ({error!r})") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The file's JSON, if this suite saved it in a format that can be read."""
    try:
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UnreadableRun(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not text.strip():
        raise UnreadableRun(f"{path}: is empty; was the run that saved it cut off?")
    try:
        run = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableRun(
            f"{path}: is not JSON or is truncated (line {error.lineno}: {error.msg})"
        ) from error
    if not isinstance(run, dict) or not isinstance(run.get("benchmarks"), list):
        raise UnreadableRun(f"{path}: is JSON, but not saved by pytest-benchmark")
    if "maskbench" not in run:
        raise UnreadableRun(f"{path}: is saved by pytest-benchmark, but not from this suite")
    if not isinstance(run["maskbench"], dict):
        raise UnreadableRun(f"{path}: is not as this suite saves runs")
    if (number := run["maskbench"].get("format")) not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise UnreadableRun(f"{path}: has format {number}; this version reads formats {known}")
    return run


def _timed_fields(bench: dict[str, Any]) -> dict[str, Any]:
    """The fields of a timed cell, whichever format it was saved in."""
    extra, stats = bench["extra_info"], bench["stats"]
    fields = {
        **extra,
        "fullname": bench["fullname"],
        "outcome": Outcome.TIMED,
        "reason": "",
        **{f"{name}_s": stats[name] for name in ("median", "min", "iqr")},
        "rounds": stats["rounds"],
        "timer": bench["options"]["timer"],
        "formulation": extra.get("formulation"),
        "interval": float(extra.get("interval") or 0.0),
        "two_modes": bool(extra.get("two_modes")),
        "clock_mhz": _clock_mhz(extra),
    }
    if fields["formulation"] is None and "form" in extra:
        fields["formulation"] = legacy_formulation(extra["form"])
    if "data" in stats:
        fields["data"] = stats["data"]
    return fields


def _clock_mhz(extra: dict[str, Any]) -> float:
    for name in ("call_clock_mhz", "spin_clock_mhz"):
        if extra.get(name):
            return float(extra[name])
    readings = [mhz for mhz in extra.get("sm_clock_mhz") or () if mhz]
    return sum(readings) / len(readings) if readings else math.nan


_TEXT = ("fullname", "mask", "backend", "dtype", "reason")
_COUNTS = ("seq_len", "batch", "heads", "kv_heads", "head_dim")
_MEASURED = ("median_s", "rounds", "host_bound", "late_rounds", "throttle")


def _validated(fields: dict[str, Any], path: Path) -> CellRecord:
    """`fields` with enums for `direction` and `outcome`, if all that the reports read is there."""
    outcome = Outcome(fields["outcome"])
    measured = _MEASURED if outcome is Outcome.TIMED else ()
    if lacking := {*_TEXT, *_COUNTS, *measured, "direction"} - fields.keys():
        raise UnreadableRun(f"{path}: has cells without {', '.join(sorted(lacking))}")
    for names, kind in ((_TEXT, str), (_COUNTS, int)):
        for name in names:
            if not isinstance(fields[name], kind):
                raise TypeError(f"{name} is {fields[name]!r}")
    if outcome is Outcome.TIMED and not 0 < fields["median_s"] < math.inf:
        raise UnreadableRun(f"{path}: {fields['fullname']} has no time above 0")
    fields |= {"outcome": outcome, "direction": Phase(fields["direction"])}
    return cast(CellRecord, fields)
