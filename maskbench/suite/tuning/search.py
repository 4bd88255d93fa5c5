"""The search over the candidates of one problem: a generator that yields options to time."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from maskbench.suite.tuning.candidates import Target, combine, first_candidates, variants
from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions

Times = Mapping[FlexOptions, float]  # in seconds; what cannot run has none
MAX_VARIED = 2  # options of the first round that get switches; the fastest also gets block sizes
MAX_VARIED_TIME_RATIO = 1.05  # to the shortest time; slower options are not varied
# To the time of the options that were varied: a variant must gain more than screening's noise.
MAX_IMPROVED_TIME_RATIO = 0.995
MAX_COMBINED_VARIANTS = 3  # of the same options, the fastest first
MAX_COMPARED_TIME_RATIO = 1.05  # to the shortest time; these are timed again, more precisely


def search(target: Target) -> Generator[list[FlexOptions], Times, list[FlexOptions]]:
    """Yield lists of options, receive their times, and return the best options, fastest first.

    The first list has the default options. The returned list does not.
    """
    times = dict((yield [DEFAULT_OPTIONS, *first_candidates(target)]))
    ordered = sorted((o for o in times if not o.uses_flash), key=times.__getitem__)
    limit = MAX_VARIED_TIME_RATIO * times[ordered[0]] if ordered else 0.0
    bases = [option for option in ordered[:MAX_VARIED] if times[option] <= limit]
    varied = {base: variants(base, target, with_block_sizes=base is bases[0]) for base in bases}
    new = [option for found in varied.values() for option in found if option not in times]
    if new:
        times |= yield new
    combined = []
    for base, found in varied.items():
        limit = MAX_IMPROVED_TIME_RATIO * times[base]
        faster = sorted((o for o in found if times.get(o, limit) < limit), key=times.__getitem__)
        improvements = _one_value_each(base, faster)[:MAX_COMBINED_VARIANTS]
        for count in range(2, len(improvements) + 1):
            combined.append(combine(base, improvements[:count]))
    new = list(dict.fromkeys(option for option in combined if option not in times))
    if new:
        times |= yield new
    return ranking(times)


def _one_value_each(base: FlexOptions, ordered: list[FlexOptions]) -> list[FlexOptions]:
    """The first variant for each option that they change."""
    first: dict[str, FlexOptions] = {}
    for variant in ordered:
        added = [name for name in variant.kernel_options if name not in base.kernel_options]
        name = added[0] if added else "BLOCK_SIZE"
        first.setdefault(name, variant)
    return list(first.values())


def ranking(times: Times) -> list[FlexOptions]:
    """The options that may be the fastest, fastest first, without the default.

    FlexAttention's own kernels are listed up to `MAX_COMPARED_TIME_RATIO`, FlashAttention-4's
    whatever its time is.
    """
    own = [option for option in times if not option.uses_flash]
    limit = MAX_COMPARED_TIME_RATIO * min((times[option] for option in own), default=0.0)
    listed = [option for option in times if option.uses_flash or times[option] <= limit]
    return sorted((o for o in listed if o != DEFAULT_OPTIONS), key=times.__getitem__)
