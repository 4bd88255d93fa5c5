"""Steps in a history: where the level of a cell's time changed and stayed changed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import ruptures

CONFIRMED = 3  # runs that a level holds for
STEP, NOTE = 0.05, 0.02  # a step that counts, and one that is mentioned
FLOOR = 0.005  # of the noise


def noise_of(xs: np.ndarray) -> float:
    """Standard deviation of a level, from successive differences, which a step hardly touches."""
    return 1.4826 * float(np.median(np.abs(np.diff(xs)))) / np.sqrt(2)


def steps(xs: np.ndarray, least: float) -> list[int]:
    """Indices at which logarithms of times step by `least` or more, for CONFIRMED runs or more.

    By PELT (ruptures, https://centre-borelli.github.io/ruptures-docs) with a penalty of 3 log(n)
    variances.
    """
    if len(xs) < 2 * CONFIRMED:
        return []
    noise = max(noise_of(xs), FLOOR)
    search = ruptures.Pelt(model="l2", min_size=CONFIRMED, jump=1).fit(np.asarray(xs, float))
    edges = [0, *search.predict(pen=3 * np.log(len(xs)) * noise**2)]
    levels = [np.median(xs[a:b]) for a, b in pairwise(edges)]
    jumps = np.abs(np.diff(levels))
    return [edge for edge, jump in zip(edges[1:-1], jumps, strict=True) if jump >= np.log1p(least)]
