"""The search over the candidates of one problem, as a generator that asks for times."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from maskbench.suite.tuning.candidates import Target, combine, first_candidates, variants
from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions

Times = Mapping[FlexOptions, float]  # in seconds; what cannot run has none
BASES = 2  # of the first round, which get switches; the fastest also gets other block masks
HELPFUL = 0.995  # of the time: a switch must shorten it by more than screening's noise
HOPELESS = 1.15  # times the shortest time: not timed precisely
MAX_COMBINED = 3  # switches of a base, the most helpful first


def search(target: Target) -> Generator[list[FlexOptions], Times, list[FlexOptions]]:
    """Yield lists of options of which the times are sent back; return the best, fastest first.

    The default options are among the first, and not among those that are returned. The fastest
    options without FlashAttention-4's kernel are returned even if that kernel is much faster.
    """
    times = dict((yield [DEFAULT_OPTIONS, *first_candidates(target)]))
    bases = sorted((o for o in times if not o.uses_flash), key=times.__getitem__)[:BASES]
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
    """The options that may be the fastest, without the default."""
    ordered = sorted(times, key=times.__getitem__)
    if not ordered:
        return []
    limit = HOPELESS * times[ordered[0]]
    kept = [option for option in ordered if times[option] <= limit]
    without_flash = [option for option in ordered if not option.uses_flash]
    if without_flash:
        limit = HOPELESS * times[without_flash[0]]
        kept += [o for o in without_flash if times[o] <= limit and o not in kept]
    return [option for option in kept if option != DEFAULT_OPTIONS]
