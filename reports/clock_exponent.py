"""Takes the SM clock out of a cell's times.

The number of SM cycles of a kernel that computes hardly depends on the clock: log t + log clock is
constant. The time of a kernel that waits for memory does not follow the SM clock: log t is
constant. `log t + exponent * log clock` covers both and what is between them.
"""

from __future__ import annotations

import numpy as np

PRIOR_SD = 0.3  # of the exponent around 1, before a history is seen
UNKNOWN_SD = 0.5  # error of the exponent before a history is seen: it may be 0 or 1
RUN_SD = 0.003  # of log t between runs at one clock; larger differences are not the clock's
MAX_DIFFERENCE = 0.03  # of log t; larger ones are steps of the code and do not count


def clock_exponent(log_s: np.ndarray, log_clock: np.ndarray) -> tuple[float, float]:
    """The exponent of the clock in a cell's time, from 0 (memory) to 1 (SM cycles), and its error.

    The error is large while the clock has hardly moved.

    It is the ridge regression of the differences between successive runs, which a step of the
    level changes once only, towards 1.

    Parameters
    ----------
    log_s, log_clock
        Logarithms of the times in seconds and of the clocks, of one run each, oldest first.
    """
    time, clock = np.diff(log_s), np.diff(log_clock)
    usual = np.abs(time) < MAX_DIFFERENCE
    precision = 1 / (2 * RUN_SD**2)  # of a difference of two runs
    slope = 1 / PRIOR_SD**2 - precision * np.sum(time[usual] * clock[usual])
    weight = 1 / PRIOR_SD**2 + precision * np.sum(np.square(clock[usual]))
    known = weight - 1 / PRIOR_SD**2
    return float(np.clip(slope / weight, 0, 1)), float(1 / np.sqrt(1 / UNKNOWN_SD**2 + known))
