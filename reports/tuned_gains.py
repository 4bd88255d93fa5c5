"""How much faster `flex_tuned` is than `flex`, and how far it is from the fastest other backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from maskbench.reading import read_run
from maskbench.records import UnreadableRun
from reports.drawing import attention_cells, load_by_shape
from reports.ranking import PROBLEM, Measure, column, rank_cells
from reports.runs import DIRECTIONS, most_frequent_reason
from reports.tuned_forms import TUNED, found_elsewhere, options_kind

FLEX = "flex"
FLASH_PEER = "flex_flash"  # the backend that always uses BACKEND="FLASH"
SLOWER_ABOVE = 0.01  # a cell that takes longer by more is named
SEARCH = (
    "search the options with `python -m pytest -m tune tests/test_tune.py`, then time "
    f"`--backends {FLEX},{TUNED}`, or all backends"
)


def load_by_setup(paths: list[Path]) -> list[pd.DataFrame]:
    """The attention cells of each GPU, version of torch and shape that has cells of `flex_tuned`.

    The files of one GPU and torch are the parts of one run.

    Raises
    ------
    UnreadableRun
        If a file cannot be used, or no cell of `flex_tuned` was timed.
    """
    setups: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        run = read_run(path)
        setups.setdefault((run.device, run.torch), []).append(path)
    shapes = [
        attention_cells(cells)
        for files in setups.values()
        for cells, _ in load_by_shape(files, Path(), None)
    ]
    of_tuned = pd.concat([cells[cells["backend"] == TUNED] for cells in shapes])
    if not of_tuned["is_timed"].any():
        lacks = "has no cell of" if of_tuned.empty else "has no timed cell of"
        reason = most_frequent_reason(of_tuned.to_dict("records"))
        names = ", ".join(map(str, paths))
        raise UnreadableRun(f"{names}: {lacks} {TUNED}{reason}; {SEARCH}")
    return [cells for cells in shapes if (cells["backend"] == TUNED).any()]


def compare_tuned(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each problem with a time of `flex_tuned`, in the order of the ranking.

    Parameters
    ----------
    cells : DataFrame
        Rows of `load_by_setup`: attention cells of one GPU, version of torch and shape.

    Returns
    -------
    DataFrame
        `device`, `torch`, the columns of `reports.ranking.PROBLEM`, and these:

        - `options`: what `flex_tuned` replays, of `options_kind`, and `found_elsewhere`
        - `flex_s`, `tuned_s`, `peer_s`: the device times of `flex`, of `flex_tuned` and of the
          fastest other backend, in seconds, and `fastest_peer`, its name. NaN and "" if there is
          none
        - `flex_is_noisy`, `tuned_is_noisy`, `peer_is_noisy`: whether these are noisy
        - `gain`: `flex_s` / `tuned_s`
        - `gain_in_cycles`: the same in SM cycles; NaN if they were not measured
        - `gain_interval`: the half-width of the 95 % confidence interval of `gain`, relative to it
        - `over_peer`: `tuned_s` / `peer_s`
        - `standing`: of `standings`

    Notes
    -----
    The two times of a ratio are independent. So its relative half-width is the square root of the
    sum of the squares of theirs, to first order. It does not include what differs from process to
    process.
    """
    ranked = rank_cells(cells, Measure.DEVICE)
    tuned = ranked[ranked["backend"] == TUNED].reset_index(drop=True)
    flex = _of_same_problems(ranked[ranked["backend"] == FLEX], tuned)
    is_peer = ~ranked["backend"].isin([FLEX, TUNED])
    peer = _of_same_problems(ranked[is_peer].drop_duplicates(PROBLEM), tuned)  # the fastest
    gains: pd.DataFrame = tuned[["device", "torch", *PROBLEM]].assign(
        options=tuned["formulation"].map(options_kind),
        found_elsewhere=tuned["form"].map(found_elsewhere),
        flex_s=flex["seconds"],
        flex_is_noisy=flex["is_noisy"].eq(True),
        tuned_s=tuned["seconds"],
        tuned_is_noisy=tuned["is_noisy"],
        gain=flex["seconds"] / tuned["seconds"],
        gain_interval=np.hypot(flex["interval"], tuned["interval"]),
        gain_in_cycles=column(flex, "cycles") / column(tuned, "cycles"),
        fastest_peer=peer["backend"].fillna(""),
        peer_s=peer["seconds"],
        peer_is_noisy=peer["is_noisy"].eq(True),
        over_peer=tuned["seconds"] / peer["seconds"],
        standing=standings(tuned, peer),
    )
    return gains


def _of_same_problems(cells: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """The cell of each problem of `tuned`, with its index; a row of NaN where there is none."""
    problems = pd.MultiIndex.from_frame(tuned[PROBLEM])
    found: pd.DataFrame = cells.set_index(PROBLEM).reindex(problems).set_index(tuned.index)
    return found


def standings(tuned: pd.DataFrame, peer: pd.DataFrame) -> pd.Series:
    """Whether `flex_tuned` is "ahead" of the peer, "behind", or in a "tie"; "" without a peer.

    It is a tie if the 95 % confidence intervals of the two times overlap. It is "same kernel" if
    both call FlashAttention-4's kernel through FlexAttention: then only the SM clock differs.
    """
    lowest, highest = (
        pd.concat(
            [cells["seconds"] * (1 + sign * cells["interval"]) for cells in (tuned, peer)], axis=1
        )
        for sign in (-1, 1)
    )
    overlap = lowest.max(axis=1) <= highest.min(axis=1)
    by_time = np.where(tuned["seconds"] < peer["seconds"], "ahead", "behind")
    # The peer then always uses the kernel that `flex_tuned` replays.
    is_same = (tuned["formulation"].map(options_kind) == "FLASH") & (peer["backend"] == FLASH_PEER)
    standing = pd.Series(by_time, tuned.index).mask(overlap, "tie").mask(is_same, "same kernel")
    result: pd.Series = standing.where(peer["seconds"].notna(), "")
    return result


def slower_cells(gains: pd.DataFrame) -> pd.DataFrame:
    """The rows in which `flex_tuned` takes longer than `flex` by more than `SLOWER_ABOVE`."""
    slower: pd.DataFrame = gains[1 / gains["gain"] > 1 + SLOWER_ABOVE]
    return slower


def untimed_note(cells: pd.DataFrame) -> str | None:
    """How many cells of `flex_tuned` have no time, with the most frequent reason."""
    of_tuned = cells[(cells["backend"] == TUNED) & cells["direction"].isin(DIRECTIONS)]
    untimed = of_tuned[~of_tuned["is_timed"]]
    if untimed.empty:
        return None
    reason = most_frequent_reason(untimed.to_dict("records"))
    return f"{TUNED} has no time for {len(untimed)} of {len(of_tuned)} problems{reason}."
