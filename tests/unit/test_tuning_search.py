"""The candidates and the search over them, with times that a function gives."""

from dataclasses import replace

import pytest

from maskbench.suite.tuning import tiles
from maskbench.suite.tuning.candidates import Target, combine, first_candidates, variants
from maskbench.suite.tuning.search import (
    MAX_COMPARED_TIME_RATIO,
    MAX_VARIED_TIME_RATIO,
    ranking,
    search,
)
from maskbench.tuned_options import DEFAULT_OPTIONS, FlexOptions

ALL = ("PRESCALE_QK", "ROWS_GUARANTEED_SAFE", "BLOCKS_ARE_CONTIGUOUS", "USE_TMA", "BACKEND")
H100 = Target(
    device="cuda",
    capability=(9, 0),
    backward=False,
    is_half=True,
    head_dim=64,
    q_len=4096,
    known=ALL,
    has_flash=True,
    has_block_mask=True,
    rows_are_safe=lambda size, tile: True,
    blocks_are_contiguous=lambda size: True,
)
BACKWARD = replace(H100, backward=True)
CPU = replace(H100, device="cpu", capability=(0, 0), has_flash=False)
TARGETS = {
    "forward": H100,
    "backward": BACKWARD,
    "float32": replace(H100, is_half=False),
    "large backward": replace(BACKWARD, head_dim=256),
    "decoding": replace(H100, q_len=1),
    "cpu": CPU,
}
FLASH = FlexOptions((("BACKEND", "FLASH"),))


def run(target, seconds, failing=()):
    """Run the search with times from a function; returns the ranking and what was asked."""
    steps, asked = search(target), []
    options = next(steps)
    while True:
        asked.append(options)
        times = {o: seconds(o) for o in options if o not in failing}
        try:
            options = steps.send(times)
        except StopIteration as end:
            return end.value, asked


def switches(options):
    return {n for n, v in options.kernel if v is True} | {str(options.block_size)}


@pytest.mark.parametrize("name", TARGETS)
def test_candidates_are_few_distinct_and_without_the_default(name):
    target = TARGETS[name]
    found = first_candidates(target)
    assert len(set(found)) == len(found) <= 26
    assert found
    assert DEFAULT_OPTIONS not in found
    for base in found:
        changed = variants(base, target, with_block_sizes=True)
        assert len({*changed, base}) == len(changed) + 1


@pytest.mark.parametrize("name", TARGETS)
def test_tiles_satisfy_the_constraints_of_the_kernels(name):
    target = TARGETS[name]
    for base in first_candidates(target):
        for options in [base, *variants(base, target, with_block_sizes=True)]:
            chosen, (q, k) = options.kernel_options, options.block_size
            if target.backward and not options.uses_flash:
                m1, n1, m2, n2 = (chosen[f"bwd_BLOCK_{x}"] for x in ("M1", "N1", "M2", "N2"))
                assert n1 % m1 == m2 % n2 == 0
                assert q % m1 == q % m2 == k % n1 == k % n2 == 0
                assert q % 128 == k % 128 == 0, "torch's own tiles must divide the blocks"
            assert q % chosen.get("fwd_BLOCK_M", q) == 0
            assert k % chosen.get("fwd_BLOCK_N", k) == 0
            prefix = "bwd_" if target.backward else "fwd_"
            without = {"BACKEND", "SPLIT_KV", "FORCE_USE_FLEX_ATTENTION"}
            assert all(n in without or n.startswith(prefix) for n in chosen)


def named(options):
    return {name.removeprefix("fwd_").removeprefix("bwd_") for name, _ in options.kernel}


def test_only_what_the_mask_the_gpu_and_torch_allow_is_tried():
    def tried(target):
        found = first_candidates(target)
        return set().union(
            *map(
                named,
                [*found, *(v for o in found for v in variants(o, target, with_block_sizes=True))],
            )
        )

    assert {"USE_TMA", "PRESCALE_QK", "ROWS_GUARANTEED_SAFE", "BACKEND"} <= tried(H100)
    assert "USE_TMA" not in tried(replace(H100, capability=(8, 0)))
    assert "BLOCKS_ARE_CONTIGUOUS" not in tried(
        replace(H100, blocks_are_contiguous=lambda size: False)
    )
    assert "ROWS_GUARANTEED_SAFE" not in tried(replace(H100, rows_are_safe=lambda s, t: False))
    assert "ROWS_GUARANTEED_SAFE" not in tried(BACKWARD)
    assert "BACKEND" not in tried(replace(H100, has_flash=False))
    assert "BACKEND" not in tried(replace(H100, is_half=False))
    assert "SPLIT_KV" in tried(TARGETS["decoding"])
    assert not tried(replace(H100, known=(), has_flash=False)) & set(ALL)
    assert "FORCE_USE_FLEX_ATTENTION" in tried(replace(TARGETS["decoding"], known=()))
    assert tried(CPU) == set()


def test_rows_are_asked_for_with_the_tile_of_the_options():
    asked = []
    target = replace(H100, rows_are_safe=lambda size, tile: bool(asked.append((size, tile))))
    variants(FlexOptions((("fwd_BLOCK_N", 32),)), target, with_block_sizes=True)
    assert asked == [((128, 128), 32)]


