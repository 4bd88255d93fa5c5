"""What the options that were found have in common, as sentences for the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions, Found, TunedEntry

TILES = ("BLOCK_", "num_")  # how the options start that belong to a tile
MIN_FOR_ONE_CHOICE = 3  # problems
MAX_CHOICES = 3  # that a rule names, the most frequent first


def rules(entries: Iterable[TunedEntry]) -> list[str]:
    """What a reader can try for a mask that is not in the table: sentences for each direction."""
    lines = []
    for direction in ("forward", "backward"):
        own = [entry for entry in entries if entry.problem.direction == direction]
        if own:
            found = [
                _flash_rule(own),
                _choices_rule(own),
                _one_choice_rule(own),
                _max_autotune_rule(own),
            ]
            lines += [f"{direction.capitalize()}: {line}" for line in found if line]
    return lines


def _flash_rule(entries: Sequence[TunedEntry]) -> str | None:
    gains = [e.found[0].gain for e in entries if e.found and e.found[0].options.uses_flash]
    if not gains:
        return None
    return (
        f"BACKEND=FLASH, where FlashAttention-4 is installed, is the fastest for {len(gains)} of "
        f"{len(entries)}{_range_text(gains)}."
    )


def _choices_rule(entries: Sequence[TunedEntry]) -> str:
    """The tiles that are the fastest most often, among FlexAttention's own kernels."""
    gains: dict[str, list[float]] = {}
    for entry in entries:
        if found := without_flash(entry):
            gains.setdefault(tile_text(found.options), []).append(found.gain)
    default = len(entries) - sum(map(len, gains.values()))
    ordered = sorted(gains.items(), key=lambda item: -len(item[1]))
    parts = [f"{tile} for {len(own)}{_range_text(own)}" for tile, own in ordered[:MAX_CHOICES]]
    if others := sum(len(own) for _, own in ordered[MAX_CHOICES:]):
        parts.append(f"others for {others}")
    if default:
        parts.append(f"the default for {default}")
    return f"of FlexAttention's own kernels, the fastest of {len(entries)}: {'; '.join(parts)}."


def _one_choice_rule(entries: Sequence[TunedEntry]) -> str | None:
    """The options that gain the most on average, if all masks get the same ones."""
    gains: dict[str, list[float]] = {}
    for entry in entries:
        seconds = {timed.options: timed.seconds for timed in entry.screening}
        for options, own in seconds.items():
            if own > 0 and str(DEFAULT_OPTIONS) in seconds and "BACKEND=FLASH" not in options:
                gains.setdefault(options, []).append(seconds[str(DEFAULT_OPTIONS)] / own)
    everywhere = {o: geometric_mean(g) for o, g in gains.items() if len(g) == len(entries)}
    if len(entries) < MIN_FOR_ONE_CHOICE or not everywhere:
        return None
    best = max(everywhere, key=everywhere.__getitem__)
    if best == str(DEFAULT_OPTIONS):
        return "if all masks get the same options, the default is the best on average."
    return (
        f"if all masks get the same options, {_without_prefixes(best)} gains the most: "
        f"{everywhere[best]:.2f} on average, from {min(gains[best]):.2f} to {max(gains[best]):.2f}."
    )


def _max_autotune_rule(entries: Sequence[TunedEntry]) -> str | None:
    """Where torch's own search found faster options of its kernels than this one."""
    faster = [e.problem.mask for e in entries if e.max_autotune_speedup(without_flash(e))]
    if not faster:
        return None
    return (
        f"torch's max-autotune is faster than the options of FlexAttention's own kernels for "
        f"{len(faster)} of {len(entries)} ({', '.join(faster)})."
    )


def tile_text(options: FlexOptions) -> str:
    """The sizes, warps and stages of a tile, and the size of the blocks, without switches."""
    kernel = tuple((n, v) for n, v in options.kernel if _without_prefixes(n).startswith(TILES))
    tile = FlexOptions(kernel, options.block_size)
    return "the default tile with switches" if tile == DEFAULT_OPTIONS else options_text(tile)


def _range_text(gains: Sequence[float]) -> str:
    """Such as " (gains 1.17 to 1.19)"."""
    low, high = f"{min(gains):.2f}", f"{max(gains):.2f}"
    return f" (gain {low})" if low == high else f" (gains {low} to {high})"


def without_flash(entry: TunedEntry) -> Found | None:
    """The fastest options that need no FlashAttention-4; None if the default is as fast."""
    return next((found for found in entry.found if not found.options.uses_flash), None)


def found_or_default(entry: TunedEntry) -> list[Found | None]:
    """The options that were found; None, which stands for the default, if there are none."""
    return [*entry.found] or [None]


def options_text(options: FlexOptions) -> str:
    """The options for a table whose rows have one direction: without the prefixes."""
    return _without_prefixes(str(options))


def _without_prefixes(text: str) -> str:
    return text.replace("fwd_", "").replace("bwd_", "")
