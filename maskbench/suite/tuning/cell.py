"""A cell that searches FlexAttention's fastest options, saves them, and times them."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import torch

from maskbench.records import Outcome
from maskbench.suite.attention_call import CheckedCall, discard_changed_inputs
from maskbench.suite.cell import Cell, known_skip_reason
from maskbench.suite.device_errors import device_is_lost
from maskbench.suite.device_name import device_name
from maskbench.suite.error_text import describe_error
from maskbench.suite.software import package_version
from maskbench.suite.stages import stage_timer
from maskbench.suite.tuned import (
    BACKEND,
    existing_file,
    mask_digest,
    problem_of,
    write_found_options,
)
from maskbench.suite.tuning.final_comparison import (
    CheckedCandidate,
    ComparisonResult,
    FinalComparison,
)
from maskbench.suite.tuning.results import LINES
from maskbench.suite.tuning.searches import Search, Searches, why_default_failed
from maskbench.suite.unchanged import Unchanged
from maskbench.suite.workload import CheckedInputs, cached_inputs
from maskbench.tuned_options import (
    DEFAULT_OPTIONS,
    MAX_TEXT,
    Dropped,
    Timed,
    TunedEntry,
)


def tune(cell: Cell, searches: Searches) -> None:
    """Search the options of a cell, write them to their file, and time the fastest ones.

    A cell whose file was written by this torch on this GPU is skipped, so that an interrupted
    search goes on where it was.
    """
    workload = cell.workload
    if reason := known_skip_reason(workload, BACKEND, backend_named=True):
        cell.status.skip(Outcome.SKIPPED, reason)
    if path := existing_file(workload):
        reason = f"{path} has what this torch found on this device; delete it to search again"
        cell.status.skip(Outcome.SKIPPED, reason)
    cell.status.run_guarding_oom(lambda: _tune(cell, searches))


def _tune(cell: Cell, searches: Searches) -> None:
    searches.begin(cell.workload)
    with searches.exclusive():  # the reference and the warm-up keep the GPU busy
        with stage_timer("check"):
            checked = cached_inputs(cell.workload)
        if not cell.clock.warm:
            with stage_timer("warm up"):
                cell.clock.warm_up()
    try:
        _search_and_time(cell, searches, checked)
    except BaseException:
        discard_changed_inputs(checked)  # the next cell needs the right ones
        raise


def _search_and_time(cell: Cell, searches: Searches, checked: CheckedInputs) -> None:
    start = time.perf_counter()
    with stage_timer("compile ahead"):
        search = searches.finish(cell.workload)
    if (reason := why_default_failed(search)) is not None:
        cell.status.skip(Outcome.UNSUPPORTED, f"the default options cannot run: {reason}")
    comparison = FinalComparison(
        search.mask, checked, cell.clock, searches.paused, lambda: searches.advance(0)
    )
    result = _compare(comparison, search, searches)
    entry = _entry(cell, search, comparison, result, time.perf_counter() - start)
    write_found_options(entry)
    cell.config.stash[LINES].append(f"{entry.problem}: {describe(entry)}")
    _time(cell, comparison, result.fastest)


def _compare(comparison: FinalComparison, search: Search, searches: Searches) -> ComparisonResult:
    """Compile, check and time the fastest options.

    The workers screen other problems during compilation.
    """
    torch.compiler.reset()
    with stage_timer("compile"):
        default = comparison.compile_and_check(DEFAULT_OPTIONS)
        comparison.feed_workers()
        candidates = comparison.compile_and_check_all(search.ranking or [])
        autotuned = _compile_autotuned(comparison, search)
        comparison.feed_workers()
    with stage_timer("time"):
        return comparison.time_all(default, candidates, autotuned)


def _compile_autotuned(comparison: FinalComparison, search: Search) -> CheckedCandidate | None:
    """torch's own search, which a worker has compiled."""
    if search.autotune_problem is not None:
        return None
    try:
        return comparison.compile_and_check(None)
    except Exception as error:  # of torch, Triton or the check
        if device_is_lost(comparison.checked.inputs.q.device.type):
            raise
        search.autotune_problem = describe_error(error)
        return None


def _entry(
    cell: Cell,
    search: Search,
    comparison: FinalComparison,
    result: ComparisonResult,
    search_s: float,
) -> TunedEntry:
    return TunedEntry(
        problem=problem_of(cell.workload),
        gpu=device_name(cell.workload.device),
        torch=str(torch.__version__),
        triton=package_version("triton"),
        saved=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        default_s=result.default_s,
        found=result.found,
        max_autotune_gain=result.autotune.value if result.autotune else None,
        max_autotune_interval=result.autotune.interval if result.autotune else None,
        max_autotune_problem=search.autotune_problem,
        tried=len(search.times) + len(search.dropped),
        search_s=search_s,
        compile_s=search.worker_s,
        dropped=[
            Dropped(dropped.options, dropped.reason[:MAX_TEXT])
            for dropped in (*search.dropped, *comparison.dropped)
        ],
        screening=[
            Timed(str(options), seconds)
            for options, seconds in sorted(search.times.items(), key=lambda item: item[1])
        ],
        mask_digest=mask_digest(search.mask, cell.workload.device),
    )


def describe(entry: TunedEntry) -> str:
    """The result in a few words."""
    speedup = entry.max_autotune_speedup(entry.found[0] if entry.found else None)
    faster = f"; torch's max-autotune is {speedup:.3f} times as fast as that" if speedup else ""
    if not entry.found:
        return f"the default is best{faster}"
    best = entry.found[0]
    return f"{best.gain:.3f} times as fast as the default with {best.options}{faster}"


def _time(cell: Cell, comparison: FinalComparison, fastest: CheckedCandidate) -> None:
    """Time the fastest candidate as any other cell."""
    watched = Unchanged(comparison.checked.originals.without_aliases(fastest.timed.tensors))
    call = CheckedCall(fastest.call, fastest.timed, comparison.checked, watched)
    cell.benchmark.extra_info |= cell.metadata(fastest.call, fastest.comparison)
    with comparison.paused():
        cell.benchmark.extra_info |= cell.time(call)
