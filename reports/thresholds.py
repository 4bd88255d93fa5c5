"""Thresholds that several reports share. Noise is the standard deviation of log(median)."""

MIN_RELATIVE_CHANGE = 0.05  # smaller relative changes are ignored
MIN_CHANGE_S = 1e-6  # smaller changes in seconds are ignored, too
NOISE_FLOOR = 0.005  # smaller estimates of the noise between runs are raised to this
NORMAL_95 = 1.96  # standard errors on each side of a 95 % confidence interval
STEP = 0.05  # smallest relative change of a level that is a step
NOTE = 0.02  # smallest relative change of a level that is noted
