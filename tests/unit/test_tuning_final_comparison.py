"""The final comparison: checked, timed in alternation, saved only if the gain is significant."""

import itertools
from contextlib import contextmanager

import pytest
import torch

from maskbench.attention import BoundAttention, Formulation
from maskbench.masks import Causal
from maskbench.suite.attention_call import TimedCall
from maskbench.suite.tuning import final_comparison
from maskbench.suite.tuning.alternating_rounds import MAX_ROUNDS, MIN_ROUNDS, gain, time_alternately
from maskbench.suite.tuning.final_comparison import (
    MAX_CANDIDATES,
    CheckedCandidate,
    FinalComparison,
)
from maskbench.suite.workload import Shape, make_inputs_with_reference
from maskbench.timing.clock import HostClock
from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions

MASK = Causal(seq_len=32)
FLASH = FlexOptions((("BACKEND", "FLASH"),))
A, B, C = (FlexOptions((("fwd_BLOCK_M", m),)) for m in (16, 32, 64))


class FakeClock(HostClock):
    """The time of a call is what it returns."""

    def round(self, call):
        seconds = call()
        return seconds, seconds


@pytest.fixture
def checked():
    return make_inputs_with_reference(MASK, Shape(1, 2, 2, 8), "float32", "cpu", False)


@pytest.fixture
def comparison(checked):
    events = []

    @contextmanager
    def paused():
        events.append("paused")
        yield
        events.append("goes on")

    made = FinalComparison(
        MASK, checked, FakeClock(), paused, lambda: events.append("feed_workers")
    )
    made.events = events
    return made


def candidate(options, *seconds):
    """Its rounds take these times in turn."""
    times = itertools.cycle(seconds)
    call = BoundAttention(Formulation("fake", "fake"), (), lambda: None)
    return CheckedCandidate(options, call, TimedCall(lambda: next(times), lambda out: {}, {}), None)


def test_rounds_alternate_and_end_in_time():
    order = []
    calls = {name: lambda name=name: order.append(name) or 0.1 for name in "abc"}
    seconds = time_alternately(calls, FakeClock(), max_seconds=60)
    assert {len(s) for s in seconds.values()} == {MAX_ROUNDS}
    assert order == ["a", "b", "c"] * MAX_ROUNDS
    seconds = time_alternately(calls, FakeClock(), max_seconds=0)
    assert {len(s) for s in seconds.values()} == {MIN_ROUNDS}


def test_the_blocking_kernel_is_sized_for_the_call_with_the_most_host_time():
    class Sized(FakeClock):
        sized = ()

        def size_blocking_kernel(self, call):
            self.sized += (call,)
            return type("DryRun", (), {"host_s": call()})

    clock, slow = Sized(), lambda: 3.0
    time_alternately({"a": slow, "b": lambda: 1.0}, clock, 0)
    assert clock.sized[-1] is slow


def test_a_gain_is_significant_only_beyond_its_interval():
    steady = gain([1.1] * 20, [1.0] * 20)
    assert steady == (pytest.approx(1.1), 0)
    assert steady.is_significant
    assert not gain([1.004] * 20, [1.0] * 20).is_significant
    noisy = gain([1.1, 0.9] * 10 + [1.12], [1.0] * 21)
    assert noisy.value > 1.05
    assert not noisy.is_significant


def test_a_common_drift_of_the_clock_is_no_gain():
    """The default's rounds and the other's slow down alike; their medians would differ."""
    clock = [1 + 0.01 * i for i in range(40)]
    found = gain([t * 1.02 for t in clock], clock)
    assert found.value == pytest.approx(1.02)
    assert found.interval < 1e-9


def test_the_fastest_is_saved_with_the_fastest_without_flash(comparison):
    default, autotuned = candidate(DEFAULT_OPTIONS, 1.0), candidate(None, 0.95)
    candidates = [candidate(FLASH, 0.5), candidate(A, 0.8), candidate(B, 0.9)]
    result = comparison.time_all(default, candidates, autotuned)
    assert [found.options for found in result.found] == [FLASH, A]
    assert [found.gain for found in result.found] == [pytest.approx(2), pytest.approx(1.25)]
    assert result.fastest.options == FLASH
    assert result.default_s == 1.0
    assert result.autotune.value == pytest.approx(1 / 0.95)
    assert comparison.events == ["paused", "goes on"]


def test_the_fastest_without_flash_is_saved_alone(comparison):
    candidates = [candidate(A, 0.8), candidate(FLASH, 0.9), candidate(B, 0.85)]
    result = comparison.time_all(candidate(DEFAULT_OPTIONS, 1.0), candidates, None)
    assert [found.options for found in result.found] == [A]
    assert result.autotune is None


@pytest.mark.parametrize("seconds", [(1.0,), (0.997,), (0.9, 1.1), (1.2,)])
def test_the_default_is_best_within_noise(comparison, seconds):
    default = candidate(DEFAULT_OPTIONS, 1.0)
    result = comparison.time_all(default, [candidate(A, *seconds)], None)
    assert result.found == []
    assert result.fastest == default


def test_without_a_contender_the_default_wins(comparison):
    result = comparison.time_all(candidate(DEFAULT_OPTIONS, 1.0), [], None)
    assert result.found == []


def bind_as(results):
    """A `bind_with` whose options give the right output plus an error, or raise."""

    def bind_with(options):
        def bind(mask, q, k, v):
            result = results.get(options, 0.0)
            if isinstance(result, Exception):
                raise result
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return BoundAttention(Formulation("f", "f"), (q, k, v), lambda *_: out + result)

        return bind

    return bind_with


def test_a_wrong_or_failing_candidate_is_dropped_with_its_reason(comparison, monkeypatch):
    error = RuntimeError("out of resource: shared memory\nRequired: 300000")
    monkeypatch.setattr(final_comparison, "bind_with", bind_as({A: 0.1, B: error, C: float("nan")}))
    prepared = comparison.compile_and_check_all([A, B, FLASH, C])
    assert [c.options for c in prepared] == [FLASH]
    reasons = {dropped.options: dropped.reason for dropped in comparison.dropped}
    assert reasons[str(A)].startswith("WrongResult: out differs from the reference")
    assert reasons[str(B)] == "RuntimeError: out of resource: shared memory"
    assert "error nan" in reasons[str(C)]


def test_a_wrong_default_fails(comparison, monkeypatch):
    monkeypatch.setattr(final_comparison, "bind_with", bind_as({DEFAULT_OPTIONS: 0.1}))
    with pytest.raises(Exception, match="out differs from the reference"):
        comparison.compile_and_check(DEFAULT_OPTIONS)


def test_no_more_calls_are_compiled_than_torch_keeps(comparison, monkeypatch):
    """torch.compile keeps 8: the default, torch's own search and these."""
    monkeypatch.setattr(final_comparison, "bind_with", bind_as({}))
    ranking = [FlexOptions((("fwd_BLOCK_M", m),)) for m in range(20)]
    assert len(comparison.compile_and_check_all(ranking)) == MAX_CANDIDATES
    assert comparison.events == ["feed_workers"] * MAX_CANDIDATES
    ranking = [*ranking, FLASH]
    assert FLASH in [c.options for c in comparison.compile_and_check_all(ranking)]
    monkeypatch.setattr(final_comparison, "bind_with", bind_as(dict.fromkeys(ranking, 0.1)))
    comparison.dropped.clear()
    comparison.compile_and_check_all(ranking)
    assert len(comparison.dropped) <= 6
