"""Thresholds that several reports share. Noise is a standard deviation of log t."""

MIN_CHANGE_S = 1e-6  # smaller changes in seconds are ignored, however large they are relatively
NOISE_FLOOR = 0.002  # smaller estimates of the noise between runs are raised to this
NOISE_FLOOR_SECONDS = 0.003  # the same where the clock cannot be taken out of the times
NORMAL_95 = 1.96  # standard errors on each side of a 95 % confidence interval
SD_OVER_MAD = 1.4826  # standard deviation over median absolute deviation, of a normal distribution

# The smallest relative change that is called a change. In A/A runs on H100 cards, 1 % gave false
# alarms and 1.5 % none (docs/regressions.md).
EFFECT = 0.015
EFFECT_OF_TWO_RUNS = 0.02
EFFECT_OF_ONE_RUN = 0.05  # a single process was off by 4 % in one of 1300 cells of 16384 tokens
EFFECT_OF_ANOTHER_CARD = 0.03  # cards of one model differ by up to 1 %
EFFECT_OF_SHORT_BASELINE = 0.03
SHORT_BASELINE = 3  # runs; one of two can be unusual