def test_the_search_combines_what_helps():
    def seconds(options):
        chosen = options.kernel_options
        time = 1.0
        time *= 0.8 if (chosen.get("fwd_BLOCK_M"), chosen.get("fwd_BLOCK_N")) == (64, 64) else 1
        time *= 0.9 if chosen.get("fwd_num_stages") == 3 else 1
        time *= 0.9 if chosen.get("fwd_PRESCALE_QK") else 1
        time *= 0.95 if chosen.get("fwd_USE_TMA") else 1
        time *= 1.2 if chosen.get("fwd_BLOCKS_ARE_CONTIGUOUS") else 1
        time *= 0.9 if options.block_size == (64, 64) else 1
        return time * (2 if options.uses_flash else 1)

    found, asked = run(H100, seconds)
    assert switches(found[0]) == {"fwd_PRESCALE_QK", "fwd_USE_TMA", "(64, 64)"}
    chosen = found[0].kernel_options
    assert [chosen[f"fwd_{n}"] for n in ("BLOCK_M", "BLOCK_N", "num_stages")] == [64, 64, 3]
    assert len(asked) == 3
    assert sum(map(len, asked)) < 45
    assert len({o for options in asked for o in options}) == sum(map(len, asked))


def test_flash_and_the_best_without_it_are_returned():
    found, _ = run(H100, lambda options: 0.1 if options.uses_flash else 1.0)
    assert found[0] == FLASH
    assert any(not options.uses_flash for options in found)
    found, _ = run(H100, lambda options: 9.0 if options.uses_flash else 1.0)
    assert found[-1] == FLASH, "its time in screening does not matter"


def test_only_what_is_close_to_the_best_is_returned_without_the_default():
    fast, near, slow = (FlexOptions((("fwd_BLOCK_M", m),)) for m in (16, 32, 64))
    times = {
        DEFAULT_OPTIONS: 0.98,
        near: 1.02,
        fast: 1.0,
        slow: 1.01 * MAX_COMPARED_TIME_RATIO,
        FLASH: 5.0,
    }
    assert ranking(times) == [fast, near, FLASH]
    assert ranking(times | {DEFAULT_OPTIONS: 0.5}) == [FLASH]
    assert ranking({FLASH: 1.0}) == [FLASH]
    assert ranking({}) == []


def test_a_tile_that_is_not_near_the_fastest_gets_no_switches():
    first = first_candidates(H100)[1]

    def asked_after(second_s):
        _, asked = run(H100, lambda o: 1.0 if o.kernel[:4] == first.kernel else second_s)
        return asked[1]

    assert all(o.kernel[:4] == first.kernel for o in asked_after(1.01 * MAX_VARIED_TIME_RATIO))
    assert not all(o.kernel[:4] == first.kernel for o in asked_after(0.99 * MAX_VARIED_TIME_RATIO))


def test_the_tiles_include_those_of_torchs_own_search():
    heuristics = pytest.importorskip("torch._inductor.template_heuristics.triton")
    torchs = heuristics.CUDAConfigHeuristic()
    if not hasattr(torchs.flex_attn_bwd_autotune_configs[0], "block_m1"):
        pytest.skip("this torch tries other tiles than the later ones")
    forward = {
        (c.block_m, c.block_n, c.num_warps, c.num_stages)
        for c in torchs.flex_attn_fwd_autotune_configs
    }
    backward = {
        (c.block_m1, c.block_n1, c.block_m2, c.block_n2, c.num_warps, c.num_stages)
        for c in torchs.flex_attn_bwd_autotune_configs
        if c.block_n1 < 128  # torch has removed these: some failed to launch
    }
    decode = {(c.block_n, c.num_warps, c.num_stages) for c in torchs.flex_decode_autotune_configs}
    assert forward <= set(tiles.FORWARD) & set(tiles.SMALL_FORWARD)
    assert backward <= set(tiles.BACKWARD) & set(tiles.SMALL_BACKWARD)
    assert decode <= set(tiles.DECODE)


def test_failures_do_not_end_the_search():
    every = [DEFAULT_OPTIONS, *first_candidates(BACKWARD)]
    assert run(BACKWARD, lambda options: 1.0, failing=every) == ([], [every])
    found, _ = run(BACKWARD, lambda options: 1.0, failing=every[:-1])
    assert every[-1] in found


def test_two_values_of_one_option_are_not_combined():
    base = FlexOptions((("fwd_BLOCK_N", 64),))
    target = TARGETS["decoding"]

    def seconds(options):
        return {2: 0.9, 4: 0.8}.get(options.kernel_options.get("SPLIT_KV"), 1.0)

    found, asked = run(target, seconds)
    assert found[0].kernel_options["SPLIT_KV"] == 4
    assert len(asked) == 2, "one helpful switch needs no combination"
    both = combine(base, [base.with_kernel({"a": 1}), base.with_block_size((64, 64))])
    assert both == FlexOptions((("fwd_BLOCK_N", 64), ("a", 1)), (64, 64))
