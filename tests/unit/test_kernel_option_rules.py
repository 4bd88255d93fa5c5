"""What the options that were found have in common, as sentences."""

from itertools import count

import msgspec

from maskbench.tuned_options import Timed
from reports.kernel_option_rules import rules, tile_text
from tests.unit.tuned_entries import PROBLEM, entry, found

TILE = {"fwd_BLOCK_M": 128, "fwd_BLOCK_N": 64}


def problem(**fields):
    return msgspec.structs.replace(PROBLEM, **fields)


def test_a_tile_is_named_without_prefixes_and_switches():
    options = found(1.1, (256, 256), **TILE, fwd_num_warps=4, fwd_USE_TMA=True).options
    assert tile_text(options) == "BLOCK_M=128, BLOCK_N=64, num_warps=4, BLOCK_SIZE=256x256"
    assert tile_text(found(1.1, bwd_USE_TMA=True).options) == "the default tile with switches"


def test_rules_name_what_is_the_fastest_most_often_with_its_gains():
    entries = [
        entry(found(1.5, BACKEND="FLASH"), found(1.2, **TILE, fwd_USE_TMA=True)),
        entry(found(1.35, **TILE)),
        entry(found(1.12, fwd_BLOCK_M=16)),
        entry(),
        entry(problem=problem(direction="backward"), max_autotune_gain=1.0),
    ]
    assert rules(entries) == [
        "Forward: BACKEND=FLASH, where FlashAttention-4 is installed, is the fastest for 1 of 4 "
        "(gain 1.50).",
        "Forward: of FlexAttention's own kernels, the fastest of 4: BLOCK_M=128, BLOCK_N=64 for 2 "
        "(gains 1.20 to 1.35); BLOCK_M=16 for 1 (gain 1.12); the default for 1.",
        "Forward: torch's max-autotune is faster than the options of FlexAttention's own kernels "
        "for 1 of 4 (causal).",
        "Backward: of FlexAttention's own kernels, the fastest of 1: the default for 1.",
    ]


def test_a_rule_names_few_choices():
    entries = [entry(found(1.2, fwd_BLOCK_M=m), max_autotune_gain=None) for m in range(8)]
    (rule,) = rules(entries)
    assert rule.endswith("others for 5.")


NUMBERS = count()


def screened(**seconds):
    timed = [Timed(options.replace("_", "="), s) for options, s in seconds.items()]
    mask = problem(mask=f"mask_{next(NUMBERS)}")
    return entry(problem=mask, screening=timed, max_autotune_gain=None)


def test_one_choice_for_all_masks_is_the_best_on_average():
    """Options that could not run for one mask are no choice, and a mask may lose by the choice."""
    entries = [
        screened(default=1.0, a_1=0.5, b_1=0.8, BACKEND_FLASH=0.1),
        screened(default=1.0, a_1=2.0, b_1=1.25, c_1=0.1, BACKEND_FLASH=0.1),
        screened(default=1.0, a_1=0.9, b_1=0.5, BACKEND_FLASH=0.1),
    ]
    expected = (
        "Forward: if all masks get the same options, b=1 gains the most: 1.26 on average of all 3 "
        "masks, from 0.80 to 2.00."
    )
    assert rules(entries)[-1] == expected
    assert "same options" not in rules(entries[:2])[-1]
    assert "same options" not in rules([*entries, entry()])[-1]
    best = [screened(default=1.0, a_1=1.5) for _ in range(3)]
    assert rules(best)[-1].endswith("the default is the best on average.")


def screened_tile(mask, tile, **sizes):
    """Screening times of the default, of a tile, and of the tile with block sizes."""
    timed = [Timed("default", 1.0), Timed("num_warps=8", 0.95), Timed("num_warps=4", tile)]
    timed += [Timed(f"num_warps=4, BLOCK_SIZE={size}", s) for size, s in sizes.items()]
    return entry(problem=problem(mask=mask), screening=timed, max_autotune_gain=None)


def test_one_choice_may_have_a_block_size_that_some_masks_cannot_have_or_were_not_tried_with():
    many = [screened_tile(f"m{i}", 0.8, **{"64x64": 0.5}) for i in range(9)]
    full = screened_tile("full", 0.8)
    choice = "num_warps=4, BLOCK_SIZE=64x64 gains the most"
    assert rules([full, *many])[-1] == (
        f"Forward: if all masks get the same options, {choice}: 1.91 on average of all 10 masks, "
        "from 1.25 to 2.00. full has no block mask: it gets them without BLOCK_SIZE."
    )
    untried = screened_tile("untried", 0.8, **{"256x256": 0.9})
    assert rules([full, *many, untried])[-1] == (
        f"Forward: if all masks get the same options, {choice}: 1.91 on average of 10 of 11 masks, "
        "from 1.25 to 2.00. full has no block mask: it gets them without BLOCK_SIZE. There is no "
        "time for untried."
    )
    few = rules([full, *many[:7], untried])[-1]
    assert "num_warps=4 gains the most: 1.25 on average of all 9 masks, from 1.25 to 1.25." in few


def test_options_that_were_not_tried_for_a_mask_are_compared_on_the_others():
    """The mask that is left out gains more than the average with the tile."""
    many = [screened_tile(f"m{i}", 0.8, **{"64x64": 0.79}) for i in range(10)]
    other = screened_tile("other", 0.1, **{"256x256": 0.9})
    assert "num_warps=4, BLOCK_SIZE=64x64 gains the most: 1.27" in rules([*many, other])[-1]
    slower = [screened_tile(f"m{i}", 0.8, **{"64x64": 0.81}) for i in range(10)]
    slow = screened_tile("slow", 2.0, **{"256x256": 0.9})
    assert "num_warps=4 gains the most" in rules([*slower, slow])[-1]


def test_one_choice_has_no_switch_that_a_mask_may_not_allow():
    entries = [screened(default=1.0, a_1=0.5) for _ in range(4)]
    for own in entries:
        own.screening += [
            Timed("fwd_ROWS_GUARANTEED_SAFE=True", 0.1),
            Timed("fwd_BLOCKS_ARE_CONTIGUOUS=True", 0.1),
        ]
    assert "a=1 gains the most" in rules(entries)[-1]
