"""Clocks, their calibration, and the statistics of timed rounds."""
