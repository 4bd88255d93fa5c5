"""Fakes of pytest-benchmark's fixture, for tests of `maskbench.timing.runner.measure`."""

import statistics


class FixedTimes:
    """A fixture whose rounds all take 1 ms."""

    enabled, stats = True, {"median": 1e-3, "data": [1e-3] * 20}

    def pedantic(self, call, setup, rounds):
        setup()


class TimedRounds:
    """A fixture that times its rounds with a clock's timer, as pytest-benchmark does."""

    enabled = True

    def __init__(self, clock):
        self.clock = clock

    def pedantic(self, call, setup, rounds):
        seconds = []
        for _ in range(rounds):
            setup()
            start = self.clock.timer()
            call()
            end = self.clock.timer()
            seconds.append(end - start)
        self.stats = {"median": statistics.median(seconds), "data": seconds}


class BrokenRounds:
    """A fixture whose rounds raise an error."""

    enabled, has_error, stats = True, False, None

    def pedantic(self, *arguments, **options):
        raise RuntimeError("the GPU has fallen off the bus")
