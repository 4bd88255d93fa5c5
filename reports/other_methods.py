"""Other ways to find slower cells, for the comparison with the gate in docs/regressions.md.

Each takes one cell's medians in seconds, oldest first, and those of the night, and says whether the
night is slower. asv and otava are not in requirements.txt, since only this comparison needs them:
`pip install asv` and `pip install --no-deps apache-otava`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy.stats import mannwhitneyu

from maskbench.records import UnreadableRun

THRESHOLD = 0.05
ALPHA = 0.05  # of Mann and Whitney's test


def require_packages() -> None:
    """Raises UnreadableRun if asv or otava is missing."""
    if missing := [name for name in ("asv", "otava") if find_spec(name) is None]:
        raise UnreadableRun(
            f"{' and '.join(missing)}: not installed; the comparison needs `pip install asv` and"
            " `pip install --no-deps apache-otava`"
        )


def compare_fail(past: np.ndarray, night: np.ndarray) -> bool:
    """pytest-benchmark's `--benchmark-compare-fail=median:5%`: the last run and the one before."""
    return bool(night[-1] > (1 + THRESHOLD) * past[-1])


def fixed_threshold(past: np.ndarray, night: np.ndarray) -> bool:
    """The mean of the night is 5 % over the mean of the past."""
    return bool(night.mean() > (1 + THRESHOLD) * past.mean())


def asv(past: np.ndarray, night: np.ndarray) -> bool:
    """asv's step detection with its default threshold of 5 %: a regression into the night."""
    from asv.step_detect import detect_regressions, detect_steps

    steps = detect_steps([*past, *night])
    found = detect_regressions(steps, threshold=THRESHOLD)[2] or []
    return any(after is not None and after >= len(past) for _, after, *_ in found)


def otava(past: np.ndarray, night: np.ndarray) -> bool:
    """otava with its default options: a change point upwards in the night."""
    from otava.analysis import compute_change_points

    found, _ = compute_change_points([*past, *night])
    return any(point.index >= len(past) and point.stats.forward_rel_change() > 0 for point in found)


def mann_whitney(past_rounds: np.ndarray, night_rounds: np.ndarray) -> bool:
    """Mann and Whitney's test of the rounds of the last run against those of the run before."""
    p = mannwhitneyu(night_rounds, past_rounds, alternative="greater").pvalue
    return bool(p < ALPHA)


ON_MEDIANS: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "pytest-benchmark, compare-fail=median:5%": compare_fail,
    "fixed threshold of 5 %": fixed_threshold,
    "asv, 5 %": asv,
    "otava, default options": otava,
}
