"""A cell that fails in its rounds, or whose clock is wrong, has no time."""

import math

import pytest

from maskbench.timing import runner
from maskbench.timing.clock import HostClock
from tests.unit.fake_benchmark import FixedTimes


class GivenTimes(FixedTimes):
    """A fixture that records given times in seconds; the call runs once for each."""

    has_error = False

    def __init__(self, seconds):
        self.stats = {"data": seconds}

    def pedantic(self, call, setup, rounds):
        for _ in self.stats["data"]:
            result = call()
        return result


@pytest.mark.parametrize("bad", [0.0, -1e-6, math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_an_impossible_time_voids_the_cell(bad, place, pytestconfig):
    seconds = [1e-3] * 10
    seconds[place] = bad
    benchmark = GivenTimes(seconds)
    with pytest.raises(runner.InvalidTime, match="the clock is wrong: 1 of 10 rounds"):
        runner.measure(benchmark, lambda: None, HostClock(), pytestconfig)
    assert benchmark.has_error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_an_error_in_a_round_voids_the_cell(error, pytestconfig):
    benchmark, calls = GivenTimes([1e-3] * 10), []

    def call():
        calls.append(1)
        if len(calls) == runner.PILOT_ROUNDS + 5:
            raise error("round 5")

    with pytest.raises(error):
        runner.measure(benchmark, call, HostClock(), pytestconfig)
    assert benchmark.has_error


def test_the_result_of_the_last_round_is_checked(pytestconfig):
    benchmark, counter, seen = GivenTimes([1e-3] * 10), iter(range(1000)), []

    def check(result):
        seen.append(result)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        runner.measure(benchmark, lambda: next(counter), HostClock(), pytestconfig, check)
    assert benchmark.has_error
    assert seen == [next(counter) - 1]
