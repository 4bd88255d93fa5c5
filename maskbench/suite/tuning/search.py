"""The search over the candidates of one problem, as a generator that asks for times."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from maskbench.suite.tuning.candidates import Target, combine, first_candidates, variants
from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions

Times = Mapping[FlexOptions, float]  # in seconds; what cannot run has none
BASES = 2  # of the first round, which get switches; the fastest also gets other block masks
NEAR = 1.05  # times the shortest time: what is slower is no base, since switches gain less
HELPFUL = 0.995  # of the time: a switch must shorten it by more than screening's noise
CLOSE = 1.05  # times the shortest time: these are timed precisely
MAX_COMBINED = 3  # switches of a base, the most helpful first


def search(target: Target) -> Generator[list[FlexOptions], Times, list[FlexOptions]]:
    """Yield lists of options of which the times are sent back; return the best, fastest first.

    The default options are among the first, and not among those that are returned.
    """
    times = dict((yield [DEFAULT_OPTIONS, *first_candidates(target)]))
    ordered = sorted((o for o in times if not o.uses_flash), key=times.__getitem__)
    bases = [o for o in ordered[:BASES] if times[o] <= NEAR * times[ordered[0]]]
    changed = {base: variants(base, target, resize=base is bases[0]) for base in bases}
    asked = [option for found in changed.values() for option in found if option not in times]
    if asked:
        times |= yield asked
    combined = []
    for base, found in changed.items():
        helpful = [o for o in found if o in times and times[o] < HELPFUL * times[base]]
        helpful = _one_value_each(base, sorted(helpful, key=times.__getitem__))[:MAX_COMBINED]
        for count in range(2, len(helpful) + 1):
            combined.append(combine(base, helpful[:count]))
    asked = list(dict.fromkeys(option for option in combined if option not in times))
    if asked:
        times |= yield asked
    return ranking(times)


def _one_value_each(base: FlexOptions, ordered: list[FlexOptions]) -> list[FlexOptions]:
    """The variants without those that change what an earlier one has changed to another value."""
    kept: dict[str, FlexOptions] = {}
    for variant in ordered:
        added = [name for name in variant.kernel_options if name not in base.kernel_options]
        name = added[0] if added else "BLOCK_SIZE"
        kept.setdefault(name, variant)
    return list(kept.values())


def ranking(times: Times) -> list[FlexOptions]:
    """The options that may be the fastest, fastest first, without the default.

    These are the ones that are close to the fastest of FlexAttention's own kernels, and
    FlashAttention-4's kernel, whatever its time is.
    """
    own = [option for option in times if not option.uses_flash]
    limit = CLOSE * min((times[option] for option in own), default=0.0)
    kept = [option for option in times if option.uses_flash or times[option] <= limit]
    return sorted((o for o in kept if o != DEFAULT_OPTIONS), key=times.__getitem__)
