"""The contest: checked, timed in alternation, kept only if the gain is beyond noise."""

import itertools
from contextlib import contextmanager

import pytest
import torch

from maskbench.attention import BoundAttention, Formulation
from maskbench.masks import Causal
from maskbench.suite.attention_call import TimedCall
from maskbench.suite.tuning import contest as contest_module
from maskbench.suite.tuning.contest import MAX_CONTENDERS, Contender, Contest
from maskbench.suite.tuning.race import MAX_ROUNDS, MIN_ROUNDS, alternate, gain
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
def contest(checked):
    events = []

    @contextmanager
    def paused():
        events.append("paused")
        yield
        events.append("goes on")

    made = Contest(MASK, checked, FakeClock(), paused, lambda: events.append("meanwhile"))
    made.events = events
    return made


def contender(options, *seconds):
    """Its rounds take these times in turn."""
    times = itertools.cycle(seconds)
    call = BoundAttention(Formulation("fake", "fake"), (), lambda: None)
    return Contender(options, call, TimedCall(lambda: next(times), lambda out: {}, {}), None)


def test_rounds_alternate_and_end_in_time():
    order = []
    calls = {name: lambda name=name: order.append(name) or 0.1 for name in "abc"}
    seconds = alternate(calls, FakeClock(), max_seconds=60)
    assert {len(s) for s in seconds.values()} == {MAX_ROUNDS}
    assert order == ["a", "b", "c"] * MAX_ROUNDS
    seconds = alternate(calls, FakeClock(), max_seconds=0)
    assert {len(s) for s in seconds.values()} == {MIN_ROUNDS}


def test_the_blocking_kernel_is_sized_for_the_call_with_the_most_host_time():
    class Sized(FakeClock):
        sized = ()

        def size_blocking_kernel(self, call):
            self.sized += (call,)
            return type("DryRun", (), {"host_s": call()})

    clock, slow = Sized(), lambda: 3.0
    alternate({"a": slow, "b": lambda: 1.0}, clock, 0)
    assert clock.sized[-1] is slow


def test_a_gain_is_beyond_noise_only_with_its_interval():
    steady = gain([1.1] * 20, [1.0] * 20)
    assert steady == (pytest.approx(1.1), 0)
    assert steady.is_beyond_noise
    assert not gain([1.004] * 20, [1.0] * 20).is_beyond_noise
    noisy = gain([1.1, 0.9] * 10 + [1.12], [1.0] * 21)
    assert noisy.value > 1.05
    assert not noisy.is_beyond_noise


def test_a_common_drift_of_the_clock_is_no_gain():
    """The default's rounds and the other's slow down alike; their medians would differ."""
    clock = [1 + 0.01 * i for i in range(40)]
    found = gain([t * 1.02 for t in clock], clock)
    assert found.value == pytest.approx(1.02)
    assert found.interval < 1e-9


def test_the_fastest_is_kept_with_the_fastest_without_flash(contest):
    default, autotuned = contender(DEFAULT_OPTIONS, 1.0), contender(None, 0.95)
    finalists = [contender(FLASH, 0.5), contender(A, 0.8), contender(B, 0.9)]
    result = contest.final(default, finalists, autotuned)
    assert [found.options for found in result.found] == [FLASH, A]
    assert [found.gain for found in result.found] == [pytest.approx(2), pytest.approx(1.25)]
    assert result.winner.options == FLASH
    assert result.default_s == 1.0
    assert result.autotune.value == pytest.approx(1 / 0.95)
    assert contest.events == ["paused", "goes on"]


def test_a_winner_without_flash_is_kept_alone(contest):
    finalists = [contender(A, 0.8), contender(FLASH, 0.9), contender(B, 0.85)]
    result = contest.final(contender(DEFAULT_OPTIONS, 1.0), finalists, None)
    assert [found.options for found in result.found] == [A]
    assert result.autotune is None


@pytest.mark.parametrize("seconds", [(1.0,), (0.997,), (0.9, 1.1), (1.2,)])
def test_the_default_wins_within_noise(contest, seconds):
    default = contender(DEFAULT_OPTIONS, 1.0)
    result = contest.final(default, [contender(A, *seconds)], None)
    assert result.found == []
    assert result.winner == default


def test_without_a_contender_the_default_wins(contest):
    result = contest.final(contender(DEFAULT_OPTIONS, 1.0), [], None)
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


def test_a_wrong_or_failing_candidate_is_dropped_with_its_reason(contest, monkeypatch):
    error = RuntimeError("out of resource: shared memory\nRequired: 300000")
    monkeypatch.setattr(contest_module, "bind_with", bind_as({A: 0.1, B: error, C: float("nan")}))
    prepared = contest.prepare_all([A, B, FLASH, C])
    assert [c.options for c in prepared] == [FLASH]
    reasons = {dropped.options: dropped.reason for dropped in contest.dropped}
    assert reasons[str(A)].startswith("WrongResult: out differs from the reference")
    assert reasons[str(B)] == "RuntimeError: out of resource: shared memory"
    assert "error nan" in reasons[str(C)]


def test_a_wrong_default_fails(contest, monkeypatch):
    monkeypatch.setattr(contest_module, "bind_with", bind_as({DEFAULT_OPTIONS: 0.1}))
    with pytest.raises(Exception, match="out differs from the reference"):
        contest.prepare(DEFAULT_OPTIONS)


def test_no_more_calls_are_compiled_than_torch_keeps(contest, monkeypatch):
    """torch.compile keeps 8: the default, torch's own search and these."""
    monkeypatch.setattr(contest_module, "bind_with", bind_as({}))
    ranking = [FlexOptions((("fwd_BLOCK_M", m),)) for m in range(20)]
    assert len(contest.prepare_all(ranking)) == MAX_CONTENDERS
    assert contest.events == ["meanwhile"] * MAX_CONTENDERS
    ranking = [*ranking, FLASH]
    assert FLASH in [c.options for c in contest.prepare_all(ranking)]
    monkeypatch.setattr(contest_module, "bind_with", bind_as(dict.fromkeys(ranking, 0.1)))
    contest.dropped.clear()
    contest.prepare_all(ranking)
    assert len(contest.dropped) <= 6
