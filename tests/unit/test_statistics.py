"""Statistics of rounds, the number of rounds, and the SM clock from stamps."""

import statistics

import numpy as np
import pytest

from maskbench.timing.runner import PILOT_ROUNDS
from maskbench.timing.statistics import (
    MAX_ROUNDS,
    TARGET_CI,
    TYPICAL_ROUNDS,
    cycle_statistics,
    is_bimodal,
    relative_median_ci,
    required_rounds,
    sm_clock_per_round,
)
from tests.unit.fake_gpu import make_stamps


def test_interval_of_equal_times_is_zero():
    assert relative_median_ci([0.25] * 10) == 0.0


def test_interval_contains_the_median_in_95_percent():
    rng, hits, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        sample = list(rng.lognormal(0, 0.1, 40))
        half_width = relative_median_ci(sample) * statistics.median(sample)
        hits += abs(statistics.median(sample) - 1.0) <= half_width
    assert 0.92 < hits / runs < 0.99


def test_interval_of_few_rounds_is_half_the_range():
    assert relative_median_ci([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_two_modes_are_distinguished_from_noise():
    rng = np.random.default_rng(0)
    for rounds in (20, 60, 400):
        noise = [1 + 0.02 * rng.standard_normal(rounds) for _ in range(200)]
        assert sum(is_bimodal(list(times)) for times in noise) <= 4
        two_modes = [
            np.where(np.arange(rounds) % 3 == 0, 1.03, 1.0) * (1 + 0.1 * (t - 1)) for t in noise
        ]
        assert sum(is_bimodal(list(times)) for times in two_modes) >= 190
    assert not is_bimodal([1.0] * 30)
    assert not is_bimodal([1.0] * 29 + [2.0]), "a single late round is not a mode"
    assert not is_bimodal([1.0, 2.0, 1.0, 2.0]), "too few rounds to tell"


def test_equal_times_get_the_typical_rounds():
    assert required_rounds([1e-3] * 10, 2e-3, 6, 1.0) == TYPICAL_ROUNDS


def test_rounds_grow_with_the_noise_up_to_the_limits():
    rng = np.random.default_rng(0)
    quiet, noisy = (list(1e-3 * (1 + s * rng.standard_normal(10))) for s in (0.01, 0.03))
    few = required_rounds(quiet, 1e-5, 6, 10.0)
    many = required_rounds(noisy, 1e-5, 6, 10.0)
    assert TYPICAL_ROUNDS < few < many
    assert required_rounds(noisy, 0.1, 6, 1.0) == 10, "a second holds ten rounds of 0.1 s"
    assert required_rounds(noisy, 5.0, 6, 1.0) == 6, "never less than the minimum"
    wild = list(rng.lognormal(0, 1, 10))
    assert required_rounds(wild, 1e-9, 6, 10.0) == MAX_ROUNDS


def test_rounds_reach_the_target_interval():
    rng = np.random.default_rng(1)
    for noise in (0.002, 0.01, 0.02):
        pilot = list(1 + noise * rng.standard_normal(PILOT_ROUNDS))
        rounds = required_rounds(pilot, 1e-9, 6, 1.0)
        reached = relative_median_ci(list(1 + noise * rng.standard_normal(rounds)))
        assert reached < 2 * TARGET_CI


def test_cycles_are_of_rounds_with_a_known_clock():
    sm_clock_hz = np.array([1.5e9, np.nan, 2e9, 2e9])
    assert cycle_statistics([4e-6, 9.0, 3e-6, 3e-6], sm_clock_hz) == {
        "call_clock_mhz": 2000.0,
        "cycles": pytest.approx(6000),
        "cycles_interval": pytest.approx(0, abs=1e-9),
        "two_modes_by_clock": False,
    }
    unknown = {"call_clock_mhz": None, "cycles": None, "cycles_interval": None}
    unknown["two_modes_by_clock"] = False
    assert cycle_statistics([1e-6], np.array([np.nan])) == unknown
    assert cycle_statistics([1e-6], np.empty(0)) == unknown


def test_sm_clock_is_cycles_over_time_of_each_sm():
    assert list(sm_clock_per_round(make_stamps((4, 1800, 1000), (4, 950, 500)))) == [1.8e9, 1.9e9]
    different_sms = make_stamps((4, 1800, 1000), (4, 950, 500))
    different_sms[0, 1, 2, 0] = 7
    assert np.isnan(sm_clock_per_round(different_sms)[0]), (
        "the counters of two SMs cannot be subtracted"
    )
    assert sm_clock_per_round(different_sms)[1] == 1.9e9


def test_two_modes_come_from_the_clock_if_cycles_have_one():
    hz = np.where(np.arange(30) % 3 == 0, 1.79e9, 1.85e9)
    level = np.where(np.arange(30) % 2 == 0, 1.0, 1.1)
    assert cycle_statistics(list(1e6 / hz), hz)["two_modes_by_clock"]
    assert (
        cycle_statistics(list(1e6 / hz), hz)["cycles_interval"]
        < 1e-9
        < relative_median_ci(list(1e6 / hz))
    )
    assert not cycle_statistics(list(1e6 * level / hz), hz)["two_modes_by_clock"]
    assert not cycle_statistics([1e-3] * 30, np.full(30, 1.8e9))["two_modes_by_clock"]
