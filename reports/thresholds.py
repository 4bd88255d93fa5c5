"""Thresholds that several reports share. Noise is the standard deviation of log(median)."""

MIN_RELATIVE_CHANGE = 0.05  # smaller changes are ignored
MIN_CHANGE_S = 1e-6  # and so are changes of less time
NOISE_FLOOR = 0.005  # a smaller estimate of the noise between runs is not believed
NORMAL_95 = 1.96  # standard errors on each side of a 95 % confidence interval
STEP = 0.05  # relative change of a level that counts
NOTE = 0.02  # relative change of a level that is mentioned
