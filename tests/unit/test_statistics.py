"""Rounds: their statistics, how many a cell gets, and the clock that they tell."""

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
from tests.unit.fake_gpu import stamps_of


def test_interval_of_equal_times_is_nothing():
    assert relative_median_ci([0.25] * 10) == 0.0


def test_interval_holds_the_median_as_often_as_it_says():
    draw, held, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        sample = list(draw.lognormal(0, 0.1, 40))
        half = relative_median_ci(sample) * statistics.median(sample)
        held += abs(statistics.median(sample) - 1.0) <= half
    assert 0.92 < held / runs < 0.99


def test_interval_of_too_few_rounds_is_half_their_range():
    assert relative_median_ci([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_two_modes_are_seen_and_noise_is_not_taken_for_them():
    draw = np.random.default_rng(0)
    for rounds in (20, 60, 400):
        noise = [1 + 0.02 * draw.standard_normal(rounds) for _ in range(200)]
        assert sum(is_bimodal(list(times)) for times in noise) <= 4
        second = [
            np.where(np.arange(rounds) % 3 == 0, 1.03, 1.0) * (1 + 0.1 * (t - 1)) for t in noise
        ]
        assert sum(is_bimodal(list(times)) for times in second) >= 190
    assert not is_bimodal([1.0] * 30)
    assert not is_bimodal([1.0] * 29 + [2.0]), "one late round is no mode"
    assert not is_bimodal([1.0, 2.0, 1.0, 2.0]), "too few to say"


def test_steady_times_get_the_usual_rounds():
    assert required_rounds([1e-3] * 10, 2e-3, 6, 1.0) == TYPICAL_ROUNDS


def test_rounds_grow_with_the_noise_until_the_ceilings():
    draw = np.random.default_rng(0)
    quiet, noisy = (list(1e-3 * (1 + s * draw.standard_normal(10))) for s in (0.01, 0.03))
    few = required_rounds(quiet, 1e-5, 6, 10.0)
    many = required_rounds(noisy, 1e-5, 6, 10.0)
    assert TYPICAL_ROUNDS < few < many
    assert required_rounds(noisy, 0.1, 6, 1.0) == 10, "a second holds ten rounds of 0.1 s"
    assert required_rounds(noisy, 5.0, 6, 1.0) == 6, "never less than the floor"
    wild = list(draw.lognormal(0, 1, 10))
    assert required_rounds(wild, 1e-9, 6, 10.0) == MAX_ROUNDS


def test_rounds_reach_the_target():
    draw = np.random.default_rng(1)
    for noise in (0.002, 0.01, 0.02):
        pilot = list(1 + noise * draw.standard_normal(PILOT_ROUNDS))
        rounds = required_rounds(pilot, 1e-9, 6, 1.0)
        reached = relative_median_ci(list(1 + noise * draw.standard_normal(rounds)))
        assert reached < 2 * TARGET_CI


def test_cycles_are_counted_where_the_clock_was_seen():
    seen = np.array([1.5e9, np.nan, 2e9, 2e9])
    assert cycle_statistics([4e-6, 9.0, 3e-6, 3e-6], seen) == {
        "call_clock_mhz": 2000.0,
        "cycles": pytest.approx(6000),
        "cycles_interval": pytest.approx(0, abs=1e-9),
        "two_modes_by_clock": False,
    }
    nothing = {"call_clock_mhz": None, "cycles": None, "cycles_interval": None}
    nothing["two_modes_by_clock"] = False
    assert cycle_statistics([1e-6], np.array([np.nan])) == nothing
    assert cycle_statistics([1e-6], np.empty(0)) == nothing


def test_the_clock_is_each_sms_own_cycles_over_time():
    assert list(sm_clock_per_round(stamps_of((4, 1800, 1000), (4, 950, 500)))) == [1.8e9, 1.9e9]
    other = stamps_of((4, 1800, 1000), (4, 950, 500))
    other[0, 1, 2, 0] = 7
    assert np.isnan(sm_clock_per_round(other)[0]), "stamps of different SMs tell nothing"
    assert sm_clock_per_round(other)[1] == 1.9e9


def test_two_modes_are_put_down_to_the_clock_where_cycles_have_one():
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
