"""Tests whether the times of a night differ from a baseline.

The shift of a cell is the mean of the night's runs less the mean of the baseline. Its error comes
from the noise between processes and the noise between nights. The noise of a cell is shrunk to that
of the median cell (the moderated t statistic of Smyth 2004, https://doi.org/10.2202/1544-6115.1027)
where the cells have similar noise, which is so on a GPU. Benjamini and Hochberg's procedure bounds
the false discovery rate over all cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import f, false_discovery_control, norm, t

from reports.baseline import CellHistory, Times, anchored
from reports.noise import MIN_NIGHTS, measure_noise
from reports.thresholds import (
    EFFECT,
    EFFECT_OF_ANOTHER_CARD,
    EFFECT_OF_ONE_RUN,
    EFFECT_OF_SHORT_BASELINE,
    EFFECT_OF_TWO_RUNS,
    MIN_CHANGE_S,
    NOISE_FLOOR,
    NOISE_FLOOR_SECONDS,
    SHORT_BASELINE,
)

PRIOR_DEGREES = 4  # of the median variance over all cells, on a GPU
FALSE_DISCOVERY_RATE = 0.05
MIN_RUNS = 3  # of a baseline
MIN_DEGREES = 4  # of a cell's own noise, for a baseline of fewer runs
NIGHTS_DIFFER = 0.05  # p value of more noise between nights than between processes
FOUND = 0.95  # share of nights in which a change of the detectable size is found


class Unit(NamedTuple):
    """What is compared: times without the clock, or seconds."""

    is_without_clock: bool
    uses_own_card: bool  # the baseline has only runs of the night's card, if there are enough


CODE = Unit(is_without_clock=True, uses_own_card=True)
CODE_ON_ALL_CARDS = Unit(is_without_clock=True, uses_own_card=False)
SECONDS = Unit(is_without_clock=False, uses_own_card=True)


def smallest_effect(new: int, baseline: int, is_known_card: bool) -> float:
    """The smallest relative change that this many runs can show."""
    effects = [EFFECT if new > 2 else EFFECT_OF_TWO_RUNS if new == 2 else EFFECT_OF_ONE_RUN]
    if not is_known_card:
        effects.append(EFFECT_OF_ANOTHER_CARD)
    if baseline < SHORT_BASELINE:
        effects.append(EFFECT_OF_SHORT_BASELINE)
    return max(effects)


def compare_levels(histories: list[CellHistory], unit: Unit) -> pd.DataFrame:
    """Each cell's shift from its baseline, and whether it is significant.

    Returns
    -------
    A row per cell that has a past, by name: `n` runs in the baseline, `nights` of it, `base_s` in
    seconds, `shift` of the logarithm, `noise` of one run, `error` of the shift, `p_slow` and
    `p_fast`, the flags `slow` and `fast`, and `detectable`, the relative slowdown that is found in
    95 % of nights. A cell with too short a baseline has no shift.
    """
    with_past = [history for history in histories if len(history.past)]
    cells: pd.DataFrame = pd.DataFrame([_noise_of(history, unit) for history in with_past])
    if cells.empty:
        return cells
    _shrink_noise(cells)
    found = [
        _shift_of(history, unit, noise, known)
        for history, noise, known in zip(
            with_past, cells["noise"], cells["is_known_card"], strict=True
        )
    ]
    tested: pd.DataFrame = cells.join(pd.DataFrame(found)).set_index("fullname")
    _find_changes(tested)
    return tested


def _past_of(history: CellHistory, unit: Unit) -> tuple[Times, np.ndarray, bool]:
    """The past runs to compare with, their acceptance flags, and if they are of the same card."""
    card = history.new.card[-1]
    same_card = history.past.card == card
    is_one_card = bool((history.new.card == card).all())
    known = is_one_card and int((same_card & history.accepted).sum()) >= MIN_RUNS
    if unit.uses_own_card and known:
        return history.past.where(same_card), history.accepted[same_card], True
    return history.past, history.accepted, is_one_card and bool(same_card.all())


def _exponent(history: CellHistory, unit: Unit) -> float:
    return history.exponent[0] if unit.is_without_clock else 0.0


def _plausible_shifts(
    history: CellHistory, unit: Unit, baseline: Times, shift: float
) -> tuple[float, float]:
    """The least and the greatest shift, over the exponents that the history allows."""
    if not unit.is_without_clock or not history.has_clock:
        return shift, shift
    exponent, error = history.exponent
    lowest, highest = max(0.0, exponent - 2 * error), min(1.0, exponent + 2 * error)
    change = float(history.new.log_clock.mean() - baseline.log_clock.mean())
    ends = [shift + (end - exponent) * change for end in (lowest, highest)]
    return min(ends), max(ends)


def _noise_of(history: CellHistory, unit: Unit) -> dict[str, object]:
    """The noise of one cell, from its past and from the differences within the night."""
    past, _, known = _past_of(history, unit)
    exponent = _exponent(history, unit)
    x, new = past.without_clock(exponent), history.new.without_clock(exponent)
    # Without a past of the night's card, its difference from other cards is a part of the noise. On
    # a CPU, nights differ by more than their processes.
    noise = measure_noise(x, past.night, may_have_steps=known and history.has_clock)
    squares = np.nansum([noise.process * noise.process_degrees, np.var(new) * len(new)])
    degrees = noise.process_degrees + len(new) - 1
    return {
        "fullname": history.name,
        "exponent": exponent,
        "is_known_card": known,
        "on_gpu": history.has_clock,
        "process": squares / degrees if degrees else np.nan,
        "process_degrees": degrees,
        "night": noise.night,
        "night_degrees": noise.night_degrees,
        "runs_per_night": len(past) / max(1, len(np.unique(past.night))),
        "own_degrees": noise.process_degrees + noise.night_degrees,
        "floor": NOISE_FLOOR if exponent else NOISE_FLOOR_SECONDS,
    }


def shrink(variance: pd.Series, degrees: pd.Series, on_gpu: pd.Series) -> pd.DataFrame:
    """The variances of cells on a GPU, shrunk to that of the median cell.

    Returns
    -------
    `variance`, NaN where nothing is known, and its `degrees` of freedom.
    """
    typical = variance[degrees > 0].median()
    prior = np.where(on_gpu & np.isfinite(typical), PRIOR_DEGREES, 0)
    total = degrees + prior
    pooled = prior * np.nan_to_num(typical) + degrees * variance.fillna(0)
    shrunk: pd.DataFrame = pd.DataFrame({"degrees": total})
    shrunk["variance"] = pooled / total.where(total > 0)
    return shrunk


def _shrink_noise(cells: pd.DataFrame) -> None:
    """Moderate the variances, and add `noise`, the standard deviation of one run."""
    for kind in ("process", "night"):
        shrunk = shrink(cells[kind], cells[f"{kind}_degrees"], cells["on_gpu"])
        cells[kind] = shrunk["variance"].clip(lower=cells["floor"] ** 2)
        cells[f"{kind}_degrees"] = shrunk["degrees"]
    cells["noise"] = np.sqrt(cells[["process", "night"]].max(axis=1))


def _shift_of(history: CellHistory, unit: Unit, noise: float, known: bool) -> dict[str, object]:
    """The shift of one cell from its baseline."""
    past, accepted, _ = _past_of(history, unit)
    exponent = _exponent(history, unit)
    since = past.where(accepted)
    none = {"n": 0, "nights": 0, "shift": np.nan, "base_s": np.nan, "runs": np.array([np.nan])}
    none |= {"effect": np.nan, "new_runs": len(history.new)}
    none |= {"plausible": (np.nan, np.nan)}
    if not len(since) or not np.isfinite(noise):
        return none
    x = since.without_clock(exponent)
    flags = anchored(x, noise)
    base, nights = x[flags].mean(), since.night[flags]
    runs = history.new.without_clock(exponent) - base
    effect = smallest_effect(len(runs), int(flags.sum()), known)
    return {
        "n": int(flags.sum()),
        "nights": len(np.unique(nights)),
        "shift": runs.mean(),
        "base_s": float(np.exp(since.log_s[flags].mean())),
        "runs": runs,
        "effect": effect,
        "new_runs": len(runs),
        "plausible": _plausible_shifts(history, unit, since.where(flags), float(runs.mean())),
    }


def _nights_differ(cells: pd.DataFrame) -> np.ndarray:
    """Whether the noise between nights is more than the noise of their processes explains.

    It is an F test. Without it, the noise between few nights would often seem larger by chance.
    """
    ratio = cells["night"] * cells["runs_per_night"] / cells["process"]
    p = f.sf(ratio, cells["night_degrees"], cells["process_degrees"])
    differ: np.ndarray = np.nan_to_num(p, nan=1.0) <= NIGHTS_DIFFER
    return differ


def _find_changes(cells: pd.DataFrame) -> None:
    """Add the error, p values, flags and the detectable change."""
    _add_error(cells)
    enough = (cells["n"] >= MIN_RUNS) | (cells["own_degrees"] >= MIN_DEGREES)
    known = cells["shift"].notna() & cells["error"].notna() & (cells["degrees"] > 0)
    tested = enough & known
    cells["shift"] = cells["shift"].where(tested)
    limits = np.maximum(cells["effect"], MIN_CHANGE_S / cells["base_s"])
    smallest = pd.Series(np.log1p(limits), cells.index)
    for name, sign in (("slow", 1), ("fast", -1)):
        ratio = sign * cells["shift"] / cells["error"]
        p = pd.Series(t.sf(ratio, cells["degrees"]), cells.index).where(tested)
        adjusted = pd.Series(np.nan, cells.index)
        if tested.any():
            adjusted[tested] = false_discovery_control(p[tested])
        each = [
            bool((sign * runs > small / 2).all() and min(sign * np.array(ends)) > small / 2)
            for runs, ends, small in zip(cells["runs"], cells["plausible"], smallest, strict=True)
        ]
        large = sign * cells["shift"] >= smallest
        cells[name] = (adjusted <= FALSE_DISCOVERY_RATE) & large & np.array(each)
        cells[f"p_{name}"] = p
    cells["detectable"] = _detectable(cells, smallest, int(tested.sum())).where(tested)


def _add_error(cells: pd.DataFrame) -> None:
    """Add `error`, the standard error of the shift, and its `degrees` of freedom."""
    n, nights = cells["n"].clip(lower=1), cells["nights"].clip(lower=1)
    process = cells["process"] * (1 / cells["new_runs"] + 1 / n)
    night = (cells["night"] * (1 + 1 / nights)).where(nights > 1)
    few_on_cpu = ~cells["on_gpu"] & (nights < MIN_NIGHTS)
    differ = _nights_differ(cells) | ~cells["is_known_card"] | few_on_cpu
    by_night = night.notna() & (process.isna() | differ)
    cells["error"] = np.sqrt(night.where(by_night, process))
    cells["degrees"] = cells["night_degrees"].where(by_night, cells["process_degrees"])


def _detectable(cells: pd.DataFrame, smallest: pd.Series, count: int) -> pd.Series:
    """The relative slowdown that is found in FOUND of nights, if `count` cells are tested."""
    critical = t.isf(FALSE_DISCOVERY_RATE / max(1, count), cells["degrees"])
    needed = np.maximum(critical * cells["error"], smallest)
    on_average = needed + norm.ppf(FOUND) * cells["error"]
    process = np.sqrt(cells["process"].fillna(0))
    in_each_run = smallest / 2 + norm.ppf(FOUND ** (1 / cells["new_runs"])) * process
    found: pd.Series = np.expm1(np.maximum(on_average, in_each_run))
    return found
