"""Rounds: their statistics, how many a cell gets, and the clock that they tell."""

import statistics

import numpy as np
import pytest

from measure import PILOT_ROUNDS
from tests.rounds import (
    MOST_ROUNDS,
    TARGET,
    USUAL_ROUNDS,
    in_cycles,
    interval,
    rates,
    rounds_for,
    two_modes,
)
from tests.toy_card import stamps_of


def test_interval_of_equal_times_is_nothing():
    assert interval([0.25] * 10) == 0.0


def test_interval_holds_the_median_as_often_as_it_says():
    draw, held, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        sample = list(draw.lognormal(0, 0.1, 40))
        half = interval(sample) * statistics.median(sample)
        held += abs(statistics.median(sample) - 1.0) <= half
    assert 0.92 < held / runs < 0.99


def test_interval_of_too_few_rounds_is_half_their_range():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_two_modes_are_seen_and_noise_is_not_taken_for_them():
    draw = np.random.default_rng(0)
    for rounds in (20, 60, 400):
        noise = [1 + 0.02 * draw.standard_normal(rounds) for _ in range(200)]
        assert sum(two_modes(list(times)) for times in noise) <= 4
        second = [
            np.where(np.arange(rounds) % 3 == 0, 1.03, 1.0) * (1 + 0.1 * (t - 1)) for t in noise
        ]
        assert sum(two_modes(list(times)) for times in second) >= 190
    assert not two_modes([1.0] * 30)
    assert not two_modes([1.0] * 29 + [2.0]), "one late round is no mode"
    assert not two_modes([1.0, 2.0, 1.0, 2.0]), "too few to say"


def test_steady_times_get_the_usual_rounds():
    assert rounds_for([1e-3] * 10, 2e-3, 6, 1.0) == USUAL_ROUNDS


def test_rounds_grow_with_the_noise_until_the_ceilings():
    draw = np.random.default_rng(0)
    quiet, noisy = (list(1e-3 * (1 + s * draw.standard_normal(10))) for s in (0.01, 0.03))
    few = rounds_for(quiet, 1e-5, 6, 10.0)
    many = rounds_for(noisy, 1e-5, 6, 10.0)
    assert USUAL_ROUNDS < few < many
    assert rounds_for(noisy, 0.1, 6, 1.0) == 10, "a second holds ten rounds of 0.1 s"
    assert rounds_for(noisy, 5.0, 6, 1.0) == 6, "never less than the floor"
    wild = list(draw.lognormal(0, 1, 10))
    assert rounds_for(wild, 1e-9, 6, 10.0) == MOST_ROUNDS


def test_rounds_reach_the_target():
    draw = np.random.default_rng(1)
    for noise in (0.002, 0.01, 0.02):
        pilot = list(1 + noise * draw.standard_normal(PILOT_ROUNDS))
        rounds = rounds_for(pilot, 1e-9, 6, 1.0)
        reached = interval(list(1 + noise * draw.standard_normal(rounds)))
        assert reached < 2 * TARGET


def test_cycles_are_counted_where_the_clock_was_seen():
    seen = np.array([1.5e9, np.nan, 2e9, 2e9])
    assert in_cycles([4e-6, 9.0, 3e-6, 3e-6], seen) == {
        "call_clock_mhz": 2000.0,
        "cycles": pytest.approx(6000),
        "cycles_interval": pytest.approx(0, abs=1e-9),
        "two_modes_by_clock": False,
    }
    nothing = {"call_clock_mhz": None, "cycles": None, "cycles_interval": None}
    nothing["two_modes_by_clock"] = False
    assert in_cycles([1e-6], np.array([np.nan])) == nothing
    assert in_cycles([1e-6], np.empty(0)) == nothing


def test_the_clock_is_each_sms_own_cycles_over_time():
    assert list(rates(stamps_of((4, 1800, 1000), (4, 950, 500)))) == [1.8e9, 1.9e9]
    other = stamps_of((4, 1800, 1000), (4, 950, 500))
    other[0, 1, 2, 0] = 7
    assert np.isnan(rates(other)[0]), "stamps of different SMs tell nothing"
    assert rates(other)[1] == 1.9e9


def test_two_modes_are_put_down_to_the_clock_where_cycles_have_one():
    hz = np.where(np.arange(30) % 3 == 0, 1.79e9, 1.85e9)
    level = np.where(np.arange(30) % 2 == 0, 1.0, 1.1)
    assert in_cycles(list(1e6 / hz), hz)["two_modes_by_clock"]
    assert in_cycles(list(1e6 / hz), hz)["cycles_interval"] < 1e-9 < interval(list(1e6 / hz))
    assert not in_cycles(list(1e6 * level / hz), hz)["two_modes_by_clock"]
    assert not in_cycles([1e-3] * 30, np.full(30, 1.8e9))["two_modes_by_clock"]
