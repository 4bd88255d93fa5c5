"""What the options that were found have in common, as sentences for the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean

from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions, Found, TunedEntry

TILES = ("BLOCK_", "num_")  # how the options start that belong to a tile
MIN_FOR_ONE_CHOICE = 3  # problems
MIN_SHARE = 0.9  # of the masks must have a time with options that are named for all
MASK_SWITCHES = ("BLOCKS_ARE_CONTIGUOUS", "ROWS_GUARANTEED_SAFE")  # not every mask allows them
NOT_FOR_ALL = re.compile("|".join(("BACKEND=FLASH", *MASK_SWITCHES)))
BLOCK_SIZE = re.compile(r"(^|, )BLOCK_SIZE=\d+x\d+")  # in the text of options
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
    """The options that gain the most on average, if all masks get the same ones.

    A block size is tried with the fastest tile of a mask only. So options may have no time for a
    few masks. They are compared with the best ones that have one for all, on the masks of both.
    """
    of_masks = {entry.problem.mask: _screening_gains(entry) for entry in entries}
    options = {name for gains in of_masks.values() for name in gains}
    tried = {
        name: {mask: gain for mask, own in of_masks.items() if (gain := _gain_with(name, own))}
        for name in options
    }
    everywhere = [name for name, gains in tried.items() if len(gains) == len(of_masks)]
    if len(of_masks) < MIN_FOR_ONE_CHOICE or not everywhere:
        return None
    base = tried[max(everywhere, key=lambda name: geometric_mean(tried[name].values()))]
    nearly = [name for name, gains in tried.items() if len(gains) >= MIN_SHARE * len(of_masks)]
    best = max(
        nearly,
        key=lambda name: geometric_mean(gain / base[mask] for mask, gain in tried[name].items()),
    )
    if best == str(DEFAULT_OPTIONS):
        return "if all masks get the same options, the default is the best on average."
    return f"if all masks get the same options, {_choice_text(best, tried[best], of_masks)}"


def _screening_gains(entry: TunedEntry) -> dict[str, float]:
    """The default's time divided by that of each of the options that every mask allows.

    FlashAttention-4's kernel is not installed everywhere.
    """
    seconds = {timed.options: timed.seconds for timed in entry.screening}
    default = seconds.get(str(DEFAULT_OPTIONS))
    if default is None:
        return {}
    return {o: default / own for o, own in seconds.items() if not NOT_FOR_ALL.search(o)}


def _gain_with(options: str, gains: Mapping[str, float]) -> float | None:
    """The gain of options for a mask; without their block size, if the mask cannot have one."""
    if _has_no_block_mask(gains):
        options = BLOCK_SIZE.sub("", options) or str(DEFAULT_OPTIONS)
    return gains.get(options)


def _has_no_block_mask(gains: Mapping[str, float]) -> bool:
    """Whether no block size could be tried: each search tries some, if there is a block mask."""
    return not any(BLOCK_SIZE.search(options) for options in gains)


def _choice_text(
    options: str, tried: Mapping[str, float], of_masks: Mapping[str, Mapping[str, float]]
) -> str:
    all_masks = f"{len(tried)} of {len(of_masks)}"
    if len(tried) == len(of_masks):
        all_masks = f"all {len(of_masks)}"
    gains = tried.values()
    parts = [
        f"{_without_prefixes(options)} gains the most: {geometric_mean(gains):.2f} on average of "
        f"{all_masks} masks, from {min(gains):.2f} to {max(gains):.2f}."
    ]
    without = [mask for mask in tried if _has_no_block_mask(of_masks[mask])]
    if without and BLOCK_SIZE.search(options):
        have, get = ("has", "it gets") if len(without) == 1 else ("have", "they get")
        parts.append(f"{', '.join(without)} {have} no block mask: {get} them without BLOCK_SIZE.")
    if untried := [mask for mask in of_masks if mask not in tried]:
        parts.append(f"There is no time for {', '.join(untried)}.")
    return " ".join(parts)


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
